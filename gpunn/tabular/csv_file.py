"""Read tables from CSV files."""

from __future__ import annotations

import codecs
import contextlib
import csv
import gzip
import io
import logging
import os
import re
import sys
import warnings
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .cells import LINE, MISSING, MISSING_NUMBERS, Cells, Frame, is_numeric, pandas
from .table import listed

STDIN = "-"  # the path that means stdin
GZIP = b"\x1f\x8b"  # the first bytes of a gzip file

_log = logging.getLogger("gpunn")


@dataclass(frozen=True)
class CsvFile:
    """The text of a CSV file, and the names in its first line."""

    path: str
    text: str
    separator: str
    names: list[str]

    @classmethod
    def open(
        cls, path: str | os.PathLike[str], *, separator: str | None = None, encoding: str | None = None
    ) -> CsvFile:
        """Read the file. Its first line names the columns and decides the separator: comma, semicolon, tab or bar.

        Parameters
        ----------
        path : str or path
            The file, which may be compressed by gzip. "-" is stdin.
        separator : str or None
            The character between two cells; None finds it in the first line.
        encoding : str or None
            The encoding of the text; None is UTF-8, or UTF-16 with a byte order mark.

        Raises
        ------
        OSError
            The file cannot be read.
        ValueError
            The file is not such a table.
        """
        name = "stdin" if path == STDIN else os.fspath(path)
        text = _read_text(path, name, encoding)
        head = _without_quoted_cells(io.StringIO(text).readline())
        separator = separator or max(",;\t|", key=head.count)
        with _named_errors(name):
            names = [column.strip() for column in next(_rows(text, separator), [])]
        if not any(names):
            raise ValueError(f"{name} is empty: its first line must name the columns")
        duplicates = sorted({column for column in names if column and names.count(column) > 1})
        if duplicates:
            raise ValueError(f"column names must be unique, but {name} has more than one column {listed(duplicates)}")
        return cls(name, text, separator, names)

    def table(self, as_written: tuple[str, ...] = ()) -> Frame:
        """Read the cells. The spellings of a missing cell are MISSING in columns of text, in others MISSING_NUMBERS.

        Parameters
        ----------
        as_written : tuple of str
            Columns whose cells are kept as written. Any other column is text if it contains a cell that is neither a
            number nor missing.

        Returns
        -------
        pandas.DataFrame
            The rows. The index, named "line", has their lines in the file.

        Raises
        ------
        ValueError
            The file is not such a table.
        """
        known = [k for k, name in enumerate(self.names) if name in as_written]
        frame = self._read({k: MISSING if k in known else MISSING_NUMBERS for k in range(len(self.names))}, known)
        # "None" and "NA" are categories in a column of text, but which columns are text is known only now
        found = [k for k in frame.columns if k not in known and frame[k].isna().any() and not is_numeric(frame[k])]
        if found:
            reread = self._read(dict.fromkeys(found, MISSING), found)
            for k in found:
                frame[k] = reread[k]
        frame.columns = self.names
        if len(frame) == 0:
            raise ValueError(f"{self.path} must have rows below its first line, got no rows")
        # a first column without a name contains row numbers, as pandas and spreadsheets write them
        for k, name in enumerate(self.names):
            if k and not name and not frame.iloc[:, k].isna().all():
                _log.warning(f"column {k + 1} of {self.path} has no name and is not used")
        return frame[[name for name in self.names if name]]

    def column(self, name: str) -> Cells:
        """One column as text, every cell as written."""
        k = self.names.index(name)
        return self._read({k: ()}, [k])[k].fillna("").rename(name)

    def _read(self, missing: dict[int, tuple[str, ...]], as_written: list[int]) -> Frame:
        """Read columns, numbered by their position in the file.

        missing     the columns to read, with the spellings of a missing cell in each
        as_written  the columns that are kept as text
        """
        pd = pandas()
        # given `usecols`, pandas does not check for lines that are too long
        columns = None if len(missing) == len(self.names) else sorted(missing)
        with _named_errors(self.path), warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            frame = pd.read_csv(
                io.StringIO(self.text),
                sep=self.separator,
                skipinitialspace=True,
                header=0,
                names=range(len(self.names)),
                usecols=columns,
                keep_default_na=False,
                na_values={k: list(spellings) for k, spellings in missing.items()},
                dtype=dict.fromkeys(as_written, str),
                low_memory=False,
                index_col=False,  # pandas warns about a line that is too long; otherwise it would shift the names
                skip_blank_lines=len(self.names) > 1,  # in a file of one column a blank line is a missing cell
            )
        lines = self._lines(len(frame))
        frame.index = pd.RangeIndex(1, len(frame) + 1) if lines is None else pd.Index(lines, name=LINE)
        return frame

    def _lines(self, n: int) -> Sequence[int] | None:
        """The line of each of n rows in the file, None if it is not known."""
        if self.text.count("\n") + (not self.text.endswith("\n")) == n + 1:
            return range(2, n + 2)  # one line per row
        lines, reader = [], _rows(self.text, self.separator)
        with contextlib.suppress(csv.Error):  # a cell may be too long for this reader
            next(reader)
            end = reader.line_num
            for cells in reader:
                if len(cells) > 1 or any(cells) or len(self.names) == 1:
                    lines.append(end + 1)
                end = reader.line_num
        return lines if len(lines) == n else None


def _rows(text: str, separator: str) -> Any:
    """The rows of cells in a text, with their line numbers: a reader of the module `csv`."""
    return csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True)


def _read_text(path: str | os.PathLike[str], name: str, encoding: str | None) -> str:
    """The text of a file or of stdin. ValueError with a remedy if it is not in UTF-8."""
    data = sys.stdin.buffer.read() if path == STDIN else Path(path).read_bytes()
    if data.startswith(GZIP):
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{name} must be a complete gzip file, got a damaged one: {error}") from None
    is_utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return data.decode(encoding or ("utf-16" if is_utf16 else "utf-8-sig"))
    except LookupError:
        raise ValueError(f"encoding must be a name such as utf-8, latin-1 or cp1252, got {encoding!r}") from None
    except UnicodeDecodeError as error:
        if encoding:
            raise ValueError(f"{name} is not text in the encoding {encoding}: {error.reason}") from None
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f'{name} must be text in UTF-8, got other bytes in line {line}: save it in Excel as "CSV UTF-8", or '
            "convert it, for example with iconv -f WINDOWS-1252 -t UTF-8 OLD.csv > NEW.csv"
        ) from None


@contextlib.contextmanager
def _named_errors(path: str) -> Iterator[None]:
    """Turn the errors of the CSV readers into ValueError with the file's name."""
    pd = pandas()
    try:
        yield
    except pd.errors.ParserWarning:
        raise ValueError(f"{path} has lines with more cells than its first line has names") from None
    except (pd.errors.ParserError, csv.Error) as error:
        reason = " ".join(str(error).removeprefix("Error tokenizing data. C error: ").split())
        raise ValueError(f"{path} is not a CSV table: {reason}") from None


def _without_quoted_cells(line: str) -> str:
    """A line without its quoted cells. A quote opens a cell only at the beginning of the cell."""
    return re.sub(r'(^|[,;\t|])\s*"(?:[^"]|"")*("|$)', r"\1", line)
