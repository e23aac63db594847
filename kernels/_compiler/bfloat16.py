"""Values stored in bfloat16: float32's sign and exponent with 8 bits of precision, as bit patterns in uint16.

NumPy and CuPy have no such type. In C++ it is the class Bfloat16 of bfloat16.h. Operands of type H use it (see
signature.py), and the kernel `to_bfloat16`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from .definition import KernelDefinition


def rounded(x: Any) -> Any:
    """The bits of the nearest bfloat16, ties to even; NaN stays NaN."""
    pattern = np.ascontiguousarray(x, np.float32).view(np.uint32)
    up = pattern + np.uint32(0x7FFF) + (pattern >> 16 & 1)
    return np.where(np.isnan(x), pattern >> 16 | 0x40, up >> 16).astype(np.uint16)


def widened(bits: Any) -> Any:
    """The float32 value of a bfloat16."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def on_bits(kernel: KernelDefinition) -> KernelDefinition:
    """The kernel with a NumPy reference for bfloat16 arrays of type H, which are widened before and rounded after."""
    reference: Callable[..., Any] = kernel.reference
    stored = {o.name for o in kernel.signature.arrays if o.type == "H"}

    @functools.wraps(reference)
    def reference_on_bits(**arguments: Any) -> Any:
        result = reference(**{k: widened(x) if k in stored else x for k, x in arguments.items()})
        if isinstance(result, tuple):
            pairs = zip(kernel.signature.outputs, result, strict=True)
            return tuple(rounded(x) if o.name in stored else x for o, x in pairs)
        return rounded(result) if kernel.signature.outputs[0].name in stored else result

    return replace(kernel, reference=reference_on_bits)
