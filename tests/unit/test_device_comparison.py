"""compare_devices: reports of implementations that agree and that do not."""

import copy

import numpy as np
import pytest
from helpers.messages import naming
from helpers.networks import build_network
from helpers.oracles import strided_tensor

import gpunn
from gpunn.device_comparison import DeviceReport, Difference, _difference
from gpunn.kernels._compiler import compiler, cpu_cache

needs_compiler = pytest.mark.skipif(compiler.find() is None, reason="there is no compiler")
RNG = np.random.default_rng(0)
X, Y, VALUES = RNG.normal(size=(90, 6)), RNG.integers(0, 3, 90), RNG.normal(size=(90, 2))


@pytest.fixture(autouse=True)
def compiled(monkeypatch):
    monkeypatch.delenv("GPUNN_COMPILE", raising=False)
    cpu_cache.invalidate()


def classifier(*layers, **options):
    return build_network(*layers, gpunn.Dense(3, "softmax"), seed=1, **options)


NETS = {
    "tanh": lambda dtype: classifier(gpunn.Dense(8, "tanh"), dtype=dtype),
    "dropout": lambda dtype: classifier(gpunn.Dense(8, "gelu"), gpunn.Dropout(0.4), dtype=dtype),
    "normalized": lambda dtype: classifier(gpunn.BatchNormalization(), gpunn.Dense(8, "silu"), dtype=dtype),
    "layer norm": lambda dtype: classifier(gpunn.LayerNormalization(), gpunn.Dense(8, "elu", l2=0.1), dtype=dtype),
    "periodic": lambda dtype: classifier(gpunn.PeriodicEmbedding([5, 1, 2], 4), gpunn.Dense(8, "tanh"), dtype=dtype),
    "clipped": lambda dtype: classifier(gpunn.Dense(8, "sigmoid"), optimizer=gpunn.RMSprop(clipnorm=0.1), dtype=dtype),
}


@needs_compiler
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("make", NETS.values(), ids=NETS)
def test_reference_and_compiled_kernels_agree_for_twenty_steps(make, dtype):
    net = make(dtype)
    report = gpunn.compare_devices(net, X, Y, batch_size=40, devices=("numpy", "cpu"))
    assert report.ok and report.first_divergent_step is None, str(report)
    assert (report.devices, report.dtype, report.rows, len(report.losses[0])) == (("numpy", "cpu"), dtype, 40, 20)
    assert report.max_loss_difference <= (1e-9 if dtype == "float64" else 1e-4)
    # the two computations differ in some bits, and training changed the loss
    assert any(d and d.relative > 0 for _, found in report.layers for d in found.values())
    assert report.losses[0][-1] != report.losses[0][0]


@needs_compiler
def test_torch_tensors_as_inputs():
    losses = [
        gpunn.compare_devices(NETS["tanh"]("float64"), of(X), of(Y), steps=2, devices=("numpy", "cpu")).losses
        for of in (np.asarray, strided_tensor)
    ]
    assert losses[0] == losses[1]


@needs_compiler
def test_the_network_is_not_changed_and_may_be_unbuilt():
    net = NETS["dropout"]("float32")
    gpunn.compare_devices(net, X, Y, steps=np.int64(2), batch_size=np.int64(8), devices=("numpy", "cpu"))
    with pytest.raises(RuntimeError, match="no weights yet"):
        net.get_weights()
    net.fit(X, Y, verbose=0)
    before = [copy.deepcopy(net.get_weights()), net.predict(X)]
    gpunn.compare_devices(net, X, Y, steps=np.int64(2), batch_size=np.int64(8), devices=("numpy", "cpu"))
    after = [net.get_weights(), net.predict(X)]
    for a, b in zip([*before[0], before[1]], [*after[0], after[1]], strict=True):
        np.testing.assert_array_equal(a, b)


@needs_compiler
def test_a_wrong_kernel_is_reported_in_its_layer(monkeypatch):
    """With a wrong derivative in the NumPy reference of tanh, δ and the gradients differ, z and a do not."""
    from gpunn.kernels import get

    kernel = get("tanh_backward")
    body = kernel.reference
    wrong = lambda **given: body(**given) * (1 + 1e-3)  # noqa: E731
    wrong.__signature__ = __import__("inspect").signature(body)
    monkeypatch.setattr(type(kernel), "__setattr__", object.__setattr__)
    monkeypatch.setattr(kernel, "reference", wrong)
    net = classifier(gpunn.Dense(8, "tanh"), gpunn.Dense(8, "sigmoid"), optimizer=gpunn.SGD(0.5), dtype="float64")
    report = gpunn.compare_devices(net, X, Y, devices=("numpy", "cpu"))
    (_, first), (_, second), (_, last) = report.layers
    assert not report.ok and report.first_divergent_step is not None
    assert first["z"].ok and first["a"].ok and not first["delta"].ok and not first["dW"].ok
    assert first["delta"].relative == pytest.approx(1e-3, rel=0.01)
    assert all(d.ok for found in (second, last) for d in found.values())
    assert "NOT THE SAME" in str(report) and f"beyond it from step {report.first_divergent_step} on" in str(report)


def test_differences_by_hand():
    a = np.array([1.0, -4.0, 2.0], "float32")
    same = _difference(a, a.copy(), 1e-6)
    assert same == Difference(0.0, 0.0, 1e-6) and same.ok
    b = a + np.array([0, 2.0**-20, 0], "float32")
    # spacing of float32 at 4 is 2⁻²¹
    assert _difference(a, b, 1e-6) == Difference(2.0**-22, 2.0, 1e-6)
    assert not _difference(a, b, 1e-7).ok
    assert _difference(np.array([np.nan, 1.0]), np.array([np.nan, 1.0]), 0.0).ok
    assert not _difference(np.array([np.inf, 1.0]), np.array([1e300, 1.0]), 1.0).ok
    assert not _difference(np.array([np.inf, 1.0]), np.array([-np.inf, 1.0]), 1.0).ok
    assert not _difference(np.zeros(2), np.array([0.0, 1e-30]), 1.0).ok
    assert _difference(None, a, 0.0) is None


def test_a_divergent_step_is_reported():
    report = DeviceReport(("a", "b"), "float32", 4, [("layer", {"z": None})], ([1.0, 2.0], [1.0, 2.1]), 0.01, 1)
    assert report.max_loss_difference == pytest.approx(0.1 / 2.1) and not report.ok
    assert "beyond it from step 1 on" in str(report)


def test_invalid_arguments_raise(monkeypatch):
    net = NETS["tanh"]("float32")
    for bad in (0, -1, 1.5, True, "3"):
        with pytest.raises((ValueError, TypeError), match=naming("steps", bad)):
            gpunn.compare_devices(net, X, Y, bad)
        with pytest.raises((ValueError, TypeError), match=naming("batch_size", bad)):
            gpunn.compare_devices(net, X, Y, batch_size=bad)
    for bad in ("cpu", ("cpu",), ("cpu", 3), ("cpu", "cpu", "cpu")):
        with pytest.raises(TypeError, match=naming("devices", bad)):
            gpunn.compare_devices(net, X, Y, devices=bad)
    with pytest.raises(ValueError, match="device must be"):
        gpunn.compare_devices(net, X, Y, devices=("numpy", "tpu"))
    with pytest.raises(ValueError, match="6 columns"):
        gpunn.compare_devices(NETS["tanh"]("float32").build(5), X, Y, devices=("numpy", "numpy"))
    with pytest.raises(RuntimeError, match="compile"):
        gpunn.compare_devices(gpunn.Sequential([gpunn.Dense(3)]), X, Y, devices=("numpy", "numpy"))
    monkeypatch.setenv("GPUNN_COMPILE", "0")
    for devices in (("numpy", "cpu"), None):
        # the NumPy references are never compared with themselves
        with pytest.raises(ValueError, match=naming("GPUNN_COMPILE=0")):
            gpunn.compare_devices(net, X, Y, devices=devices)


def test_regression_targets():
    net = gpunn.Sequential([gpunn.Dense(4, "tanh"), gpunn.Dense(2)], seed=0)
    net.compile(gpunn.SGD(0.1), "half_squared_error", device="cpu")
    report = gpunn.compare_devices(net, X, VALUES, steps=3, batch_size=1000, devices=("numpy", "numpy"))
    assert report.ok and report.rows == 90 and report.losses[0] == report.losses[1]
    assert [found["db"] is None for _, found in report.layers] == [False, False]
