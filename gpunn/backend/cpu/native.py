"""The compiled libraries of the CPU's backend: the walk with its team of threads, and products in registers."""

from __future__ import annotations

import ctypes
import threading

from ...kernels._compiler import host
from . import sources

_lock = threading.Lock()
_libraries: dict[str, ctypes.CDLL | None] = {}


def executor_library() -> ctypes.CDLL | None:
    """The walk and the call of BLAS, compiled at first use; None where nothing is (`gpunn doctor` says why)."""
    return _load("walk")


def gemm_library(dtype: str) -> ctypes.CDLL | None:
    """Products of small matrices of one type, as `executor_library`."""
    return _load(dtype)


def preload() -> None:
    """Have what a step in float32 takes at hand."""
    executor_library()
    gemm_library("float32")


def _load(name: str) -> ctypes.CDLL | None:
    if not host.compilation_enabled():
        return None
    with _lock:
        if name not in _libraries:
            command, text = host.compiler(), sources.WALK if name == "walk" else sources.products(name)
            try:
                made = None if command is None else host.compile_source(text, command, sources.FLAGS)
                _libraries[name] = None if made is None else ctypes.CDLL(str(made))
            except (OSError, host.CompileError):
                _libraries[name] = None
            for function in ("walk", "walk_epochs", "vector_bytes"):
                if _libraries[name] is not None and hasattr(_libraries[name], function):
                    getattr(_libraries[name], function).restype = ctypes.c_longlong
        return _libraries[name]
