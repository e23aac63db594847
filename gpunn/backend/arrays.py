"""Which library an array belongs to, and the way back to NumPy. Nothing here imports CuPy."""

from __future__ import annotations

import contextlib
import sys
from contextlib import AbstractContextManager
from typing import Any

import numpy as np


def is_device_array(x: Any) -> bool:
    """True for a CuPy array. Whoever holds one has imported CuPy, so looking at `sys.modules` is enough."""
    kind = getattr(sys.modules.get("cupy"), "ndarray", None)
    return kind is not None and isinstance(x, kind)


def array_module(x: Any) -> Any:
    """The library whose functions take `x`: the module cupy for a CuPy array, else numpy."""
    return sys.modules["cupy"] if is_device_array(x) else np


def device_of(x: Any) -> AbstractContextManager[Any]:
    """A context for what is computed with x where it lies: CuPy launches on the current GPU, whichever that is."""
    return sys.modules["cupy"].cuda.Device(x.device.id) if is_device_array(x) else contextlib.nullcontext()


def from_cuda_interface(x: Any) -> Any:
    """An array that another library holds on a GPU and offers through `__cuda_array_interface__`, as a CuPy array."""
    import cupy

    return cupy.asarray(x)


def to_host(x: Any) -> np.ndarray:
    """`x` as a NumPy array: copied from the GPU if it lives there, else `numpy.asarray(x)`."""
    return np.asarray(x.get() if is_device_array(x) else x)
