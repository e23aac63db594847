"""Metrics of regression: absolute and squared errors, and R²."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..kernels import get as kernel
from ..losses import Loss
from ..program import Array, first_row
from .base import Metric


class RegressionMetric(Metric):
    """A mean of errors that a kernel computes for each row. A subclass names the kernel."""

    kernel_name: str

    def resolve(self, loss: Loss, n_out: int) -> None:
        if loss.targets != "dense":
            raise ValueError(f"metric {self.name!r} compares values, but loss {loss.name!r} takes labels")

    def rows(self, a: Array, y: Array, w: Array) -> Array:
        return kernel(self.kernel_name)(a, y, w)


class MeanAbsoluteError(RegressionMetric):
    """The mean over rows and outputs of |a − y|, in the units of y."""

    names = ("mean_absolute_error", "mae")
    kernel_name = "absolute_error"


class MeanSquaredError(RegressionMetric):
    """The mean over rows and outputs of (a − y)², in the squared units of y."""

    names = ("mean_squared_error", "mse")
    kernel_name = "squared_error"


class RootMeanSquaredError(RegressionMetric):
    """The square root of the mean over rows and outputs of (a − y)², in the units of y."""

    names = ("root_mean_squared_error", "rmse")
    kernel_name = "squared_error"

    def compute(self, mean: Any) -> float:
        return math.sqrt(mean)


class R2Score(RegressionMetric):
    """R² = 1 − Σw(a − y)²/Σw(y − ȳ)², ȳ the weighted mean of y. For several outputs, the mean over them. No units.

    If all y are equal, it is 1 where the outputs equal them, else 0. Equal to scikit-learn's r2_score over the whole
    data set, and not a mean over batches: the sums of each batch around its own mean are merged with the earlier ones.
    """

    names = ("r2_score", "r2")

    def n_sums(self, n_out: int) -> int:
        # per output Σw(a − y)², the mean of y − c, Σw(y − mean)², Σw, and the shift c, which is the first row's y
        return 5 * n_out

    def rows(self, a: Array, y: Array, w: Array) -> tuple[Array, ...]:
        error, deviation, square, weight = kernel("variance_terms")(a, y, first_row(y), w)
        return error, deviation, square, weight

    def accumulate(self, batch: Array, y: Array, sums: Array, state: Array) -> Array:
        m = y.shape[1]
        return kernel("accumulate_variance")(batch, first_row(y), state, sums, count=m, columns=m)

    def merge(self, parts: list[np.ndarray]) -> np.ndarray:
        """Merge the sums of parts around their own means, as two batches are merged."""
        merged = np.array(parts[0]).reshape(5, -1)
        for part in parts[1:]:
            error, mean, variance_sum, weight, shift = part.reshape(5, -1)
            merged[4] = np.where(merged[3] == 0, shift, merged[4])
            total = merged[3] + weight
            fraction = np.divide(weight, total, out=np.zeros_like(total), where=total > 0)
            mean_difference = np.where(weight > 0, (shift - merged[4]) + mean - merged[1], 0.0)
            merged[0] += error
            merged[1] += mean_difference * fraction
            merged[2] += variance_sum + mean_difference * mean_difference * (merged[3] * fraction)
            merged[3] = total
        return merged.ravel()

    def value(self, sums: np.ndarray, weight: float, n_out: int) -> float:
        error, _, variance_sum, _, _ = sums.reshape(5, -1)
        divisor = np.where(variance_sum > 0, variance_sum, 1)
        scores = np.where(variance_sum > 0, 1 - error / divisor, error == 0)
        return float(scores.mean())
