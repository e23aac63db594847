"""What products read where less than float32 is asked for: copies of their operands, rounded once a step.

The copies are recorded where an operand is first read, and made again where it was written since. So weights are
rounded in the forward pass and read again in the backward pass, the activations of a layer serve its product and the
weight gradient, and δ serves two products. A recorded list runs from its beginning, so that what is written by others
between two runs, the weights by the optimiser and the batch by the gather, is rounded anew.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..kernels import get as kernel

# half the spacing of numbers at 1: bfloat16 has 8 bits and is rounded to, TF32 has 11, of which the last may be cut
UNIT_ROUNDOFF = {"tf32": 2.0**-10, "bf16": 2.0**-8}
MULTIPLE = 8  # elements: rows of copies begin at multiples of 16 bytes, which the fast products want

Recorded = tuple[Any, tuple[Any, ...], Any, Any, dict[str, float]]  # a kernel, its inputs, its output, count, numbers


class Operands:
    """Products read the arrays themselves."""

    bytes = 0  # of the copies

    def of(self, a: Any) -> tuple[Any, list[Recorded]]:
        """What a product reads in the place of `a`, and what must be recorded before it."""
        return a, []

    def wrote(self, *arrays: Any) -> None:
        """These arrays are written by what was recorded last."""

    def forget(self) -> None:
        """Anything may have been written."""


class InBfloat16(Operands):
    """Products of float32 matrices read bfloat16 copies of them."""

    def __init__(self, backend: Any) -> None:
        self.backend = backend
        self._copies: dict[Any, tuple[Any, Any]] = {}  # by where an array lies: itself and its copy
        self._current: set[Any] = set()

    def of(self, a: Any) -> tuple[Any, list[Recorded]]:
        if a.ndim != 2 or a.dtype != np.float32:
            return a, []
        # a matrix and its transpose lie in the same place, and share a copy
        turned = not a.flags.c_contiguous and a.T.flags.c_contiguous
        base = a.T if turned else a
        key = int(base.data.ptr), tuple(base.shape), tuple(base.strides)
        if key not in self._copies:
            self._copies[key] = base, self._room(*base.shape)
        copy = self._copies[key][1]
        made: list[Recorded] = []
        if key not in self._current:
            self._current.add(key)
            made.append((kernel("to_bfloat16"), (base,), copy, None, {}))
        return copy.T if turned else copy, made

    def wrote(self, *arrays: Any) -> None:
        overlap = self.backend.xp.may_share_memory
        self._current -= {k for k in self._current if any(overlap(self._copies[k][0], x) for x in arrays)}

    def forget(self) -> None:
        self._current.clear()

    def _room(self, n: int, m: int) -> Any:
        made = self.backend.empty((n, -(-m // MULTIPLE) * MULTIPLE), np.uint16)
        self.bytes += made.nbytes
        return made[:, :m]
