"""Matrix products on a CPU: the BLAS that NumPy loaded, or compiled code of gpunn for small matrices.

BLAS is found by the name of its exported function and verified before use. A call costs 50 to 200 ns, whatever its
size, so below about 2000 multiplications the small product is always faster. On processors with 256-bit vectors it is
also faster for any number of rows if b is small and fills vectors (`uses_small_gemm`). With 512-bit vectors BLAS has
kernels for small matrices.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...kernels._compiler.compiled_launch import CompiledLaunch, Partition, ThreadTask, byte_range, load_function
from ...kernels._compiler.cpu_partition import ROW_GRAIN, chunk_bounds
from ...kernels._compiler.signature import type_name
from . import native

# the names under which NumPy's builds export the float32 product; the float64 product has d for s
GEMM_SYMBOLS = ("scipy_cblas_sgemm64_", "cblas_sgemm64_", "scipy_cblas_sgemm", "cblas_sgemm")
THREAD_SYMBOLS = (
    "scipy_openblas_{}_num_threads64_",
    "openblas_{}_num_threads64_",
    "scipy_openblas_{}_num_threads",
    "openblas_{}_num_threads",
)

SMALL_GEMM_MULTIPLICATIONS = 2000  # multiplications up to which the call of BLAS costs more than the product
# Elements of B up to which the small product is not slower than BLAS, by the width of a vector in bytes. MAX_CACHED_B
# needs a B whose columns fill vectors and that is read along its rows. MAX_CACHED_B_FUSED is for an epilogue that saves
# a pass over a wide result.
MAX_CACHED_B = {32: 4096}
MAX_CACHED_B_FUSED = {32: 8192}
COLUMN_GRAIN = 32  # columns: whole vectors of every type
NS_PER_MULTIPLICATION = 0.025  # approximate


@dataclass(frozen=True)
class Gemm:
    """A function like cblas_sgemm: its address and its name."""

    address: int
    name: str


@functools.cache
def _numpy_library() -> ctypes.CDLL | None:
    try:
        # symbols of the libraries that this extension module is linked with are found through it
        return ctypes.CDLL(str(importlib.import_module("numpy._core._multiarray_umath").__file__))
    except (OSError, ImportError):
        return None


def _symbol(name: str) -> Any:
    try:
        return getattr(_numpy_library(), name)
    except AttributeError:
        return None


def _address(function: Any) -> int:
    return ctypes.cast(function, ctypes.c_void_p).value or 0


def find_gemm(dtype: str) -> Gemm | None:
    """The verified product of the BLAS that NumPy loaded, or None."""
    # without compiled code nothing can call it; that may change within a process
    return None if native.executor_library() is None else _find_verified_gemm(dtype)


@functools.cache
def _find_verified_gemm(dtype: str) -> Gemm | None:
    for name in GEMM_SYMBOLS:
        name = name if dtype == "float32" else name.replace("sgemm", "dgemm")
        function = _symbol(name)
        if function is not None and verify_gemm(_address(function), dtype):
            return Gemm(_address(function), name)
    return None


def verify_gemm(address: int, dtype: str) -> bool:
    """True if the function computes a product in all four layouts. Small integers make the comparison exact."""
    rng = np.random.default_rng(0)
    n, k, m = 5, 7, 3
    for transposed in ((False, False), (True, False), (False, True), (True, True)):
        a, b = (
            rng.integers(-4, 5, size=shape[::-1] if t else shape).astype(dtype)
            for shape, t in zip(((n, k), (k, m)), transposed, strict=True)
        )
        a, b = (x.T if t else x for x, t in zip((a, b), transposed, strict=True))
        out = np.full((n, m), np.nan, dtype)
        _bind_blas_gemm(a, b, out, address)()
        if not (out == np.matmul(a, b)).all():
            return False
    return True


# --- threads ---


@functools.cache
def _thread_functions() -> tuple[Any, Any] | None:
    """OpenBLAS's functions that get and set its thread count, or None for another BLAS. The executor uses them too."""
    library = native.executor_library()
    if library is None:
        return None
    for name in THREAD_SYMBOLS:
        get, put = _symbol(name.format("get")), _symbol(name.format("set"))
        if get is not None and put is not None:
            get.restype = ctypes.c_int
            library.use_blas_threads(ctypes.c_void_p(_address(get)), ctypes.c_void_p(_address(put)))
            return get, put
    return None


def thread_count() -> int:
    """The number of threads that compiled steps may use: as many as OpenBLAS uses, 1 with another BLAS."""
    # the process may have been pinned to fewer cores after BLAS counted them
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(thread_setting(), cores))


def thread_setting() -> int:
    """The number of threads that OpenBLAS is set to use, 1 with another BLAS."""
    functions = _thread_functions()
    return 1 if functions is None else int(functions[0]())


@contextmanager
def single_threaded_blas() -> Iterator[None]:
    """Limit BLAS, and steps compiled inside the context, to one thread each, so that several fits can run concurrently.

    The limit holds for the whole process. Without OpenBLAS nothing changes.
    """
    library = native.executor_library() if _thread_functions() is not None else None
    if library is None:
        yield
        return
    library.limit_blas_threads(ctypes.c_longlong(1))
    try:
        yield
    finally:
        library.limit_blas_threads(ctypes.c_longlong(0))


# --- products ---


def bind_gemm(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> Callable[[], Any] | None:
    """A compiled launch of out = a b, or None if only NumPy supports the layouts. The caller checks the operands."""
    if a.ndim != 2 or not _has_positive_strides(a, b, out):
        return None
    contiguous = b.strides[1] == b.itemsize
    if uses_small_gemm(a.shape, b.shape, type_name(b.dtype), contiguous=contiguous):
        return bind_small_gemm([a, b, out])
    gemm = find_gemm(type_name(a.dtype))
    if gemm is None or native.executor_library() is None or not _is_blas_layout(a) or not _is_blas_layout(b):
        return None
    return _bind_blas_gemm(a, b, out, gemm.address)


def uses_small_gemm(
    a: tuple[int, ...], b: tuple[int, ...], dtype: str, *, contiguous: bool, saves_a_pass: bool = False
) -> bool:
    """True if the product of matrices of shapes a and b is computed by the small product, not by BLAS.

    contiguous    b is read along its rows
    saves_a_pass  the product's epilogue replaces a kernel
    """
    n, (k, m) = a[0], b
    products, b_size = n * k * m, k * m
    if products == 0 or (products > SMALL_GEMM_MULTIPLICATIONS and b_size > max(MAX_CACHED_B_FUSED.values())):
        return False
    library = native.gemm_library(dtype)
    if library is None or products <= SMALL_GEMM_MULTIPLICATIONS:
        return library is not None
    vector_bytes = int(getattr(library, f"vector_bytes__{dtype}")())
    columns = 2 * vector_bytes // np.dtype(dtype).itemsize  # of one tile
    if saves_a_pass and contiguous and m >= 4 * columns and b_size <= MAX_CACHED_B_FUSED.get(vector_bytes, 0):
        return True
    if b_size > MAX_CACHED_B.get(vector_bytes, 0):
        return False
    return m == 1 or (m % columns == 0 and (k <= columns or contiguous))


def _has_positive_strides(*arrays: np.ndarray) -> bool:
    return all(x.size and all(s > 0 and s % x.itemsize == 0 for s in x.strides) for x in arrays)


def _bind_blas_gemm(a: np.ndarray, b: np.ndarray, out: np.ndarray, address: int) -> CompiledLaunch:
    """Bind out = a b to the function at `address`."""
    library = native.executor_library()
    assert library is not None
    function = load_function(library, f"blas_gemm__{type_name(a.dtype)}")
    return _launch(function, [a, b, out], [*_blas_strides(a), *_blas_strides(b)], addresses=(address,))


def bind_small_gemm(arrays: list[np.ndarray], *, relu: bool = False) -> CompiledLaunch:
    """Bind out = a b for [a, b, out], or out = f(a b + bias) for [a, b, out, bias]."""
    a, b = arrays[:2]
    dtype = type_name(a.dtype)
    library = native.gemm_library(dtype)
    assert library is not None
    return _launch(load_function(library, f"small_gemm__{dtype}"), arrays, [*_strides(a), *_strides(b)], relu=relu)


def _launch(
    function: Any, arrays: list[np.ndarray], strides: list[int], *, addresses: tuple[int, ...] = (), relu: bool = False
) -> CompiledLaunch:
    a, b, out = arrays[:3]
    (n, k), m = a.shape, b.shape[1]
    return CompiledLaunch(
        function,
        arrays,
        [n, k, m, *strides, out.strides[0] // out.itemsize, len(arrays) > 3, relu],
        addresses=addresses,
        estimated_ns=100 + NS_PER_MULTIPLICATION * n * k * m,
        partitioner=functools.partial(_partition, addresses=addresses),
    )


def _partition(launch: CompiledLaunch, threads: int, *, addresses: tuple[int, ...]) -> Partition:
    """Give each thread one block of the result's rows, or of its columns if there are more."""
    a, b, out, *bias = launch.arrays
    tasks = []
    by_columns = out.shape[1] > out.shape[0]
    for low, high in chunk_bounds(max(out.shape), threads, COLUMN_GRAIN if by_columns else ROW_GRAIN):
        sizes = list(launch.sizes)
        sizes[2 if by_columns else 0] = high - low
        if by_columns:
            arrays = [a, b[:, low:high], out[:, low:high], *(x[low:high] for x in bias)]
        else:
            arrays = [a[low:high], b, out[low:high], *bias]
        part = CompiledLaunch(launch.function, arrays, sizes, addresses=addresses, estimated_ns=launch.estimated_ns)
        left, right, written, *rest = map(byte_range, arrays)
        tasks.append(ThreadTask(part, [left, right, *rest], [written]))
    return Partition(tasks)


def _strides(x: np.ndarray) -> tuple[int, int]:
    """The strides of rows and columns in elements. An axis of length 1 gets the stride of a contiguous array."""
    rows, columns = (s // x.itemsize for s in x.strides)
    return rows if x.shape[0] > 1 else max(1, x.shape[1]), columns if x.shape[1] > 1 else 1


def _blas_strides(x: np.ndarray) -> tuple[int, int]:
    """The strides as BLAS requires them: one is 1, the other at least the length of the other axis."""
    rows, columns = (s // x.itemsize for s in x.strides)
    if columns == 1 or x.shape[1] == 1:
        return max(rows, x.shape[1]), 1
    return 1, max(columns, x.shape[0])


def _is_blas_layout(x: np.ndarray) -> bool:
    """True if the rows or the columns are contiguous."""
    return any(s == x.itemsize for s in x.strides) or 1 in x.shape
