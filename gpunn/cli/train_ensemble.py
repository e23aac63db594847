"""The default of `gpunn train`: an ensemble for the table, measured on rows that it has not seen."""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import backend, tabular
from ..tabular import criteria
from ..tabular.cells import Cells, Frame, is_categorical
from ..tabular.csv_columns import CsvColumns, find_formats
from ..tabular.feature_encoder import FeatureEncoder
from ..tabular.features import CategoricalColumn
from ..tabular.settings import N_NETWORKS
from ..tabular.table import Table, listed, read_table
from ..tabular.targets import ClassTarget, Target, drop_missing_targets, infer_target
from ..training.files import write_bytes
from . import curves, scores
from .arguments import UsageError
from .output_files import description_tag, output_files
from .training_table import TrainingTable, hold_out, load_table, task_line

if TYPE_CHECKING:  # it imports scikit-learn, which takes a second
    from ..tabular.tabular_estimator import Importance, TabularEstimator

MIN_ROWS = 10  # of which two are test rows
MAX_LABEL_BYTES = 1_000_000
SHOWN_COLUMNS = 10


@dataclass(frozen=True)
class _Problem:
    """Tables and targets: training rows, and test rows that no network sees before the final fit."""

    target: Target
    csv: CsvColumns
    training: Table
    y: np.ndarray
    test: Table
    y_test: np.ndarray
    notes: list[str]
    description: str

    @property
    def is_classification(self) -> bool:
        """True for classes, False for numbers."""
        return isinstance(self.target, ClassTarget)


@dataclass(frozen=True)
class _Measured:
    """The outputs for the test rows, their scores as lines, and the importance of the columns."""

    outputs: np.ndarray
    lines: list[str]
    importance: dict[str, Importance]


def run(options: argparse.Namespace) -> int:
    """Train, measure, train on all rows, and write the model and a picture."""
    begun = time.monotonic()
    table = load_table(options)
    files = output_files(options, table)
    figure = curves.new_figure()
    problem = _read(table, options)
    _report(problem, table)
    model = _fit(problem, problem.training, problem.y, options, _share(options, begun, 0.5))
    measured = _measure(model, problem)
    print("test " + "\n".join(measured.lines))
    columns = ", ".join(f"{name} {each.mean:.3g}" for name, each in _first(measured.importance, 5))
    print(f"importance of columns (increase of the loss if permuted): {columns}")
    if options.test is None:
        rows = _joined(problem.training, problem.test)
        y = np.concatenate([problem.y, problem.y_test])
        model = _fit(problem, rows, y, options, _share(options, begun, 1.0))
        print(f"trained again on all {rows.n_rows} rows")
    print(_networks_used(model))
    model.table_file = {
        "target": problem.target.name,
        "source": table.source,
        "csv": _csv_columns(model, problem.csv).get_config(),
    }
    _draw(figure, model, problem, measured, f"{table.name}: test {measured.lines[0]}")
    model.save(files.model)
    write_bytes(files.picture, curves.as_png(figure, description_tag(table.source)))
    print(f"model:   {files.model}\npicture: {files.picture}")
    return 0


def _measure(model: TabularEstimator, problem: _Problem) -> _Measured:
    """The predictions for the test rows, their scores, and the importance of the columns."""
    if isinstance(model, tabular.TabularClassifier):
        outputs = model.predict_proba(problem.test)
        labels, counts = np.unique(problem.y, return_counts=True)
        lines = scores.of_classes(model.classes_, problem.y_test, outputs, labels[counts.argmax()])
        score = criteria.get(model.metric, classes=True).score
        if score not in (None, criteria.accuracy):  # these are in the first line
            true = np.searchsorted(model.classes_, problem.y_test)
            lines.insert(1, f"{model.metric} {score(outputs, true, None):.4f}")
    else:
        outputs = model.predict(problem.test)
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


def _read(table: TrainingTable, options: argparse.Namespace) -> _Problem:
    """Find the task, split the rows, and read both parts as tables of columns."""
    frame, without_target = drop_missing_targets(table.frame, table.target)
    target, description = infer_target(frame[table.target], options.task)
    inputs = _input_names(frame, table.target, options)
    formats, notes = find_formats(frame, [name for name in inputs if name not in options.categorical], options.decimal)
    if without_target:
        notes.append(f"{without_target} rows without a value in {table.target!r} are not used{table.missing_targets}")
    for name in set(inputs) - {*options.categorical, *formats}:
        if not frame[name].isna().all():
            is_categorical(frame[name])  # refuses a column of numbers with some text in it
    csv = CsvColumns(options.categorical, formats)
    y = _targets(frame[table.target], target)
    if options.test is None:
        kept, held_out = _split(y, target, options.seed)
        training, test = frame.iloc[kept], frame.iloc[held_out]
        y, y_test = y[kept], y[held_out]
    else:
        training, test = frame, _read_test(options, csv, target, inputs)
        y_test = _targets(test[table.target], target)
    rows, test_rows = (read_table(csv.numbers_in(part[inputs])) for part in (training, test))
    notes += _check(rows, y, target, options)
    return _Problem(target, csv, rows, y, test_rows, y_test, notes, description)


def _input_names(frame: Frame, target: str, options: argparse.Namespace) -> list[str]:
    """The columns that are inputs. UsageError for an option that names no input column."""
    for option, given in (("--drop", options.drop), ("--categorical", options.categorical), ("--date", options.date)):
        unknown = [name for name in given if name not in frame.columns or name == target]
        if unknown:
            raise UsageError(f"{option} must name input columns of the table, got {unknown[0]!r}")
    inputs = [name for name in frame.columns if name != target and name not in options.drop]
    if not inputs:
        raise UsageError(f"no column other than {target!r} to learn from: there is none")
    return inputs


def _check(rows: Table, y: np.ndarray, target: Target, options: argparse.Namespace) -> list[str]:
    """Raise an error of the options or the table before anything is printed or trained.

    Otherwise return notes about the columns that are left out.
    """
    backend.get(options.device)
    criteria.get(options.metric, classes=isinstance(target, ClassTarget), argument="--metric")
    encoder = FeatureEncoder.fit(rows, categorical=options.categorical, dates=options.date, target=target.name)
    if options.class_weight is not None:
        if not isinstance(target, ClassTarget):
            raise UsageError(f"--class-weight needs classes, but {target.name!r} contains numbers")
        _sample_weight(y, options.class_weight)
    needed = len(json.dumps(target.labels)) if isinstance(target, ClassTarget) else 0
    if needed > MAX_LABEL_BYTES:
        k = int(np.argmax([len(str(label)) for label in y]))
        place = next(iter(rows.columns.values())).where(k)
        raise UsageError(
            f"labels may take {MAX_LABEL_BYTES} bytes of the model file, got {needed}; the longest has "
            f"{len(str(y[k]))} characters, in column {target.name!r}, {place}: shorten such labels"
        )
    return encoder.notes


def _read_test(options: argparse.Namespace, csv: CsvColumns, target: Target, inputs: list[str]) -> Frame:
    """The rows of --test that have a target."""
    frame = csv.read(options.test, separator=options.sep, encoding=options.encoding)
    absent = [name for name in inputs if name not in frame.columns]
    if absent:
        raise UsageError(f"--test must have every column of the training table, but it lacks {listed(absent)}")
    return drop_missing_targets(frame, target.name)[0]


def _targets(cells: Cells, target: Target) -> np.ndarray:
    """Labels as the user wrote them, or numbers."""
    if isinstance(target, ClassTarget):
        try:
            labels: np.ndarray = np.array(target.labels)[target.encode(cells)]
            return labels
        except KeyError as error:
            raise UsageError(f"--test has the label {error} in {target.name!r}, which training does not have") from None
    values: np.ndarray = target.encode(cells)[:, 0] * target.scale + target.mean
    return values


def _split(y: np.ndarray, target: Target, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The indices of training and test rows, stratified by class."""
    n = len(y)
    if n < MIN_ROWS:
        raise UsageError(f"the table must have at least {MIN_ROWS} rows with a value in {target.name!r}, got {n} rows")
    classes = np.unique(y, return_inverse=True)[1].reshape(-1) if isinstance(target, ClassTarget) else None
    return hold_out(classes, n, seed)


def _fit(
    problem: _Problem, table: Table, y: np.ndarray, options: argparse.Namespace, time_limit: float | None
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
    model.fit(table, y, _sample_weight(y, options.class_weight))
    return model


def _sample_weight(y: np.ndarray, class_weight: str | None) -> np.ndarray | None:
    """The weight of each row: of equal sums for all classes ("balanced"), or by label as a JSON object."""
    if class_weight is None:
        return None
    labels, indices, counts = np.unique(y, return_inverse=True, return_counts=True)
    if class_weight == "balanced":
        weights = len(y) / (len(labels) * counts)
    else:
        try:
            given = dict(json.loads(class_weight))
        except (ValueError, TypeError):
            raise UsageError(
                f"--class-weight must be balanced or a JSON object of weights by label, got {class_weight!r}"
            ) from None
        unknown = set(given) - {str(label) for label in labels}
        if unknown:
            raise UsageError(f"--class-weight has a weight for {sorted(unknown)[0]!r}, which is no label")
        weights = np.array([float(given.get(str(label), 1.0)) for label in labels])
    found: np.ndarray = weights[indices.reshape(-1)]
    return found


def _share(options: argparse.Namespace, begun: float, share: float) -> float | None:
    """The seconds until a share of the time limit has passed."""
    if options.time_limit is None:
        return None
    limit: float = options.time_limit
    return max(1e-3, begun + share * limit - time.monotonic())


def _report(problem: _Problem, table: TrainingTable) -> None:
    """Print the task and the table, and on stderr what is not used."""
    print(task_line(table.target, problem.description, is_classification=problem.is_classification))
    print(
        f"data: {table.source}, {problem.training.n_rows} training rows, {problem.test.n_rows} test rows, "
        f"{len(problem.training.columns)} columns",
        flush=True,
    )
    for note in problem.notes:
        print(note, file=sys.stderr)


def _first(importance: dict[str, Importance], count: int) -> list[tuple[str, Importance]]:
    return list(importance.items())[:count]


def _joined(first: Table, second: Table) -> Table:
    """The rows of both tables."""
    columns = {name: cells.followed_by(second.columns[name]) for name, cells in first.columns.items()}
    return Table(columns, first.n_rows + second.n_rows)


def _csv_columns(model: TabularEstimator, csv: CsvColumns) -> CsvColumns:
    """The reading of another file for predictions: categories as text."""
    categories = [column.name for column in model._encoder.columns if isinstance(column, CategoricalColumn)]
    return CsvColumns(tuple(categories), csv.formats, csv.missing)


def _draw(figure: Any, model: TabularEstimator, problem: _Problem, measured: _Measured, title: str) -> None:
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
    confusion = np.zeros((k, k))
    np.add.at(confusion, (true, predicted), 1)
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if k <= scores.SHOWN_CLASSES:
        words = [curves.plain(str(label)[:12]) for label in labels]
        axes.set_xticks(range(k), words, rotation=45 if k > 4 else 0)
        axes.set_yticks(range(k), words)
        for i in range(k):
            for j in range(k):
                axes.text(j, i, int(confusion[i, j]), ha="center", va="center", fontsize=7,
                          color="white" if shares[i, j] > 0.5 else "black")  # fmt: skip
    axes.set(xlabel="predicted", ylabel="true", title="test rows")
