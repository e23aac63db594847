"""Read tables from CSV files."""

from __future__ import annotations

import contextlib
import csv
import logging
import os
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .cells import MISSING, MISSING_NUMBERS, Cells, Frame, is_numeric, listed, pandas

_log = logging.getLogger("gpunn")


def read_csv(
    path: str | os.PathLike[str], categorical: tuple[str, ...] = (), missing: tuple[str, ...] = MISSING
) -> Frame:
    """Read a CSV file. Its first line names the columns and decides the separator: comma, semicolon, tab or bar.

    Parameters
    ----------
    path : str or path
        The file, in UTF-8.
    categorical : tuple of str
        Columns whose cells are kept as written. Any other column is categorical if it contains a cell that is neither
        a number nor missing.
    missing : tuple of str
        Spellings of a missing cell in categorical columns. Numeric and boolean columns use MISSING_NUMBERS.

    Returns
    -------
    pandas.DataFrame
        The rows, numbered from 1.

    Raises
    ------
    OSError
        The file cannot be read.
    ValueError
        The file is not such a table.
    """
    file = _CsvFile.open(Path(path))
    known = [k for k, name in enumerate(file.names) if name in categorical]
    frame = file.read({k: missing if k in known else MISSING_NUMBERS for k in range(len(file.names))}, known)
    # "None" and "NA" are categories in a categorical column, but which columns are categorical is known only now
    found = [k for k in frame.columns if k not in known and frame[k].isna().any() and not is_numeric(frame[k])]
    if found:
        reread = file.read(dict.fromkeys(found, missing), found)
        for k in found:
            frame[k] = reread[k]
    frame.columns = file.names
    if len(frame) == 0:
        raise ValueError(f"{path} must have rows below its first line, got no rows")
    # a first column without a name contains row numbers, as pandas and spreadsheets write them
    for k, name in enumerate(file.names):
        if k and not name and not frame.iloc[:, k].isna().all():
            _log.warning(f"column {k + 1} of {path} has no name and is not used")
    return frame[[name for name in file.names if name]]


def read_column(path: str | os.PathLike[str], name: str) -> Cells:
    """Read one column of a CSV file as text, every cell as written. Raises the errors of `read_csv`."""
    file = _CsvFile.open(Path(path))
    k = file.names.index(name)
    return file.read({k: ()}, [k])[k].fillna("").rename(name)


@dataclass(frozen=True)
class _CsvFile:
    """A CSV file and the names in its first line."""

    path: Path
    separator: str
    names: list[str]

    @classmethod
    def open(cls, path: Path) -> _CsvFile:
        """Read the first line."""
        with _named_errors(path), path.open(encoding="utf-8-sig", newline="") as file:
            head = _without_quoted_cells(file.readline())
            separator = max(",;\t|", key=head.count)
            file.seek(0)
            names = [name.strip() for name in next(csv.reader(file, delimiter=separator, skipinitialspace=True), [])]
        if not any(names):
            raise ValueError(f"{path} is empty: its first line must name the columns")
        duplicates = sorted({name for name in names if name and names.count(name) > 1})
        if duplicates:
            raise ValueError(f"column names must be unique, but {path} has more than one column {listed(duplicates)}")
        return cls(path, separator, names)

    def read(self, missing: dict[int, tuple[str, ...]], categorical: list[int]) -> Frame:
        """Read columns, numbered by their position in the file; the rows are numbered from 1.

        missing      the columns to read, with the spellings of a missing cell in each
        categorical  the columns that are kept as text
        """
        pd = pandas()
        # given `usecols`, pandas does not check for lines that are too long
        columns = None if len(missing) == len(self.names) else sorted(missing)
        with _named_errors(self.path), warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            frame = pd.read_csv(
                self.path,
                sep=self.separator,
                encoding="utf-8-sig",
                skipinitialspace=True,
                header=0,
                names=range(len(self.names)),
                usecols=columns,
                keep_default_na=False,
                na_values={k: list(spellings) for k, spellings in missing.items()},
                dtype=dict.fromkeys(categorical, str),
                low_memory=False,
                index_col=False,  # pandas warns about a line that is too long; otherwise it would shift the names
                skip_blank_lines=len(self.names) > 1,  # in a file of one column a blank line is a missing cell
            )
        frame.index = range(1, len(frame) + 1)
        return frame


@contextlib.contextmanager
def _named_errors(path: Path) -> Iterator[None]:
    """Turn the errors of the CSV readers into ValueError with the file's name."""
    pd = pandas()
    try:
        yield
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} must be text in UTF-8, got {error.reason} at byte {error.start}: save it as UTF-8"
        ) from None
    except pd.errors.ParserWarning:
        raise ValueError(f"{path} has lines with more cells than its first line has names") from None
    except (pd.errors.ParserError, csv.Error) as error:
        reason = " ".join(str(error).removeprefix("Error tokenizing data. C error: ").split())
        raise ValueError(f"{path} is not a CSV table: {reason}") from None


def _without_quoted_cells(line: str) -> str:
    """A line without its quoted cells. A quote opens a cell only at the beginning of the cell."""
    return re.sub(r'(^|[,;\t|])\s*"(?:[^"]|"")*("|$)', r"\1", line)
