"""Values of kernels, compared with formulas in extended precision, finite differences and hand calculations."""

import math
from fractions import Fraction

import numpy as np
import pytest
from helpers import internals, tolerances
from helpers.kernel_cases import state_array

from gpunn import kernels
from gpunn.kernels.state import SIZE, StateEntry

DTYPES = ["float32", "float64"]
LONG = np.longdouble
# differences over ±h and ±2h in LONG: the truncation error is O(h⁴), the rounding error O(eps/h)
H = LONG(np.finfo(LONG).eps) ** LONG(0.25)
DIFFERENCE = float(100 * np.finfo(LONG).eps / H)


def _assert_near(got, wanted, ulp, scale=0.0, what=""):
    """Assert a difference of at most `ulp` units of max(|wanted|, |scale|), plus the allowance for a GPU."""
    wanted = np.asarray(wanted)
    largest = np.maximum(np.abs(wanted), np.abs(scale)).astype(np.float64)
    atol = tolerances.ulps(got.dtype, ulp + tolerances.DEVICE_ULP, largest)
    tolerances.assert_within(got, wanted.astype(got.dtype), atol, what)


def _derivative(f):
    """f′(0) of a function of a displacement, in LONG."""
    return (8 * (f(H) - f(-H)) - (f(2 * H) - f(-2 * H))) / (12 * H)


# --- activations ----------------------------------------------------------------------------------------------------


def _gelu(z):
    # ½(1 + tanh u) = 1/(1 + e^−2u)
    return z / (1 + np.exp(-2 * np.sqrt(2 / LONG(math.pi)) * (z + LONG("0.044715") * z**3)))


# Klambauer et al. 2017, equation 14
SELU_SCALE, SELU_ALPHA = LONG("1.0507009873554804934193349852946"), LONG("1.6732632423543772848170429916717")

# textbook formulas, which overflow in float64 but not in LONG
ACTIVATIONS = {
    "identity": lambda z: z,
    "relu": lambda z: np.maximum(z, 0),
    "leaky_relu": lambda z, alpha: np.maximum(z, 0) + alpha * np.minimum(z, 0),
    "elu": lambda z, alpha: np.where(z > 0, z, alpha * np.expm1(z)),
    "sigmoid": lambda z: 1 / (1 + np.exp(-z)),
    "tanh": lambda z: 1 - 2 / (np.exp(2 * z) + 1),
    "softplus": lambda z: np.log1p(np.exp(z)),
    "silu": lambda z: z / (1 + np.exp(-z)),
    "selu": lambda z: np.where(z > 0, SELU_SCALE * z, SELU_SCALE * SELU_ALPHA * np.expm1(z)),
    "mish": lambda z: z * np.tanh(np.log1p(np.exp(z))),
    "gelu": _gelu,
}
CONSTANTS = {"leaky_relu": {"alpha": 0.25}, "elu": {"alpha": 0.75}}


def _points(dtype):
    """Values z on both sides of 0, near and far. No finite difference crosses the kink of ReLU."""
    z = np.concatenate([np.linspace(-12, 12, 241), np.logspace(-6, 1.5, 40), -np.logspace(-6, 1.5, 40)])
    return z[np.abs(z) > 3 * H].astype(dtype)


def _numeric_derivative(f, z):
    z = z.astype(LONG)
    return _derivative(lambda h: f(z + h))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_equals_its_formula(name, dtype, implementation):
    """a = f(z), also from the kernels that add an intercept or return the derivative. (E1, E2)"""
    constants, own = CONSTANTS.get(name, {}), kernels.activation_kernels(name)
    z = _points(dtype)
    wanted = ACTIVATIONS[name](z.astype(LONG), **constants)
    # tanh written with exp is a difference of two numbers near 1
    scale = np.maximum(np.abs(z), np.where(name == "tanh", 1e-3, 0))
    for a in (
        implementation(name, z, out=np.empty_like(z), **constants),
        implementation(f"{name}_with_derivative", z, out=(np.empty_like(z), np.empty_like(z)), **constants)[0],
    ):
        _assert_near(a, wanted, own.value.ulp, scale, name)
    s, b = np.stack([z, z]), np.linspace(-1, 1, z.size).astype(dtype)
    outs = [np.empty_like(s) for _ in own.with_bias.signature.outputs]
    implementation(own.with_bias.name, s, b, out=tuple(outs), **constants)
    summed = s + b
    wanted = ACTIVATIONS[name](summed.astype(LONG), **constants)
    _assert_near(outs[-1], wanted, own.value.ulp, np.maximum(np.abs(summed), 1e-3), own.with_bias.name)
    if own.stored == "z":
        np.testing.assert_array_equal(outs[0], summed)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_derivatives_equal_finite_differences(name, implementation):
    """d = f′(z), and δ = f′(z) ⊙ g from the stored array, in float64. (E4, E5)"""
    constants, own = CONSTANTS.get(name, {}), kernels.activation_kernels(name)
    z = _points("float64")
    wanted = _numeric_derivative(lambda z: ACTIVATIONS[name](z, **constants), z).astype(np.float64)
    a, d = implementation(f"{name}_with_derivative", z, out=(np.empty_like(z), np.empty_like(z)), **constants)
    np.testing.assert_allclose(d, wanted, rtol=DIFFERENCE, atol=1e-12)
    g = np.linspace(-3, 2, z.size)
    delta = implementation(f"{name}_backward", a if own.stored == "a" else z, g, out=np.empty_like(z), **constants)
    np.testing.assert_allclose(delta, wanted * g, rtol=DIFFERENCE, atol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", internals.activations_with_kernels())
def test_derivative_and_value_agree(name, dtype, implementation):
    """The derivative of every declared activation equals differences of its NumPy reference in LONG."""
    own = kernels.activation_kernels(name)
    constants = CONSTANTS.get(name, dict.fromkeys(own.constants, 0.5))
    z = _points(dtype)
    wanted = _numeric_derivative(lambda z: own.f(z, **constants), z)
    _, d = implementation(f"{name}_with_derivative", z, out=(np.empty_like(z), np.empty_like(z)), **constants)
    eps = float(np.finfo(dtype).eps)
    np.testing.assert_allclose(d, wanted.astype(dtype), rtol=20 * eps + DIFFERENCE, atol=100 * eps)


def test_relu_and_leaky_relu_at_zero_and_nan(implementation):
    """f′(0) is 0 for ReLU and α for leaky ReLU. NaN stays NaN in the value and in the derivative."""
    z = np.array([-0.0, 0.0, np.nan])
    for name, constants, at_zero in (("relu", {}, 0), ("leaky_relu", {"alpha": 0.25}, 0.25)):
        a, d = implementation(f"{name}_with_derivative", z, out=(np.empty(3), np.empty(3)), **constants)
        np.testing.assert_array_equal(a, [0, 0, np.nan])
        np.testing.assert_array_equal(d, [at_zero, at_zero, np.nan])
        delta = implementation(f"{name}_backward", a, np.ones(3), out=np.empty(3), **constants)
        np.testing.assert_array_equal(delta, [at_zero, at_zero, np.nan])


@pytest.mark.parametrize("dtype", DTYPES)
def test_activations_do_not_overflow_far_from_zero(dtype, implementation):
    """Limits at z = ±10⁴, where e^|z| overflows."""
    z = np.array([-1e4, 1e4], dtype)
    limits = {
        "sigmoid": [0, 1],
        "tanh": [-1, 1],
        "softplus": [0, 1e4],
        "silu": [0, 1e4],
        "mish": [0, 1e4],
        "gelu": [0, 1e4],
        "elu": [-0.75, 1e4],
    }
    derivatives = {"sigmoid": [0, 0], "tanh": [0, 0]}
    for name, values in limits.items():
        constants = CONSTANTS.get(name, {})
        a, d = implementation(f"{name}_with_derivative", z, out=(np.empty_like(z), np.empty_like(z)), **constants)
        np.testing.assert_array_equal(a, np.array(values, dtype), err_msg=name)
        np.testing.assert_array_equal(d, np.array(derivatives.get(name, [0, 1]), dtype), err_msg=name)


# --- losses ---------------------------------------------------------------------------------------------------------


def _xlogy(x, y):
    return np.where(x == 0, 0, x * np.log(np.where(x == 0, 1, y)))


def _softmax(z):
    e = np.exp(z)
    return e / e.sum(axis=-1, keepdims=True)


def _huber(a, y):
    e = np.abs(a - y)
    return np.where(e <= 0.5, e**2 / 2, 0.5 * e - 0.125).mean(axis=1)


# ℓ of a row from the kernel's input and the targets: E3 and the definitions of Keras and PyTorch
LOSSES = {
    "half_squared_error": lambda a, y: ((a - y) ** 2).sum(axis=1) / 2,
    "mean_squared_error": lambda a, y: ((a - y) ** 2).mean(axis=1),
    "mean_absolute_error": lambda a, y: np.abs(a - y).mean(axis=1),
    "huber": _huber,
    "poisson": lambda a, y: (a - _xlogy(y, a)).mean(axis=1),
    "log_cosh": lambda a, y: np.log(np.cosh(a - y)).mean(axis=1),
    "binary_crossentropy": lambda a, y: -(_xlogy(y, a) + _xlogy(1 - y, 1 - a)).sum(axis=1),
    "categorical_crossentropy": lambda a, y: -_xlogy(y, a).sum(axis=1),
    "softmax_crossentropy_dense": lambda z, y: -_xlogy(y, _softmax(z)).sum(axis=1),
    "sigmoid_crossentropy": lambda z, y: (
        -(_xlogy(y, 1 / (1 + np.exp(-z))) + _xlogy(1 - y, 1 / (1 + np.exp(z)))).sum(axis=1)
    ),
}
SPARSE = {
    "sparse_categorical_crossentropy": "categorical_crossentropy",
    "softmax_crossentropy": "softmax_crossentropy_dense",
}
FROM_LOGITS = {"softmax_crossentropy", "softmax_crossentropy_dense", "sigmoid_crossentropy"}


def _gradient(loss, x, y, w):
    """∂(Σ wℓ)/∂x by differences in LONG, column by column."""
    x, y, w = (np.asarray(v, LONG) for v in (x, y, w))
    columns = []
    for k in range(x.shape[1]):
        one = np.eye(x.shape[1], dtype=LONG)[k]
        columns.append(w * _derivative(lambda h, one=one: loss(x + h * one, y)))
    return np.stack(columns, axis=1)


def _loss_inputs(name, n, m, dtype):
    rng = np.random.default_rng([n, m])
    x = rng.normal(size=(n, m)) * 3 if name in FROM_LOGITS else rng.uniform(0.1, 0.9, size=(n, m))
    if name in SPARSE:
        labels = rng.integers(0, m, size=n).astype(np.int32)
        return x.astype(dtype), labels, np.eye(m)[labels]
    y = rng.uniform(0, 1, size=(n, m))
    y[rng.random((n, m)) < 0.2] = 0
    y[rng.random((n, m)) < 0.2] = 1
    if name == "softmax_crossentropy_dense":
        y[y.sum(axis=1) == 0] = 1
        y /= y.sum(axis=1, keepdims=True)
    return x.astype(dtype), y.astype(dtype), y.astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [*LOSSES, *SPARSE])
def test_losses_and_their_gradients(name, dtype, implementation):
    """wℓ equals its formula, and ∂(wℓ)/∂x equals differences of the formula. (E3, E4)"""
    loss = LOSSES[SPARSE.get(name, name)]
    options = {"threshold": 0.5} if name == "huber" else {}
    for n, m in ((1, 1), (5, 1), (7, 10), (3, 33)):
        x, given, y = _loss_inputs(name, n, m, dtype)
        w = np.linspace(0.1, 0.9, n).astype(dtype)
        outs = [np.empty((n, m), dtype) for _ in kernels.get(name).signature.outputs[:-1]] + [np.empty(n, dtype)]
        *a, g, value = implementation(name, x, given, w, out=tuple(outs), **options)
        wanted = w * loss(x.astype(LONG), y.astype(LONG))
        tolerance = tolerances.sums(dtype, m, max(1.0, float(np.abs(wanted).max())))
        np.testing.assert_allclose(value, wanted.astype(dtype), rtol=0, atol=tolerance, err_msg=name)
        gradient = _gradient(loss, x, y, w)
        tolerance = tolerances.sums(dtype, m, float(np.abs(gradient).max())) + 10 * DIFFERENCE
        np.testing.assert_allclose(g, gradient.astype(dtype), rtol=0, atol=tolerance, err_msg=name)
        if a:
            probabilities = 1 / (1 + np.exp(-x.astype(LONG))) if name.startswith("sig") else _softmax(x.astype(LONG))
            np.testing.assert_allclose(a[0], probabilities.astype(dtype), rtol=0, atol=tolerances.sums(dtype, m, 1))


@pytest.mark.parametrize("dtype", DTYPES)
def test_cross_entropy_of_logits_never_overflows(dtype, implementation):
    """Logits of ±5000: ℓ = 10000 if the wrong class is certain, 0 if the right class is."""
    z = np.array([[5000, -5000], [5000, -5000]], dtype)
    one = np.ones(2, dtype)
    a, delta, loss = (np.empty((2, 2), dtype), np.empty((2, 2), dtype), np.empty(2, dtype))
    implementation("softmax_crossentropy", z, np.array([0, 1], np.int32), one, out=(a, delta, loss))
    np.testing.assert_array_equal(loss, np.array([0, 10000], dtype))
    np.testing.assert_array_equal(delta, np.array([[0, 0], [1, -1]], dtype))
    implementation("softmax_crossentropy_dense", z, np.eye(2, dtype=dtype), one, out=(a, delta, loss))
    np.testing.assert_array_equal(loss, np.array([0, 10000], dtype))
    implementation("sigmoid_crossentropy", z, np.array([[1, 0], [0, 1]], dtype), one, out=(a, delta, loss))
    np.testing.assert_array_equal(loss, np.array([0, 10000], dtype))
    np.testing.assert_array_equal(delta, np.array([[0, 0], [1, -1]], dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_smoothed_targets(dtype, implementation):
    """(1 − ¾)y + ¾/3 in dyadic fractions, of rows and of labels. (E3)"""
    y = np.array([[1, 0, 0], [0, 0.5, 0.5]], dtype)
    smoothed = implementation("smooth_targets", y, out=np.empty_like(y), smoothing=0.75)
    np.testing.assert_array_equal(smoothed, [[0.5, 0.25, 0.25], [0.25, 0.375, 0.375]])
    labels = np.array([2, 0], np.int32)
    smoothed = implementation("smooth_labels", y, labels, out=np.empty_like(y), smoothing=0.75)
    np.testing.assert_array_equal(smoothed, [[0.25, 0.25, 0.5], [0.5, 0.25, 0.25]])


@pytest.mark.parametrize("dtype", DTYPES)
def test_softmax(dtype, implementation):
    """aₖ = e^zₖ/Σ e^zⱼ, invariant to adding a constant. Backward: the transposed Jacobian diag(a) − a aᵀ. (E2, E4)"""
    rng = np.random.default_rng(3)
    z = (4 * rng.normal(size=(9, 11))).astype(dtype)
    a = implementation("softmax", z, out=np.empty_like(z))
    np.testing.assert_allclose(a, _softmax(z.astype(LONG)).astype(dtype), rtol=0, atol=tolerances.sums(dtype, 11, 1))
    np.testing.assert_allclose(a.sum(axis=1), 1, rtol=0, atol=tolerances.sums(dtype, 11, 1))
    shifted = implementation("softmax", z + np.array(1e3, dtype), out=np.empty_like(z))
    np.testing.assert_allclose(shifted, a, rtol=0, atol=1e3 * np.finfo(dtype).eps)
    g = rng.normal(size=z.shape).astype(dtype)
    delta = implementation("softmax_backward", a, g, out=np.empty_like(z))
    wanted = [(np.diag(p) - np.outer(p, p)) @ u for p, u in zip(a.astype(LONG), g.astype(LONG), strict=True)]
    np.testing.assert_allclose(delta, np.array(wanted, dtype), rtol=0, atol=tolerances.sums(dtype, 11, 3))


# --- normalization --------------------------------------------------------------------------------------------------


def _normalized(x, gamma, beta, axis):
    x = x.astype(LONG)
    mean = x.mean(axis=axis, keepdims=True)
    return gamma * (x - mean) / np.sqrt(((x - mean) ** 2).mean(axis=axis, keepdims=True) + LONG(1e-3)) + beta


def _input_gradient(x, gamma, beta, g, axis):
    """∂(Σ g ⊙ z)/∂x by differences, entry by entry."""
    wanted = np.empty(x.shape)
    for at in np.ndindex(x.shape):
        one = np.zeros(x.shape, LONG)
        one[at] = 1
        wanted[at] = _derivative(lambda h, one=one: (g * _normalized(x + h * one, gamma, beta, axis)).sum())
    return wanted


@pytest.fixture
def normalized():
    rng = np.random.default_rng(4)
    x, g = rng.normal(size=(2, 7, 5))
    gamma, beta = rng.normal(size=(2, 5))
    return 2 * x + 1, g, gamma, beta


def test_batch_normalization(normalized, implementation):
    """x̂ and z from mean and biased variance of each column; ∂C/∂x through x̂, μ and σ². (E5)"""
    x, g, gamma, beta = normalized
    row = [np.empty(5) for _ in range(4)]
    mean = implementation("column_mean", x, out=row[0], factor=1 / 7)
    variance = implementation("column_variance", x, mean, out=row[1], factor=1 / 7)
    np.testing.assert_allclose(mean, x.mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(variance, x.var(axis=0), rtol=1e-14)
    x_hat, z = np.empty_like(x), np.empty_like(x)
    implementation("batch_normalize", x, mean, variance, gamma, beta, out=(x_hat, z), epsilon=1e-3)
    np.testing.assert_allclose(z, _normalized(x, gamma, beta, 0).astype(float), rtol=1e-13)
    d_gamma = implementation("column_dot", g, x_hat, out=row[2])
    d_beta = implementation("column_sum", g, out=row[3])
    np.testing.assert_allclose(d_gamma, (g * x_hat).sum(axis=0), rtol=1e-13)
    grad = np.empty_like(x)
    inputs = (g, x_hat, variance, gamma, d_gamma, d_beta)
    implementation("batch_normalize_backward", *inputs, out=grad, factor=1 / 7, epsilon=1e-3)
    np.testing.assert_allclose(grad, _input_gradient(x, gamma, beta, g, 0), rtol=0, atol=1e-13 + 10 * DIFFERENCE)
    implementation("batch_normalize_backward_fixed", g, variance, gamma, out=grad, epsilon=1e-3)
    np.testing.assert_allclose(grad, gamma * g / np.sqrt(variance + 1e-3), rtol=1e-14)


def test_layer_normalization(normalized, implementation):
    """x̂, z and ∂C/∂x with mean and variance of each row. (E5)"""
    x, g, gamma, beta = normalized
    x_hat, z, scale = np.empty_like(x), np.empty_like(x), np.empty(7)
    implementation("layer_normalize", x, gamma, beta, out=(x_hat, z, scale), epsilon=1e-3)
    np.testing.assert_allclose(z, _normalized(x, gamma, beta, 1).astype(float), rtol=1e-12)
    np.testing.assert_allclose(scale, 1 / np.sqrt(x.var(axis=1) + 1e-3), rtol=1e-13)
    grad = implementation("layer_normalize_backward", g, x_hat, scale, gamma, out=np.empty_like(x))
    np.testing.assert_allclose(grad, _input_gradient(x, gamma, beta, g, 1), rtol=0, atol=1e-13 + 10 * DIFFERENCE)


# --- update rules: two steps by hand --------------------------------------------------------------------------------

# initially θ = 1, slots 0, η = ½. Constants, the two gradients, θ after each step
ADAM = {"beta1": 0.5, "beta2": 0.75, "epsilon": 1.0}
SECOND = (2 / 3) / (math.sqrt(16 / 7) + 1)  # η m̂/(√v̂ + ε) with m̂ = 4/3, v̂ = 1/(1 − 9/16)
BY_HAND = {
    "sgd": ({}, (0.5, -0.25), (0.75, 0.875)),
    "momentum": ({"momentum": 0.5}, (0.5, 0.25), (0.75, 0.5)),
    "nesterov": ({"momentum": 0.5}, (0.5, 0.25), (0.625, 0.375)),
    "rmsprop": ({"rho": 0.75, "epsilon": 1.0}, (2.0, 1.0), (0.5, 0.25)),
    "adagrad": ({"epsilon": 1.0}, (3.0, 4.0), (5 / 8, 7 / 24)),
    "adam": (ADAM, (2.0, 1.0), (2 / 3, 2 / 3 - SECOND)),
    "adamw": (ADAM | {"weight_decay": 0.5}, (2.0, 1.0), (3 / 4 - 1 / 3, 3 / 4 * (3 / 4 - 1 / 3) - SECOND)),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", BY_HAND)
def test_two_steps_by_hand(name, dtype, implementation):
    """E8 and its variants, with Adam's bias correction for t = 1 and 2."""
    constants, gradients, thetas = BY_HAND[name]
    state = state_array(STEP=0, LR=0.5, CORRECTED_LR=np.nan, INV_SQRT_CORRECTION=np.nan)
    theta = np.ones(37, dtype)
    slots = [np.zeros(37, dtype) for _ in kernels.get(name).signature.outputs[1:]]
    for g, wanted in zip(gradients, thetas, strict=True):
        if name.startswith("adam"):
            implementation(
                "adam_bias_correction", out=state, count=1, beta1=constants["beta1"], beta2=constants["beta2"]
            )
        implementation(name, np.full(37, g, dtype), state, out=(theta, *slots), **constants)
        _assert_near(theta, np.full(37, wanted), 4, 1.0)
        implementation("end_step", out=state, count=1, rows=1)
    assert state[StateEntry.STEP] == 2


# --- penalties, clipping, constraints -------------------------------------------------------------------------------


def test_penalties(implementation):
    """½λΣW² + λ₁Σ|W|, λW and λ₁ sign(W), 0 at 0. (E9)"""
    theta = np.array([3.0, -4.0, 0.0])
    value = implementation("penalty", theta, out=np.empty(1), l2=0.5, l1=2.0)
    assert value[0] == 0.25 * 25 + 2 * 7
    g = implementation("add_penalty_gradient", theta, state_array(), out=np.array([1.0, 1.0, 1.0]), l2=0.5, l1=2.0)
    np.testing.assert_array_equal(g, [1 + 1.5 + 2, 1 - 2 - 2, 1])


def test_clipping(implementation):
    g = np.array([0.5, -3, 2, np.nan, np.inf, -np.inf])
    np.testing.assert_array_equal(implementation("clip_value", out=g, limit=2.0), [0.5, -2, 2, np.nan, 2, -2])
    for limit, wanted in ((2.5, [1.5, -2.0]), (5.0, [3.0, -4.0]), (9.0, [3.0, -4.0])):
        g, state = np.array([3.0, -4.0]), state_array()
        squared_norm = implementation("sum_of_squares", g, np.zeros(SIZE), out=np.empty(1))
        np.testing.assert_array_equal(implementation("clip_norm", squared_norm, state, out=g, limit=limit), wanted)


def test_clipping_if_squares_overflow_float64(implementation):
    """‖(3, −4)·10²⁰⁰‖ = 5·10²⁰⁰, scaled by MAX_ABS of the state array."""
    g, state = np.array([3e200, -4e200]), state_array(MAX_ABS=4e200)
    squared_norm = implementation("sum_of_squares", g, state, out=np.empty(1))
    clipped = implementation("clip_norm", squared_norm, state, out=g, limit=2.5)
    np.testing.assert_allclose(clipped, [1.5, -2], rtol=1e-15)


def test_a_variance_that_overflows_gives_nan(implementation):
    """x̂ is NaN, not 0, so that the check for non-finite values reports it."""
    x = np.array([[1e200, -1e200, 0.0], [1.0, 2.0, 3.0]])
    x_hat, z, scale = np.empty_like(x), np.empty_like(x), np.empty(2)
    implementation("layer_normalize", x, np.ones(3), np.zeros(3), out=(x_hat, z, scale), epsilon=1e-3)
    assert np.isnan(z[0]).all() and np.isfinite(z[1]).all()
    statistics = np.zeros(3), np.array([np.inf, 1.0, 1.0]), np.ones(3), np.zeros(3)
    implementation("batch_normalize", x, *statistics, out=(x_hat, z), epsilon=1e-3)
    assert np.isnan(z[:, 0]).all() and np.isfinite(z[:, 1:]).all()


def test_max_norm(implementation):
    """A column is scaled to the limit only if its norm is larger."""
    W = np.array([[3.0, 0.3, 0.0], [4.0, 0.4, 0.0]])
    squares = implementation("column_dot", W, W.copy(), out=np.empty(3))
    np.testing.assert_allclose(squares, [25, 0.25, 0], rtol=1e-15)
    implementation("max_norm", squares, state_array(), out=W, limit=2.0)
    np.testing.assert_allclose(W, [[1.2, 0.3, 0], [1.6, 0.4, 0]], rtol=1e-15)


def test_running_statistics(implementation):
    running = np.array([1.0, 2.0])
    implementation("update_running_stat", np.array([3.0, 8.0]), state_array(), out=running, momentum=0.25, factor=1.5)
    np.testing.assert_array_equal(running, [1 + 0.25 * (4.5 - 1), 2 + 0.25 * (12 - 2)])


def test_a_derivative_with_column_sums(any_implementation):
    """δ = f′(z) ⊙ g, and its sums over the rows. (E5, E7)"""
    a, g = np.array([[1.0, 0.0, 2.0], [0.0, 3.0, 4.0]]), np.array([[2.0, 5.0, -1.0], [5.0, 0.5, 3.0]])
    delta, sums = any_implementation("relu_backward_summed", a, g, out=(np.empty_like(a), np.empty(3)))
    np.testing.assert_array_equal(delta, [[2, 0, -1], [0, 0.5, 3]])
    np.testing.assert_array_equal(sums, [2, 0.5, 2])


# --- operators of array code ----------------------------------------------------------------------------------------

OPERATORS = {
    "add": lambda x, y: x + y,
    "subtract": lambda x, y: x - y,
    "multiply": lambda x, y: x * y,
    "divide": lambda x, y: x / y,
}
REVERSED = ("subtract", "divide")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", OPERATORS)
def test_operators_equal_exact_fractions(name, dtype, implementation):
    """x ∘ y, x ∘ r, x ∘ c, and r ∘ x and c ∘ x if that differs; for matrices and vectors of powers of two."""
    exact = np.vectorize(lambda x, y: float(OPERATORS[name](Fraction(float(x)), Fraction(float(y)))))
    x = np.array([[2, -2, 0.25, 4], [-0.5, 8, 4, -1]], dtype)
    y = np.array([[2, 4, -0.5, 1], [1, -2, 8, 0.25]], dtype)
    r, c = y[0], 0.5
    wanted = {name: (y, exact(x, y)), f"{name}_row": (r, exact(x, r)), f"{name}_scalar": (c, exact(x, c))}
    if name in REVERSED:
        wanted |= {f"r{name}_row": (r, exact(r, x)), f"r{name}_scalar": (c, exact(c, x))}
    for kernel, (other, expected) in wanted.items():
        operands, scalars = ([], {"c": other}) if kernel.endswith("scalar") else ([other], {})
        got = implementation(kernel, x, *operands, out=np.empty_like(x), **scalars)
        np.testing.assert_array_equal(got, expected.astype(dtype), err_msg=kernel)
        first = [o if o.ndim == 1 else o[0] for o in operands]
        got = implementation(kernel, x[0].copy(), *first, out=np.empty_like(r), **scalars)
        np.testing.assert_array_equal(got, expected[0].astype(dtype), err_msg=f"{kernel} of vectors")


def test_division_by_zero(implementation):
    x, zero = np.array([1.0, -1.0, 0.0, np.inf]), np.zeros(4)
    np.testing.assert_array_equal(implementation("divide", x, zero, out=np.empty(4)), [np.inf, -np.inf, np.nan, np.inf])
    np.testing.assert_array_equal(implementation("rdivide_scalar", zero, out=np.empty(4), c=2.0), [np.inf] * 4)


# --- updates with operators -----------------------------------------------------------------------------------------


def test_a_guarded_assignment(implementation):
    for stop, wanted in (({}, [3.0, np.nan]), ({"NONFINITE_STEP": 1}, [1.0, 2.0]), ({"EMPTY_BATCH": 1}, [1.0, 2.0])):
        variable = np.array([1.0, 2.0])
        implementation("assign_if_updating", np.array([3.0, np.nan]), state_array(**stop), out=variable)
        np.testing.assert_array_equal(variable, wanted)


def test_the_check_of_an_update_with_operators(implementation):
    """0 if all values are finite, otherwise NaN. Nothing is written unless NEAR_OVERFLOW is set."""
    x = np.array([1.0, 1e300, -3.0])
    for value, near_overflow, wanted in ((2.0, 1, 0.0), (np.inf, 1, np.nan), (np.nan, 1, np.nan), (np.inf, 0, 7.0)):
        x[2], probe = value, np.array([7.0])
        implementation("nonfinite_difference", x, state_array(NEAR_OVERFLOW=near_overflow), out=probe)
        np.testing.assert_array_equal(probe, [wanted])


# --- sums -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1), (64, 3), (65, 257), (1000, 2), (3, 1000)])
def test_sums_equal_fsum_up_to_rounding(shape, dtype, implementation):
    """Column sums and the total, compared with math.fsum, which rounds once. (E7)"""
    x = np.random.default_rng(5).normal(size=shape).astype(dtype)
    columns = np.array([math.fsum(c) for c in x.T.astype(float)])
    got = implementation("column_sum", x, out=np.empty(shape[1], dtype))
    tolerance = tolerances.sums(dtype, shape[0], float(np.abs(x).max()))
    np.testing.assert_allclose(got, columns.astype(dtype), rtol=0, atol=tolerance)
    everything = math.fsum(x.astype(float).ravel())
    assert implementation("sum_all", x, out=np.empty(1))[0] == pytest.approx(everything, rel=0, abs=1e-12 * x.size)


def test_float32_squares_do_not_overflow(implementation):
    x = np.full(50, 1e30, np.float32)
    assert implementation("sum_of_squares", x, np.zeros(SIZE), out=np.empty(1))[0] == pytest.approx(50e60, rel=1e-6)


@pytest.mark.parametrize("where", [0, 17, 39])
def test_max_abs_pair(where, implementation):
    """max(|g|, |θ|): NaN takes precedence, then infinity, at every position."""
    rng = np.random.default_rng(6)
    g, theta = rng.uniform(-1, 1, size=(2, 40)).astype(np.float32)
    largest = max(np.abs(g).max(), np.abs(theta).max())
    assert implementation("max_abs_pair", g, theta, out=np.empty(1))[0] == largest
    for array in (g, theta):
        for value, wanted in ((-3, 3), (-np.inf, np.inf), (np.nan, np.nan)):
            before, array[where] = array[where], value
            np.testing.assert_array_equal(implementation("max_abs_pair", g, theta, out=np.empty(1)), [wanted])
            array[where] = before
    g[where], theta[(where + 5) % 40] = np.inf, np.nan
    assert np.isnan(implementation("max_abs_pair", g, theta, out=np.empty(1))[0])
