"""Data of a fit: conversion, validation, class weights, and the split for early stopping."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.model_selection import train_test_split
from sklearn.utils.validation import check_consistent_length, validate_data

from .. import input_checks as checks
from ..model import Sequential
from ..training import inputs
from .arrays import host_numbers
from .sklearn_private import check_sample_weight
from .weights import MLPWeights

DataRows = tuple[Any, Any, Any]  # X, y, sample_weight


def is_valid(X: Any, y: Any) -> bool:
    """True if scikit-learn's validation would return X and y unchanged: finite arrays of numbers (n, n_in) and (n,)."""
    if not type(X) is type(y) is np.ndarray:
        return False
    if X.dtype not in (np.float64, np.float32) or y.dtype.kind not in "biuf" or X.ndim != 2 or y.shape != X.shape[:1]:
        return False
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(X.size and np.isfinite(X.sum()) and np.isfinite(y.sum()))


class MLPFitData(MLPWeights):
    """Training and validation data as the network reads them."""

    def _validate_X(self, X: Any) -> Any:
        """Validate X of a fitted estimator by scikit-learn's rules."""
        return validate_data(self, X, accept_sparse=["csr", "csc"], reset=False)

    def _host_targets(self, y: Any) -> Any:
        """Copy y to the host, as `host_numbers` does."""
        return host_numbers(y, "y")

    def _targets(self, model: Sequential, X: Any, y: Any, w: Any) -> DataRows:
        """X, y and weights in the network's types; y as class indices if the loss takes those."""
        return inputs.validate(model._net, X, y.argmax(axis=1) if model.loss.targets == "class_index" else y, w)

    def _combined_weights(self, y: Any, sample_weight: Any) -> Any:
        """Sample weights times class weights."""
        return sample_weight

    def _labels_of(self, y: Any) -> Any:
        """Decode fitted targets to the user's labels."""
        return y

    def _encode(self, y: Any) -> Any:
        """Encode validation targets as `_validate_input` encodes training targets: (n, n_outputs)."""
        raise NotImplementedError

    def _encode_labels(self, y: Any) -> Any:
        """Learn the classes in y (n,), which is valid, and encode it. A regressor has none."""
        return y

    def _stratify(self, y: Any) -> Any:
        """Labels by which the early-stopping split is stratified, or None."""
        return None

    def _check_scale(self, y: Any) -> None:
        """Warn if mini-batches hardly learn these targets (n, n_outputs)."""

    def _check_same_shape(self, y: Any) -> None:
        """Raise ValueError if a warm start or partial_fit would need weights of another shape."""
        *fitted_sizes, n_outputs = [b.shape[0] for b in self.intercepts_]
        if fitted_sizes != self._hidden_sizes():
            raise ValueError(
                f"hidden_layer_sizes is now {self._hidden_sizes()}, but the fitted weights are of layers "
                f"{fitted_sizes}: set it back, or fit again with warm_start=False"
            )
        given = 1 if y.ndim == 1 else y.shape[1]
        if given != n_outputs:
            raise ValueError(
                f"y has {given} outputs, but the fitted weights are of {n_outputs}: fit again with warm_start=False"
            )

    def _split(self, X: Any, y: Any, sample_weight: Any) -> tuple[np.ndarray, DataRows | None]:
        """Return the indices of the training rows, and the rows for early stopping or None.

        The split is drawn as in scikit-learn, but of indices, so that X is not copied.
        """
        rows = np.arange(X.shape[0])
        if not self.early_stopping:
            return rows, None
        training, validation = train_test_split(
            rows,
            random_state=self._random_state,
            test_size=self.validation_fraction,
            stratify=self._stratify(y),
        )
        if len(validation) < 2:
            raise ValueError(
                "The validation set is too small. Increase 'validation_fraction' or the size of your dataset."
            )
        if X.__class__.__name__.startswith("csc"):
            X = X.tocsr()
        for part, use in ((training, "trains"), (validation, "is held out")):
            if not checks.any_weight(None if sample_weight is None else sample_weight[part]):
                raise ValueError(
                    f"sample_weight is zero in every row that {use} with early_stopping=True; give more rows a weight "
                    "> 0, or change validation_fraction"
                )
        weights = None if sample_weight is None else sample_weight[validation]
        return training, (X[validation], self._labels_of(y[validation]), weights)

    def _validation(self, model: Sequential) -> DataRows | None:
        """Return `validation_data` in the network's types, or None. Raise ValueError or TypeError if it is invalid."""
        given = self._validation_data
        if given is None:
            return None
        if not isinstance(given, (tuple, list)) or len(given) not in (2, 3):
            raise ValueError("validation_data must be (X, y) or (X, y, sample_weight)")
        try:
            X, y, w = (*given, None)[:3]
            X, y, w = host_numbers(X), self._host_targets(y), host_numbers(w, "sample_weight")
            X = self._validate_X(X)
            check_consistent_length(X, y)
            y = self._encode(y)
            if w is not None:
                w = check_sample_weight(w, X)
            return self._targets(model, X, y, w)
        except (ValueError, TypeError) as error:
            kind = ValueError if isinstance(error, ValueError) else TypeError
            raise kind(f"validation_data: {error}") from error
