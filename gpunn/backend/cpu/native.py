"""The C++ libraries of the CPU backend: the step executor with its thread pool, and products of small matrices."""

from __future__ import annotations

import ctypes
import re
import threading
from pathlib import Path

from ...kernels._compiler import cpu_cache

# unlike a kernel, a product may contract a·b + c
FLAGS = ("-ffp-contract=fast", "-pthread")
INCLUDE = re.compile(r'^#include "(.+)"$', re.MULTILINE)
C_TYPES = {"float32": "float", "float64": "double"}

_lock = threading.Lock()
_libraries: dict[tuple[str, ...], ctypes.CDLL | None] = {}


def executor_library() -> ctypes.CDLL | None:
    """The step executor, compiled at first use; None if it cannot be compiled (`gpunn doctor` gives the reason)."""
    return _load("executor.cpp")


def gemm_library(dtype: str) -> ctypes.CDLL | None:
    """The products of small matrices of one type, or None as for `executor_library`."""
    return _load("small_gemm.cpp", f"-DGEMM_TYPE={C_TYPES[dtype]}")


def preload() -> None:
    """Compile or load the libraries that a float32 step needs."""
    executor_library()
    gemm_library("float32")


def _load(file: str, *defines: str) -> ctypes.CDLL | None:
    if not cpu_cache.compilation_enabled():
        return None
    key = (file, *defines)
    if key not in _libraries:
        with _lock:
            if key not in _libraries:
                _libraries[key] = _compile(file, defines)
    return _libraries[key]


def _compile(file: str, defines: tuple[str, ...]) -> ctypes.CDLL | None:
    command = cpu_cache.compiler()
    if command is None:
        return None
    text = _source(file)
    try:
        library = ctypes.CDLL(str(cpu_cache.compile_source(text, command, (*FLAGS, *defines))))
    except (OSError, cpu_cache.CompileError):
        return None
    pointer, integer = ctypes.c_void_p, ctypes.c_longlong
    for function, arguments in (
        ("run_cycle", (pointer, integer, pointer, integer, pointer, integer, ctypes.c_double)),
        ("vector_bytes", ()),
    ):
        if hasattr(library, function):
            getattr(library, function).argtypes = arguments
            getattr(library, function).restype = integer
    return library


def _source(file: str) -> str:
    """The text of a file with its local headers in place: the cache names a library by the hash of one text."""
    text = Path(__file__).with_name(file).read_text(encoding="utf-8")
    return INCLUDE.sub(lambda include: _source(include[1]), text)
