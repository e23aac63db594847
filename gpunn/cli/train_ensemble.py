"""The default of `gpunn train`: an ensemble for the table, measured on rows that it has not seen."""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import backend, tabular
from ..tabular import criteria
from ..tabular.feature_encoder import EncodedTable
from ..tabular.settings import N_NETWORKS
from ..tabular.table import Table
from ..training.files import write_bytes
from . import curves, scores
from .output_files import description_tag, output_files
from .predict import outputs_of
from .problem import Problem, read_problem
from .training_table import load_table

if TYPE_CHECKING:  # it imports scikit-learn, which takes a second
    from ..tabular.tabular_estimator import Importance, TabularEstimator

MIN_ROWS = 10  # of which two are test rows
SHOWN_COLUMNS = 10


@dataclass(frozen=True)
class _Measured:
    """The outputs for the test rows, their scores as lines, and the importance of the columns."""

    outputs: np.ndarray
    lines: list[str]
    importance: dict[str, Importance]


def run(options: argparse.Namespace) -> int:
    """Train, measure, train on all rows, and write the model and a picture."""
    begun = time.monotonic()
    data = load_table(options)
    files = output_files(options, data)
    figure = curves.new_figure()
    problem = read_problem(data, options, MIN_ROWS)
    # an unknown device or metric is an error before anything is printed
    backend.get(options.device)
    criteria.get(options.metric, classes=problem.is_classification, argument="--metric")
    problem.report("test")
    rows = problem.table.take(problem.training)
    training = EncodedTable(rows.columns, rows.n_rows, encoder=problem.encoder)
    share = 0.5 if options.test is None else 1.0
    model = _fit(problem, training, problem.y[problem.training], options, _time_left(options, begun, share))
    measured = _measure(model, problem)
    print("test " + "\n".join(measured.lines))
    columns = ", ".join(f"{name} {each.mean:.3g}" for name, each in _first(measured.importance, 5))
    print(f"importance of columns (increase of the loss if permuted): {columns}")
    if model.interrupted_:
        print("interrupted: not trained again on all rows")
    elif options.test is None:
        model = _fit(problem, problem.table, problem.y, options, _time_left(options, begun, 1.0))
        print(f"trained again on all {problem.table.n_rows} rows")
    print(_networks_used(model))
    model.table_file = problem.table_file
    _draw(figure, model, problem, measured, f"{data.name}: test {measured.lines[0]}")
    model.save(files.model)
    write_bytes(files.picture, curves.as_png(figure, description_tag(data.source)))
    print(f"model:   {files.model}\npicture: {files.picture}")
    return 0


def _measure(model: TabularEstimator, problem: Problem) -> _Measured:
    """The predictions for the test rows, their scores, and the importance of the columns."""
    outputs = outputs_of(model, problem.test)
    if isinstance(model, tabular.TabularClassifier):
        lines = scores.of_classes(model.classes_, problem.y_test, outputs, problem.y[problem.training])
        score = criteria.get(model.metric, classes=True).score
        if score not in (None, criteria.accuracy):  # these are in the first line
            true = np.searchsorted(model.classes_, problem.y_test)
            lines.insert(1, f"{model.metric} {score(outputs, true, None):.4f}")
    else:
        lines = scores.of_numbers(problem.y_test, outputs)
    return _Measured(outputs, lines, model.permutation_importance(problem.test, problem.y_test))


def _networks_used(model: TabularEstimator) -> str:
    """The networks with a weight, in one line."""
    best = max(model.leaderboard_, key=lambda row: row["weight"])
    epochs = [row["best_epoch"] for row in model.leaderboard_ if row["weight"]]
    return (
        f"{len(epochs)} of {len(model.leaderboard_)} networks are used, each at its best epoch ({min(epochs)} to "
        f"{max(epochs)}); the largest weight has one of {best['depth']} × {best['width']} {best['activation']} units"
    )


def _fit(
    problem: Problem, table: Table, y: np.ndarray, options: argparse.Namespace, time_limit: float | None
) -> TabularEstimator:
    """An ensemble trained on a table."""
    kind = tabular.TabularClassifier if problem.is_classification else tabular.TabularRegressor
    model = kind(
        options.networks or N_NETWORKS,
        time_limit=time_limit,
        metric=options.metric,
        random_state=options.seed,
        device=options.device,
        categorical=options.categorical,
        dates=options.date,
        verbose=int(sys.stderr.isatty()),
    )
    model.fit(table, y, problem.sample_weight(y))
    return model


def _time_left(options: argparse.Namespace, begun: float, share: float) -> float | None:
    """The seconds until a share of the time limit has passed."""
    if options.time_limit is None:
        return None
    limit: float = options.time_limit
    return max(1e-3, begun + share * limit - time.monotonic())


def _first(importance: dict[str, Importance], count: int) -> list[tuple[str, Importance]]:
    return list(importance.items())[:count]


def _draw(figure: Any, model: TabularEstimator, problem: Problem, measured: _Measured, title: str) -> None:
    """Draw the predictions for the test rows, and the importance of the columns."""
    outputs = measured.outputs
    left, right = figure.subplots(1, 2)
    if isinstance(model, tabular.TabularClassifier):
        _draw_confusion(left, model.classes_, np.searchsorted(model.classes_, problem.y_test), outputs.argmax(axis=1))
    else:
        left.plot(problem.y_test, outputs, ".", markersize=3)
        limits = [min(problem.y_test.min(), outputs.min()), max(problem.y_test.max(), outputs.max())]
        left.plot(limits, limits, color="0.6", linewidth=1)
        left.locator_params(nbins=5)
        left.set(xlabel=curves.plain(problem.target.name), ylabel="predicted", title="test rows")
    shown = _first(measured.importance, SHOWN_COLUMNS)[::-1]
    names = [curves.plain(name if len(name) <= 24 else f"{name[:23]}…") for name, _ in shown]
    right.barh(names, [each.mean for _, each in shown], xerr=[each.standard_error for _, each in shown])
    right.set(xlabel="increase of the loss if the column is permuted", title="importance of columns")
    figure.suptitle(curves.plain(title))


def _draw_confusion(axes: Any, labels: np.ndarray, true: np.ndarray, predicted: np.ndarray) -> None:
    k = len(labels)
    confusion = scores.confusion_matrix(k, true, predicted)
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if k <= scores.SHOWN_CLASSES:
        words = [curves.plain(str(label)[:12]) for label in labels]
        axes.set_xticks(range(k), words, rotation=45 if k > 4 else 0)
        axes.set_yticks(range(k), words)
        for i in range(k):
            for j in range(k):
                axes.text(j, i, confusion[i, j], ha="center", va="center", fontsize=7,
                          color="white" if shares[i, j] > 0.5 else "black")  # fmt: skip
    axes.set(xlabel="predicted", ylabel="true", title="test rows")
