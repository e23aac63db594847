"""Goals evaluated on rows made by hand, and their report."""

import pytest

from benchmarks import goals, report
from benchmarks.contestants import CPU
from benchmarks.goals import Goal
from benchmarks.nets import NETS


def row(contestant, mode="train", us=10.0, net="digits", threads=1, **more):
    return {"net": net, "mode": mode, "contestant": contestant, "threads": threads, "us_per_step": us, **more}


def verdict_of(goal, *rows, threads=1):
    return goals.verdict(goal, {"rows": list(rows)}, threads)


def test_ratio_to_the_best_peer():
    goal = Goal(1, "digits", "train", "gpunn", "best peer", 0.9)
    ours = row("gpunn", best_peer="jax-scan", ratio_to_best_peer=0.9, ratio_to_best_peer_quartiles=[0.8, 1.3])
    verdict = verdict_of(goal, ours)
    assert (verdict.outcome, verdict.median, verdict.upper, verdict.whom) == ("met", 0.9, 1.3, "jax-scan")
    assert verdict_of(goal, ours | {"ratio_to_best_peer": 0.901}).outcome == "missed"
    assert verdict_of(goal, ours, threads=2).outcome == "not measured"
    assert verdict_of(goal, ours | {"us_per_step": None}).outcome == "not measured"
    assert verdict_of(goal, row("gpunn", best_peer=None)).outcome == "not measured"


@pytest.mark.parametrize(
    "median, upper, expected", [(1.0, 1.02, "met"), (1.0, 1.021, "missed"), (1.01, 1.01, "missed")]
)
def test_a_ratio_of_one_depends_on_the_upper_quartile(median, upper, expected):
    goal = Goal(1, "digits", "train", "gpunn", "best peer", 1.0)
    ours = row("gpunn", best_peer="numpy", ratio_to_best_peer=median, ratio_to_best_peer_quartiles=[0.9, upper])
    assert verdict_of(goal, ours).outcome == expected


def test_ratios_to_the_floor_and_to_a_peer_and_limits_in_microseconds():
    ours = row("gpunn", us=30e3, us_quartiles=[1e3, 40e3], ratio_to_floor=1.07, ratio_to_floor_quartiles=[1, 1.2])
    ours["ratios"] = {"numpy": [0.1, 0.2, 0.3]}
    assert verdict_of(Goal(2, "digits", "train", "gpunn", "floor", 1.08), ours).outcome == "met"
    assert verdict_of(Goal(1, "digits", "train", "gpunn", "numpy", 0.2), ours).median == 0.2
    assert verdict_of(Goal(1, "digits", "train", "gpunn", "torch-eager", 0.2), ours).outcome == "not measured"
    verdict = verdict_of(Goal(3, "digits", "train", "gpunn", None, 20e3), ours)
    assert (verdict.outcome, verdict.median, verdict.upper) == ("missed", 30e3, 40e3)


def test_ratio_of_peak_memory():
    goal = Goal(4, "digits", "fit", "gpunn-estimator", "scikit-learn", 1.0, "memory")
    ours, theirs = row("gpunn-estimator", "fit", peak_mib=90.0), row("scikit-learn", "fit", peak_mib=100.0)
    verdict = verdict_of(goal, ours, theirs)
    assert (verdict.outcome, verdict.median, verdict.upper) == ("met", 0.9, None)
    assert verdict_of(goal, ours | {"peak_mib": 100.1}, theirs).outcome == "missed"
    assert verdict_of(goal, ours, row("scikit-learn", "fit")).outcome == "not measured"


def test_goals_name_existing_nets_modes_and_contestants():
    assert {g.number for g in goals.GOALS} == {1, 2, 3, 4, 5}
    for goal in goals.GOALS:
        assert goal.net in NETS
        assert goal.mode in CPU[goal.contestant].modes
        assert goal.against in {None, "best peer", "floor", *CPU}


def test_the_report_ends_with_all_goals():
    quartiles = {"ratio_to_best_peer_quartiles": [0.9, 1.1], "us_quartiles": [9, 11]}
    rows = [
        row("gpunn", best_peer="numpy", ratio_to_best_peer=1.05, ratios={"numpy": [0.9, 1.05, 1.1]}, **quartiles),
        row("numpy", us=9.5, best_peer="numpy", ratio_to_best_peer=1.0, **quartiles),
        row("jax-scan", us=None, note="not run (ModuleNotFoundError: No module named 'jax')"),
        row("torch-eager", us=None, note="disagrees (losses differ by 3.0e-02 of the largest, 1e-05 allowed)"),
    ]
    machine = dict.fromkeys(
        "command cpu cores system architecture python blas compiler precision seed commit date seconds".split(), "…"
    )
    result = {"machine": machine | {"versions": {"numpy": "2"}, "rounds": 3}, "rows": rows}
    goal = Goal(1, "digits", "train", "gpunn", "best peer", 0.9)
    text = report.markdown(result, goals.verdicts(result, [goal]))
    head, _, end = text.partition("## Goals")
    assert "| 1 | digits | train | 1 | gpunn | 0.90 × the best peer (numpy) | 1.05 | 1.10 | **missed** |" in end
    assert "| digits | 10.0 | disagrees | not run | 9.50 |" in head
    assert "- **jax-scan**: not run (ModuleNotFoundError: No module named 'jax')" in head
    assert "- **torch-eager**: disagrees (losses differ by 3.0e-02 of the largest, 1e-05 allowed)" in head
    assert "A quick run: 3 rounds" in head


@pytest.mark.parametrize(
    "value, shown",
    [
        (None, "–"),
        (0.0, "0"),
        (0.00394, "0.00394"),
        (0.0161, "0.0161"),
        (0.5, "0.500"),
        (0.1, "0.100"),
        (0.09996, "0.100"),
        (0.9996, "1.00"),
        (1.0, "1.00"),
        (28.14, "28.1"),
        (99.96, "100"),
        (1083.4, "1 080"),
        (91348.0, "91 300"),
    ],
)
def test_numbers_are_formatted_with_three_digits(value, shown):
    assert report.number(value) == shown
