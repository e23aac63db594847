"""RealMLP-TD of pytabkit with default settings. It encodes categories; missing numbers become the median."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from pytabkit import RealMLP_TD_Classifier, RealMLP_TD_Regressor

from ..table_methods import Predict, day_numbers

if TYPE_CHECKING:
    import pandas as pd


def fit(X: pd.DataFrame, y: np.ndarray, task: str, seed: int) -> Predict:
    """Fit the model."""
    table = day_numbers(X)
    medians = table.select_dtypes("number").median()

    def prepared(rows: pd.DataFrame) -> pd.DataFrame:
        return day_numbers(rows).fillna(medians)

    kind = RealMLP_TD_Regressor if task == "regression" else RealMLP_TD_Classifier
    model = kind(device="cpu", n_threads=1, random_state=seed).fit(prepared(X), y)
    predict = model.predict if task == "regression" else model.predict_proba
    return lambda rows: predict(prepared(rows))
