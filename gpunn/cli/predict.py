"""`gpunn predict`: predict the target of a table's rows."""

from __future__ import annotations

import argparse
import csv
import io
import os
import sys
from pathlib import Path

from ..io import load
from ..tabular import TableModel
from ..tabular.targets import ClassTarget
from ..training.files import write_bytes
from .arguments import UsageError
from .output_files import check_writable

HELP = "predict the target of a table's rows"
DESCRIPTION = """\
Predict the target for every row of a CSV file, in the labels and units of the
table that the model was trained on. Columns are found by their names.

The predictions are written as CSV in UTF-8: a line with the target's name, then
one line per row. Cells that are not numbers, and cells that training did not
see, are counted on stderr."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument("model", metavar="MODEL", help="a model file of `gpunn train`")
    parser.add_argument("data", metavar="FILE.csv", help="the rows to predict, - for stdin")
    parser.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu, cuda, cuda:1 (default: auto)")
    parser.add_argument("--out", metavar="FILE", help="write the predictions to this file (default: stdout)")
    parser.add_argument("--force", action="store_true", help="overwrite an existing file")


def run(options: argparse.Namespace) -> int:
    """Predict and write the predictions."""
    if options.out is not None:
        check_writable(Path(options.out), options.model, options.data)
        if os.path.lexists(options.out) and not options.force:
            raise UsageError(f"{options.out} exists: --force overwrites it, --out FILE takes another name")
    model = load(options.model, device=options.device)
    if not isinstance(model, TableModel):
        raise UsageError(
            f"{options.model} must be a model file of `gpunn train`, got a network without the columns of a table"
        )
    text = _as_csv(model, options.data)
    if options.out is None:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8")  # as in a file: a label must not change
        sys.stdout.write(text)
        sys.stdout.flush()
    else:
        write_bytes(Path(options.out), text.encode())
    return 0


def _as_csv(model: TableModel, path: str) -> str:
    """The predictions for the rows of a file, as CSV."""
    file = io.StringIO(newline="")
    lines = csv.writer(file, lineterminator="\n")
    lines.writerow([model.target])
    formatted = str if isinstance(model.encoder.target, ClassTarget) else "{:.7g}".format  # the digits of float32
    lines.writerows([[formatted(value)] for value in model.predict(path)])
    return file.getvalue()
