"""Self-tests of cuBLASLt: each epilogue is verified once per dtype and precision before it is used.

Operands are small integers, so that every term and every result is exact in float32, TF32 and bfloat16. (bfloat16
represents integers up to 256; the column sums are in float32.) Some elements of z are 0: f′ of ReLU is 0 there (E2),
and a library may define it otherwise. NVIDIA's own tests of the mask (nvmath-python,
test_matmul_with_hypothesis.py) expect a bit that is set where z ≥ 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...kernels import activation_kernels, widened
from ...kernels import get as kernel
from .layouts import EPILOGUES, mask_bytes

ROWS, INNER, COLUMNS, UPSTREAM = 24, 16, 40, 8
# of the largest element: the rounding of GELU's tanh, which is fused only in TF32 and bfloat16
GELU_TOLERANCE = 2.0**-8

Bind = Callable[..., Any]


def verify_epilogue(xp: Any, bind: Bind, dtype: str, precision: str | None, result: str, epilogue: str) -> bool:
    """Run an epilogue on small integers and compare with NumPy.

    An epilogue that reads a mask or z is verified together with the one that writes it. Exceptions of `bind` propagate.

    Parameters
    ----------
    xp : module
        cupy.
    bind : callable
        `CublasLt.bind` without the self-test.
    dtype, precision, result, epilogue : str
        The type of the operands ("uint16" for bfloat16), the precision, the type of the result, a key of `EPILOGUES`.

    Returns
    -------
    bool
        True if all results are right.
    """
    return _SelfTest(xp, bind, dtype, precision, result).passes(epilogue)


class _SelfTest:
    """Operands of one self-test, and the products that it binds."""

    def __init__(self, xp: Any, bind: Bind, dtype: str, precision: str | None, result: str) -> None:
        self.xp = xp
        self.bind = bind
        self.dtype = dtype
        self.precision = precision
        self.result = result
        self.rng = np.random.default_rng(0)

    def passes(self, epilogue: str) -> bool:
        a = self._integers(ROWS, INNER)
        W = self._integers(INNER, COLUMNS)
        b = self._integers(COLUMNS)
        W[:, 1::4] = b[1::4] = 0
        if "gelu" in epilogue:
            # GELU differs from ReLU only near 0
            a, b = a / 8, b / 8
        product = np.einsum("ik,kj->ij", a, W)
        if epilogue == "none":
            return bool(np.array_equal(self._run(a, W), product))
        if epilogue == "sums":
            sums = self._empty(COLUMNS)
            # a column-major first operand, as in ∂W = a_prevᵀ δ (E6) with ∂b = Σ δ (E7)
            out = self._run(np.asfortranarray(a), W, epilogue=epilogue, bias=sums)
            return np.array_equal(out, product) and np.array_equal(_to_float(sums), W.sum(axis=0))
        return self._activation_passes(epilogue, a, W, b, product + b)

    def _activation_passes(self, epilogue: str, a: np.ndarray, W: np.ndarray, b: np.ndarray, z: np.ndarray) -> bool:
        """Verify a forward epilogue, and the backward one if the epilogue uses an auxiliary matrix."""
        name = next((f for f in ("relu", "gelu") if f in epilogue), "identity")
        f = activation_kernels(name)
        aux = self._new_aux(name) if EPILOGUES[epilogue].aux else None
        forward = epilogue if aux is None else {"relu": "relu_mask", "gelu": "gelu_z"}[name]
        delta = self._integers(ROWS, UPSTREAM)
        upstream = self._integers(COLUMNS, UPSTREAM)
        out = self._run(a, W, epilogue=forward, bias=self._to_device(b, self.result), aux=aux)
        if not _matches(out, f.f(z), name):
            return False
        if aux is None:
            return True
        backward = epilogue if epilogue.startswith("d") else f"d{name}"
        sums = self._empty(COLUMNS) if backward.endswith("_sums") else None
        out = self._run(delta, upstream.T, epilogue=backward, bias=sums, aux=aux)
        expected = f.derivative(z if name == "gelu" else f.f(z)) * np.einsum("ij,kj->ik", delta, upstream)
        if not _matches(out, expected, name):
            return False
        return sums is None or _matches(_to_float(sums), expected.sum(axis=0), name)

    def _integers(self, *shape: int) -> np.ndarray:
        return self.rng.integers(-3, 4, shape).astype("float64" if self.dtype == "float64" else "float32")

    def _empty(self, *shape: int) -> Any:
        return self.xp.empty(shape, np.dtype(self.result))

    def _new_aux(self, name: str) -> Any:
        if name == "gelu":
            return self._empty(ROWS, COLUMNS)
        return self.xp.empty((ROWS, mask_bytes(COLUMNS)), np.uint8)

    def _to_device(self, x: np.ndarray, storage: str) -> Any:
        array = self.xp.asarray(x)
        return kernel("to_bfloat16")(array) if storage == "uint16" else array

    def _operand(self, x: np.ndarray) -> Any:
        """An operand on the device, in the memory order of `x`."""
        if x.flags.c_contiguous:
            return self._to_device(x, self.dtype)
        return self._to_device(np.ascontiguousarray(x.T), self.dtype).T

    def _run(self, a: np.ndarray, b: np.ndarray, **options: Any) -> np.ndarray:
        """Compute a b with an epilogue on the device."""
        out = self._empty(a.shape[0], b.shape[1])
        self.bind(self._operand(a), self._operand(b), out, precision=self.precision, **options)()
        return _to_float(out)


def _to_float(x: Any) -> np.ndarray:
    host: np.ndarray = x.get()
    return widened(host) if x.dtype == np.uint16 else host


def _matches(found: np.ndarray, expected: np.ndarray, activation: str) -> bool:
    difference = np.abs(found - expected).max()
    # a NaN compares false
    return bool(difference <= (GELU_TOLERANCE * np.abs(expected).max() if activation == "gelu" else 0))
