"""The area under the receiver operating characteristic: how well outputs rank rows, whatever threshold is taken."""

from __future__ import annotations

import numpy as np

from ..kernels import get as kernel
from ..losses import Loss
from .base import NonDecomposableMetric, target_format


class AUC(NonDecomposableMetric):
    """The area under the ROC curve: the share of pairs (a row of the class, a row of another) that the outputs rank
    rightly, each pair by the product of its rows' weights, ties as a half.

    Exact, as scikit-learn's roc_auc_score, not a sum over thresholds. Of two classes, or one yes or no, it is that of
    class 1; of several the mean over them, each against the rest (over outputs, where each is a yes or no). A class
    that no row has, or all, is left out; NaN where none is left, or an output is NaN.
    """

    names = ("auc", "roc_auc")

    def resolve(self, loss: Loss, n_out: int) -> None:
        self._meaning = target_format(self, loss, n_out)
        self._logits = bool(getattr(loss, "takes_logits", False))

    def compute_from_rows(self, a: np.ndarray, y: np.ndarray, w: np.ndarray | None) -> float:
        m = a.shape[1]
        weights = np.ones(len(a)) if w is None else w
        if self._meaning == "columns":
            areas = [_area(a[:, k], y[:, k] > 0.5, weights) for k in range(m)]
        else:
            # σ ranks a column as its logits do, softmax does not
            a = kernel("softmax")(np.ascontiguousarray(a, np.float64)) if self._logits else a
            labels = y if self._meaning == "labels" else y.argmax(axis=1)
            areas = [_area(a[:, k], labels == k, weights) for k in ([1] if m == 2 else range(m))]
        if np.isnan(a).any():
            return float("nan")
        known = [area for area in areas if area is not None]
        return sum(known) / len(known) if known else float("nan")


def _area(scores: np.ndarray, yes: np.ndarray, w: np.ndarray) -> float | None:
    """The area for one class, None where one side has no weight."""
    order = np.argsort(scores, kind="stable")
    scores, yes, w = scores[order], yes[order], w[order]
    # rows of one score are together; a yes of theirs is above all no of lower scores, and even with their own
    begins = np.flatnonzero(np.r_[True, scores[1:] != scores[:-1]])
    yes_here = np.add.reduceat(np.where(yes, w, 0.0), begins)
    no_here = np.add.reduceat(np.where(yes, 0.0, w), begins)
    pairs = yes_here.sum() * no_here.sum()
    below = np.cumsum(no_here) - no_here
    return float((yes_here * (below + 0.5 * no_here)).sum() / pairs) if pairs > 0 else None
