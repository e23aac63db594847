"""Small fitted estimators, and assertions that a refused call raises and leaves an estimator unchanged."""

import datetime
import re
import threading
import warnings

import numpy as np
import pytest

import gpunn

from . import internals
from .snapshots import bits, state_of

NAN, INF = float("nan"), float("inf")
RNG = np.random.default_rng(8)
ROWS = 24
X = RNG.normal(size=(ROWS, 4))
LABELS = np.array(["ale", "bock", "cider"])[np.arange(ROWS) % 3]
MULTI = np.stack([np.arange(ROWS) % 2, np.arange(ROWS) % 3 == 0], axis=1).astype(int)
VALUES = X @ [1.0, -2.0, 0.5, 0.0]
TWO = np.stack([VALUES, 1 - VALUES], axis=1)

DAYS = np.datetime64("2024-02-27") + np.arange(ROWS)
PAIRS_OF_DAYS = np.stack([DAYS, DAYS], axis=1)
DATETIMES = [datetime.datetime(2024, 2, 27) + datetime.timedelta(hours=k) for k in range(ROWS)]


def put(array, index, value):
    """Copy an array with one entry replaced."""
    changed = np.array(array, dtype=np.result_type(array, type(value)))
    changed[index] = value
    return changed


def comparable(value):
    """Convert a value for comparison: arrays to their bits, networks to their whole state."""
    if isinstance(value, np.ndarray) and value.dtype != object:
        return bits(value)
    if isinstance(value, gpunn.Sequential):
        layers = [repr(layer) for layer in value.layers]
        return id(value), state_of(value), layers, internals.learning_rate_override(value)
    if isinstance(value, gpunn.Callback):
        return id(value)  # a callback keeps a reference to its last model
    if isinstance(value, np.random.RandomState):
        return [comparable(part) for part in value.get_state()]
    if isinstance(value, (list, tuple)):
        return type(value), [comparable(v) for v in value]
    if isinstance(value, dict):
        return {k: comparable(v) for k, v in value.items()}
    if hasattr(value, "__dict__") and not isinstance(value, (type, type(threading.Lock()))):
        return type(value), {k: comparable(v) for k, v in vars(value).items()}
    return repr(value)


def attributes(estimator):
    """All attributes of an estimator: parameters, fitted and private ones."""
    return {name: comparable(value) for name, value in vars(estimator).items()}


def predictions(estimator):
    proba = [estimator.predict_proba(X)] if hasattr(estimator, "predict_proba") else []
    return [comparable(a.tolist()) for a in (estimator.predict(X), *proba)]


class AssertUnchanged:
    """Assert that attributes, parameters and predictions of an estimator are equal, bit for bit, after the block."""

    def __init__(self, estimator):
        self.estimator = estimator

    def __enter__(self):
        self.before = attributes(self.estimator), predictions(self.estimator), self.estimator.get_params()

    def __exit__(self, *error):
        if error[0] is None:
            assert attributes(self.estimator) == self.before[0]
            assert predictions(self.estimator) == self.before[1]
            assert attributes(self.estimator) == self.before[0]
            now = self.estimator.get_params()
            assert now.keys() == self.before[2].keys()
            assert all(now[name] is value for name, value in self.before[2].items())


def assert_raises(call, error, message):
    """Assert that a call raises exactly this class, with a matching message."""
    with warnings.catch_warnings(), pytest.raises((ValueError, TypeError, RuntimeError, AttributeError)) as caught:
        warnings.simplefilter("ignore")
        call()
    assert type(caught.value) is error, repr(caught.value)
    assert re.search(message, str(caught.value)), caught.value


SMALL = {"hidden_layer_sizes": (6, 5), "max_iter": 3, "batch_size": 10}


def fitted_estimators():
    """Fit one estimator of each kind. Their generators belong to the caller: a refused call must not draw from them."""
    made = {
        "text": (gpunn.MLPClassifier, LABELS, {}),
        "binary": (gpunn.MLPClassifier, LABELS == "ale", {}),
        "multilabel": (gpunn.MLPClassifier, MULTI, {"solver": "sgd"}),
        "warm": (gpunn.MLPClassifier, LABELS, {"warm_start": True}),
        "lbfgs": (gpunn.MLPClassifier, LABELS, {"solver": "lbfgs"}),
        "warm lbfgs": (gpunn.MLPRegressor, VALUES, {"solver": "lbfgs", "warm_start": True}),
        "stopping": (gpunn.MLPClassifier, LABELS, {"early_stopping": True, "validation_fraction": 0.3}),
        "regressor": (gpunn.MLPRegressor, VALUES, {}),
        "two": (gpunn.MLPRegressor, TWO, {}),
        "warm regressor": (gpunn.MLPRegressor, VALUES, {"warm_start": True}),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {
            name: cls(random_state=np.random.RandomState(0), **SMALL | more).fit(X, y)
            for name, (cls, y, more) in made.items()
        }


TARGETS = {"binary": LABELS == "ale", "multilabel": MULTI, "regressor": VALUES, "two": TWO}
TARGETS |= {"warm lbfgs": VALUES, "warm regressor": VALUES}
