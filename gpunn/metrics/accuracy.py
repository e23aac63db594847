"""Accuracy: the fraction of rows that are classified correctly."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..kernels import get as kernel
from ..losses import Loss
from ..program import Array
from ..validation import Checked, positive_integer
from .base import Metric, target_format

KERNELS = {"class_index": "sparse_accuracy", "one_hot": "categorical_accuracy", "binary": "binary_accuracy"}


class Accuracy(Metric):
    """The fraction of rows that are classified correctly.

    The loss decides how classes are encoded: labels, rows of probabilities, or one yes or no per output. In the last
    case it is the fraction of correct outputs.

    Parameters
    ----------
    name : str or None
        The key in the history.
    """

    names = ("accuracy", "acc")

    def resolve(self, loss: Loss, n_out: int) -> None:
        form = target_format(self, loss, n_out)
        self._counts_outputs = form == "binary"
        self._kernel = KERNELS[form]
        self._arguments: dict[str, Any] = {}
        if self._counts_outputs:
            self._arguments["threshold"] = 0.0 if getattr(loss, "takes_logits", False) else 0.5

    def rows(self, a: Array, y: Array, w: Array) -> Array:
        return kernel(self._kernel)(a, y, w, **self._arguments)

    def value(self, sums: np.ndarray, weight: float, n_out: int) -> float:
        # a single division at the end keeps the count of correct outputs exact
        return super().value(sums, weight * n_out if self._counts_outputs else weight, n_out)


class TopKCategoricalAccuracy(Metric):
    """The fraction of rows whose class is among the k largest outputs; k=1 is the accuracy.

    The class is the label, or the column of the largest target. Of equal outputs the first count, as in the accuracy.

    Parameters
    ----------
    k : int
        An integer ≥ 1.
    name : str or None
        The key in the history.

    Raises
    ------
    ValueError
        At `compile`, if there are at most k classes, so that every answer would count as correct, or if each output is
        an independent yes or no.
    """

    names = ("top_k_categorical_accuracy",)
    k = Checked(positive_integer)

    def __init__(self, k: int = 5, name: str | None = None) -> None:
        self.k = k
        super().__init__(name)

    def resolve(self, loss: Loss, n_out: int) -> None:
        form = target_format(self, loss, n_out)
        if form == "binary":
            raise ValueError(
                f"metric {self.name!r} ranks classes, but with loss {loss.name!r} each output is a yes or no"
            )
        if 0 < n_out <= self.k:
            raise ValueError(f"metric {self.name!r} with k={self.k} is always 1 for {n_out} classes: use a smaller k")
        self._kernel = "sparse_top_k" if form == "class_index" else "categorical_top_k"

    def rows(self, a: Array, y: Array, w: Array) -> Array:
        return kernel(self._kernel)(a, y, w, top=self.k)

    def get_config(self) -> dict[str, Any]:
        return {"k": self.k}
