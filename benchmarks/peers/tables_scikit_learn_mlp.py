"""scikit-learn's MLP with default settings, on standardized numbers and one-hot categories.

Missing numbers become the median. A regression target is standardized: the default learning rate needs it.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
from sklearn.compose import TransformedTargetRegressor, make_column_transformer
from sklearn.exceptions import ConvergenceWarning
from sklearn.impute import SimpleImputer
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from ..table_methods import Predict, categories, day_numbers

if TYPE_CHECKING:
    import pandas as pd


def fit(X: pd.DataFrame, y: np.ndarray, task: str, seed: int) -> Predict:
    """Fit the model."""
    columns = make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore"), categories(X)),
        remainder=make_pipeline(SimpleImputer(strategy="median"), StandardScaler()),
    )
    if task == "regression":
        net = TransformedTargetRegressor(MLPRegressor(random_state=seed), transformer=StandardScaler())
    else:
        net = MLPClassifier(random_state=seed)
    with warnings.catch_warnings():
        # most fits end at max_iter, as they do for users who keep the defaults
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = make_pipeline(columns, net).fit(day_numbers(X), y)
    predict = model.predict if task == "regression" else model.predict_proba
    return lambda rows: predict(day_numbers(rows))
