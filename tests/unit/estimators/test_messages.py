"""Invalid values raise the same class with the same message as scikit-learn's estimators.

Only `activation`, `verbose` and the regressor's `loss` accept more than in scikit-learn; their messages list it.
"""

import inspect
import warnings

import numpy as np
import pytest
from helpers.oracles import oracle

import gpunn
from gpunn import losses

oracle("sklearn")
import sklearn  # noqa: E402
from scipy import sparse  # noqa: E402
from sklearn import neural_network  # noqa: E402
from sklearn.exceptions import NotFittedError  # noqa: E402
from sklearn.utils._param_validation import InvalidParameterError  # noqa: E402

pytestmark = [
    pytest.mark.skipif(
        tuple(map(int, sklearn.__version__.split(".")[:2])) != (1, 9), reason="the words are scikit-learn 1.9's"
    ),
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
]
KINDS = ["MLPClassifier", "MLPRegressor"]
EXTENDED = {"activation", "verbose", "loss"}
RNG = np.random.default_rng(4)
X = RNG.normal(size=(24, 4))
LABELS = np.arange(24) % 3
VALUES = X @ [1.0, -2.0, 0.5, 0.0]
WORDS = np.array(["ale", "bock", "cider"])[LABELS]


def error_and_warnings(call):
    """Return the class and the message of the error that a call raises, and its warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            call()
        except Exception as error:
            return type(error), str(error), [str(w.message) for w in caught]
    return None, "", [str(w.message) for w in caught]


# --- parameters ---------------------------------------------------------------------------------------------------

WRONG = ["a word", -1, 0, 0.5, 1, 1.5, 2, np.nan, np.inf, -np.inf, None, True, [], (1.0,), {}, b"adam", 1j, np.ones(2)]


def _parameters():
    """Every parameter that gpunn does not extend, with every value that its constraints refuse."""
    for kind in KINDS:
        theirs = getattr(neural_network, kind)
        for name in theirs._parameter_constraints:
            if name in EXTENDED or name not in inspect.signature(theirs).parameters:
                continue
            for k, value in enumerate(WRONG):
                if error_and_warnings(theirs(**{name: value})._validate_params)[0] is not None:
                    yield pytest.param(kind, name, value, id=f"{kind}-{name}-{k}")


@pytest.mark.parametrize(("kind", "name", "value"), list(_parameters()))
def test_parameter_errors_equal_scikit_learn(kind, name, value):
    y = LABELS if kind == "MLPClassifier" else VALUES
    theirs, ours = (
        error_and_warnings(lambda m=m: getattr(m, kind)(**{name: value}).fit(X, y)) for m in (neural_network, gpunn)
    )
    assert theirs[0] is InvalidParameterError
    assert ours == theirs
    assert f"'{name}'" in ours[1]


def test_every_parameter_of_scikit_learn_is_covered():
    tried = {(p.values[0], p.values[1]) for p in _parameters()}
    for kind in KINDS:
        own = set(inspect.signature(getattr(neural_network, kind)).parameters) - EXTENDED
        assert {name for k, name in tried if k == kind} == own


MORE = {
    "activation": ("a word", ["gelu", "leaky_relu", "silu", "relu", "logistic", "tanh", "Activation", "list", "tuple"]),
    "verbose": ("a word", ["bar", "int", "bool"]),
    "loss": ("a word", [*losses.built_in(), "Loss", "callable"]),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", MORE)
def test_errors_of_extended_parameters_list_all_options(kind, name):
    value, options = MORE[name]
    y = LABELS if kind == "MLPClassifier" else VALUES
    error, text, _ = error_and_warnings(lambda: getattr(gpunn, kind)(**{name: value}).fit(X, y))
    assert error is InvalidParameterError
    assert f"'{name}' parameter of {kind}" in text
    for option in options:
        assert option in text


@pytest.mark.parametrize("kind", KINDS)
def test_signature_is_scikit_learns_followed_by_gpunns_parameters(kind):
    theirs = list(inspect.signature(getattr(neural_network, kind)).parameters.values())
    ours = list(inspect.signature(getattr(gpunn, kind)).parameters.values())
    for a, b in zip(theirs, ours, strict=False):
        assert (a.name, a.default, a.kind) == (b.name, b.default, b.kind)
    own = ours[len(theirs) :]
    assert len(own) >= 9
    assert all(p.kind is inspect.Parameter.KEYWORD_ONLY for p in own)
    assert all(p.default is not inspect.Parameter.empty for p in own)
    constraints = getattr(gpunn, kind)._parameter_constraints
    assert {p.name for p in ours} == set(constraints)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["fit", "partial_fit", "predict", "score", "predict_proba", "predict_log_proba"])
def test_method_signatures_equal_scikit_learn(kind, method):
    theirs, ours = (getattr(getattr(m, kind), method, None) for m in (neural_network, gpunn))
    if theirs is None:
        assert ours is None
        return
    a, b = (list(inspect.signature(f).parameters.values()) for f in (theirs, ours))
    for p, q in zip(a, b, strict=False):
        assert (p.name, p.default, p.kind) == (q.name, q.default, q.kind)
    assert all(p.kind is inspect.Parameter.KEYWORD_ONLY for p in b[len(a) :])


# --- what comes in ------------------------------------------------------------------------------------------------


def _with(array, place, value):
    changed = np.array(array, dtype=float)
    changed[place] = value
    return changed


def classifier(module, **parameters):
    return module.MLPClassifier(**{"hidden_layer_sizes": (5,), "max_iter": 2, "random_state": 0} | parameters)


def regressor(module, **parameters):
    return module.MLPRegressor(**{"hidden_layer_sizes": (5,), "max_iter": 2, "random_state": 0} | parameters)


INPUT = {
    "NaN in X": lambda m: classifier(m).fit(_with(X, (3, 1), np.nan), LABELS),
    "infinity in X": lambda m: regressor(m).fit(_with(X, (3, 1), np.inf), VALUES),
    "NaN in y": lambda m: regressor(m).fit(X, _with(VALUES, 5, np.nan)),
    "infinity in y": lambda m: regressor(m).fit(X, _with(VALUES, 5, np.inf)),
    "NaN among labels": lambda m: classifier(m).fit(X, _with(LABELS, 5, np.nan)),
    "labels that are numbers of a scale": lambda m: classifier(m).fit(X, VALUES),
    "y too short": lambda m: classifier(m).fit(X, LABELS[:-1]),
    "y too long": lambda m: regressor(m).fit(X, np.append(VALUES, 1.0)),
    "y of three axes": lambda m: regressor(m).fit(X, VALUES[:, None, None]),
    "y None": lambda m: classifier(m).fit(X, None),
    "y None, regressor": lambda m: regressor(m).fit(X, None),
    "text and numbers": lambda m: classifier(m).fit(X, np.array([1, "a", 2.5] * 8, dtype=object)),
    "outputs of several classes": lambda m: classifier(m).fit(X, np.stack([LABELS, LABELS], axis=1)),
    "X flat": lambda m: classifier(m).fit(X[:, 0], LABELS),
    "X a number": lambda m: classifier(m).fit(1.0, LABELS),
    "X of three axes": lambda m: regressor(m).fit(X[:, :, None], VALUES),
    "X without rows": lambda m: classifier(m).fit(X[:0], LABELS[:0]),
    "X without columns": lambda m: classifier(m).fit(X[:, :0], LABELS),
    "X of text": lambda m: classifier(m).fit(np.full((24, 2), "a"), LABELS),
    "X complex": lambda m: classifier(m).fit(X + 1j, LABELS),
    "X sparse with NaN": lambda m: classifier(m).fit(sparse.csr_matrix(_with(X, (0, 0), np.nan)), LABELS),
    "X ragged": lambda m: classifier(m).fit([[1.0], [1.0, 2.0]], [0, 1]),
    "one row": lambda m: regressor(m, early_stopping=True).fit(X[:1], VALUES[:1]),
    "weights too short": lambda m: classifier(m).fit(X, LABELS, sample_weight=np.ones(23)),
    "weights of two axes": lambda m: regressor(m).fit(X, VALUES, sample_weight=np.ones((24, 2))),
    "NaN in weights": lambda m: regressor(m).fit(X, VALUES, sample_weight=_with(np.ones(24), 2, np.nan)),
    "weights of text": lambda m: classifier(m).fit(X, LABELS, sample_weight=WORDS),
    "layers of no neurons": lambda m: classifier(m, hidden_layer_sizes=(5, 0)).fit(X, LABELS),
    "layers of negative neurons": lambda m: regressor(m, hidden_layer_sizes=[-3]).fit(X, VALUES),
    "few rows held out": lambda m: regressor(m, early_stopping=True, validation_fraction=0.01).fit(X, VALUES),
    "a class of one row, held out": lambda m: classifier(m, early_stopping=True).fit(X, np.eye(24, dtype=int)[5]),
    "too few rows to hold out": lambda m: classifier(m, early_stopping=True).fit(X[:6], LABELS[:6]),
    "first partial_fit without classes": lambda m: classifier(m).partial_fit(X, LABELS),
    "a class that classes lacks": lambda m: classifier(m).partial_fit(X, LABELS, classes=[0, 1]),
    "a class that was not there": lambda m: classifier(m).fit(X, LABELS).partial_fit(X, LABELS + 1),
    "other classes": lambda m: (
        classifier(m).partial_fit(X, LABELS, classes=[0, 1, 2]).partial_fit(X, LABELS, classes=[0, 1])
    ),
    "partial_fit and early stopping": lambda m: regressor(m, early_stopping=True).partial_fit(X, VALUES),
    "partial_fit by lbfgs": lambda m: classifier(m, solver="lbfgs").partial_fit(X, LABELS, classes=[0, 1, 2]),
    "partial_fit of other columns": lambda m: regressor(m).partial_fit(X, VALUES).partial_fit(X[:, :3], VALUES),
    "warm start of other columns": lambda m: regressor(m, warm_start=True).fit(X, VALUES).fit(X[:, :3], VALUES),
    "warm start of other classes": lambda m: classifier(m, warm_start=True).fit(X, LABELS).fit(X, LABELS % 2),
    "predict before fit": lambda m: classifier(m).predict(X),
    "predict_proba before fit": lambda m: classifier(m).predict_proba(X),
    "predict_log_proba before fit": lambda m: classifier(m).predict_log_proba(X),
    "score before fit": lambda m: regressor(m).score(X, VALUES),
    "predict other columns": lambda m: classifier(m).fit(X, LABELS).predict(X[:, :2]),
    "predict_proba of NaN": lambda m: classifier(m).fit(X, LABELS).predict_proba(_with(X, (1, 1), np.nan)),
    "predict one row, flat": lambda m: regressor(m).fit(X, VALUES).predict(X[0]),
    "predict text": lambda m: regressor(m).fit(X, VALUES).predict(np.full((2, 4), "a")),
    "predict nothing": lambda m: regressor(m).fit(X, VALUES).predict(X[:0]),
    "score of another length": lambda m: classifier(m).fit(X, LABELS).score(X, LABELS[:-1]),
    "score of NaN": lambda m: regressor(m).fit(X, VALUES).score(X, _with(VALUES, 1, np.nan)),
    "score with weights too short": lambda m: regressor(m).fit(X, VALUES).score(X, VALUES, np.ones(3)),
    "no such attribute": lambda m: classifier(m).colour,
    "no probabilities": lambda m: regressor(m).fit(X, VALUES).predict_proba(X),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", INPUT)
def test_input_errors_equal_scikit_learn(case):
    theirs, ours = (
        error_and_warnings(lambda: INPUT[case](neural_network)),
        error_and_warnings(lambda: INPUT[case](gpunn)),
    )
    assert theirs[0] is not None, "the case raises no error"
    assert ours == theirs


WARNED = {
    "a column as y": lambda m: regressor(m).fit(X, VALUES[:, None]),
    "a column of labels": lambda m: classifier(m).fit(X, LABELS[:, None]),
    "a batch larger than the table": lambda m: classifier(m, batch_size=1000).fit(X, LABELS),
    "an end before it converged": lambda m: classifier(m).fit(X, LABELS),
    "lbfgs, too": lambda m: regressor(m, solver="lbfgs").fit(X, VALUES),
}


@pytest.mark.parametrize("case", WARNED)
def test_warnings_equal_scikit_learn(case):
    theirs, ours = (
        error_and_warnings(lambda: WARNED[case](neural_network)),
        error_and_warnings(lambda: WARNED[case](gpunn)),
    )
    assert theirs[0] is ours[0] is None
    assert theirs[2]
    assert ours[2] == theirs[2]


def test_not_fitted_error_names_the_class():
    with pytest.raises(NotFittedError, match="This MLPRegressor instance is not fitted yet"):
        gpunn.MLPRegressor().predict(X)
