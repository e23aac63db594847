"""Operands of products in bfloat16: matrices that are stored in it, and copies of others, rounded once.

The batch, the activations and δ are rounded by the launch that writes them and never exist in float32. Copies, mostly
of weights, are recorded where an operand is first read, and again after it was written. So one launch rounds all
weights in the forward pass, and the backward pass reads the same copies. A recorded list always runs from its start, so
it rounds what others wrote between two runs. Within several consecutive steps the optimizer writes the copy of the
weights together with the weights.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...kernels import get as kernel

# half the spacing at 1 for bfloat16 (8 bits, rounded); the spacing for TF32 (11 bits, may be truncated)
UNIT_ROUNDOFF = {"tf32": 2.0**-10, "bf16": 2.0**-8}
MULTIPLE = 8  # elements: rows of copies start at multiples of 16 bytes, as fast products require

Recorded = tuple[Any, tuple[Any, ...], Any, Any, dict[str, float]]  # a kernel, its inputs, its output, count, numbers


class Operands:
    """The operands that products read: the arrays themselves."""

    bytes = 0  # size of the copies

    def register_flat(self, flat: Any) -> None:
        """Register a flat buffer whose slices are read often and written together."""

    def flat_is_current(self) -> bool:
        """True if there is a copy of the flat buffer that equals it."""
        return False

    def bf16_copy(self, part: Any) -> Any:
        """The copy of a slice of the flat buffer, or None if there is no current one."""
        return None

    def mark_current(self) -> None:
        """Declare that the copy from `bf16_copy` was written together with its slice."""

    def storage_dtype(self, columns: int) -> Any:
        """The type of a matrix that only products read and write; None for the network's dtype."""
        return None

    def copy_into(self, x: Any, into: Any) -> None:
        """Compute into ← x, for `into` of the type that `storage_dtype` returned."""
        into[...] = x

    def accumulate_in_float32(self, into: Any) -> tuple[Any, list[Recorded]]:
        """The array in which the sum that `into` receives is computed, and the conversions to record after it."""
        return into, []

    def bias_operand(self, b: Any, z: Any) -> tuple[Any, list[Recorded]]:
        """The operand for the vector b of a product that writes z, and the conversions to record before it."""
        return b, []

    def operand(self, a: Any) -> tuple[Any, list[Recorded]]:
        """The operand for `a`, and the conversions to record before it."""
        return a, []

    def invalidate(self, *arrays: Any) -> None:
        """Declare that the last recorded launch writes these arrays."""

    def invalidate_all(self) -> None:
        """Declare that any array may have been written."""


class Bfloat16Operands(Operands):
    """Operands in bfloat16: matrices stored in it, and copies of float32 matrices."""

    def __init__(self, backend: Any) -> None:
        self.backend = backend
        self._copies: dict[Any, tuple[Any, Any]] = {}  # by address and layout: an array and its copy
        self._current: set[Any] = set()
        self._flat: Any = None

    def register_flat(self, flat: Any) -> None:
        self._flat = flat

    def flat_is_current(self) -> bool:
        return self._flat is not None and self._key(self._flat) in self._current

    def bf16_copy(self, part: Any) -> Any:
        start = self._within(part) if self.flat_is_current() else None
        return None if start is None else self._copies[self._key(self._flat)][1][start : start + part.size]

    def mark_current(self) -> None:
        self._current.add(self._key(self._flat))

    def storage_dtype(self, columns: int) -> Any:
        return np.dtype(np.uint16) if columns % MULTIPLE == 0 else None

    def copy_into(self, x: Any, into: Any) -> None:
        if into.dtype == np.uint16:
            kernel("to_bfloat16")(x.astype(np.float32, copy=False), out=into)
        else:
            into[...] = x

    def accumulate_in_float32(self, into: Any) -> tuple[Any, list[Recorded]]:
        if into.dtype != np.uint16:
            return into, []
        sums = self.backend.empty(into.shape, np.float32)
        self.bytes += sums.nbytes
        return sums, [(kernel("to_bfloat16"), (sums,), into, None, {})]

    def bias_operand(self, b: Any, z: Any) -> tuple[Any, list[Recorded]]:
        return (b, []) if z.dtype == b.dtype else self._copy_of(b, transposed=False)

    def operand(self, a: Any) -> tuple[Any, list[Recorded]]:
        if a.ndim != 2 or a.dtype != np.float32:
            return a, []
        # a matrix and its transpose share memory, and a copy
        return self._copy_of(a, transposed=not a.flags.c_contiguous and a.T.flags.c_contiguous)

    def _copy_of(self, a: Any, *, transposed: bool) -> tuple[Any, list[Recorded]]:
        base = a.T if transposed else a
        start = self._within(base)
        if start is not None:
            copy, made = self._copied(self._flat)
            copy = copy[start : start + base.size].reshape(base.shape)
        else:
            copy, made = self._copied(base)
        return copy.T if transposed else copy, made

    def _within(self, a: Any) -> int | None:
        """The offset of `a` in the flat buffer if the buffer's copy serves products as well, else None."""
        if self._flat is None or a is self._flat:
            return None
        start, rest = divmod(int(a.data.ptr) - int(self._flat.data.ptr), self._flat.itemsize)
        inside = a.flags.c_contiguous and rest == 0 and 0 <= start <= self._flat.size - a.size
        return start if inside and start % MULTIPLE == 0 and (a.ndim == 1 or a.shape[1] % MULTIPLE == 0) else None

    @staticmethod
    def _key(base: Any) -> Any:
        return int(base.data.ptr), tuple(base.shape), tuple(base.strides)

    def _copied(self, base: Any) -> tuple[Any, list[Recorded]]:
        key = self._key(base)
        if key not in self._copies:
            self._copies[key] = base, self._room(base.shape)
        copy = self._copies[key][1]
        if key in self._current:
            return copy, []
        self._current.add(key)
        return copy, [(kernel("to_bfloat16"), (base,), copy, None, {})]

    def invalidate(self, *arrays: Any) -> None:
        overlap = self.backend.xp.may_share_memory
        self._current -= {k for k in self._current if any(overlap(self._copies[k][0], x) for x in arrays)}

    def invalidate_all(self) -> None:
        self._current.clear()

    def _room(self, shape: tuple[int, ...]) -> Any:
        made = self.backend.empty((*shape[:-1], -(-shape[-1] // MULTIPLE) * MULTIPLE), np.uint16)
        self.bytes += made.nbytes
        return made[..., : shape[-1]]
