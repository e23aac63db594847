"""Training on a stream of batches, of which at most one is in memory.

A stream is an iterable that is not an array, list or table, or a function that returns one. It yields (x, y) or
(x, y, sample_weight), whose sizes may differ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from itertools import chain
from typing import TypeGuard

ARRAYS = ("__array__", "__dlpack__", "__cuda_array_interface__", "to_numpy", "tocsr", "detach")

Batches = Iterable[object] | Callable[[], Iterable[object]]


def is_stream(X: object) -> TypeGuard[Batches]:
    """True if X yields batches and is not an array or convertible to one."""
    if isinstance(X, (Sequence, Mapping, Set)) or any(hasattr(X, name) for name in ARRAYS):
        return False
    return hasattr(X, "__iter__") or callable(X)


class Stream:
    """The batches of X, per epoch.

    X      an iterable, or a function that returns an iterable: every epoch iterates it from the beginning. Or an
           iterator, for example a generator: an epoch continues after the last one
    steps  number of batches per epoch, None for all

    TypeError if X does not return an iterator. ValueError if an epoch has fewer batches than `steps`, or none.
    """

    def __init__(self, X: Batches, steps: int | None = None) -> None:
        self.steps = steps
        self._X = X
        self._pending: Iterator[object] | None = None
        self.single_pass = not callable(X) and iter(X) is X

    def peek(self) -> object:
        """Return the first batch without removing it from the next epoch."""
        batches = self._begin()
        try:
            first = next(batches)
        except StopIteration:
            raise ValueError(f"X must yield at least one batch, got none: {self._hint()}") from None
        self._pending = chain([first], batches)
        return first

    def epoch(self) -> Iterator[object]:
        """Yield the batches of the next epoch."""
        batches = self._begin()
        if self.single_pass:
            self._pending = batches
        count = 0
        while self.steps is None or count < self.steps:
            try:
                batch = next(batches)
            except StopIteration:
                if self.steps is not None or count == 0:
                    expected = "at least 1 batch" if self.steps is None else f"{self.steps} batches"
                    given = "" if self.steps is None else f" (steps_per_epoch={self.steps})"
                    raise ValueError(
                        f"X must yield {expected} in every epoch{given}, got {count}: {self._hint()}"
                    ) from None
                return
            count += 1
            yield batch

    def _begin(self) -> Iterator[object]:
        if self._pending is not None:
            pending, self._pending = self._pending, None
            return pending
        made = self._X if isinstance(self._X, Iterable) else self._X()
        if not isinstance(made, Iterable):
            raise TypeError(f"X() must return an iterator of batches, got {type(made).__name__}")
        return iter(made)

    def _hint(self) -> str:
        if self.single_pass:
            return "an iterator yields its batches only once; pass a function that returns a new one for every epoch"
        return "it must yield all batches in every epoch"
