"""The examples in the docstrings of the base classes run, and compute what they say."""

import doctest

import numpy as np
import pytest
from helpers import internals

import gpunn
from gpunn.layers import Quantities

X = np.array([[1.0, 2.0], [-3.0, 0.5], [0.25, -1.0]])
Y = np.array([[0.5, 1.0], [-1.0, 1.0], [0.5, -2.0]])
BASES = [
    gpunn.Layer,
    gpunn.activations.Activation,
    gpunn.losses.Loss,
    gpunn.losses.FunctionLoss,
    gpunn.metrics.Metric,
    gpunn.Optimizer,
]


def net_of(*layers, loss="half_squared_error", optimizer=None, metrics=()):
    net = gpunn.Sequential([*layers], input_shape=2, seed=0, dtype="float64")
    return net.compile(optimizer or gpunn.SGD(0.5), loss, metrics, device="cpu")


@pytest.fixture(autouse=True, params=["compiled", "eager"])
def _mode(request, monkeypatch):
    """Run each test on recorded programs and in eager mode."""
    internals.keep_optimizer_names(monkeypatch)
    if request.param == "eager":
        monkeypatch.setenv("GPUNN_EAGER", "1")


def examples(cls):
    """The names that the examples in a docstring define."""
    found = {"gpunn": gpunn, "np": np, "net": net_of(gpunn.Dense(2))}
    for example in doctest.DocTestParser().get_examples(cls.__doc__):
        exec(example.source, found)
    return found


@pytest.mark.parametrize("cls", BASES)
def test_examples_run_and_are_short(cls):
    assert examples(cls)
    lines = [k for e in doctest.DocTestParser().get_examples(cls.__doc__) for k in e.source.split("\n") if k.strip()]
    assert 3 <= len(lines) <= 20


def opaque(cls):
    """The same class as Python code."""
    return type(f"Opaque{cls.__name__}", (cls,), {"opaque": True})


@pytest.mark.parametrize("form", [lambda cls: cls, opaque], ids=["recorded", "opaque"])
def test_the_layer_scales_its_columns(form):
    Scale = form(examples(gpunn.Layer)["Scale"])
    s = np.array([2.0, -0.5])
    t = Quantities(a_prev=X, s=s, grad_a=Y, training=True)
    layer = Scale()
    layer.forward(t)
    layer.backward(t)
    np.testing.assert_array_equal(t.a, X * s)
    np.testing.assert_array_equal(t.grad_prev, Y * s)
    np.testing.assert_array_equal(t.ds, (Y * X).sum(axis=0))
    # a step of gradient descent on C = ½ Σ (x s − y)²/3 with η = ½
    net = net_of(Scale())
    assert (net.get_weights()[0] == 1).all()
    assert gpunn.check_gradients(net, X, Y).ok
    net.train_on_batch(X, Y)
    np.testing.assert_allclose(net.get_weights()[0], 1 - 0.5 * ((X - Y) * X).sum(axis=0) / 3, rtol=1e-14)


@pytest.mark.parametrize("form", [lambda cls: cls, opaque], ids=["recorded", "opaque"])
def test_the_activation_is_a_cube(form):
    Cube = form(examples(gpunn.activations.Activation)["Cube"])
    np.testing.assert_allclose(Cube().forward(X), X**3, rtol=1e-15)
    np.testing.assert_allclose(Cube().backward(X, X**3, Y), 3 * X**2 * Y, rtol=1e-15)
    net = net_of(gpunn.Activation(Cube()))
    np.testing.assert_allclose(net.predict(X), X**3, rtol=1e-14)
    np.testing.assert_allclose(net.input_gradient(X, Y), 3 * X**2 * (X**3 - Y) / 3, rtol=1e-14)


def test_the_opaque_activation_is_a_sine():
    Sine = examples(gpunn.activations.Activation)["Sine"]
    net = net_of(gpunn.Activation(Sine()))
    np.testing.assert_allclose(net.predict(X), np.sin(X), rtol=1e-14)
    np.testing.assert_allclose(net.input_gradient(X, Y), np.cos(X) * (np.sin(X) - Y) / 3, rtol=1e-14)


@pytest.mark.parametrize("make", [lambda: examples(gpunn.losses.Loss)["Quartic"](),
                                  lambda: examples(gpunn.losses.FunctionLoss)["quartic"]],
                         ids=["class", "function"])  # fmt: skip
def test_the_loss_is_a_fourth_power(make):
    loss, w = gpunn.losses.get(make()), np.array([0.5, 0.25, 0.25])
    grad_a, row_losses = loss.evaluate(X, Y, w)
    np.testing.assert_allclose(row_losses, w * ((X - Y) ** 4).sum(axis=1), rtol=1e-14)
    np.testing.assert_allclose(grad_a, w[:, None] * 4 * (X - Y) ** 3, rtol=1e-14)
    net = net_of(gpunn.Activation("identity"), loss=loss)
    assert net.evaluate(X, Y)["loss"] == pytest.approx(((X - Y) ** 4).sum() / 3, rel=1e-14)
    np.testing.assert_allclose(net.input_gradient(X, Y), 4 * (X - Y) ** 3 / 3, rtol=1e-14)


def test_the_metric_is_the_mean_error():
    Bias = examples(gpunn.metrics.Metric)["Bias"]
    w = np.array([1.0, 2.0, 0.0])
    np.testing.assert_allclose(Bias().rows(X, Y, w), w * (X - Y).mean(axis=1), rtol=1e-15)
    net = net_of(gpunn.Activation("identity"), metrics=[Bias()])
    assert net.evaluate(X, Y)["Bias"] == pytest.approx((X - Y).mean(), rel=1e-14)
    assert net.evaluate(X, Y, sample_weight=w)["Bias"] == pytest.approx(w @ (X - Y).mean(axis=1) / 3, rel=1e-14)
    assert list(net.fit(X, Y, verbose=0).history) == ["loss", "Bias"]


def test_the_optimizer_steps_along_the_sign_of_its_mean():
    """For x = 1 and the loss ya, the gradient of a single weight is the target. m = 0.2, −0.12, 0.192."""
    SignDescent = examples(gpunn.Optimizer)["SignDescent"]
    net = gpunn.Sequential([gpunn.Dense(1, use_bias=False)], input_shape=1, seed=0, dtype="float64")
    net.set_weights([[[1.0]]])
    net.compile(SignDescent(0.25), lambda y, a: ((y * a).sum(axis=1), y), device="cpu")
    found = []
    for g in (2.0, -3.0, 3.0):
        net.train_on_batch([[1.0]], [[g]])
        found.append(net.get_weights()[0].item())
    assert found == [0.75, 1.0, 0.75]
    assert internals.optimizer_state(net)["m"].item() == pytest.approx(0.9 * (0.9 * 0.2 - 0.3) + 0.3, rel=1e-15)


def test_the_optimizer_reads_the_learning_rate_of_each_step():
    SignDescent = examples(gpunn.Optimizer)["SignDescent"]
    net = net_of(gpunn.Dense(2), optimizer=SignDescent(gpunn.schedules.InverseTimeDecay(0.5, 1, 1.0)))
    before = net.get_weights()
    net.fit(X, Y, batch_size=3, epochs=2, verbose=0)
    moved = [np.abs(a - b) for a, b in zip(net.get_weights(), before, strict=True)]
    # steps of ½ and ¼, in the same or in opposite directions
    assert all(np.isclose(m, 0.75).any() or np.isclose(m, 0.25).any() for m in moved)
    for m in moved:
        assert (np.isclose(m, 0.75) | np.isclose(m, 0.25)).all()


def test_the_optimizer_is_saved(tmp_path):
    SignDescent = examples(gpunn.Optimizer)["SignDescent"]
    net = net_of(gpunn.Dense(2), optimizer=SignDescent(0.125, clipnorm=1.0))
    net.fit(X, Y, verbose=0)
    net.save(tmp_path / "net.safetensors")
    again = gpunn.load(tmp_path / "net.safetensors", custom={"SignDescent": SignDescent})
    assert repr(again.optimizer) == repr(net.optimizer) == "SignDescent(0.125, clipnorm=1.0)"


def test_an_update_that_is_not_finite_changes_nothing():
    class Explode(gpunn.Optimizer):
        opaque = True

        def update(self, t):
            t.theta = t.theta + (np.inf if t.step == 1 else 1.0)

    net = net_of(gpunn.Dense(2), optimizer=Explode(0.1))
    before = net.get_weights()
    net.train_on_batch(X, Y)
    after = net.get_weights()
    for a, b in zip(after, before, strict=True):
        np.testing.assert_array_equal(a, b + 1)
    with pytest.raises(gpunn.DivergenceError):
        net.train_on_batch(X, Y)
    for a, b in zip(net.get_weights(), after, strict=True):
        np.testing.assert_array_equal(a, b)


def test_an_update_may_use_operators():
    class Constant(gpunn.Optimizer):
        """Gradient descent with a constant, recorded."""

        def __init__(self, learning_rate=1.0, constant=0.25):
            super().__init__(learning_rate)
            self.constant = constant

        def update(self, t):
            t.theta = t.theta - self.constant * t.g

        def get_config(self):
            return super().get_config() | {"constant": self.constant}

    nets = [net_of(gpunn.Dense(2), optimizer=rule) for rule in (Constant(), gpunn.SGD(0.25))]
    for net in nets:
        net.fit(X, Y, batch_size=2, epochs=2, shuffle=False, verbose=0)
    # a new value takes effect at the next step
    nets[0].optimizer.constant = nets[1].optimizer.learning_rate = 0.5
    for net in nets:
        net.fit(X, Y, batch_size=2, shuffle=False, verbose=0)
    for a, b in zip(*(net.get_weights() for net in nets), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-14)
