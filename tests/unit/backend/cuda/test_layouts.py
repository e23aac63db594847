"""Calls of a column-major library for row-major products, executed by a column-major product in NumPy."""

import numpy as np
import pytest
from helpers import column_major_blas as blas
from helpers import tolerances
from helpers.gpu_nets import integers
from helpers.messages import naming

from gpunn.backend.cuda.layouts import EPILOGUES, Unsupported, gemm_call, mask_bytes

SHAPES = [(5, 7, 3), (1, 7, 3), (5, 1, 3), (5, 7, 1), (1, 1, 1), (33, 130, 129), (4, 9, 256), (2, 3, 127)]
LAYOUTS = ["rows", "columns", "padded rows", "padded columns"]


def with_layout(x, layout):
    """The same numbers in another layout; a view of a larger array for a padded one."""
    n, m = x.shape
    if layout == "rows":
        return x.copy()
    if layout == "columns":
        return x.T.copy().T
    if layout == "padded rows":
        big = np.full((n, m + 5), np.nan, x.dtype)
        big[:, 2 : 2 + m] = x
        return big[:, 2 : 2 + m]
    big = np.full((m, n + 3), np.nan, x.dtype)
    big[:, 1 : 1 + n] = x.T
    return big[:, 1 : 1 + n].T


def run(a, b, out, epilogue="none", bias=None, aux=None):
    """Execute the call: its first operand is the memory of b, its second that of a."""
    call = gemm_call(a, b, out, epilogue, bias, aux)
    A, B, D = (
        blas.matrix(x.ctypes.data, x.dtype, s.rows, s.columns, s.leading)
        for x, s in ((b, call.A), (a, call.B), (out, call.D))
    )
    assert (call.m, call.n) == D.shape and call.k == (A.shape[0] if call.A.transposed else A.shape[1])
    what = EPILOGUES[epilogue].aux
    mask = blas.mask_bytes(aux.ctypes.data, call.m, call.n, call.aux) if what == "mask" else None
    z = blas.matrix(aux.ctypes.data, aux.dtype, call.m, call.n, call.aux) if what == "z" else None
    blas.multiply(A, B, D, (call.A.transposed, call.B.transposed), epilogue, bias, mask, z)
    return call


@pytest.mark.parametrize("b_layout", LAYOUTS)
@pytest.mark.parametrize("a_layout", LAYOUTS)
@pytest.mark.parametrize(("r", "k", "c"), SHAPES)
def test_products_of_all_shapes_and_layouts(r, k, c, a_layout, b_layout):
    """Small integers, so the result is exact for every layout of a and b."""
    a, b = integers(r, k), integers(k, c, seed=1)
    for out in (np.full((r, c), np.nan, np.float32), np.full((r, c + 4), np.nan, np.float32)[:, :c]):
        run(with_layout(a, a_layout), with_layout(b, b_layout), out)
        assert np.array_equal(out, np.einsum("ik,kj->ij", a, b))


def test_calls_worked_out_by_hand():
    """a (2, 3), b (3, 4): the library multiplies bᵀ (4, 3) by aᵀ (3, 2), both as stored, into outᵀ (4, 2)."""
    a, b, out = np.zeros((2, 3)), np.zeros((3, 4)), np.zeros((2, 4))
    call = gemm_call(a, b, out)
    assert (call.m, call.n, call.k) == (4, 2, 3)
    assert [(s.rows, s.columns, s.leading, s.transposed) for s in (call.A, call.B, call.D)] == [
        (4, 3, 4, False),
        (3, 2, 3, False),
        (4, 2, 4, False),
    ]
    # ∂W = a_prevᵀ δ (E6): a_prev (8, 3), δ (8, 4)
    call = gemm_call(np.zeros((8, 3)).T, np.zeros((8, 4)), np.zeros((3, 4)))
    assert (call.m, call.n, call.k) == (4, 3, 8)
    assert [(s.rows, s.columns, s.leading, s.transposed) for s in (call.A, call.B, call.D)] == [
        (4, 8, 4, False),
        (3, 8, 3, True),
        (4, 3, 4, False),
    ]
    # δ Wᵀ (E5): δ (8, 4), W (3, 4)
    call = gemm_call(np.zeros((8, 4)), np.zeros((3, 4)).T, np.zeros((8, 3)))
    assert [(s.rows, s.columns, s.leading, s.transposed) for s in (call.A, call.B, call.D)] == [
        (4, 3, 4, True),
        (4, 8, 4, False),
        (3, 8, 3, False),
    ]


@pytest.mark.parametrize(("columns", "wanted"), [(1, 16), (127, 16), (128, 16), (129, 32), (256, 32), (257, 48)])
def test_a_mask_row_is_padded_to_128_bits(columns, wanted):
    assert mask_bytes(columns) == wanted


@pytest.mark.parametrize(("r", "k", "c"), [(5, 7, 3), (33, 130, 129), (4, 9, 256), (2, 3, 127)])
def test_relu_forward_and_backward_with_a_mask(r, k, c):
    """E1, E2, E5 and E7 with the mask that the forward product writes."""
    a, W, b, delta, W_next = integers(r, k), integers(k, c), integers(c), integers(r, 6), integers(c, 6, seed=2)
    out, mask = np.empty((r, c), np.float32), np.full((r, mask_bytes(c)), 0xA5, np.uint8)
    run(a, W, out, "relu_mask", b, mask)
    z = np.einsum("ik,kj->ij", a, W) + b
    assert np.array_equal(out, np.maximum(z, 0))
    assert (mask[:, -(-c // 8) :] == 0xA5).all()  # the padding is not written
    plain = np.empty_like(out)
    run(a, W, plain, "relu", b)
    assert np.array_equal(plain, out)
    wanted = np.where(z > 0, np.einsum("ij,kj->ik", delta, W_next), 0)
    for epilogue in ("drelu", "drelu_sums"):
        grad, sums = np.empty((r, c), np.float32), np.empty(c, np.float32)
        run(delta, W_next.T, grad, epilogue, sums if epilogue == "drelu_sums" else None, mask)
        assert np.array_equal(grad, wanted)
    assert np.array_equal(sums, wanted.sum(axis=0))


def test_bias_and_column_sums_of_an_operand():
    a, W, b, delta = integers(5, 7), integers(7, 3), integers(3), integers(5, 3, seed=3)
    out, dW, db = np.empty((5, 3), np.float32), np.empty((7, 3), np.float32), np.empty(3, np.float32)
    run(a, W, out, "bias", b)
    assert np.array_equal(out, np.einsum("ik,kj->ij", a, W) + b)
    run(a.T, delta, dW, "sums", db)
    assert np.array_equal(dW, np.einsum("ki,kj->ij", a, delta)) and np.array_equal(db, delta.sum(axis=0))


def test_gelu_saves_z_and_computes_its_derivative_from_it():
    from gpunn.kernels import activation_kernels

    a, W, b, delta, W_next = integers(5, 7), integers(7, 8) / 8, integers(8), integers(5, 6), integers(8, 6) / 8
    out, z = np.empty((5, 8), np.float32), np.empty((5, 8), np.float32)
    run(a, W, out, "gelu_z", b, z)
    f = activation_kernels("gelu")
    assert np.array_equal(z, np.einsum("ik,kj->ij", a, W) + b)
    allowed = tolerances.ulps(np.float32, 16, np.abs(z).max())
    tolerances.assert_within(out, f.f(z).astype(np.float32), allowed)
    grad, sums = np.empty((5, 8), np.float32), np.empty(8, np.float32)
    run(delta, W_next.T, grad, "dgelu_sums", sums, z)
    wanted = (f.derivative(z) * np.einsum("ij,kj->ik", delta, W_next)).astype(np.float32)
    tolerances.assert_within(grad, wanted, tolerances.ulps(np.float32, 16, np.abs(wanted).max()))
    tolerances.assert_within(sums, wanted.sum(axis=0), tolerances.sums(np.float32, 5, np.abs(wanted).max()))


def zeros(*shape):
    return np.zeros(shape, np.float32)


UNSUPPORTED = {
    "a of three dimensions": (lambda: (zeros(1, 2, 3), zeros(3, 4), zeros(2, 4)), {}, "a has 3 dimensions"),
    "no terms": (lambda: (zeros(2, 0), zeros(0, 4), zeros(2, 4)), {}, r"a has shape \(2, 0\)"),
    "a strided column axis": (lambda: (zeros(2, 6)[:, ::2], zeros(3, 4), zeros(2, 4)), {}, "a has strides"),
    "reversed rows": (lambda: (zeros(2, 3), zeros(3, 4)[::-1], zeros(2, 4)), {}, "b has strides"),
    "a repeated row": (
        lambda: (zeros(2, 3), np.lib.stride_tricks.as_strided(zeros(4), (3, 4), (0, 4)), zeros(2, 4)),
        {},
        "b has strides",
    ),
    "overlapping rows": (
        lambda: (np.lib.stride_tricks.as_strided(zeros(9), (2, 3), (8, 4)), zeros(3, 4), zeros(2, 4)),
        {},
        "a has strides",
    ),
    "strides that are no multiple of the itemsize": (
        lambda: (np.lib.stride_tricks.as_strided(zeros(9), (2, 3), (14, 4)), zeros(3, 4), zeros(2, 4)),
        {},
        "a has strides",
    ),
    "column-major out": (lambda: (zeros(2, 3), zeros(3, 4), zeros(4, 2).T), {}, naming("out", "row by row")),
    "a bias of another length": (
        lambda: (zeros(2, 3), zeros(3, 4), zeros(2, 4)),
        {"epilogue": "bias", "bias": zeros(5)},
        r"bias has shape \(5,\)",
    ),
    "a strided bias": (
        lambda: (zeros(2, 3), zeros(3, 4), zeros(2, 4)),
        {"epilogue": "bias", "bias": zeros(8)[::2]},
        "bias has shape",
    ),
    "a mask without padding": (
        lambda: (zeros(2, 3), zeros(3, 4), zeros(2, 4)),
        {"epilogue": "relu_mask", "bias": zeros(4), "aux": np.zeros((2, 1), np.uint8)},
        "the mask has shape",
    ),
    "z whose width is no multiple of 8": (
        lambda: (zeros(2, 3), zeros(3, 4), zeros(2, 4)),
        {"epilogue": "gelu_z", "bias": zeros(4), "aux": zeros(2, 4)},
        "z has shape",
    ),
    "sums of one term": (
        lambda: (zeros(4, 1), zeros(1, 3), zeros(4, 3)),
        {"epilogue": "sums", "bias": zeros(3)},
        "one term each",
    ),
}


@pytest.mark.parametrize("case", UNSUPPORTED)
def test_unsupported_products_are_refused(case):
    arrays, options, message = UNSUPPORTED[case]
    with pytest.raises(Unsupported, match=message):
        gemm_call(*arrays(), **options)


@pytest.mark.parametrize("options", [{"epilogue": "bias"}, {"bias": zeros(4)}, {"epilogue": "drelu"}])
def test_an_epilogue_requires_its_own_arguments(options):
    with pytest.raises(TypeError, match="takes bias"):
        gemm_call(zeros(2, 3), zeros(3, 4), zeros(2, 4), **options)
