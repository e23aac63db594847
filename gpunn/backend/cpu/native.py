"""The C++ libraries of the CPU backend: the step executor with its thread pool, and products of small matrices."""

from __future__ import annotations

import ctypes
import functools
import re
import threading
from pathlib import Path

from ...kernels._compiler import cpu_cache
from ...kernels._compiler.compiler import Source

# unlike a kernel, a product may contract a·b + c
FLAGS = ("-ffp-contract=fast", "-pthread")
INCLUDE = re.compile(r'^#include "(.+)"$', re.MULTILINE)
C_TYPES = {"float32": "float", "float64": "double"}

_lock = threading.Lock()
_libraries: dict[Source, ctypes.CDLL | None] = {}


@functools.cache
def executor_source() -> Source:
    """The source of the step executor, with the call of BLAS."""
    symbols = "run_cycle", "time_task", "use_blas_threads", "limit_blas_threads"
    return Source("executor", _text("executor.cpp"), FLAGS, symbols)


@functools.cache
def gemm_source(dtype: str) -> Source:
    """The source of the products of small matrices of one type."""
    flags = (*FLAGS, f"-DGEMM_TYPE={C_TYPES[dtype]}", f"-DGEMM_NAME(f)=f##__{dtype}")
    return Source(
        f"small_gemm {dtype}", _text("small_gemm.cpp"), flags, (f"small_gemm__{dtype}", f"vector_bytes__{dtype}")
    )


def sources() -> list[Source]:
    """All sources of this package."""
    return [executor_source(), *map(gemm_source, C_TYPES)]


def executor_library() -> ctypes.CDLL | None:
    """The step executor, compiled at first use; None if it cannot be compiled (`gpunn doctor` gives the reason)."""
    return _load(executor_source())


def gemm_library(dtype: str) -> ctypes.CDLL | None:
    """The products of small matrices of one type, or None as for `executor_library`."""
    return _load(gemm_source(dtype))


def preload() -> None:
    """Compile or load the libraries that a float32 step needs."""
    executor_library()
    gemm_library("float32")


def _load(source: Source) -> ctypes.CDLL | None:
    if not cpu_cache.compilation_enabled():
        return None
    if source not in _libraries:
        with _lock:
            if source not in _libraries:
                _libraries[source] = _declared(cpu_cache.load(source))
    return _libraries[source]


def _declared(library: ctypes.CDLL | None) -> ctypes.CDLL | None:
    """A library whose functions have types."""
    pointer, integer = ctypes.c_void_p, ctypes.c_longlong
    if library is not None and hasattr(library, "run_cycle"):
        library.run_cycle.argtypes = (pointer, integer, pointer, integer, pointer, integer, ctypes.c_double)
        library.run_cycle.restype = integer
        library.time_task.argtypes, library.time_task.restype = (pointer, integer, integer), ctypes.c_double
    return library


def _text(file: str) -> str:
    """The text of a file with its local headers in place: the cache names a library by the hash of one text."""
    text = Path(__file__).with_name(file).read_text(encoding="utf-8")
    return INCLUDE.sub(lambda include: _text(include[1]), text)
