"""`gpunn evaluate`: measure a model on a table."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

import numpy as np

from .. import tabular
from ..io import load
from ..tabular import TableModel
from ..tabular.cells import Frame, as_floats
from ..tabular.csv_columns import CsvColumns
from ..tabular.csv_file import read_csv
from ..tabular.table import read_table
from ..tabular.targets import ClassTarget, drop_missing_targets, label_of
from . import scores
from .arguments import UsageError

if TYPE_CHECKING:  # it imports scikit-learn, which takes a second
    from ..tabular.tabular_estimator import TabularEstimator

# kinds of labels by NumPy's kind of their array
LABEL_KINDS = {"U": "text", "b": "boolean", "i": "integer", "f": "number"}

HELP = "measure a model on a table"
DESCRIPTION = """\
Predict the target for every row of a CSV file that has it, and report the
quality of the predictions: R² and errors, or accuracy, log loss, precision and
recall by label and the accuracy of the most frequent label."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument("model", metavar="MODEL", help="a model file of `gpunn train`")
    parser.add_argument("data", metavar="FILE.csv", help="rows with the target, - for stdin")
    parser.add_argument("--sep", metavar="CHARACTER", help="between two cells (default: found in the first line)")
    parser.add_argument("--encoding", metavar="NAME", help="of the file (default: UTF-8)")
    parser.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu, cuda, cuda:1 (default: auto)")


def run(options: argparse.Namespace) -> int:
    """Predict and report."""
    model = load(options.model, device=options.device)
    if isinstance(model, TableModel):
        lines = _of_network(model, read_csv(options.data, model.encoder.as_written, model.encoder.missing))
    elif getattr(model, "table_file", None):
        reader = CsvColumns.from_config(model.table_file["csv"])
        lines = _of_ensemble(model, reader.read(options.data, separator=options.sep, encoding=options.encoding))
    else:
        raise UsageError(f"{options.model} must be a model file of `gpunn train`, got one without the target's name")
    print("\n".join(lines))
    return 0


def _of_network(model: TableModel, frame: Frame) -> list[str]:
    """The scores of a single network."""
    target = model.encoder.target
    frame, _ = drop_missing_targets(frame, target.name)
    if not isinstance(target, ClassTarget):
        cells = frame[target.name]
        y = as_floats(cells if target.number_format is None else target.number_format.read(cells))
        return scores.of_numbers(y, model.predict(frame))
    labels = np.array(target.labels)
    y = _labels(frame, target.name, labels, target.kind)
    X, _ = model.encoder.encode(frame)
    return _class_scores(labels, y, np.asarray(model.net.predict_proba(X)))


def _of_ensemble(model: TabularEstimator, frame: Frame) -> list[str]:
    """The scores of an ensemble."""
    assert model.table_file is not None
    name = model.table_file["target"]
    frame, _ = drop_missing_targets(frame, name)
    table = read_table(frame.drop(columns=name))
    if not isinstance(model, tabular.TabularClassifier):
        return scores.of_numbers(as_floats(frame[name]), model.predict(table))
    kind = LABEL_KINDS[model.classes_.dtype.kind]
    return _class_scores(model.classes_, _labels(frame, name, model.classes_, kind), model.predict_proba(table))


def _labels(frame: Frame, name: str, labels: np.ndarray, kind: str) -> np.ndarray:
    """The labels of the rows. UsageError names one that the model does not know."""
    y = np.array([label_of(value, kind) for value in frame[name]])
    unknown = [label for label in np.unique(y) if label not in labels]
    if unknown:
        raise UsageError(f"column {name!r} must contain labels of the training table, got {unknown[0]!r}")
    return y


def _class_scores(labels: np.ndarray, y: np.ndarray, p: np.ndarray) -> list[str]:
    found, counts = np.unique(y, return_counts=True)
    return scores.of_classes(labels, y, p, found[counts.argmax()])
