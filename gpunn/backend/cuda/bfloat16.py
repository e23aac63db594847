"""What products read where less than float32 is asked for: matrices held in it, and copies of others, rounded once.

What one product leaves to the next, the batch, activations and δ, is rounded by whatever writes it and never was in
float32. The copies, of weights above all, are recorded where an operand is first read, and made again where it was
written since. So weights are rounded in the forward pass, all by one launch, and read again in the backward pass. A
recorded list runs from its beginning, so that what is written by others between two runs is rounded anew; within
several steps in a row the optimiser writes the weights' copy beside the weights.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...kernels import get as kernel

# half the spacing of numbers at 1: bfloat16 has 8 bits and is rounded to, TF32 has 11, of which the last may be cut
UNIT_ROUNDOFF = {"tf32": 2.0**-10, "bf16": 2.0**-8}
MULTIPLE = 8  # elements: rows of copies begin at multiples of 16 bytes, which the fast products want

Recorded = tuple[Any, tuple[Any, ...], Any, Any, dict[str, float]]  # a kernel, its inputs, its output, count, numbers


class Operands:
    """Products read the arrays themselves."""

    bytes = 0  # of the copies

    def register_flat(self, flat: Any) -> None:
        """Vectors and matrices within `flat` are read often, and written together."""

    def flat_is_current(self) -> bool:
        """Whether there is a copy of it, equal to it."""
        return False

    def bf16_view(self, part: Any) -> Any:
        """Where the copy of a part of it is that is equal to it; None where there is none."""
        return None

    def mark_current(self) -> None:
        """What `bf16_view` gave was written as the part was."""

    def storage_dtype(self, columns: int) -> Any:
        """The type of a matrix that products alone read and write; None for the network's."""
        return None

    def copy_into(self, x: Any, into: Any) -> None:
        """into ← x, `into` of whichever type `storage_dtype` gave."""
        into[...] = x

    def accumulate_in_float32(self, into: Any) -> tuple[Any, list[Recorded]]:
        """Where what `into` is to be is added up, and what must be recorded after it."""
        return into, []

    def bias_operand(self, b: Any, z: Any) -> tuple[Any, list[Recorded]]:
        """What a product that writes z reads in the place of the vector b, and what must be recorded before it."""
        return b, []

    def operand(self, a: Any) -> tuple[Any, list[Recorded]]:
        """What a product reads in the place of `a`, and what must be recorded before it."""
        return a, []

    def invalidate(self, *arrays: Any) -> None:
        """These arrays are written by what was recorded last."""

    def invalidate_all(self) -> None:
        """Anything may have been written."""


class Bfloat16Operands(Operands):
    """Products read bfloat16: what is held in it, and copies of float32 matrices."""

    def __init__(self, backend: Any) -> None:
        self.backend = backend
        self._copies: dict[Any, tuple[Any, Any]] = {}  # by where an array lies: itself and its copy
        self._current: set[Any] = set()
        self._flat: Any = None

    def register_flat(self, flat: Any) -> None:
        self._flat = flat

    def flat_is_current(self) -> bool:
        return self._flat is not None and self._key(self._flat) in self._current

    def bf16_view(self, part: Any) -> Any:
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
        # a matrix and its transpose lie in the same place, and share a copy
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
        """The number in the flat array at which `a` begins, where that array's copy serves products as well."""
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
