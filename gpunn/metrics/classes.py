"""Metrics that are counted class by class: precision, recall and their harmonic mean."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..kernels import get as kernel
from ..losses import Loss
from ..program import Array
from ..validation import Checked, one_of, open_unit_interval
from .base import Metric, target_format

KERNELS = {"class_index": "count_labels", "one_hot": "count_one_hot", "binary": "count_positives"}


class ClassificationMetric(Metric):
    """A metric that is computed from three weights per class: true positives, predicted and actual rows.

    Parameters
    ----------
    average : {"auto", "binary", "macro", "micro"}
        "binary": class 1 only, for two classes or one yes or no. "macro": the mean over the classes, without classes
        that no row has and none was given (over all outputs, if each is a yes or no). "micro": counted over all classes
        together. "auto" is "binary" if possible, else "macro".
    threshold : float
        The probability in (0, 1) above which an output that is a yes or no says yes.
    name : str or None
        The key in the history.
    """

    average = Checked(one_of("auto", "binary", "macro", "micro"))
    threshold = Checked(open_unit_interval)

    def __init__(self, average: str = "auto", threshold: float = 0.5, name: str | None = None) -> None:
        self.average = average
        self.threshold = threshold
        super().__init__(name)

    def resolve(self, loss: Loss, n_out: int) -> None:
        self._format = target_format(self, loss, n_out)
        classes = 2 if n_out == 1 else n_out
        if self.average == "binary" and (classes > 2 or (self._format == "binary" and n_out > 1)):
            raise ValueError(f"metric {self.name!r}: average='binary' is for two classes; use 'macro' or 'micro'")
        if self._format != "binary" and self.threshold != 0.5:
            raise ValueError(
                f"metric {self.name!r}: threshold={self.threshold} is for outputs that are each a yes or no; with loss "
                f"{loss.name!r} the answer is the largest output"
            )
        odds = self.threshold / (1 - self.threshold)
        limit = math.log(odds) if getattr(loss, "takes_logits", False) else self.threshold
        self._arguments: dict[str, Any] = {"threshold": limit} if self._format == "binary" else {}

    def n_sums(self, n_out: int) -> int:
        return 3 * n_out

    def rows(self, a: Array, y: Array, w: Array) -> tuple[Array, ...]:
        true_positives, predicted, actual = kernel(KERNELS[self._format])(a, y, w, **self._arguments)
        return true_positives, predicted, actual

    def compute(self, mean: Any) -> float:
        true_positives, predicted, actual = mean.reshape(3, -1)
        average = self._resolved_average(len(true_positives))
        if average == "binary":
            # class 1, the last of two
            return self.score(float(true_positives[-1]), float(predicted[-1]), float(actual[-1]))
        if average == "micro":
            return self.score(float(true_positives.sum()), float(predicted.sum()), float(actual.sum()))
        present = np.flatnonzero((predicted + actual > 0) | (self._format == "binary"))
        scores = [self.score(float(true_positives[k]), float(predicted[k]), float(actual[k])) for k in present]
        return sum(scores) / len(scores) if scores else 0.0

    def _resolved_average(self, n_out: int) -> str:
        if self.average != "auto":
            return self.average
        outputs_of_two_classes = 1 if self._format == "binary" else 2
        return "binary" if n_out == outputs_of_two_classes else "macro"

    def score(self, true_positives: float, predicted: float, actual: float) -> float:
        """Compute the metric of one class from its three weights, as fractions of the total; 0 if it is undefined."""
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        return {"average": self.average, "threshold": self.threshold}


class Precision(ClassificationMetric):
    """The fraction of the rows given a class that have it; 0 if no row was given it.

    Equal to scikit-learn's precision_score with zero_division=0.

    Parameters
    ----------
    average : {"auto", "binary", "macro", "micro"}
        "binary": class 1 only, for two classes or one yes or no. "macro": the mean over the classes, without classes
        that no row has and none was given (over all outputs, if each is a yes or no). "micro": counted over all classes
        together. "auto" is "binary" if possible, else "macro".
    threshold : float
        The probability in (0, 1) above which an output that is a yes or no says yes.
    name : str or None
        The key in the history.

    Raises
    ------
    ValueError
        If an argument is invalid, and at `compile` if loss and outputs do not encode classes.
    """

    names = ("precision",)

    def score(self, true_positives: float, predicted: float, actual: float) -> float:
        return true_positives / predicted if predicted > 0 else 0.0


class Recall(ClassificationMetric):
    """The fraction of the rows of a class that were given it; 0 if no row has it.

    The parameters are those of `Precision`. Equal to scikit-learn's recall_score with zero_division=0.
    """

    names = ("recall",)

    def score(self, true_positives: float, predicted: float, actual: float) -> float:
        return true_positives / actual if actual > 0 else 0.0


class F1Score(ClassificationMetric):
    """The harmonic mean of precision and recall, 2 · true positives/(predicted + actual).

    The parameters are those of `Precision`. Equal to scikit-learn's f1_score with zero_division=0.
    """

    names = ("f1_score", "f1")

    def score(self, true_positives: float, predicted: float, actual: float) -> float:
        return 2 * true_positives / (predicted + actual) if predicted + actual > 0 else 0.0
