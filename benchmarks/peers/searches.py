"""A search over `alpha` with gpunn's `MLPSearchCV` and with scikit-learn's `GridSearchCV`, on the same folds."""

from __future__ import annotations

import time
import warnings
from typing import Any

import numpy as np
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.neural_network import MLPClassifier

import gpunn

PACKAGES = ("gpunn", "scikit-learn", "scipy", "joblib")
JOBS = 2


class Searches:
    """Both searches over digits, with these hidden layers, in this precision."""

    def __init__(self, hidden: tuple[int, ...], precision: str, *, candidates: int, folds: int, epochs: int) -> None:
        X, y = load_digits(return_X_y=True)
        self.X, self.y, self.epochs = (X / 16).astype(precision), y, epochs
        self.grid = {"alpha": np.logspace(-6, -1, candidates).tolist()}
        self.cv = StratifiedKFold(folds, shuffle=True, random_state=0)
        self.parameters: dict[str, Any] = {
            "hidden_layer_sizes": hidden,
            "max_iter": epochs,
            "tol": 0.0,
            "n_iter_no_change": np.inf,
            "random_state": 0,
        }

    def run(self, name: str) -> tuple[float, Any]:
        """Run a search; returns its seconds, including the refit, and the search."""
        if name == "gpunn":
            search = gpunn.MLPSearchCV(gpunn.MLPClassifier(device="cpu", **self.parameters), self.grid, cv=self.cv)
        else:
            search = GridSearchCV(MLPClassifier(**self.parameters), self.grid, cv=self.cv, n_jobs=JOBS)
        begun = time.perf_counter()
        with warnings.catch_warnings():
            # every fit ends at max_iter
            warnings.simplefilter("ignore", ConvergenceWarning)
            search.fit(self.X, self.y)
        seconds = time.perf_counter() - begun
        if search.best_estimator_.n_iter_ != self.epochs:
            raise RuntimeError(f"{name} must train for {self.epochs} epochs, got {search.best_estimator_.n_iter_}")
        return seconds, search


def scores(search: Any) -> tuple[list[float], list[float]]:
    """The mean_test_score of every candidate, and its standard error over the folds."""
    means, deviations = (search.cv_results_[name] for name in ("mean_test_score", "std_test_score"))
    return means.tolist(), (deviations / np.sqrt(search.n_splits_)).tolist()
