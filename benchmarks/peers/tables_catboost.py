"""CatBoost with default settings. It has its own method for categories; a missing one is a category."""

from __future__ import annotations

from typing import TYPE_CHECKING

import catboost
import numpy as np

from ..table_methods import Predict, categories, day_numbers

if TYPE_CHECKING:
    import pandas as pd


def fit(X: pd.DataFrame, y: np.ndarray, task: str, seed: int) -> Predict:
    """Fit the model."""
    kind = catboost.CatBoostRegressor if task == "regression" else catboost.CatBoostClassifier
    model = kind(thread_count=1, random_seed=seed, verbose=False, allow_writing_files=False)
    model.fit(_prepared(X), y, cat_features=categories(X))
    predict = model.predict if task == "regression" else model.predict_proba
    return lambda rows: predict(_prepared(rows), thread_count=1)


def _prepared(X: pd.DataFrame) -> pd.DataFrame:
    prepared = day_numbers(X)
    for name in categories(X):
        prepared[name] = X[name].astype(object).fillna("missing")
    return prepared
