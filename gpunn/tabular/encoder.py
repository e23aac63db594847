"""The encoding of a table: its input columns and its target."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from ..training import checkpoint
from .cells import MISSING, MISSING_NUMBERS, Frame, as_floats, as_strings, is_categorical, place
from .columns import CategoricalColumn, NumericColumn
from .number_formats import NumberFormat, describe_unread_numbers, find_format
from .table import listed
from .targets import ClassTarget, NumericTarget, Target

Column = NumericColumn | CategoricalColumn

MAX_CONFIG_BYTES = checkpoint.MAX_HEADER - 1_000_000  # the rest of a model file's header describes the network
MAX_RARE_BYTES = 1_000_000  # of categories that are stored only to be recognized as rare
TYPES = {cls.__name__: cls for cls in (NumericColumn, CategoricalColumn, ClassTarget, NumericTarget)}
# names that earlier commits wrote to model files
OLD_TYPES = {
    "Numbers": NumericColumn,
    "Categories": CategoricalColumn,
    "Classes": ClassTarget,
    "Amounts": NumericTarget,
}

# spellings of a missing cell in files without the field `missing`
OLD_MISSING = tuple(spelling for spelling in MISSING_NUMBERS if spelling != "-")


@dataclass
class TableEncoder:
    """The encoding of a table's columns, learned from its training rows.

    notes    columns that were left out or shortened, and the reasons, for the user
    missing  spellings of a missing cell in the categorical columns of a CSV file
    """

    columns: list[Column]
    target: Target
    notes: list[str] = field(default_factory=list)
    missing: tuple[str, ...] = MISSING

    @classmethod
    def from_training_rows(cls, frame: Frame, target: Target, rows: np.ndarray) -> TableEncoder:
        """Learn the columns from the training rows.

        Parameters
        ----------
        frame : pandas.DataFrame
            All rows.
        target : ClassTarget or NumericTarget
            The target, whose column is not an input.
        rows : ndarray of int
            Indices of the training rows.

        Raises
        ------
        ValueError
            A column has no value or has text among its numbers, no column is informative, or categories and labels
            are too long for a model file.
        """
        columns: list[Column] = []
        notes: list[str] = []
        constant: list[str] = []
        for name in frame.columns:
            if name == target.name:
                continue
            column, note = _fit_column(frame[name], rows)
            if note:
                notes.append(note)
            if column is not None and column.width:
                columns.append(column)
            elif not note:
                constant.append(name)
        notes += _format_notes(frame, columns)
        if constant:
            notes.append(f"left out, the same in every row: {listed(constant)}")
        if not columns:
            raise ValueError(
                f"no column other than {target.name!r} to learn from: {'; '.join(notes) or 'there is none'}"
            )
        encoder = cls(_with_short_lists(columns), target, notes)
        encoder._check_size(frame)
        return encoder

    @property
    def as_written(self) -> tuple[str, ...]:
        """The columns whose cells are read from a CSV file as text: categories, and numbers in a special format."""
        return tuple(
            column.name
            for column in self.columns
            if isinstance(column, CategoricalColumn) or column.number_format is not None
        )

    def _check_size(self, frame: Frame) -> None:
        """Raise ValueError if a model file has no space for the encoder. It names the longest text's column and row."""
        needed = len(json.dumps(json.dumps(self.get_config())))  # metadata is a JSON string in a JSON header
        if needed <= MAX_CONFIG_BYTES:
            return
        texts = [(c.name, text) for c in self.columns if isinstance(c, CategoricalColumn) for text in c.values if text]
        if isinstance(self.target, ClassTarget):
            texts += [(self.target.name, label) for label in self.target.labels if isinstance(label, str)]
        where = ""
        if texts:
            name, text = max(texts, key=lambda pair: len(pair[1]))
            found = place(frame, as_strings(frame[name]).index(text))
            where = f"; the longest text has {len(text)} characters, in column {name!r}, {found}"
        raise ValueError(
            f"names, categories and labels may take {MAX_CONFIG_BYTES} bytes of the model file, got {needed}{where}: "
            "shorten such texts, or leave out columns"
        )

    def encode(self, frame: Frame) -> tuple[np.ndarray, list[str]]:
        """The inputs (n, width) of a table's rows, float32, and notes about cells that training did not see.

        ValueError if a column is missing, or has a number far outside the training rows.
        """
        absent = [column.name for column in self.columns if column.name not in frame.columns]
        if absent:
            raise ValueError(
                f"the table must have every column of the training table, but it lacks column {listed(absent)}"
            )
        blocks, notes = [], []
        for column in self.columns:
            block, found = column.encode(frame[column.name])
            blocks.append(block)
            notes += found
        return np.hstack(blocks), notes

    def get_config(self) -> dict[str, Any]:
        """The encoder as JSON data."""
        return {
            "columns": [_to_config(column) for column in self.columns],
            "target": _to_config(self.target),
            "missing": self.missing,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> TableEncoder:
        """The inverse of `get_config`. KeyError, TypeError or ValueError if the data is invalid."""
        columns = [_from_config(column) for column in config["columns"]]
        # a file without this field was written when all columns had the same missing cells
        missing = tuple(str(spelling) for spelling in config.get("missing", OLD_MISSING))
        target = _from_config(config["target"])
        for part in (*columns, target):
            part.check()
        return cls(columns, target, missing=missing)


def _fit_column(cells: Any, rows: np.ndarray) -> tuple[Column | None, str]:
    """Learn one column: the column and a note for the user. None without a note means that all cells are missing."""
    number_format = find_format(cells)
    if number_format is not None:
        cells = number_format.numbers(cells)
    categorical = is_categorical(cells)
    training = cells.iloc[rows]
    if not categorical:
        as_floats(cells)  # refuses text in the other rows too
    if training.isna().all():
        return None, ""
    if not categorical:
        return NumericColumn.fit(training, number_format), ""
    column, note = CategoricalColumn.fit(training)
    if unread := describe_unread_numbers(cells):
        note = f"{note}; it {unread}" if note else f"column {cells.name!r} is a column of text: it {unread}"
    return column, note


def _format_notes(frame: Frame, columns: list[Column]) -> list[str]:
    """Name the columns that are read in a special format, and those with decimal points next to decimal commas."""
    formats: dict[NumberFormat | None, list[str]] = {}
    for column in columns:
        if isinstance(column, NumericColumn):
            formats.setdefault(column.number_format, []).append(column.name)
    plain = [name for name in formats.pop(None, []) if (np.nan_to_num(as_floats(frame[name])) % 1).any()]
    notes = [f"read as numbers with {found}: {listed(names)}" for found, names in formats.items()]
    if plain and any(found is not None and found.decimal == "," for found in formats):
        notes.append(f"read with a decimal point, so that 1.234 is less than 2: {listed(plain)}")
    return notes


def _with_short_lists(columns: list[Column]) -> list[Column]:
    """The columns without their rare categories if those would make the model file much longer."""
    rare = [column.rare for column in columns if isinstance(column, CategoricalColumn)]
    if len(json.dumps(rare)) <= MAX_RARE_BYTES:
        return columns
    return [replace(column, rare=()) if isinstance(column, CategoricalColumn) else column for column in columns]


def _to_config(part: Column | Target) -> dict[str, Any]:
    return {"type": type(part).__name__, **asdict(part)}


def _from_config(config: dict[str, Any]) -> Any:
    fields: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in config.items()}
    if fields.get("number_format") is not None:
        fields["number_format"] = NumberFormat(**fields["number_format"])
    cls = {**OLD_TYPES, **TYPES}[str(fields.pop("type"))]
    return cls(**fields)
