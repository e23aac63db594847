"""How many rows are classified right."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..kernels import get as kernel
from ..losses import Loss
from ..recording import Array, Recorder
from ..validation import Checked, positive_integer
from .base import Metric, target_format


class Accuracy(Metric):
    """The share of rows (of outputs, where each is a yes or no) that are classified right.

    Which of the three meanings applies is decided by the loss: labels, rows of probabilities, or yes and no a column.
    """

    names = ("accuracy", "acc")

    def resolve(self, loss: Loss, n_out: int) -> None:
        meaning = target_format(self, loss, n_out)
        self._kernel = {"labels": "sparse_accuracy", "largest": "categorical_accuracy", "columns": "binary_accuracy"}[
            meaning
        ]
        self._counts_outputs = meaning == "columns"
        takes_logits = getattr(loss, "takes_logits", False)
        self._numbers = {"threshold": 0.0 if takes_logits else 0.5} if self._counts_outputs else {}

    def record(self, ops: Recorder, a: Array, y: Array, w: Array, row_values: Array) -> None:
        ops(kernel(self._kernel), a, y, w, out=row_values, **self._numbers)

    def value(self, sums: np.ndarray, weight: float, n_out: int) -> float:
        # one division at the end keeps the sum of hits exact
        return super().value(sums, weight * n_out if self._counts_outputs else weight, n_out)


class TopKCategoricalAccuracy(Metric):
    """The share of rows whose class has one of the k largest outputs; k=1 is the accuracy.

    Of equal outputs the first count, as in accuracy. The class is the label, or the column of the largest target.
    ValueError where there are no more than k classes, which makes every answer right, or where each output is a yes or
    no by itself.
    """

    names = ("top_k_categorical_accuracy",)
    k = Checked(positive_integer)

    def __init__(self, k: int = 5, name: str | None = None) -> None:
        self.k = k
        super().__init__(name)

    def resolve(self, loss: Loss, n_out: int) -> None:
        meaning = target_format(self, loss, n_out)
        if meaning == "columns":
            raise ValueError(f"metric {self.name!r} ranks classes, but with loss {loss.name!r} every output is its own")
        if 0 < n_out <= self.k:
            raise ValueError(f"metric {self.name!r} with k={self.k} is always 1 for {n_out} classes: take a smaller k")
        self._kernel = "sparse_top_k" if meaning == "labels" else "categorical_top_k"

    def record(self, ops: Recorder, a: Array, y: Array, w: Array, row_values: Array) -> None:
        ops(kernel(self._kernel), a, y, w, out=row_values, top=self.k)

    def get_config(self) -> dict[str, Any]:
        return {"k": self.k}
