"""The equations E1 to E11: hand-worked numbers, claims of the text, and derivatives by differences."""

from itertools import pairwise, product

import numpy as np
import pytest
from helpers import hand_worked as hand
from helpers.messages import naming

import gpunn
from gpunn import theory

CASES = list(hand.GRADIENTS)


def _arrays(values, dtype):
    return [np.array(v, dtype) for v in values]


def _parameters(dtype="float64"):
    flat = _arrays(hand.PARAMETERS, dtype)
    return [(flat[0], flat[1]), (flat[2], flat[3])]


# --- the hand-worked network, bit for bit ----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rows", CASES)
def test_theory_gives_the_hand_worked_numbers(rows, dtype):
    """E1 to E8 against exact fractions."""
    pick = list(rows)
    x, y = np.array(hand.X, dtype)[pick], np.array(hand.Y, dtype)[pick]
    step = theory.train_step(_parameters(dtype), x, y, hand.LR, activations=["relu", "identity"])
    n = len(rows)
    C, *gradients = hand.GRADIENTS[rows]
    for got, wanted in (
        (step.z[0], np.array(hand.Z1)[pick]),
        (step.a[0], np.array(hand.A1)[pick]),
        (step.z[1], np.array(hand.Z2)[pick]),
        (step.a[1], np.array(hand.Z2)[pick]),
        (step.delta[0], np.array(hand.DELTA1)[pick] / n),
        (step.delta[1], np.array(hand.DELTA2)[pick] / n),
        (step.C, C),
        (step.dW[0], gradients[0]),
        (step.db[0], gradients[1]),
        (step.dW[1], gradients[2]),
        (step.db[1], gradients[3]),
        *zip([array for pair in step.parameters for array in pair], hand.AFTER[rows], strict=True),
    ):
        assert np.asarray(got).dtype == dtype
        np.testing.assert_array_equal(got, np.array(wanted, dtype))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rows", CASES)
def test_the_compiled_step_gives_the_hand_worked_numbers(rows, dtype):
    """The compiled step gives the same outputs, loss, gradients and parameters after one step."""
    pick = list(rows)
    x, y = np.array(hand.X, dtype)[pick], np.array(hand.Y, dtype)[pick]
    net = gpunn.Sequential([gpunn.Dense(2, "relu"), gpunn.Dense(1)], input_shape=2, seed=0, dtype=dtype)
    net.compile(gpunn.SGD(hand.LR), "half_squared_error")
    net.set_weights(_arrays(hand.PARAMETERS, dtype))
    np.testing.assert_array_equal(net.predict(x), np.array(hand.Z2)[pick])
    C, *wanted = hand.GRADIENTS[rows]
    loss, gradients = net.loss_and_gradients(x, y)
    assert loss == C
    for got, exact in zip(gradients, wanted, strict=True):
        assert got.dtype == dtype
        np.testing.assert_array_equal(got, np.array(exact, dtype))
    first, second = net.trace(x, y)
    np.testing.assert_array_equal(first.z, np.array(hand.Z1)[pick])
    np.testing.assert_array_equal(first.a, np.array(hand.A1)[pick])
    np.testing.assert_array_equal(first.delta, np.array(hand.DELTA1)[pick] / len(rows))
    np.testing.assert_array_equal(second.z, np.array(hand.Z2)[pick])
    np.testing.assert_array_equal(second.delta, np.array(hand.DELTA2)[pick] / len(rows))
    assert net.train_on_batch(x, y) == C
    for got, exact in zip(net.get_weights(), hand.AFTER[rows], strict=True):
        np.testing.assert_array_equal(got, np.array(exact, dtype))


# --- each equation ---------------------------------------------------------------------------------------------------


def test_e1_aggregate_is_the_text_transposed():
    """E1: column j of W holds the weights into neuron j, so that row i of z is (Wᵀaᵢ + b)ᵀ."""
    W, b = np.array([[1.0, 2, 3], [4, 5, 6]]), np.array([0.5, 0, -0.5])
    a = np.array([[1.0, -1], [2, 0]])
    np.testing.assert_array_equal(theory.aggregate(a, W, b), [[1 - 4 + 0.5, 2 - 5, 3 - 6 - 0.5], [2.5, 4, 5.5]])


@pytest.mark.parametrize("f", [*theory.FUNCTIONS, "softmax"])
def test_e2_values(f):
    """E2 at z = −2, 0, 3, from tables of e and tanh, and at ±1000, where a simple formula overflows."""
    e = np.e
    wanted = {
        "identity": [-2, 0, 3],
        "relu": [0, 0, 3],
        "sigmoid": [1 / (1 + e**2), 0.5, 1 / (1 + e**-3)],
        "tanh": [-0.9640275800758169, 0, 0.9950547536867305],
        "leaky_relu": [-0.02, 0, 3],
        "elu": [e**-2 - 1, 0, 3],
        "softplus": [np.log(1 + e**-2), np.log(2), np.log(1 + e**3)],
        "selu": [1.0507009873554805 * 1.6732632423543772 * (e**-2 - 1), 0, 3 * 1.0507009873554805],
        # tanh(log u) = (u² − 1)/(u² + 1)
        "mish": [z * (u * u - 1) / (u * u + 1) for z, u in ((-2, 1 + e**-2), (0, 2), (3, 1 + e**3))],
        "silu": [-2 / (1 + e**2), 0, 3 / (1 + e**-3)],
        # ½z(1 + tanh(√(2/π)(z + 0.044715z³))), from a pocket calculator
        "gelu": [-0.04540230591222494, 0, 2.996362607918227],
        "softmax": np.array([e**-2, 1, e**3]) / (e**-2 + 1 + e**3),
    }[f]
    np.testing.assert_allclose(theory.activate(np.array([[-2.0, 0, 3]]), f), [wanted], rtol=1e-12, atol=1e-15)
    assert np.isfinite(theory.activate(np.array([[-1000.0, 0, 1000]]), f)).all()


@pytest.mark.parametrize("f", list(theory.FUNCTIONS))
def test_e4_derivatives_by_differences(f):
    """f′ of E4 and E5 against (f(z + h) − f(z − h))/2h."""
    z, h = np.linspace(-3, 3, 24).reshape(4, 6) + 0.01, 1e-6
    numeric = (theory.activate(z + h, f) - theory.activate(z - h, f)) / (2 * h)
    np.testing.assert_allclose(theory.derivative(z, f), numeric, rtol=1e-7, atol=1e-9)
    assert theory.derivative(np.zeros((1, 1)), "relu") == 0


def test_e3_losses():
    """E3 in each kind, with 0 log 0 = 0."""
    y, a = np.array([[1.0, 2], [0, 0]]), np.array([[2.0, 4], [0, 1]])
    np.testing.assert_array_equal(theory.row_losses(y, a), [2.5, 0.5])
    assert theory.loss(y, a) == 1.5
    assert theory.loss(y, a, w=np.array([3.0, 1])) == (3 * 2.5 + 0.5) / 4
    one_hot, p = np.array([[0.0, 1], [1, 0]]), np.array([[0.75, 0.25], [1, 0]])
    np.testing.assert_allclose(theory.row_losses(one_hot, p, "softmax_crossentropy"), [np.log(4), 0])
    both = np.array([[1.0, 0.0]])
    np.testing.assert_allclose(
        theory.row_losses(both, np.array([[0.5, 0.75]]), "sigmoid_crossentropy"), [np.log(2) + np.log(4)]
    )


@pytest.mark.parametrize(("f", "kind"), [("softmax", "softmax_crossentropy"), ("sigmoid", "sigmoid_crossentropy")])
@pytest.mark.parametrize("weighted", [False, True])
def test_e4_definition_and_shortcut_agree(f, kind, weighted):
    """E4's definition and its shortcut (a − y)wᵢ/Σw."""
    rng = np.random.default_rng(0)
    z, y = rng.normal(size=(6, 4)), rng.uniform(0.1, 0.9, size=(6, 4))
    if f == "softmax":
        y /= y.sum(axis=1, keepdims=True)
    w = rng.uniform(size=6) if weighted else None
    a = theory.activate(z, f)
    by_definition = theory.output_error(z, theory.loss_gradient(y, a, kind, w), f)
    np.testing.assert_allclose(theory.matched_output_error(y, a, w), by_definition, rtol=1e-12, atol=1e-15)


def test_e4_softmax_is_the_transposed_jacobian():
    """E4: row by row δ = Jᵀg with J = diag(a) − aaᵀ, the matrix written out."""
    rng = np.random.default_rng(1)
    z, g = rng.normal(size=(5, 4)), rng.normal(size=(5, 4))
    a = theory.activate(z, "softmax")
    wanted = [(np.diag(row) - np.outer(row, row)).T @ grad for row, grad in zip(a, g, strict=True)]
    np.testing.assert_allclose(theory.output_error(z, g, "softmax"), wanted, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("weighted", [False, True])
def test_e5_e6_e7_by_differences(weighted):
    """E5, E6, E7 with E9 and E11: every gradient of a net of three layers against central differences of C."""
    rng = np.random.default_rng(3)
    sizes = [3, 4, 5, 2]
    parameters = [(rng.normal(size=s), rng.normal(size=s[1])) for s in pairwise(sizes)]
    x, y = rng.normal(size=(6, 3)), rng.normal(size=(6, 2))
    given = {
        "activations": ["tanh", "silu", "softmax"],
        "w": rng.uniform(size=6) if weighted else None,
        "lam": 0.3,
        "masks": [(rng.uniform(size=(6, 4)) > 0.4).astype(float), None],
        "p": 0.4,
    }
    step = theory.train_step(parameters, x, y, 0.1, **given)
    h = 1e-6
    for k, pair in enumerate(parameters):
        for array, gradient in zip(pair, (step.dW[k], step.db[k]), strict=True):
            for index in np.ndindex(array.shape):
                kept = array[index]
                costs = []
                for value in (kept + h, kept - h):
                    array[index] = value
                    costs.append(theory.train_step(parameters, x, y, 0.1, **given).C)
                array[index] = kept
                assert gradient[index] == pytest.approx((costs[0] - costs[1]) / (2 * h), rel=1e-6, abs=1e-8)


def test_e8_step():
    """E8: θ − ηg, exact."""
    np.testing.assert_array_equal(theory.gradient_step(np.array([1.0, 2]), np.array([4.0, -8]), 0.25), [0, 4])


def test_e9_penalty():
    """E9: ½λΣW² and λW; intercepts have no penalty."""
    W = np.array([[1.0, -2], [0, 3]])
    assert theory.penalty([W, 2 * W], 0.5) == 0.25 * (14 + 56)
    np.testing.assert_array_equal(theory.penalty_gradient(W, 0.5), [[0.5, -1], [0, 1.5]])
    parameters = _parameters()
    x, y = np.array(hand.X), np.array(hand.Y)
    bare = theory.train_step(parameters, x, y, 0.25, activations=["relu", "identity"])
    paid = theory.train_step(parameters, x, y, 0.25, activations=["relu", "identity"], lam=0.5)
    assert paid.C - bare.C == 0.25 * (1 + 1 + 0.25 + 4 + 4 + 1)
    np.testing.assert_array_equal(paid.db[0], bare.db[0])
    np.testing.assert_array_equal(paid.dW[0] - bare.dW[0], 0.5 * parameters[0][0])


def test_e10_keeps_the_mean_square_of_the_input():
    """E10: with σ² = 1/m, E[z²] is the mean square of the input; with 2/m a rectifier layer preserves it."""
    generator = np.random.default_rng(0)
    a = generator.normal(size=(200, 500)) * 3
    z = a @ theory.initial_weights(500, 800, generator)
    # 160 000 values of z, correlated through 800 neurons: 5 standard errors √(2/800)
    assert (z**2).mean() == pytest.approx((a**2).mean(), rel=5 * np.sqrt(2 / 800))
    a_next = theory.activate(a @ theory.initial_weights(500, 800, generator, rectifier=True), "relu")
    assert (a_next**2).mean() == pytest.approx((a**2).mean(), rel=5 * np.sqrt(5 / 800))


@pytest.mark.parametrize("form", ["inverted", "textbook"])
def test_e11_keeps_the_expectation(form):
    """E11: in each form the expectation in training is the value at prediction."""
    rng = np.random.default_rng(4)
    p, draws = 0.3, 40_000
    a = rng.normal(size=(1, 6))
    masks = (rng.uniform(size=(draws, 6)) < 1 - p).astype(float)
    training = np.mean([theory.dropout(a, m[None], p, form=form) for m in masks], axis=0)
    # five standard errors √(p(1 − p)/draws) of the mask, times its scale
    bound = 5 * np.sqrt(p * (1 - p) / draws) * np.abs(a) / (1 - p)
    assert (np.abs(training - theory.dropout(a, None, p, form=form)) <= bound).all()


@pytest.mark.parametrize("p", [0.5, 0.25])
def test_e11_expectation_over_every_mask(p):
    """E11: Σ P(k) dropout(a, k) over all 2⁴ masks k, P(k) = p^zeros (1 − p)^ones, equals the prediction."""
    a = np.array([[1.0, -2.5, 0.125, 8]])
    for form, scale in (("inverted", 1), ("textbook", 1 - p)):
        expectation = 0
        for bits in product([0.0, 1.0], repeat=4):
            chance = np.prod([1 - p if bit else p for bit in bits])
            expectation += chance * theory.dropout(a, np.array([bits]), p, form=form)
        np.testing.assert_allclose(expectation, scale * a, rtol=1e-15)
        np.testing.assert_array_equal(theory.dropout(a, None, p, form=form), scale * a)


def test_e3_and_e4_for_a_softmax_rounded_to_0_and_1():
    """E3, E4: a class with y = 0 and a = 0 adds nothing, and definition and shortcut agree."""
    z, y = np.array([[800.0, 0, -800]]), np.array([[1.0, 0, 0]])
    a = theory.activate(z, "softmax")
    np.testing.assert_array_equal(a, [[1, 0, 0]])
    for f, kind in (("softmax", "softmax_crossentropy"), ("identity", "sigmoid_crossentropy")):
        assert theory.loss(y, a, kind) == 0
        g = theory.loss_gradient(y, a, kind)
        np.testing.assert_array_equal(g, [[-1, 0, 0]] if f == "softmax" else [[-1, 1, 1]])
    by_definition = theory.output_error(z, theory.loss_gradient(y, a, "softmax_crossentropy"), "softmax")
    np.testing.assert_array_equal(by_definition, theory.matched_output_error(y, a))


def test_e3_a_weight_of_two_counts_twice_and_zero_excludes_a_row():
    """E3: w multiplies ℓ and row i of δ, and n is Σ w."""
    x, y = np.array(hand.X), np.array(hand.Y)
    weighted = theory.train_step(
        _parameters(), x, y, 0.25, activations=["tanh", "identity"], w=np.array([2.0, 0, 1, 1]), lam=0.5
    )
    rows = [0, 0, 2, 3]
    repeated = theory.train_step(_parameters(), x[rows], y[rows], 0.25, activations=["tanh", "identity"], lam=0.5)
    np.testing.assert_allclose(weighted.C, repeated.C, rtol=1e-14)
    for a, b in zip(weighted.parameters, repeated.parameters, strict=True):
        for u, v in zip(a, b, strict=True):
            np.testing.assert_allclose(u, v, rtol=1e-14)


# --- the contract ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("f", list(theory.FUNCTIONS))
@pytest.mark.parametrize("kind", theory.LOSSES)
def test_float32_inputs_give_float32_everywhere(f, kind):
    """The arguments include float64 scalars and a boolean mask, which could promote float32; inputs are read-only."""
    rng = np.random.default_rng(7)
    end = {"half_squared_error": "identity", "softmax_crossentropy": "softmax", "sigmoid_crossentropy": "sigmoid"}[kind]
    draw = [rng.normal(size=s).astype("float32") for s in ((2, 3), 3, (3, 2), 2, (4, 2))]
    y, w = np.eye(2, dtype="float32")[[0, 1, 1, 0]], np.array([1, 0, 2, 3], "float32")
    for array in (*draw, y, w):
        array.setflags(write=False)
    step = theory.train_step(
        [(draw[0], draw[1]), (draw[2], draw[3])],
        draw[4],
        y,
        np.float64(0.1),
        activations=[f, end],
        kind=kind,
        w=w,
        lam=np.float64(0.1),
        masks=[rng.uniform(size=(4, 3)) < 0.5],
        p=np.float64(0.5),
    )
    arrays = [
        *(array for pair in step.parameters for array in pair),
        step.C,
        *step.z,
        *step.a,
        *step.delta,
        *step.dW,
        *step.db,
    ]
    assert {a.dtype for a in arrays} == {np.dtype("float32")}


# --- the claims of the text ------------------------------------------------------------------------------------------


def test_an_identity_network_fits_the_least_squares_solution():
    rng = np.random.default_rng(5)
    x = rng.normal(size=(40, 3))
    y = x @ rng.normal(size=(3, 2)) + 0.5 + 0.1 * rng.normal(size=(40, 2))
    parameters = [(theory.initial_weights(3, 4, rng), np.zeros(4)), (theory.initial_weights(4, 2, rng), np.zeros(2))]
    for _ in range(4000):
        parameters = theory.train_step(parameters, x, y, 0.1, activations=["identity", "identity"]).parameters
    (W1, b1), (W2, b2) = parameters
    wanted, *_ = np.linalg.lstsq(np.column_stack([x, np.ones(40)]), y, rcond=None)
    np.testing.assert_allclose(np.vstack([W1 @ W2, b1 @ W2 + b2]), wanted, rtol=1e-9, atol=1e-11)


def test_a_narrow_hidden_layer_makes_the_regression_one_of_reduced_rank():
    """For whitened x (xᵀx = n I), the best map of rank 1 has the least-squares cost plus ½ Σ sᵢ² over all singular
    values sᵢ of the least-squares coefficients except the first (Eckart and Young)."""
    rng = np.random.default_rng(8)
    x = np.linalg.qr(rng.normal(size=(40, 3)))[0] * np.sqrt(40)
    coefficients = np.array([[2.0, 1, 0], [0, 1, 1], [1, 0, 1]])
    y = x @ coefficients
    s = np.linalg.svd(coefficients, compute_uv=False)
    parameters = [(rng.normal(size=(3, 1)), np.zeros(1)), (rng.normal(size=(1, 3)), np.zeros(3))]
    x, y = np.vstack([x, -x]), np.vstack([y, -y])  # the optimal intercepts are 0
    for _ in range(3000):
        step = theory.train_step(parameters, x, y, 0.1, activations=["identity", "identity"])
        parameters = step.parameters
    np.testing.assert_allclose(step.C, 0.5 * (s[1:] ** 2).sum(), rtol=1e-10)
    assert np.linalg.matrix_rank(parameters[0][0] @ parameters[1][0]) == 1


def test_all_zero_weights_never_learn_with_rectifiers():
    parameters = [(np.zeros((2, 3)), np.zeros(3)), (np.zeros((3, 1)), np.zeros(1))]
    x, y = np.array(hand.X), np.array(hand.Y)
    for _ in range(5):
        parameters = theory.train_step(parameters, x, y, 0.25, activations=["relu", "identity"]).parameters
    (W1, b1), (W2, b2) = parameters
    assert not W1.any() and not b1.any() and not W2.any()
    assert b2.any(), "the output intercept alone moves"
    net = gpunn.Sequential([gpunn.Dense(3, "relu", kernel_initializer="zeros"), gpunn.Dense(1)], input_shape=2, seed=0)
    net.set_weights([np.zeros((2, 3)), np.zeros(3), np.zeros((3, 1)), np.zeros(1)])
    net.compile(gpunn.SGD(0.25), "half_squared_error")
    net.fit(x, y, epochs=5, verbose=0)
    assert [bool(w.any()) for w in net.get_weights()] == [False, False, False, True]


def test_the_penalty_shrinks_weights():
    x, y = np.array(hand.X), np.array(hand.Y)
    sizes = []
    for lam in (0.0, 0.1, 1.0):
        parameters = _parameters()
        for _ in range(300):
            parameters = theory.train_step(parameters, x, y, 0.05, activations=["tanh", "identity"], lam=lam).parameters
        sizes.append(sum((W**2).sum() for W, _ in parameters))
    assert sizes[0] > sizes[1] > sizes[2]


def test_the_penalty_alone_shrinks_weights_by_1_minus_eta_lambda():
    """If the network already fits, E8 and E9 give W(1 − ηλ), here ⅞ W, and unchanged intercepts, exactly."""
    x = np.array(hand.X)
    step = theory.train_step(_parameters(), x, np.array(hand.Z2), 0.25, activations=["relu", "identity"], lam=0.5)
    for (W, b), (W_after, b_after) in zip(_parameters(), step.parameters, strict=True):
        np.testing.assert_array_equal(W_after, W * 0.875)
        np.testing.assert_array_equal(b_after, b)


def test_a_batch_whose_weights_are_all_zero_changes_nothing():
    parameters = _parameters()
    x, y = np.array(hand.X), np.array(hand.Y)
    step = theory.train_step(parameters, x, y, 0.25, activations=["relu", "identity"], w=np.zeros(4), lam=0.5)
    for before, after in zip(parameters, step.parameters, strict=True):
        for a, b in zip(before, after, strict=True):
            np.testing.assert_array_equal(a, b)


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "names"),
    [
        (
            lambda: theory.aggregate(np.ones((2, 3)), np.ones((4, 5)), np.ones(5)),
            r"W must have shape \(n_in = 3, n_out\), got \(4, 5\)",
        ),
        (
            lambda: theory.aggregate(np.ones((2, 3)), np.ones((3, 5)), np.ones(1)),
            r"b must have shape \(n_out = 5\), got \(1,\)",
        ),
        (lambda: theory.row_losses(np.ones(3), np.ones((3, 1))), r"y must have shape \(n = 3, n_out = 1\), got \(3,\)"),
        (lambda: theory.loss_gradient(np.ones((3, 1)), np.ones((3, 2))), r"y must have shape \(n = 3, n_out = 2\)"),
        (
            lambda: theory.loss(np.ones((3, 1)), np.ones((3, 1)), w=np.ones(2)),
            r"w must have shape \(n = 3\), got \(2,\)",
        ),
        (lambda: theory.output_error(np.ones((3, 1)), np.ones((1, 1)), "relu"), "grad_a"),
        (lambda: theory.recursion(np.ones((3, 2)), np.ones((3, 1)), np.ones((2, 2)), "relu"), "delta_next"),
        (
            lambda: theory.weight_gradient(np.ones((3, 2)), np.ones((1, 2))),
            r"delta must have shape \(n = 3, n_out\), got \(1, 2\)",
        ),
        (lambda: theory.gradient_step(np.ones((2, 2)), np.ones(2), 0.1), "g must have shape"),
        (lambda: theory.dropout(np.ones((2, 2)), np.ones((1, 2)), 0.5), "mask"),
        (lambda: theory.dropout(np.ones((2, 2)), None, 1.0), naming("p", 1.0)),
        (lambda: theory.dropout(np.ones((2, 2)), None, 0.5, form="other"), "form"),
        (lambda: theory.activate(np.ones((1, 1)), "step"), "step"),
        (lambda: theory.derivative(np.ones((1, 1)), "softmax"), "softmax"),
        (lambda: theory.row_losses(np.ones((1, 1)), np.ones((1, 1)), "hinge"), "hinge"),
        (lambda: theory.loss_gradient(np.ones((1, 1)), np.ones((1, 1)), "hinge"), "hinge"),
        (
            lambda: theory.train_step(_parameters(), np.ones((1, 2)), np.ones((1, 1)), 0.1, activations=["relu"]),
            "activ",
        ),
    ],
)
def test_invalid_arguments_raise(call, names):
    with pytest.raises(ValueError, match=names):
        call()


@pytest.mark.parametrize(
    ("call", "names"),
    [
        # NumPy would broadcast these shapes and give a wrong number
        (lambda: theory.aggregate(np.ones((3, 2)), np.ones((2, 3)), np.ones((3, 1))), "b must have shape"),
        (lambda: theory.loss(np.ones((3, 2)), np.zeros((3, 2)), w=np.ones((3, 1))), "w must have shape"),
        (lambda: theory.loss(np.ones((1, 2)), np.zeros((3, 2))), "y must have shape"),
        (lambda: theory.matched_output_error(np.ones((3, 1)), np.zeros((3, 2))), "y must have shape"),
        (lambda: theory.recursion(np.ones((3, 1)), np.ones((3, 4)), np.ones((2, 4)), "relu"), "W_next must have shape"),
        (lambda: theory.intercept_gradient(np.ones(3)), "delta must have shape"),
        (lambda: theory.dropout(np.ones((3, 2)), np.ones((3, 1)), 0.5), "mask must have shape"),
        (lambda: theory.row_weights(np.ones((2, 1)), np.array([-1.0, 2])), "w must hold weights ≥ 0"),
        (lambda: theory.row_weights(np.ones((2, 1)), np.array([np.nan, 2])), "w must hold weights ≥ 0"),
        (lambda: theory.gradient_step(np.ones(2), np.ones(2), np.nan), naming("lr", "nan")),
        (lambda: theory.gradient_step(np.ones(2), np.ones(2), -0.1), naming("lr", -0.1)),
        (lambda: theory.penalty_gradient(np.ones((2, 2)), np.inf), naming("lam", "inf")),
        (lambda: theory.penalty([np.ones((2, 2))], -1), naming("lam", -1)),
        (
            lambda: theory.train_step(
                _parameters(), np.ones((1, 2)), np.ones((1, 1)), 0.1, activations=["relu"] * 2, masks=[None, None]
            ),
            naming("masks", 2),
        ),
    ],
)
def test_nothing_is_broadcast_and_invalid_numbers_raise(call, names):
    with pytest.raises(ValueError, match=names):
        call()


@pytest.mark.parametrize(
    ("call", "names"),
    [
        (
            lambda: theory.aggregate([[1.0]], np.ones((1, 1)), np.ones(1)),
            naming("a_prev", "list"),
        ),
        (lambda: theory.activate(np.ones((1, 1), int), "relu"), naming("z", "int64")),
        (
            lambda: theory.weight_gradient(np.ones((1, 1), "float32"), np.ones((1, 1))),
            naming("delta", "float32", "a_prev", "float64"),
        ),
        (lambda: theory.loss(np.ones((2, 1), int), np.ones((2, 1))), naming("y", "float64", "int64")),
    ],
)
def test_types_are_not_promoted(call, names):
    with pytest.raises(TypeError, match=names):
        call()


def test_theory_accepts_cupy_arrays(fake_cupy):
    """The six stages run on the fake CuPy, which refuses NumPy arrays."""
    import cupy

    x, y = np.array(hand.X), np.array(hand.Y)
    parameters = [tuple(map(cupy.asarray, pair)) for pair in _parameters()]
    for f in theory.FUNCTIONS:
        kwargs = {"activations": [f, "softmax"], "lam": 0.1, "w": np.array([1.0, 2, 3, 4])}
        wanted = theory.train_step(_parameters(), x, y, 0.1, **kwargs)
        kwargs["w"] = cupy.asarray(kwargs["w"])
        got = theory.train_step(parameters, cupy.asarray(x), cupy.asarray(y), 0.1, **kwargs)
        for a, b in zip(wanted.parameters, got.parameters, strict=True):
            for u, v in zip(a, b, strict=True):
                np.testing.assert_allclose(v.get(), u, rtol=1e-13, atol=1e-15)


@pytest.mark.gpu
def test_theory_on_a_gpu():
    """The hand-worked numbers are exact on a GPU: every product and sum is representable."""
    import cupy

    for dtype in ("float32", "float64"):
        for rows, wanted in hand.AFTER.items():
            x, y = (cupy.asarray(np.array(v, dtype)[list(rows)]) for v in (hand.X, hand.Y))
            parameters = [tuple(map(cupy.asarray, pair)) for pair in _parameters(dtype)]
            step = theory.train_step(parameters, x, y, hand.LR, activations=["relu", "identity"])
            for got, exact in zip([array for pair in step.parameters for array in pair], wanted, strict=True):
                assert got.dtype == dtype
                np.testing.assert_array_equal(cupy.asnumpy(got), np.array(exact, dtype))
