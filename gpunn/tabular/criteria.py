"""Metrics of an ensemble by name: the loss of its networks, and the score that selects them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..losses import HalfSquaredError, Huber, Loss, SparseCategoricalCrossentropy
from ..metrics import AUC
from ..validation import one_of

SMALLEST_PROBABILITY = 1e-7

RowLosses = Callable[[np.ndarray, np.ndarray], np.ndarray]
Score = Callable[[np.ndarray, np.ndarray, np.ndarray | None], np.ndarray]


@dataclass(frozen=True)
class Criterion:
    """A metric with the loss that fits it.

    The mean loss chooses the epoch of each network. The metric selects the networks: it is the mean loss, or a score
    such as the accuracy. A score has few different values, and that of one network changes by chance from epoch to
    epoch, so that it chooses no epoch.

    training_loss  of the networks
    row_losses     ℓ (…, n) of outputs (…, n, n_out) and targets
    score          (outputs, y, w) → (…), which is maximized; None if the metric is the mean loss
    """

    training_loss: Loss
    row_losses: RowLosses
    score: Score | None = None

    def loss(self, outputs: np.ndarray, y: np.ndarray, w: np.ndarray | None) -> np.ndarray:
        """The mean loss L = Σ wᵢℓᵢ / Σ wᵢ. (E3)

        Parameters
        ----------
        outputs : array (…, n, n_out)
            Probabilities or values.
        y : array (n,) of int or (n, 1) of float
            Class indices or values.
        w : array (n,), optional
            Weights.

        Returns
        -------
        array (…)
        """
        found: np.ndarray = np.average(self.row_losses(outputs, y), axis=-1, weights=w)
        return found

    def metric(self, outputs: np.ndarray, y: np.ndarray, w: np.ndarray | None) -> np.ndarray:
        """The score, or the mean loss if there is no score. The arguments are those of `loss`."""
        return (self.score or self.loss)(outputs, y, w)

    def sort_keys(self, outputs: np.ndarray, y: np.ndarray, w: np.ndarray | None) -> list[tuple[float, ...]]:
        """(L,), or (−score, L), of each of the outputs (k, n, n_out). The smallest tuple is the best.

        Between equal scores the loss decides.
        """
        losses = self.loss(outputs, y, w)
        columns = [losses] if self.score is None else [-self.score(outputs, y, w), losses]
        return list(zip(*(column.tolist() for column in columns), strict=True))


def log_losses(outputs: np.ndarray, y: np.ndarray) -> np.ndarray:
    """ℓ = −log p_y for class indices y (n,). (E3)"""
    losses: np.ndarray = -np.log(np.clip(outputs[..., np.arange(len(y)), y], SMALLEST_PROBABILITY, 1))
    return losses


def squared_errors(outputs: np.ndarray, y: np.ndarray) -> np.ndarray:
    """ℓ = (a − y)² for values y (n, 1). (E3)"""
    losses: np.ndarray = ((outputs - y) ** 2).sum(axis=-1)
    return losses


def absolute_errors(outputs: np.ndarray, y: np.ndarray) -> np.ndarray:
    """ℓ = |a − y| for values y (n, 1). (E3)"""
    losses: np.ndarray = np.abs(outputs - y).sum(axis=-1)
    return losses


def accuracy(outputs: np.ndarray, y: np.ndarray, w: np.ndarray | None) -> np.ndarray:
    """Σ wᵢ[ŷᵢ = yᵢ] / Σ wᵢ with ŷ = argmax p, the first of equal ones."""
    found: np.ndarray = np.average(outputs.argmax(axis=-1) == y, axis=-1, weights=w)
    return found


def balanced_accuracy(outputs: np.ndarray, y: np.ndarray, w: np.ndarray | None) -> np.ndarray:
    """The mean over the classes k of y of the accuracy among the rows with yᵢ = k."""
    correct = outputs.argmax(axis=-1) == y
    weights = np.ones(len(y)) if w is None else w
    # without weights, each accuracy is one division of exact counts, so that equal counts are equal scores
    recalls = [np.average(correct[..., y == k], axis=-1, weights=weights[y == k]) for k in np.unique(y[weights > 0])]
    found: np.ndarray = np.mean(recalls, axis=0)
    return found


def roc_auc(outputs: np.ndarray, y: np.ndarray, w: np.ndarray | None) -> np.ndarray:
    """The area under the ROC curve: Σ wᵢwⱼ([pᵢ > pⱼ] + ½[pᵢ = pⱼ]) / Σ wᵢwⱼ over rows i of class 1 and j of class 0.

    For more classes it is the mean over the classes that have rows, each against the rest; ½ if there is only one.
    """
    auc = AUC()
    auc.resolve(SparseCategoricalCrossentropy(), outputs.shape[-1])
    areas = [auc.compute_from_rows(p, y, w) for p in outputs.reshape(-1, *outputs.shape[-2:])]
    found: np.ndarray = np.nan_to_num(areas, nan=0.5).reshape(outputs.shape[:-2])
    return found


KAPPA = 0.1  # of standardized targets: smaller errors count as squares, so that steps become small near the minimum
CROSS_ENTROPY = SparseCategoricalCrossentropy()

# the first one is the default
OF_CLASSES = {
    "log_loss": Criterion(CROSS_ENTROPY, log_losses),
    "accuracy": Criterion(CROSS_ENTROPY, log_losses, accuracy),
    "balanced_accuracy": Criterion(CROSS_ENTROPY, log_losses, balanced_accuracy),
    "roc_auc": Criterion(CROSS_ENTROPY, log_losses, roc_auc),
}
OF_NUMBERS = {
    "squared_error": Criterion(HalfSquaredError(), squared_errors),
    "absolute_error": Criterion(Huber(KAPPA), absolute_errors),
}


def get(metric: str | None, *, classes: bool, argument: str = "metric") -> Criterion:
    """The criterion of a metric's name, the default for None. ValueError lists the names, and names the argument."""
    criteria = OF_CLASSES if classes else OF_NUMBERS
    check = one_of(*criteria)
    name = next(iter(criteria)) if metric is None else metric
    return criteria[check(f"{argument} of {'classes' if classes else 'numbers'}", name)]
