"""The shim between gpunn and its two array libraries, NumPy on the CPU and CuPy on a GPU.

`get` chooses the device; a `Backend` allocates, transfers, synchronises and binds matrix products; `doctor`
says what is wrong. Importing this touches no CuPy: only `get`, asked for "auto" or "cuda", and `doctor` do.
"""

from .arrays import array_module, device_of, from_cuda_interface, is_device_array, to_host
from .cpu.native import preload
from .cuda.matmul import ProductWarning
from .devices import Backend, DeviceError, DeviceFallbackWarning, get
from .diagnosis import Check, Report, doctor

__all__ = [
    "Backend",
    "Check",
    "DeviceError",
    "DeviceFallbackWarning",
    "ProductWarning",
    "Report",
    "array_module",
    "device_of",
    "doctor",
    "from_cuda_interface",
    "get",
    "is_device_array",
    "preload",
    "to_host",
]
