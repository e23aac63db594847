"""`TabularClassifier` and `TabularRegressor`: ensembles of networks for tables."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..interchange.onnx_graph import Graph
from ..validation import nonnegative
from . import onnx_export, saving
from .ensemble import TrainedNetwork, TrainingSet
from .sklearn_bases import ClassifierMixin, RegressorMixin
from .table import read_table
from .tabular_estimator import TabularEstimator
from .target_checks import labels_of, values_of, weighted_rows
from .target_scale import TargetScale


class TabularClassifier(ClassifierMixin, TabularEstimator):
    """An ensemble of networks that classifies the rows of a table.

    Columns are numbers, texts, booleans, categories or dates, and cells may be missing; `columns_` says how each is
    encoded. `n_networks` networks with sampled settings are trained by AdamW (E1 to E8), each on all rows except those
    of its fold, whose log loss chooses its epoch. A network that is worse than the median of the fold's earlier ones
    ends after half of its epochs. In each fold, networks are selected greedily by the metric of their average
    probability, and the prediction is the mean over folds. The same `random_state` gives the same bits, unless
    `time_limit` ended the training.

    Parameters
    ----------
    n_networks : int
        The number of networks that are trained, by default 40. Very large tables get fewer, and a warning says so.
    time_limit : float, optional
        Seconds after which no further group of networks is started. The networks of the current group end with their
        current epoch, or with their first.
    metric : {"log_loss", "accuracy", "balanced_accuracy", "roc_auc"}, optional
        The measure of the predictions, by default the log loss. It selects the networks; between equal values the log
        loss decides. "roc_auc" is the area under the ROC curve, for more than two classes the mean over the classes,
        each against the rest, without classes that have no rows. `predict` returns the most probable label with every
        metric: for "balanced_accuracy" of unequal classes, a `sample_weight` of 1 / (rows of the class) also changes
        the probabilities.
    categorical, dates : sequence of str
        Columns that are categories, or dates, whatever their cells look like.
    random_state : int, Generator, RandomState or None
        Of folds, settings and networks.
    n_jobs : int, optional
        The number of networks that are trained concurrently, each in one thread (extra `threads`); None or -1 uses
        BLAS's number of threads.
    device : str
        "auto", "cpu", "cuda" or "cuda:N".
    verbose : int
        1 shows a progress bar (extra `cli`).

    Attributes
    ----------
    classes_ : ndarray
        The labels, sorted.
    leaderboard_ : list of dict
        The networks with settings, fold, epochs, seconds and weight in the ensemble. "validation_loss" is the mean log
        loss of the rows of the fold, "validation_metric" the metric of them.
    columns_ : dict
        The encoding of each column, or the reason why it is left out.
    interrupted_ : bool
        True if Ctrl-C ended the training.
    n_features_in_ : int
    feature_names_in_ : ndarray
        Of tables with names.

    References
    ----------
    Caruana et al. 2004 (selection); Golovin et al. 2017 (median stopping rule); Gorishniy et al. 2022 (encoding of
    numbers); Holzmüller et al. 2024.

    Examples
    --------
    >>> table = {"age": [22, 41, None, 35] * 10, "city": ["Oslo", "Rome", "Rome", None] * 10}
    >>> model = gpunn.TabularClassifier(n_networks=4).fit(table, ["no", "yes", "yes", "no"] * 10)
    >>> model.predict({"age": [30], "city": ["Rome"]})
    """

    _is_classifier = True
    classes_: np.ndarray

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> TabularClassifier:
        """Train on a table.

        Parameters
        ----------
        X : array (n, columns), dict of columns, pandas, polars or pyarrow table
            The rows. None and NaN are missing cells.
        y : array-like (n,)
            Labels: integers, texts or booleans.
        sample_weight : array-like (n,), optional
            Weights ≥ 0, wᵢ in C = Σ wᵢℓᵢ / Σ wᵢ (E3).

        Raises
        ------
        ValueError, TypeError
            For invalid input. The model is unchanged.
        """
        table = read_table(X)
        table, labels, w = weighted_rows(table, labels_of(y, table.n_rows), sample_weight)
        classes, indices = np.unique(labels, return_inverse=True)
        if len(classes) < 2:
            raise ValueError(f"y must have at least two classes, got only the class {classes.tolist()[0]!r} (1 class)")
        self._train(table, indices.reshape(-1).astype(np.int32), len(classes), w)
        self.classes_ = classes
        return self

    def _encode_targets(self, y: Any, n: int) -> np.ndarray:
        labels = labels_of(y, n)
        unknown = sorted(set(labels.tolist()) - set(self.classes_.tolist()), key=str)
        if unknown:
            raise ValueError(f"y must contain labels of the training rows, got {unknown[0]!r}")
        return np.searchsorted(self.classes_, labels)

    def _fitted_config(self) -> dict[str, Any]:
        return {"classes": saving.labels_to_config(self.classes_)}

    def _add_onnx_outputs(self, graph: Graph, outputs: list[str], weights: np.ndarray) -> None:
        onnx_export.add_classes(graph, outputs, weights, self.classes_)

    def _restore(self, fitted: dict[str, Any]) -> int:
        self.classes_ = saving.labels_from_config(fitted["classes"])
        return len(self.classes_)

    def predict_proba(self, X: Any) -> np.ndarray:
        """The probability of each class.

        Parameters
        ----------
        X : table
            As in `fit`, with the same columns.

        Returns
        -------
        ndarray (n, number of classes)

        Raises
        ------
        ValueError, TypeError
            A column is missing, or has another type than in training.
        """
        outputs = self._outputs(X)
        p = np.tensordot(self._weights, outputs, 1)
        normalized: np.ndarray = p / p.sum(axis=1, keepdims=True)
        return normalized

    def predict(self, X: Any) -> np.ndarray:
        """The most probable label (n,) of each row. Parameters and errors are those of `predict_proba`."""
        p = self.predict_proba(X)
        labels: np.ndarray = self.classes_[p.argmax(axis=1)]
        return labels


class TabularRegressor(RegressorMixin, TabularEstimator):
    """An ensemble of networks that predicts a number for each row of a table.

    As `TabularClassifier`, with the squared or absolute error. Targets are standardized, and predictions are limited to
    the range of the training targets.

    Parameters
    ----------
    metric : {"squared_error", "absolute_error"}, optional
        The measure of the predictions, by default the squared error. It chooses the epochs of the networks and selects
        them. E(a − y)² is smallest for the mean of y, E|a − y| for its median. For the absolute error, the networks are
        trained with the Huber loss, κ = 0.1 standard deviations of y.
    n_networks, time_limit, categorical, dates, random_state, n_jobs, device, verbose
        As in `TabularClassifier`.

    Attributes
    ----------
    residual_std_ : float
        The root mean square of the out-of-fold errors, in units of y.
    leaderboard_, columns_, interrupted_, n_features_in_, feature_names_in_
        As in `TabularClassifier`. Losses are those of standardized targets.
    """

    _is_classifier = False
    residual_std_: float
    _scale: TargetScale

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> TabularRegressor:
        """Train on a table.

        Parameters
        ----------
        X : table
            As in `TabularClassifier.fit`.
        y : array-like (n,)
            Numbers.
        sample_weight : array-like (n,), optional
            Weights ≥ 0.

        Raises
        ------
        ValueError, TypeError
            For invalid input. The model is unchanged.
        """
        table = read_table(X)
        table, values, w = weighted_rows(table, values_of(y, table.n_rows), sample_weight)
        scale = TargetScale.fit(values)
        members, data = self._train(table, scale.standardize(values), 1, w)
        self._scale = scale
        self.residual_std_ = scale.deviation * _residual_std(members, data)
        return self

    def _encode_targets(self, y: Any, n: int) -> np.ndarray:
        return self._scale.standardize(values_of(y, n))

    def _fitted_config(self) -> dict[str, Any]:
        return {**self._scale.get_config(), "residual_std": self.residual_std_}

    def _add_onnx_outputs(self, graph: Graph, outputs: list[str], weights: np.ndarray) -> None:
        onnx_export.add_values(graph, outputs, weights, self._scale)

    def _restore(self, fitted: dict[str, Any]) -> int:
        self._scale = TargetScale.from_config(fitted)
        self.residual_std_ = nonnegative("residual_std", fitted["residual_std"])
        return 1

    def predict(self, X: Any, return_std: bool = False) -> Any:
        """Predict a number for each row.

        Parameters
        ----------
        X : table
            As in `fit`, with the same columns.
        return_std : bool
            If true, also return the standard deviation √(Σ_k w_k (a_k − a)² + s²) of each prediction: the variance of
            the members a_k around their mean a, and the out-of-fold residual variance s² (`residual_std_`).

        Returns
        -------
        a : ndarray (n,)
        std : ndarray (n,)
            Only with `return_std`.

        Raises
        ------
        ValueError, TypeError
            A column is missing, or has another type than in training.
        """
        z = self._outputs(X)[:, :, 0]
        outputs = self._scale.restore(z)
        a = self._weights @ outputs
        if not return_std:
            return a
        return a, np.sqrt(self._weights @ (outputs - a) ** 2 + self.residual_std_**2)


def _residual_std(members: list[TrainedNetwork], data: TrainingSet) -> float:
    """The weighted root mean squared error of the folds' selected averages, of standardized targets."""
    errors, weights = [], []
    for fold in {member.fold for member in members}:
        of_fold = [member for member in members if member.fold == fold and member.weight]
        shares = np.array([member.weight for member in of_fold])
        a = np.tensordot(shares / shares.sum(), np.stack([member.outputs for member in of_fold]), 1)
        rows = of_fold[0].rows
        errors.append(((a - data.y[rows]) ** 2).sum(axis=1))
        weights.append(np.ones(len(rows)) if data.w is None else data.w[rows])
    return float(np.sqrt(np.average(np.concatenate(errors), weights=np.concatenate(weights))))
