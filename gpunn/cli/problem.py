"""The problem that `gpunn train` solves: inputs and targets of a table, and the rows that are held out."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..tabular.cells import Cells, Frame, check_numbers
from ..tabular.csv_columns import CsvColumns, find_formats
from ..tabular.csv_file import CsvFile
from ..tabular.ensemble import HOLD_OUT
from ..tabular.feature_encoder import FeatureEncoder
from ..tabular.table import Table, listed, read_table
from ..tabular.targets import ClassTarget, Target, infer_target, rows_with_target
from .arguments import UsageError
from .training_table import TrainingTable

MAX_LABEL_BYTES = 1_000_000


@dataclass(frozen=True)
class Problem:
    """Inputs and targets of a table: labels as the user wrote them, or numbers.

    source          a description of the table
    target          the column to predict
    csv             the reading of another file with the same columns
    table, y        all rows of the table that have a target
    training        the indices of the training rows
    test, y_test    the rows that are held out, of the table or of another file
    encoder         of the columns, learned from the training rows
    label_weights   the weight of each label, None without --class-weight
    notes           for the user: the rows and columns that are not used, and the columns read in a special format
    description     of the target's values
    """

    source: str
    target: Target
    csv: CsvColumns
    table: Table
    y: np.ndarray
    training: np.ndarray
    test: Table
    y_test: np.ndarray
    encoder: FeatureEncoder
    label_weights: dict[Any, float] | None
    notes: list[str]
    description: str

    @property
    def is_classification(self) -> bool:
        """True for classes, False for numbers."""
        return isinstance(self.target, ClassTarget)

    @property
    def table_file(self) -> dict[str, Any]:
        """The target's name and the reading of another file, as JSON data for the model's file."""
        return {"target": self.target.name, "source": self.source, "csv": self.csv.get_config()}

    def sample_weight(self, y: np.ndarray) -> np.ndarray | None:
        """The weight of each row by its label."""
        weights = self.label_weights
        return None if weights is None else np.array([weights[label] for label in y.tolist()])

    def report(self, held_out: str) -> None:
        """Print the task and the table, and on stderr the notes. `held_out` is the use of the rows held out."""
        tasks = ("classification", "regression")
        task, other = tasks if self.is_classification else tasks[::-1]
        print(f"task: {task} of {self.target.name!r} ({self.description}); change it with --task {other}")
        print(
            f"data: {self.source}, {len(self.training)} training rows, {self.test.n_rows} {held_out} rows, "
            f"{len(self.table.columns)} columns",
            flush=True,
        )
        for note in self.notes:
            print(note, file=sys.stderr)


def read_problem(data: TrainingTable, options: argparse.Namespace, min_rows: int) -> Problem:
    """Find the task, read the columns, split the rows, and learn the encoding of the training rows.

    ValueError if a column, an option or the number of rows is invalid.
    """
    present = rows_with_target(data.frame, data.target, options.decimal)
    frame = data.frame[present]
    target, description = infer_target(frame[data.target], options.task, options.decimal)
    inputs = _input_names(frame, data.target, options)
    formats, notes = find_formats(frame, [name for name in inputs if name not in options.categorical], options.decimal)
    for name in inputs:
        if name not in formats and name not in options.categorical:
            check_numbers(frame[name])
    if not present.all():
        missing = "" if data.written is None else _counted(data.written[~present])
        notes.append(f"{(~present).sum()} rows without a value in {data.target!r} are not used{missing}")
    if not isinstance(target, ClassTarget) and target.number_format is not None:
        formats[target.name] = target.number_format
    frame = CsvColumns(formats=formats).numbers_in(frame)
    table, y = read_table(frame[inputs]), target.read(frame[target.name])
    as_written = [name for name, cells in table.columns.items() if cells.kind == "text"]
    if isinstance(target, ClassTarget):
        _check_labels(target, table, y)
        if isinstance(target.labels[0], str):
            as_written.append(target.name)
    csv = CsvColumns(tuple(as_written), formats)
    training, test, y_test = np.arange(table.n_rows), table, y
    if options.test is None:
        training, held_out = _split(y, target, options.seed, min_rows)
        test, y_test = table.take(held_out), y[held_out]
    encoder = FeatureEncoder.fit(
        table.take(training), categorical=options.categorical, dates=options.date, target=target.name
    )
    if options.test is not None:
        test, y_test = _read_test(options, csv, target, inputs)
    weights = _label_weights(y, target, options.class_weight)
    notes += encoder.notes
    return Problem(data.source, target, csv, table, y, training, test, y_test, encoder, weights, notes, description)


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


def _counted(cells: Cells) -> str:
    """The missing cells of a target as written, with their number; "" if all are empty."""
    counts = cells.str.strip().value_counts()
    if set(counts.index) <= {""}:
        return ""
    return ": " + ", ".join(f"{count} {word!r}" if word else f"{count} empty" for word, count in counts.items())


def _check_labels(target: ClassTarget, table: Table, y: np.ndarray) -> None:
    """Raise UsageError if a model file has no space for the labels."""
    needed = len(json.dumps(target.labels))
    if needed <= MAX_LABEL_BYTES:
        return
    k = int(np.argmax([len(str(label)) for label in y]))
    place = next(iter(table.columns.values())).where(k)
    raise UsageError(
        f"labels may take {MAX_LABEL_BYTES} bytes of the model file, got {needed}; the longest has {len(str(y[k]))} "
        f"characters, in column {target.name!r}, {place}: shorten such labels"
    )


def _split(y: np.ndarray, target: Target, seed: int, min_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """The indices of the rows in two parts, the second with one row in HOLD_OUT, stratified by class."""
    n = len(y)
    if n < min_rows:
        raise UsageError(f"the table must have at least {min_rows} rows with a value in {target.name!r}, got {n} rows")
    order = np.random.default_rng(seed).permutation(n)
    is_held_out = np.arange(n) % HOLD_OUT == HOLD_OUT - 1
    if isinstance(target, ClassTarget):
        classes = np.unique(y, return_inverse=True)[1].reshape(-1)
        order = order[np.argsort(classes[order], kind="stable")]
        # the only row of a label is a training row
        is_held_out &= np.isin(classes[order], classes[order[~is_held_out]])
    return np.sort(order[~is_held_out]), np.sort(order[is_held_out])


def _read_test(
    options: argparse.Namespace, csv: CsvColumns, target: Target, inputs: list[str]
) -> tuple[Table, np.ndarray]:
    """Inputs and targets of the rows of --test that have a target."""
    frame = csv.read(CsvFile.open(options.test, separator=options.sep, encoding=options.encoding))
    absent = [name for name in inputs if name not in frame.columns]
    if absent:
        raise UsageError(f"--test must have every column of the training table, but it lacks {listed(absent)}")
    frame = frame[rows_with_target(frame, target.name)]
    return read_table(frame[inputs]), target.read(frame[target.name])


def _label_weights(y: np.ndarray, target: Target, class_weight: str | None) -> dict[Any, float] | None:
    """The weight of each label: of equal sums for all classes ("balanced"), or from a JSON object."""
    if class_weight is None:
        return None
    if not isinstance(target, ClassTarget):
        raise UsageError(f"--class-weight needs classes, but {target.name!r} contains numbers")
    labels, counts = np.unique(y, return_counts=True)
    if class_weight == "balanced":
        return dict(zip(labels.tolist(), (len(y) / (len(labels) * counts)).tolist(), strict=True))
    try:
        given = {name: float(weight) for name, weight in dict(json.loads(class_weight)).items()}
    except (ValueError, TypeError):
        raise UsageError(
            f"--class-weight must be balanced or a JSON object of weights by label, got {class_weight!r}"
        ) from None
    unknown = set(given) - {str(label) for label in labels}
    if unknown:
        raise UsageError(f"--class-weight has a weight for {sorted(unknown)[0]!r}, which is no label")
    return {label: given.get(str(label), 1.0) for label in labels.tolist()}
