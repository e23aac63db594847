"""The values that a user's layer reads late are those of the equations, in compiled steps as in eager mode."""

import numpy as np
import pytest
from helpers import internals

import gpunn
from gpunn.layers import Parameter, RunningStat

RNG = np.random.default_rng(11)
X, Y = RNG.normal(size=(16, 8)), RNG.normal(size=(16, 8))


def trained(layers, *, eager, optimizer=None, dtype="float64"):
    """All parameters and running statistics after three epochs."""
    net = gpunn.Sequential(layers, input_shape=8, seed=1, dtype=dtype)
    net.compile(optimizer or gpunn.SGD(0.05), "mse", device="cpu", eager=eager)
    net.fit(X, Y, epochs=3, batch_size=8, verbose=0)
    return np.concatenate([internals.parameters(net), internals.running(net)])


class OpaqueScale(gpunn.Layer):
    """a = s ⊙ a_prev in NumPy; r is the sum of the columns of ∂C/∂a."""

    opaque = True

    def parameters(self):
        return [Parameter("s", (self.n_in,), gpunn.initializers.Ones())]

    def running(self):
        return [RunningStat("r", (self.n_in,), 0.0)]

    def forward(self, t):
        t.halves = t.a_prev[:, :4], t.a_prev[:, 4:]
        t.a = t.a_prev * t.s

    def backward(self, t):
        t.upstream = t.grad_a
        t.ds = (t.grad_a * np.hstack(t.halves)).sum(axis=0)
        t.grad_prev = t.grad_a * t.s

    def after_update(self, t):
        t.r = t.upstream.sum(axis=0) + t.a_prev.sum(axis=0)


@pytest.mark.parametrize("before", [lambda: gpunn.Dropout(0.3), gpunn.LayerNormalization], ids=["dropout", "norm"])
def test_an_opaque_layer_may_keep_parts_of_its_inputs(before):
    """Their memory is not used for later values of the step."""

    def layers():
        after = [gpunn.Dense(8, "relu"), gpunn.Dropout(0.2), gpunn.Dense(8, "tanh"), gpunn.Dense(8)]
        return [gpunn.Dense(8), before(), OpaqueScale(), *after]

    compiled, eager = (trained(layers(), eager=mode) for mode in (False, True))
    np.testing.assert_allclose(compiled, eager, rtol=1e-12, atol=1e-14)


class Scale(gpunn.Layer):
    """a = s ⊙ a_prev, with a running statistic r."""

    def parameters(self):
        return [Parameter("s", (self.n_in,), gpunn.initializers.Ones())]

    def running(self):
        return [RunningStat("r", (self.n_in,), 0.0)]

    def forward(self, t):
        t.a = t.a_prev * t.s

    def backward(self, t):
        t.ds = (t.grad_a * t.a_prev).sum(axis=0)
        t.grad_prev = t.grad_a * t.s


class KeepsGradient(Scale):
    """r is the gradient as the layer computed it."""

    def after_update(self, t):
        t.r = t.ds


class KeepsPrevious(Scale):
    """r is s before the constraint."""

    def after_update(self, t):
        t.r = t.s
        t.s = t.s * 0.5


class UpdatesByKernel(Scale):
    """A kernel updates r, whose old value is read too."""

    def after_update(self, t):
        new = gpunn.kernels.get("update_running_stat")(t.s, t.state, t.r, momentum=0.5, factor=1.0)
        t.s = t.s * 0.5 + t.r * 0.25
        t.r = new


class IgnoresUpdate(Scale):
    """A kernel updates r, and the layer does not set it."""

    def after_update(self, t):
        t.s = gpunn.kernels.get("update_running_stat")(t.s, t.state, t.r, momentum=0.5, factor=1.0) + t.s * 0.5


@pytest.mark.parametrize("layer", [KeepsGradient, KeepsPrevious, UpdatesByKernel, IgnoresUpdate])
def test_a_value_does_not_change_when_its_variable_is_written(layer):
    """Clipping overwrites the gradient, the constraint and kernels overwrite parameters and running statistics."""

    class InNumPy(layer):
        opaque = layer in (KeepsGradient, KeepsPrevious)

    rule = gpunn.SGD(0.05, clipvalue=1e-3)
    compiled, eager, other = (
        trained([gpunn.Dense(8, "relu"), kind(), gpunn.Dense(8)], eager=mode, optimizer=rule)
        for kind, mode in ((layer, False), (layer, True), (InNumPy, False))
    )
    np.testing.assert_allclose(compiled, eager, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(compiled, other, rtol=1e-12, atol=1e-14)


def wrong(method, text):
    """The layer Scale whose method ends with other statements."""
    namespace = {}
    exec(f"def {method}(self, t):\n    Scale.{method}(self, t)\n    {text}", {"Scale": Scale}, namespace)
    return type("Wrong", (Scale,), namespace)()


@pytest.mark.parametrize("eager", [False, True], ids=["compiled", "eager"])
@pytest.mark.parametrize(
    ("method", "text", "error", "message"),
    [
        (
            "backward",
            "t.ds = t.grad_a * t.a_prev",
            ValueError,
            r"Wrong.backward must set t.ds of shape \(8,\), got \(8, 8\)",
        ),
        ("backward", "t.grad_prev = t.ds", ValueError, r"Wrong.backward must set t.grad_prev of shape \(8, 8\)"),
        ("forward", "t.z = t.s", ValueError, r"Wrong.forward must set t.z of shape \(8, 8\), got \(8,\)"),
        ("backward", "t.delta = t.ds", ValueError, r"Wrong.backward must set t.delta of shape \(8, 8\), got \(8,\)"),
        ("after_update", "t.r = t.a", ValueError, r"Wrong.after_update must set t.r of shape \(8,\), got \(8, 8\)"),
        ("after_update", "t.r = 0.0", ValueError, r"Wrong.after_update must set t.r of shape \(8,\), got 0.0"),
    ],
)
def test_a_value_of_the_wrong_shape_is_refused(method, text, error, message, eager):
    with pytest.raises(error, match=message):
        trained([gpunn.Dense(8), wrong(method, text), gpunn.Dense(8)], eager=eager)


class Product(gpunn.Layer):
    """a = a_prev W, W (n_in, 4); W.T has as many elements."""

    transposed = False

    def build(self, n_in):
        self.n_in, self.n_out = n_in, 4
        return 4

    def parameters(self):
        return [Parameter("W", (self.n_in, 4), gpunn.initializers.get("lecun_normal"))]

    def forward(self, t):
        t.a = (t.W.T @ t.a_prev.T).T

    def backward(self, t):
        t.dW = (t.grad_a.T @ t.a_prev).T if self.transposed else t.grad_a.T @ t.a_prev
        t.grad_prev = t.grad_a @ t.W.T


@pytest.mark.parametrize("eager", [False, True], ids=["compiled", "eager"])
def test_a_gradient_of_the_transposed_shape_is_refused(eager):
    with pytest.raises(ValueError, match=r"Product.backward must set t.dW of shape \(8, 4\), got \(4, 8\)"):
        trained([Product(), gpunn.Dense(8)], eager=eager)


@pytest.mark.parametrize("last", [False, True])
def test_results_may_be_transposed(last):
    class Transposed(Product):
        transposed = True

    def layers():
        return [gpunn.Dense(8, "tanh"), gpunn.Dense(8), Transposed(), *([] if last else [gpunn.Dense(4)])]

    nets = []
    for eager in (False, True):
        net = gpunn.Sequential(layers(), input_shape=8, seed=1, dtype="float64")
        net.compile("sgd", "mse", device="cpu", eager=eager)
        net.fit(X, Y[:, :4], epochs=2, batch_size=8, verbose=0)
        nets.append(net.predict(X))
    np.testing.assert_allclose(*nets, rtol=1e-12)


class InPlaceSine(gpunn.activations.Activation):
    opaque = True

    def f(self, z):
        return np.sin(z, out=z)

    def derivative(self, z, a):
        return np.cos(z)


class InPlaceLoss(gpunn.losses.Loss):
    opaque = True

    def evaluate(self, a, y, w):
        a -= y
        return 2 * w[:, None] * a, w * (a * a).sum(axis=1)


class InPlaceMetric(gpunn.metrics.Metric):
    opaque = True

    def rows(self, a, y, w):
        a -= y
        return w * a[:, 0]


@pytest.mark.parametrize("eager", [False, True], ids=["compiled", "eager"])
@pytest.mark.parametrize(
    ("activation", "loss", "metrics"),
    [(InPlaceSine(), "mse", []), (None, InPlaceLoss(), []), (None, "mse", [InPlaceMetric()])],
    ids=["activation", "loss", "metric"],
)
def test_opaque_code_cannot_change_its_inputs(activation, loss, metrics, eager):
    net = gpunn.Sequential([gpunn.Dense(8, activation)], input_shape=8, seed=1)
    net.compile("sgd", loss, metrics=metrics, device="cpu", eager=eager)
    with pytest.raises(ValueError, match="read-only"):
        net.fit(X, Y, verbose=0)


class TooWide(gpunn.metrics.Metric):
    """Two sums are declared, and the kernel returns three per output."""

    def n_sums(self, n_out):
        return 2

    def rows(self, a, y, w):
        return gpunn.kernels.get("count_positives")(a, y, w, threshold=0.5)


class Complex(gpunn.metrics.Metric):
    opaque = True

    def rows(self, a, y, w):
        return w * 1j


@pytest.mark.parametrize("eager", [False, True], ids=["compiled", "eager"])
def test_rows_of_a_metric_are_checked(eager):
    """Sums of another number would be added to those of the next metric."""
    for metric, error, message in (
        (TooWide(), ValueError, "TooWide.rows must return n_sums = 2 values per row, got 24"),
        (Complex(), TypeError, "Complex.rows must return real numbers, got complex128"),
    ):
        net = gpunn.Sequential([gpunn.Dense(8)], input_shape=8, seed=1, dtype="float64")
        net.compile("sgd", "binary_crossentropy", metrics=[metric, "f1"], device="cpu", eager=eager)
        with pytest.raises(error, match=message):
            net.fit(X, abs(Y) % 1, verbose=0)


class Sine(gpunn.activations.Activation):
    def f(self, z):
        return np.sin(z)


class Absolute(gpunn.losses.Loss):
    def evaluate(self, a, y, w):
        return np.sign(a - y), w


class Worst(gpunn.metrics.Metric):
    def rows(self, a, y, w):
        return np.max(a)


class Signs(gpunn.Optimizer):
    def update(self, t):
        t.theta = t.theta - np.sign(t.g)


class Centered(Scale):
    def after_update(self, t):
        t.s = t.s - t.s.mean()


@pytest.mark.parametrize(
    ("layer", "options", "named"),
    [
        (gpunn.Dense(8, Sine()), {}, r"Sine\.f: numpy\.sin"),
        (Centered(), {}, r"Centered\.after_update: the attribute mean"),
        (gpunn.Dense(8), {"loss": Absolute()}, r"Absolute\.evaluate: numpy\.sign"),
        (gpunn.Dense(8), {"metrics": [Worst()]}, r"Worst\.rows: numpy\.max"),
        (gpunn.Dense(8), {"optimizer": Signs(0.1)}, r"Signs\.update: numpy\.sign"),
    ],
    ids=["activation", "layer", "loss", "metric", "optimizer"],
)
def test_a_refused_operation_names_class_method_and_remedy(layer, options, named):
    net = gpunn.Sequential([layer], input_shape=8, seed=1)
    net.compile(**{"optimizer": "sgd", "loss": "mse"} | options, device="cpu")
    before = net.get_weights()
    with pytest.raises(TypeError, match=f"^{named}.* opaque = True"):
        net.fit(X, Y, verbose=0)
    for w, expected in zip(net.get_weights(), before, strict=True):
        np.testing.assert_array_equal(w, expected)


class Constant(Scale):
    def forward(self, t):
        t.a = np.zeros((8, 8))


def test_an_array_is_no_value_of_a_recorded_step():
    with pytest.raises(TypeError, match=r"^Constant\.forward must set t\.a computed from .* opaque = True"):
        trained([Constant(), gpunn.Dense(8)], eager=False)


class Shortcut(gpunn.losses.Loss):
    takes_z = True

    def from_z(self, z, y, w):
        return w, z - y, w


class SumLoss(gpunn.losses.Loss):
    def evaluate(self, a, y, w):
        return (a - y).sum(axis=0), w


@pytest.mark.parametrize("eager", [False, True], ids=["compiled", "eager"])
@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (Shortcut(), r"Shortcut.from_z must return a of shape \(8, 8\), got \(8,\)"),
        (SumLoss(), r"SumLoss.evaluate must return ∂C/∂a of shape \(8, 8\), got \(8,\)"),
    ],
)
def test_results_of_a_loss_are_checked(loss, message, eager):
    net = gpunn.Sequential([gpunn.Dense(8)], input_shape=8, dtype="float64")
    net.compile("sgd", loss, device="cpu", eager=eager)
    with pytest.raises(ValueError, match=message):
        net.fit(X, Y, batch_size=8, verbose=0)


@pytest.mark.parametrize("name", ["r", "index", "a_prev", "delta"])
def test_a_parameter_needs_a_name_of_its_own(name):
    class Named(Scale):
        def parameters(self):
            return [Parameter(name, (self.n_in,), gpunn.initializers.Ones())]

    with pytest.raises(ValueError, match=rf"Named: t\.{name} would be several quantities"):
        gpunn.Sequential([Named()], input_shape=8)
