"""cuBLASLt bindings, on a fake library and the fake CuPy: simulated, never a GPU result."""

import gc
import re
import warnings

import numpy as np
import pytest
from helpers import fake_cublaslt, internals, tolerances
from helpers.gpu_nets import UnfusedDense, data, frozen, integers, net_of, rounded

import gpunn
from gpunn.backend import doctor, get, to_host
from gpunn.backend.cuda import cublaslt
from gpunn.backend.cuda.layouts import Unsupported, mask_bytes
from gpunn.backend.cuda.matmul import ProductWarning
from gpunn.backend.errors import Fault
from gpunn.kernels import DeviceLaunch, activation_kernels
from gpunn.kernels import get as kernel


@pytest.fixture
def lt(fake_cupy):
    found = cublaslt.open_cublaslt(fake_cupy)
    assert isinstance(found, cublaslt.CublasLt)
    return found


@pytest.fixture
def mask_unset_at_zero(fake_cupy):
    """A library whose mask follows E2. Otherwise no mask is used, see `gpunn.backend.cuda.selftest`."""
    fake_cupy.state.cublaslt.zero_is_above = False


def views(backend, x):
    """A matrix stored by rows, by columns, inside a larger buffer, and at an odd address."""
    n, m = x.shape
    padded = backend.zeros((n, m + 3), x.dtype)
    padded[:, 1 : m + 1] = backend.asarray(x)
    flat = backend.zeros((n * m + 1,), x.dtype)
    flat[1:] = backend.asarray(x.ravel())
    return [backend.asarray(x), backend.asarray(x.T.copy()).T, padded[:, 1 : m + 1], flat[1:].reshape(n, m)]


# --- products ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("n", "k", "m"), [(5, 7, 3), (1, 7, 3), (5, 1, 3), (5, 7, 1), (6, 130, 9)])
def test_products_of_every_layout_can_be_captured(fake_cupy, dtype, n, k, m):
    backend = get("cuda")
    a, b = integers(n, k, dtype=dtype), integers(k, m, seed=1, dtype=dtype)
    for left in views(backend, a):
        for right in views(backend, b):
            out = backend.empty((n, m), dtype)
            launch = backend.bind_matmul(left, right, out)
            assert isinstance(launch, DeviceLaunch) and launch.needs_workspace
            assert launch.reads == (left, right) and launch.writes == (out,)
            launch()
            assert np.array_equal(to_host(out), np.einsum("ik,kj->ij", a, b))
    assert fake_cupy.state.calls.count("matmul") == 1  # of the probe


@pytest.mark.parametrize("precision", [None, "tf32"])
def test_epilogues_compute_bias_relu_mask_and_sums(fake_cupy, mask_unset_at_zero, lt, precision):
    backend = get("cuda")
    a, W, b, delta = integers(9, 7), integers(7, 130), integers(130), integers(9, 5, seed=2)
    W_next = integers(130, 5, seed=3)
    put = backend.asarray
    z = np.einsum("ik,kj->ij", a, W) + b
    out, mask = backend.empty((9, 130), np.float32), backend.empty((9, mask_bytes(130)), np.uint8)
    bind = lambda *arrays, **options: lt.bind(*arrays, precision=precision, **options)  # noqa: E731
    bind(put(a), put(W), out, epilogue="bias", bias=put(b))()
    assert np.array_equal(to_host(out), z)
    bind(put(a), put(W), out, epilogue="relu", bias=put(b))()
    assert np.array_equal(to_host(out), np.maximum(z, 0))
    launch = bind(put(a), put(W), out, epilogue="relu_mask", bias=put(b), aux=mask)
    assert launch.writes == (out, mask)
    launch()
    assert np.array_equal(to_host(out), np.maximum(z, 0))
    sums = backend.empty((130,), np.float32)
    launch = bind(put(delta), put(W_next).T, out, epilogue="drelu_sums", bias=sums, aux=mask)
    assert launch.reads[2:] == (mask,) and launch.writes == (out, sums)
    launch()
    wanted = np.where(z > 0, np.einsum("ij,kj->ik", delta, W_next), 0)
    assert np.array_equal(to_host(out), wanted) and np.array_equal(to_host(sums), wanted.sum(axis=0))
    dW, db = backend.empty((7, 130), np.float32), backend.empty((130,), np.float32)
    bind(put(a).T, put(wanted.astype(np.float32)), dW, epilogue="sums", bias=db)()
    assert np.array_equal(to_host(dW), np.einsum("ki,kj->ij", a, wanted))
    assert np.array_equal(to_host(db), wanted.sum(axis=0))


def test_bfloat16_products_accumulate_in_float32(fake_cupy, lt):
    backend = get("cuda")
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(9, 33)).astype(np.float32), rng.normal(size=(33, 5)).astype(np.float32)
    out = backend.empty((9, 5), np.float32)
    patterns = [kernel("to_bfloat16")(backend.asarray(x)) for x in (a, b)]
    lt.bind(*patterns, out, precision="bf16")()
    wanted = rounded(a) @ rounded(b)
    allowed = tolerances.sums(np.float32, 33, np.abs(wanted).max())
    tolerances.assert_within(to_host(out), wanted, allowed)
    assert np.abs(a @ b - wanted).max() > 10 * allowed


def test_the_algorithm_of_a_problem_is_queried_once(fake_cupy, lt):
    backend, library = get("cuda"), fake_cupy.state.cublaslt
    a, b = backend.asarray(integers(8, 8)), backend.asarray(integers(8, 8))
    out = backend.empty((8, 8), np.float32)
    lt.bind(a, b, out)
    queries = library.queries  # by the self-test, too
    for _ in range(3):
        lt.bind(a, b, out)
    assert library.queries == queries
    lt.bind(a.T, b, out)
    assert library.queries == queries + 1
    library.refuse.add("relu")
    for _ in range(2):
        with pytest.raises(Unsupported, match=r"no algorithm for it \(CUBLAS_STATUS_NOT_SUPPORTED\)"):
            lt.bind(a, b, out, epilogue="relu", bias=a[0])


def test_library_objects_are_destroyed_with_their_owners(fake_cupy, lt):
    backend, library = get("cuda"), fake_cupy.state.cublaslt
    a, out = backend.asarray(integers(4, 4)), backend.empty((4, 4), np.float32)
    launches = [lt.bind(a, a.T, out) for _ in range(3)]
    gc.collect()
    assert library.objects == {"Handle": 1, "MatmulDesc": 3, "MatrixLayout": 9, "MatmulPreference": 1}
    del launches
    gc.collect()
    assert library.objects == {"Handle": 1}


def test_a_handle_is_destroyed_with_its_owner(fake_cupy):
    found = cublaslt.open_cublaslt(fake_cupy)
    assert fake_cupy.state.cublaslt.objects == {"Handle": 1} and "12.9.3 (fake)" in str(found)
    del found
    gc.collect()
    assert fake_cupy.state.cublaslt.objects == {}


def test_a_failed_launch_raises_with_the_status_name(fake_cupy, lt):
    backend = get("cuda")
    a, out = backend.asarray(integers(4, 4)), backend.empty((4, 4), np.float32)
    launch = lt.bind(a, a.T, out)
    launch.calls[0].A += 1  # an address that is not aligned to float32
    with pytest.raises(cublaslt.CublasLtError, match="cublasLtMatmul failed: CUBLAS_STATUS_INVALID_VALUE"):
        launch()


# --- graphs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [(24, 8), (128, 24, 8)])  # sums of 128 terms need a workspace
def test_a_step_is_captured_and_replayed(fake_cupy, sizes):
    """The fake raises if a capture allocates, omits a stream, or lets two streams share a workspace."""
    net, peer = net_of("cuda", sizes), net_of("cpu", sizes)
    for each in (net, peer):
        each.fit(*data(), batch_size=8, epochs=4, shuffle=False, verbose=0)
    assert internals.graphs_run(fake_cupy)
    for a, b in zip(net.get_weights(), peer.get_weights(), strict=True):
        tolerances.assert_within(a, b, 20 * tolerances.sums(np.float32, 128, np.abs(b).max()))


def test_each_stream_has_a_workspace_while_it_is_used(fake_cupy, lt):
    streams = [fake_cupy.cuda.Stream(non_blocking=True) for _ in range(2)]
    held = [lt.allocate_workspace(s.ptr) for s in streams]
    assert held[0].ptr != held[1].ptr and lt.workspace(streams[0].ptr) is held[0]
    assert held[0].array.nbytes == cublaslt.WORKSPACE_BYTES == 32 << 20
    pointer = streams[1].ptr
    del held[1]
    gc.collect()
    assert pointer not in internals.workspaces(lt)


def test_the_fake_detects_two_streams_in_one_workspace(fake_cupy, lt):
    backend = get("cuda")
    a, b = backend.asarray(integers(4, 128)), backend.asarray(integers(128, 4))
    first, second = (lt.bind(a, b, backend.empty((4, 4), np.float32)) for _ in range(2))
    one, other = (fake_cupy.cuda.Stream(non_blocking=True) for _ in range(2))
    internals.workspaces(lt)[other.ptr] = shared = lt.allocate_workspace(one.ptr)
    one.begin_capture()
    other.wait_event(one.record())
    with one:
        first()
    with other, pytest.raises(cublaslt.CublasLtError, match="race for the same bytes"):
        second()
    fake_cupy.state.capturing = False
    assert shared.ptr


# --- whole networks ---------------------------------------------------------------------------------------------------


def launches_of(fake_cupy, net, rows=16):
    """The products and the kernels of one step, without the gather of the batch."""
    X, y = data(rows)
    net.train_on_batch(X, y)
    with internals.training_sections(net, rows) as sections:
        fake_cupy.state.calls.clear()
        for launch in [*sections.forward, *sections.loss, *sections.backward]:
            launch()
        return internals.products_run(fake_cupy), internals.kernels_run(fake_cupy)


def test_a_relu_network_takes_3L_minus_1_products(fake_cupy, mask_unset_at_zero):
    """L forward, the last one fused with the loss; L for ∂W; L − 1 for δ, with f′ and the gradients of the biases."""
    products, others = launches_of(fake_cupy, net_of("cuda"))
    assert products == [
        *["relu_mask"] * 3,
        "bias",
        "sums",
        *["drelu_sums", "none"] * 3,
    ]
    assert not any("relu" in c or "column_sum" in c or "bias" in c for c in others)


def test_a_mask_that_is_set_at_0_is_not_used(fake_cupy):
    """f′(0) = 0 (E2). With rows of zeros and zero biases every z is 0, and a step changes b by the difference."""
    X, y = data()
    X[::2] = 0
    nets = [net_of(device) for device in ("cuda", "cpu")]
    for net in nets:
        net.train_on_batch(X, y)
    for a, b in zip(*(net.get_weights() for net in nets), strict=True):
        tolerances.assert_within(a, b, tolerances.sums(np.float32, 128, np.abs(b).max()))
    products, others = launches_of(fake_cupy, nets[0])
    # f′ needs a launch, which also computes the gradients of the biases
    assert products == [*["relu"] * 3, "bias", "sums", *["none"] * 6]
    assert sum(c.startswith("relu_backward") for c in others) == 3
    # without its self-test the library's steps differ
    with internals.no_self_tests():
        wrong, right = net_of("cuda"), net_of("cpu")
        for net in (wrong, right):
            net.train_on_batch(X, y)
    assert np.abs(wrong.get_weights()[1] - right.get_weights()[1]).max() > 1e-3 * 0.05  # the learning rate


WRONG = {
    "wrong product": ("none", lambda self, a, b, d, *_: d.__setitem__(Ellipsis, a[0, 0])),
    "missing bias": ("bias", lambda self, a, b, d, p, v, *_: d.__setitem__(Ellipsis, d - v[:, None])),
    "sums of the other operand": ("sums", lambda self, a, b, d, p, v, *_: v.__setitem__(Ellipsis, b.sum())),
    "sums without the derivative": ("drelu_sums", lambda self, a, b, d, p, v, *_: v.__setitem__(Ellipsis, v + 1)),
}


@pytest.mark.parametrize("kind", WRONG)
def test_an_epilogue_with_wrong_results_is_not_used(fake_cupy, mask_unset_at_zero, monkeypatch, kind):
    epilogue, spoil = WRONG[kind]
    right = fake_cublaslt.Library._run

    def run(self, a, b, d, problem, *rest):
        right(self, a, b, d, problem, *rest)
        if problem.epilogue == epilogue:
            spoil(self, a, b, d, problem, *rest)

    monkeypatch.setattr(fake_cublaslt.Library, "_run", run)
    X, y = data()
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if epilogue == "none" else "error", ProductWarning)
        for device in ("cuda", "cpu"):
            net = net_of(device)
            net.train_on_batch(X, y)
            found.append(net.get_weights())
    for a, b in zip(*found, strict=True):
        tolerances.assert_within(a, b, tolerances.sums(np.float32, 128, np.abs(b).max()))


@pytest.mark.parametrize("refuse", ["relu_mask", "relu", "bias", "drelu_sums", "drelus", "sums", "all"])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_kernels_replace_unsupported_epilogues(fake_cupy, mask_unset_at_zero, refuse, activation):
    names = {"all": set(cublaslt.EPILOGUE_CODES) - {"none"}, "drelus": {"drelu", "drelu_sums"}}.get(refuse, {refuse})
    fake_cupy.state.cublaslt.refuse = names
    X, y = data()
    nets = [net_of(device, activation=activation) for device in ("cuda", "cpu")]
    for net in nets:
        net.train_on_batch(X, y)
    for a, b in zip(*(net.get_weights() for net in nets), strict=True):
        tolerances.assert_within(a, b, tolerances.sums(np.float32, 128, np.abs(b).max()))
    seen = set(internals.products_run(fake_cupy))
    assert not seen & names and ("none" in seen or refuse == "drelu_sums")
    assert fake_cupy.state.calls.count("matmul") == 1  # of the probe


LAYERS = {
    "relu": lambda: [gpunn.Dense(9, "relu"), gpunn.Dense(130, "relu"), gpunn.Dense(4, "relu")],
    "one output": lambda: [gpunn.Dense(9, "relu"), gpunn.Dense(1, "relu"), gpunn.Dense(5, "relu")],
    "others": lambda: [gpunn.Dense(9, "tanh"), gpunn.Dense(8, "gelu"), gpunn.Dense(7, "elu"), gpunn.Dense(8, "silu")],
    "no biases": lambda: [gpunn.Dense(9, "relu", use_bias=False), gpunn.Dense(8, "relu"), gpunn.Dense(4)],
    "layers in between": lambda: [
        gpunn.Dense(9, "relu"),
        gpunn.Dropout(0.3),
        gpunn.Dense(8, "relu"),
        gpunn.BatchNormalization(),
    ],
    "frozen": lambda: [frozen(gpunn.Dense(9, "relu")), frozen(gpunn.Dense(8, "relu")), gpunn.Dense(6, "relu")],
    "penalties": lambda: [gpunn.Dense(9, "relu", l2=0.1, max_norm=1.0), gpunn.Dense(8, "relu", l1=0.01)],
    "user-defined": lambda: [
        UnfusedDense(9, "relu"),
        gpunn.Dense(8, "relu"),
        UnfusedDense(8, "relu"),
        gpunn.Dense(7, "relu"),
    ],
}


@pytest.mark.parametrize(("dtype", "zero_is_above"), [("float32", False), ("float32", True), ("float64", True)])
@pytest.mark.parametrize("kind", LAYERS)
def test_networks_with_cublaslt_agree_with_numpy(fake_cupy, kind, dtype, zero_is_above):
    """Gradients with training on and off, the trace, predictions and three steps."""
    fake_cupy.state.cublaslt.zero_is_above = zero_is_above
    X, y = data(21)
    found = []
    for device in ("cuda", "cpu"):
        net = gpunn.Sequential([*LAYERS[kind](), gpunn.Dense(3, "softmax")], input_shape=6, seed=4, dtype=dtype)
        net.compile("adam", "sparse_categorical_crossentropy", device=device)
        gradients = [g for training in (True, False) for g in net.loss_and_gradients(X, y, training=training)[1]]
        traced = [r.delta for r in net.trace(X, y)]
        for _ in range(3):
            net.train_on_batch(X, y)
        found.append([*gradients, *traced, net.predict(X), *net.get_weights()])
    for a, b in zip(*found, strict=True):
        tolerances.assert_within(a, b, tolerances.sums(dtype, 130, max(1e-2, np.abs(b).max())))
    assert fake_cupy.state.calls.count("matmul") == 1  # of the probe


def test_nan_passes_through_unchecked_predictions(fake_cupy):
    """cuBLASLt's ReLU maps NaN to 0, so predictions use gpunn's kernel."""
    net = net_of("cuda")
    internals.parameters(net).fill(np.nan)
    assert np.isnan(net.predict(data()[0])).all()
    seen = internals.products_run(fake_cupy)
    assert "bias" in seen and not any("relu" in c for c in seen)


# --- without the library ----------------------------------------------------------------------------------------------


def test_without_the_library_cupy_multiplies_with_one_warning(fake_cupy, monkeypatch):
    internals.fail_to_load_cublaslt(monkeypatch)
    X, y = data()
    net, peer = net_of("cuda"), net_of("cpu")
    with pytest.warns(ProductWarning, match="one by one.*cuBLASLt.*is missing.*cannot open.*Remedy: ") as warned:
        net.fit(X, y, batch_size=8, verbose=0)
        net.fit(X, y, batch_size=16, verbose=0)
    assert len(warned) == 1 and "matmul" in fake_cupy.state.calls
    peer.fit(X, y, batch_size=8, verbose=0).history, peer.fit(X, y, batch_size=16, verbose=0)
    for a, b in zip(net.get_weights(), peer.get_weights(), strict=True):
        tolerances.assert_within(a, b, 8 * tolerances.sums(np.float32, 128, np.abs(b).max()))


def broken_copy(state, **options):
    library = fake_cublaslt.Library(state, **options)
    del library.cublasLtMatmul
    return library


FAULTS = {
    "another version": (lambda s: fake_cublaslt.Library(s, version=110805), r"fake is version 11\.8\.5"),
    "a missing function": (broken_copy, "cublasLtMatmul"),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_an_unusable_copy_is_skipped(fake_cupy, monkeypatch, kind):
    make, message = FAULTS[kind]
    copies = {"bad": make(fake_cupy.state), "good": fake_cublaslt.Library(fake_cupy.state)}
    monkeypatch.setattr(cublaslt, "load_library", lambda path: copies["bad" if path == "fake" else "good"])
    found = cublaslt.open_cublaslt(fake_cupy)
    assert isinstance(found, Fault) and found.kind == "products"
    assert re.search(message, found.verdict)
    monkeypatch.setattr(cublaslt, "candidates", lambda major: ["fake", "next"])
    assert cublaslt.open_cublaslt(fake_cupy).path == "next"


def test_a_library_without_a_device_is_a_fault(fake_cupy):
    fake_cupy.state.devices = 0
    found = cublaslt.open_cublaslt(fake_cupy)
    assert isinstance(found, Fault) and "cublasLtCreate: CUBLAS_STATUS_NOT_INITIALIZED" in found.verdict


def test_cupy_multiplies_operands_that_the_library_does_not_support(fake_cupy):
    backend = get("cuda")
    a, b = integers(5, 14), integers(7, 3)
    out = backend.empty((5, 3), np.float32)
    with pytest.warns(ProductWarning, match="a has strides"):
        launch = backend.bind_matmul(backend.asarray(a)[:, ::2], backend.asarray(b), out)
    launch()
    assert np.array_equal(to_host(out), np.einsum("ik,kj->ij", a[:, ::2], b))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        backend.bind_matmul(backend.asarray(a)[:, ::2], backend.asarray(b), out)  # the warning was issued before


# --- the search for the library ---------------------------------------------------------------------------------------


def test_the_loaded_copy_comes_first_then_wheels_then_the_loader(monkeypatch, tmp_path):
    for inside, name in (("cublas/lib", "libcublasLt.so.12"), ("cu13/lib", "libcublasLt.so.13")):
        (tmp_path / "nvidia" / inside).mkdir(parents=True)
        (tmp_path / "nvidia" / inside / name).touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(cublaslt.sys, "platform", "linux")
    replace_find_spec(monkeypatch, tmp_path / "nvidia")
    for major, names in ((12, ["cublas", "cu13"]), (13, ["cu13", "cublas"])):
        found = [c for c in cublaslt.candidates(major) if str(tmp_path) in c]
        assert [c.split("/nvidia/")[1].split("/")[0] for c in found] == names
        assert list(cublaslt.candidates(major))[-2:] == [f"libcublasLt.so.{m}" for m in (major, 25 - major)]


def replace_find_spec(monkeypatch, folder):
    import importlib.machinery

    spec = importlib.machinery.ModuleSpec("nvidia", None, is_package=True)
    spec.submodule_search_locations = [str(folder)]
    monkeypatch.setattr(cublaslt.importlib.util, "find_spec", lambda name: spec)


# --- gpunn doctor -----------------------------------------------------------------------------------------------------


def test_doctor_reports_the_products(fake_cupy, monkeypatch):
    monkeypatch.delenv("GPUNN_DEVICE", raising=False)

    def line():
        report = doctor()
        return next(c for c in report.checks if c.name == "GPU products"), report

    check, report = line()
    assert check.ok and check.detail.startswith("cuBLASLt 12.9.3 (fake), captured with the step: float32, float64")
    assert "TF32, bfloat16; fused epilogues: bias, relu, gelu, gelu_z, dgelu, dgelu_sums, sums" in check.detail
    assert report.ok
    monkeypatch.setattr(fake_cupy.cuda.Device, "compute_capability", "75")
    assert "TF32" not in line()[0].detail
    internals.fail_to_load_cublaslt(monkeypatch)
    check, report = line()
    assert check.ok is False and "is missing" in check.detail and not report.ok
    assert "pip install" in report.remedy and "gpunn uses cuda:0" in report.verdict


def test_the_gelu_of_the_fake_equals_the_kernel():
    """cuBLASLt's GELU is used only in a lower precision; the fake's tanh form equals gpunn's."""
    from helpers import column_major_blas

    z = np.linspace(-6, 6, 101)
    f = activation_kernels("gelu")
    for found, wanted in zip(column_major_blas.gelu(z), (f.f(z), f.derivative(z)), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-13, atol=1e-15)
