"""The fused kernels of gpunn, one family per file. A kernel has one C++ source for CPU and GPU, and a NumPy reference.

Importing this package registers all kernels and compiles none. `get(name)` returns a kernel, `all_kernels()` all of
them. `python -m gpunn.kernels build` compiles all sources for this CPU in advance.

How to add a kernel:

1. In a file of this folder, decorate the NumPy reference with `elementwise`, `by_row` or `reduction`. All files without
   a leading underscore are imported; no list has to be edited.

       @elementwise("T z, row T b, scalar T alpha -> T a", "a = alpha * (z + b);")
       def scaled_sum(z, b, alpha):
           "a = α(z + b)."
           return alpha * (z + b)

   The signature is explained in `_compiler/signature.py`: type, name and kind of each operand. T is float32 or float64.
   The reference has the names of the inputs and scalars as its parameters and returns the outputs.
   A kernel with the operand `state` declares the entries that it accesses: `reads=(StateEntry.LR,)`, `writes=(…)`. A
   kernel by row declares which output may share the memory of which input: `in_place={"a": ("z",)}`.
2. Write C++ that is valid on a CPU and in CUDA: `(T)` before every literal, fabs instead of abs, comparisons that let
   NaN pass. A source by row loops over the columns from LANE in steps of LANES (`_compiler/warp_lanes.py`).
3. Run `pytest tests/unit/kernels tests/gpu/test_kernels.py`. The tests of a new kernel are generated: source against
   reference, for all types, sizes and layouts. An operand with a special meaning needs an entry in
   tests/helpers/kernel_cases.py. Add a test with values calculated by hand to tests/unit/kernels/test_values.py.
4. Call it: `a = get("scaled_sum")(z, b, alpha=0.5)`. The operands are the inputs, then the outputs that are updated:
   `theta = get("sgd")(g, state, theta)`. Layers, losses and optimizers call kernels in this way, on arrays and on
   tensors. `get("scaled_sum")(z, b, out=a, alpha=0.5)` writes to given arrays, and `bind` returns a launch to repeat.

`activation` declares the kernels of an activation (see relu.py), and `update_rule` those of an optimizer (see adam.py).
`summed`, or `column_sums=True` of an activation, declares a kernel that also sums the columns of its output.
"""

import importlib
import pkgutil

from ._compiler.activation import ActivationKernels, activation, activation_kernels, all_activations
from ._compiler.bfloat16 import widened
from ._compiler.cpu_cache import SlowPathWarning
from ._compiler.cuda_launch import DeviceLaunch
from ._compiler.definition import ADD, MAX_OF_MAGNITUDES, Combine, Guard
from ._compiler.registry import (
    Kernel,
    KernelCall,
    Launch,
    all_kernels,
    bind_all,
    by_row,
    elementwise,
    get,
    reduction,
)
from ._compiler.summed import summed
from ._compiler.update_rule import UpdateRule, update_rule

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
    "KernelCall",
    "Launch",
    "SlowPathWarning",
    "UpdateRule",
    "activation",
    "activation_kernels",
    "all_activations",
    "all_kernels",
    "bind_all",
    "by_row",
    "elementwise",
    "get",
    "reduction",
    "summed",
    "update_rule",
    "widened",
]


def __dir__() -> list[str]:
    return __all__
