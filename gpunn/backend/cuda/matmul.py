"""Matrix products of a GPU: through cuBLASLt, or through CuPy where cuBLASLt does not support them."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from ...kernels import DeviceLaunch
from ...kernels import get as kernel
from ...user_warnings import warn_user
from ..errors import Fault
from ..matmul import check_operands
from . import cublaslt
from .layouts import Unsupported

MIN_COMPUTE_CAPABILITY = 80  # times ten; for products in TF32 and bfloat16
# half the spacing at 1 for bfloat16 (8 bits, rounded); the spacing for TF32 (11 bits, may be truncated)
UNIT_ROUNDOFF = {"tf32": 2.0**-10, "bf16": 2.0**-8}


class ProductWarning(UserWarning):
    """Issued if CuPy launches the matrix products of a GPU one by one, not captured. The message gives the reason."""


class GpuMatmul:
    """The products of one GPU: through cuBLASLt if it supports them, else by CuPy, with one warning."""

    def __init__(self, xp: Any, device: str) -> None:
        self.xp = xp
        self.device = device
        self._lt: cublaslt.CublasLt | Fault | None = None
        self._lock = threading.Lock()
        self._warned = False

    @property
    def lt(self) -> cublaslt.CublasLt | Fault:
        """cuBLASLt, opened at first use on the current device, or the fault."""
        with self._lock:
            if self._lt is None:
                self._lt = cublaslt.open_cublaslt(self.xp)
            return self._lt

    def lower_precision_error(self, capability: str) -> str:
        """The reason why TF32 and bfloat16 are impossible here, with the remedy; "" if they are possible."""
        if int(capability) < MIN_COMPUTE_CAPABILITY:
            return f"needs compute capability 8.0, and {self.device} has {int(capability) / 10}; leave precision out"
        lt = self.lt
        return f"needs cuBLASLt: {lt}; or leave precision out" if isinstance(lt, Fault) else ""

    def bind(self, a: Any, b: Any, out: Any, precision: str | None = None) -> Callable[[], Any]:
        """Bind out = a b; see `gpunn.backend.matmul`. With precision "bf16", a and b may be bits of bfloat16."""
        check_operands(self.xp, a, b, out, bfloat16=precision == "bf16")
        if out.size == 0:
            return DeviceLaunch((), (), ())
        if a.shape[-1] == 0:  # a process without rows: a sum without terms is 0
            return kernel("column_sum").bind(self.xp.empty((0, out.size), out.dtype), out=out.reshape(-1))
        bf16 = a.dtype == np.uint16
        try:
            return self._bind(a, b, out, precision if bf16 or precision == "tf32" else None)
        except Unsupported as refusal:
            if bf16:
                shapes = f"{tuple(a.shape)} by {tuple(b.shape)}"
                raise RuntimeError(
                    f"precision='bf16': cuBLASLt does not support the product of {shapes}: {refusal}; "
                    "leave precision out"
                ) from None
            self._warn_once(str(refusal))
        return functools.partial(self.xp.matmul, a, b, out=out)

    def bind_with_epilogue(
        self, a: Any, b: Any, out: Any, precision: str | None, epilogue: str, bias: Any = None, aux: Any = None
    ) -> DeviceLaunch | None:
        """Bind out = a b with an epilogue, see `layouts`; None if the epilogue needs separate launches."""
        check_operands(self.xp, a, b, out, bfloat16=precision == "bf16")
        try:
            return self._bind(a, b, out, precision, epilogue=epilogue, bias=bias, aux=aux)
        except Unsupported:
            return None

    def _bind(self, a: Any, b: Any, out: Any, precision: str | None, **options: Any) -> DeviceLaunch:
        lt = self.lt
        if isinstance(lt, Fault):
            raise Unsupported(str(lt))
        return lt.bind(a, b, out, precision=precision, **options)

    def supports(self, operand: str, precision: str | None, result: str, epilogue: str) -> bool:
        """True if cuBLASLt has the epilogue for operands and results of these types, and its self-test passed."""
        lt = self.lt
        return not isinstance(lt, Fault) and lt.supports(operand, precision, result, epilogue)

    def allocate_workspace(self, stream: Any) -> Any:
        """Allocate the workspace of a stream before it captures. The caller keeps it as long as the captured graph."""
        lt = self._lt
        return (
            lt.allocate_workspace(int(stream.ptr)) if isinstance(lt, cublaslt.CublasLt) and lt.workspace_bytes else None
        )

    def _warn_once(self, reason: str) -> None:
        with self._lock:
            first = not self._warned
            self._warned = True
        if first:
            warn_user(
                f"matrix products on {self.device} are launched through CuPy, one by one, which is slower: {reason}",
                ProductWarning,
            )
