"""Error bounds of the functions in vector_math.h, which replace the C library's in compiled kernels."""

from __future__ import annotations

# Maximum error in units in the last place of the exact result. The largest errors found are 0.91, 1.71, 2.48, 0.92 and
# 0.86, among all floats and 15 million doubles per function. Those of cospi and sinpi are 1.65 and 1.65, among all
# floats from 2⁻³⁰ to 1, to which larger ones are reduced exactly, and 14 million doubles.
ULP = {"exp": 1.0, "expm1": 2.0, "tanh": 3.0, "log1p": 1.0, "log": 1.0, "cospi": 2.0, "sinpi": 2.0}
