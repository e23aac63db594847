"""`TabularClassifier` and `TabularRegressor`: predictions, determinism, copies and notes."""

import copy
import datetime
import logging
import os
import pickle

import numpy as np
import pytest
from helpers import internals
from helpers.messages import naming
from helpers.oracles import oracle
from helpers.processes import run_python
from helpers.tabular_cases import CASES, LABELS, SIZE, TABLE, VALUES, N, classifier, output, regressor, rows_of

import gpunn
from gpunn.tabular import tabular_estimator
from gpunn.tabular.sklearn_bases import DataConversionWarning, NotFittedError

# --- predictions --------------------------------------------------------------------------------------------------


def test_the_label_depends_on_a_category_and_a_missing_cell():
    n = 200
    rng = np.random.default_rng(1)
    kind = np.array(["a", "b", "c"])[rng.integers(0, 3, n)]
    x = np.where(rng.uniform(size=n) < 0.3, np.nan, rng.normal(size=n))
    y = np.where((kind == "b") ^ np.isnan(x), "yes", "no")
    model = classifier(n_networks=8).fit({"kind": kind, "x": x}, y)
    assert model.classes_.tolist() == ["no", "yes"]
    proba = model.predict_proba({"kind": ["b", "b", "a", "a"], "x": [0.1, None, 0.1, None]})
    assert (proba.argmax(axis=1) == [1, 0, 0, 1]).all() and proba.max(axis=1).min() > 0.8
    np.testing.assert_allclose(proba.sum(axis=1), 1, rtol=1e-12)
    assert model.score({"kind": kind, "x": x}, y) > 0.97


def test_values_depend_on_the_weekday_and_a_number():
    n = 300
    rng = np.random.default_rng(1)
    day = np.datetime64("2023-01-01") + np.arange(n)
    x = rng.normal(size=n)
    y = 1000 + 100 * x + 300 * ((day.astype(int) + 3) % 7 == 5)  # Saturdays
    model = regressor(n_networks=4).fit({"day": day, "x": x}, y)
    saturday, sunday = model.predict({"day": [datetime.date(2023, 6, 3), datetime.date(2023, 6, 4)], "x": [0.0, 0.0]})
    assert saturday - sunday == pytest.approx(300, abs=60) and sunday == pytest.approx(1000, abs=60)
    assert model.score({"day": day, "x": x}, y) > 0.95


@pytest.mark.parametrize(
    "labels",
    [LABELS, LABELS.tolist(), LABELS == "yes", np.where(LABELS == "yes", 7, -1), np.where(LABELS == "yes", 2.0, 0.0)],
    ids=["text", "list", "bool", "int", "float"],
)
def test_labels_are_those_of_the_user(labels):
    model = classifier().fit(TABLE, labels)
    array = np.asarray(labels)
    assert model.classes_.tolist() == np.unique(array).tolist()
    assert model.predict(TABLE).dtype == model.classes_.dtype == array.dtype
    assert (model.predict(TABLE) == array).mean() > 0.6
    assert output(model) == output(classifier().fit(TABLE, LABELS))


def test_targets_of_other_libraries():
    pd = oracle("pandas")
    expected = output(classifier().fit(TABLE, LABELS)), output(regressor().fit(TABLE, VALUES))
    for of in (pd.Series, lambda y: pd.array(y), lambda y: y.astype(object), lambda y: y.tolist()):
        assert (output(classifier().fit(TABLE, of(LABELS))), output(regressor().fit(TABLE, of(VALUES)))) == expected
    assert output(classifier().fit(TABLE, pd.Categorical(LABELS))) == expected[0]
    pa = pytest.importorskip("pyarrow")
    assert output(classifier().fit(TABLE, pa.array(LABELS))) == expected[0]
    with pytest.warns(DataConversionWarning, match="column-vector"):
        assert output(regressor().fit(TABLE, VALUES[:, None])) == expected[1]


def test_predicted_values_are_limited_to_the_training_range_and_have_a_standard_deviation():
    model = regressor(n_networks=4).fit(TABLE, VALUES)
    a, std = model.predict(TABLE, return_std=True)
    np.testing.assert_array_equal(a, model.predict(TABLE))
    assert a.shape == std.shape == (N,) and a.dtype == np.float64
    assert VALUES.min() <= a.min() and a.max() <= VALUES.max()
    assert (std >= model.residual_std_).all() and std.max() > model.residual_std_ > 0
    far = model.predict({"size": [1e9, -1e9], "kind": ["ale"] * 2, "day": TABLE["day"][:2], "flag": [True, False]})
    assert VALUES.min() <= far.min() and far.max() <= VALUES.max()


def test_constant_targets_are_predicted():
    model = regressor().fit(TABLE, np.full(N, 7.0))
    a, std = model.predict(TABLE, return_std=True)
    assert (a == 7).all() and (std == model.residual_std_).all()


def test_the_standard_deviation_of_the_residuals_is_that_of_the_validation_rows():
    """One network per fold: s² is the mean of the folds' losses, in units of y."""
    for count in (1, 2):
        model = regressor(n_networks=count).fit(TABLE, VALUES)
        losses = [row["validation_loss"] for row in model.leaderboard_]
        assert len(losses) == count
        assert model.residual_std_ == pytest.approx(VALUES.std() * np.sqrt(np.mean(losses)), rel=1e-6)


@pytest.mark.parametrize(("make", "y"), CASES)
def test_the_leaderboard_lists_all_networks(make, y):
    model = make(n_networks=7).fit(TABLE, y)
    rows = model.leaderboard_
    assert [row["network"] for row in rows] == list(range(7))
    assert [row["fold"] for row in rows] == [0, 1, 2, 3, 4, 0, 1]  # 5 folds
    for fold in range(5):
        assert sum(row["weight"] for row in rows if row["fold"] == fold) == pytest.approx(1 / 5)
    for row in rows:
        assert np.isfinite(row["validation_loss"]) and 1 <= row["best_epoch"] <= row["epochs"]
        assert row["seconds"] > 0 and row["depth"] >= 1
    assert len({row["seed"] for row in rows}) == 7


@pytest.mark.parametrize(("make", "y"), CASES)
def test_large_tables_are_predicted_in_parts(make, y, monkeypatch):
    model = make().fit(TABLE, y)
    table = rows_of(TABLE, [*range(N), *reversed(range(N)), *range(N)])
    expected = np.frombuffer(output(model, table))
    monkeypatch.setattr(tabular_estimator, "PREDICTION_ROWS", 70)
    # BLAS rounds a row differently for another number of rows
    np.testing.assert_allclose(np.frombuffer(output(model, table)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("n_networks", [1, 2, 7])
def test_tables_of_few_rows(count, n_networks):
    table, y = {"x": range(count)}, np.arange(count) % 2
    assert classifier(n_networks=n_networks).fit(table, y).predict_proba(table).shape == (count, 2)
    assert regressor(n_networks=n_networks).fit(table, y).predict(table).shape == (count,)


def test_very_large_tables_get_fewer_networks(monkeypatch):
    width = classifier(n_networks=1).fit(TABLE, LABELS)._encoder.width
    monkeypatch.setattr(tabular_estimator, "MAX_ENCODED_CELLS", 5.5 * N * width)
    with pytest.warns(UserWarning, match=naming("60 rows", "5 networks", "n_networks=8")) as caught:
        model = classifier(n_networks=8).fit(TABLE, LABELS)
    assert len(model.leaderboard_) == 5 and caught[0].filename == __file__


def test_time_limit_ends_after_the_first_networks_of_all_folds(caplog):
    model = classifier(n_networks=12, time_limit=1e-9).fit(TABLE, LABELS)
    assert [row["fold"] for row in model.leaderboard_] == [0, 1, 2, 3, 4]
    assert caplog.messages == ["time_limit: the training ended with 5 of 12 networks"]
    assert len(classifier(n_networks=12, time_limit=1e9).fit(TABLE, LABELS).leaderboard_) == 12


# --- determinism --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("make", "y"), CASES)
def test_the_same_random_state_gives_the_same_bits(make, y):
    first = output(make(n_networks=3, random_state=1).fit(TABLE, y))
    assert output(make(n_networks=3, random_state=1).fit(TABLE, y)) == first
    assert output(make(n_networks=3, random_state=np.random.default_rng(1)).fit(TABLE, y)) == first
    assert output(make(n_networks=3, random_state=2).fit(TABLE, y)) != first
    states = [np.random.RandomState(1) for _ in range(2)]
    drawn = [output(make(random_state=state).fit(TABLE, y)) for state in (*states, states[0])]
    assert drawn[0] == drawn[1] != drawn[2]
    assert output(make(random_state=None).fit(TABLE, y)) != output(make(random_state=None).fit(TABLE, y))


@pytest.mark.parametrize(("make", "y"), CASES)
def test_the_number_of_threads_does_not_change_the_bits(make, y, monkeypatch):
    found = []
    for count in (1, 2, 4):
        internals.train_concurrently(monkeypatch, count)
        found.append(output(make(n_networks=4).fit(TABLE, y)))
    assert found[0] == found[1] == found[2]


@pytest.mark.slow
@pytest.mark.skipif(
    not gpunn.backend.get("cpu").kernel_report().startswith("compiled"),
    reason="only compiled code limits BLAS to one thread per network",
)
def test_the_number_of_blas_threads_does_not_change_the_bits():
    script = (
        "import gpunn, numpy as np, hashlib, json\n"
        "X = np.random.default_rng(0).normal(size=(300, 8))\n"
        "c = gpunn.TabularClassifier(n_networks=4).fit(X, X[:, 0] > X[:, 1])\n"
        "r = gpunn.TabularRegressor(n_networks=4).fit(X, X[:, 0])\n"
        "weights = [a.tobytes() for m in (c, r) for net in m._networks for a in net.get_weights()]\n"
        "losses = [row['validation_loss'] for m in (c, r) for row in m.leaderboard_]\n"
        "predictions = [c.predict_proba(X).tolist(), r.predict(X).tolist()]\n"
        "print(hashlib.sha256(b''.join(weights)).hexdigest(), json.dumps([losses, predictions]))\n"
    )
    found = [run_python(script, env=os.environ | {"OPENBLAS_NUM_THREADS": count}) for count in "12"]
    assert all(done.returncode == 0 for done in found), found[0].stderr + found[1].stderr
    assert found[0].stdout == found[1].stdout and len(found[0].stdout) > 64


@pytest.mark.parametrize(("make", "y"), CASES)
def test_a_row_of_weight_0_has_no_influence(make, y):
    """Its cells and its target would change scales, categories, classes and folds."""
    extreme = {"size": [1e6], "kind": ["stout"], "day": [datetime.date(1900, 1, 1)], "flag": [True]}
    target = "maybe" if make is classifier else 1e9
    table = {name: [*extreme[name], *cells, *extreme[name]] for name, cells in TABLE.items()}
    w = np.linspace(0.5, 2, N)
    more = make().fit(table, [target, *y.tolist(), target], sample_weight=[0.0, *w, 0.0])
    model = make().fit(TABLE, y.tolist(), sample_weight=w)
    assert output(more) == output(model)
    assert more.columns_ == model.columns_
    if make is classifier:
        assert more.classes_.tolist() == ["no", "yes"]
    else:
        assert more.residual_std_ == model.residual_std_
    assert output(model) != output(make().fit(TABLE, y))


def test_heavy_rows_matter_more():
    x = np.arange(40) % 2
    y = np.where(np.arange(40) < 20, x, 1 - x)
    for heavy in (0, 1):
        w = np.where((np.arange(40) < 20) == (heavy == 0), 50.0, 1.0)
        model = classifier().fit({"x": x, "z": np.arange(40) % 3}, y, sample_weight=w)
        assert model.predict({"x": [0, 1], "z": [1, 1]}).tolist() == [heavy, 1 - heavy]


# --- copies -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("make", "y"), CASES)
def test_copies_predict_the_same_and_fit_the_same(make, y):
    model = make().fit(TABLE, y)
    expected = output(model)
    for again in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model), copy.copy(model)):
        assert output(again) == expected and again.leaderboard_ == model.leaderboard_
        assert output(again.fit(TABLE, y)) == expected
    assert output(model.fit(rows_of(TABLE, range(40)), y[:40])) != expected
    assert output(model.fit(TABLE, y)) == expected  # nothing remains of an earlier fit


def test_clones_have_the_parameters_only():
    clone = oracle("sklearn.base").clone
    model = classifier(time_limit=100.0, random_state=3, device="cpu").fit(TABLE, LABELS)
    again = clone(model)
    assert again.get_params() == model.get_params() == {
        "n_networks": 2, "time_limit": 100.0, "categorical": (), "dates": (), "random_state": 3, "device": "cpu",
        "n_jobs": None, "verbose": 0, "metric": None,
    }  # fmt: skip
    with pytest.raises(NotFittedError, match="TabularClassifier"):
        again.predict(TABLE)


def test_attributes_describe_the_columns_of_the_last_fit():
    model = classifier().fit(TABLE | {"k": [1] * N}, LABELS)
    assert model.n_features_in_ == 5 and model.feature_names_in_.tolist() == [*TABLE, "k"]
    assert list(model.columns_) == [*TABLE, "k"] and model.columns_["k"] == "left out: the same in every row"
    model.fit(SIZE[:, None], LABELS)
    assert model.n_features_in_ == 1 and list(model.columns_) == ["x0"]
    assert not hasattr(model, "feature_names_in_")


# --- notes --------------------------------------------------------------------------------------------------------


def test_cells_that_training_did_not_see_are_counted_in_the_log(caplog):
    model = classifier().fit(TABLE, LABELS)
    days = [None, datetime.date(2024, 1, 1)]
    new = {"size": [None, 1.0], "kind": ["stout", "ale"], "day": days, "flag": [None, True]}
    assert np.isfinite(model.predict_proba(new)).all()
    assert caplog.messages == [
        "column 'kind': 1 of 2 cells contain a category that training did not see; they count as no category",
        "column 'day': 1 of 2 cells are missing, which training did not see; the median 19752.5 is used",
        "column 'flag': 1 of 2 cells are missing, which training did not see; the median 1 is used",
    ]
    assert {record.levelname for record in caplog.records} == {"WARNING"} and caplog.records[0].name == "gpunn"


def test_columns_that_are_left_out_are_in_the_log(caplog):
    with caplog.at_level(logging.INFO, "gpunn"):
        classifier().fit(TABLE | {"k": [1] * N, "e": [None] * N}, LABELS)
    assert caplog.messages == ["left out, the same in every row: 'k'", "left out, no value in any row: 'e'"]


def test_arrays_are_matched_by_position():
    model = classifier().fit(TABLE, LABELS)
    array = np.array([[cells[k] for cells in TABLE.values()] for k in range(N)], dtype=object)
    assert output(model, array) == output(model)
    without_names = classifier().fit(array, LABELS)
    assert output(without_names, array) == output(model)
    assert output(without_names, TABLE) == output(model)
