"""Sums and other reductions: over the rows of a matrix, or over everything."""

import numpy as np

from ._compiler.definition import MAX_OF_MAGNITUDES
from ._compiler.registry import reduction
from .state import Slot


@reduction("H x -> T s", "s = x;", axis="rows")  # mutate: E7 column sum
def column_sum(x):
    """sⱼ = Σᵢ xᵢⱼ; of δ it is the intercept gradient. (E7)"""
    return x


@reduction("T x, scalar T factor -> T s", "s = factor * x;", axis="rows")
def column_mean(x, factor):
    """sⱼ = Σᵢ factor · xᵢⱼ, with factor = 1/n the mean of a column."""
    return factor * x


@reduction("T x, row T mean, scalar T factor -> T s", "const T c = x - mean; s = factor * c * c;", axis="rows")
def column_variance(x, mean, factor):
    """sⱼ = Σᵢ factor · (xᵢⱼ − meanⱼ)², with factor = 1/n the biased variance of a column."""
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
    axis="all",
)
def sum_of_squares(x, state):
    """s = Σ x², squared and added in float64: no float32 overflows it; where a float64 would, of x/max|x|."""
    largest = state[Slot.MAX_ABS]
    u = x.astype(np.float64) * (1 / largest if largest > 1e100 else 1.0)
    return u * u


@reduction(
    "T g, T theta -> float64 s",
    "const T u = fabs(g), v = fabs(theta); s = (double)((u > v || u != u) ? u : v);",
    axis="all",
    combine=MAX_OF_MAGNITUDES,
)
def max_abs_pair(g, theta):
    """s = max(|g|, |θ|), the non-finite flag's measure: NaN where one of them is NaN, inf where one is infinite."""
    return np.maximum(np.abs(g), np.abs(theta))


@reduction("T x -> float64 s", "s = (double)fabs(x);", axis="all", combine=MAX_OF_MAGNITUDES)
def max_abs(x):
    """s = max |x|, NaN where one of them is NaN."""
    return np.abs(x)
