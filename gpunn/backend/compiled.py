"""Compiled code for the CPU around the kernels: the call of BLAS, and the walk over a recorded step.

A recorded step is a list of launches. Where all of them are compiled, each a (function, at, sizes, numbers), this walks
the list, step after step, without Python in between: what a CUDA graph is to a GPU. Products go to the BLAS that NumPy
has loaded, found by its exported name and believed after a test. (Products of one's own were tried: plain loops lost to
OpenBLAS from 16 multiplications on, blocks kept in registers won 10 to 20 ns below 2000 and lost above.)
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import os
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..kernels import host
from ..kernels.state import Slot

# the names under which NumPy's builds export the product of float32; d for s is that of float64
EXPORTED = ("scipy_cblas_sgemm64_", "cblas_sgemm64_", "scipy_cblas_sgemm", "cblas_sgemm")

TEXT = """
#include <time.h>

typedef long long Int;
typedef void (*Kernel)(void* const* at, const Int* sizes, const double* numbers);
struct Node { Kernel run; void* const* at; const Int* sizes; const double* numbers; };

// ---- the product by BLAS: sizes n, k, m, whether A and B are transposed, leading dimensions; at A, B, C, gemm ----

template <typename T> static void by_blas(void* const* at, const Int* s) {
  typedef void (*Gemm)(Int, Int, Int, Int, Int, Int, T, const T*, Int, const T*, Int, T, T*, Int);
  enum { ROW_MAJOR = 101, AS_IS = 111, TRANSPOSED = 112 };
  ((Gemm)at[3])(ROW_MAJOR, s[3] ? TRANSPOSED : AS_IS, s[4] ? TRANSPOSED : AS_IS, s[0], s[2], s[1], (T)1,
                (const T*)at[0], s[5], (const T*)at[1], s[6], (T)0, (T*)at[2], s[7]);
}
extern "C" void blas_product__float32(void* const* at, const Int* s, const double*) { by_blas<float>(at, s); }
extern "C" void blas_product__float64(void* const* at, const Int* s, const double*) { by_blas<double>(at, s); }

// ---- the walk ----

static double now() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

// Walks the nodes `steps` times, at least once; returns how many times, fewer where `seconds` are over or a step was
// bad. `rates` are the learning rates of the optimiser's steps from `first` on, or null.
extern "C" Int walk(const Node* nodes, Int count, Int steps, double* state, const double* rates, Int first,
                    Int step_slot, Int rate_slot, Int bad_slot, double seconds) {
  const double begin = steps > 1 ? now() : 0.0;
  Int look = 1;
  for (Int done = 1; done <= steps; ++done) {
    if (rates) state[rate_slot] = rates[(Int)state[step_slot] - first];
    for (Int k = 0; k < count; ++k) nodes[k].run(nodes[k].at, nodes[k].sizes, nodes[k].numbers);
    if (done == steps || (state && state[bad_slot] != 0.0)) return done;
    if (done == look) {
      const double passed = now() - begin;
      if (passed >= seconds) return done;
      // the clock is asked some thirty times
      const double each = passed / (double)done;
      const Int more = each > 0.0 ? (Int)(seconds / 32.0 / each) : 1;
      look = done + (more < 1 ? 1 : more);
    }
  }
  return steps;
}
"""


class _Node(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in ("run", "at", "sizes", "numbers")]


_lock = threading.Lock()
_library: ctypes.CDLL | None = None
_tried = False


def library() -> ctypes.CDLL | None:
    """The compiled walk and the call of BLAS, or None where nothing is compiled (`gpunn doctor` says why)."""
    global _library, _tried
    if os.environ.get("GPUNN_COMPILE") == "0":
        return None
    with _lock:
        if not _tried:
            _tried = True
            command = host.compiler()
            try:
                _library = None if command is None else ctypes.CDLL(str(host.compile_text(TEXT, command)))
            except (OSError, host.CompileError):
                _library = None
            if _library is not None:
                _library.walk.restype = ctypes.c_longlong
        return _library


def forget() -> None:
    """Forget what was loaded: what was set since is seen."""
    global _library, _tried
    with _lock:
        _library, _tried = None, False
    blas.cache_clear()


# --- products ---------------------------------------------------------------------------------------------------------


@functools.cache
def blas(dtype: str) -> tuple[int, str] | None:
    """(address, name) of the product in the BLAS that NumPy loaded, found by name and tested; None where none is."""
    if library() is None:
        return None
    try:
        # what an extension module was linked with is found through it
        loaded = ctypes.CDLL(str(importlib.import_module("numpy._core._multiarray_umath").__file__))
    except (OSError, ImportError):
        return None
    for name in EXPORTED:
        name = name if dtype == "float32" else name.replace("sgemm", "dgemm")
        try:
            function = getattr(loaded, name)
        except AttributeError:
            continue
        address = ctypes.cast(function, ctypes.c_void_p).value
        if address is not None and _is_the_product(address, dtype):
            return address, name
    return None


def _is_the_product(address: int, dtype: str) -> bool:
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
        _by_blas(a, b, out, address)()
        if not (out == np.matmul(a, b)).all():
            return False
    return True


def bind_product(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> Callable[[], Any] | None:
    """The launch of out = a b in compiled code, or None where only NumPy can compute it. The operands are checked."""
    if library() is None or a.ndim != 2 or 0 in (*a.shape, *out.shape):
        return None
    if any(s % x.itemsize or s <= 0 for x in (a, b, out) for s in x.strides):
        return None
    found = blas(a.dtype.name)
    if found is None or _leading(a) is None or _leading(b) is None:
        return None
    return _by_blas(a, b, out, found[0])


def _by_blas(a: np.ndarray, b: np.ndarray, out: np.ndarray, address: int) -> Callable[[], Any]:
    (n, k), m = a.shape, b.shape[1]
    (ta, lda), (tb, ldb) = _leading(a) or (0, 0), _leading(b) or (0, 0)
    sizes = [n, k, m, ta, tb, lda, ldb, out.strides[0] // out.itemsize]
    return _launch(f"blas_product__{a.dtype.name}", [a, b, out], sizes, address)


def _leading(x: np.ndarray) -> tuple[int, int] | None:
    """(whether x is stored transposed, its leading dimension); None where no stride is one."""
    rows, columns = (s // x.itemsize for s in x.strides)
    if columns == 1 or x.shape[1] == 1:
        return 0, max(rows, x.shape[1])
    if rows == 1 or x.shape[0] == 1:
        return 1, max(columns, x.shape[0])
    return None


def _launch(name: str, arrays: list[np.ndarray], sizes: list[int], *addresses: int) -> Callable[[], Any]:
    """A launch in the form of the kernels': function, at, sizes, numbers."""
    found = library()
    assert found is not None
    function = getattr(found, name)
    function.argtypes, function.restype = (ctypes.c_void_p,) * 3, None
    block = (
        (ctypes.c_void_p * (len(arrays) + len(addresses)))(*(x.ctypes.data for x in arrays), *addresses),
        (ctypes.c_longlong * len(sizes))(*sizes),
        (ctypes.c_double * 1)(),
    )
    launch = functools.partial(function, *(ctypes.addressof(part) for part in block))
    launch.keep = (arrays, block)  # type: ignore[attr-defined]
    return launch


# --- the walk ---------------------------------------------------------------------------------------------------------


class Walk:
    """Compiled launches as one: called, it runs them in order; `repeat` does so for step after step."""

    def __init__(self, launches: Sequence[Any]) -> None:
        found = library()
        assert found is not None
        self.count = len(launches)
        self.launches = list(launches)
        self._nodes = (_Node * self.count)(
            *(_Node(ctypes.cast(x.func, ctypes.c_void_p).value, *x.args) for x in launches)
        )
        self._walk = found.walk
        slots = [ctypes.c_longlong(int(s)) for s in (Slot.STEP, Slot.LR, Slot.BAD)]
        self._slots = slots
        self._once = functools.partial(
            self._walk,
            ctypes.c_void_p(ctypes.addressof(self._nodes)),
            ctypes.c_longlong(self.count),
            ctypes.c_longlong(1),
            None,
            None,
            ctypes.c_longlong(0),
            *slots,
            ctypes.c_double(0),
        )

    def __call__(self) -> None:
        """Run the launches once, in order."""
        self._once()

    def repeat(
        self, steps: int, state: np.ndarray, rates: np.ndarray | None = None, first: int = 0, *, seconds: float
    ) -> int:
        """Run them `steps` times, or until `seconds` are over or the flag in `state` is raised; how many times it was.

        rates[t − first] is the learning rate of the optimiser's step t; None leaves it as it stands.
        """
        if rates is not None and (rates.dtype != np.float64 or not rates.flags.c_contiguous or len(rates) < steps):
            raise ValueError(f"rates must be {steps} contiguous float64 numbers")
        done: int = self._walk(
            ctypes.c_void_p(ctypes.addressof(self._nodes)),
            ctypes.c_longlong(self.count),
            ctypes.c_longlong(steps),
            ctypes.c_void_p(state.ctypes.data),
            None if rates is None else ctypes.c_void_p(rates.ctypes.data),
            ctypes.c_longlong(first),
            *self._slots,
            ctypes.c_double(seconds),
        )
        return done


def join(launches: Sequence[Callable[[], Any]]) -> list[Callable[[], Any]]:
    """The same launches, neighbours that are compiled joined into walks; walks among them are taken apart first."""
    if library() is None:
        return list(launches)
    joined: list[Callable[[], Any]] = []
    compiled: list[Any] = []
    launches = [launch for each in launches for launch in (each.launches if isinstance(each, Walk) else [each])]

    def flush() -> None:
        if compiled:
            joined.append(Walk(compiled))
            compiled.clear()

    for launch in launches:
        if hasattr(launch, "keep"):
            compiled.append(launch)
        else:
            flush()
            joined.append(launch)
    flush()
    return joined
