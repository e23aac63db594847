"""Matrix products on fixed buffers: everything is checked once, when the buffers are bound."""

from __future__ import annotations

import functools
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ...kernels import DeviceLaunch
from ...kernels import get as kernel
from . import cublaslt
from .errors import Fault
from .layouts import Unsupported, mask_bytes

MIN_COMPUTE_CAPABILITY = 80  # compute capability times ten: what multiplies TF32 and bfloat16


class ProductWarning(UserWarning):
    """Matrix products on a GPU are launched one by one through CuPy and not captured; the message says why."""


@dataclass(frozen=True)
class AffineLaunch:
    """The launch of z = a W + b, or of f(z) too, as `result` says.

    kept  what f′ can be had from in a product, see `Backend.bind_dgrad`; None where nothing was kept
    """

    launch: Callable[[], Any]
    result: Literal["z", "a"]
    aux: Any = None


def bind_xp_matmul(xp: Any, a: Any, b: Any, out: Any) -> Callable[[], Any]:
    """A callable without arguments that runs out = a b (E1, E5, E6) on these very buffers.

    a (…, n, k), b (…, k, m), out (…, n, m): arrays of `xp`, of one floating-point dtype, equal leading axes;
    `out` C-contiguous and apart from `a` and `b`, which may be transposed. Nothing is broadcast or cast.
    Raises TypeError for another kind of array or unequal dtypes, ValueError for shapes, layout and overlap.
    """
    check_operands(xp, a, b, out)
    return functools.partial(xp.matmul, a, b, out=out)


def check_operands(xp: Any, a: Any, b: Any, out: Any, *, bfloat16: bool = False) -> None:
    """What `bind_matmul` raises. `rounded` operands are bfloat16's bit patterns, the result too or float32."""
    arrays = {"a": a, "b": b, "out": out}
    for name, array in arrays.items():
        if not isinstance(array, xp.ndarray):
            kind = f"{type(array).__module__}.{type(array).__name__}"
            raise TypeError(f"matmul: {name} is a {kind}, wanted a {xp.__name__}.ndarray; see Backend.asarray")
    patterns = bfloat16 and a.dtype == b.dtype == np.uint16 and out.dtype in (np.uint16, np.float32)
    if not patterns and not (a.dtype == b.dtype == out.dtype and out.dtype.kind == "f"):
        got = ", ".join(f"{name} {array.dtype}" for name, array in arrays.items())
        raise TypeError(f"matmul: wanted one floating-point dtype, got {got}; cast before binding")
    fits = a.ndim == b.ndim == out.ndim >= 2 and a.shape[:-2] == b.shape[:-2] and a.shape[-1] == b.shape[-2]
    if not fits or tuple(out.shape) != (*a.shape[:-1], b.shape[-1]):
        got = ", ".join(f"{name} {tuple(array.shape)}" for name, array in arrays.items())
        raise ValueError(f"matmul: wanted a (…, n, k), b (…, k, m) and out (…, n, m), got {got}; no broadcast")
    # into any other layout NumPy and CuPy write through a hidden copy
    if not out.flags.c_contiguous:
        raise ValueError("matmul: out must be C-contiguous; bind a whole buffer or a block of its rows")
    # CuPy's flags have no such entry: its arrays are always writable
    if not getattr(out.flags, "writeable", True):
        raise ValueError("matmul: out is read-only; bind a buffer of your own")
    for name in ("a", "b"):
        if xp.may_share_memory(arrays[name], out):
            raise ValueError(f"matmul: out overlaps {name}; the product would overwrite what it reads")


class GpuMatmul:
    """The products of one GPU: through cuBLASLt where it is there and takes them, else by CuPy, which is said once."""

    def __init__(self, xp: Any, device: str) -> None:
        self.xp, self.device = xp, device
        self._lt: cublaslt.CublasLt | Fault | None = None
        self._lock = threading.Lock()
        self._warned = False

    @property
    def lt(self) -> cublaslt.CublasLt | Fault:
        """cuBLASLt, opened at first use on the device that is current then, or why it cannot be."""
        with self._lock:
            if self._lt is None:
                self._lt = cublaslt.open_cublaslt(self.xp)
            return self._lt

    def lower_precision_error(self, capability: str) -> str:
        """Why there are no products in TF32 and bfloat16 here, with what to do; "" where there are."""
        if int(capability) < MIN_COMPUTE_CAPABILITY:
            return f"needs compute capability 8.0, and {self.device} has {int(capability) / 10}; leave precision out"
        lt = self.lt
        return f"needs cuBLASLt: {lt}; or leave precision out" if isinstance(lt, Fault) else ""

    def bind(self, a: Any, b: Any, out: Any, precision: str | None = None) -> Callable[[], Any]:
        """out = a b; see `bind_matmul`. a and b may be bfloat16's bit patterns where the precision is "bf16"."""
        check_operands(self.xp, a, b, out, bfloat16=precision == "bf16")
        if out.size == 0:
            return DeviceLaunch((), (), ())
        if a.shape[-1] == 0:  # of a process without rows: a sum of no terms is 0
            return kernel("column_sum").bind(self.xp.empty((0, out.size), out.dtype), out=out.reshape(-1))
        bf16 = a.dtype == np.uint16
        try:
            return self._bind(a, b, out, precision if bf16 or precision == "tf32" else None)
        except Unsupported as refusal:
            if bf16:
                shapes = f"{tuple(a.shape)} by {tuple(b.shape)}"
                raise RuntimeError(
                    f"precision='bf16': cuBLASLt takes no product of {shapes}: {refusal}; leave precision out"
                ) from None
            self._warn_once(str(refusal))
        return functools.partial(self.xp.matmul, a, b, out=out)

    def bind_with_epilogue(
        self, a: Any, b: Any, out: Any, precision: str | None, epilogue: str, bias: Any = None, aux: Any = None
    ) -> DeviceLaunch | None:
        """out = a b with what follows it, see `column_major`; None where that takes launches of their own."""
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

    def new_mask(self, n: int, m: int) -> Any:
        """Room for the rectifier's mask of n rows and m columns."""
        return self.xp.empty((n, mask_bytes(m)), np.uint8)

    def allocate_workspace(self, stream: Any) -> Any:
        """Make what products on a stream need, before it captures; to be held as long as the capture is used."""
        lt = self._lt
        return (
            lt.allocate_workspace(int(stream.ptr)) if isinstance(lt, cublaslt.CublasLt) and lt.workspace_bytes else None
        )

    def _warn_once(self, why: str) -> None:
        with self._lock:
            said, self._warned = self._warned, True
        if not said:
            warnings.warn(
                f"matrix products on {self.device} are launched through CuPy, one by one, which is slower: {why}",
                ProductWarning,
                stacklevel=4,
            )
