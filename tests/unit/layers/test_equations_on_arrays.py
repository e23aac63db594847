"""The equations of the layers on NumPy arrays, against `gpunn.theory` and by hand, without a network."""

import inspect

import numpy as np
import pytest

import gpunn
from gpunn import theory
from gpunn.kernels.state import SIZE, StateEntry
from gpunn.layers import Parameter, Quantities

RNG = np.random.default_rng(8)
N, N_IN, N_OUT = 7, 4, 5
FUNCTIONS = ["relu", "sigmoid", "tanh", "identity", "leaky_relu", "elu", "softplus", "silu", "gelu", "selu", "mish"]
CLOSE = {"rtol": 1e-12, "atol": 1e-14}


def quantities(layer, **given):
    """The quantities that a step would give a built layer: a_prev, ∂C/∂a, random parameters, running statistics."""
    t = Quantities(index=0, training=True, rows=N, state=np.zeros(SIZE))
    t.a_prev, t.grad_a = RNG.normal(size=(N, layer.n_in)), RNG.normal(size=(N, layer.n_out))
    for p in layer.parameters():
        setattr(t, p.name, RNG.normal(size=p.shape))
    for r in layer.running():
        setattr(t, r.name, np.full(r.shape, r.initial_value))
    vars(t).update(given)
    return t


def built(layer, n_in=N_IN):
    layer.build(n_in)
    return layer


def passed(layer, **given):
    """The quantities after a forward and a backward pass."""
    t = quantities(layer, **given)
    layer.forward(t)
    layer.backward(t)
    return t


def numeric_gradient(layer, t, name):
    """∂(Σ grad_a ⊙ a)/∂t.NAME by central differences."""
    x, h = getattr(t, name), 1e-6
    found = np.empty_like(x)
    for at in np.ndindex(x.shape):
        values = []
        for step in (h, -h):
            moved = Quantities(**vars(t))
            changed = x.copy()
            changed[at] += step
            setattr(moved, name, changed)
            layer.forward(moved)
            values.append((t.grad_a * moved.a).sum())
        found[at] = (values[0] - values[1]) / (2 * h)
    return found


def assert_gradients(layer, t):
    """The gradients of all parameters and of the input equal differences of the forward pass."""
    for name, found in [("a_prev", t.grad_prev), *((p.name, getattr(t, f"d{p.name}")) for p in layer.parameters())]:
        np.testing.assert_allclose(found, numeric_gradient(layer, t, name), rtol=1e-6, atol=1e-8)


# --- Dense and Activation --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("f", FUNCTIONS)
def test_dense_against_the_theory(f):
    t = passed(built(gpunn.Dense(N_OUT, f)))
    z = theory.aggregate(t.a_prev, t.W, t.b)
    delta = theory.output_error(z, t.grad_a, f)
    np.testing.assert_allclose(t.z, z, **CLOSE)
    np.testing.assert_allclose(t.a, theory.activate(z, f), **CLOSE)
    np.testing.assert_allclose(t.delta, delta, **CLOSE)
    np.testing.assert_allclose(t.dW, theory.weight_gradient(t.a_prev, delta), **CLOSE)
    np.testing.assert_allclose(t.db, theory.intercept_gradient(delta), **CLOSE)
    # E5 of an identity layer below is δ Wᵀ
    np.testing.assert_allclose(t.grad_prev, theory.recursion(t.a_prev, delta, t.W, "identity"), **CLOSE)


def test_dense_with_softmax_against_the_theory():
    t = passed(built(gpunn.Dense(N_OUT, "softmax")))
    np.testing.assert_allclose(t.a, theory.activate(t.z, "softmax"), **CLOSE)
    np.testing.assert_allclose(t.delta, theory.output_error(t.z, t.grad_a, "softmax"), **CLOSE)


def test_dense_without_intercepts():
    t = passed(built(gpunn.Dense(N_OUT, "tanh", use_bias=False)))
    np.testing.assert_allclose(t.z, theory.aggregate(t.a_prev, t.W, np.zeros(N_OUT)), **CLOSE)
    assert not hasattr(t, "db")


def test_dense_keeps_its_dtype():
    layer = built(gpunn.Dense(N_OUT, "gelu", max_norm=0.5))
    given = quantities(layer)
    t = passed(
        layer, **{k: v.astype(np.float32) for k, v in vars(given).items() if k in ("a_prev", "grad_a", "W", "b")}
    )
    layer.after_update(t)
    assert {v.dtype for v in (t.z, t.a, t.delta, t.dW, t.db, t.grad_prev, t.W)} == {np.dtype(np.float32)}


def test_dense_is_at_most_twenty_lines():
    lines = sum(len(inspect.getsource(f).rstrip().split("\n")) for f in (gpunn.Dense.forward, gpunn.Dense.backward))
    assert lines <= 20


def test_max_norm_by_hand():
    """Columns of norms 5 and 1, a limit of 2.5: the first one is halved."""
    layer = built(gpunn.Dense(2, max_norm=2.5), n_in=2)
    W = np.array([[3.0, 0.6], [4.0, 0.8]])
    t = quantities(layer, W=W.copy())
    layer.after_update(t)
    np.testing.assert_allclose(t.W, [[1.5, 0.6], [2, 0.8]], rtol=1e-15)
    # a batch without weight changes nothing, nor does a step after one that was not finite
    for entry in (StateEntry.EMPTY_BATCH, StateEntry.NONFINITE_STEP):
        t = quantities(layer, W=W.copy())
        t.state[entry] = 1
        layer.after_update(t)
        np.testing.assert_array_equal(t.W, W)


@pytest.mark.parametrize(("limit", "trainable"), [(None, True), (2.5, False)])
def test_no_max_norm(limit, trainable):
    layer = built(gpunn.Dense(N_OUT, max_norm=limit))
    layer.trainable = trainable
    t = quantities(layer)
    W = t.W
    layer.after_update(t)
    assert t.W is W


@pytest.mark.parametrize("f", [*FUNCTIONS, "softmax"])
def test_an_activation_layer_against_the_theory(f):
    t = passed(built(gpunn.Activation(f)))
    assert t.z is t.a_prev
    np.testing.assert_allclose(t.a, theory.activate(t.z, f), **CLOSE)
    np.testing.assert_allclose(t.delta, theory.output_error(t.z, t.grad_a, f), **CLOSE)
    np.testing.assert_array_equal(t.grad_prev, t.delta)


# --- Dropout ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["inverted", "textbook"])
@pytest.mark.parametrize("p", [0.25, 0.5])
def test_dropout_against_the_theory(form, p):
    layer = built(gpunn.Dropout(p, form=form))
    t = passed(layer)
    mask = passed(layer, a_prev=np.ones((N, N_IN))).a != 0
    assert 0 < mask.mean() < 1
    np.testing.assert_allclose(t.a, theory.dropout(t.a_prev, mask, p, form=form), **CLOSE)
    np.testing.assert_allclose(t.grad_prev, theory.dropout(t.grad_a, mask, p, form=form), **CLOSE)
    t = passed(layer, training=False)
    np.testing.assert_allclose(t.a, theory.dropout(t.a_prev, None, p, form=form), **CLOSE)
    np.testing.assert_allclose(t.grad_prev, theory.dropout(t.grad_a, None, p, form=form), **CLOSE)


@pytest.mark.parametrize(
    ("layer", "training"),
    [
        (gpunn.Dropout(0), True),
        (gpunn.Dropout(0, form="textbook"), True),
        (gpunn.Dropout(0, form="textbook"), False),
        (gpunn.Dropout(0.5), False),
    ],
)
def test_dropout_that_changes_nothing_returns_its_input(layer, training):
    t = passed(built(layer), training=training)
    assert t.a is t.a_prev and t.grad_prev is t.grad_a


def test_dropout_masks_depend_on_step_layer_and_seed():
    layer, ones = built(gpunn.Dropout(0.5), n_in=40), np.ones((N, 40))
    found = [passed(layer, a_prev=ones, grad_a=ones).a, passed(layer, a_prev=ones, grad_a=ones, index=1).a]
    for entry in (StateEntry.STEP, StateEntry.SEED_LOW, StateEntry.SEED_HIGH, StateEntry.NET_INDEX):
        state = np.zeros(SIZE)
        state[entry] = 1
        found.append(passed(layer, a_prev=ones, grad_a=ones, state=state).a)
    assert len({a.tobytes() for a in found}) == len(found)


# --- normalization ---------------------------------------------------------------------------------------------------

# columns of mean 2 and 10, biased variances 5 and 80, unbiased 20/3 and 320/3
X = np.array([[-1.0, -2.0], [1.0, 6.0], [3.0, 14.0], [5.0, 22.0]])
MEAN, BIASED, UNBIASED = np.array([2.0, 10.0]), np.array([5.0, 80.0]), np.array([20.0, 320.0]) / 3


def test_batch_normalization_by_hand():
    layer = built(gpunn.BatchNormalization(momentum=0.25, epsilon=0.5), n_in=2)
    t = quantities(layer, a_prev=X, rows=4, gamma=np.array([2.0, 0.5]), beta=np.array([1.0, -3.0]))
    layer.forward(t)
    x_hat = (X - MEAN) / np.sqrt(BIASED + 0.5)
    np.testing.assert_allclose(t.x_hat, x_hat, **CLOSE)
    np.testing.assert_allclose(t.a, x_hat * [2, 0.5] + [1, -3], **CLOSE)
    layer.after_update(t)
    np.testing.assert_allclose(t.running_mean, 0.25 * MEAN, **CLOSE)
    np.testing.assert_allclose(t.running_variance, 0.75 + 0.25 * UNBIASED, **CLOSE)
    # in prediction the running values are used
    layer.forward(after := Quantities(**vars(t) | {"training": False}))
    np.testing.assert_allclose(after.x_hat, (X - 0.25 * MEAN) / np.sqrt(0.75 + 0.25 * UNBIASED + 0.5), **CLOSE)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("trainable", [True, False])
def test_the_gradients_of_batch_normalization(training, trainable):
    layer = built(gpunn.BatchNormalization())
    layer.trainable = trainable
    t = passed(layer, training=training, running_mean=RNG.normal(size=N_IN), running_variance=RNG.uniform(1, 2, N_IN))
    assert_gradients(layer, t)


def test_a_frozen_batch_normalization_predicts():
    layer = built(gpunn.BatchNormalization())
    predicted = passed(layer, training=False)
    layer.trainable = False
    t = Quantities(**vars(predicted) | {"training": True})
    layer.forward(t)
    np.testing.assert_array_equal(t.a, predicted.a)
    before = t.running_mean, t.running_variance
    layer.after_update(t)
    assert (t.running_mean, t.running_variance) == before or all(
        a is b for a, b in zip((t.running_mean, t.running_variance), before, strict=True)
    )


@pytest.mark.parametrize("rows", [0, 1])
def test_batch_normalization_of_few_rows(rows):
    """One row has no unbiased variance: the biased one, 0, is used. No row changes nothing."""
    layer = built(gpunn.BatchNormalization(), n_in=2)
    t = passed(layer, a_prev=X[:rows], grad_a=X[:rows], rows=rows)
    assert t.a.shape == (rows, 2)
    np.testing.assert_array_equal(t.x_hat, np.zeros((rows, 2)))
    layer.after_update(t)
    np.testing.assert_allclose(t.running_mean, 0.1 * rows * X[0], **CLOSE)
    np.testing.assert_allclose(t.running_variance, np.full(2, 1 - 0.1 * rows), **CLOSE)


def test_layer_normalization_by_hand():
    # rows of mean 1 and variance 4; of mean −2 and variance 0
    x = np.array([[-1.0, 3.0], [-2.0, -2.0]])
    layer = built(gpunn.LayerNormalization(epsilon=1e-3), n_in=2)
    t = quantities(layer, a_prev=x, gamma=np.array([2.0, 0.5]), beta=np.array([1.0, -3.0]))
    layer.forward(t)
    x_hat = np.array([[-2.0, 2.0], [0.0, 0.0]]) / np.sqrt([[4.001], [0.001]])
    np.testing.assert_allclose(t.a, x_hat * [2, 0.5] + [1, -3], **CLOSE)


def test_the_gradients_of_layer_normalization():
    layer = built(gpunn.LayerNormalization())
    assert_gradients(layer, passed(layer))


# --- PeriodicEmbedding -----------------------------------------------------------------------------------------------


def test_the_gradients_of_the_periodic_embedding():
    layer = built(gpunn.PeriodicEmbedding([3, 0, 1], 3))
    assert_gradients(layer, passed(layer))


# --- the caller's arrays and the base class --------------------------------------------------------------------------

LAYERS = [
    gpunn.Dense(N_IN, "relu", max_norm=0.1),
    gpunn.Activation("tanh"),
    gpunn.Dropout(0.5),
    gpunn.BatchNormalization(),
    gpunn.LayerNormalization(),
    gpunn.PeriodicEmbedding([3, 0, 1], 2),
]


@pytest.mark.parametrize("layer", LAYERS, ids=repr)
def test_a_layer_changes_none_of_its_arrays(layer):
    t = quantities(built(layer))
    given = dict(vars(t))
    copies = {k: v.copy() for k, v in given.items() if isinstance(v, np.ndarray)}
    layer.forward(t)
    layer.backward(t)
    layer.after_update(t)
    for name, before in copies.items():
        np.testing.assert_array_equal(given[name], before, err_msg=name)


@pytest.mark.parametrize("layer", LAYERS, ids=repr)
def test_a_layer_sets_what_its_contract_says(layer):
    t = passed(built(layer))
    shapes = {f"d{p.name}": p.shape for p in layer.parameters()} | {"a": (N, layer.n_out), "grad_prev": (N, N_IN)}
    assert {name: getattr(t, name).shape for name in shapes} == shapes


def test_only_batch_normalization_has_statistics_of_the_batch():
    assert [type(layer) for layer in LAYERS if layer.batch_statistics] == [gpunn.BatchNormalization]
    assert not any(layer.opaque for layer in LAYERS)


def test_a_layer_must_define_its_passes():
    class Empty(gpunn.Layer):
        def parameters(self):
            return [Parameter("s", (1,), gpunn.initializers.Ones())]

    t = quantities(built(Empty()))
    with pytest.raises(NotImplementedError, match=r"Empty must define forward\(self, t\)"):
        Empty().forward(t)
    with pytest.raises(NotImplementedError, match=r"Empty must define backward\(self, t\)"):
        Empty().backward(t)
    assert Empty().after_update(t) is None
