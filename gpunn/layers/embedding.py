"""The embedding layer for columns of integer codes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from .. import initializers
from ..kernels import get as kernel
from ..registry import call_text
from ..validation import Checked, as_list, nonnegative, positive_integer
from .base import Layer, Parameter, Quantities
from .columns import FixedShapes, check_below, different_columns, runs

MAX_LEVELS = 2**23  # float32 represents larger integers, but not with a half added
STANDARD_NORMAL = initializers.Normal(0.0, 1.0)


def _level_counts(name: str, value: Any) -> tuple[int, ...]:
    counts = tuple(positive_integer(name, each) for each in as_list(name, value, "integers ≥ 1"))
    if any(count > MAX_LEVELS for count in counts):
        raise ValueError(f"{name} must be at most {MAX_LEVELS}, beyond which float32 is inexact, got {value!r}")
    return counts


def _widths(name: str, value: Any) -> int | tuple[int, ...]:
    if isinstance(value, (list, tuple)):
        return tuple(positive_integer(name, each) for each in value)
    return positive_integer(name, value)


class Embedding(FixedShapes, Layer):
    """Embeddings of integer codes: column k of codes c becomes the rows V_k[c], which are learned. (E1)

    a is (n, n_in − number of columns + Σ dim): the other columns of a_prev, in their order, then the embeddings in the
    order of `columns`. V_k is (n_levels[k], dim[k]).

    With H_k, the matrix whose row i is 1 at the code of row i and 0 elsewhere, the embedding is H_k V_k. So E6 is
    ∂C/∂V_k = H_kᵀ δ: row c of the gradient is the sum of δ over the rows with code c, δ = ∂C/∂a in the columns of
    embedding k. A code is rounded to the nearest integer, so the embedding is constant around it, and ∂C/∂a_prev is 0
    in `columns`. In the other columns it is ∂C/∂a.

    A code outside of 0 … n_levels[k] − 1 has no row of V_k: its embedding is NaN, so that a prediction shows it, and
    training stops with DivergenceError before anything changes. Give unknown levels a code of their own.

    Parameters
    ----------
    columns : list of int
        The columns of codes, numbers 0, 1, …, n_levels[k] − 1.
    n_levels : list of int
        The number of codes of each column.
    dim : int or list of int
        The width of the embedding, of each column or of all.
    initializer : str, Initializer or callable
        The initial values of V. The default N(0, 1) has the mean square of a standardized column, as in PyTorch.
    l2 : float
        λ ≥ 0 of the penalty ½λ Σ V². (E9)

    Raises
    ------
    ValueError, TypeError
        If an argument is invalid. The message names it.

    Examples
    --------
    >>> # columns 0 and 3 contain codes of 12 and 5 levels
    >>> layer = gpunn.Embedding([0, 3], [12, 5], dim=4)
    """

    fixed = ("columns", "n_levels", "dim")
    columns = Checked(different_columns)
    n_levels = Checked(_level_counts)
    dim = Checked(_widths)
    initializer = Checked(lambda _, value: initializers.get(value))
    l2 = Checked(nonnegative)

    def __init__(
        self,
        columns: Sequence[int],
        n_levels: Sequence[int],
        dim: int | Sequence[int],
        *,
        initializer: Any = None,
        l2: float = 0.0,
    ) -> None:
        self.columns = columns
        self.n_levels = n_levels
        self.dim = dim
        self.initializer = STANDARD_NORMAL if initializer is None else initializer
        self.l2 = l2
        self._check_lengths()

    def _check_lengths(self) -> None:
        for name, given in (("n_levels", self.n_levels), ("dim", self.dim)):
            if not isinstance(given, int) and len(given) != len(self.columns):
                raise ValueError(f"{name} must have one entry for each of {len(self.columns)} columns, got {given!r}")

    def build(self, n_in: int) -> int:
        self._check_lengths()
        check_below(n_in, self.columns)
        self.n_in = n_in
        self.n_out = n_in - len(self.columns) + sum(self._dims())
        return self.n_out

    def _dims(self) -> tuple[int, ...]:
        return (self.dim,) * len(self.columns) if isinstance(self.dim, int) else self.dim

    def parameters(self) -> list[Parameter]:
        shapes = zip(self.n_levels, self._dims(), strict=True)
        return [
            Parameter(f"V{k + 1}", shape, self.initializer, penalized=True, l2=self.l2)
            for k, shape in enumerate(shapes)
        ]

    def kept_columns(self) -> list[int]:
        """The columns of a_prev that are not embedded."""
        assert self.n_in is not None
        return [c for c in range(self.n_in) if c not in self.columns]

    def _embeddings(self) -> Iterator[tuple[str, int, int, int]]:
        """Yield the name of each V, its column of a_prev, its number of levels, and its first column of a."""
        start = len(self.kept_columns())
        for k, dim in enumerate(self._dims()):
            yield f"V{k + 1}", self.columns[k], self.n_levels[k], start
            start += dim

    def forward(self, t: Quantities) -> None:
        t.a = kernel("zero_columns")(t.a_prev, width_m=self.n_out or 0)
        for first, width, start in runs(self.kept_columns()):
            t.a = kernel("copy_columns")(t.a_prev, t.a, first=first, width=width, start=start)
        for name, column, levels, start in self._embeddings():
            V = getattr(t, name)
            t.a = kernel("embed")(t.a_prev, V, t.a, column=column, levels=levels, start=start)  # mutate: E1 embedding

    def backward(self, t: Quantities) -> None:
        rows = t.a_prev.shape[0]
        for name, column, _, start in self._embeddings():
            V, gradient = getattr(t, name), kernel("embedding_gradient")
            dV = gradient(V, t.a_prev, t.grad_a, column=column, start=start, rows=rows)  # mutate: E6 embedding
            setattr(t, f"d{name}", dV)
        t.grad_prev = kernel("zero_columns")(t.grad_a, width_m=self.n_in or 0)
        for first, width, start in runs(self.kept_columns()):
            t.grad_prev = kernel("copy_columns")(t.grad_a, t.grad_prev, first=start, width=width, start=first)

    def get_config(self) -> dict[str, Any]:
        return {
            "columns": list(self.columns),
            "n_levels": list(self.n_levels),
            "dim": self.dim if isinstance(self.dim, int) else list(self.dim),
            "initializer": initializers.to_config(self.initializer),
            "l2": self.l2,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom: dict[str, Any]) -> Embedding:
        return cls(**config | {"initializer": initializers.from_config(config["initializer"], custom)})

    def __repr__(self) -> str:
        shown = {k: getattr(self, k, v) for k, v in self.get_config().items()}
        if repr(self.initializer) == repr(STANDARD_NORMAL):
            shown["initializer"] = None
        return call_text(type(self), shown)
