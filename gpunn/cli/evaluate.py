"""`gpunn evaluate`: measure a model on a table."""

from __future__ import annotations

import argparse

from ..tabular.targets import ClassTarget, NumericTarget, rows_with_target
from . import scores
from .predict import load_model, open_table, outputs_of

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
    model = load_model(options)
    assert model.table_file is not None
    name = model.table_file["target"]
    _, frame = open_table(model, options)
    frame = frame[rows_with_target(frame, name)]
    labels = getattr(model, "classes_", None)
    target = NumericTarget(name) if labels is None else ClassTarget(name, tuple(labels.tolist()))
    y, outputs = target.read(frame[name]), outputs_of(model, frame)
    lines = scores.of_numbers(y, outputs) if labels is None else scores.of_classes(labels, y, outputs, y)
    print("\n".join(lines))
    return 0
