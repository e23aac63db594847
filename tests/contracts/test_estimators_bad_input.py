"""What makes no sense is refused by name, and a fitted estimator stays as it was to the bit.

Each case says what is set, what is called and what the message must say.
"""

import copy
import datetime
import os
import re
import signal
import threading
import time
import warnings

import numpy as np
import pytest
from helpers import internals
from helpers.messages import naming
from helpers.oracles import oracle
from helpers.snapshots import bits, state_of

import gpunn

oracle("sklearn")
from scipy import sparse  # noqa: E402
from sklearn.exceptions import NotFittedError  # noqa: E402
from sklearn.utils._param_validation import InvalidParameterError  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
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
MOMENTS = [datetime.datetime(2024, 2, 27) + datetime.timedelta(hours=k) for k in range(ROWS)]


def _with(array, place, value):
    changed = np.array(array, dtype=np.result_type(array, type(value)))
    changed[place] = value
    return changed


# --- what an estimator holds --------------------------------------------------------------------------------------


def held(value):
    """A value as something that can be compared: arrays by their bits, networks by all that they hold."""
    if isinstance(value, np.ndarray) and value.dtype != object:
        return bits(value)
    if isinstance(value, gpunn.Sequential):
        layers = [repr(layer) for layer in value.layers]
        return id(value), state_of(value), layers, internals.learning_rate_override(value)
    if isinstance(value, gpunn.Callback):
        return id(value)  # which remembers the last model that it was given
    if isinstance(value, np.random.RandomState):
        return [held(part) for part in value.get_state()]
    if isinstance(value, (list, tuple)):
        return type(value), [held(v) for v in value]
    if isinstance(value, dict):
        return {k: held(v) for k, v in value.items()}
    if hasattr(value, "__dict__") and not isinstance(value, (type, type(threading.Lock()))):
        return type(value), {k: held(v) for k, v in vars(value).items()}
    return repr(value)


def everything(estimator):
    """All attributes of an estimator, parameters and fitted ones and private ones."""
    return {name: held(value) for name, value in vars(estimator).items()}


def predictions(estimator):
    proba = [estimator.predict_proba(X)] if hasattr(estimator, "predict_proba") else []
    return [held(a.tolist()) for a in (estimator.predict(X), *proba)]


class unchanged:
    """Fail unless the estimator holds and predicts the same bits afterwards."""

    def __init__(self, estimator):
        self.estimator = estimator

    def __enter__(self):
        self.before = everything(self.estimator), predictions(self.estimator), self.estimator.get_params()

    def __exit__(self, *error):
        if error[0] is None:
            assert everything(self.estimator) == self.before[0]
            assert predictions(self.estimator) == self.before[1]
            assert everything(self.estimator) == self.before[0]
            now = self.estimator.get_params()
            assert now.keys() == self.before[2].keys()
            assert all(now[name] is value for name, value in self.before[2].items())


def refused(call, error, message):
    """The call raises that very class, and the message says so."""
    with warnings.catch_warnings(), pytest.raises((ValueError, TypeError, RuntimeError, AttributeError)) as caught:
        warnings.simplefilter("ignore")
        call()
    assert type(caught.value) is error, repr(caught.value)
    assert re.search(message, str(caught.value)), caught.value


SMALL = {"hidden_layer_sizes": (6, 5), "max_iter": 3, "batch_size": 10}


@pytest.fixture(scope="module")
def fitted():
    """Estimators of each kind, fitted; their generator is the caller's, which a refused call must not draw from."""
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


class Nothing(gpunn.Callback):
    """A callback without hooks."""


# kind of estimator, what is set, what fit is given beside or instead of X and y, the error, its message
FIT = {
    # X
    "X None": ("text", {}, {"X": None}, ValueError, "array"),
    "X NaN": ("text", {}, {"X": _with(X, (3, 1), NAN)}, ValueError, "X contains NaN"),
    "X infinite": ("regressor", {}, {"X": _with(X, (3, 1), INF)}, ValueError, "X contains infinity"),
    "X beyond float32": ("regressor", {"dtype": "float32"}, {"X": X * 1e39}, ValueError, naming("X", "too large")),
    "X fewer rows": ("text", {}, {"X": X[:-1]}, ValueError, "inconsistent numbers of samples"),
    "X complex": ("text", {}, {"X": X + 0j}, ValueError, "Complex data not supported"),
    "X text": ("text", {}, {"X": np.full((ROWS, 4), "a")}, ValueError, "could not convert"),
    "X flat": ("two", {}, {"X": X[:, 0]}, ValueError, "Expected 2D array"),
    "X sparse, NaN": ("text", {}, {"X": sparse.csr_matrix(_with(X, (3, 1), NAN))}, ValueError, "X contains NaN"),
    "X other columns, warm": ("warm", {}, {"X": X[:, :3]}, ValueError, "X has 3 features, but MLPClassifier"),
    # y
    "y None": ("text", {}, {"y": None}, ValueError, "requires y to be passed"),
    "y NaN": ("regressor", {}, {"y": _with(VALUES, 2, NAN)}, ValueError, "y contains NaN"),
    "y text": ("regressor", {}, {"y": LABELS}, TypeError, naming("y", "text")),
    "y objects": ("regressor", {}, {"y": np.array(["a"] * ROWS, object)}, ValueError, "could not convert"),
    "y short": ("regressor", {}, {"y": VALUES[:-2]}, ValueError, "inconsistent numbers of samples"),
    "y a scale": ("text", {}, {"y": VALUES}, ValueError, "Unknown label type"),
    "y beyond float32": ("regressor", {"dtype": "float32"}, {"y": VALUES * 1e40}, ValueError, "y holds values too"),
    "y negative counts": ("regressor", {"loss": "poisson"}, {}, ValueError, "y must be ≥ 0 with loss='poisson'"),
    "y other classes, warm": ("warm", {}, {"y": LABELS == "ale"}, ValueError, naming("warm_start", "`y`")),
    "y two for one, warm": ("warm regressor", {}, {"y": TWO}, ValueError, "y has 2 outputs.*fitted.* 1"),
    "y two for one, lbfgs": ("warm lbfgs", {}, {"y": TWO}, ValueError, "y has 2 outputs.*fitted.* 1"),
    # dates and time differences, which NumPy converts to integers
    "X dates": ("text", {}, {"X": PAIRS_OF_DAYS}, TypeError, "X must .* dates"),
    "X dates, lbfgs": ("lbfgs", {}, {"X": PAIRS_OF_DAYS}, TypeError, "X must .* dates"),
    "X time differences": ("regressor", {}, {"X": PAIRS_OF_DAYS - DAYS[0]}, TypeError, "X must .* time differences"),
    "X one date": ("regressor", {}, {"X": _with(X.astype(object), (3, 1), DAYS[3])}, TypeError, "X must .*datetime64"),
    "X one time difference": (
        "regressor", {}, {"X": _with(X.astype(object), (3, 1), DAYS[3] - DAYS[0])}, TypeError, "X must .*timedelta64"
    ),
    "X a list of dates": ("text", {}, {"X": [[d.item(), d.item()] for d in DAYS]}, TypeError, "X must .*datetime.date"),
    "X a list with a date": ("text", {}, {"X": [[d, 1.0] for d in DAYS]}, TypeError, "X must .*datetime64"),
    "y dates": ("regressor", {}, {"y": DAYS}, TypeError, "y must .* dates"),
    "y time differences": ("two", {}, {"y": PAIRS_OF_DAYS - DAYS[0]}, TypeError, "y must .* time differences"),
    "y a list of dates": ("regressor", {}, {"y": [d.item() for d in DAYS]}, TypeError, "y must .*datetime.date"),
    "y a list of moments": ("regressor", {}, {"y": MOMENTS}, TypeError, "y must .*datetime.datetime"),
    "weights dates": ("text", {}, {"sample_weight": DAYS}, TypeError, "sample_weight must .* dates"),
    "validation dates": ("text", {}, {"validation_data": (PAIRS_OF_DAYS, LABELS)}, TypeError, "validation.*X must .*d"),
    "validation y dates": ("two", {}, {"validation_data": (X, PAIRS_OF_DAYS)}, TypeError, "validation.*y must .*date"),
    "validation weights dates": (
        "text", {}, {"validation_data": (X, LABELS, DAYS)}, TypeError, "validation_data.*sample_weight must .*dates"
    ),
    # weights
    "weights short": ("text", {}, {"sample_weight": np.ones(3)}, ValueError, "sample_weight.shape == "),
    "weights NaN": ("text", {}, {"sample_weight": _with(np.ones(ROWS), 1, NAN)}, ValueError, "sample_weight contains"),
    "weights negative": ("text", {}, {"sample_weight": -np.ones(ROWS)}, ValueError, "sample_weight holds negative"),
    "weights zero": ("two", {}, {"sample_weight": np.zeros(ROWS)}, ValueError, "(?i)sample.weight.*zero"),
    "weights text": ("two", {}, {"sample_weight": LABELS}, ValueError, "could not convert string"),
    "weights zero, lbfgs": ("lbfgs", {}, {"sample_weight": np.zeros(ROWS)}, ValueError, "(?i)sample.weight.*zero"),
    # validation_data
    "validation not a pair": ("text", {}, {"validation_data": X}, ValueError, r"validation_data must be \(X, y\) or"),
    "validation of one": ("text", {}, {"validation_data": (X,)}, ValueError, "validation_data must be"),
    "validation of four": ("text", {}, {"validation_data": (X,) * 4}, ValueError, "validation_data must be"),
    "validation None inside": ("text", {}, {"validation_data": (X, None)}, TypeError, "validation_data"),
    "validation text": ("text", {}, {"validation_data": "Xy"}, ValueError, "validation_data must be"),
    "validation columns": ("text", {}, {"validation_data": (X[:, :2], LABELS)}, ValueError, "validation_data.*2 feat"),
    "validation NaN": (
        "text", {}, {"validation_data": (_with(X, (0, 0), NAN), LABELS)}, ValueError, "validation_data.*X contains NaN"
    ),
    "validation length": ("text", {}, {"validation_data": (X, LABELS[:5])}, ValueError, "validation_data.*inconsisten"),
    "validation classes": (
        "text", {}, {"validation_data": (X, LABELS[::-1] + "s")}, ValueError, "validation_data.*classes.*ales"
    ),
    "validation y NaN": (
        "regressor", {}, {"validation_data": (X, _with(VALUES, 1, NAN))}, ValueError, "validation_data.*y contains NaN"
    ),
    "validation outputs": ("two", {}, {"validation_data": (X, VALUES)}, ValueError, "validation_data.*y.* 2"),
    "validation labels": ("multilabel", {}, {"validation_data": (X, MULTI[:, :1])}, ValueError, "validation_data.*y"),
    "validation weights": (
        "text", {}, {"validation_data": (X, LABELS, np.ones(3))}, ValueError, "validation_data.*sample_weight.shape"
    ),
    "validation weights negative": (
        "text", {}, {"validation_data": (X, LABELS, -np.ones(ROWS))}, ValueError, "validation_data.*weight holds neg"
    ),
    "validation of counts": (
        "regressor", {"loss": "poisson"}, {"y": abs(VALUES), "validation_data": (X, VALUES)}, ValueError, "validation"
    ),
    "validation and lbfgs": ("lbfgs", {}, {"validation_data": (X, LABELS)}, ValueError, "validation_data.*lbfgs"),
    # layers, activations, dropout
    "layers none": ("text", {"hidden_layer_sizes": (3, 0)}, {}, ValueError, "hidden_layer_sizes must be > 0"),
    "layers a half": ("text", {"hidden_layer_sizes": (2.5, 3)}, {}, TypeError, r"hidden_layer_sizes\[0\].*got 2.5"),
    "layers of layers": ("text", {"hidden_layer_sizes": [[2], [3]]}, {}, TypeError, r"hidden_layer_sizes.*got \[2\]"),
    "layers text": ("text", {"hidden_layer_sizes": (3, "4")}, {}, TypeError, r"hidden_layer_sizes\[1\].*got '4'"),
    "layers true": ("text", {"hidden_layer_sizes": (True, 3)}, {}, TypeError, r"hidden_layer_sizes\[0\].*got True"),
    "layers true alone": ("text", {"hidden_layer_sizes": True}, {}, TypeError, r"hidden_layer_sizes .*got True"),
    "layers NaN": ("text", {"hidden_layer_sizes": [3, NAN]}, {}, TypeError, r"hidden_layer_sizes\[1\].*got nan"),
    "layers None": ("text", {"hidden_layer_sizes": (None,)}, {}, TypeError, r"hidden_layer_sizes\[0\].*got None"),
    "layers floats": ("text", {"hidden_layer_sizes": np.ones(2)}, {}, TypeError, r"hidden_layer_sizes\[0\].*1\.0"),
    "layers matrix": ("text", {"hidden_layer_sizes": np.ones((2, 1), int)}, {}, TypeError, r"hidden_layer_sizes\[0\]"),
    "layers 0-d": ("text", {"hidden_layer_sizes": np.array(5)}, {}, TypeError, r"hidden_layer_sizes .*array\(5\)"),
    "layers others, warm": ("warm", {"hidden_layer_sizes": (6,)}, {}, ValueError, "hidden_layer_sizes is now.*6, 5"),
    "activation unknown": ("text", {"activation": "rellu"}, {}, InvalidParameterError, "'activation' .*'relu'"),
    "activation unknown in a list": ("text", {"activation": ["relu", "rellu"]}, {}, ValueError, "activation 'rellu'"),
    "activation function": ("text", {"activation": np.tanh}, {}, InvalidParameterError, "'activation' parameter"),
    "activation in a list, function": ("text", {"activation": ["relu", np.tanh]}, {}, TypeError, "activation must be"),
    "activations too few": ("text", {"activation": ["relu"]}, {}, ValueError, "activation has 1 entries, .* 2 hidden"),
    "activation softmax": ("text", {"activation": "softmax"}, {}, InvalidParameterError, "'activation'"),
    "activation None": ("regressor", {"activation": None}, {}, InvalidParameterError, "'activation'"),
    "dropout 1": ("text", {"dropout": 1.0}, {}, InvalidParameterError, r"'dropout' .*\[0.*1.*\)"),
    "dropout negative": ("text", {"dropout": -0.1}, {}, InvalidParameterError, "'dropout'"),
    "dropout NaN": ("text", {"dropout": NAN}, {}, InvalidParameterError, "'dropout'"),
    "dropout text": ("text", {"dropout": "half"}, {}, InvalidParameterError, "'dropout'"),
    "dropouts too many": ("text", {"dropout": [0.1] * 3}, {}, ValueError, "dropout has 3 entries, .* 2 hidden"),
    "dropout 1 in a list": ("text", {"dropout": [0.1, 1.0]}, {}, ValueError, r"dropout\[1\] must be .*got 1.0"),
    "dropout None in a list": ("text", {"dropout": [0.1, None]}, {}, ValueError, r"dropout\[1\].*got None"),
    "dropout and lbfgs": ("lbfgs", {"dropout": 0.5}, {}, ValueError, "dropout .*lbfgs"),
    # classes
    "class_weight word": ("text", {"class_weight": "even"}, {}, InvalidParameterError, "'class_weight'"),
    "class_weight unknown": ("text", {"class_weight": {"ale": 2, "stout": 3}}, {}, ValueError, "class_weight"),
    "class_weight list": ("text", {"class_weight": [{0: 1}]}, {}, ValueError, "class_weight"),
    "class_weight dict, multilabel": ("multilabel", {"class_weight": {0: 2}}, {}, ValueError, "class_weight"),
    "class_weight lists short": ("multilabel", {"class_weight": [{0: 1, 1: 2}]}, {}, ValueError, "class_weight"),
    "class_weight negative": ("text", {"class_weight": {"ale": -1.0}}, {}, ValueError, "class_weight.*negative|≥ 0"),
    "class_weight NaN": ("binary", {"class_weight": {True: NAN}}, {}, ValueError, "class_weight"),
    "class_weight text": ("binary", {"class_weight": {True: "two"}}, {}, ValueError, "class_weight"),
    "class_weight zero": (
        "text", {"class_weight": {"ale": 0, "bock": 0, "cider": 0}}, {}, ValueError, "class_weight"
    ),
    # loss and outputs
    "loss unknown": ("text", {"loss": "squared_error"}, {}, InvalidParameterError, "'loss' .*'log_loss'"),
    "loss None": ("regressor", {"loss": None}, {}, InvalidParameterError, "'loss' parameter"),
    "loss of probabilities": ("regressor", {"loss": "binary_crossentropy"}, {}, ValueError, "y holds values outside"),
    "loss of labels": (
        "regressor", {"loss": "sparse_categorical_crossentropy"}, {}, ValueError, r"loss=.*MLPClassifier"
    ),
    "loss of labels, binary": (
        "binary", {"loss": "sparse_categorical_crossentropy", "out_activation": "softmax"}, {}, ValueError, "loss"
    ),
    "loss of labels, multilabel": (
        "multilabel", {"loss": "sparse_categorical_crossentropy", "out_activation": "softmax"}, {}, ValueError, "loss"
    ),
    "loss and outputs": ("text", {"loss": "binary_crossentropy"}, {}, ValueError, "out_activation"),
    "log_loss and relu": ("text", {"out_activation": "relu"}, {}, ValueError, "out_activation"),
    "log_loss and logistic": ("text", {"out_activation": "logistic"}, {}, ValueError, "out_activation"),
    "poisson and identity": (
        "regressor", {"loss": "poisson", "out_activation": "identity"}, {"y": abs(VALUES)}, ValueError, "out_activation"
    ),
    "no probabilities": (
        "text", {"loss": "huber", "out_activation": "tanh"}, {}, ValueError, "out_activation='tanh'.*probabilities"
    ),
    "outputs unknown": ("text", {"out_activation": "sigmod"}, {}, InvalidParameterError, "'out_activation'"),
    "loss of other shapes": ("regressor", {"loss": lambda y, a: (y, a)}, {}, ValueError, "loss .* must return"),
    # optimisers
    "optimizer unknown": ("text", {"optimizer": "adm"}, {}, ValueError, naming("optimizer", "'adm'", "adam")),
    "optimizer a number": ("text", {"optimizer": 0.1}, {}, InvalidParameterError, "'optimizer'"),
    "optimizer with a solver": ("multilabel", {"optimizer": "adam"}, {}, ValueError, naming("solver")),
    "optimizer with a rate": (
        "text", {"optimizer": gpunn.SGD(0.1), "learning_rate_init": 0.1}, {}, ValueError, "learning_rate_init: leave it"
    ),
    "optimizer and lbfgs": ("lbfgs", {"optimizer": "adam"}, {}, ValueError, "optimizer='adam' .*solver"),
    "optimizer and clipnorm": ("text", {"optimizer": "adam", "clipnorm": 1.0}, {}, ValueError, "clipnorm .*optimizer="),
    "clipnorm 0": ("text", {"clipnorm": 0}, {}, InvalidParameterError, "'clipnorm'"),
    "clipnorm NaN": ("text", {"clipnorm": NAN}, {}, InvalidParameterError, "'clipnorm'"),
    "clipnorm and lbfgs": ("lbfgs", {"clipnorm": 1.0}, {}, ValueError, "clipnorm .*lbfgs"),
    "initialiser unknown": ("text", {"kernel_initializer": "xavier"}, {}, ValueError, "initializer 'xavier' is unkno"),
    "initialiser a number": ("text", {"kernel_initializer": 1}, {}, InvalidParameterError, "'kernel_initializer'"),
    "max_iter 0": ("text", {"max_iter": 0}, {}, InvalidParameterError, "'max_iter'"),
    "fraction too small": ("stopping", {"validation_fraction": 0.01}, {}, ValueError, "should be greater|too small"),
    "fraction of one row": ("regressor", {"early_stopping": True, "validation_fraction": 0.04}, {}, ValueError, "'val"),
    # callbacks and what is shown
    "callbacks one": ("text", {"callbacks": Nothing()}, {}, InvalidParameterError, "'callbacks'"),
    "callbacks function": ("text", {"callbacks": [print]}, {}, TypeError, "callbacks must be gpunn.Callback objects"),
    "callbacks class": ("text", {"callbacks": [Nothing]}, {}, TypeError, "callbacks must be .*got <class"),
    "callbacks and lbfgs": ("lbfgs", {"callbacks": [Nothing()]}, {}, ValueError, "callbacks .*lbfgs"),
    "verbose word": ("text", {"verbose": "lines"}, {}, InvalidParameterError, "'verbose' .*'bar'"),
    "verbose bar and lbfgs": ("lbfgs", {"verbose": "bar"}, {}, ValueError, "verbose='bar' .*lbfgs"),
    "folder of checkpoints": (
        "text", {"callbacks": [gpunn.ModelCheckpoint("/no/such/folder/x")]}, {}, FileNotFoundError, "no such folder"
    ),
    # machine
    "dtype word": ("text", {"dtype": "float16"}, {}, InvalidParameterError, "'dtype'"),
    "dtype type": ("text", {"dtype": int}, {}, ValueError, "dtype must be 'float32' or 'float64'"),
    "device word": ("text", {"device": "gpu"}, {}, ValueError, "device must be .*'gpu'"),
    "device number": ("text", {"device": 0}, {}, InvalidParameterError, "'device'"),
    "precision word": ("text", {"precision": "half"}, {}, InvalidParameterError, "'precision'"),
    "precision tf32": ("text", {"precision": "tf32", "device": "cpu"}, {}, ValueError, "precision='tf32' is for GPUs"),
    "precision bf16": ("text", {"precision": "bf16", "device": "cpu"}, {}, ValueError, "precision='bf16' is for GPUs"),
    "precision float32": ("text", {"precision": "float32"}, {}, ValueError, "precision='float32' .*dtype='float32'"),
}  # fmt: skip


@pytest.mark.parametrize("case", FIT)
def test_a_refused_fit_changes_nothing(case, fitted):
    kind, parameters, given, error, message = FIT[case]
    estimator = fitted[kind]
    before = estimator.get_params()
    arguments = {"X": X, "y": TARGETS.get(kind, LABELS)} | given
    arrays = {name: held(value) for name, value in arguments.items()}
    estimator.set_params(**parameters)
    try:
        with unchanged(estimator):
            if error is FileNotFoundError:
                with pytest.raises(error, match=message):
                    estimator.fit(**arguments)
            else:
                refused(lambda: estimator.fit(**arguments), error, message)
        assert {name: held(value) for name, value in arguments.items()} == arrays
    finally:
        estimator.set_params(**before)


@pytest.mark.parametrize("case", [c for c in FIT if FIT[c][0] in ("text", "regressor", "two")])
def test_a_refused_first_fit_leaves_no_trace(case):
    kind, parameters, given, error, _ = FIT[case]
    cls = gpunn.MLPClassifier if kind == "text" else gpunn.MLPRegressor
    estimator = cls(**SMALL | parameters)
    before = everything(estimator)
    with pytest.raises(error):
        estimator.fit(**{"X": X, "y": TARGETS.get(kind, LABELS)} | given)
    after = everything(estimator)
    after.pop("_fit_lock", None)
    assert after == before
    with pytest.raises(NotFittedError):
        estimator.predict(X)


# --- partial_fit, predict, score, set_params -----------------------------------------------------------------------

# kind of estimator, the call, the error, its message
CALLS = {
    "partial_fit X NaN": ("text", lambda e: e.partial_fit(_with(X, (0, 0), NAN), LABELS), ValueError, "X contains NaN"),
    "partial_fit columns": ("text", lambda e: e.partial_fit(X[:, :3], LABELS), ValueError, "X has 3 features"),
    "partial_fit unknown class": ("text", lambda e: e.partial_fit(X, LABELS + "s"), ValueError, "classes not in `self"),
    "partial_fit other classes": (
        "text", lambda e: e.partial_fit(X, LABELS, classes=["ale", "bock"]), ValueError, "`classes=.* is not the same"
    ),
    "partial_fit length": ("regressor", lambda e: e.partial_fit(X, VALUES[:3]), ValueError, "inconsistent numbers"),
    "partial_fit y NaN": ("regressor", lambda e: e.partial_fit(X, VALUES * NAN), ValueError, "y contains NaN"),
    "partial_fit outputs": ("regressor", lambda e: e.partial_fit(X, TWO), ValueError, "y has 2 outputs, .* of 1"),
    "partial_fit outputs, fewer": ("two", lambda e: e.partial_fit(X, VALUES), ValueError, "y has 1 outputs, .* of 2"),
    "partial_fit weights": ("two", lambda e: e.partial_fit(X, TWO, np.ones(2)), ValueError, "sample_weight.shape"),
    "partial_fit weights negative": ("two", lambda e: e.partial_fit(X, TWO, -np.ones(ROWS)), ValueError, "negative"),
    "partial_fit by lbfgs": ("lbfgs", lambda e: e.partial_fit(X, LABELS), AttributeError, "no attribute 'partial_fit'"),
    "partial_fit by lbfgs, regressor": ("warm lbfgs", lambda e: e.partial_fit(X, VALUES), AttributeError, "partial_f"),
    "partial_fit, stopping early": ("stopping", lambda e: e.partial_fit(X, LABELS), ValueError, "does not support"),
    "partial_fit, no validation": (
        "text", lambda e: e.partial_fit(X, LABELS, validation_data=(X, LABELS)), TypeError, "unexpected keyword"
    ),
    "predict columns": ("text", lambda e: e.predict(X[:, :3]), ValueError, naming("X", 3, "MLPClassifier")),
    "predict NaN": ("regressor", lambda e: e.predict(X * NAN), ValueError, "X contains NaN"),
    "predict flat": ("two", lambda e: e.predict(X[0]), ValueError, "Expected 2D array, got 1D array"),
    "predict nothing": ("two", lambda e: e.predict(X[:0]), ValueError, "0 sample"),
    "predict text": ("text", lambda e: e.predict(np.full((2, 4), "a")), ValueError, "not compatible"),
    "predict a dict": ("text", lambda e: e.predict({"a": 1}), ValueError, "Expected 2D array"),
    "predict None": ("text", lambda e: e.predict(None), ValueError, "array"),
    "predict complex": ("lbfgs", lambda e: e.predict(X + 1j), ValueError, "Complex data not supported"),
    "predict sparse, columns": ("text", lambda e: e.predict(sparse.csr_matrix(X[:, :2])), ValueError, "X has 2 f"),
    "proba columns": ("binary", lambda e: e.predict_proba(X[:, :3]), ValueError, "X has 3 features"),
    "log_proba infinite": ("multilabel", lambda e: e.predict_log_proba(X * INF), ValueError, "X contains"),
    "partial_fit X dates": ("regressor", lambda e: e.partial_fit(PAIRS_OF_DAYS, VALUES), TypeError, "X must .*dates"),
    "partial_fit y dates": ("regressor", lambda e: e.partial_fit(X, DAYS), TypeError, "y must .*dates"),
    "partial_fit weights dates": (
        "text", lambda e: e.partial_fit(X, LABELS, sample_weight=DAYS), TypeError, "sample_weight must .*dates"
    ),
    "predict dates": ("text", lambda e: e.predict(PAIRS_OF_DAYS), TypeError, "X must .*dates"),
    "predict one date": (
        "two", lambda e: e.predict(_with(X.astype(object), (3, 1), DAYS[3])), TypeError, "X must .*datetime64"
    ),
    "proba dates": ("lbfgs", lambda e: e.predict_proba(PAIRS_OF_DAYS), TypeError, "X must .*dates"),
    "score dates": ("regressor", lambda e: e.score(X, DAYS), TypeError, "y must .*dates"),
    "score X dates": ("text", lambda e: e.score(PAIRS_OF_DAYS, LABELS), TypeError, "X must .*dates"),
    "score weights dates": ("text", lambda e: e.score(X, LABELS, DAYS), TypeError, "sample_weight must .*dates"),
    "score length": ("text", lambda e: e.score(X, LABELS[:2]), ValueError, "inconsistent numbers of samples"),
    "score NaN": ("regressor", lambda e: e.score(X, VALUES * NAN), ValueError, "NaN"),
    "score of values": ("text", lambda e: e.score(X, VALUES), ValueError, "mix of"),
    "no such parameter": ("text", lambda e: e.set_params(droput=0.5), ValueError, "Invalid parameter 'droput' for est"),
    "no such argument": ("text", lambda e: gpunn.MLPClassifier(droput=0.5), TypeError, "unexpected .* 'droput'"),
    "by position": ("text", lambda e: gpunn.MLPClassifier((5,), "relu", "adam"), TypeError, "positional arguments"),
    "weights of another shape": ("text", lambda e: shrunk(e).predict(X), ValueError, "coefs_ .* keep their shapes"),
    "weights too few": ("text", lambda e: shorter(e).predict(X), ValueError, naming("coefs_", "intercepts_", 3)),
}  # fmt: skip


def shrunk(estimator):
    copied = copy.deepcopy(estimator)
    copied.coefs_[1] = copied.coefs_[1][:, :2]
    return copied


def shorter(estimator):
    copied = copy.deepcopy(estimator)
    copied.coefs_.pop()
    return copied


@pytest.mark.parametrize("case", CALLS)
def test_a_refused_call_changes_nothing(case, fitted):
    kind, call, error, message = CALLS[case]
    with unchanged(fitted[kind]):
        refused(lambda: call(fitted[kind]), error, message)


@pytest.mark.parametrize("column", ["date", "zone", "difference", "objects"])
def test_a_data_frame_names_its_column_of_dates(column, fitted):
    pandas = pytest.importorskip("pandas")
    days = pandas.Series(DAYS)
    columns = {
        "date": days,
        "zone": days.dt.tz_localize("UTC"),
        "difference": days - days[0],
        "objects": pandas.Series([day.item() for day in DAYS], dtype=object),
    }
    frame = pandas.DataFrame({"a": X[:, 0], "b": LABELS, "day": columns[column]})
    with unchanged(fitted["regressor"]):
        refused(lambda: fitted["regressor"].fit(frame, VALUES), TypeError, "column 'day' of X")
        refused(lambda: fitted["regressor"].predict(frame), TypeError, "column 'day' of X")
        refused(lambda: fitted["regressor"].fit(X, columns[column]), TypeError, "y must")
        refused(lambda: fitted["two"].fit(X, frame[["a", "day"]]), TypeError, "column 'day' of y")
    with unchanged(fitted["text"]):
        refused(lambda: fitted["text"].fit(X, LABELS, sample_weight=columns[column]), TypeError, "sample_weight must")


def test_dates_can_be_class_labels():
    labels = DAYS[np.arange(ROWS) % 3]
    classifier = gpunn.MLPClassifier(**SMALL, random_state=0).fit(X, labels, validation_data=(X, labels))
    assert classifier.classes_.tolist() == DAYS[:3].tolist()
    assert classifier.predict(X).dtype == labels.dtype
    assert 0 <= classifier.score(X, labels) <= 1


@pytest.mark.parametrize(
    "sizes",
    [5, np.int64(5), (np.int32(4), np.uint8(3)), np.array([4, 3]), range(3, 5), [4, 3], (), []],
    ids=["int", "int64", "others", "array", "range", "list", "none", "no list"],
)
def test_sizes_that_scikit_learn_takes(sizes):
    from sklearn.neural_network import MLPRegressor

    ours, theirs = (
        cls(hidden_layer_sizes=sizes, max_iter=3, random_state=0).fit(X, VALUES)
        for cls in (gpunn.MLPRegressor, MLPRegressor)
    )
    assert [c.shape for c in ours.coefs_] == [c.shape for c in theirs.coefs_]
    np.testing.assert_allclose(ours.predict(X), theirs.predict(X), rtol=1e-10)


CHANGED = {
    "activation": {"activation": "tanh"},
    "dropout": {"dropout": 0.5},
    "loss": {"loss": "categorical_crossentropy"},
    "out_activation": {"out_activation": "identity"},
    "optimizer": {"optimizer": "sgd"},
    "clipnorm": {"clipnorm": 1.0},
    "hidden_layer_sizes": {"hidden_layer_sizes": (6,)},
    "class_weight": {"class_weight": "balanced"},
}


@pytest.mark.parametrize("name", CHANGED)
def test_partial_fit_says_what_it_cannot_change(name, fitted):
    estimator = fitted["text"]
    before = estimator.get_params()
    estimator.set_params(**CHANGED[name])
    try:
        with unchanged(estimator):
            refused(lambda: estimator.partial_fit(X, LABELS), ValueError, name)
    finally:
        estimator.set_params(**before)


def test_there_are_many_cases():
    assert len(FIT) + len(CALLS) + len(CHANGED) >= 120


# --- in the midst of training --------------------------------------------------------------------------------------


class Stumble(gpunn.Callback):
    """Raises at a step, and remembers the weights of that moment."""

    def __init__(self, error, hook="on_train_batch_end", after=5):
        self.error, self.hook, self.left = error, hook, after
        for name in ("on_train_batch_begin", "on_train_batch_end", "on_epoch_begin", "on_epoch_end"):
            setattr(self, name, self._called(name))

    def _called(self, name):
        def hook(*arguments):
            if name != self.hook:
                return
            self.left -= 1
            if self.left == 0:
                self.weights = self.model.get_weights()
                raise self.error

        return hook


def assert_holds(estimator, weights):
    """The estimator has those weights, predicts with them, and can be used and trained on."""
    now = [a for pair in zip(estimator.coefs_, estimator.intercepts_, strict=True) for a in pair]
    for a, b in zip(now, weights, strict=True):
        np.testing.assert_array_equal(a, b)
    a = X
    for k, (W, b) in enumerate(zip(estimator.coefs_, estimator.intercepts_, strict=True)):
        a = a @ W + b
        a = np.maximum(a, 0) if k < len(estimator.coefs_) - 1 else a
    p = np.exp(a - a.max(axis=1, keepdims=True))
    np.testing.assert_allclose(estimator.predict_proba(X), p / p.sum(axis=1, keepdims=True), rtol=1e-9)
    assert estimator.loss_curve_[-1:] == estimator.history_.history.get("loss", [])[-1:]
    assert not {"_has_stepped", "_validation_data", "_resume"} & set(vars(estimator))
    if not estimator.early_stopping:
        estimator.partial_fit(X, LABELS)
        assert any((a != b).any() for a, b in zip(estimator.coefs_, weights[::2], strict=True))
    estimator.set_params(callbacks=None).fit(X, LABELS)


@pytest.mark.slow
@pytest.mark.parametrize("error", [RuntimeError("mine"), KeyboardInterrupt(), MemoryError("mine"), SystemExit(3)])
@pytest.mark.parametrize(
    ("hook", "after"),
    [("on_train_batch_end", 5), ("on_train_batch_begin", 6), ("on_epoch_end", 2), ("on_epoch_begin", 3)],
)
@pytest.mark.parametrize("early_stopping", [False, True])
def test_a_callback_that_raises_ends_the_fit_at_a_whole_step(error, hook, after, early_stopping):
    stumble = Stumble(error, hook, after)
    estimator = gpunn.MLPClassifier(
        callbacks=[stumble], random_state=1, early_stopping=early_stopping, validation_fraction=0.3, **SMALL
    )
    with pytest.raises(type(error)) as caught:
        estimator.fit(X, LABELS)
    assert caught.value is error
    assert_holds(estimator, stumble.weights)


@pytest.mark.parametrize("hook", ["on_train_batch_begin", "on_epoch_begin"])
def test_before_the_first_step_the_model_is_as_it_was(hook, fitted):
    estimator = fitted["text"]
    estimator.set_params(callbacks=[Stumble(RuntimeError("mine"), hook, 1)])
    with unchanged(estimator), pytest.raises(RuntimeError, match="mine"):
        estimator.fit(X, LABELS)
    estimator.set_params(callbacks=None)


def test_partial_fit_is_interrupted_at_a_whole_step():
    stumble = Stumble(KeyboardInterrupt(), after=2)
    estimator = gpunn.MLPClassifier(random_state=1, callbacks=[stumble], **SMALL)
    with pytest.raises(KeyboardInterrupt):
        estimator.partial_fit(X, LABELS, classes=["ale", "bock", "cider"])
    assert_holds(estimator, stumble.weights)


class Interrupt(gpunn.Callback):
    """Sends this process a real SIGINT from another thread once training is well under way."""

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            self.thread = threading.Thread(target=self._send)
            self.thread.start()

    def _send(self):
        time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("early_stopping", [False, True])
def test_a_real_interrupt_ends_the_fit_at_a_whole_step(early_stopping):
    interrupt = Interrupt()
    estimator = gpunn.MLPClassifier(
        callbacks=[interrupt], random_state=1, early_stopping=early_stopping, validation_fraction=0.3, tol=0,
        n_iter_no_change=np.inf, **SMALL | {"max_iter": 20_000},
    )  # fmt: skip
    with pytest.raises(KeyboardInterrupt):
        estimator.fit(X, LABELS)
    interrupt.thread.join()
    assert 2 <= estimator.n_iter_ < 20_000
    estimator.set_params(max_iter=3)
    assert_holds(estimator, estimator.net_.get_weights())


def test_an_interrupt_of_lbfgs_keeps_the_least_loss_so_far():
    calls = []

    def loss(y, a):
        calls.append(1)
        if len(calls) == 9:
            raise KeyboardInterrupt
        return 0.5 * ((a - y) ** 2).sum(axis=1), a - y

    estimator = gpunn.MLPRegressor(loss=loss, solver="lbfgs", random_state=0, max_iter=50, alpha=0.0)
    with pytest.raises(KeyboardInterrupt):
        estimator.fit(X, VALUES)
    assert len(calls) == 9
    expected = 0.5 * np.mean((estimator.predict(X) - VALUES) ** 2)
    assert estimator.loss_ == pytest.approx(expected, rel=1e-12)
    begun = gpunn.MLPRegressor(random_state=0, max_iter=1, learning_rate_init=1e-300).fit(X, VALUES)
    assert expected < 0.5 * np.mean((begun.predict(X) - VALUES) ** 2)
    estimator.fit(X, VALUES)
    assert estimator.loss_ < expected


def test_an_interrupt_before_lbfgs_came_anywhere_leaves_what_was(fitted):
    estimator = fitted["warm lbfgs"]

    def loss(y, a):
        raise KeyboardInterrupt

    before = estimator.get_params()
    estimator.set_params(loss=loss)
    with unchanged(estimator), pytest.raises(KeyboardInterrupt):
        estimator.fit(X, VALUES)
    estimator.set_params(**before)


def test_divergence_keeps_the_weights_before_it():
    kept = []

    class Keep(gpunn.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            kept.append(self.model.get_weights())

    estimator = gpunn.MLPRegressor(
        hidden_layer_sizes=(), solver="sgd", learning_rate_init=1e60, momentum=0, random_state=0, callbacks=[Keep()]
    )
    with pytest.raises(ValueError, match=r"non-finite parameter weights.*training diverged.*learning rate") as caught:
        estimator.fit(X, VALUES)
    assert type(caught.value) is ValueError
    assert len(kept) > 2
    np.testing.assert_array_equal(estimator.coefs_[0], kept[-1][0])
    np.testing.assert_allclose(estimator.predict(X), X @ kept[-1][0][:, 0] + kept[-1][1], rtol=1e-12)
    assert estimator.n_iter_ == len(estimator.loss_curve_) == len(kept) - 1


def test_what_diverges_at_once_leaves_the_fitted_model(fitted):
    estimator = fitted["regressor"]
    with unchanged(estimator):
        refused(lambda: estimator.fit(X, VALUES * 1e300), ValueError, r"non-finite.*inputs or targets")


# --- two at once ---------------------------------------------------------------------------------------------------


def test_a_second_fit_is_refused_while_one_runs():
    began, go_on = threading.Event(), threading.Event()

    class Wait(gpunn.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            began.set()
            assert go_on.wait(20)

    estimator = gpunn.MLPClassifier(random_state=0, callbacks=[Wait()], **SMALL)
    thread = threading.Thread(target=lambda: estimator.fit(X, LABELS))
    thread.start()
    try:
        assert began.wait(20)
        for call in (
            lambda: estimator.fit(X, LABELS),
            lambda: estimator.partial_fit(X, LABELS),
        ):
            refused(call, RuntimeError, naming("fit", "already", "clone"))
    finally:
        go_on.set()
        thread.join()
    expected = gpunn.MLPClassifier(random_state=0, **SMALL).fit(X, LABELS)
    np.testing.assert_array_equal(estimator.predict_proba(X), expected.predict_proba(X))
    estimator.fit(X, LABELS)


def test_a_callback_does_not_begin_another_fit():
    class Again(gpunn.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            estimator.fit(X, LABELS)

    estimator = gpunn.MLPClassifier(random_state=0, callbacks=[Again()], **SMALL)
    refused(lambda: estimator.fit(X, LABELS), RuntimeError, "fit is already running")
    estimator.set_params(callbacks=None).fit(X, LABELS)
