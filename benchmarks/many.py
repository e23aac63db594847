"""`python -m benchmarks many`: a hyperparameter search over many small nets, by gpunn and by scikit-learn."""

from __future__ import annotations

import argparse
import os
import random
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import machine, ratios, results
from .process import THREAD_VARIABLES
from .session import version

HELP = "compare a hyperparameter search on the CPU"
FOLDER = Path(__file__).resolve().parent / "results"
EPILOG = """
Digits, 5 folds, 20 values of alpha, 60 epochs with tolerance off: MLPSearchCV
against scikit-learn's GridSearchCV with its own MLP and n_jobs=2, whose workers
are started before timing begins; hidden layers (16,) and (100,), in float32 and
float64 for both. Rounds are interleaved, and the result is the median of their
ratios. Scores must agree within two standard errors.

Writes many.json, many.md and many.png to benchmarks/results or to --out.
--quick takes 5 candidates, 3 rounds and float32 only. Exit status 1 means that
scores disagreed.
"""
FOLDS, EPOCHS = 5, 60
FULL, QUICK = (9, 20, ("float32", "float64")), (3, 5, ("float32",))


@dataclass(frozen=True)
class Goal:
    """scikit-learn's search takes at least `times` as long as gpunn's with this hidden layer."""

    hidden: tuple[int, ...]
    times: float


GOALS = (Goal((16,), 5.0), Goal((100,), 2.5))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description, parser.epilog = f"{HELP[0].upper()}{HELP[1:]}.", EPILOG
    parser.add_argument("--quick", action="store_true", help="a short run of about a minute, see above")
    parser.add_argument("--out", type=Path, metavar="DIR", default=FOLDER, help="write the results to this folder")


def run(arguments: argparse.Namespace) -> int:
    """Measure, print and write; 1 if scores disagreed, else 0."""
    limited = [name for name in THREAD_VARIABLES if name in os.environ]
    if limited:
        print(
            f"{', '.join(limited)} limits the threads of both libraries: unset it for a fair comparison",
            file=sys.stderr,
        )
    rounds, candidates, precisions = QUICK if arguments.quick else FULL
    result = measure(rounds, candidates, precisions, EPOCHS, FOLDS)
    result["machine"]["command"] = "python -m benchmarks many" + " --quick" * arguments.quick
    results.write(result, arguments.out / "many.json")
    text = markdown(result)
    (arguments.out / "many.md").write_text(text, encoding="utf-8")
    draw(result, arguments.out / "many.png")
    print(text)
    return int(not all(row["scores_agree"] for row in result["rows"]))


def measure(rounds: int, candidates: int, precisions: tuple[str, ...], epochs: int, folds: int) -> dict[str, Any]:
    """Measure, and return one row per precision and goal."""
    # imported here because they import scikit-learn
    from .peers import searches

    rows: list[results.Row] = []
    order = random.Random(0)
    for precision in precisions:
        for goal in GOALS:
            print(f"{precision}, hidden {goal.hidden}", file=sys.stderr, flush=True)
            size = {"folds": folds, "epochs": epochs}
            both = searches.Searches(goal.hidden, precision, candidates=candidates, **size)
            # a first search starts scikit-learn's workers and compiles gpunn's kernels
            first = searches.Searches(goal.hidden, precision, candidates=2, folds=folds, epochs=1)
            found = {who: first.run(who)[1] for who in ("gpunn", "scikit-learn")}
            times: dict[str, list[float]] = {who: [] for who in found}
            for _ in range(rounds):
                for who in order.sample(sorted(times), len(times)):
                    seconds, found[who] = both.run(who)
                    times[who].append(seconds)
            ours, theirs = (searches.scores(found[who]) for who in ("gpunn", "scikit-learn"))
            rows.append(
                row(goal, precision, times, ours[0], *theirs)
                | {"candidates": candidates, **size, "side_by_side": found["gpunn"].n_concurrent_fits_}
            )
    versions = {name: version(name) for name in searches.PACKAGES}
    return {"machine": machine.record(versions, rounds=rounds, jobs=searches.JOBS), "rows": rows}


def row(
    goal: Goal,
    precision: str,
    times: dict[str, list[float]],
    ours: list[float],
    theirs: list[float],
    errors: list[float],
) -> results.Row:
    """The row of one goal: seconds, the ratio of scikit-learn's time to gpunn's, and the largest difference of scores
    in standard errors."""
    times_as_long = ratios.ratio(times["scikit-learn"], times["gpunn"])
    difference = max(map(_score_difference, ours, theirs, errors))
    return {
        "hidden": list(goal.hidden),
        "precision": precision,
        "gpunn_s": results.rounded(times["gpunn"]),
        "scikit_learn_s": results.rounded(times["scikit-learn"]),
        "times_as_long": results.rounded(list(times_as_long)),
        "wanted": goal.times,
        "met": times_as_long.median >= goal.times,
        "mean_test_score_gpunn": results.rounded(ours),
        "mean_test_score_scikit_learn": results.rounded(theirs),
        "scores_apart_in_standard_errors": results.rounded(difference, 2),
        "scores_agree": difference <= 2,
    }


def _score_difference(a: float, b: float, error: float) -> float:
    """The difference of two scores in standard errors, 99 for different scores with error 0."""
    if error:
        return abs(a - b) / error
    return 0.0 if a == b else 99.0


def markdown(result: dict[str, Any]) -> str:
    """The result as a table."""
    about, rows = result["machine"], result["rows"]
    lines = [
        "# Hyperparameter search over many nets",
        "",
        f"{about['cpu']}, {about['cores']} cores, {about['date']}, commit {about['commit']}, `{about['command']}`: "
        f"digits, {rows[0]['folds']} folds, {rows[0]['candidates']} candidates, {rows[0]['epochs']} epochs; medians of "
        f"{about['rounds']} rounds, of the ratios with quartiles.",
        "",
        "| hidden | precision | gpunn s | scikit-learn s | ratio | goal | | score difference |",
        "| --- | --- | ---: | ---: | ---: | ---: | --- | ---: |",
    ]
    for each in rows:
        low, median, high = each["times_as_long"]
        seconds = [ratios.quartiles(each[name]).median for name in ("gpunn_s", "scikit_learn_s")]
        lines.append(
            f"| {tuple(each['hidden'])} | {each['precision']} | {seconds[0]:.2f} | {seconds[1]:.2f} | {median:.2f} "
            f"({low:.2f}–{high:.2f}) | {each['wanted']:.1f} | {'met' if each['met'] else 'missed'} | "
            f"{each['scores_apart_in_standard_errors']:g} standard errors |"
        )
    return "\n".join(lines) + "\n"


def draw(result: dict[str, Any], path: Path) -> None:
    """Draw the ratios as bars with the goals; nothing without matplotlib."""
    try:
        from . import plots
    except ImportError as error:
        print(f'no plot: {error}; pip install -e ".[plot]"', file=sys.stderr)
        return
    figure = plots.searches(result["rows"])
    figure.savefig(path, dpi=110)
    plots.plt.close(figure)
