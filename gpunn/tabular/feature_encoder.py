"""The encoding of a table's input columns."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from ..training import checkpoint
from .features import MAX_CATEGORIES, CategoricalColumn, Column, DateColumn, NumericColumn, Part, dates_of, texts
from .table import Cells, Table, listed

MAX_INPUTS = 1000  # wider tables get fewer bins per column
BINS = 16
MIN_CATEGORIES = 5  # per column of text, however many columns there are
MAX_CONFIG_BYTES = checkpoint.MAX_HEADER - 1_000_000  # the rest of a model file's header describes the networks
MAX_RARE_BYTES = 1_000_000  # of categories that are stored only to be recognized as rare
MIN_ROWS_OF_IDENTIFIER = 50
IDENTIFIER_NAME = re.compile(r"(?i:(.*[_ .-])?id|index|key)|.*[a-z]I[dD]")
ROW_NAME = re.compile(r"(?i:row|rownames|unnamed: 0)?")
MAX_DISTINCT_SHARE = 0.5  # a column of text with more distinct texts per row contains names or identifiers
TYPES: dict[str, type] = {cls.__name__: cls for cls in (NumericColumn, CategoricalColumn, DateColumn)}


@dataclass
class FeatureEncoder:
    """The encoding of a table's columns, learned from its training rows.

    columns   the encoded columns, in the order of the inputs
    names     all columns of the training table
    notes     the columns that were left out, by reason, for the user
    left_out  the reason for each of these columns
    """

    columns: list[Column]
    names: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)

    @classmethod
    def fit(
        cls, table: Table, *, categorical: Sequence[str] = (), dates: Sequence[str] = (), target: str | None = None
    ) -> FeatureEncoder:
        """Learn the columns from the training rows.

        Parameters
        ----------
        table : Table
            The training rows, without the target.
        categorical, dates : sequence of str
            Columns that are categories or dates whatever they look like.
        target : str or None
            The name of the target, for messages.

        Raises
        ------
        ValueError
            No column is informative, a column of `dates` contains no dates, or categories are too long for a model
            file.
        """
        for argument, given in (("categorical", categorical), ("dates", dates)):
            unknown = [name for name in given if name not in table.columns]
            if unknown:
                raise ValueError(f"{argument} must name columns of the table, got {unknown[0]!r}")
        kinds = {name: _kind(cells, name in categorical, name in dates) for name, cells in table.columns.items()}
        bins, categories = _limits(kinds)
        columns: list[Column] = []
        left_out: dict[str, str] = {}
        for name, cells in kinds.items():
            column = _fit(cells, bins, categories)
            if isinstance(column, str):
                left_out[name] = column
            elif column.width:
                columns.append(column)
            elif cells.kind == "text" and len(set(cells.values)) > 1:
                left_out[name] = "different texts in all rows"
            else:
                left_out[name] = "the same in every row"
        notes = _notes(left_out)
        if not columns:
            other = "" if target is None else f" other than {target!r}"
            raise ValueError(f"no column{other} to learn from: {'; '.join(notes) or 'there is none'}")
        encoder = cls(_with_short_lists(columns), tuple(table.columns), notes, left_out)
        encoder._check_size(table)
        return encoder

    @property
    def width(self) -> int:
        """Number of inputs."""
        return sum(column.width for column in self.columns)

    def encode(self, table: Table) -> tuple[np.ndarray, list[str]]:
        """The inputs (n, width) of a table's rows, float32, and notes about cells that training did not see.

        ValueError if a column is missing, TypeError if it has another type than in training.
        """
        absent = [column.name for column in self.columns if column.name not in table.columns]
        if absent:
            raise ValueError(
                f"the table must have every column of the training table, but it lacks column {listed(absent)}"
            )
        X = np.empty((table.n_rows, self.width), np.float32)
        notes: list[str] = []
        left = 0
        for column in self.columns:
            notes += column.encode(table.columns[column.name], X[:, left : left + column.width])
            left += column.width
        return X, notes

    def describe(self) -> dict[str, str]:
        """The encoding of each column of the training table, or the reason why it is left out."""
        done = {column.name: column.description for column in self.columns}
        return {name: done.get(name) or f"left out: {self.left_out[name]}" for name in self.names}

    def _check_size(self, table: Table) -> None:
        """Raise ValueError if a model file has no space for the encoder. It names the longest text's column and row."""
        needed = len(json.dumps(json.dumps(self.get_config())))  # metadata is a JSON string in a JSON header
        if needed <= MAX_CONFIG_BYTES:
            return
        found = [(c.name, text) for c in self.columns if isinstance(c, CategoricalColumn) for text in c.values if text]
        where = ""
        if found:
            name, text = max(found, key=lambda pair: len(pair[1]))
            cells = table.columns[name]
            place = cells.where(texts(cells).index(text))
            where = f"; the longest text has {len(text)} characters, in column {name!r}, {place}"
        raise ValueError(
            f"names and categories may take {MAX_CONFIG_BYTES} bytes of the model file, got {needed}{where}: shorten "
            "such texts, or leave out columns"
        )

    def get_config(self) -> dict[str, Any]:
        """The encoder as JSON data."""
        return {
            "columns": [_to_config(column) for column in self.columns],
            "names": self.names,
            "left_out": self.left_out,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> FeatureEncoder:
        """The inverse of `get_config`. KeyError, TypeError or ValueError if the data is invalid."""
        columns = [_from_config(column) for column in config["columns"]]
        for column in columns:
            column.check()
        left_out = {str(name): str(reason) for name, reason in config["left_out"].items()}
        names = tuple(map(str, config["names"]))
        described = [column.name for column in columns] + list(left_out)
        if sorted(described) != sorted(set(names)) or len(names) > len(described):
            raise ValueError(f"names must be those of all columns, got {listed(list(names))}")
        return cls(columns, names, _notes(left_out), left_out)


@dataclass(frozen=True)
class EncodedTable(Table):
    """A table with the encoder that was learned from its rows."""

    encoder: FeatureEncoder = field(kw_only=True)


def encoder_of(table: Table, *, categorical: Sequence[str] = (), dates: Sequence[str] = ()) -> FeatureEncoder:
    """The encoder of an `EncodedTable`; for any other table, one that is learned from its rows."""
    if isinstance(table, EncodedTable):
        return table.encoder
    return FeatureEncoder.fit(table, categorical=categorical, dates=dates)


def _kind(cells: Cells, categorical: bool, is_date: bool) -> Cells:
    """The column as the user or its cells say."""
    if categorical and cells.kind != "text":
        values = np.empty(len(cells), dtype=object)
        values[:] = texts(cells)
        return replace(cells, kind="text", values=values)
    if cells.kind == "text" and not categorical:
        found = dates_of(cells)
        if found is not None:
            return found
    if is_date and cells.kind != "date":
        present = ~cells.missing
        example = (
            f", got {cells.values[present.argmax()]!r} in {cells.where(int(present.argmax()))}" if present.any() else ""
        )
        raise ValueError(f"column {cells.name!r} must contain dates such as 2026-01-31{example}")
    return cells


def _fit(cells: Cells, bins: int, categories: int) -> Column | str:
    """Learn one column, or return the reason why it is left out."""
    if cells.missing.all():
        return "no value in any row"
    reason = _identifier(cells)
    if reason:
        return reason
    if cells.kind == "text":
        return CategoricalColumn.fit(cells, categories)
    column = NumericColumn.fit(cells, bins) if cells.kind == "number" else DateColumn.fit(cells, bins)
    assert column is not None
    return column


def _identifier(cells: Cells) -> str:
    """The reason why a column is taken as an identifier of rows, "" if it is none."""
    n = len(cells)
    present = cells.values[~cells.missing]
    if cells.kind == "text":
        distinct = len(set(present))
        if distinct > 20 and distinct > MAX_DISTINCT_SHARE * len(present):
            return f"{distinct} distinct texts in {len(present)} rows, such as names or identifiers"
    elif cells.kind == "number" and len(present) == n >= MIN_ROWS_OF_IDENTIFIER:
        whole = (present == np.floor(present)).all()
        if whole and len(np.unique(present)) == n:
            counted = ROW_NAME.fullmatch(cells.name) and np.ptp(present) == n - 1
            if counted or IDENTIFIER_NAME.fullmatch(cells.name):
                return "an identifier, different whole numbers in all rows"
    return ""


def _limits(columns: dict[str, Cells]) -> tuple[int, int]:
    """The number of bins per numeric column, and of categories per column of text, for about MAX_INPUTS inputs.

    Categories get what plain numbers leave, and bins get the rest.
    """
    n_text = sum(cells.kind == "text" for cells in columns.values())
    n_numeric = len(columns) - n_text
    distinct = sorted(len(set(cells.values)) for cells in columns.values() if cells.kind == "text")
    free = max(0, MAX_INPUTS - 3 * n_numeric)
    categories = MIN_CATEGORIES
    while categories < MAX_CATEGORIES and sum(min(k, categories + 1) for k in distinct) <= free:
        categories += 1
    left = MAX_INPUTS - sum(min(k, categories) for k in distinct)
    return int(min(BINS, max(1, left // max(1, n_numeric) - 2))), categories


def _notes(left_out: dict[str, str]) -> list[str]:
    """The columns that are left out, by reason."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in left_out.items():
        by_reason.setdefault(reason, []).append(name)
    return [f"left out, {reason}: {listed(names)}" for reason, names in by_reason.items()]


def _with_short_lists(columns: list[Column]) -> list[Column]:
    """The columns without their rare categories if those would make the model file much longer."""
    rare = [column.rare for column in columns if isinstance(column, CategoricalColumn)]
    if len(json.dumps(rare)) <= MAX_RARE_BYTES:
        return columns
    return [replace(column, rare=()) if isinstance(column, CategoricalColumn) else column for column in columns]


def _to_config(column: Column) -> dict[str, Any]:
    config = {"type": type(column).__name__, **asdict(column)}
    if isinstance(column, DateColumn):
        config["parts"] = [(key, _to_config(part)) for key, part in column.parts]
    return config


def _from_config(config: dict[str, Any]) -> Any:
    fields: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in config.items()}
    cls = TYPES[str(fields.pop("type"))]
    if cls is DateColumn:
        parts: list[tuple[str, Part]] = [(str(key), _from_config(part)) for key, part in fields["parts"]]
        return DateColumn(fields["name"], tuple(parts))
    return cls(**fields)
