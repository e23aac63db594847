"""Invalid calls of partial_fit, predict, score and set_params: errors name the cause, the estimator is unchanged."""

import copy

import numpy as np
import pytest
from helpers.estimator_cases import (
    DAYS,
    INF,
    LABELS,
    NAN,
    PAIRS_OF_DAYS,
    ROWS,
    SMALL,
    TWO,
    VALUES,
    AssertUnchanged,
    X,
    assert_raises,
    put,
)
from helpers.messages import naming
from helpers.oracles import oracle

import gpunn

oracle("sklearn")
from scipy import sparse  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


# kind of estimator, call, error, message
CALLS = {
    "partial_fit X NaN": ("text", lambda e: e.partial_fit(put(X, (0, 0), NAN), LABELS), ValueError, "X contains NaN"),
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
        "two", lambda e: e.predict(put(X.astype(object), (3, 1), DAYS[3])), TypeError, "X must .*datetime64"
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
def test_refused_call_changes_nothing(case, fitted):
    kind, call, error, message = CALLS[case]
    with AssertUnchanged(fitted[kind]):
        assert_raises(lambda: call(fitted[kind]), error, message)


@pytest.mark.parametrize("column", ["date", "zone", "difference", "objects"])
def test_error_names_the_date_column_of_a_data_frame(column, fitted):
    pandas = pytest.importorskip("pandas")
    days = pandas.Series(DAYS)
    columns = {
        "date": days,
        "zone": days.dt.tz_localize("UTC"),
        "difference": days - days[0],
        "objects": pandas.Series([day.item() for day in DAYS], dtype=object),
    }
    frame = pandas.DataFrame({"a": X[:, 0], "b": LABELS, "day": columns[column]})
    with AssertUnchanged(fitted["regressor"]):
        assert_raises(lambda: fitted["regressor"].fit(frame, VALUES), TypeError, "column 'day' of X")
        assert_raises(lambda: fitted["regressor"].predict(frame), TypeError, "column 'day' of X")
        assert_raises(lambda: fitted["regressor"].fit(X, columns[column]), TypeError, "y must")
        assert_raises(lambda: fitted["two"].fit(X, frame[["a", "day"]]), TypeError, "column 'day' of y")
    with AssertUnchanged(fitted["text"]):
        assert_raises(
            lambda: fitted["text"].fit(X, LABELS, sample_weight=columns[column]), TypeError, "sample_weight must"
        )


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
def test_hidden_layer_sizes_accepts_what_scikit_learn_accepts(sizes):
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
def test_partial_fit_names_the_parameter_that_cannot_change(name, fitted):
    estimator = fitted["text"]
    before = estimator.get_params()
    estimator.set_params(**CHANGED[name])
    try:
        with AssertUnchanged(estimator):
            assert_raises(lambda: estimator.partial_fit(X, LABELS), ValueError, name)
    finally:
        estimator.set_params(**before)


def test_there_are_many_cases():
    assert len(CALLS) + len(CHANGED) >= 50
