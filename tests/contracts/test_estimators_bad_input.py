"""Invalid arguments and parameters of `fit`: errors name them, and a fitted estimator stays unchanged, bit for bit."""

import numpy as np
import pytest
from helpers.estimator_cases import (
    DATETIMES,
    DAYS,
    INF,
    LABELS,
    MULTI,
    NAN,
    PAIRS_OF_DAYS,
    ROWS,
    SMALL,
    TARGETS,
    TWO,
    VALUES,
    AssertUnchanged,
    X,
    assert_raises,
    attributes,
    comparable,
    put,
)
from helpers.messages import naming
from helpers.oracles import oracle

import gpunn

oracle("sklearn")
from scipy import sparse  # noqa: E402
from sklearn.exceptions import NotFittedError  # noqa: E402
from sklearn.utils._param_validation import InvalidParameterError  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


class Nothing(gpunn.Callback):
    """A callback without hooks."""


# kind of estimator, parameters to set, arguments of fit in addition to or instead of X and y, error, message
FIT = {
    # X
    "X None": ("text", {}, {"X": None}, ValueError, "array"),
    "X NaN": ("text", {}, {"X": put(X, (3, 1), NAN)}, ValueError, "X contains NaN"),
    "X infinite": ("regressor", {}, {"X": put(X, (3, 1), INF)}, ValueError, "X contains infinity"),
    "X beyond float32": ("regressor", {"dtype": "float32"}, {"X": X * 1e39}, ValueError, naming("X", "too large")),
    "X fewer rows": ("text", {}, {"X": X[:-1]}, ValueError, "inconsistent numbers of samples"),
    "X complex": ("text", {}, {"X": X + 0j}, ValueError, "Complex data not supported"),
    "X text": ("text", {}, {"X": np.full((ROWS, 4), "a")}, ValueError, "could not convert"),
    "X flat": ("two", {}, {"X": X[:, 0]}, ValueError, "Expected 2D array"),
    "X sparse, NaN": ("text", {}, {"X": sparse.csr_matrix(put(X, (3, 1), NAN))}, ValueError, "X contains NaN"),
    "X other columns, warm": ("warm", {}, {"X": X[:, :3]}, ValueError, "X has 3 features, but MLPClassifier"),
    # y
    "y None": ("text", {}, {"y": None}, ValueError, "requires y to be passed"),
    "y NaN": ("regressor", {}, {"y": put(VALUES, 2, NAN)}, ValueError, "y contains NaN"),
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
    "X one date": ("regressor", {}, {"X": put(X.astype(object), (3, 1), DAYS[3])}, TypeError, "X must .*datetime64"),
    "X one time difference": (
        "regressor", {}, {"X": put(X.astype(object), (3, 1), DAYS[3] - DAYS[0])}, TypeError, "X must .*timedelta64"
    ),
    "X a list of dates": ("text", {}, {"X": [[d.item(), d.item()] for d in DAYS]}, TypeError, "X must .*datetime.date"),
    "X a list with a date": ("text", {}, {"X": [[d, 1.0] for d in DAYS]}, TypeError, "X must .*datetime64"),
    "y dates": ("regressor", {}, {"y": DAYS}, TypeError, "y must .* dates"),
    "y time differences": ("two", {}, {"y": PAIRS_OF_DAYS - DAYS[0]}, TypeError, "y must .* time differences"),
    "y a list of dates": ("regressor", {}, {"y": [d.item() for d in DAYS]}, TypeError, "y must .*datetime.date"),
    "y a list of moments": ("regressor", {}, {"y": DATETIMES}, TypeError, "y must .*datetime.datetime"),
    "weights dates": ("text", {}, {"sample_weight": DAYS}, TypeError, "sample_weight must .* dates"),
    "validation dates": ("text", {}, {"validation_data": (PAIRS_OF_DAYS, LABELS)}, TypeError, "validation.*X must .*d"),
    "validation y dates": ("two", {}, {"validation_data": (X, PAIRS_OF_DAYS)}, TypeError, "validation.*y must .*date"),
    "validation weights dates": (
        "text", {}, {"validation_data": (X, LABELS, DAYS)}, TypeError, "validation_data.*sample_weight must .*dates"
    ),
    # weights
    "weights short": ("text", {}, {"sample_weight": np.ones(3)}, ValueError, "sample_weight.shape == "),
    "weights NaN": ("text", {}, {"sample_weight": put(np.ones(ROWS), 1, NAN)}, ValueError, "sample_weight contains"),
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
        "text", {}, {"validation_data": (put(X, (0, 0), NAN), LABELS)}, ValueError, "validation_data.*X contains NaN"
    ),
    "validation length": ("text", {}, {"validation_data": (X, LABELS[:5])}, ValueError, "validation_data.*inconsisten"),
    "validation classes": (
        "text", {}, {"validation_data": (X, LABELS[::-1] + "s")}, ValueError, "validation_data.*classes.*ales"
    ),
    "validation y NaN": (
        "regressor", {}, {"validation_data": (X, put(VALUES, 1, NAN))}, ValueError, "validation_data.*y contains NaN"
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
    # optimizers
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
    # callbacks and verbosity
    "callbacks one": ("text", {"callbacks": Nothing()}, {}, InvalidParameterError, "'callbacks'"),
    "callbacks function": ("text", {"callbacks": [print]}, {}, TypeError, "callbacks must be gpunn.Callback objects"),
    "callbacks class": ("text", {"callbacks": [Nothing]}, {}, TypeError, "callbacks must be .*got <class"),
    "callbacks and lbfgs": ("lbfgs", {"callbacks": [Nothing()]}, {}, ValueError, "callbacks .*lbfgs"),
    "verbose word": ("text", {"verbose": "lines"}, {}, InvalidParameterError, "'verbose' .*'bar'"),
    "verbose bar and lbfgs": ("lbfgs", {"verbose": "bar"}, {}, ValueError, "verbose='bar' .*lbfgs"),
    "folder of checkpoints": (
        "text", {"callbacks": [gpunn.ModelCheckpoint("/no/such/folder/x")]}, {}, FileNotFoundError, "no such folder"
    ),
    # dtype, device and precision
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
def test_refused_fit_changes_nothing(case, fitted):
    kind, parameters, given, error, message = FIT[case]
    estimator = fitted[kind]
    before = estimator.get_params()
    arguments = {"X": X, "y": TARGETS.get(kind, LABELS)} | given
    arrays = {name: comparable(value) for name, value in arguments.items()}
    estimator.set_params(**parameters)
    try:
        with AssertUnchanged(estimator):
            if error is FileNotFoundError:
                with pytest.raises(error, match=message):
                    estimator.fit(**arguments)
            else:
                assert_raises(lambda: estimator.fit(**arguments), error, message)
        assert {name: comparable(value) for name, value in arguments.items()} == arrays
    finally:
        estimator.set_params(**before)


@pytest.mark.parametrize("case", [c for c in FIT if FIT[c][0] in ("text", "regressor", "two")])
def test_refused_first_fit_sets_no_attributes(case):
    kind, parameters, given, error, _ = FIT[case]
    cls = gpunn.MLPClassifier if kind == "text" else gpunn.MLPRegressor
    estimator = cls(**SMALL | parameters)
    before = attributes(estimator)
    with pytest.raises(error):
        estimator.fit(**{"X": X, "y": TARGETS.get(kind, LABELS)} | given)
    after = attributes(estimator)
    after.pop("_fit_lock", None)
    assert after == before
    with pytest.raises(NotFittedError):
        estimator.predict(X)


def test_there_are_many_cases():
    assert len(FIT) >= 120
