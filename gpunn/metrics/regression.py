"""How far values are from what they should be."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..kernels import get as kernel
from ..losses import Loss
from ..recording import Array, Recorder
from .base import Metric


class RegressionMetric(Metric):
    kernel_name: str

    def resolve(self, loss: Loss, n_out: int) -> None:
        if loss.targets != "dense":
            raise ValueError(f"metric {self.name!r} compares values, but loss {loss.name!r} takes labels")

    def record(self, ops: Recorder, a: Array, y: Array, w: Array, row_values: Array) -> None:
        ops(kernel(self.kernel_name), a, y, w, out=row_values)


class MeanAbsoluteError(RegressionMetric):
    """The mean over rows and outputs of |a − y|, in the units of y."""

    names = ("mean_absolute_error", "mae")
    kernel_name = "absolute_error"


class MeanSquaredError(RegressionMetric):
    """The mean over rows and outputs of (a − y)², in the square of the units of y."""

    names = ("mean_squared_error", "mse")
    kernel_name = "squared_error"


class RootMeanSquaredError(RegressionMetric):
    """The square root of the mean over rows and outputs of (a − y)², in the units of y."""

    names = ("root_mean_squared_error", "rmse")
    kernel_name = "squared_error"

    def compute(self, mean: Any) -> float:
        return math.sqrt(mean)


class R2Score(RegressionMetric):
    """R² = 1 − Σw(a − y)²/Σw(y − ȳ)², ȳ the weighted mean of y; of several outputs the mean of theirs. No units.

    Where all y are equal it is 1 if the outputs are too, else 0. As scikit-learn's r2_score, over the whole set and not
    a mean over batches: a batch's sums about its own mean are joined to those of the batches before it.
    """

    names = ("r2_score", "r2")

    def n_sums(self, n_out: int) -> int:
        return 5 * n_out

    def record_batch(self, ops: Recorder, a: Array, y: Array, w: Array, batch: Array) -> None:
        n, m = a.shape
        table = ops.new((n, 4 * m), np.float64)
        parts = tuple(table[:, k * m : (k + 1) * m] for k in range(4))
        ops(kernel("variance_terms"), a, y, ops.broadcast_first_row(y), w, out=parts)
        ops(kernel("column_sum"), table, out=batch[: 4 * m])

    def record_sums(self, ops: Recorder, y: Array, batch: Array, sums: Array, state: Array) -> None:
        m = batch.shape[0] // 5
        ops(kernel("accumulate_variance"), batch, ops.broadcast_first_row(y), state, out=sums, count=m, columns=m)

    def merge(self, parts: list[np.ndarray]) -> np.ndarray:
        """Two parts' sums about their own means, joined as those of two batches are."""
        found = np.array(parts[0]).reshape(5, -1)
        for part in parts[1:]:
            error, mean, spread, weight, centre = part.reshape(5, -1)
            before = found[3] == 0
            found[4] = np.where(before, centre, found[4])
            whole = found[3] + weight
            share = np.divide(weight, whole, out=np.zeros_like(whole), where=whole > 0)
            apart = np.where(weight > 0, (centre - found[4]) + mean - found[1], 0.0)
            found[0] += error
            found[1] += apart * share
            found[2] += spread + apart * apart * (found[3] * share)
            found[3] = whole
        return found.ravel()

    def value(self, sums: np.ndarray, weight: float, n_out: int) -> float:
        error, _, spread, _, _ = sums.reshape(5, -1)
        known = np.where(spread > 0, spread, 1)
        scores = np.where(spread > 0, 1 - error / known, error == 0)
        return float(scores.mean())
