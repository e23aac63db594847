"""Is cuBLASLt doing what it is taken to do? Each of its epilogues is believed after a trial, once a type and precision.

Small whole numbers, so that every sum is exact in float32, TF32 and bfloat16 alike, as a term and as a result (whole
numbers up to 256 are bfloat16's own; the sums over rows are in float32). Among the aggregates z are zeros:
the slope of the rectifier is 0 there (E2), and a library may hold another opinion of it. NVIDIA's own tests of the mask
(nvmath-python, test_matmul_with_hypothesis.py) expect a bit that stands where z ≥ 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...kernels import activation_kernels, widened
from ...kernels import get as kernel
from .layouts import EPILOGUES, mask_bytes

ROWS, TERMS, COLUMNS, UPSTREAM = 24, 16, 40, 8
GELU_TOLERANCE = (
    2.0**-8
)  # of the largest, for GELU's tanh, which is used where products are no better, and for its rounding

Bind = Callable[..., Any]


def verify_epilogue(xp: Any, bind: Bind, dtype: str, precision: str | None, result: str, epilogue: str) -> bool:
    """Whether the launches that `bind` gives compute an epilogue rightly; what reads a mask or z is tried with what
    writes it. Raises what `bind` raises."""
    rng = np.random.default_rng(0)

    def integers(*shape: int) -> np.ndarray:
        return rng.integers(-3, 4, shape).astype("float64" if dtype == "float64" else "float32")

    def put(x: np.ndarray, held: str = dtype) -> Any:
        there = xp.asarray(x)
        return kernel("to_bfloat16")(there) if held == "uint16" else there

    def numbers(there: Any) -> np.ndarray:
        found: np.ndarray = there.get()
        return widened(found) if there.dtype == np.uint16 else found

    a, W, b = integers(ROWS, TERMS), integers(TERMS, COLUMNS), integers(COLUMNS)
    W[:, 1::4] = b[1::4] = 0
    if "gelu" in epilogue:
        # where it differs from other rectifiers
        a, b = a / 8, b / 8
    delta, above = integers(ROWS, UPSTREAM), integers(COLUMNS, UPSTREAM)
    z = np.einsum("ik,kj->ij", a, W) + (b if EPILOGUES[epilogue].reduces != "b" and epilogue != "none" else 0)
    out, sums = xp.empty(z.shape, np.dtype(result)), xp.empty((COLUMNS,), np.dtype(result))
    if epilogue == "sums":
        # as ∂W = a_prevᵀ δ and ∂b = Σ δ have it
        bind(put(a.T.copy()).T, put(W), out, precision=precision, epilogue=epilogue, bias=sums)()
        return np.array_equal(numbers(out), z) and np.array_equal(numbers(sums), W.sum(axis=0))
    if epilogue == "none":
        bind(put(a), put(W), out, precision=precision)()
        return np.array_equal(numbers(out), z)
    f = "relu" if "relu" in epilogue else "gelu" if "gelu" in epilogue else "identity"
    keeps = bool(EPILOGUES[epilogue].aux)
    aux = None if not keeps else xp.empty(z.shape, np.dtype(result)) if f == "gelu" else xp.empty(
        (ROWS, mask_bytes(COLUMNS)), np.uint8
    )  # fmt: skip
    forward = {"relu": "relu_mask", "gelu": "gelu_z"}[f] if keeps else epilogue
    bind(put(a), put(W), out, precision=precision, epilogue=forward, bias=put(b, result), aux=aux)()
    kernels = activation_kernels(f)
    right = _close(numbers(out), kernels.f(z), f)
    if not keeps or not right:
        return right
    backward = epilogue if epilogue.startswith("d") else f"d{f}"
    bias = sums if backward.endswith("_sums") else None
    bind(put(delta), put(above).T, out, precision=precision, epilogue=backward, bias=bias, aux=aux)()
    wanted = kernels.derivative(z if f == "gelu" else kernels.f(z)) * np.einsum("ij,kj->ik", delta, above)
    right = _close(numbers(out), wanted, f)
    return right and (bias is None or _close(numbers(sums), wanted.sum(axis=0), f))


def _close(found: np.ndarray, wanted: np.ndarray, f: str) -> bool:
    apart = np.abs(found - wanted).max()
    return bool(apart <= (GELU_TOLERANCE * np.abs(wanted).max() if f == "gelu" else 0))  # False where NaN is
