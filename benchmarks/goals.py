"""What gpunn set out to reach on a CPU, as data, and what a result says of it. A goal that is missed stays here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from .results import find


@dataclass(frozen=True)
class Goal:
    """`contestant` at `net` in `mode` takes at most `limit` of what `against` takes.

    against  a contestant, "best peer" or "floor"; None: `limit` is µs
    what     the time of a step, or the peak memory of the process that trains
    """

    number: int
    net: str
    mode: str
    contestant: str
    against: str | None
    limit: float
    what: Literal["time", "memory"] = "time"


@dataclass(frozen=True)
class Verdict:
    """What a run says of a goal: met, missed or not measured; medians and upper quartiles of ratios, or of µs."""

    goal: Goal
    threads: int
    said: Literal["met", "missed", "not measured"]
    median: float | None = None
    upper: float | None = None
    whom: str | None = None


# a ratio of 1 is met by the median alone only where the upper quartile is not above this
UPPER_AT_ONE = 1.02

_BEST = {"seed": 0.5, "tabular": 0.9, "digits": 0.9, "mnist": 0.9, "wide": 1.0}

GOALS = [
    *(Goal(1, net, mode, "gpunn", "best peer", limit) for mode in ("train", "predict") for net, limit in _BEST.items()),
    *(
        Goal(1, net, "train", "gpunn", peer, 0.5)
        for net in ("seed", "tabular", "digits")
        for peer in ("torch-eager", "torch-compiled")
    ),
    *(Goal(1, net, "fit", "gpunn-estimator", "scikit-learn", 0.5) for net in ("seed", "tabular", "digits", "mnist")),
    *(Goal(2, net, "train", "gpunn", "floor", 1.08) for net in ("mnist", "wide")),
    Goal(3, "digits", "setup", "gpunn", None, 20e3),
    Goal(3, "digits", "setup", "gpunn-estimator", None, 20e3),
    Goal(3, "digits", "setup", "gpunn-estimator", "scikit-learn", 1.0),
    *(Goal(4, net, "fit", "gpunn-estimator", "scikit-learn", 1.0, "memory") for net in _BEST),
    *(Goal(4, net, "train", "gpunn", "scikit-learn", 1.0, "memory") for net in _BEST),
    *(Goal(4, net, "train", "gpunn", peer, 0.5, "memory") for net in _BEST for peer in ("torch-eager", "jax-scan")),
    Goal(5, "digits", "train", "gpunn-watched", "gpunn", 1.03),
]


def verdicts(result: dict[str, Any], goals: list[Goal] | None = None) -> list[Verdict]:
    """Every goal for every number of threads in the result."""
    threads = sorted({row["threads"] for row in result["rows"]})
    return [verdict(goal, result, n) for goal in (GOALS if goals is None else goals) for n in threads]


def verdict(goal: Goal, result: dict[str, Any], threads: int) -> Verdict:
    """One goal for one number of threads."""
    row = find(result, goal.net, goal.mode, goal.contestant, threads)
    nothing = Verdict(goal, threads, "not measured")
    if row is None:
        return nothing
    if goal.what == "memory":
        other = find(result, goal.net, _mode_of(goal), goal.against or "", threads)
        if other is None or "peak_mib" not in row or "peak_mib" not in other:
            return nothing
        return _judged(goal, threads, row["peak_mib"] / other["peak_mib"], None, goal.against)
    if goal.against is None:
        return _judged(goal, threads, row["us_per_step"], row["us_quartiles"][1], None)
    if goal.against in ("best peer", "floor"):
        name = "ratio_to_floor" if goal.against == "floor" else "ratio_to_best_peer"
        if name not in row:
            return nothing
        whom = "floor" if goal.against == "floor" else row["best_peer"]
        return _judged(goal, threads, row[name], row[f"{name}_quartiles"][1], whom)
    if goal.against not in row.get("ratios", {}):
        return nothing
    _, median, upper = row["ratios"][goal.against]
    return _judged(goal, threads, median, upper, goal.against)


def _mode_of(goal: Goal) -> str:
    return "fit" if goal.against == "scikit-learn" else "train"


def _judged(goal: Goal, threads: int, median: float, upper: float | None, whom: str | None) -> Verdict:
    met = median <= goal.limit
    if goal.limit == 1.0 and upper is not None:
        met = met and upper <= UPPER_AT_ONE
    return Verdict(goal, threads, "met" if met else "missed", median, upper, whom)
