"""The periodic embedding of columns of numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .. import initializers
from ..kernels import get as kernel
from ..validation import Checked, positive, positive_integer
from .base import Layer, Parameter, Quantities
from .columns import FixedShapes, check_below, different_columns, runs


class PeriodicEmbedding(FixedShapes, Layer):
    """Learned periodic embeddings of columns of numbers: a = [a_prev, cos z], zⱼₖ = 2π(wⱼₖxⱼ + bⱼₖ). (E1, E2)

    x is (n, K), the K columns of a_prev in `columns`; w and b are (K, dim). a is (n, n_in + K dim): all columns of
    a_prev, then dim columns of the first x, dim columns of the second, and so on. The frequencies w ~ N(0, scale²) and
    the phases b ~ U(0, 1) are learned and not penalized. The layers after it can fit functions that vary fast with one
    number.

    Let δⱼₖ be the column of ∂C/∂a for cos zⱼₖ, gⱼ the column for xⱼ, and dⱼₖ = −2π sin(zⱼₖ) δⱼₖ. By the chain rule

        ∂C/∂wⱼₖ = Σ xⱼ dⱼₖ                  (E6, sum over the rows)
        ∂C/∂bⱼₖ = Σ dⱼₖ                     (E7, sum over the rows)
        ∂C/∂xⱼ = gⱼ + Σₖ wⱼₖ dⱼₖ            (E5)

    In the other columns ∂C/∂a_prev is that of ∂C/∂a.

    cos 2πt is computed from the distance of t = wx + b to the nearest integer, which is exact. So a large t loses no
    more accuracy than wx + b itself. With precision="bf16" the layer computes in float32.

    Parameters
    ----------
    columns : list of int
        The columns of numbers. They are kept, as are all others.
    dim : int
        The number ≥ 1 of frequencies per column.
    scale : float
        The standard deviation > 0 of the initial frequencies, in periods per unit of x. The default is meant for
        columns of about unit variance. A larger scale fits faster variation, and noise.

    Raises
    ------
    ValueError, TypeError
        If an argument is invalid. The message names it.

    References
    ----------
    Gorishniy, Rubachev and Babenko 2022; Holzmüller, Grinsztajn and Steinwart 2024 (RealMLP), who use scale 0.1.

    Examples
    --------
    >>> # the first 4 columns contain numbers
    >>> layer = gpunn.PeriodicEmbedding(range(4), dim=8)
    """

    fixed = ("columns", "dim")
    columns = Checked(different_columns)
    dim = Checked(positive_integer)
    scale = Checked(positive)

    def __init__(self, columns: Sequence[int], dim: int, *, scale: float = 0.1) -> None:
        self.columns = columns
        self.dim = dim
        self.scale = scale

    def build(self, n_in: int) -> int:
        check_below(n_in, self.columns)
        self.n_in, self.n_out = n_in, n_in + len(self.columns) * self.dim
        return self.n_out

    def parameters(self) -> list[Parameter]:
        shape = (len(self.columns), self.dim)
        return [
            Parameter("w", shape, initializers.Normal(0.0, self.scale)),
            Parameter("b", shape, initializers.Uniform(0.0, 1.0)),
        ]

    def forward(self, t: Quantities) -> None:
        t.x = kernel("zero_columns")(t.a_prev, width_m=len(self.columns))
        for column, width, start in runs(self.columns):
            t.x = kernel("copy_columns")(t.a_prev, t.x, first=column, width=width, start=start)
        embed = kernel("periodic_embed")
        t.a = embed(t.a_prev, t.x, t.w, t.b, width_total=self.n_out or 0)  # mutate: E2 periodic

    def backward(self, t: Quantities) -> None:
        derivative, reshape = kernel("periodic_embed_backward"), kernel("reshape_like")
        d, x_d = derivative(t.x, t.grad_a, t.w, t.b, width_embedded=len(self.columns) * self.dim)
        t.dw = reshape(t.w, x_d.sum(axis=0))  # mutate: E6 periodic
        t.db = reshape(t.b, d.sum(axis=0))  # mutate: E7 periodic
        t.grad_prev = kernel("zero_columns")(t.grad_a, width_m=self.n_in or 0)
        t.grad_prev = kernel("copy_columns")(t.grad_a, t.grad_prev, first=0, width=self.n_in or 0, start=0)
        add = kernel("add_periodic_gradient")
        for column, width, first in runs(self.columns):
            t.grad_prev = add(d, t.w, t.grad_prev, first=first, width=width, start=column)  # mutate: E5 periodic

    def get_config(self) -> dict[str, Any]:
        return {"columns": list(self.columns), "dim": self.dim, "scale": self.scale}
