"""Losses by hand: values and ∂C/∂a, cross-entropies after each kind of last layer, and custom functions."""

import copy
import math

import numpy as np
import pytest
from helpers import internals
from helpers.messages import naming
from helpers.networks import build_network, network_builder
from helpers.snapshots import assert_unchanged, bits, weights_of
from helpers.user_classes import user_loss

import gpunn
from gpunn import activations, losses

LOG2 = math.log(2)


def _net_with_outputs(n_out, loss, last="identity", dtype="float64"):
    """Return a compiled network whose z equals its inputs."""
    options = {"input_shape": n_out, "seed": None, "optimizer": "sgd", "loss": loss, "device": "auto"}
    return build_network(gpunn.Activation(last), dtype=dtype, **options)


# --- values by hand --------------------------------------------------------------------------------------------------

# (loss, a, y, ℓ, ∂ℓ/∂a) of one row, all dyadic fractions
EXACT = [
    # e = 1, −2: ½(1 + 4)
    ("half_squared_error", [2, 0], [1, 2], 2.5, [1, -2]),
    # (1 + 4)/2, 2e/2
    ("mean_squared_error", [2, 0], [1, 2], 2.5, [1, -2]),
    ("mse", [2, 0, 1, 1], [1, 2, 1, 1], 1.25, [0.5, -1, 0, 0]),
    # (1 + 2)/2, sign(e)/2, 0 where y = a
    ("mean_absolute_error", [2, 0], [1, 2], 1.5, [0.5, -0.5]),
    ("mae", [2, 1], [1, 1], 0.5, [0.5, 0]),
    # ½·1, 1·(2 − ½): (½ + 3/2)/2; e clipped to ±1, halved
    ("huber", [2, 0], [1, 2], 1.0, [0.5, -0.5]),
    # δ = ¼: ¼(1 − ⅛) + ¼(2 − ⅛) = 7/32 + 15/32, halved
    (losses.Huber(0.25), [2, 0], [1, 2], 11 / 32, [0.125, -0.125]),
    # δ = 4: no error is larger
    (losses.Huber(4), [2, 0], [1, 2], 1.25, [0.5, -1]),
    # at |e| = δ both branches agree
    (losses.Huber(2), [2, 0], [0, 2], 2.0, [1, -1]),
    # a − 0·log a, 1 − 0
    ("poisson", [0.5, 2], [0, 0], 1.25, [0.5, 0.5]),
    # a = 1: log 1 = 0; 1 − y/a
    ("poisson", [1, 1], [3, 0], 1.0, [-1, 0.5]),
    # log cosh 0 = 0, tanh 0 = 0
    ("log_cosh", [3, -1], [3, -1], 0.0, [0, 0]),
]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("loss", "a", "y", "value", "gradient"), EXACT, ids=str)
def test_exact_values(loss, a, y, value, gradient, dtype):
    net = _net_with_outputs(len(a), loss, dtype=dtype)
    assert net.evaluate([a], [y]) == {"loss": value}
    assert net.loss_and_gradients([a], [y])[0] == value
    np.testing.assert_array_equal(net.input_gradient([a], [y]), [gradient])


# (loss, a or z, y, ℓ, ∂ℓ/∂a or ∂ℓ/∂z) with logarithms
CLOSE = [
    ("poisson", [2.0, 0.5], [1, 3], (2 - LOG2 + 0.5 + 3 * LOG2) / 2, [0.25, -2.5]),
    # log cosh(log 2) = log(5/4), tanh(log 2) = 3/5
    ("log_cosh", [LOG2, 0.0], [0, LOG2], math.log(1.25), [0.3, -0.3]),
    # a large error: |e| − log 2
    ("logcosh", [1000.0, -1000.0], [0, 0], 1000 - LOG2, [0.5, -0.5]),
]


@pytest.mark.parametrize(("loss", "a", "y", "value", "gradient"), CLOSE, ids=str)
def test_values_that_contain_logarithms(loss, a, y, value, gradient):
    net = _net_with_outputs(len(a), loss)
    assert net.evaluate([a], [y])["loss"] == pytest.approx(value, rel=1e-14)
    np.testing.assert_allclose(net.input_gradient([a], [y]), [gradient], rtol=1e-14)


# softmax of the logarithms of these is ½, ¼, ¼
Z3 = [LOG2, 0.0, 0.0]
# z = log 3 gives σ = ¾
Z1 = [math.log(3)]

CROSSENTROPIES = [
    ("sparse_categorical_crossentropy", "softmax", Z3, 0, LOG2, [-0.5, 0.25, 0.25]),
    ("sparse_categorical_crossentropy", "softmax", Z3, 2, 2 * LOG2, [0.5, 0.25, -0.75]),
    ("categorical_crossentropy", "softmax", Z3, [0, 1, 0], 2 * LOG2, [0.5, -0.75, 0.25]),
    # −½ log ½ − ½ log ¼
    ("categorical_crossentropy", "softmax", Z3, [0.5, 0, 0.5], 1.5 * LOG2, [0, 0.25, -0.25]),
    # ¼(1, 0, 0) + ¼: the targets equal the probabilities
    (losses.SparseCategoricalCrossentropy(label_smoothing=0.75), "softmax", Z3, 0, 1.5 * LOG2, [0, 0, 0]),
    # −¼ log ½ − ½ log ¼ − ¼ log ¼
    (losses.SparseCategoricalCrossentropy(label_smoothing=0.75), "softmax", Z3, 1, 1.75 * LOG2, [0.25, -0.25, 0]),
    (losses.CategoricalCrossentropy(label_smoothing=0.75), "softmax", Z3, [0, 1, 0], 1.75 * LOG2, [0.25, -0.25, 0]),
    # ¼(½, 0, ½) + ¼ = (⅜, ¼, ⅜)
    (
        losses.CategoricalCrossentropy(label_smoothing=0.75),
        "softmax",
        Z3,
        [0.5, 0, 0.5],
        1.625 * LOG2,
        [0.125, 0, -0.125],
    ),
    ("binary_crossentropy", "sigmoid", Z1, [1], math.log(4 / 3), [-0.25]),
    ("binary_crossentropy", "sigmoid", Z1, [0], 2 * LOG2, [0.75]),
    # −¾ log ¾ − ¼ log ¼: the gradient vanishes where a = y
    ("binary_crossentropy", "sigmoid", Z1, [0.75], 0.75 * math.log(4 / 3) + 0.5 * LOG2, [0]),
    # summed over the outputs
    ("binary_crossentropy", "sigmoid", Z1 * 2, [1, 0], math.log(4 / 3) + 2 * LOG2, [-0.25, 0.75]),
]


@pytest.mark.parametrize(("loss", "last", "z", "y", "value", "delta"), CROSSENTROPIES, ids=str)
@pytest.mark.parametrize("form", ["z", "logits"])
def test_cross_entropies(loss, last, z, y, value, delta, form):
    net = _net_with_outputs(len(z), loss, last if form == "z" else "identity")
    assert net.evaluate([z], [y])["loss"] == pytest.approx(value, rel=1e-14)
    np.testing.assert_allclose(net.input_gradient([z], [y]), [delta], rtol=1e-14, atol=1e-16)


@pytest.mark.parametrize(("loss", "last", "z", "y", "value", "delta"), CROSSENTROPIES, ids=str)
def test_cross_entropies_of_given_probabilities(loss, last, z, y, value, delta):
    """A last layer whose z the loss does not take: ∂ℓ/∂a = −y/a + (1 − y)/(1 − a)."""

    class PassThrough(activations.Activation):
        def f(self, z):
            return 1 * z

        def derivative(self, z, a):
            return 0 * z + 1

    a = np.exp(z) / (np.exp(z).sum() if last == "softmax" else 1 + np.exp(z))
    chosen = copy.deepcopy(losses.get(loss))
    chosen.from_logits = False
    net = _net_with_outputs(len(z), chosen, PassThrough())
    assert net.evaluate([a], [y])["loss"] == pytest.approx(value, rel=1e-14)
    t = np.array(y, float) if np.ndim(y) else np.eye(len(z))[y]
    smoothing = getattr(chosen, "label_smoothing", 0)
    t = (1 - smoothing) * t + smoothing / len(z)
    expected = -t / a + ((1 - t) / (1 - a) if last == "sigmoid" else 0)
    np.testing.assert_allclose(net.input_gradient([a], [y])[0], expected, rtol=1e-13, atol=1e-14)


def test_metrics_use_the_targets_that_are_not_smoothed():
    """z = (log 2, 0, 0): accuracy is right for the first label only, and the smoothed loss is as by hand."""
    loss = losses.SparseCategoricalCrossentropy(label_smoothing=0.75)
    net = build_network(gpunn.Activation("softmax"), dtype="float64", input_shape=3, loss=loss, metrics=["accuracy"])
    found = net.evaluate([Z3, Z3], [0, 1])
    assert found == {"loss": pytest.approx(1.625 * LOG2, rel=1e-14), "accuracy": 0.5}


def test_without_smoothing_the_step_is_that_of_the_plain_loss():
    for plain in (losses.SparseCategoricalCrossentropy, losses.CategoricalCrossentropy):
        smoothed = [str(_net_with_outputs(3, plain(label_smoothing=s), "softmax").program(4)) for s in (0, 0.1)]
        assert smoothed[0] == str(_net_with_outputs(3, plain(), "softmax").program(4))
        assert "smooth" in smoothed[1] and "smooth" not in smoothed[0]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("form", ["z", "logits"])
@pytest.mark.parametrize("size", [200.0, 1000.0, 1e4])
@pytest.mark.parametrize("mode", ["compiled", "numpy", "eager"])
def test_cross_entropies_of_extreme_logits_are_exact(monkeypatch, mode, size, form, dtype):
    """Softmax of (s, 0, −s) is (1, 0, 0), and −log softmax is (0, s, 2s); the sigmoid is (1, ½, 0)."""
    monkeypatch.setenv("GPUNN_COMPILE", "0" if mode == "numpy" else "1")
    monkeypatch.setenv("GPUNN_EAGER", "1" if mode == "eager" else "0")
    z = np.array([[size, 0.0, -size]])
    for loss, last, y, value, a_minus_y in (
        ("sparse_categorical_crossentropy", "softmax", [2], 2 * size, [1, 0, -1]),
        ("sparse_categorical_crossentropy", "softmax", [0], 0, [0, 0, 0]),
        ("categorical_crossentropy", "softmax", [[0, 0, 1]], 2 * size, [1, 0, -1]),
        ("binary_crossentropy", "sigmoid", [[0, 1, 1]], 2 * size + LOG2, [1, -0.5, -1]),
    ):
        net = _net_with_outputs(3, loss, last if form == "z" else "identity", dtype)
        assert net.evaluate(z, y)["loss"] == pytest.approx(value, rel=1e-6)
        found = net.loss_and_gradients(z, y)[0], net.input_gradient(z, y), net.trace(z, y)[0].delta
        assert found[0] == pytest.approx(value, rel=1e-6)
        for gradient in found[1:]:
            np.testing.assert_allclose(gradient, [a_minus_y], atol=1e-37)
        np.testing.assert_allclose(net.predict_proba(z), [[1, 0.5 if last == "sigmoid" else 0, 0]], atol=1e-37)


# --- rows, outputs and weights ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_loss_is_the_weighted_mean_over_rows(dtype):
    """C = Σ wᵢℓᵢ / Σ wᵢ, for losses ½, 2 and 8 and weights 1, ½ and 2½."""
    net = _net_with_outputs(1, "half_squared_error", dtype=dtype)
    a, y, w = [[1.0], [2.0], [4.0]], [[0.0]] * 3, [1, 0.5, 2.5]
    assert net.evaluate(a, y)["loss"] == pytest.approx(10.5 / 3, rel=1e-6)
    assert net.evaluate(a, y, sample_weight=w)["loss"] == (0.5 + 1 + 20) / 4
    np.testing.assert_array_equal(net.input_gradient(a, y, sample_weight=w), [[0.25], [0.25], [2.5]])
    # only ratios of weights matter
    for factor in (2.0**-60, 2.0**60):
        assert net.evaluate(a, y, sample_weight=np.array(w) * factor)["loss"] == 21.5 / 4


SUMMED = ["half_squared_error", "binary_crossentropy"]
AVERAGED = ["mean_squared_error", "mean_absolute_error", "huber", "poisson", "log_cosh"]


@pytest.mark.parametrize("loss", SUMMED + AVERAGED)
def test_losses_sum_or_average_over_the_outputs(loss):
    """Three equal outputs have three times the loss of one output, or the same loss."""
    last = "sigmoid" if loss == "binary_crossentropy" else "identity"
    one = _net_with_outputs(1, loss, last).evaluate([[0.75]], [[0.25]])["loss"]
    three = _net_with_outputs(3, loss, last).evaluate([[0.75] * 3], [[0.25] * 3])["loss"]
    assert one != 0
    assert three == pytest.approx(3 * one if loss in SUMMED else one, rel=1e-14)


def test_built_in_names():
    for name, cls in internals.classes_by_name(losses).items():
        assert type(losses.get(name)) is cls and type(losses.get(cls)) is cls
        made = losses.get(name)
        again = losses.from_config(losses.to_config(made))
        assert repr(again) == repr(made) and losses.get(made) is made
    assert repr(losses.from_config(losses.to_config(losses.Huber(0.5)))) == "Huber(delta=0.5)"
    chosen = losses.from_config(losses.to_config(losses.BinaryCrossentropy(from_logits=True)))
    assert chosen.from_logits is True


# --- cross-entropies and the last layer ------------------------------------------------------------------------------

X = np.random.default_rng(0).normal(size=(9, 4))
LABELS = np.arange(9) % 3
PAIRS = {
    "sparse_categorical_crossentropy": ("softmax", "sigmoid", LABELS),
    "categorical_crossentropy": ("softmax", "sigmoid", np.eye(3)[LABELS]),
    "binary_crossentropy": ("sigmoid", "softmax", np.eye(3)[LABELS]),
}


def _classifier(activation, loss, apart=False):
    outputs = [gpunn.Dense(3), gpunn.Activation(activation)] if apart else [gpunn.Dense(3, activation)]
    options = {"input_shape": 4, "seed": 1, "dtype": "float64", "optimizer": gpunn.SGD(0.1), "device": "auto"}
    return build_network(gpunn.Dense(5, "relu"), *outputs, loss=loss, metrics=["accuracy"], **options)


@pytest.mark.parametrize("loss", PAIRS)
def test_the_last_activation_selects_probabilities_or_logits(loss):
    matching, _, y = PAIRS[loss]
    nets = [
        _classifier(matching, loss),
        _classifier(matching, loss, apart=True),
        _classifier(None, loss),
        _classifier("linear", loss),
    ]
    histories = [net.fit(X, y, epochs=3, batch_size=4, verbose=0).history for net in nets]
    for net, history in zip(nets, histories, strict=True):
        assert history["accuracy"] == histories[0]["accuracy"]
        np.testing.assert_allclose(history["loss"], histories[0]["loss"], rtol=1e-13)
        np.testing.assert_allclose(net.predict_proba(X), nets[0].predict_proba(X), rtol=1e-13)


@pytest.mark.parametrize("loss", PAIRS)
@pytest.mark.parametrize("activation", ["relu", "tanh", "elu", "gelu", "softplus", "the other"])
def test_other_last_activations_are_rejected_at_compile(loss, activation):
    matching, other, _ = PAIRS[loss]
    activation = other if activation == "the other" else activation
    net = gpunn.Sequential([gpunn.Dense(3, activation)], input_shape=4)
    with (
        assert_unchanged(net),
        pytest.raises(ValueError, match=rf"{loss}.*needs {matching}.*got {activation}.*{matching}"),
    ):
        net.compile("sgd", loss)
    with pytest.raises(RuntimeError, match="compile"):
        net.evaluate(X, LABELS)


@pytest.mark.parametrize("name", PAIRS)
def test_from_logits_overrides_the_activation(name):
    matching, other, y = PAIRS[name]
    cls = type(losses.get(name))
    with pytest.raises(ValueError, match=naming("from_logits=True", matching, "probabilities")):
        _classifier(matching, cls(from_logits=True))
    for activation in (None, "relu", "tanh"):
        with pytest.raises(ValueError, match="from_logits="):
            _classifier(activation, cls(from_logits=False))
    # the outputs of tanh are logits: the result equals that of a following softmax or sigmoid layer
    net = _classifier("tanh", cls(from_logits=True))
    followed = gpunn.Sequential(
        [gpunn.Dense(5, "relu"), gpunn.Dense(3, "tanh"), gpunn.Activation(matching)],
        input_shape=4,
        dtype="float64",
    )
    followed.set_weights(net.get_weights())
    followed.compile("sgd", name)
    assert net.evaluate(X, y)["loss"] == pytest.approx(followed.evaluate(X, y)["loss"], rel=1e-14)
    np.testing.assert_allclose(net.predict_proba(X), followed.predict(X), rtol=1e-14)
    np.testing.assert_allclose(net.predict(X), followed.trace(X)[1].a, rtol=1e-14)
    # for the paired activation, from_logits=False changes nothing
    explicit, implicit = _classifier(matching, cls(from_logits=False)), _classifier(matching, cls())
    assert explicit.evaluate(X, y) == implicit.evaluate(X, y)
    # with from_logits=False, the outputs of the other activation are probabilities too
    assert np.isfinite(_classifier(other, cls(from_logits=False)).evaluate(X, y)["loss"])


def test_networks_can_share_a_loss_object():
    loss = losses.SparseCategoricalCrossentropy()
    probabilities, logits = _classifier("softmax", loss), _classifier(None, loss)
    assert probabilities.evaluate(X, LABELS) == pytest.approx(logits.evaluate(X, LABELS), rel=1e-14)
    np.testing.assert_array_equal(probabilities.predict(X), probabilities.predict_proba(X))
    assert vars(loss) == vars(losses.SparseCategoricalCrossentropy())


@pytest.mark.parametrize(("one", "other"), [("sigmoid", "logistic"), ("linear", "identity"), ("silu", "swish")])
def test_both_names_of_an_activation_are_equivalent(one, other):
    nets = []
    for name in (one, other):
        net = gpunn.Sequential([gpunn.Dense(4, name), gpunn.Activation(name)], input_shape=4, seed=2)
        net.compile("adam", "mse").fit(X, X, epochs=2, verbose=0)
        nets.append(net)
    assert weights_of(nets[0]) == weights_of(nets[1]) and repr(nets[0]) == repr(nets[1])
    for name in ("sigmoid", "logistic"):
        net = gpunn.Sequential([gpunn.Dense(1, name)], input_shape=4, seed=2).compile("sgd", "binary_crossentropy")
        assert net.loss.name == "binary_crossentropy" and internals.takes_z(net)


@pytest.mark.parametrize("custom", [None, {}, {"huber": None}])
def test_a_function_named_like_a_built_in_loss_must_be_supplied(custom):
    with pytest.raises(ValueError, match=naming("loss", "'huber'", "custom={'huber'")):
        losses.from_config({"name": "huber", "own": True}, custom)


# --- custom functions ------------------------------------------------------------------------------------------------


OPTIONS = {"input_shape": 4, "seed": 1, "optimizer": gpunn.Momentum(0.1), "metrics": ["mae"], "device": "auto"}
_regression = network_builder(gpunn.Dense(5, "tanh", l2=0.1), gpunn.Dense(2), **OPTIONS)


def test_a_custom_function_trains_like_the_built_in_loss():
    own, built_in = (_regression(loss=loss, dtype="float64") for loss in (user_loss, "half_squared_error"))
    y, w = X[:, :2], np.linspace(0, 2, 9)
    options = {"epochs": 3, "batch_size": 4, "sample_weight": w, "validation_split": 0.3, "verbose": 0}
    a, b = own.fit(X, y, **options).history, built_in.fit(X, y, **options).history
    assert list(a) == list(b)
    for name, values in a.items():
        np.testing.assert_allclose(values, b[name], rtol=1e-13)
    for u, v in zip(own.get_weights(), built_in.get_weights(), strict=True):
        np.testing.assert_allclose(u, v, rtol=1e-12, atol=1e-15)
    assert own.evaluate(X, y, sample_weight=w) == pytest.approx(built_in.evaluate(X, y, sample_weight=w), rel=1e-13)


def test_a_custom_function_gets_device_arrays_that_it_may_modify():
    seen = []

    def spoil(y, a):
        seen.append((y, a))
        result = user_loss(y, a)
        y[...] = a[...] = 1e9
        return result

    clean, spoilt = _regression(loss=user_loss), _regression(loss=spoil)
    y = X[:, :2]
    assert spoilt.fit(X, y, epochs=2, verbose=0).history == clean.fit(X, y, epochs=2, verbose=0).history
    assert weights_of(clean) == weights_of(spoilt)
    given_y, given_a = seen[0]
    assert type(given_y) is type(given_a) is type(internals.parameters(clean))
    assert given_y.shape == given_a.shape == (9, 2) and given_y.dtype == given_a.dtype == np.float32
    assert (given_y == 1e9).all(), "no later step changed the copy"


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int64"])
def test_a_custom_function_may_return_any_real_type(dtype):
    def rounded(y, a):
        value, g = user_loss(y.round(), a.round())
        return value.astype(dtype), g.astype(dtype)

    net = _regression(loss=rounded)
    net.fit(X, X[:, :2], verbose=0)
    assert {w.dtype for w in net.get_weights()} == {np.dtype("float32")}


WRONG = {
    "no tuple": (lambda y, a: user_loss(y, a)[0], TypeError, r"must return \(ℓ, g\), got ndarray"),
    "three": (lambda y, a: (*user_loss(y, a), 0), TypeError, r"must return \(ℓ, g\), got tuple"),
    "None": (lambda y, a: None, TypeError, r"must return \(ℓ, g\), got NoneType"),
    "a mean": (lambda y, a: (user_loss(y, a)[0].mean(), a - y), ValueError, r"ℓ of shape \(9,\), got \(\)"),
    "a float": (lambda y, a: (1.0, a - y), ValueError, r"ℓ of shape \(9,\), got 1\.0"),
    "a column": (lambda y, a: (user_loss(y, a)[0][:, None], a - y), ValueError, r"ℓ of shape \(9,\), got \(9, 1\)"),
    "a row of g": (
        lambda y, a: (user_loss(y, a)[0], (a - y)[:1]),
        ValueError,
        r"g = ∂ℓ/∂a of shape \(9, 2\), got \(1, 2\)",
    ),
    "a column of g": (lambda y, a: (user_loss(y, a)[0], (a - y)[:, :1]), ValueError, r"\(9, 2\), got \(9, 1\)"),
    "complex": (lambda y, a: (user_loss(y, a)[0], (a - y) * 1j), TypeError, "real numbers, got complex"),
}


@pytest.mark.parametrize(("function", "error", "message"), WRONG.values(), ids=WRONG)
def test_invalid_results_of_a_custom_function_are_reported(function, error, message):
    net = _regression(loss=function)
    y = X[:, :2]
    for call in (net.evaluate, net.train_on_batch, net.loss_and_gradients, lambda x, y: net.fit(x, y, verbose=0)):
        before = weights_of(net)
        with pytest.raises(error, match=message):
            call(X, y)
        assert weights_of(net) == before


def test_an_error_in_a_custom_function_is_raised_unchanged():
    def failing(y, a):
        raise ZeroDivisionError("mine")

    net = _regression(loss=failing)
    before = bits(net.predict(X))
    with pytest.raises(ZeroDivisionError, match="mine"):
        net.fit(X, X[:, :2], verbose=0)
    assert bits(net.predict(X)) == before
