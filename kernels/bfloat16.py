"""Rounding to bfloat16: float32's sign and exponent with 8 bits of precision, kept as a bit pattern of 16 bits.

NumPy and CuPy have no such type, so that only products read it.
"""

import numpy as np

from ._registry import elementwise


@elementwise(
    "float32 x -> uint16 bits",
    """union { float number; unsigned int pattern; } u;
       u.number = x;
       const unsigned int last = u.pattern >> 16 & 1u;
       bits = (unsigned short)(x != x ? u.pattern >> 16 | 0x40u : (u.pattern + 0x7fffu + last) >> 16);""",
)
def to_bfloat16(x):
    """The nearest bfloat16, of two equally near the one whose last bit is 0; NaN stays NaN. |error| ≤ 2⁻⁸|x|."""
    pattern = np.ascontiguousarray(x).view(np.uint32)
    rounded = pattern + np.uint32(0x7FFF) + (pattern >> 16 & 1)
    return np.where(np.isnan(x), pattern >> 16 | 0x40, rounded >> 16).astype(np.uint16)
