"""scikit-learn's MLPClassifier and MLPRegressor: complete `fit` without early stopping."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier, MLPRegressor

from ..conventions import BETA_1, BETA_2, EPSILON, Task

PACKAGES = ("scikit-learn", "scipy", "numpy")


class Estimator:
    """A classifier or regressor with scikit-learn's interface. `options` are further parameters."""

    def __init__(self, task: Task, classifier: Any, regressor: Any, **options: Any) -> None:
        self.task, self.classes = task, task.net.loss == "crossentropy"
        self.kind, self.options = classifier if self.classes else regressor, options
        self.y = task.y if self.classes else task.y[:, 0]
        self.fitted = self.new(1)

    def new(self, epochs: int) -> Any:
        """An estimator that draws the task's initial weights and trains for exactly `epochs` epochs."""
        net = self.task.net
        rules: dict[str, dict[str, Any]] = {
            "sgd": {"solver": "sgd", "momentum": 0.0, "nesterovs_momentum": False},
            "adam": {"solver": "adam", "beta_1": BETA_1, "beta_2": BETA_2, "epsilon": EPSILON},
        }
        return self.kind(
            hidden_layer_sizes=net.sizes[1:-1],
            activation="relu",
            alpha=0.0,
            batch_size=net.batch,
            learning_rate_init=net.learning_rate,
            max_iter=epochs,
            tol=0.0,
            n_iter_no_change=np.inf,
            random_state=self.task.seed,
            **rules[net.rule],
            **self.options,
        )

    def losses(self, n: int) -> list[float]:
        """The losses of `partial_fit`, one step per batch."""
        estimator, order, batch = self.new(1), self.task.order(0), self.task.net.batch
        given = {"classes": np.arange(self.task.net.sizes[-1])} if self.classes else {}
        for start in range(0, n * batch, batch):
            rows = order[start : start + batch]
            estimator.partial_fit(self.task.X[rows], self.y[rows], **given)
        return [float(loss) for loss in estimator.loss_curve_]

    def train(self, epochs: int) -> None:
        self.fitted = self.fit(self.task.X, self.y, epochs)

    def fit(self, X: np.ndarray, y: np.ndarray, epochs: int) -> Any:
        with warnings.catch_warnings():
            # every fit ends at max_iter
            warnings.simplefilter("ignore", ConvergenceWarning)
            return self.new(epochs).fit(X, y)

    def predict(self) -> np.ndarray:
        if self.classes:
            found: np.ndarray = self.fitted.predict_proba(self.task.X)
            return found
        values: np.ndarray = self.fitted.predict(self.task.X)
        return values[:, None]

    def weights(self) -> list[np.ndarray]:
        return [p for pair in zip(self.fitted.coefs_, self.fitted.intercepts_, strict=True) for p in pair]

    def setup(self) -> None:
        batch = self.task.net.batch
        self.fit(self.task.X[:batch], self.y[:batch], 1)


def prepare(task: Task, threads: int) -> Estimator:
    """Prepare the contestant. The environment limits BLAS to `threads`."""
    return Estimator(task, MLPClassifier, MLPRegressor)
