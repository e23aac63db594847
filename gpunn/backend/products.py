"""Matrix products on fixed buffers: everything is checked once, when the buffers are bound."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any


def bind_matmul(xp: Any, a: Any, b: Any, out: Any) -> Callable[[], Any]:
    """A callable without arguments that runs out = a b (E1, E5, E6) on these very buffers.

    a (…, n, k), b (…, k, m), out (…, n, m): arrays of `xp`, of one floating-point dtype, equal leading axes;
    `out` C-contiguous and apart from `a` and `b`, which may be transposed. Nothing is broadcast or cast.
    Raises TypeError for another kind of array or unequal dtypes, ValueError for shapes, layout and overlap.
    """
    arrays = {"a": a, "b": b, "out": out}
    for name, array in arrays.items():
        if not isinstance(array, xp.ndarray):
            kind = f"{type(array).__module__}.{type(array).__name__}"
            raise TypeError(f"matmul: {name} is a {kind}, wanted a {xp.__name__}.ndarray; see Backend.asarray")
    if not (a.dtype == b.dtype == out.dtype and out.dtype.kind == "f"):
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
    return functools.partial(xp.matmul, a, b, out=out)
