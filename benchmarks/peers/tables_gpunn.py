"""gpunn's estimators for tables with default settings. They encode all columns."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gpunn import TabularClassifier, TabularRegressor

from ..table_methods import Predict

if TYPE_CHECKING:
    import pandas as pd


def fit(X: pd.DataFrame, y: np.ndarray, task: str, seed: int) -> Predict:
    """Fit the model."""
    kind = TabularRegressor if task == "regression" else TabularClassifier
    model = kind(random_state=seed).fit(X, y)
    predict: Predict = model.predict if task == "regression" else model.predict_proba
    return predict
