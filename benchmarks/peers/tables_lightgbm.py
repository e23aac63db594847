"""LightGBM with default settings. It has its own method for categories and missing values."""

from __future__ import annotations

from typing import TYPE_CHECKING

import lightgbm
import numpy as np

from ..table_methods import Predict, day_numbers

if TYPE_CHECKING:
    import pandas as pd


def fit(X: pd.DataFrame, y: np.ndarray, task: str, seed: int) -> Predict:
    """Fit the model."""
    kind = lightgbm.LGBMRegressor if task == "regression" else lightgbm.LGBMClassifier
    model = kind(n_jobs=1, random_state=seed, verbose=-1).fit(day_numbers(X), y)
    predict = model.predict if task == "regression" else model.predict_proba
    return lambda rows: predict(day_numbers(rows))
