"""Checks of targets, weights and other arguments of `TabularClassifier` and `TabularRegressor`."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from ..validation import nonnegative
from .sklearn_bases import DataConversionWarning
from .table import Table, is_missing, shown
from .target_scale import MAX_TARGET

SMALLEST_WEIGHT = 1e-30  # the networks compute with float32


def generator_from(random_state: Any) -> np.random.Generator:
    """A generator from scikit-learn's kinds of `random_state`."""
    if isinstance(random_state, np.random.RandomState):
        return np.random.default_rng(int(random_state.randint(2**31 - 1)))
    try:
        return np.random.default_rng(random_state)
    except (TypeError, ValueError):
        raise ValueError(f"random_state must be an integer ≥ 0, a generator or None, got {random_state!r}") from None


def weighted_rows(table: Table, y: np.ndarray, sample_weight: Any) -> tuple[Table, np.ndarray, np.ndarray | None]:
    """The rows of positive weight: the others have no influence, not even on the scales of columns and targets."""
    w = _check_weights(sample_weight, table.n_rows)
    if w is None or w.all():
        return table, y, w
    kept = np.flatnonzero(w)
    return table.take(kept), y[kept], w[kept]


def _check_weights(sample_weight: Any, n: int) -> np.ndarray | None:
    """Weights as float64."""
    if sample_weight is None:
        return None
    try:
        w = np.asarray(sample_weight, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"sample_weight must contain numbers: {error}") from None
    if w.ndim == 0:
        w = np.full(n, float(w))
    if w.shape != (n,):
        raise ValueError(f"sample_weight must have shape ({n},), got {w.shape}")
    if not np.isfinite(w).all():
        raise ValueError("sample_weight must be finite, got NaN or infinity")
    nonnegative("the smallest sample_weight", float(w.min()))
    largest = float(w.max())
    if largest == 0:
        raise ValueError("sample_weight must not be zero in all rows")
    if not SMALLEST_WEIGHT <= largest <= 1 / SMALLEST_WEIGHT:
        raise ValueError(
            f"the largest sample_weight must be between {SMALLEST_WEIGHT:g} and {1 / SMALLEST_WEIGHT:g}, got "
            f"{largest:g}: weights matter only in proportion to one another, so that all can be multiplied by a number"
        )
    return w


def _target(y: Any, n: int) -> np.ndarray:
    """The target as an array (n,)."""
    if y is None:
        raise ValueError("y is missing: this estimator requires y to be passed, but the target y is None")
    if n == 0:
        raise ValueError("X must have at least one row, got an empty table (0 samples)")
    values = y.to_pylist() if hasattr(y, "to_pylist") else y
    array = np.asarray(values)
    if array.dtype.kind in "US" and isinstance(values, (list, tuple)):
        array = np.array(values, dtype=object)  # NumPy makes a text of each target if one is a text
    if array.ndim == 2 and array.shape[1] == 1:
        warnings.warn(
            "A column-vector y was passed when a 1d array was expected. Please change the shape of y to (n_samples,), "
            "for example using ravel().",
            DataConversionWarning,
            stacklevel=4,
        )
        array = array[:, 0]
    if array.ndim != 1:
        raise ValueError(f"y must have shape ({n},), one target per row, got {array.shape}")
    if len(array) != n:
        raise ValueError(f"y must have one target per row of X, {n}, got {len(array)}: inconsistent numbers of samples")
    return array


def labels_of(y: Any, n: int) -> np.ndarray:
    """Labels (n,). ValueError if one is missing, or if they are not classes."""
    labels = _target(y, n)
    if labels.dtype.kind == "f":
        _check_present(np.isnan(labels))
        if not np.isfinite(labels).all():
            raise ValueError("y must be finite, got infinity")
        if (labels != np.floor(labels)).any():
            raise ValueError(
                "Unknown label type: continuous. y must contain classes, got numbers that are not whole: use "
                "TabularRegressor for numbers"
            )
    if labels.dtype.kind == "O":
        _check_present(np.array([is_missing(value) for value in labels], dtype=bool))
        kinds = {type(value).__name__ for value in labels}
        if len(kinds) > 1 and "str" in kinds:
            raise TypeError(f"y must contain labels of one type, got {', '.join(sorted(kinds))}")
        labels = np.array(labels.tolist())
    return labels


def values_of(y: Any, n: int) -> np.ndarray:
    """Numbers (n,), float64."""
    found = _target(y, n)
    if found.dtype.kind not in "biufO":
        raise ValueError(f"y must contain numbers, got {found.dtype}: use TabularClassifier for classes")
    if found.dtype.kind == "O":
        _check_present(np.array([is_missing(value) for value in found], dtype=bool))
        text = next((value for value in found if isinstance(value, str)), None)
        if text is not None:
            raise ValueError(f"y must contain numbers, got {shown(text)}: use TabularClassifier for classes")
    try:
        values = found.astype(np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"y must contain numbers: {error}; use TabularClassifier for classes") from None
    _check_present(np.isnan(values))
    if not np.isfinite(values).all():
        raise ValueError(f"y must be finite, got infinity in row {int(np.isinf(values).argmax())}")
    k = int(np.abs(values).argmax())
    if abs(values[k]) > MAX_TARGET:
        raise ValueError(f"y must be at most {MAX_TARGET:g} in size, got {values[k]:g} in row {k}: change its unit")
    return values


def _check_present(missing: np.ndarray) -> None:
    if missing.any():
        raise ValueError(
            f"y must not have missing values (NaN or None), got {int(missing.sum())}, the first in row "
            f"{int(missing.argmax())}: leave out such rows"
        )


def check_names(given: list[str], expected: list[str]) -> None:
    """Raise ValueError if the names of the columns or their order differ. The text begins as scikit-learn's."""
    unseen = sorted(set(given) - set(expected))
    missing = sorted(set(expected) - set(given))
    if given == expected:
        return
    text = "The feature names should match those that were passed during fit.\n"
    if unseen:
        text += "Feature names unseen at fit time:\n" + "".join(f"- {name}\n" for name in unseen)
    if missing:
        text += "Feature names seen at fit time, yet now missing:\n" + "".join(f"- {name}\n" for name in missing)
    if not unseen and not missing:
        text += "Feature names must be in the same order as they were in fit.\n"
    raise ValueError(text + "X[list(model.feature_names_in_)] selects the columns of the training table.")
