"""The cells of one column of a CSV file as numbers, strings or missing values. Needs pandas, imported on first use."""

from __future__ import annotations

from typing import Any

import numpy as np

from .table import shown

Frame = Any  # pandas.DataFrame
Cells = Any  # pandas.Series

MAX_INTEGER_CLASSES = 20  # a column of integers with more distinct values is numeric

LINE = "line"  # the name of a table's index if it has the rows' lines in a file

MISSING = ("", "?")  # spellings of a missing cell in every column
# spellings of a missing cell in a column whose other cells are all numbers or all booleans
MISSING_NUMBERS = (
    *MISSING, "-", "NA", "N/A", "n/a", "<NA>", "#NA", "#N/A", "#N/A N/A", "NaN", "nan", "-NaN", "-nan", "NULL", "null",
    "None", "1.#IND", "-1.#IND", "1.#QNAN", "-1.#QNAN",
)  # fmt: skip


def pandas() -> Any:
    """Import pandas. ImportError names the extra if it is not installed."""
    try:
        import pandas as pd
    except ImportError:
        raise ImportError('reading tables needs pandas: pip install "gpunn[cli]"') from None
    return pd


def place(cells: Cells, k: int) -> str:
    """The place of cell k for a message: its line in the file, or the label of its row."""
    return f"{LINE if cells.index.name == LINE else 'row'} {cells.index[k]}"


def as_floats(cells: Cells) -> np.ndarray:
    """A column as float64, NaN for missing cells. ValueError names the first cell that is not a finite number."""
    x: np.ndarray = pandas().to_numeric(cells, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    invalid = (np.isnan(x) & ~is_missing_number(cells)) | np.isinf(x)
    if invalid.any():
        k, count = int(invalid.argmax()), int(invalid.sum())
        raise ValueError(
            f"column {cells.name!r} must contain numbers, got {shown(str(cells.iloc[k]))} in {place(cells, k)}"
            + (f" ({count} such cells)" if count > 1 else "")
            + "; write numbers as 1234.5, and leave a cell empty if its number is unknown"
        )
    return x


def as_string(value: Any) -> str:
    """One cell as a string without surrounding spaces. An integer-valued float has no decimal point."""
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        value = int(value)
    return str(value).strip()


def check_numbers(cells: Cells) -> None:
    """Raise ValueError for a column of numbers with some text among them, naming the first such cell.

    Codes such as 1, 2, 3, A are categories, as is text of which at most half is numbers.
    """
    if is_numeric(cells):
        return
    present = cells[~is_missing_number(cells)]
    x = pandas().to_numeric(present, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    x = x[~np.isnan(x)]
    if 2 * len(x) <= len(present):
        return
    if (x != np.floor(x)).any() or len(np.unique(x)) > min(MAX_INTEGER_CLASSES, len(present) // 2):
        as_floats(cells)


def is_numeric(cells: Cells) -> bool:
    """True if pandas read a column as numbers or booleans."""
    return bool(pandas().api.types.is_numeric_dtype(cells.dtype)) or has_only_booleans(cells.dropna())


def has_only_booleans(cells: Cells) -> bool:
    """True if every cell is True or False."""
    return {type(value) for value in cells} <= {bool, np.bool_}


def is_missing_number(cells: Cells) -> np.ndarray:
    """True for the cells of a numeric column that are missing."""
    missing: np.ndarray = cells.isna().to_numpy()
    if cells.dtype.kind in "biuf":
        return missing
    spelled: np.ndarray = missing | [isinstance(value, str) and value.strip() in MISSING_NUMBERS for value in cells]
    return spelled
