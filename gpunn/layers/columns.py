"""Common parts of the layers that embed some columns of their input."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from ..validation import as_list, nonnegative_integer


def different_columns(name: str, value: Any) -> tuple[int, ...]:
    """Return different integers ≥ 0 as a tuple. ValueError or TypeError for any other value."""
    columns = tuple(nonnegative_integer(name, each) for each in as_list(name, value, "integers ≥ 0"))
    if not columns or len(set(columns)) < len(columns):
        raise ValueError(f"{name} must be one or more different columns, got {value!r}")
    return columns


def check_below(n_in: int, columns: tuple[int, ...]) -> None:
    """Raise ValueError unless an input of n_in columns has these."""
    if max(columns) >= n_in:
        raise ValueError(f"columns must be below the number of inputs, {n_in}, got {columns!r}")


def runs(columns: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Yield runs of consecutive columns: the first column, the number of columns, the position of the first."""
    begin = 0
    for k in range(1, len(columns) + 1):
        if k == len(columns) or columns[k] != columns[k - 1] + 1:
            yield columns[begin], k - begin, begin
            begin = k


class FixedShapes:
    """A mixin of layers: the attributes that determine the shapes of parameters cannot be set once these are known."""

    fixed: ClassVar[tuple[str, ...]]
    n_in: int | None

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.fixed and self.n_in is not None:
            raise AttributeError(f"{name} of {type(self).__name__} in a built network cannot be set: make a new layer")
        super().__setattr__(name, value)
