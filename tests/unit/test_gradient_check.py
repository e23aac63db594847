"""`check_gradients`: right and wrong derivatives, kinks, and an unchanged network."""

import copy

import numpy as np
import pytest
from helpers.messages import naming
from helpers.networks import network_builder
from helpers.random_nets import random_case

import gpunn
from gpunn import activations
from gpunn.layers import Layer, Parameter


@pytest.mark.slow
@pytest.mark.parametrize("number", range(200))
def test_random_networks_pass(number):
    """Every layer, activation, loss, penalty, weight and mask of the random networks, by central differences."""
    case = random_case(number, rows=5)
    # layer normalization of two numbers is so steep that the third derivative affects the difference
    steep = any(isinstance(layer, gpunn.LayerNormalization) and layer.n_in == 2 for layer in case.net.layers)
    report = gpunn.check_gradients(
        case.net, case.x, case.y, sample_weight=case.w, training=case.training, tolerance=1e-5 if steep else 1e-6
    )
    assert report.ok, report
    assert sum(entry.checked for entry in report.entries) > 0
    trained = [layer for layer in case.net.layers if layer.trainable for _ in layer.parameters()]
    assert len(report.entries) == len(trained) + 1
    sizes = [w.size for w, p in zip(case.net.get_weights(), _owners(case.net), strict=True) if p.trainable]
    assert [entry.checked + entry.kinks for entry in report.entries] == [*sizes, case.x.size]


def _owners(net):
    return [layer for layer in net.layers for _ in layer.parameters()]


def _data(rows=6, columns=4, outputs=2):
    rng = np.random.default_rng(3)
    return rng.normal(size=(rows, columns)), rng.normal(size=(rows, outputs))


_net = network_builder(input_shape=4, seed=5, dtype="float64", optimizer="sgd", loss="half_squared_error")


# --- wrong derivatives are detected ----------------------------------------------------------------------------------


class SlightlyWrongTanh(activations.Activation):
    """tanh with a relative error of 10⁻⁵ in its derivative."""

    opaque = True

    def f(self, z):
        return np.tanh(z)

    def derivative(self, z, a):
        return (1 - a * a) * (1 + 1e-5)


def test_a_wrong_derivative_is_detected_in_all_earlier_parameters():
    net = _net(gpunn.Dense(3, "tanh"), gpunn.Dense(3, SlightlyWrongTanh()), gpunn.Dense(2))
    report = gpunn.check_gradients(net, *_data())
    assert not report.ok
    wrong = {entry.name for entry in report.entries if entry.relative_error > report.tolerance}
    # all parameters before the layer, and its own
    assert wrong == {"0 Dense W", "0 Dense b", "1 Dense W", "1 Dense b", "inputs x"}
    assert report.worst == pytest.approx(1e-5, rel=0.1)
    assert "WRONG" in str(report)
    assert gpunn.check_gradients(net, *_data(), tolerance=1e-4).ok


def test_a_wrong_gradient_of_a_loss_is_detected():
    def without_the_factor(y, a):
        e = a - y
        return (e * e).sum(axis=1), e

    def right(y, a):
        e = a - y
        return (e * e).sum(axis=1), 2 * e

    report = gpunn.check_gradients(_net(gpunn.Dense(2), loss=without_the_factor), *_data())
    assert not report.ok
    assert all(entry.relative_error == pytest.approx(0.5, rel=1e-6) for entry in report.entries)
    assert gpunn.check_gradients(_net(gpunn.Dense(2), loss=right), *_data()).ok


class Scale(Layer):
    """A user-defined layer, a = s ⊙ a_prev; `error` is added to ∂C/∂s, and `tilt` times ∂C/∂a_prev to itself."""

    opaque = True

    def __init__(self, error=0.0, tilt=0.0):
        self.error, self.tilt = error, tilt

    def parameters(self):
        return [Parameter("s", (self.n_in,), gpunn.initializers.get("ones"))]

    def forward(self, t):
        t.a = t.s * t.a_prev

    def backward(self, t):
        t.ds = (t.grad_a * t.a_prev).sum(axis=0)
        t.ds[0] += self.error
        t.grad_prev = t.s * t.grad_a * (1 + self.tilt)

    def get_config(self):
        return {"error": self.error, "tilt": self.tilt}


@pytest.mark.parametrize(
    ("layer", "wrong"),
    [
        (Scale(), set()),
        (Scale(error=0.01), {"1 Scale s"}),
        (Scale(tilt=0.01), {"0 Dense W", "0 Dense b", "inputs x"}),
    ],
    ids=["right", "wrong parameter", "wrong passing back"],
)
def test_a_user_defined_layer(layer, wrong):
    report = gpunn.check_gradients(_net(gpunn.Dense(3, "tanh"), copy.deepcopy(layer), gpunn.Dense(2)), *_data())
    assert {entry.name for entry in report.entries if entry.relative_error > report.tolerance} == wrong
    assert report.ok == (not wrong)


def test_gradients_that_do_not_repeat_are_detected():
    calls = []

    def not_repeatable(y, a):
        calls.append(1)
        e = (a - y) * (1 + 1e-15 * len(calls))
        return (e * e).sum(axis=1) / 2, e

    report = gpunn.check_gradients(_net(gpunn.Dense(2), loss=not_repeatable), *_data())
    assert not report.repeats and not report.ok
    assert report.worst <= report.tolerance
    assert "OTHER BITS" in str(report)
    report = gpunn.check_gradients(_net(gpunn.Dense(2)), *_data())
    assert report.repeats and report.ok
    assert "the derivative is right" in str(report) and "the same bits" in str(report)


def test_a_zero_derivative_is_not_reported_as_wrong():
    """Batch normalization removes an intercept before it, so both derivatives are 0 up to rounding."""
    report = gpunn.check_gradients(
        _net(gpunn.Dense(3), gpunn.BatchNormalization(), gpunn.Activation("tanh"), gpunn.Dense(2)), *_data()
    )
    assert report.ok, report
    (entry,) = [entry for entry in report.entries if entry.name == "0 Dense b"]
    assert entry.within(0) and entry.resolution > 0.1


# --- kinks -----------------------------------------------------------------------------------------------------------


def _entries(report):
    return {entry.name: (entry.checked, entry.kinks) for entry in report.entries}


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", activations.ELU(0.5), "selu"])
@pytest.mark.parametrize("apart", [False, True])
def test_a_rectifier_on_its_kink(activation, apart):
    """z = (2·1 − 1·2, 1 + 2) = (0, 3): coordinates that change the first neuron have no derivative."""
    first = [gpunn.Dense(2), gpunn.Activation(activation)] if apart else [gpunn.Dense(2, activation)]
    net = gpunn.Sequential([*first, gpunn.Dense(1)], input_shape=2, seed=0, dtype="float64")
    net.set_weights([[[2, 1], [-1, 1]], [0, 0], [[0.5], [2]], [1]])
    net.compile("sgd", "half_squared_error", device="cpu")
    report = gpunn.check_gradients(net, [[1.0, 2.0]], [[4.0]])
    assert report.worst < 1e-6 and report.unchecked == ["inputs x"] and not report.ok
    last = "2" if apart else "1"
    assert _entries(report) == {
        "0 Dense W": (2, 2),
        "0 Dense b": (1, 1),
        f"{last} Dense W": (2, 0),
        f"{last} Dense b": (1, 0),
        "inputs x": (0, 2),
    }
    # near the kink all coordinates have a derivative
    net.set_weights([[[2, 1], [-1, 1]], [0.01, 0], [[0.5], [2]], [1]])
    assert not any(entry.kinks for entry in gpunn.check_gradients(net, [[1.0, 2.0]], [[4.0]]).entries)


@pytest.mark.parametrize(
    ("loss", "target"),
    [("mean_absolute_error", 3.0), (gpunn.losses.Huber(0.5), 3.5), (gpunn.losses.Huber(0.5), 2.5)],
)
def test_a_loss_on_its_kink(loss, target):
    """a = (3, 1): the first output is at the kink, the second is not."""
    net = gpunn.Sequential([gpunn.Dense(2)], input_shape=1, seed=0, dtype="float64")
    net.set_weights([[[1, 2]], [2, -1]])
    net.compile("sgd", loss, device="cpu")
    report = gpunn.check_gradients(net, [[1.0]], [[target, 9.0]])
    assert report.worst < 1e-6 and report.unchecked == ["inputs x"] and not report.ok
    assert _entries(report) == {"0 Dense W": (1, 1), "0 Dense b": (1, 1), "inputs x": (0, 1)}


def test_a_weight_at_the_kink_of_l1():
    net = gpunn.Sequential([gpunn.Dense(3, use_bias=False, l1=0.5)], input_shape=1, seed=0, dtype="float64")
    net.set_weights([[[0.0, 1e-7, 1.0]]])
    net.compile("sgd", "half_squared_error", device="cpu")
    report = gpunn.check_gradients(net, [[1.0]], [[1.0, 2.0, 3.0]])
    assert report.ok
    assert _entries(report) == {"0 Dense W": (1, 2), "inputs x": (1, 0)}


# --- nothing changes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_network_is_not_changed(dtype):
    """The next fit gives the same bits as without the check: slots, step, masks, running values."""
    layers = [gpunn.Dense(6, "relu", l2=0.1), gpunn.BatchNormalization(), gpunn.Dropout(0.4), gpunn.Dense(2)]
    net = _net(*layers, dtype=dtype, optimizer=gpunn.Adam(0.01))
    x, y = _data()
    w = np.linspace(0.5, 2, len(x))
    net.fit(x, y, batch_size=4, epochs=2, verbose=0)
    reference = copy.deepcopy(net)
    before = net.to_tensors()
    report = gpunn.check_gradients(net, x, y, sample_weight=w)
    assert report.ok, report
    assert net.dtype == dtype
    tensors, metadata = net.to_tensors()
    assert metadata == before[1]
    assert {k: v.tobytes() for k, v in tensors.items()} == {k: v.tobytes() for k, v in before[0].items()}
    histories = [one.fit(x, y, batch_size=4, epochs=2, verbose=0).history for one in (net, reference)]
    assert histories[0] == histories[1]
    for a, b in zip(net.get_weights(), reference.get_weights(), strict=True):
        assert a.tobytes() == b.tobytes()


def test_the_callers_arrays_are_not_changed():
    x, y = _data()
    w = np.ones(len(x))
    for array in (x, y, w):
        array.flags.writeable = False
    assert gpunn.check_gradients(_net(gpunn.Dense(2, "tanh")), x, y, sample_weight=w).ok


@pytest.mark.parametrize("form", ["inverted", "textbook"])
def test_the_mask_is_that_of_the_next_step(form):
    """The mask is the same for all differences of a step, and drops some inputs."""
    net = _net(gpunn.Dropout(0.5, form=form), gpunn.Dense(5, "tanh"), gpunn.Dropout(0.5, form=form), gpunn.Dense(2))
    x, y = _data()
    for _ in range(3):
        assert gpunn.check_gradients(net, x, y).ok
        hidden = net.trace(x, training=True)[0].a == 0
        assert hidden.any() and not hidden.all()
        np.testing.assert_array_equal(net.input_gradient(x, y) == 0, hidden)
        net.train_on_batch(x, y)


def test_a_parameter_of_which_nothing_is_checked_is_named():
    net = _net(gpunn.Dense(3, "relu"), gpunn.Dense(2))
    _, y = _data()
    report = gpunn.check_gradients(net, np.zeros((len(y), 4)), y)
    assert report.unchecked == ["0 Dense b", "inputs x"] and report.worst < 1e-6
    assert not report.ok
    assert "right where it was checked, but nothing of 0 Dense b, inputs x could be" in str(report)
    assert gpunn.check_gradients(net, *_data()).unchecked == []


def test_a_float32_network_is_checked_in_float64():
    """The check's errors are smaller than float32 gradients would allow."""
    net = _net(gpunn.Dense(6, "gelu"), gpunn.LayerNormalization(), gpunn.Dense(2, "silu"), dtype="float32")
    report = gpunn.check_gradients(net, *_data())
    assert report.ok and report.worst < 1e-7
    assert {w.dtype for w in net.get_weights()} == {np.dtype(np.float32)}


# --- arguments -------------------------------------------------------------------------------------------------------


def test_samples_limits_the_coordinates():
    net = _net(gpunn.Dense(7, "tanh"), gpunn.Dense(2))
    report = gpunn.check_gradients(net, *_data(), samples=np.int64(3))
    assert report.ok
    assert [entry.checked for entry in report.entries] == [3, 3, 3, 2, 3]
    for samples in (0, -1, 2.5, True):
        with pytest.raises((ValueError, TypeError), match=naming("samples", samples)):
            gpunn.check_gradients(net, *_data(), samples=samples)


def test_frozen_layers_are_skipped():
    layers = [gpunn.Dense(3, "tanh"), gpunn.Dense(2)]
    layers[0].trainable = False
    report = gpunn.check_gradients(_net(*layers), *_data())
    assert report.ok
    assert [entry.name for entry in report.entries] == ["1 Dense W", "1 Dense b", "inputs x"]


def test_invalid_input_raises_as_in_fit():
    net, (x, y) = _net(gpunn.Dense(2)), _data()
    with pytest.raises(ValueError, match=r"y must have shape \(6, 2\)"):
        gpunn.check_gradients(net, x, y[:, 0])
    with pytest.raises(ValueError, match=naming("x", 3, 4)):
        gpunn.check_gradients(net, x[:, :3], y)
    with pytest.raises(ValueError, match=naming("sample_weight", "zero")):
        gpunn.check_gradients(net, x, y, sample_weight=np.zeros(len(x)))
    with pytest.raises(RuntimeError, match="compile"):
        gpunn.check_gradients(gpunn.Sequential([gpunn.Dense(2)], seed=0), x, y)
