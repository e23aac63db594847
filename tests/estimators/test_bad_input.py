"""What makes no sense is refused by name, and a fitted estimator stays as it was to the bit.

Each case says what is set, what is called and what the message must say.
"""

import re
import threading
import warnings

import numpy as np
import pytest
from oracles import oracle
from snapshots import bits, state_of

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
        return id(value), state_of(value), [repr(layer) for layer in value.layers], value._net.held_rate
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
    """A callback that does nothing."""


# kind of estimator, what is set, what fit is given beside or instead of X and y, the error, its message
FIT = {
    # X
    "X None": ("text", {}, {"X": None}, ValueError, "array"),
    "X NaN": ("text", {}, {"X": _with(X, (3, 1), NAN)}, ValueError, "X contains NaN"),
    "X infinite": ("regressor", {}, {"X": _with(X, (3, 1), INF)}, ValueError, "X contains infinity"),
    "X beyond float32": ("regressor", {"dtype": "float32"}, {"X": X * 1e39}, ValueError, "X holds values too large"),
    "X fewer rows": ("text", {}, {"X": X[:-1]}, ValueError, "inconsistent numbers of samples"),
    "X complex": ("text", {}, {"X": X + 0j}, ValueError, "Complex data not supported"),
    "X text": ("text", {}, {"X": np.full((ROWS, 4), "a")}, ValueError, "could not convert string to float"),
    "X flat": ("two", {}, {"X": X[:, 0]}, ValueError, "Expected 2D array"),
    "X sparse, NaN": ("text", {}, {"X": sparse.csr_matrix(_with(X, (3, 1), NAN))}, ValueError, "X contains NaN"),
    "X other columns, warm": ("warm", {}, {"X": X[:, :3]}, ValueError, "X has 3 features, but MLPClassifier"),
    # y
    "y None": ("text", {}, {"y": None}, ValueError, "requires y to be passed"),
    "y NaN": ("regressor", {}, {"y": _with(VALUES, 2, NAN)}, ValueError, "y contains NaN"),
    "y text": ("regressor", {}, {"y": LABELS}, TypeError, "y must hold real numbers, got text"),
    "y objects": ("regressor", {}, {"y": np.array(["a"] * ROWS, object)}, ValueError, "could not convert"),
    "y short": ("regressor", {}, {"y": VALUES[:-2]}, ValueError, "inconsistent numbers of samples"),
    "y a scale": ("text", {}, {"y": VALUES}, ValueError, "Unknown label type"),
    "y beyond float32": ("regressor", {"dtype": "float32"}, {"y": VALUES * 1e40}, ValueError, "y holds values too larg"),
    "y negative counts": ("regressor", {"loss": "poisson"}, {}, ValueError, "y holds negative values.*poisson"),
    "y other classes, warm": ("warm", {}, {"y": LABELS == "ale"}, ValueError, "warm_start can only be used where `y`"),
    "y two for one, warm": ("warm regressor", {}, {"y": TWO}, ValueError, "y has 2 outputs.*fitted.* 1"),
    "y two for one, lbfgs": ("warm lbfgs", {}, {"y": TWO}, ValueError, "y has 2 outputs.*fitted.* 1"),
    # weights
    "weights short": ("text", {}, {"sample_weight": np.ones(3)}, ValueError, "sample_weight.shape == "),
    "weights NaN": ("text", {}, {"sample_weight": _with(np.ones(ROWS), 1, NAN)}, ValueError, "sample_weight contains"),
    "weights negative": ("text", {}, {"sample_weight": -np.ones(ROWS)}, ValueError, "sample_weight holds negative"),
    "weights zero": ("two", {}, {"sample_weight": np.zeros(ROWS)}, ValueError, "sample_weight.* zero"),
    "weights text": ("two", {}, {"sample_weight": LABELS}, ValueError, "could not convert string"),
    "weights zero, lbfgs": ("lbfgs", {}, {"sample_weight": np.zeros(ROWS)}, ValueError, "sample_weight.* zero"),
    # validation_data
    "validation not a pair": ("text", {}, {"validation_data": X}, ValueError, r"validation_data must be \(X, y\) or"),
    "validation of one": ("text", {}, {"validation_data": (X,)}, ValueError, "validation_data must be"),
    "validation of four": ("text", {}, {"validation_data": (X,) * 4}, ValueError, "validation_data must be"),
    "validation None inside": ("text", {}, {"validation_data": (X, None)}, ValueError, "validation_data"),
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
        "text", {}, {"validation_data": (X, LABELS, -np.ones(ROWS))}, ValueError, "validation sample_weight holds neg"
    ),
    "validation of counts": (
        "regressor", {"loss": "poisson"}, {"y": abs(VALUES), "validation_data": (X, VALUES)}, ValueError, "validation"
    ),
    "validation and lbfgs": ("lbfgs", {}, {"validation_data": (X, LABELS)}, ValueError, "validation_data.*lbfgs"),
    # layers, activations, dropout
    "layers none": ("text", {"hidden_layer_sizes": (3, 0)}, {}, ValueError, "hidden_layer_sizes must be > 0"),
    "layers a half": ("text", {"hidden_layer_sizes": (2.5, 3)}, {}, TypeError, "float"),
    "layers of layers": ("text", {"hidden_layer_sizes": [[2], [3]]}, {}, TypeError, ""),
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
    "class_weight text": ("binary", {"class_weight": {True: "2"}}, {}, ValueError, "class_weight"),
    "class_weight zero": (
        "text", {"class_weight": {"ale": 0, "bock": 0, "cider": 0}}, {}, ValueError, "class_weight"
    ),
    # loss and outputs
    "loss unknown": ("text", {"loss": "squared_error"}, {}, InvalidParameterError, "'loss' .*'log_loss'"),
    "loss None": ("regressor", {"loss": None}, {}, InvalidParameterError, "'loss' parameter"),
    "loss of probabilities": ("regressor", {"loss": "binary_crossentropy"}, {}, ValueError, "y holds values outside"),
    "loss of labels": ("regressor", {"loss": "sparse_categorical_crossentropy"}, {}, ValueError, "loss.*classif"),
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
    "optimizer unknown": ("text", {"optimizer": "adm"}, {}, ValueError, "optimizer 'adm' is unknown; there are ada"),
    "optimizer a number": ("text", {"optimizer": 0.1}, {}, InvalidParameterError, "'optimizer'"),
    "optimizer with a solver": ("multilabel", {"optimizer": "adam"}, {}, ValueError, "takes the place of solver"),
    "optimizer with a rate": (
        "text", {"optimizer": gpunn.SGD(0.1), "learning_rate_init": 0.1}, {}, ValueError, "learning_rate_init: leave it"
    ),
    "optimizer and lbfgs": ("lbfgs", {"optimizer": "adam"}, {}, ValueError, "optimizer='adam' .*solver"),
    "optimizer and clipnorm": ("text", {"optimizer": "adam", "clipnorm": 1.0}, {}, ValueError, "clipnorm with optim"),
    "clipnorm 0": ("text", {"clipnorm": 0}, {}, InvalidParameterError, "'clipnorm'"),
    "clipnorm NaN": ("text", {"clipnorm": NAN}, {}, InvalidParameterError, "'clipnorm'"),
    "clipnorm and lbfgs": ("lbfgs", {"clipnorm": 1.0}, {}, ValueError, "clipnorm .*lbfgs"),
    "initialiser unknown": ("text", {"kernel_initializer": "xavier"}, {}, ValueError, "initializer 'xavier' is unkno"),
    "initialiser a number": ("text", {"kernel_initializer": 1}, {}, InvalidParameterError, "'kernel_initializer'"),
    "max_iter 0": ("text", {"max_iter": 0}, {}, InvalidParameterError, "'max_iter'"),
    "fraction too small": ("stopping", {"validation_fraction": 0.01}, {}, ValueError, "should be greater|too small"),
    "fraction of one row": ("regressor", {"early_stopping": True, "validation_fraction": 0.04}, {}, ValueError, "'vali"),
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
