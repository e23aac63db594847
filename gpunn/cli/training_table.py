"""The table of `gpunn train`: a bundled data set or a CSV file."""

from __future__ import annotations

import argparse
import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

from ..tabular.cells import Cells, Frame, pandas
from ..tabular.csv_file import STDIN, CsvFile
from .arguments import UsageError, n_processes

BUNDLED = ("digits", "breast_cancer", "wine", "diabetes")


@dataclass(frozen=True)
class TrainingTable:
    """A table to learn from.

    frame    the rows
    target   the column to predict
    name     the name of the output files, without a suffix
    source   a description of the table
    bundled  True for a data set of scikit-learn
    written  the cells of the target as written, None for a bundled table
    """

    frame: Frame
    target: str
    name: str
    source: str
    bundled: bool = False
    written: Cells | None = None


def load_table(options: argparse.Namespace) -> TrainingTable:
    """Load the table that the command line names. UsageError if there is none or the target is missing."""
    return _load_bundled(options) if options.data in BUNDLED else _load_csv(options)


def _load_bundled(options: argparse.Namespace) -> TrainingTable:
    if options.target is not None:
        raise UsageError(f"--target is for CSV files; the bundled data set {options.data} has its own target")
    frame = _digits() if options.data == "digits" else None
    if frame is None:
        frame = _load_from_scikit_learn(options.data)
    return TrainingTable(frame, "target", options.data, f"scikit-learn's {options.data}", bundled=True)


def _digits() -> Frame | None:
    """scikit-learn's digits, read without importing scikit-learn, which takes half of the command's time.

    None if its file is not where it is expected.
    """
    spec = importlib.util.find_spec("sklearn")
    for folder in (spec.submodule_search_locations or []) if spec is not None else []:
        path = Path(folder) / "datasets" / "data" / "digits.csv.gz"
        if path.is_file():
            pixels = [f"pixel_{row}_{column}" for row in range(8) for column in range(8)]
            return pandas().read_csv(path, header=None, names=[*pixels, "target"], dtype=dict.fromkeys(pixels, float))
    return None


def _load_from_scikit_learn(name: str) -> Frame:
    """A bundled data set. ImportError names the extra if scikit-learn is not installed."""
    try:
        from sklearn import datasets
    except ImportError:
        raise ImportError(f'{name} is a data set of scikit-learn: pip install "gpunn[sklearn]"') from None
    raw = {"scaled": False} if name == "diabetes" else {}
    bunch = getattr(datasets, f"load_{name}")(as_frame=True, **raw)
    if name in ("breast_cancer", "wine"):
        return bunch.frame.assign(target=[str(bunch.target_names[k]) for k in bunch.target])
    return bunch.frame


def _load_csv(options: argparse.Namespace) -> TrainingTable:
    path, target = Path(options.data), options.target
    if options.data == STDIN:
        if n_processes() > 1:
            raise UsageError("DATA must be a file under mpiexec, which gives stdin to one process only, got -")
    elif not path.exists():
        bundled = "" if path.suffix else f", and no bundled data set has that name ({', '.join(BUNDLED)})"
        raise UsageError(f"there is no file {options.data}{bundled}")
    file = CsvFile.open(options.data, separator=options.sep, encoding=options.encoding)
    frame = file.table(options.categorical)
    if target is None:
        raise UsageError(f"--target COLUMN is missing: name the column to predict; {_columns(frame)}")
    if target not in frame.columns:
        raise UsageError(f"--target must be a column of {file.path}, got {target!r}; {_columns(frame)}")
    written, missing = file.column(target), frame[target].isna()
    if _must_stay_text(frame[target], set(written[~missing].str.strip()), options.task):
        frame = frame.copy()
        frame[target] = written.mask(missing)
    name = Path(file.path.removesuffix(".gz")).stem
    return TrainingTable(frame, target, name, file.path, written=written)


def _must_stay_text(cells: Cells, spellings: set[str], task: str) -> bool:
    """True if numbers or booleans in the target are labels that must be kept as written."""
    # 01 and 1 are different labels: an integer with a leading zero is text
    if any(re.fullmatch(r"[+-]?0\d+", spelling) for spelling in spellings):
        return True
    # missing cells turn integers into floats, which are exact up to 15 digits only
    if cells.dtype.kind == "f" and all(re.fullmatch(r"[+-]?\d+", spelling) for spelling in spellings):
        return max(map(len, spellings), default=0) > 15
    # as booleans they would be predicted as True and False
    return task != "regression" and spellings in ({"TRUE", "FALSE"}, {"true", "false"})


def _columns(frame: Frame) -> str:
    names = [str(name) for name in frame.columns]
    return "the columns are " + ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
