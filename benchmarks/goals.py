"""The goals of gpunn, as data, and their evaluation on a result. Missed goals stay listed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from .contestants import COMPILED
from .results import find, setting


@dataclass(frozen=True)
class Goal:
    """`contestant` at `net` in `mode` takes at most `limit` of what `against` takes.

    against    a contestant, "best peer", "best compiled" (of the peers whose whole step is compiled or captured),
               "floor" or "bytes"; if None, `limit` is in µs
    what       the time of a step, or the peak memory of the training process
    precision  the precision it applies to; None means every number of threads
    """

    number: int
    net: str
    mode: str
    contestant: str
    against: str | None
    limit: float
    what: Literal["time", "memory"] = "time"
    precision: str | None = None


@dataclass(frozen=True)
class Verdict:
    """A goal's outcome in one run: met, missed or not measured, with median and upper quartile of ratios or µs."""

    goal: Goal
    under: int | str  # threads or precision
    outcome: Literal["met", "missed", "not measured"]
    median: float | None = None
    upper: float | None = None
    whom: str | None = None


# for a ratio of 1 the upper quartile must not exceed this
UPPER_AT_ONE = 1.02

_TRAIN = {"seed": 0.5, "tabular": 0.9, "digits": 0.9, "mnist": 0.9, "wide": 1.0}
_PREDICT = _TRAIN | {"seed": 0.9}

GOALS = [
    *(
        Goal(1, net, mode, "gpunn", "best peer", limit)
        for mode, limits in (("train", _TRAIN), ("predict", _PREDICT))
        for net, limit in limits.items()
    ),
    *(
        Goal(1, net, "train", "gpunn", peer, 0.5)
        for net in ("seed", "tabular", "digits")
        for peer in ("torch-eager", "torch-compiled")
    ),
    *(Goal(1, net, "fit", "gpunn-estimator", "scikit-learn", 0.5) for net in ("seed", "tabular", "digits", "mnist")),
    *(Goal(2, net, "train", "gpunn", "floor", 1.08) for net in ("mnist", "wide")),
    Goal(3, "digits", "setup", "gpunn", None, 20e3),
    Goal(3, "digits", "setup", "gpunn-estimator", None, 20e3),
    *(Goal(3, net, "setup", "gpunn-estimator", "scikit-learn", 1.0) for net in _TRAIN),
    *(Goal(4, net, "fit", "gpunn-estimator", "scikit-learn", 1.0, "memory") for net in _TRAIN),
    *(Goal(4, net, "train", "gpunn", "scikit-learn", 1.0, "memory") for net in _TRAIN),
    *(Goal(4, net, "train", "gpunn", peer, 0.5, "memory") for net in _TRAIN for peer in ("torch-eager", "jax-scan")),
    Goal(5, "digits", "train", "gpunn-watched", "gpunn", 1.03),
]


# "k times faster" is the limit 1/k; "products take the share s of a step" is the limit 1/s
GPU_GOALS = [
    goal
    for net, precision, eager, compiled in (
        ("small", "float32", 10, 1.5),
        ("mid", "bf16", 2, 1.15),
        ("large", "bf16", 1.15, 1.03),
        ("narrow", "bf16", 3, 1.5),
    )
    for goal in (
        Goal(1, net, "train", "gpunn", "torch-eager", 1 / eager, precision=precision),
        Goal(2, net, "train", "gpunn", "best compiled", 1 / compiled, precision=precision),
    )
] + [
    Goal(3, "mid", "train", "gpunn", "floor", 1 / 0.75, precision="bf16"),
    Goal(3, "large", "train", "gpunn", "floor", 1 / 0.88, precision="bf16"),
    Goal(4, "narrow", "train", "gpunn", "bytes", 1.5, precision="bf16"),
    # with several layers fused
    Goal(5, "narrow", "train", "gpunn", "best compiled", 1 / 3, precision="bf16"),
]


def verdicts(result: dict[str, Any], goals: list[Goal] | None = None) -> list[Verdict]:
    """Evaluate every goal for every number of threads in the result, or for its precision."""
    under = sorted({setting(row) for row in result["rows"]}, key=lambda u: (isinstance(u, str), u))
    found = []
    for goal in GOALS if goals is None else goals:
        found += [verdict(goal, result, u) for u in (under if goal.precision is None else [goal.precision])]
    return found


def verdict(goal: Goal, result: dict[str, Any], threads: int | str) -> Verdict:
    """Evaluate one goal for one number of threads, or one precision."""
    row = find(result, goal.net, goal.mode, goal.contestant, threads)
    not_measured = Verdict(goal, threads, "not measured")
    if row is None:
        return not_measured
    if goal.what == "memory":
        other = find(result, goal.net, _mode_of(goal), goal.against or "", threads)
        if other is None or "peak_mib" not in row or "peak_mib" not in other:
            return not_measured
        return _compare_with_limit(goal, threads, row["peak_mib"] / other["peak_mib"], None, goal.against)
    if goal.against is None:
        return _compare_with_limit(goal, threads, row["us_per_step"], row["us_quartiles"][1], None)
    if goal.against in ("best peer", "floor", "bytes"):
        name = "ratio_to_best_peer" if goal.against == "best peer" else f"ratio_to_{goal.against}"
        if name not in row:
            return not_measured
        whom = row["best_peer"] if goal.against == "best peer" else goal.against
        return _compare_with_limit(goal, threads, row[name], row[f"{name}_quartiles"][1], whom)
    over = row.get("ratios", {})
    whom = goal.against
    if whom == "best compiled":
        # the fastest peer has the largest ratio
        whom = max((name for name in COMPILED if name in over), key=lambda name: over[name][1], default=None)
    if whom not in over:
        return not_measured
    _, median, upper = over[whom]
    return _compare_with_limit(goal, threads, median, upper, whom)


def _mode_of(goal: Goal) -> str:
    """The mode in which the other contestant's memory is measured."""
    return "fit" if goal.against == "scikit-learn" else "train"


def _compare_with_limit(
    goal: Goal, threads: int | str, median: float, upper: float | None, whom: str | None
) -> Verdict:
    """Met if the median is within the limit."""
    met = median <= goal.limit
    if goal.limit == 1.0 and upper is not None:
        met = met and upper <= UPPER_AT_ONE
    return Verdict(goal, threads, "met" if met else "missed", median, upper, whom)
