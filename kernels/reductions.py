"""Sums and other reductions, over the rows of a matrix or over all elements."""

import numpy as np

from ._compiler.definition import MAX_OF_MAGNITUDES
from ._compiler.registry import reduction
from .state import StateEntry


@reduction("H x -> T s", "s = x;", axis="rows")  # mutate: E7 column sum
def column_sum(x):
    """sⱼ = Σᵢ xᵢⱼ; for x = δ, the gradient of the intercepts. (E7)"""
    return x


@reduction("T x, scalar T factor -> T s", "s = factor * x;", axis="rows")
def column_mean(x, factor):
    """sⱼ = Σᵢ factor · xᵢⱼ, the mean of each column if factor = 1/n."""
    return factor * x


@reduction("T x, row T mean, scalar T factor -> T s", "const T c = x - mean; s = factor * c * c;", axis="rows")
def column_variance(x, mean, factor):
    """sⱼ = Σᵢ factor · (xᵢⱼ − meanⱼ)², the biased variance of each column if factor = 1/n."""
    c = x - mean
    return factor * c * c


@reduction("T x, T y -> T s", "s = x * y;", axis="rows")
def column_dot(x, y):
    """sⱼ = Σᵢ xᵢⱼ yᵢⱼ."""
    return x * y


@reduction("T x -> float64 s", "s = (double)x;", axis="all")
def sum_all(x):
    """s = Σ x, added in float64."""
    return x


@reduction(
    "T x, raw float64 state -> float64 s",
    "const double u = (double)x * inverse; s = u * u;",
    prologue="const double inverse = state[MAX_ABS] > 1e100 ? 1.0 / state[MAX_ABS] : 1.0;",
    reads=(StateEntry.MAX_ABS,),
    axis="all",
)
def sum_of_squares(x, state):
    """s = Σ x² in float64, which no float32 overflows. If max |x| > 10¹⁰⁰, s = Σ (x/max |x|)²."""
    max_x = state[StateEntry.MAX_ABS]
    u = x.astype(np.float64) * (1 / max_x if max_x > 1e100 else 1.0)
    return u * u


@reduction(
    "T g, T theta -> float64 s",
    "const T u = fabs(g), v = fabs(theta); s = (double)((u > v || u != u) ? u : v);",
    axis="all",
    combine=MAX_OF_MAGNITUDES,
)
def max_abs_pair(g, theta):
    """s = max(|g|, |θ|) for the check of non-finite values: NaN if an element is NaN, inf if one is infinite."""
    return np.maximum(np.abs(g), np.abs(theta))


@reduction("T x -> float64 s", "s = (double)fabs(x);", axis="all", combine=MAX_OF_MAGNITUDES)
def max_abs(x):
    """s = max |x|, NaN if an element is NaN."""
    return np.abs(x)
