"""Rounding to bfloat16, which only products and kernels of matrices held in it read."""

from ._compiler.bfloat16 import rounded
from ._compiler.registry import elementwise


@elementwise("float32 x -> uint16 bits", "bits = Bfloat16(x).bits;")
def to_bfloat16(x):
    """The nearest bfloat16, of two equally near the one whose last bit is 0; NaN stays NaN. |error| ≤ 2⁻⁸|x|."""
    return rounded(x)
