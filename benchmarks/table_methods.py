"""The methods that `python -m benchmarks tables` compares, and the columns that libraries without dates are given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

OURS, BASELINE = "gpunn", "lightgbm"


class Predict(Protocol):
    """Predictions of a fitted model: probabilities (rows, classes), or values (rows,)."""

    def __call__(self, X: pd.DataFrame) -> np.ndarray: ...


class Fit(Protocol):
    """The function `fit` of a method's module: fit a model with default settings, and return its predictions."""

    def __call__(self, X: pd.DataFrame, y: np.ndarray, task: str, seed: int) -> Predict: ...


@dataclass(frozen=True)
class Method:
    """A method: its name in reports, its module and the packages whose versions are recorded."""

    label: str
    module: str
    packages: tuple[str, ...]
    is_quick: bool = True


METHODS = {
    OURS: Method("gpunn", "benchmarks.peers.tables_gpunn", ("gpunn",)),
    BASELINE: Method("LightGBM", "benchmarks.peers.tables_lightgbm", ("lightgbm",)),
    "xgboost": Method("XGBoost", "benchmarks.peers.tables_xgboost", ("xgboost",)),
    "hist-gradient-boosting": Method(
        "HistGradientBoosting", "benchmarks.peers.tables_hist_gradient_boosting", ("scikit-learn",)
    ),
    "catboost": Method("CatBoost", "benchmarks.peers.tables_catboost", ("catboost",), is_quick=False),
    "random-forest": Method("random forest", "benchmarks.peers.tables_random_forest", ("scikit-learn",)),
    "scikit-learn-mlp": Method("scikit-learn's MLP", "benchmarks.peers.tables_scikit_learn_mlp", ("scikit-learn",)),
    "realmlp": Method("RealMLP-TD", "benchmarks.peers.tables_realmlp", ("pytabkit", "torch"), is_quick=False),
}


def day_numbers(X: pd.DataFrame) -> pd.DataFrame:
    """The table with dates as days since 1970, NaN for missing dates."""
    # not `assign`, which refuses a column `self`
    numbers, epoch = X.copy(), np.datetime64(0, "s")
    for name in X.select_dtypes("datetime").columns:
        numbers[name] = (X[name] - epoch) / np.timedelta64(1, "D")
    return numbers


def categories(X: pd.DataFrame) -> list[Any]:
    """The names of the columns that are categories."""
    return list(X.select_dtypes("category").columns)
