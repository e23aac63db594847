"""TF32 and bfloat16: simulated on the fake cuBLASLt, compared with a NumPy step that rounds the same operands."""

import copy
import pickle

import numpy as np
import pytest
from helpers import internals, limits, tolerances
from helpers.gpu_nets import UnfusedDense, data, frozen, net_of, rounded
from helpers.messages import naming
from helpers.networks import build_network
from helpers.user_classes import Square

import gpunn
from gpunn import MLPClassifier, MLPRegressor
from gpunn.backend import to_host
from gpunn.backend.cuda.matmul import ProductWarning
from gpunn.kernels import get as kernel
from gpunn.training.checkpoint import CheckpointError

BF16 = 2.0**-8


# --- rounded operands -------------------------------------------------------------------------------------------------


def test_rounding_to_the_nearest_bfloat16():
    """1 + 2⁻⁸ is halfway between 1 and 1 + 2⁻⁷ and rounds to even, as 1 + 3·2⁻⁸ does; others by definition."""
    x = np.array([1, 1 + 2**-8, 1 + 3 * 2**-8, -(1 + 2**-8 + 2**-20), 3.4e38, np.inf, -0.0], np.float32)
    patterns = kernel("to_bfloat16")(x[None])[0]
    wanted = [0x3F80, 0x3F80, 0x3F82, 0xBF81, 0x7F80, 0x7F80, 0x8000]
    assert patterns.tolist() == wanted
    x = np.random.default_rng(0).normal(size=(1, 4096)) * 2.0 ** np.arange(-60, 68)[:, None]
    x = x.astype(np.float32)
    found = (kernel("to_bfloat16")(x).astype(np.uint32) << 16).view(np.float32)
    assert np.array_equal(found, rounded(x))


def step(X, y, W, b, f, derivative):
    """Gradients of softmax and cross-entropy by E1 to E7, with operands and results of products rounded to bfloat16:
    x, W, a and δ, and the biases and z of all layers but the last, whose δ the loss computes."""
    a, z = [rounded(X)], []
    for k in range(len(W) - 1):
        z.append(a[-1] @ rounded(W[k]) + rounded(b[k]))
        a.append(rounded(f(z[-1])))
    z.append(a[-1] @ rounded(W[-1]) + b[-1])
    e = np.exp(z[-1] - z[-1].max(axis=1, keepdims=True))
    delta = rounded((e / e.sum(axis=1, keepdims=True) - np.eye(z[-1].shape[1])[y]) / len(y))
    found = []
    for k in reversed(range(len(W))):
        found = [a[k].T @ delta, delta.sum(axis=0), *found]
        if k:
            delta = rounded((delta @ rounded(W[k]).T) * derivative(rounded(z[k - 1])))
    return found


RELU = (lambda z: np.maximum(z, 0), lambda z: (z > 0).astype(np.float32))


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_a_bfloat16_step_rounds_only_operands_and_results_of_products(fake_cupy, activation):
    from gpunn.kernels import activation_kernels

    kernels = activation_kernels(activation)
    f, derivative = RELU if activation == "relu" else (lambda z: kernels.f(z).astype(np.float32), kernels.derivative)
    X, y = data(24)
    X = X.astype(np.float32)
    net = net_of("cuda", sizes=(32, 16), activation=activation, precision="bf16", optimizer=gpunn.SGD(0.5))
    exact = net_of("cuda", sizes=(32, 16), activation=activation, optimizer=gpunn.SGD(0.5))
    weights = net.get_weights()
    difference = 0.0
    for _ in range(3):
        wanted = step(X, y, weights[::2], weights[1::2], f, derivative)
        fake_cupy.state.calls.clear()
        got = net.loss_and_gradients(X, y)[1]
        names = set(internals.products_run(fake_cupy))
        for a, b in zip(got, wanted, strict=True):
            # sums in another order may round to the adjacent number
            allowed = 0.2 * tolerances.rounded_operands(32, np.abs(b).max(), BF16)
            tolerances.assert_within(a, b.astype(np.float32), allowed)
        plain = exact.loss_and_gradients(X, y)[1]
        difference = max(difference, *(np.abs(a - b).max() / np.abs(b).max() for a, b in zip(got, plain, strict=True)))
        net.train_on_batch(X, y)
        # the weights are float32, and change by the computed gradients
        for w, g, now in zip(weights, got, net.get_weights(), strict=True):
            tolerances.assert_within(now, w - np.float32(0.5) * g, tolerances.ulps(np.float32, 2, np.abs(w).max() + 1))
        weights = net.get_weights()
        exact.set_weights(weights)
    assert difference > 1e-3  # the rounding is visible
    assert ("gelu_z" in names and "dgelu" in names) == (activation == "gelu")
    assert "sums" in names and not {"drelu_sums", "dgelu_sums"} & names  # gradients of biases are float32


def test_only_operands_that_no_product_wrote_need_a_rounding_launch(fake_cupy):
    """x, all parameters together, the last layer's weights (3 columns) and the loss's δ; others are stored so."""

    net = net_of("cuda", sizes=(32, 16), precision="bf16")
    net.train_on_batch(*data(8))
    with internals.training_sections(net, 8) as sections:
        for _ in range(2):
            fake_cupy.state.calls.clear()
            for launch in [*sections.forward, *sections.loss, *sections.backward, *sections.update]:
                launch()
            assert internals.kernels_run(fake_cupy).count("to_bfloat16") == 4
            assert len(internals.products_run(fake_cupy)) == 8


def test_activations_and_delta_are_stored_in_bfloat16(fake_cupy):
    """x has 6 columns, no multiple of 8, and the loss writes a and δ of the last layer; these stay float32."""
    program = net_of("cuda", sizes=(32, 16), precision="bf16").program(batch_size=8)
    stored = [x.dtype for op in program.ops for x in op.outputs if x.shape in ((8, 32), (8, 16))]
    assert stored == [np.uint16] * 6  # a, ∂C/∂a and δ of two layers
    assert {x.dtype.name for x in program.inputs if x.name == "x"} == {"float32"}
    assert "δ3 (8, 3) float32" in str(program) and "a1 (8, 32) bfloat16" in str(program)


def test_a_batch_is_gathered_in_bfloat16(fake_cupy):
    """If its rows start at multiples of 16 bytes; from any table. CSR rows are accumulated in float32."""
    sparse = pytest.importorskip("scipy.sparse")

    rng = np.random.default_rng(2)
    X, y = rng.integers(-3, 4, (21, 8)).astype(np.float64), rng.integers(0, 3, 21)
    found = []
    for table in (X, X.astype(np.uint16 if (X >= 0).all() else np.int16), sparse.csr_array(X), np.asfortranarray(X)):
        layers = [gpunn.Dense(16, "relu"), gpunn.Dense(3, "softmax")]
        net = gpunn.Sequential(layers, input_shape=8, seed=4, dtype="float32")
        net.compile("adam", "sparse_categorical_crossentropy", device="cuda", precision="bf16")
        net.fit(table, y, batch_size=8, epochs=3, verbose=0)
        net.train_on_batch(table[:8], y[:8])
        with internals.training_sections(net, 8) as sections:
            assert sections.x.dtype == np.uint16
        found.append([*net.get_weights(), net.predict(table)])
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


LAYERS = {
    "relu": lambda: [gpunn.Dense(16, "relu"), gpunn.Dense(136, "relu"), gpunn.Dense(8, "relu")],
    "other widths": lambda: [gpunn.Dense(9, "relu"), gpunn.Dense(16, "relu"), gpunn.Dense(5, "relu")],
    "others": lambda: [gpunn.Dense(16, "tanh"), gpunn.Dense(8, "gelu"), gpunn.Dense(8, "elu"), gpunn.Dense(8, "silu")],
    "identity": lambda: [gpunn.Dense(16), gpunn.Dense(8, use_bias=False)],
    "no biases": lambda: [gpunn.Dense(16, "relu", use_bias=False), gpunn.Dense(8, "gelu", use_bias=False)],
    "layers in between": lambda: [
        gpunn.Dense(16, "relu"),
        gpunn.Dropout(0.3),
        gpunn.Dense(8, "relu"),
        gpunn.Dense(8, "relu"),
    ],
    "normalized": lambda: [gpunn.Dense(8, "relu"), gpunn.BatchNormalization(), gpunn.Dense(8, "relu"), gpunn.Dense(8)],
    "frozen": lambda: [frozen(gpunn.Dense(8, "relu")), frozen(gpunn.Dense(8, "relu")), gpunn.Dense(8, "relu")],
    "user-defined layers": lambda: [
        UnfusedDense(8, "relu"),
        gpunn.Dense(8, "relu"),
        UnfusedDense(8, "relu"),
        gpunn.Dense(8, "relu"),
    ],
    "user-defined activations": lambda: [
        gpunn.Dense(8, Square()),
        gpunn.Dense(8, ReLUWithCopy()),
        gpunn.Dense(8, "relu"),
    ],
}


class ReLUWithCopy(gpunn.activations.ReLU):
    """The kernels of ReLU, and one more in its backward pass."""

    def backward(self, z, a, grad_a):
        return kernel("identity")(super().backward(z, a, grad_a))


@pytest.mark.parametrize("zero_is_above", [False, True])
@pytest.mark.parametrize("refuse", [(), ("bias",), ("relu", "relu_mask", "gelu_z"), ("sums",), ("drelu", "dgelu")])
@pytest.mark.parametrize("kind", LAYERS)
def test_bfloat16_networks_agree_with_float32_up_to_rounding(fake_cupy, kind, refuse, zero_is_above):
    fake_cupy.state.cublaslt.refuse, fake_cupy.state.cublaslt.zero_is_above = set(refuse), zero_is_above
    rng = np.random.default_rng(3)
    X, y = rng.normal(size=(24, 8)).astype(np.float32), rng.integers(0, 3, 24)
    found = []
    for precision in ("bf16", None):
        net = gpunn.Sequential([*LAYERS[kind](), gpunn.Dense(3, "softmax")], input_shape=8, seed=4, dtype="float32")
        net.compile("adam", "sparse_categorical_crossentropy", device="cuda", precision=precision)
        gradients = [g for training in (True, False) for g in net.loss_and_gradients(X, y, training=training)[1]]
        net.fit(X, y, batch_size=8, epochs=2, verbose=0)
        found.append([*gradients, net.predict(X), net.evaluate(X, y)["loss"]])
    for low, high in zip(*found, strict=True):
        # a unit whose z is rounded across 0 changes its derivative, for one row of 24
        assert np.linalg.norm(low - high) <= 0.1 * np.linalg.norm(high)
    assert any((low != high).any() for low, high in zip(*(f[:-1] for f in found), strict=True))


class ReadForward(gpunn.Dense):
    """A Dense layer that runs as Python code."""

    opaque = True

    def forward(self, t):
        super().forward(t)
        assert t.a_prev.dtype == t.z.dtype == np.float32  # not bit patterns
        assert np.isfinite(to_host(t.a_prev)).all()


class ReadAfterUpdate(gpunn.Dense):
    """A Dense layer that runs as Python code."""

    opaque = True

    def after_update(self, t):
        super().after_update(t)
        assert t.a_prev.dtype == t.a.dtype == t.grad_a.dtype == np.float32
        assert np.isfinite(to_host(t.a_prev)).all()


@pytest.mark.parametrize("layer", [ReadForward, ReadAfterUpdate])
@pytest.mark.parametrize("where", [0, 1, 2])
def test_the_values_of_an_opaque_layer_are_float32(fake_cupy, layer, where):
    layers = [gpunn.Dense(16, "relu"), gpunn.Dense(8, "relu"), gpunn.Dense(3, "softmax")]
    layers[where] = layer(layers[where].units, layers[where].activation)
    net = gpunn.Sequential(layers, input_shape=8, seed=4, dtype="float32")
    net.compile("adam", "sparse_categorical_crossentropy", device="cuda", precision="bf16")
    x, y = np.ones((8, 8), np.float32), np.arange(8) % 3
    before = net.get_weights()
    net.train_on_batch(x, y)
    assert any((a != b).any() for a, b in zip(before, net.get_weights(), strict=True))


@pytest.mark.parametrize("precision", [None, "bf16"])
def test_a_process_without_rows_runs_the_step(fake_cupy, precision):
    """The last batch may have fewer rows than there are processes: gradients are then sums without terms."""
    layers = [gpunn.Dense(16, "relu"), gpunn.Dense(8, "gelu"), gpunn.Dense(3, "softmax")]
    net = gpunn.Sequential(layers, input_shape=8, seed=4, dtype="float32")
    net.compile("adam", "sparse_categorical_crossentropy", device="cuda", precision=precision)
    sections = internals.sections_without_rows(net)
    internals.gradient(net).fill(np.nan)
    for launch in [*sections.normalize_weights, *sections.forward, *sections.loss, *sections.backward]:
        launch()
    assert (to_host(internals.gradient(net)) == 0).all()


def test_tf32_affects_only_products(fake_cupy):
    library = fake_cupy.state.cublaslt
    net = net_of("cuda", precision="tf32")
    net.fit(*data(), batch_size=8, epochs=2, verbose=0)
    assert library.compute_types() == {77}  # CUBLAS_COMPUTE_32F_FAST_TF32
    assert "to_bfloat16" not in internals.kernels_run(fake_cupy)
    assert net.precision == "tf32" and internals.parameters(net).dtype == np.float32


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_fits_in_lower_precision_are_captured(fake_cupy, precision):
    net = net_of("cuda", precision=precision)
    before = net.evaluate(*data())["loss"]
    net.fit(*data(), batch_size=8, epochs=6, verbose=0)
    assert internals.graphs_run(fake_cupy)
    assert net.evaluate(*data())["loss"] < before and fake_cupy.state.calls.count("matmul") == 1


# --- explicit precision -----------------------------------------------------------------------------------------------


def test_a_precision_that_the_device_lacks_is_refused_with_the_remedy(fake_cupy, monkeypatch):
    net = net_of("cuda")
    ask = {"optimizer": "adam", "loss": "sparse_categorical_crossentropy", "device": "cuda"}
    monkeypatch.setattr(fake_cupy.cuda.Device, "compute_capability", "75")
    with pytest.raises(ValueError, match=r"precision='tf32' needs compute capability 8\.0, and cuda:0 has 7\.5; leave"):
        net.compile(**ask, precision="tf32")
    monkeypatch.undo()


def test_without_cublaslt_a_lower_precision_is_refused(fake_cupy, monkeypatch):
    internals.fail_to_load_cublaslt(monkeypatch)
    for precision in ("tf32", "bf16"):
        with pytest.raises(ValueError, match=f"precision='{precision}' needs cuBLASLt: .*missing.*Remedy.*or leave"):
            net_of("cuda", precision=precision)


def test_float64_networks_refuse_a_lower_precision(fake_cupy):
    with pytest.raises(ValueError, match=naming("precision='bf16'", "float32", "float64", "dtype=")):
        net_of("cuda", dtype="float64", precision="bf16")


def test_a_product_that_cublaslt_does_not_support(fake_cupy):
    """bfloat16 has no alternative; TF32 falls back to float32 with a warning."""
    fake_cupy.state.cublaslt.refuse = {"none"}
    with pytest.raises(RuntimeError, match=naming("precision='bf16'", "(8, 3)", "(3, 8)", "leave")):
        net_of("cuda", precision="bf16").train_on_batch(*data(8))
    with pytest.warns(ProductWarning, match="no algorithm"):
        net_of("cuda", precision="tf32").train_on_batch(*data(8))


def test_precision_survives_files_copies_and_devices(fake_cupy, tmp_path):
    net = net_of("cuda", precision="bf16")
    net.save(tmp_path / "m.safetensors")
    there = gpunn.load(tmp_path / "m.safetensors", device="cuda")
    here = gpunn.load(tmp_path / "m.safetensors", device="cpu")
    for copied in (there, here, copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert copied.precision == "bf16"
    assert "\nproducts in bf16\n" in str(net.summary())
    assert "\nproducts in bf16 on a GPU; here in float32\n" in str(here.summary())
    assert "products in" not in str(net_of("cuda").summary())
    X, _ = data()
    np.testing.assert_array_equal(there.predict(X), net.predict(X))
    plain = net_of("cpu")
    np.testing.assert_array_equal(here.predict(X), plain.predict(X))
    assert (there.predict(X) != plain.predict(X)).any()
    np.testing.assert_array_equal(here.to("cuda").predict(X), net.predict(X))
    net.compile("adam", "sparse_categorical_crossentropy", device="cuda")
    assert net.precision is None
    np.testing.assert_allclose(net.predict(X), plain.predict(X), rtol=1e-5)


def test_a_file_with_an_unknown_precision_is_refused(fake_cupy, tmp_path):
    net = net_of("cuda", precision="bf16")
    tensors, metadata = net.to_tensors()
    metadata["compiled"]["precision"] = "half"
    with pytest.raises(ValueError, match="precision must be None, 'tf32' or 'bf16', got 'half'"):
        gpunn.Sequential.from_tensors(tensors, metadata)
    del metadata["compiled"]["precision"]  # written by an older version
    assert gpunn.Sequential.from_tensors(tensors, metadata).precision is None


def test_a_fit_resumes_in_its_precision(fake_cupy, tmp_path):
    path = tmp_path / "c.safetensors"
    fit = {"batch_size": 8, "verbose": 0}
    whole = net_of("cuda", precision="bf16")
    whole.fit(*data(), epochs=4, **fit)
    first = net_of("cuda", precision="bf16")
    first.fit(*data(), epochs=2, callbacks=[gpunn.ModelCheckpoint(path)], **fit)
    with pytest.raises(CheckpointError, match=naming("precision", "'bf16'", None)):
        net_of("cuda").fit(*data(), epochs=4, callbacks=[gpunn.ModelCheckpoint(path)], resume=path, **fit)
    again = net_of("cuda", precision="bf16")
    again.fit(*data(), epochs=4, callbacks=[gpunn.ModelCheckpoint(path)], resume=path, **fit)
    for a, b in zip(again.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def estimator(cls=MLPClassifier, **options):
    options = {"hidden_layer_sizes": (8,), "max_iter": 2, "random_state": 0, "device": "cuda"} | options
    return cls(**options)


@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
def test_estimators_accept_a_precision(fake_cupy, tmp_path):
    pytest.importorskip("sklearn")
    X, y = data()
    with pytest.raises(ValueError, match=naming("precision='bf16'", "float32", "float64")):
        estimator(precision="bf16").fit(X, y)
    for cls in (MLPClassifier, MLPRegressor):
        low, plain = (estimator(cls, dtype="float32", precision=p).fit(X, y) for p in ("bf16", None))
        assert low.net_.precision == "bf16" and any(
            (a != b).any() for a, b in zip(low.coefs_, plain.coefs_, strict=True)
        )
    low = estimator(dtype="float32", precision="bf16").fit(X, y)
    low.partial_fit(X, y)
    assert low.net_.precision == "bf16"
    low.set_params(precision=None).partial_fit(X, y)
    assert low.net_.precision is None
    with pytest.raises(ValueError, match="precision='tf32' is for GPUs"):
        low.set_params(precision="tf32", device="cpu").partial_fit(X, y)
    assert low.net_.device == "cuda:0"
    low.set_params(precision="tf32", device="cuda").save(tmp_path / "e.safetensors")
    assert gpunn.load(tmp_path / "e.safetensors", device="cuda").net_.precision == "tf32"
    assert gpunn.load(tmp_path / "e.safetensors", device="cpu").net_.device == "cpu"


def test_gradient_check_and_device_comparison_support_it(fake_cupy):
    """Gradients are checked in float64, and two devices may differ by the rounding of operands."""
    X, y = data(12)
    net = net_of("cuda", sizes=(16,), activation="tanh", precision="bf16")
    assert gpunn.check_gradients(net, X, y).ok and net.precision == "bf16"
    low = gpunn.compare_devices(net, X, y, steps=2, devices=("numpy", "cuda"))
    high = gpunn.compare_devices(
        net_of("cuda", sizes=(16,), activation="tanh"), X, y, steps=2, devices=("numpy", "cuda")
    )
    assert low.ok and high.ok
    found = [max(d.relative for _, row in r.layers for d in row.values()) for r in (low, high)]
    assert found[1] < 1e-5 < found[0] < low.allowed < 0.2


# --- several consecutive steps ----------------------------------------------------------------------------------------


def sections_of(net, rows=8):

    return internals.training_sections(net, rows)


def fitted(fake_cupy, *, layers=None, epochs=2, **options):
    layers = [gpunn.Dense(32, "relu"), gpunn.Dense(16, "relu"), gpunn.Dense(3, "softmax")] if layers is None else layers
    net = build_network(*layers, input_shape=8, seed=4, device="cuda", precision="bf16", **options)
    rng = np.random.default_rng(3)
    X, y = rng.normal(size=(400, 8)), rng.integers(0, 3, 400)
    fake_cupy.state.calls.clear()
    net.fit(X, y, batch_size=8, epochs=epochs, verbose=0)
    return net


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adam", "adamw"])
def test_consecutive_steps_round_weights_in_the_update(fake_cupy, monkeypatch, optimizer):
    """The same bits as rounding before every step, which a graph of several steps does once."""
    limits.set(monkeypatch, "graph_steps", 3)
    limits.set(monkeypatch, "graph_polls", 1e-4)
    together = fitted(fake_cupy, optimizer=optimizer)
    nodes = set(internals.graphs_run(fake_cupy))
    with sections_of(together) as sections:
        assert [launch.first_step_only for launch in sections.forward].count(True) == 1
    # a graph of several steps rounds once
    few, many = min(nodes), max(nodes)
    assert many == 3 * few - 2
    assert f"{optimizer}_with_bf16_copy" in internals.kernels_run(fake_cupy)
    internals.round_before_each_step(monkeypatch)
    singly = fitted(fake_cupy, optimizer=optimizer)
    with sections_of(singly) as sections:
        assert not any(launch.first_step_only for launch in sections.forward)
    for a, b in zip(together.get_weights(), singly.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_other_writes_to_weights_require_rounding_before_each_step(fake_cupy):
    """max_norm after the update, and slices of the flat buffer that are not aligned to 16 bytes."""
    constrained = [gpunn.Dense(16, "relu", max_norm=0.5), gpunn.Dense(3, "softmax")]
    middle = frozen(gpunn.Dense(7, "relu"))
    for layers in (constrained, [gpunn.Dense(5, "relu"), middle, gpunn.Dense(8, "relu"), gpunn.Dense(3, "softmax")]):
        net = fitted(fake_cupy, layers=layers)
        with sections_of(net) as sections:
            assert not any(launch.first_step_only for launch in sections.forward)


def test_a_diverged_step_keeps_weights_and_their_copy(fake_cupy):
    net = fitted(fake_cupy, epochs=1)
    rng = np.random.default_rng(3)
    net.train_on_batch(rng.normal(size=(8, 8)), np.zeros(8, int))
    before = net.get_weights()
    with pytest.raises(gpunn.DivergenceError):
        net.train_on_batch(np.full((8, 8), 1e38), np.zeros(8, int))  # sums overflow
    with sections_of(net) as sections:
        copy = internals.rounded_copy(sections)
        assert np.array_equal(to_host(copy), to_host(kernel("to_bfloat16")(internals.parameters(net))))
    for a, b in zip(net.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)
