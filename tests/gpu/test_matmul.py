"""Products by cuBLASLt, on a GPU and simulated. Operands are small integers, so that results are exact in every type.

Integers up to 8 and their sums are exact in bfloat16, TF32 and float32: no rounding hides an error.
"""

import numpy as np
import pytest
from helpers import tolerances
from helpers.gpu_nets import integers

import gpunn
from gpunn.backend import get, to_host
from gpunn.backend.cuda.layouts import Unsupported, mask_bytes
from gpunn.backend.cuda.matmul import MIN_COMPUTE_CAPABILITY, UNIT_ROUNDOFF
from gpunn.kernels import DeviceLaunch, activation_kernels
from gpunn.kernels import get as kernel

SHAPES = [(64, 96, 32), (5, 7, 3), (1, 130, 10), (33, 1, 17), (129, 257, 1), (256, 784, 128)]


@pytest.fixture(params=["simulated", pytest.param("gpu", marks=pytest.mark.gpu)])
def backend(request):
    if request.param == "simulated":
        request.getfixturevalue("fake_cupy").state.cublaslt.zero_is_above = False
    return get("cuda")


@pytest.fixture(params=[None, "tf32", "bf16"], ids=str)
def precision(request, backend):
    device = backend.xp.cuda.Device(backend.index)
    if request.param and int(device.compute_capability) < MIN_COMPUTE_CAPABILITY:
        pytest.skip(f"{backend.device} has no products in {request.param}")
    return request.param


def rounded_copy(backend, x):
    """A copy in bfloat16, whose rows start at multiples of 16 bytes, in the memory order of x."""
    if not x.flags.c_contiguous:
        return rounded_copy(backend, x.T).T
    n, m = x.shape
    copy = backend.empty((n, -(-m // 8) * 8), np.uint16)[:, :m]
    kernel("to_bfloat16").bind(x, out=copy)()
    return copy


def bind(backend, precision, a, b, out, **options):
    """Bind a product, of rounded copies if the precision needs them; skip if the library has no algorithm."""
    read = [rounded_copy(backend, x) if precision == "bf16" else x for x in (a, b)]
    with backend.activate():
        try:
            return backend.gpu_matmul.lt.bind(*read, out, precision=precision, **options)
        except Unsupported as error:
            pytest.skip(f"computed by kernels here: {error}")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("n", "k", "m"), SHAPES)
def test_products_in_the_layouts_of_a_step(backend, dtype, n, k, m):
    """a_prev W (E1), a_prevᵀ δ (E6), δ Wᵀ (E5), of buffers and of views at arbitrary addresses."""
    a, b = (x.astype(dtype) for x in (integers(n, k), integers(k, m, seed=1)))
    wanted = np.einsum("ik,kj->ij", a, b)
    flat = backend.zeros((k * m + 3,), dtype)
    flat[3:] = backend.asarray(b.ravel())
    put = backend.asarray
    for left, right in (
        (put(a), put(b)),
        (put(a.T.copy()).T, put(b)),
        (put(a), put(b.T.copy()).T),
        (put(a), flat[3:].reshape(k, m)),
    ):
        out = backend.empty((n, m), dtype)
        launch = backend.bind_matmul(left, right, out)
        assert isinstance(launch, DeviceLaunch)
        launch()
        assert np.array_equal(to_host(out), wanted)


@pytest.mark.parametrize(("n", "k", "m"), SHAPES)
def test_products_in_lower_precision(backend, precision, n, k, m):
    a, b = integers(n, k), integers(k, m, seed=1)
    out = backend.empty((n, m), np.float32)
    bind(backend, precision, backend.asarray(a), backend.asarray(b), out)()
    assert np.array_equal(to_host(out), np.einsum("ik,kj->ij", a, b))


# one column or one term per sum are left to kernels
FUSED = [
    (e, *s)
    for e in ("bias", "relu", "relu_mask", "drelu", "drelu_sums", "sums")
    for s in SHAPES
    if e != "sums" or 1 not in (s[0], s[2])
]


@pytest.mark.parametrize(("epilogue", "n", "k", "m"), FUSED)
def test_epilogues(backend, precision, n, k, m, epilogue):
    a, W, b = integers(n, k), integers(k, m, seed=1), integers(m, seed=2)
    put, z = backend.asarray, np.einsum("ik,kj->ij", a, W) + b
    out, mask = backend.empty((n, m), np.float32), backend.empty((n, mask_bytes(m)), np.uint8)
    forward = "relu_mask" if epilogue.startswith("drelu") else epilogue
    if epilogue != "sums":
        options = {"aux": mask} if forward == "relu_mask" else {}
        bind(backend, precision, put(a), put(W), out, epilogue=forward, bias=put(b), **options)()
        assert np.array_equal(to_host(out), z if epilogue == "bias" else np.maximum(z, 0))
    sums = backend.empty((m,), np.float32)
    if epilogue.startswith("drelu"):
        delta, W_next = integers(n, 6, seed=3), integers(m, 6, seed=4)
        options = {"aux": mask, "bias": sums if epilogue.endswith("sums") else None}
        bind(backend, precision, put(delta), put(W_next).T, out, epilogue=epilogue, **options)()
        wanted = np.where(z > 0, np.einsum("ij,kj->ik", delta, W_next), 0)
        assert np.array_equal(to_host(out), wanted)
        assert not epilogue.endswith("sums") or np.array_equal(to_host(sums), wanted.sum(axis=0))
    elif epilogue == "sums":
        delta, dW = integers(n, m, seed=3), backend.empty((k, m), np.float32)
        bind(backend, precision, put(a).T, put(delta), dW, epilogue="sums", bias=sums)()
        assert np.array_equal(to_host(dW), np.einsum("ki,kj->ij", a, delta))
        assert np.array_equal(to_host(sums), delta.sum(axis=0))


def test_gelu_is_the_tanh_form_within_the_precision(backend, precision):
    """Used only in TF32 and bfloat16, because the accuracy of the library's tanh is undocumented."""
    a, W, b = integers(33, 16) / 4, integers(16, 24, seed=1) / 8, integers(24, seed=2)
    z = np.einsum("ik,kj->ij", a, W) + b
    f, put = activation_kernels("gelu"), backend.asarray
    out, saved = (backend.empty((33, 24), np.float32) for _ in range(2))
    bind(backend, precision, put(a), put(W), out, epilogue="gelu_z", bias=put(b), aux=saved)()
    assert np.array_equal(to_host(saved), z)
    allowed = UNIT_ROUNDOFF["tf32"] * np.abs(z).max()
    tolerances.assert_within(to_host(out), f.f(z).astype(np.float32), allowed)
    delta, W_next, sums = integers(33, 6, seed=3), integers(24, 6, seed=4), backend.empty((24,), np.float32)
    bind(backend, precision, put(delta), put(W_next).T, out, epilogue="dgelu_sums", bias=sums, aux=saved)()
    wanted = f.derivative(z) * np.einsum("ij,kj->ik", delta, W_next)
    allowed = UNIT_ROUNDOFF["tf32"] * np.abs(wanted).max()
    tolerances.assert_within(to_host(out), wanted.astype(np.float32), allowed)
    tolerances.assert_within(
        to_host(sums), to_host(out).sum(axis=0), tolerances.sums(np.float32, 33, np.abs(wanted).max())
    )


def test_rounding_to_bfloat16_gives_the_same_bits(backend):
    x = np.random.default_rng(0).normal(size=(64, 129)).astype(np.float32) * np.float32(1e3)
    x[0, :6] = [0.0, -0.0, np.inf, -np.inf, np.nan, 1 + 2**-8]
    to_bfloat16 = kernel("to_bfloat16")
    assert np.array_equal(to_host(to_bfloat16(backend.asarray(x))), to_bfloat16(x))


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["relu", "gelu", "tanh"])
def test_a_captured_fit_agrees_with_the_cpu(backend, precision, activation):
    """A `CaptureWarning` or a `ProductWarning` would be an error here."""
    rng = np.random.default_rng(1)
    X, y = rng.normal(size=(256, 20)).astype(np.float32), rng.integers(0, 3, 256)
    nets = []
    for device, explicit in ((backend.device, precision), ("cpu", None)):
        layers = [gpunn.Dense(48, activation), gpunn.Dense(40, activation), gpunn.Dense(3, "softmax")]
        net = gpunn.Sequential(layers, input_shape=20, seed=4)
        net.compile(gpunn.SGD(0.05), "sparse_categorical_crossentropy", device=device, precision=explicit)
        net.fit(X, y, batch_size=32, epochs=3, shuffle=False, verbose=0)
        nets.append(net)
    # 24 steps of 6 products; the errors of a step carry over to the next
    roundoff = UNIT_ROUNDOFF.get(precision or "", 0.0)
    for a, b in zip(*(net.get_weights() for net in nets), strict=True):
        scale = np.abs(b).max()
        allowed = 24 * (tolerances.sums(np.float32, 48, scale) + roundoff * scale)
        tolerances.assert_within(a, b, allowed)
