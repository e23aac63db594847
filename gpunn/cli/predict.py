"""`gpunn predict`: predict the target of a table's rows."""

from __future__ import annotations

import argparse
import csv
import io
import os
import sys
from pathlib import Path
from typing import Any

from ..io import load
from ..tabular import TableModel
from ..tabular.csv_columns import CsvColumns
from ..tabular.table import read_table
from ..tabular.targets import ClassTarget
from ..training.files import write_bytes
from .arguments import UsageError, names
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
    parser.add_argument("--proba", action="store_true", help="also write the probability of each label")
    parser.add_argument("--keep", type=names, default=(), metavar="COLUMNS", help="also write these columns: A,B")
    parser.add_argument("--sep", metavar="CHARACTER", help="between two cells (default: found in the first line)")
    parser.add_argument("--encoding", metavar="NAME", help="of the file (default: UTF-8)")
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
    if not (isinstance(model, TableModel) or getattr(model, "table_file", None)):
        raise UsageError(
            f"{options.model} must be a model file of `gpunn train`, got a network without the columns of a table"
        )
    text = _as_csv(*_predict(model, options))
    if options.out is None:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8")  # as in a file: a label must not change
        sys.stdout.write(text)
        sys.stdout.flush()
    else:
        write_bytes(Path(options.out), text.encode())
    return 0


def _predict(model: Any, options: argparse.Namespace) -> tuple[list[str], list[list[str]]]:
    """The names of the columns to write, and their cells by column."""
    if isinstance(model, TableModel):
        for option in ("proba", "keep"):
            if getattr(options, option):
                raise UsageError(f"--{option} needs a model of an ensemble: train without --hidden")
        formatted = str if isinstance(model.encoder.target, ClassTarget) else "{:.7g}".format  # the digits of float32
        return [model.target], [[formatted(value) for value in model.predict(options.data)]]
    reader = CsvColumns.from_config(model.table_file["csv"])
    frame = reader.read(options.data, separator=options.sep, encoding=options.encoding)
    unknown = [name for name in options.keep if name not in frame.columns]
    if unknown:
        raise UsageError(f"--keep must name columns of {options.data}, got {unknown[0]!r}")
    table = read_table(frame)
    kept = [["" if cell != cell else str(cell) for cell in frame[name]] for name in options.keep]
    target = model.table_file["target"]
    if not hasattr(model, "classes_"):
        if options.proba:
            raise UsageError("--proba is for classes, and the model predicts numbers")
        return [*options.keep, target], [*kept, [f"{value:.7g}" for value in model.predict(table)]]
    p = model.predict_proba(table)
    labels = model.classes_[p.argmax(axis=1)]
    header, columns = [*options.keep, target], [*kept, list(map(str, labels))]
    if options.proba:
        header += [f"probability of {label}" for label in model.classes_]
        columns += [[f"{value:.6f}" for value in column] for column in p.T]
    return header, columns


def _as_csv(header: list[str], columns: list[list[str]]) -> str:
    """Columns as CSV."""
    file = io.StringIO(newline="")
    lines = csv.writer(file, lineterminator="\n")
    lines.writerow(header)
    lines.writerows(zip(*columns, strict=True))
    return file.getvalue()
