"""The reading of a CSV file's columns: as text, as numbers in a format, or as pandas reads them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from .cells import Cells, Frame
from .csv_file import CsvFile
from .number_formats import NumberFormat, describe_unread_numbers, find_format
from .table import listed


@dataclass(frozen=True)
class CsvColumns:
    """The columns of a CSV file, so that another file is read in the same way.

    as_written  columns whose cells are kept as text
    formats     the format of numbers that `float` does not read, by column
    """

    as_written: tuple[str, ...] = ()
    formats: Mapping[str, NumberFormat] = field(default_factory=dict)

    def read(self, file: CsvFile) -> Frame:
        """The table of a file with the same columns. ValueError as `CsvFile.table`."""
        return self.numbers_in(file.table((*self.as_written, *self.formats)))

    def numbers_in(self, frame: Frame) -> Frame:
        """The table with the columns of `formats` as `NumberFormat.read` reads them."""
        return frame.assign(**{name: each.read(frame[name]) for name, each in self.formats.items() if name in frame})

    def get_config(self) -> dict[str, Any]:
        """The columns as JSON data."""
        formats = {name: asdict(each) for name, each in self.formats.items()}
        return {"as_written": self.as_written, "formats": formats}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> CsvColumns:
        """The inverse of `get_config`. ValueError, KeyError or TypeError if the data is invalid."""
        formats = {str(name): NumberFormat(**each) for name, each in config["formats"].items()}
        for each in formats.values():
            each.check()
        return cls(tuple(map(str, config["as_written"])), formats)


def find_formats(
    frame: Frame, names: list[str], decimal: str | None = None
) -> tuple[dict[str, NumberFormat], list[str]]:
    """The formats of columns of text that contain numbers, and notes for the user.

    Parameters
    ----------
    frame : pandas.DataFrame
    names : list of str
        The columns to look at.
    decimal : {None, ".", ","}
        The decimal mark, if it is known.
    """
    formats: dict[str, NumberFormat] = {}
    notes = []
    for name in names:
        found = find_format(frame[name], decimal)
        if found is not None:
            formats[name] = found
        elif unread := describe_unread_numbers(frame[name]):
            notes.append(f"column {name!r} is a column of text: it {unread}, or give --decimal")
    by_format: dict[NumberFormat, list[str]] = {}
    for name, found in formats.items():
        by_format.setdefault(found, []).append(name)
    notes += [f"read as numbers with {found}: {listed(columns)}" for found, columns in by_format.items()]
    plain = [name for name in names if name not in formats and _has_fractions(frame[name])]
    if plain and any(found.decimal == "," for found in formats.values()):
        notes.append(f"read with a decimal point, so that 1.234 is less than 2: {listed(plain)}")
    return formats, notes


def _has_fractions(cells: Cells) -> bool:
    """True for a numeric column with a number that is not whole."""
    return cells.dtype.kind == "f" and bool((cells.dropna() % 1).any())
