"""Calls of `TabularClassifier` and `TabularRegressor` that are refused by name and change nothing."""

import copy
import datetime
import sys

import numpy as np
import pytest
from helpers.messages import naming
from helpers.oracles import oracle
from helpers.tabular_cases import CASES, LABELS, SIZE, TABLE, VALUES, N, classifier, output, regressor, rows_of

import gpunn
from gpunn.tabular import ensemble
from gpunn.tabular.sklearn_bases import NotFittedError

ONE = rows_of(TABLE, [0])
BAD_FITS = {
    "infinity": (TABLE | {"size": [np.inf, *SIZE[1:]]}, LABELS, ("column 'size'", "row 0", "NaN")),
    "mixed types": (TABLE | {"kind": [3, *["ale"] * (N - 1)]}, LABELS, ("column 'kind'", "convert")),
    "unequal lengths": (TABLE | {"flag": [True]}, LABELS, ("60 cells in 'size'", "1 in 'flag'")),
    "no columns": ({}, LABELS, ("empty table",)),
    "no rows": (rows_of(TABLE, []), [], ("at least one row",)),
    "one row": (ONE, LABELS[:1], ("y", "two classes")),
    "no information": ({"x": [1] * N}, LABELS, ("no column", "'x'", "the same in every row")),
    "no table": (None, LABELS, ("X", "NoneType")),
    "one class": (TABLE, ["a"] * N, ("y", "two classes", "'a'")),
    "no target": (TABLE, None, ("y",)),
    "a target less": (TABLE, LABELS[:-1], ("y", "60", "59")),
    "a table of targets": (TABLE, np.zeros((N, 2)), ("y", "(60, 2)")),
    "a missing label": (TABLE, ["a", None] * 30, ("y", "30", "row 1", "leave out")),
    "a missing label among texts": (TABLE, ["a", float("nan"), "b"] * 20, ("y", "20", "row 1", "leave out")),
    "a missing number": (TABLE, [1.0, 2.0, np.nan] * 20, ("y", "20", "row 2", "leave out")),
    "an infinite label": (TABLE, [1.0, 2.0, np.inf] * 20, ("y", "finite")),
    "labels that are not whole": (TABLE, VALUES, ("y", "TabularRegressor")),
    "labels of two types": (TABLE, ["a", 1] * 30, ("y", "int, str")),
}
BAD_TARGETS = {
    "texts": (["a"] * N, ("y", "'a'", "TabularClassifier")),
    "texts of numbers": (["1.5"] * N, ("y", "'1.5'", "TabularClassifier")),
    "an array of texts": (LABELS, ("y", "TabularClassifier")),
    "dates": (TABLE["day"], ("y", "datetime64[D]")),
    "a missing number": ([None, *VALUES[1:]], ("y", "row 0", "leave out")),
    "infinity": ([*VALUES[1:], -np.inf], ("y", "row 59")),
    "huge numbers": ([1e308, *VALUES[1:]], ("y", "1e+308", "row 0", "unit")),
    "a huge integer": ([10**400, *VALUES[1:]], ("y", "too large")),
}
BAD_WEIGHTS = {
    "too few": (np.ones(N - 1), ("sample_weight", "(60,)", "(59,)")),
    "negative": (np.append(np.ones(N - 1), -1), ("sample_weight", "-1.0")),
    "all zero": (np.zeros(N), ("sample_weight", "zero in all rows")),
    "only one row": (np.arange(N) == 7, ("two classes",)),
    "NaN": (np.append(np.ones(N - 1), np.nan), ("sample_weight", "finite")),
    "texts": (["much"] * N, ("sample_weight", "'much'")),
    "huge": (np.full(N, 1e308), ("sample_weight", "1e+308")),
    "tiny": (np.full(N, 1e-308), ("sample_weight", "1e-308")),
}
BAD_PARAMETERS = {
    "n_networks": [0, 2.5, "2", None, True],
    "time_limit": [0, -1.0, float("nan"), "1"],
    "metric": ["absolute_error", "auc", 1],
    "random_state": [-1, "a", 1.5],
    "device": ["tpu", None],
}


class Unchanged:
    """Assert that a model has the same attributes and predicts the same bits after the block."""

    def __init__(self, model):
        self.model = model

    def __enter__(self):
        self.before = output(self.model), dict(vars(self.model))

    def __exit__(self, *error):
        if error[0] is None:
            now = vars(self.model)
            assert now.keys() == self.before[1].keys()
            assert all(now[name] is value for name, value in self.before[1].items() if name.endswith("_"))
            assert output(self.model) == self.before[0]


@pytest.fixture(scope="module")
def fitted():
    return {make: make().fit(TABLE, y) for make, y in CASES}


@pytest.mark.parametrize("name", BAD_FITS)
def test_refused_fits_of_a_classifier(fitted, name):
    table, y, parts = BAD_FITS[name]
    with Unchanged(fitted[classifier]), pytest.raises((ValueError, TypeError), match=naming(*parts)):
        fitted[classifier].fit(table, y)


@pytest.mark.parametrize("name", BAD_TARGETS)
def test_refused_fits_of_a_regressor(fitted, name):
    y, parts = BAD_TARGETS[name]
    with Unchanged(fitted[regressor]), pytest.raises(ValueError, match=naming(*parts)):
        fitted[regressor].fit(TABLE, y)


@pytest.mark.parametrize("name", BAD_WEIGHTS)
def test_refused_weights(fitted, name):
    w, parts = BAD_WEIGHTS[name]
    with Unchanged(fitted[classifier]), pytest.raises(ValueError, match=naming(*parts)):
        fitted[classifier].fit(TABLE, LABELS, sample_weight=w)


def test_one_row_of_positive_weight_is_too_few_for_a_regressor():
    with pytest.raises(ValueError, match=naming("TabularRegressor", "at least 2", "n_samples = 1")):
        regressor().fit(TABLE, VALUES, sample_weight=np.arange(N) == 7)


@pytest.mark.parametrize(
    ("name", "value"), [(name, each) for name, values in BAD_PARAMETERS.items() for each in values]
)
def test_refused_parameters(fitted, name, value):
    model = copy.copy(fitted[classifier])
    setattr(model, name, value)
    with Unchanged(model), pytest.raises((ValueError, TypeError), match=name):
        model.fit(TABLE, LABELS)


def test_missing_targets_of_pandas_are_refused():
    pd = oracle("pandas")
    y = pd.array([None, *np.arange(N - 1)], dtype="Int64")
    for make in (classifier, regressor):
        with pytest.raises(ValueError, match=naming("y", "row 0", "leave out")):
            make().fit(TABLE, y)


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize(("make", "y"), CASES)
def test_a_fit_that_fails_leaves_the_model_unchanged(make, y, error, fitted, monkeypatch):
    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr(ensemble, "train", fail)
    with Unchanged(fitted[make]), pytest.raises(error):
        fitted[make].fit(rows_of(TABLE, range(40)), y[:40])


def test_a_progress_bar_without_tqdm_is_refused(fitted, monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    model = copy.copy(fitted[classifier])
    model.verbose = 1
    with Unchanged(model), pytest.raises(ImportError, match=naming("tqdm", "gpunn[cli]", "verbose=0")):
        model.fit(TABLE, LABELS)


SELECT = "X[list(model.feature_names_in_)]"
BAD_PREDICTIONS = {
    "a missing column": ({k: v for k, v in ONE.items() if k != "kind"}, ("missing", "- kind", SELECT)),
    "another column": (ONE | {"more": [1]}, ("unseen", "- more")),
    "another order": (dict(reversed(ONE.items())), ("same order", SELECT)),
    "texts for numbers": (ONE | {"size": ["big"]}, ("column 'size'", "'big'", "row 0")),
    "dates for numbers": (ONE | {"size": [datetime.date(2024, 1, 1)]}, ("column 'size'", "dates")),
    "numbers for dates": (ONE | {"day": [3.5]}, ("column 'day'", "numbers")),
    "texts for dates": (ONE | {"day": ["soon"]}, ("column 'day'", "'soon'", "row 0")),
    "infinity": (ONE | {"size": [-np.inf]}, ("column 'size'", "-inf", "row 0")),
    "mixed types": ({name: cells[:2] for name, cells in TABLE.items()} | {"kind": [1, "ale"]}, ("column 'kind'",)),
    "unequal lengths": (ONE | {"flag": [True, False]}, ("1 cells in 'size'", "2 in 'flag'")),
    "no rows": (rows_of(TABLE, []), ("at least one row",)),
    "an array of three columns": (np.zeros((2, 3)), ("3 features", "expecting 4")),
    "a number far beyond those of a column of two": (ONE | {"flag": [1e300]}, ("column 'flag'", "row 0")),
}


@pytest.mark.parametrize("make", [classifier, regressor])
@pytest.mark.parametrize("name", BAD_PREDICTIONS)
def test_refused_predictions(fitted, make, name):
    table, parts = BAD_PREDICTIONS[name]
    with Unchanged(fitted[make]), pytest.raises((ValueError, TypeError), match=naming(*parts)):
        fitted[make].predict(table)


@pytest.mark.parametrize("make", [classifier, regressor])
def test_outputs_that_are_not_finite_are_refused(make):
    x = np.arange(N) % 2
    model = make().fit({"x": x, "z": SIZE}, x)
    for net in model._networks:
        W, *others = net.get_weights()
        net.set_weights([np.full_like(W, 1e10), *others])
    assert np.isfinite(model.predict({"x": [1.0], "z": [0.5]})).all()
    with pytest.raises(ValueError, match=naming("row 1", "not finite")):
        model.predict({"x": [1.0, 3e38], "z": [0.5, 0.5]})


@pytest.mark.parametrize("make", [gpunn.TabularClassifier, gpunn.TabularRegressor])
def test_models_that_are_not_fitted_say_so(make, tmp_path):
    for call in (lambda m: m.predict(TABLE), lambda m: m.save(tmp_path / "m")):
        with pytest.raises(NotFittedError, match=naming(make.__name__, "not fitted", "fit")):
            call(make())
