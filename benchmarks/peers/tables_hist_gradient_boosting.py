"""scikit-learn's HistGradientBoosting with default settings. It has its own method for categories and missing values.

It stops early only on tables with more than 10,000 rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

from ..table_methods import Predict, day_numbers

if TYPE_CHECKING:
    import pandas as pd


def fit(X: pd.DataFrame, y: np.ndarray, task: str, seed: int) -> Predict:
    """Fit the model."""
    kind = HistGradientBoostingRegressor if task == "regression" else HistGradientBoostingClassifier
    model = kind(random_state=seed).fit(day_numbers(X), y)
    predict = model.predict if task == "regression" else model.predict_proba
    return lambda rows: predict(day_numbers(rows))
