"""scikit-learn's random forest with default settings. It handles missing values; categories are numbered."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from sklearn.compose import make_column_transformer
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OrdinalEncoder

from ..table_methods import Predict, categories, day_numbers

if TYPE_CHECKING:
    import pandas as pd


def fit(X: pd.DataFrame, y: np.ndarray, task: str, seed: int) -> Predict:
    """Fit the model."""
    kind = RandomForestRegressor if task == "regression" else RandomForestClassifier
    numbered = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    columns = make_column_transformer((numbered, categories(X)), remainder="passthrough")
    model = make_pipeline(columns, kind(random_state=seed)).fit(day_numbers(X), y)
    predict = model.predict if task == "regression" else model.predict_proba
    return lambda rows: predict(day_numbers(rows))
