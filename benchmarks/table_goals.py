"""The goals of gpunn on tables, as data, and their evaluation on comparisons. Missed goals stay listed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from .table_statistics import Comparison


@dataclass(frozen=True)
class Goal:
    """gpunn's comparison with `against` keeps `limit` in `what`.

    ratio   the geometric mean of the ratios of the primary metric is at most the limit
    upper   the upper bound of its 95 % interval is at most the limit, or below it if the limit is 1
    wins    gpunn is better on at least this share of the tables
    cpu     the median ratio of CPU seconds is at most the limit
    other   a goal that this command does not measure: `against` describes it
    """

    what: Literal["ratio", "upper", "wins", "cpu", "other"]
    against: str
    limit: float


GOALS = (
    Goal("ratio", "scikit-learn-mlp", 0.72),
    Goal("wins", "scikit-learn-mlp", 0.90),
    *(
        Goal(what, against, limit)
        for against in ("lightgbm", "xgboost", "hist-gradient-boosting")
        for what, limit in (("ratio", 0.93), ("upper", 1.0))
    ),
    Goal("ratio", "realmlp", 0.82),
    Goal("upper", "realmlp", 1.0),
    Goal("ratio", "catboost", 1.0),  # the first milestone
    Goal("ratio", "catboost", 0.97),
    Goal("upper", "catboost", 1.01),
    Goal("cpu", "realmlp", 0.25),
    Goal("cpu", "catboost", 1.5),
    Goal("other", "rows predicted per second and core with 16 networks and 50 numeric columns, at least", 10_000),
    Goal("other", "share of the core's peak in that prediction, at least", 0.4),
    Goal("other", "seconds to import, fit and predict 1,000 rows with kernels in the cache, at most", 2.0),
)


@dataclass(frozen=True)
class Verdict:
    """A goal's outcome in one run: met, missed or not measured, with the measured value and its number of folds."""

    goal: Goal
    outcome: Literal["met", "missed", "not measured"]
    value: float | None = None
    folds: int = 0


def verdicts(comparisons: Mapping[str, Comparison], tables: int) -> list[Verdict]:
    """Evaluate every goal on gpunn's comparisons with peers. A goal needs a comparison over all `tables` tables."""
    return [_verdict(goal, comparisons.get(goal.against), tables) for goal in GOALS]


def _verdict(goal: Goal, found: Comparison | None, tables: int) -> Verdict:
    if goal.what == "other" or found is None or found.tables < tables:
        return Verdict(goal, "not measured")
    value: float | None = getattr(found, goal.what)
    if value is None:
        return Verdict(goal, "not measured")
    if goal.what == "wins":
        is_met = value >= goal.limit
    elif goal.what == "upper" and goal.limit == 1:
        is_met = value < 1
    else:
        is_met = value <= goal.limit
    return Verdict(goal, "met" if is_met else "missed", value, found.folds)


def to_json(verdict: Verdict) -> dict[str, Any]:
    """A verdict as JSON data."""
    return {**vars(verdict.goal), "outcome": verdict.outcome, "value": verdict.value, "folds": verdict.folds}
