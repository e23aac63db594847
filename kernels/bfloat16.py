"""Rounding to bfloat16, for matrix products and for kernels on matrices that are stored in it."""

from ._compiler.bfloat16 import rounded
from ._compiler.registry import elementwise


@elementwise("float32 x -> uint16 bits", "bits = Bfloat16(x).bits;")
def to_bfloat16(x):
    """The nearest bfloat16, ties to even; NaN stays NaN. |error| ≤ 2⁻⁸|x|."""
    return rounded(x)
