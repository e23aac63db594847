"""Outputs of a fitted estimator: aᴸ, its mean and standard deviation over an ensemble, and scores."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from sklearn.utils.validation import check_is_fitted

from . import ensemble
from .fit_data import MLPFitData


class MLPOutputs(MLPFitData):
    """Predictions and scores."""

    _score_function: ClassVar[Callable[..., float]]  # of y and predictions
    estimators_: list[Any]

    def _score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the score that early stopping compares, NaN if a prediction is not finite."""
        # not super()._score: scikit-learn 1.7 and 1.8 fail on labels that are strings
        predicted = self._predict(X, check_input=False)
        if predicted.dtype.kind == "f" and not np.isfinite(predicted).all():
            return math.nan
        return float(self._score_function(y, predicted, sample_weight=sample_weight))

    def _forward_pass_fast(self, X: Any, check_input: bool = True) -> np.ndarray:
        """aᴸ (n, n_outputs), probabilities for a classifier."""
        if check_input:
            X = self._validate_X(X)
        if hasattr(self, "estimators_"):
            return np.asarray(ensemble.outputs(self, X).mean(axis=0))
        # during a fit the attributes follow the network, not the reverse
        if "_has_stepped" not in vars(self):
            self._sync_weights()
        return self._network_outputs(X)

    def _network_outputs(self, X: Any) -> np.ndarray:
        return self.net_.predict(X)

    def _predict_std(self, X: Any) -> np.ndarray:
        """The standard deviation (n, n_outputs) of aᴸ over the networks of an ensemble. Raise ValueError for one
        network."""
        if not hasattr(self, "estimators_"):
            check_is_fitted(self)
            raise ValueError("return_std=True needs an ensemble: fit with n_models > 1, for example n_models=10")
        return np.asarray(ensemble.outputs(self, self._validate_X(X)).std(axis=0))

    def _require_single_network(self, method: str) -> None:
        """Raise ValueError for an ensemble."""
        if hasattr(self, "estimators_"):
            raise ValueError(
                f"{method} needs a single network, got an ensemble of {len(self.estimators_)}: call it on the members "
                "of estimators_"
            )
