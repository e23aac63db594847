"""What the answers are worth class by class: precision, recall and their harmonic mean."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..kernels import get as kernel
from ..losses import Loss
from ..recording import Array, Recorder
from ..validation import Checked, open_unit_interval
from .base import Metric, target_format

AVERAGES = ("auto", "binary", "macro", "micro")


def _average(name: str, value: Any) -> str:
    """One of the ways to average over classes."""
    if value not in AVERAGES:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, AVERAGES))}, got {value!r}")
    return str(value)


class ClassificationMetric(Metric):
    """Weights by class: where the answer is right (r), where the class was the answer (s), where it was wanted (t)."""

    average = Checked(_average)
    threshold = Checked(open_unit_interval)

    def __init__(self, average: str = "auto", threshold: float = 0.5, name: str | None = None) -> None:
        self.average = average
        self.threshold = threshold
        super().__init__(name)

    def resolve(self, loss: Loss, n_out: int) -> None:
        self._meaning = target_format(self, loss, n_out)
        classes = 2 if n_out == 1 else n_out
        if self.average == "binary" and (classes > 2 or (self._meaning == "columns" and n_out > 1)):
            raise ValueError(f"metric {self.name!r}: average='binary' is for two classes; take 'macro' or 'micro'")
        if self._meaning != "columns" and self.threshold != 0.5:
            raise ValueError(
                f"metric {self.name!r}: threshold={self.threshold} is for outputs that are each a yes or no; with loss "
                f"{loss.name!r} the answer is the largest output"
            )
        odds = self.threshold / (1 - self.threshold)
        self._limit = math.log(odds) if getattr(loss, "takes_logits", False) else self.threshold

    def n_sums(self, n_out: int) -> int:
        return 3 * n_out

    def record(self, ops: Recorder, a: Array, y: Array, w: Array, row_values: Array) -> None:
        m = a.shape[1]
        out = (row_values[:, :m], row_values[:, m : 2 * m], row_values[:, 2 * m :])
        if self._meaning == "columns":
            ops(kernel("count_positives"), a, y, w, out=out, threshold=self._limit)
        else:
            ops(kernel({"labels": "count_labels", "largest": "count_one_hot"}[self._meaning]), a, y, w, out=out)

    def compute(self, mean: Any) -> float:
        right, said, wanted = mean.reshape(3, -1)
        average, count = self.average, len(right)
        if average == "auto":
            two = count == 1 if self._meaning == "columns" else count == 2
            average = "binary" if two else "macro"
        if average == "binary":
            # of two classes the second is the one that is asked for
            return self.score(float(right[-1]), float(said[-1]), float(wanted[-1]))
        if average == "micro":
            return self.score(float(right.sum()), float(said.sum()), float(wanted.sum()))
        there = np.flatnonzero((said + wanted > 0) | (self._meaning == "columns"))
        scores = [self.score(float(right[k]), float(said[k]), float(wanted[k])) for k in there]
        return sum(scores) / len(scores) if scores else 0.0

    def score(self, right: float, said: float, wanted: float) -> float:
        """The metric of one class from its three weights; 0 where it is not defined."""
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        return {"average": self.average, "threshold": self.threshold}


class Precision(ClassificationMetric):
    """Of the rows that were given a class, the share that has it: r/s; 0 where none was given it.

    average    "binary": of class 1 alone, of two classes or of one yes or no. "macro": the mean over classes (over
               outputs, where each is a yes or no), leaving out classes that no row has and none was given. "micro":
               counted over all classes together. "auto" is "binary" where that is possible, else "macro"
    threshold  the probability above which an output that is a yes or no says yes

    As scikit-learn's precision_score with zero_division=0. ValueError for arguments that make no sense, and where
    loss and outputs tell no classes.
    """

    names = ("precision",)

    def score(self, right: float, said: float, wanted: float) -> float:
        return right / said if said > 0 else 0.0


class Recall(ClassificationMetric):
    """Of the rows that have a class, the share that was given it: r/t; 0 where none has it.

    The arguments are `Precision`'s. As scikit-learn's recall_score with zero_division=0.
    """

    names = ("recall",)

    def score(self, right: float, said: float, wanted: float) -> float:
        return right / wanted if wanted > 0 else 0.0


class F1Score(ClassificationMetric):
    """The harmonic mean of precision and recall, 2r/(s + t); of several classes the mean of theirs ("macro").

    The arguments are `Precision`'s. As scikit-learn's f1_score with zero_division=0.
    """

    names = ("f1_score", "f1")

    def score(self, right: float, said: float, wanted: float) -> float:
        return 2 * right / (said + wanted) if said + wanted > 0 else 0.0
