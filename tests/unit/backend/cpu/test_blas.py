"""Compiled matrix products: by the BLAS that NumPy loaded, and the small product."""

import ctypes
import itertools

import numpy as np
import pytest
from helpers import internals
from helpers.program_recorder import execute, record
from helpers.programs import names
from helpers.tolerances import sums

import gpunn
from gpunn.backend.cpu import blas, native
from gpunn.kernels import get as kernel
from gpunn.program import rewrite

if native.executor_library() is None:
    pytest.skip("nothing is compiled here", allow_module_level=True)
needs_blas = pytest.mark.skipif(blas.find_gemm("float32") is None, reason="NumPy's BLAS exports no cblas_gemm")
SHAPES = [(1, 1, 1), (1, 8, 16), (8, 1, 16), (32, 64, 1), (5, 7, 3), (33, 31, 17), (4, 1, 1), (7, 300, 40), (1, 520, 1),
          (13, 5, 32), (6, 16, 8), (64, 64, 64)]  # fmt: skip
LAYOUTS = ("C", "transposed", "rows of a wider array")


def integers(rng, shape, dtype, layout):
    """Small integers, so that every sum is exact, in one of `LAYOUTS`."""
    values = rng.integers(-8, 9, size=shape).astype(dtype)
    if layout == "transposed":
        return np.ascontiguousarray(values.T).T
    if layout == "rows of a wider array":
        wide = np.zeros((shape[0], shape[1] + 3), dtype)
        wide[:, : shape[1]] = values
        return wide[:, : shape[1]]
    return values


def by_blas(a, b, out):
    return internals.blas_product(a, b, out)


def small(a, b, out):
    return internals.register_product(a, b, out)


PRODUCTS = [pytest.param(by_blas, marks=needs_blas), small, blas.bind_gemm]


@pytest.mark.parametrize("bind", PRODUCTS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("left", "right"), list(itertools.product(LAYOUTS, LAYOUTS)))
def test_products_of_integers_are_exact(bind, dtype, left, right):
    rng = np.random.default_rng(0)
    for n, k, m in SHAPES:
        a, b = integers(rng, (n, k), dtype, left), integers(rng, (k, m), dtype, right)
        padded = np.full((n + 2, m), np.nan, dtype)
        out = padded[1:-1]
        launch = bind(a, b, out)
        launch()
        np.testing.assert_array_equal(out, a.astype(int) @ b.astype(int))
        assert np.isnan(padded[[0, -1]]).all()
        # the operands are read at each launch
        a[...] += 1
        launch()
        np.testing.assert_array_equal(out, a.astype(int) @ b.astype(int))


def affine(f, a, W, b):
    """The optimized program of f(a W + b), f None or "relu"."""

    def equations(x, W, b):
        z = x @ W + b
        return z if f is None else kernel(f)(z)

    program = record(equations, batch=("x",), x=a, W=W, b=b)
    rewrite(program, gpunn.backend.get("cpu").rewrite_rules(), verify=True)
    return program


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("f", "fused"), [(None, "gemm_bias"), ("relu", "gemm_bias_relu"), ("tanh", "gemm_bias")])
def test_product_with_bias_and_relu_epilogue(dtype, f, fused):
    """z = a W + b is exact, and a = f(z) equals the kernel of f."""
    rng = np.random.default_rng(1)
    for n, k, m in SHAPES:
        a, W = integers(rng, (n, k), dtype, "C"), integers(rng, (k, m), dtype, "C")
        b = rng.integers(-8, 9, size=m).astype(dtype)
        program = affine(f, a, W, b)
        if n * k * m <= blas.SMALL_GEMM_MULTIPLICATIONS:
            assert names(program) == [fused, *(["tanh"] if f == "tanh" else [])]
        z = (a.astype(int) @ W.astype(int) + b.astype(int)).astype(dtype)
        (out,) = execute(program, {"x": a, "W": W, "b": b})
        np.testing.assert_array_equal(out, z if f is None else kernel(f)(z))


@pytest.mark.parametrize("m", [1, 3, 8, 16, 24])
def test_relu_epilogue_equals_its_kernel_at_special_values(m):
    a = np.array([[np.nan], [-np.inf], [np.inf], [-0.0], [0.0], [-1e-45], [1e-45], [-3.0]], "float32")
    W, b = np.ones((1, m), "float32"), np.zeros(m, "float32")
    program = affine("relu", a, W, b)
    assert names(program) == ["gemm_bias_relu"]
    (out,) = execute(program, {"x": a, "W": W, "b": b})
    wanted = kernel("relu")(np.ascontiguousarray(np.broadcast_to(a + np.float32(0), out.shape)))
    np.testing.assert_array_equal(out, wanted)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rounding_error_of_the_small_product_is_bounded(dtype):
    rng = np.random.default_rng(2)
    for n, k, m in SHAPES:
        a, b = rng.normal(size=(n, k)).astype(dtype), rng.normal(size=(k, m)).astype(dtype)
        out = np.empty((n, m), dtype)
        small(a, b, out)()
        wanted = a.astype(np.longdouble) @ b.astype(np.longdouble)
        largest = (np.abs(a).astype(np.longdouble) @ np.abs(b).astype(np.longdouble)).max()
        assert np.abs(out - wanted).max() <= sums(dtype, k, largest)


@needs_blas
@pytest.mark.parametrize("bind", [by_blas, small])
def test_nan_and_infinity_propagate_as_in_numpy(bind):
    a = np.array([[1, np.nan], [np.inf, 0], [0, 0]], "float32")
    b = np.array([[0, 1], [1, 2]], "float32")
    out = np.full((3, 2), np.nan, "float32")
    bind(a, b, out)()
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(out, a @ b)


@needs_blas
@pytest.mark.parametrize("parts", [1, 2, 3, 7])
def test_tasks_of_a_partition_compute_the_whole_product(parts):
    rng = np.random.default_rng(3)
    for bind in (by_blas, small):
        for n, k, m in SHAPES:
            a, b = integers(rng, (n, k), "float32", "transposed"), integers(rng, (k, m), "float32", "C")
            out = np.full((n, m), np.nan, "float32")
            partition = bind(a, b, out).partition(parts)
            assert 1 <= len(partition.tasks) <= parts and partition.combine is None
            for task in reversed(partition.tasks):
                task.launch()
            np.testing.assert_array_equal(out, a.astype(int) @ b.astype(int))


@needs_blas
def test_unsupported_layouts_are_computed_by_numpy():
    x = np.ones((40, 60), "float32")
    out = np.empty((40, 40), "float32")
    every_second = np.ones((60, 80), "float32")[:, ::2]
    assert blas.bind_gemm(x, every_second, out) is None
    assert blas.bind_gemm(x[:, ::-1], np.ones((60, 40), "float32"), out) is None
    assert blas.bind_gemm(x[:0], np.ones((60, 40), "float32"), out[:0]) is None
    assert blas.bind_gemm(np.ones((2, 4, 6), "float32"), np.ones((2, 6, 4), "float32"), np.ones((2, 4, 4))) is None
    backend = gpunn.backend.get("cpu")
    backend.bind_matmul(x, every_second, out)()
    np.testing.assert_array_equal(out, np.full((40, 40), 60))


def test_verification_rejects_a_function_that_is_not_gemm():
    operand = [ctypes.c_void_p, ctypes.c_longlong]
    signature = ctypes.CFUNCTYPE(
        None, *[ctypes.c_longlong] * 6, ctypes.c_float, *operand, *operand, ctypes.c_float, *operand
    )

    @signature
    def does_nothing(*arguments):
        pass

    assert not blas.verify_gemm(ctypes.cast(does_nothing, ctypes.c_void_p).value, "float32")
