"""Every fused kernel of gpunn, one family a file: one C++ text for both machines and the NumPy body that defines it.

Importing this package registers all kernels and compiles none. `get(name)` and `all_kernels()` give them out;
`python -m gpunn.kernels build` compiles the texts for this CPU ahead of time.
"""

import importlib
import pkgutil

from ._compiler.activation import ActivationKernels, activation, activation_kernels
from ._compiler.bfloat16 import widened
from ._compiler.cuda_launch import DeviceLaunch
from ._compiler.definition import ADD, MAX_OF_MAGNITUDES, Combine, Guard
from ._compiler.registry import (
    Kernel,
    Launch,
    all_kernels,
    bind_all,
    by_row,
    elementwise,
    get,
    reduction,
)

for _found in pkgutil.iter_modules(__path__):
    if not _found.name.startswith("_"):
        importlib.import_module(f".{_found.name}", __name__)

__all__ = [
    "ADD",
    "MAX_OF_MAGNITUDES",
    "ActivationKernels",
    "Combine",
    "DeviceLaunch",
    "Guard",
    "Kernel",
    "Launch",
    "activation",
    "activation_kernels",
    "all_kernels",
    "bind_all",
    "by_row",
    "elementwise",
    "get",
    "reduction",
    "widened",
]
