"""Scores of predictions, comparisons over tables, and goals, by hand."""

import math

import numpy as np
import pytest
from helpers.oracles import oracle

from benchmarks import table_goals
from benchmarks import table_statistics as statistics
from benchmarks.table_goals import Goal
from benchmarks.table_statistics import Comparison

BINARY, FOUR = np.array([0, 0, 1, 1]), np.array([0.1, 0.4, 0.35, 0.8])


def pair(p):
    return np.stack([1 - p, p], axis=1)


def rows(*values, metric="primary"):
    """Two folds per table: value k is of table `t{k // 2}`; None is a failure."""
    measured = [{"failed": "no"} if v is None else {metric: v, "cpu_s": 2 * v} for v in values]
    return {(f"t{k // 2}", k % 2): row for k, row in enumerate(measured)}


def test_auc_is_the_share_of_pairs_in_order():
    """One of the 4 pairs, (0.4, 0.35), is in the wrong order; a tie counts half."""
    assert statistics.auc(BINARY, FOUR) == 0.75
    assert statistics.auc(BINARY, np.array([0.1, 0.4, 0.4, 0.8])) == 0.875
    assert statistics.auc(BINARY, np.zeros(4)) == 0.5


def test_metrics_equal_those_of_scikit_learn():
    metrics = oracle("sklearn.metrics")
    draws = np.random.default_rng(0)
    y, p = draws.integers(3, size=200), draws.dirichlet(np.ones(3), 200)
    found = statistics.scores("multiclass", y, p)
    assert found["primary"] == found["log_loss"] == pytest.approx(metrics.log_loss(y, p), rel=1e-12)
    assert found["error"] == pytest.approx(1 - metrics.accuracy_score(y, p.argmax(axis=1)), rel=1e-12)
    y, p = y % 2, pair(draws.random(200).round(1))  # many ties
    found = statistics.scores("binary", y, p)
    assert found["primary"] == pytest.approx(1 - metrics.roc_auc_score(y, p[:, 1]), rel=1e-12)
    y, p = draws.normal(size=(2, 200))
    found = statistics.scores("regression", y, p)
    assert found["primary"] == pytest.approx(metrics.root_mean_squared_error(y, p), rel=1e-12)
    assert found["r2"] == pytest.approx(metrics.r2_score(y, p), rel=1e-12)


def test_a_probability_of_zero_has_a_finite_loss():
    found = statistics.scores("binary", BINARY, pair(np.array([0.0, 0.0, 1.0, 0.0])))
    assert found["log_loss"] == pytest.approx(-math.log(1e-7) / 4, rel=1e-6)


@pytest.mark.parametrize(
    "task, found, message",
    [
        ("binary", FOUR, r"must have shape \(4, 2\), got \(4,\)"),
        ("regression", pair(FOUR), r"must have shape \(4,\), got \(4, 2\)"),
        ("regression", np.array([0, np.nan, np.inf, 1]), "2 predictions are not finite"),
    ],
)
def test_invalid_predictions_are_refused(task, found, message):
    with pytest.raises(ValueError, match=message):
        statistics.scores(task, BINARY, found)


def test_ratios_are_paired_by_fold():
    """A failure of either method leaves its fold out of both means; equal zeros are a tie."""
    a, b = rows(1.0, 3.0, 2.0, None, 0.0, 0.0, 1.0), rows(2.0, 6.0, 4.0, 100.0, 0.0, 0.0, None)
    found = statistics.table_ratios(a, b, ["t0", "t1", "t2", "t3"], "primary")
    assert found == {"t0": 0.5, "t1": 0.5, "t2": 1.0}
    assert statistics.table_ratios(a, b, ["t1"], "cpu_s") == {"t1": 0.5}


def test_the_interval_covers_the_resampled_means():
    """A quarter of the resamples of two tables has only the first one, and a quarter only the second one."""
    assert statistics.geometric_mean(np.array([0.5, 2.0])) == pytest.approx((1.0, 0.5, 2.0))
    assert statistics.geometric_mean(np.array([0.9])) == pytest.approx((0.9, 0.9, 0.9))
    mean, lower, upper = statistics.geometric_mean(np.exp(np.random.default_rng(1).normal(0, 0.3, 28)))
    assert lower < mean < upper
    # 1.96 standard errors on both sides
    assert math.log(upper / lower) == pytest.approx(2 * 1.96 * 0.3 / math.sqrt(28), rel=0.3)


def test_a_comparison_by_hand():
    """Ratios 1/2, 1 and 4: their geometric mean is ∛2, and a tie is half a win."""
    measured = {"a": rows(1, 1, 1, 1, 4, 4), "b": rows(2, 2, 1, 1, 1, 1)}
    found = statistics.compare("a", "b", measured, ["t0", "t1", "t2"], same_cpu=True)
    assert (found.tables, found.folds, found.wins, found.cpu) == (3, 6, 0.5, 1.0)
    assert found.ratio == pytest.approx(2 ** (1 / 3))
    assert statistics.compare("a", "b", measured, ["t0"], same_cpu=False).cpu is None
    assert statistics.compare("a", "b", measured, ["t9"], same_cpu=True) is None


def test_ranks_need_every_fold_and_a_failure_is_last():
    measured = {"a": rows(1, 1, 1, None), "b": rows(2, 2, 2, 2), "c": rows(1, 1, 3, 3), "d": rows(0, 0, 0)}
    found = statistics.mean_ranks(measured, ["t0", "t1"], [0, 1])
    assert found == {"a": (1.5 + 3) / 2, "b": (3 + 1) / 2, "c": (1.5 + 2) / 2}
    assert statistics.mean_ranks(measured, ["t9"], [0]) == {}


@pytest.mark.parametrize(
    "what, limit, value, outcome",
    [
        ("ratio", 0.93, 0.93, "met"),
        ("ratio", 0.93, 0.931, "missed"),
        ("upper", 1.0, 1.0, "missed"),
        ("upper", 1.01, 1.01, "met"),
        ("wins", 0.9, 0.9, "met"),
        ("wins", 0.9, 0.89, "missed"),
        ("cpu", 1.5, 1.6, "missed"),
        ("cpu", 1.5, None, "not measured"),
    ],
)
def test_goals(what, limit, value, outcome, monkeypatch):
    goal = Goal(what, "lightgbm", limit)
    monkeypatch.setattr(table_goals, "GOALS", (goal,))
    numbers = {"ratio": 0.5, "lower": 0.4, "upper": 0.6, "wins": 1.0, "cpu": 1.0, what: value}
    found = {"lightgbm": Comparison("gpunn", "lightgbm", 28, 140, **numbers)}
    assert [(v.outcome, v.value) for v in table_goals.verdicts(found, 28)] == [(outcome, value)]
    # 28 of 29 tables, or another peer
    assert table_goals.verdicts(found, 29)[0].outcome == "not measured"
    assert table_goals.verdicts({}, 28)[0].outcome == "not measured"


def test_unmeasured_goals_stay_listed():
    assert {v.outcome for v in table_goals.verdicts({}, 28)} == {"not measured"}
    assert len(table_goals.verdicts({}, 28)) == len(table_goals.GOALS)
