"""Matrix products in compiled code on a CPU: by the BLAS that NumPy loaded, or in registers where that is faster.

BLAS is found by its exported name and believed after a test. Its calls cost 50 to 200 ns whatever their size, and on
processors with 256-bit vectors its kernels pay from about 10⁵ multiplications on; those with 512 bits have kernels for
small matrices too, which won from 2000 on.
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

from ...kernels._compiler.host import (
    ROW_GRAIN,
    CompiledLaunch,
    Partition,
    ThreadTask,
    byte_range,
    chunk_bounds,
    load_function,
)
from . import native
from .sources import FUSED_ACTIVATIONS

# the names under which NumPy's builds export the product of float32; d for s is that of float64
GEMM_SYMBOLS = ("scipy_cblas_sgemm64_", "cblas_sgemm64_", "scipy_cblas_sgemm", "cblas_sgemm")
THREAD_SYMBOLS = ("scipy_openblas_{}_num_threads64_", "openblas_{}_num_threads64_", "scipy_openblas_{}_num_threads",
           "openblas_{}_num_threads")  # fmt: skip
SMALL_GEMM_FLOPS = 2000  # multiplications up to which a call of BLAS costs more than the product
# elements of B up to which products in registers are no slower than BLAS, by the width of a vector in bytes, where B's
# columns fill vectors and lie as they are used
MAX_CACHED_B = {32: 4096}
MAX_CACHED_B_FUSED = {32: 8192}  # where that spares a pass over the result, whatever its columns, if they are many
COLUMN_GRAIN = 32  # whole vectors of every type
NS_PER_MULTIPLICATION = 0.025  # of a multiplication, about


@dataclass(frozen=True)
class Gemm:
    """The product of one type: its address and its name."""

    address: int
    name: str


@functools.cache
def _loaded() -> ctypes.CDLL | None:
    try:
        # what an extension module was linked with is found through it
        return ctypes.CDLL(str(importlib.import_module("numpy._core._multiarray_umath").__file__))
    except (OSError, ImportError):
        return None


def _exported(name: str) -> Any:
    try:
        return getattr(_loaded(), name)
    except AttributeError:
        return None


def _address(function: Any) -> int:
    return ctypes.cast(function, ctypes.c_void_p).value or 0


@functools.cache
def find_gemm(dtype: str) -> Gemm | None:
    """The product in the BLAS that NumPy loaded, found by name and tested; None where none is."""
    if native.executor_library() is None:
        return None
    for name in GEMM_SYMBOLS:
        name = name if dtype == "float32" else name.replace("sgemm", "dgemm")
        function = _exported(name)
        if function is not None and verify_gemm(_address(function), dtype):
            return Gemm(_address(function), name)
    return None


def verify_gemm(address: int, dtype: str) -> bool:
    """Whether a function computes what cblas_gemm computes, in all four layouts; small whole numbers, so exactly."""
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
    """OpenBLAS's functions that tell and set its number of threads, made known to the walk; None for another BLAS."""
    compiled = native.executor_library()
    if compiled is None:
        return None
    for name in THREAD_SYMBOLS:
        get, put = _exported(name.format("get")), _exported(name.format("set"))
        if get is not None and put is not None:
            get.restype = ctypes.c_int
            compiled.use_blas_threads(ctypes.c_void_p(_address(get)), ctypes.c_void_p(_address(put)))
            return get, put
    return None


def thread_count() -> int:
    """How many threads the products of a walk may use: as many as BLAS is set to, where that can be told; else 1, and
    BLAS does as it does."""
    found = _thread_functions()
    # a process may have been pinned to fewer cores since BLAS counted them
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 1 if found is None else max(1, min(int(found[0]()), cores))


@contextmanager
def single_threaded_blas() -> Iterator[None]:
    """Meanwhile products, and the walks that are made, take one thread each, in all of this process: so that walks may
    run beside one another. Nothing changes where BLAS is not OpenBLAS."""
    compiled = native.executor_library() if _thread_functions() is not None else None
    if compiled is None:
        yield
        return
    compiled.hold_blas(ctypes.c_longlong(1))
    try:
        yield
    finally:
        compiled.hold_blas(ctypes.c_longlong(0))


# --- products ---


def bind_gemm(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> Callable[[], Any] | None:
    """The launch of out = a b in compiled code, or None where only NumPy can compute it. The operands are checked."""
    if native.executor_library() is None or a.ndim != 2 or not _regular(a, b, out):
        return None
    if uses_small_gemm(a, b):
        return _bind_small_gemm([a, b, out])
    found = find_gemm(a.dtype.name)
    if found is None or not _is_blas_layout(a) or not _is_blas_layout(b):
        return None
    return _bind_blas_gemm(a, b, out, found.address)


def bind_affine(
    a: np.ndarray, W: np.ndarray, b: np.ndarray, out: np.ndarray, f: str | None
) -> tuple[Callable[[], Any], bool] | None:
    """The launch of out = a W + b, b in every row (E1), where one launch computes both, and whether it applies the
    activation named `f` too (E2); else None."""
    fused = f in FUSED_ACTIVATIONS
    if native.executor_library() is None or not _regular(a, W, out) or not uses_small_gemm(a, W, saves_a_pass=fused):
        return None
    return _bind_small_gemm([a, W, out, b], fused), fused


def uses_small_gemm(a: np.ndarray, b: np.ndarray, *, saves_a_pass: bool = False) -> bool:
    """Whether a b is computed in registers rather than by BLAS. `spares` says that it spares a pass over the result."""
    k, m = b.shape
    if a.size * m > SMALL_GEMM_FLOPS and b.size > max(MAX_CACHED_B_FUSED.values()):
        return False
    compiled = native.gemm_library(b.dtype.name)
    if compiled is None or a.size * m <= SMALL_GEMM_FLOPS:
        return compiled is not None
    width = int(compiled.vector_bytes())
    pair, as_used = 2 * width // b.itemsize, b.strides[1] == b.itemsize
    if saves_a_pass and as_used and m >= 4 * pair and b.size <= MAX_CACHED_B_FUSED.get(width, 0):
        return True
    return b.size <= MAX_CACHED_B.get(width, 0) and (m == 1 or (m % pair == 0 and (k <= pair or as_used)))


def _regular(*arrays: np.ndarray) -> bool:
    return all(x.size and all(s > 0 and s % x.itemsize == 0 for s in x.strides) for x in arrays)


def _bind_blas_gemm(a: np.ndarray, b: np.ndarray, out: np.ndarray, address: int) -> CompiledLaunch:
    return _product("blas", [a, b, out], address)


def _bind_small_gemm(arrays: list[np.ndarray], relu: bool = False) -> CompiledLaunch:
    return _product("small", arrays, relu=relu)


def _product(how: str, arrays: list[np.ndarray], *addresses: int, relu: bool = False) -> CompiledLaunch:
    """out = a b, or f(a b + bias), of [a, b, out] or [a, b, out, bias]; f the rectifier or nothing."""
    a, b, out = arrays[:3]
    (n, k), m = a.shape, b.shape[1]
    strides = [*_strides(a, how), *_strides(b, how), out.strides[0] // out.itemsize]
    compiled = native.executor_library() if how == "blas" else native.gemm_library(a.dtype.name)
    assert compiled is not None
    return CompiledLaunch(
        load_function(compiled, f"{how}_product__{a.dtype.name}"),
        arrays,
        [n, k, m, *strides, len(arrays) > 3, relu],
        addresses=addresses,
        estimated_ns=100 + NS_PER_MULTIPLICATION * n * k * m,
        partitioner=functools.partial(_split, addresses=addresses),
    )


def _split(launch: CompiledLaunch, parts: int, *, addresses: tuple[int, ...]) -> Partition:
    """Every thread computes rows of its own of the result, or columns where these are more: the operand that is packed
    for all of them is the shorter one then."""
    a, b, out, *bias = launch.arrays
    shares = []
    by_columns = out.shape[1] > out.shape[0]
    for low, high in chunk_bounds(max(out.shape), parts, COLUMN_GRAIN if by_columns else ROW_GRAIN):
        sizes = list(launch.sizes)
        sizes[2 if by_columns else 0] = high - low
        if by_columns:
            mine = [a, b[:, low:high], out[:, low:high], *(x[low:high] for x in bias)]
        else:
            mine = [a[low:high], b, out[low:high], *bias]
        part = CompiledLaunch(launch.function, mine, sizes, addresses=addresses, estimated_ns=launch.estimated_ns)
        shares.append(
            ThreadTask(
                part, [byte_range(mine[0]), byte_range(mine[1]), *map(byte_range, mine[3:])], [byte_range(mine[2])]
            )
        )
    return Partition(shares)


def _strides(x: np.ndarray, how: str) -> tuple[int, int]:
    """(of rows, of columns) in elements. For BLAS one of them is 1, and the other at least the other axis's length."""
    rows, columns = (s // x.itemsize for s in x.strides)
    if how == "small":
        # an axis of one element has whatever stride suits
        return rows if x.shape[0] > 1 else max(1, x.shape[1]), columns if x.shape[1] > 1 else 1
    if columns == 1 or x.shape[1] == 1:
        return max(rows, x.shape[1]), 1
    return 1, max(columns, x.shape[0])


def _is_blas_layout(x: np.ndarray) -> bool:
    """Whether rows or columns lie one element after another, as BLAS wants it."""
    return any(s == x.itemsize for s in x.strides) or 1 in x.shape
