"""`gpunn predict`: predict the target of a table's rows."""

from __future__ import annotations

import argparse
import csv
import io
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..io import load
from ..tabular.cells import Frame
from ..tabular.csv_columns import CsvColumns
from ..tabular.csv_file import CsvFile
from ..tabular.table import Table, read_table
from ..training.files import write_bytes
from .arguments import UsageError, names
from .output_files import check_writable

if TYPE_CHECKING:  # it imports scikit-learn, which takes a second
    from ..tabular.tabular_estimator import TabularEstimator

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
    text = _as_csv(*_predict(load_model(options), options))
    if options.out is None:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8")  # as in a file: a label must not change
        sys.stdout.write(text)
        sys.stdout.flush()
    else:
        write_bytes(Path(options.out), text.encode())
    return 0


def load_model(options: argparse.Namespace) -> TabularEstimator:
    """The model that the command line names. UsageError for another file than that of `gpunn train`."""
    model = load(options.model, device=options.device)
    if getattr(model, "table_file", None) is None:
        raise UsageError(
            f"{options.model} must be a model file of `gpunn train`, got one without the columns of a table"
        )
    found: TabularEstimator = model
    return found


def open_table(model: TabularEstimator, options: argparse.Namespace) -> tuple[CsvFile, Frame]:
    """The file that the command line names, and its table, read as the training table."""
    assert model.table_file is not None
    file = CsvFile.open(options.data, separator=options.sep, encoding=options.encoding)
    return file, CsvColumns.from_config(model.table_file["csv"]).read(file)


def outputs_of(model: TabularEstimator, table: Frame | Table) -> np.ndarray:
    """The probabilities (n, number of labels) or numbers (n,) that a model predicts.

    UsageError if a column has another type than in training.
    """
    if not isinstance(table, Table):
        # other columns are not read: they may contain what no input may
        known = [name for name in table.columns if name in model.columns_]
        table = table[known] if known else table
    try:
        rows = read_table(table)
        outputs: np.ndarray = model.predict_proba(rows) if hasattr(model, "classes_") else model.predict(rows)
    except TypeError as error:
        raise UsageError(str(error)) from None
    return outputs


def _predict(model: TabularEstimator, options: argparse.Namespace) -> tuple[list[str], list[list[str]]]:
    """The names of the columns to write, and their cells by column."""
    assert model.table_file is not None
    file, frame = open_table(model, options)
    unknown = [name for name in options.keep if name not in frame.columns]
    if unknown:
        raise UsageError(f"--keep must name columns of {options.data}, got {unknown[0]!r}")
    classes = getattr(model, "classes_", None)
    if options.proba and classes is None:
        raise UsageError("--proba is for classes, and the model predicts numbers")
    header = [*options.keep, model.table_file["target"]]
    columns = [file.column(name).tolist() for name in options.keep]  # as written
    outputs = outputs_of(model, frame)
    if classes is None:
        return header, [*columns, [f"{value:.7g}" for value in outputs]]  # the digits of float32
    columns.append(list(map(str, classes[outputs.argmax(axis=1)])))
    if options.proba:
        header += [f"probability of {label}" for label in classes]
        columns += [[f"{value:.6f}" for value in column] for column in outputs.T]
    return header, columns


def _as_csv(header: list[str], columns: list[list[str]]) -> str:
    """Columns as CSV."""
    file = io.StringIO(newline="")
    lines = csv.writer(file, lineterminator="\n")
    lines.writerow(header)
    lines.writerows(zip(*columns, strict=True))
    return file.getvalue()
