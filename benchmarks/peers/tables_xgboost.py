"""XGBoost with default settings. It has its own method for categories and missing values."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import xgboost

from ..table_methods import Predict, day_numbers

if TYPE_CHECKING:
    import pandas as pd


def fit(X: pd.DataFrame, y: np.ndarray, task: str, seed: int) -> Predict:
    """Fit the model."""
    kind = xgboost.XGBRegressor if task == "regression" else xgboost.XGBClassifier
    model = kind(n_jobs=1, random_state=seed, enable_categorical=True).fit(day_numbers(X), y)
    predict = model.predict if task == "regression" else model.predict_proba
    return lambda rows: predict(day_numbers(rows))
