"""Operations on arrays of either library, NumPy or CuPy. CuPy is not imported here.

A caller that holds a CuPy array has imported CuPy, so `sys.modules` suffices to recognize one.
"""

from __future__ import annotations

import contextlib
import sys
from contextlib import AbstractContextManager
from typing import Any

import numpy as np


def is_device_array(x: Any) -> bool:
    """True for a CuPy array."""
    cupy = sys.modules.get("cupy")
    return cupy is not None and isinstance(x, getattr(cupy, "ndarray", ()))


def array_module(x: Any) -> Any:
    """The library that computes with `x`: the module cupy for a CuPy array, else numpy."""
    return sys.modules["cupy"] if is_device_array(x) else np


def device_of(x: Any) -> AbstractContextManager[Any]:
    """A context in which the device of `x` is current: CuPy launches kernels on the current GPU, not on that of `x`."""
    return sys.modules["cupy"].cuda.Device(x.device.id) if is_device_array(x) else contextlib.nullcontext()


def to_host(x: Any) -> np.ndarray:
    """`x` as a NumPy array: copied from the GPU if it is a CuPy array, else `numpy.asarray(x)`."""
    if type(x) is np.ndarray:
        return x
    return np.asarray(x.get() if is_device_array(x) else x)
