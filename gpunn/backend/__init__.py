"""The devices: NumPy on the CPU, CuPy on a GPU.

`get` selects a device. A `Backend` allocates and copies arrays, binds matrix products and runs recorded launches.
`doctor` diagnoses the installation. CuPy is imported only by `doctor`, and by `get` for "auto" and "cuda".
"""

from .arrays import array_module, device_of, is_device_array, to_host
from .base import Backend
from .cpu.native import preload
from .cuda.backend import from_cuda_interface
from .cuda.matmul import ProductWarning
from .diagnosis import Check, Report, doctor
from .errors import DeviceError, DeviceFallbackWarning
from .select import eager_setting, get, local_device

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
    "eager_setting",
    "from_cuda_interface",
    "get",
    "is_device_array",
    "local_device",
    "preload",
    "to_host",
]


def __dir__() -> list[str]:
    return __all__
