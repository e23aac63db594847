"""Tables of any kind as columns of numbers, texts or dates.

`read_table` takes NumPy arrays, dictionaries of columns, lists of rows, and tables of pandas, polars and pyarrow. None
of these packages is imported: a table is recognized by its methods.
"""

from __future__ import annotations

import datetime
import decimal
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

Kind = Literal["number", "text", "date"]
DATE = np.dtype("datetime64[us]")


@dataclass(frozen=True)
class Cells:
    """The cells of one column.

    name    the column's name
    kind    "number", "text" or "date"
    values  (n,) float64 with NaN, str or None in an object array, or datetime64 with NaT, for missing cells
    rows    (n,) the label of each row for messages
    place   the word for a row in messages
    """

    name: str
    kind: Kind
    values: np.ndarray
    rows: np.ndarray
    place: str = "row"

    def __len__(self) -> int:
        return len(self.values)

    @property
    def missing(self) -> np.ndarray:
        """True for missing cells."""
        found = self.values == None if self.kind == "text" else np.isnan(self.values)  # noqa: E711
        return np.asarray(found, dtype=bool)

    def take(self, rows: np.ndarray) -> Cells:
        """The cells of some rows."""
        return Cells(self.name, self.kind, self.values[rows], self.rows[rows], self.place)

    def where(self, k: int) -> str:
        """The place of cell k for a message."""
        return f"{self.place} {self.rows[k]}"


@dataclass(frozen=True)
class Table:
    """Columns of equal length.

    columns  by name, in order
    n_rows   the number of rows
    named    False if the names were made by `read_table`
    """

    columns: dict[str, Cells]
    n_rows: int
    named: bool = True

    def take(self, rows: np.ndarray) -> Table:
        """Some rows of the table."""
        return Table({name: cells.take(rows) for name, cells in self.columns.items()}, len(rows), self.named)

    def renamed(self, names: Sequence[str]) -> Table:
        """The table with other names of its columns, in order."""
        cells = [replace(each, name=name) for name, each in zip(names, self.columns.values(), strict=True)]
        return Table({each.name: each for each in cells}, self.n_rows, self.named)


def read_table(table: Any, argument: str = "X") -> Table:
    """Read a table.

    Parameters
    ----------
    table : array (n, columns), dict of columns, list of rows or of dicts, pandas, polars or pyarrow table
        Numbers, booleans, texts, categories or dates. None, NaN and NaT are missing cells.
    argument : str
        Its name in error messages.

    Raises
    ------
    TypeError
        It is none of these, or a column mixes numbers, texts and dates.
    ValueError
        It has no columns, columns of unequal length, names that repeat, infinite numbers, or dates out of range.
    """
    if isinstance(table, Table):
        return table
    if hasattr(table, "toarray"):
        raise TypeError(f"{argument} must be a table of columns, got a sparse matrix: pass {argument}.toarray()")
    names, columns, named = _columns(table, argument)
    if not columns:
        raise ValueError(
            f"{argument} must have at least one column, got an empty table: 0 feature(s) (shape=({_length(table)}, 0)) "
            "while a minimum of 1 is required."
        )
    if len(set(names)) < len(names):
        repeated = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"{argument} must have unique column names, got {', '.join(map(repr, repeated))} repeatedly")
    for name, column in zip(names, columns, strict=True):
        if isinstance(column, (str, bytes)) or not hasattr(column, "__len__"):
            raise TypeError(f"column {name!r} must be a list or an array with one cell per row, got {shown(column)}")
    lengths = [len(column) for column in columns]
    if len(set(lengths)) > 1:
        k = next(k for k, length in enumerate(lengths) if length != lengths[0])
        raise ValueError(
            f"the columns of {argument} must be of equal length, got {lengths[0]} cells in {names[0]!r} and "
            f"{lengths[k]} in {names[k]!r}"
        )
    index = getattr(table, "index", None)
    labelled = index is not None and not callable(index) and len(index) == lengths[0]
    rows = np.asarray(index) if labelled else np.arange(lengths[0])
    place = "line" if labelled and getattr(index, "name", None) == "line" else "row"
    found = {}
    for name, column in zip(names, columns, strict=True):
        kind, values = _values(name, column)
        found[name] = Cells(name, kind, values, rows, place)
        _check_finite(found[name])
    return Table(found, lengths[0], named)


def _length(table: Any) -> int:
    return len(table) if hasattr(table, "__len__") else 0


def _columns(table: Any, argument: str) -> tuple[list[str], list[Any], bool]:
    """Names and columns of a table, and True if it has names."""
    if hasattr(table, "collect_schema") and not hasattr(table, "get_columns"):  # polars, lazy
        raise TypeError(f"{argument} must be a table in memory, got {type(table).__name__}: pass {argument}.collect()")
    if isinstance(table, Mapping):
        return [str(name) for name in table], list(table.values()), True
    if hasattr(table, "column_names") and hasattr(table, "column"):  # pyarrow
        return [str(name) for name in table.column_names], [table.column(k) for k in range(table.num_columns)], True
    if hasattr(table, "get_columns"):  # polars
        return [str(name) for name in table.columns], table.get_columns(), True
    if hasattr(table, "columns") and hasattr(table, "iloc"):  # pandas
        return [str(name) for name in table.columns], [table.iloc[:, k] for k in range(table.shape[1])], True
    if isinstance(table, (str, bytes)) or not (hasattr(table, "__array__") or isinstance(table, Sequence)):
        raise TypeError(
            f"{argument} must be a table (an array, a dict of columns, or a table of pandas, polars or pyarrow), got "
            f"{type(table).__name__}"
        )
    if not hasattr(table, "__array__"):
        rows = list(table)
        if rows and all(isinstance(row, Mapping) for row in rows):
            keys = list(dict.fromkeys(key for row in rows for key in row))
            return [str(key) for key in keys], [_objects([row.get(key) for row in rows]) for key in keys], True
        table = _rectangle(rows, argument)
    array = _filled(table)
    if array.ndim != 2:
        raise ValueError(
            f"{argument} must be a table of shape (rows, columns), got shape {array.shape}. Reshape your data: "
            f"{argument}.reshape(-1, 1) is one column, {argument}.reshape(1, -1) one row"
        )
    return [f"x{k}" for k in range(array.shape[1])], [array[:, k] for k in range(array.shape[1])], False


def _rectangle(rows: list[Any], argument: str) -> np.ndarray:
    """Rows as an array (n, columns). ValueError if their lengths differ."""
    lengths = {len(row) for row in rows if isinstance(row, (Sequence, np.ndarray))}
    kinds = {isinstance(row, (Sequence, np.ndarray)) for row in rows}
    if len(kinds) > 1:
        names = ", ".join(sorted({type(row).__name__ for row in rows}))
        raise ValueError(f"the rows of {argument} must all be lists, or all be dicts, got {names}")
    if len(lengths) > 1:
        raise ValueError(f"the rows of {argument} must be of equal length, got {sorted(lengths)} cells")
    array = np.asarray(rows)
    # NumPy makes one text of each cell if one cell is a text
    return array if array.dtype.kind in "biufc" else np.array(rows, dtype=object)


def _filled(values: Any) -> np.ndarray:
    """Values as an array, whose masked entries are missing."""
    if not isinstance(values, np.ma.MaskedArray) or not values.mask.any():
        return np.asarray(values)
    filled = values.data.astype(object)
    filled[np.ma.getmaskarray(values)] = None
    return filled


def _objects(values: Sequence[Any]) -> np.ndarray:
    """Values as an array (n,) of objects."""
    found = np.empty(len(values), dtype=object)
    found[:] = values
    return found


def _values(name: str, column: Any) -> tuple[Kind, np.ndarray]:
    """The kind and the values of a column."""
    array = _as_array(column)
    if array.ndim != 1:
        raise ValueError(f"column {name!r} must have one cell per row, got an array of shape {array.shape}")
    if array.dtype.kind in "biuf":
        return "number", array.astype(np.float64)
    if array.dtype.kind == "M":
        return "date", _microseconds(name, array)
    if array.dtype.kind in "UT":
        array = array.astype(object)
    if array.dtype.kind == "c":
        raise ValueError(f"column {name!r} must contain real numbers. Complex data not supported")
    if array.dtype.kind != "O":
        raise TypeError(f"column {name!r} must contain numbers, texts, booleans or dates, got {array.dtype}")
    return _from_objects(name, array)


def _as_array(column: Any) -> np.ndarray:
    """A column as an array of floats, dates or objects."""
    if hasattr(column, "to_pylist"):  # pyarrow
        kind = str(column.type)
        plain = kind.startswith(("int", "uint", "float", "double", "halffloat", "timestamp", "date"))
        if not plain:
            return _objects(column.to_pylist())
        # a table's column consists of chunks, which are always copied
        return np.asarray(column.to_numpy() if hasattr(column, "chunks") else column.to_numpy(zero_copy_only=False))
    if hasattr(column, "is_null") and hasattr(column, "to_list"):  # polars
        kind = column.dtype
        plain = kind.is_numeric() and not kind.is_decimal() and str(kind) not in ("Int128", "UInt128")
        return column.to_numpy() if plain else _objects(column.to_list())
    if hasattr(column, "iloc"):  # pandas
        kind = column.dtype.kind
        if kind in "iuf":
            numbers_: np.ndarray = column.to_numpy(dtype=np.float64, na_value=np.nan)
            return numbers_
        if kind == "M" and not hasattr(column.dtype, "pyarrow_dtype"):
            without_zone = column.dt.tz_convert(None) if getattr(column.dt, "tz", None) is not None else column
            dates: np.ndarray = without_zone.to_numpy(DATE)
            return dates
        if kind == "b" and not column.isna().any():
            booleans: np.ndarray = column.to_numpy(bool)
            return booleans
        return _objects(list(column))
    return np.asarray(column, dtype=object) if isinstance(column, Sequence) else _filled(column)


def _from_objects(name: str, array: np.ndarray) -> tuple[Kind, np.ndarray]:
    """The kind and the values of a column of objects. TypeError if they are of several kinds."""
    missing = np.array([is_missing(value) for value in array], dtype=bool)
    present = array[~missing]
    kinds = {_kind_of(name, value) for value in present}
    if len(kinds) > 1:
        first = {_kind_of(name, value): value for value in present[::-1]}
        examples = ", ".join(f"{kind} such as {shown(value)}" for kind, value in sorted(first.items()))
        raise TypeError(f"column {name!r} must contain cells of one kind, got {examples}: convert the column")
    kind: Kind = kinds.pop() if kinds else "number"
    if kind == "number":
        x = np.full(len(array), np.nan)
        x[~missing] = [_as_float(value) for value in present]
        return kind, x
    if kind == "date":
        dates = np.full(len(array), "NaT", dtype=DATE)
        dates[~missing] = [_as_date(name, value) for value in present]
        return kind, dates
    texts = np.full(len(array), None, dtype=object)
    texts[~missing] = [str(value).strip() for value in present]
    texts[np.equal(texts, "")] = None
    return kind, texts


def is_missing(value: Any) -> bool:
    """True for None, NaN, NaT and pandas's NA."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    if isinstance(value, decimal.Decimal):
        return value.is_nan()
    return bool(isinstance(value, (float, np.floating, np.datetime64)) and value != value)


def _kind_of(name: str, value: Any) -> Kind:
    if isinstance(value, (str, np.str_)):
        return "text"
    if isinstance(value, (numbers.Real, np.bool_, decimal.Decimal)):
        return "number"
    if isinstance(value, (datetime.date, np.datetime64)):
        return "date"
    raise TypeError(
        f"column {name!r} must contain numbers, texts, booleans or dates, got {type(value).__name__}: convert the "
        "column"
    )


def _as_float(value: Any) -> float:
    """A number as float64, infinite if it is too large."""
    try:
        return float(value)
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")


def _as_date(name: str, value: Any) -> np.datetime64:
    """A date without its time zone, in UTC if it has one."""
    if isinstance(value, datetime.datetime) and value.tzinfo is not None:
        value = value.astimezone(datetime.UTC).replace(tzinfo=None)
    if isinstance(value, np.datetime64):
        value = _microseconds(name, np.array([value]))[0]
    return np.datetime64(value, "us")


def _microseconds(name: str, dates: np.ndarray) -> np.ndarray:
    """Dates in microseconds. ValueError if one is out of range."""
    found = dates.astype(DATE)
    years = dates.astype("datetime64[Y]")
    wrong = (found.astype("datetime64[Y]") != years) & ~np.isnat(dates)
    if wrong.any():
        raise ValueError(f"column {name!r} must contain dates near the present, got the year {years[wrong.argmax()]}")
    return found


def _check_finite(cells: Cells) -> None:
    """Raise ValueError if a number is infinite."""
    if cells.kind != "number":
        return
    infinite = np.isinf(cells.values)
    if infinite.any():
        k = int(infinite.argmax())
        raise ValueError(
            f"column {cells.name!r} must be finite, got {cells.values[k]} in {cells.where(k)} ({int(infinite.sum())} "
            "such cells): correct these cells, or set them to NaN if they are unknown"
        )


def shown(value: object) -> str:
    """A value as an error message shows it, at most one line long."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:60]}… ({len(text)} characters)"


def listed(names: list[str], limit: int = 6) -> str:
    """Names for a message, the first `limit` of them."""
    return ", ".join(map(repr, names[:limit])) + (f" and {len(names) - limit} more" if len(names) > limit else "")
