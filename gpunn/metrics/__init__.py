"""Metrics of a fit and of `evaluate`, computed in the same pass as the loss; one family per file.

Most are weighted means over rows, or are computed from a few such means: precision from the counts of each class, R²
from sums around the mean. A `NonDecomposableMetric`, such as the area under a curve, needs all rows together.
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


def __dir__() -> list[str]:
    return __all__
