"""Metrics of a fit and of `evaluate`, gathered beside the loss in the same pass; one family a file.

Most are weighted means over rows, or made of a few such means: precision of the counts of every class, R² of sums about
the mean. `NonDecomposableMetric`, the area under a curve for one, looks at all rows of the set together.
"""

from .accuracy import Accuracy, TopKCategoricalAccuracy
from .auc import AUC
from .base import Metric, NonDecomposableMetric, built_in, from_config, get, to_config
from .classes import F1Score, Precision, Recall
from .regression import MeanAbsoluteError, MeanSquaredError, R2Score, RootMeanSquaredError

__all__ = [
    "AUC",
    "Accuracy",
    "F1Score",
    "MeanAbsoluteError",
    "MeanSquaredError",
    "Metric",
    "NonDecomposableMetric",
    "Precision",
    "R2Score",
    "Recall",
    "RootMeanSquaredError",
    "TopKCategoricalAccuracy",
    "built_in",
    "from_config",
    "get",
    "to_config",
]
