"""Matrix products on fixed buffers, for either library: operands are checked once, when they are bound."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np


def bind_xp_matmul(xp: Any, a: Any, b: Any, out: Any) -> Callable[[], Any]:
    """Bind out = a b (E1, E5, E6) on fixed buffers, computed by the `matmul` of NumPy or CuPy.

    Parameters
    ----------
    xp : module
        numpy or cupy.
    a, b, out : array, shapes (…, n, k), (…, k, m) and (…, n, m)
        Arrays of `xp` with one floating-point dtype and equal leading axes. `out` is C-contiguous and shares no memory
        with `a` or `b`, which may be transposed. Nothing is broadcast or cast.

    Returns
    -------
    callable without arguments

    Raises
    ------
    TypeError
        For another kind of array, or unequal dtypes.
    ValueError
        For shapes and layouts that do not match, and for overlapping buffers.
    """
    check_operands(xp, a, b, out)
    return functools.partial(xp.matmul, a, b, out=out)


def check_operands(xp: Any, a: Any, b: Any, out: Any, *, bfloat16: bool = False) -> None:
    """Raise what `bind_xp_matmul` documents. With `bfloat16`, operands and result may be uint16 bit patterns."""
    _check_types(xp, {"a": a, "b": b, "out": out}, bfloat16=bfloat16)
    fits = a.ndim == b.ndim == out.ndim >= 2 and a.shape[:-2] == b.shape[:-2] and a.shape[-1] == b.shape[-2]
    if not fits or tuple(out.shape) != (*a.shape[:-1], b.shape[-1]):
        got = ", ".join(f"{name} {tuple(array.shape)}" for name, array in (("a", a), ("b", b), ("out", out)))
        raise ValueError(f"matmul: shapes must be a (…, n, k), b (…, k, m) and out (…, n, m), got {got}; no broadcast")
    # into any other layout NumPy and CuPy write through a hidden copy
    if not out.flags.c_contiguous:
        raise ValueError("matmul: out must be C-contiguous; bind a whole buffer or a block of its rows")
    # CuPy's flags have no such entry: its arrays are always writable
    if not getattr(out.flags, "writeable", True):
        raise ValueError("matmul: out must be writable, got a read-only array; bind another buffer")
    for name, operand in (("a", a), ("b", b)):
        if xp.may_share_memory(operand, out):
            raise ValueError(f"matmul: out overlaps {name}; the product would overwrite its operand")


def _check_types(xp: Any, arrays: dict[str, Any], *, bfloat16: bool) -> None:
    for name, array in arrays.items():
        if not isinstance(array, xp.ndarray):
            kind = f"{type(array).__module__}.{type(array).__name__}"
            raise TypeError(f"matmul: {name} must be a {xp.__name__}.ndarray, got a {kind}; see Backend.asarray")
    a, b, out = (array.dtype for array in arrays.values())
    patterns = bfloat16 and a == b == np.uint16 and out in (np.uint16, np.float32)
    if not patterns and not (a == b == out and out.kind == "f"):
        got = ", ".join(f"{name} {array.dtype}" for name, array in arrays.items())
        raise TypeError(f"matmul: operands must have one floating-point dtype, got {got}; cast before binding")
