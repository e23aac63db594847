"""The import of CuPy, and the probe: a GPU is used only after a kernel and a product gave the right numbers on it."""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import sys
from types import ModuleType
from typing import Any

import numpy as np

from ..errors import Fault
from .errors import (
    conflicting_wheels,
    cupy_missing,
    diagnose,
    import_failed,
    namespace_package,
    no_device,
    wrong_numbers,
)
from .installation import installed_cupy
from .memory import format_bytes


def load_cupy() -> ModuleType | Fault:
    """Import CuPy, or return the fault that prevents it. Takes little time if CuPy is not installed."""
    if sys.modules.get("cupy") is None:
        spec = importlib.util.find_spec("cupy")
        if spec is None:
            return cupy_missing()
        if spec.origin is None and isinstance(spec.loader, (type(None), importlib.machinery.NamespaceLoader)):
            return _or_conflicting_wheels(namespace_package([str(p) for p in spec.submodule_search_locations or []]))
    try:
        cupy = importlib.import_module("cupy")
    except Exception as error:
        fault = diagnose(error)
        return _or_conflicting_wheels(fault if fault.kind in ("driver", "nvrtc", "cublas") else import_failed(error))
    if not hasattr(cupy, "ndarray") or not hasattr(cupy, "cuda"):
        return _or_conflicting_wheels(namespace_package([str(p) for p in getattr(cupy, "__path__", [])]))
    return cupy


def probe(cupy: Any, index: int) -> str | Fault:
    """Run z = x·y + 1 and C = A B on device `index`: return its description if both are correct, else the fault.

    All numbers are small integers, so float32 is exact for every order of summation, with or without fused
    multiply-add or TF32, and the comparison needs no tolerance.
    """
    device = f"cuda:{index}"
    try:
        visible = int(cupy.cuda.runtime.getDeviceCount())
        if index >= visible:
            return no_device(device, visible)
        with cupy.cuda.Device(index):
            if not _kernel_is_right(cupy):
                return _or_conflicting_wheels(wrong_numbers(device, "a kernel"))
            if not _product_is_right(cupy):
                return _or_conflicting_wheels(wrong_numbers(device, "a matrix product"))
        return describe(cupy, index)
    except Exception as error:
        return _or_conflicting_wheels(diagnose(error, cupy, device))


def describe(cupy: Any, index: int) -> str:
    """Name and memory of a device: "NVIDIA H200, 139.1 GiB of 139.8 GiB free"."""
    with cupy.cuda.Device(index):
        free, total = cupy.cuda.runtime.memGetInfo()
    name = cupy.cuda.runtime.getDeviceProperties(index)["name"]
    return f"{name.decode()}, {format_bytes(free)} of {format_bytes(total)} free"


def _kernel_is_right(cupy: Any) -> bool:
    kernel = cupy.ElementwiseKernel("T x, T y", "T z", "z = x * y + (T)1", "gpunn_probe")
    x = np.arange(1000, dtype=np.float32)
    y = x % 7
    return np.array_equal(kernel(cupy.asarray(x), cupy.asarray(y)).get(), x * y + 1)


def _product_is_right(cupy: Any) -> bool:
    a = np.arange(32 * 48, dtype=np.float32).reshape(32, 48) % 5 - 2
    b = np.arange(48 * 16, dtype=np.float32).reshape(48, 16) % 3 - 1
    out = cupy.empty((32, 16), dtype=np.float32)
    cupy.matmul(cupy.asarray(a), cupy.asarray(b), out=out)
    return np.array_equal(out.get(), a @ b)


def _or_conflicting_wheels(fault: Fault) -> Fault:
    """The fault, or several installed wheels: they overwrite each other, which breaks any part of CuPy."""
    installed = installed_cupy()
    independent = fault.kind in ("driver", "device", "memory", "cache")
    return fault if independent or len(installed) < 2 else conflicting_wheels(installed)
