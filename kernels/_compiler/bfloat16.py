"""Numbers held in bfloat16: float32's sign and exponent with 8 bits of precision, as bit patterns in uint16.

NumPy and CuPy have no such type. A text meets it where its signature says H (see `_signature`), and `to_bfloat16`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from .definition import KernelDefinition


def rounded(x: Any) -> Any:
    """The bits of the nearest bfloat16, of two equally near the one whose last bit is 0; NaN stays NaN."""
    pattern = np.ascontiguousarray(x, np.float32).view(np.uint32)
    up = pattern + np.uint32(0x7FFF) + (pattern >> 16 & 1)
    return np.where(np.isnan(x), pattern >> 16 | 0x40, up >> 16).astype(np.uint16)


def widened(bits: Any) -> Any:
    """The float32 that a bfloat16 is."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def narrowed(kernel: KernelDefinition) -> KernelDefinition:
    """The kernel with a NumPy body for arrays of type H in bfloat16: widened before, rounded after."""
    reference: Callable[..., Any] = kernel.reference
    held = {o.name for o in kernel.signature.arrays if o.type == "H"}

    @functools.wraps(reference)
    def on_bits(**arguments: Any) -> Any:
        result = reference(**{k: widened(x) if k in held else x for k, x in arguments.items()})
        if isinstance(result, tuple):
            pairs = zip(kernel.signature.outputs, result, strict=True)
            return tuple(rounded(x) if o.name in held else x for o, x in pairs)
        return rounded(result) if kernel.signature.outputs[0].name in held else result

    return replace(kernel, reference=on_bits)
