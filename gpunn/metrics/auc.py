"""The area under the receiver operating characteristic: the quality of a ranking, without a threshold."""

from __future__ import annotations

import numpy as np

from ..kernels import get as kernel
from ..losses import Loss
from .base import NonDecomposableMetric, target_format


class AUC(NonDecomposableMetric):
    """The area under the ROC curve: the fraction of pairs (row of the class, row of another) that are ranked correctly.

    A pair has the product of its rows' weights, and a tie counts half. The value is exact, like that of scikit-learn's
    roc_auc_score, and not a sum over thresholds. For two classes, or one yes or no, it is the area of class 1. For more
    classes it is the mean over the classes, each against the rest; for several yes or no, the mean over the outputs. A
    class that no row has, or that every row has, is left out. NaN if no class remains, or if an output is NaN.

    Parameters
    ----------
    name : str or None
        The key in the history.
    """

    names = ("auc", "roc_auc")

    def resolve(self, loss: Loss, n_out: int) -> None:
        self._format = target_format(self, loss, n_out)
        self._logits = bool(getattr(loss, "takes_logits", False))

    def compute_from_rows(self, a: np.ndarray, y: np.ndarray, w: np.ndarray | None) -> float:
        m = a.shape[1]
        weights = np.ones(len(a)) if w is None else w
        if self._format == "binary":
            areas = [_area(a[:, k], y[:, k] > 0.5, weights) for k in range(m)]
        else:
            # softmax, unlike σ, can change the ranking within a column
            a = kernel("softmax")(np.ascontiguousarray(a, np.float64)) if self._logits else a
            labels = y if self._format == "class_index" else y.argmax(axis=1)
            areas = [_area(a[:, k], labels == k, weights) for k in ([1] if m == 2 else range(m))]
        if np.isnan(a).any():
            return float("nan")
        known = [area for area in areas if area is not None]
        return sum(known) / len(known) if known else float("nan")


def _area(scores: np.ndarray, positive: np.ndarray, w: np.ndarray) -> float | None:
    """Return the area of one class, or None if all weight is on one side."""
    order = np.argsort(scores, kind="stable")
    scores, positive, w = scores[order], positive[order], w[order]
    # a positive row wins against the negatives with lower scores, and ties with those of its own score
    starts = np.flatnonzero(np.r_[True, scores[1:] != scores[:-1]])
    positives = np.add.reduceat(np.where(positive, w, 0.0), starts)
    negatives = np.add.reduceat(np.where(positive, 0.0, w), starts)
    pairs = positives.sum() * negatives.sum()
    below = np.cumsum(negatives) - negatives
    return float((positives * (below + 0.5 * negatives)).sum() / pairs) if pairs > 0 else None
