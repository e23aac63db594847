"""The cells of one column as numbers, strings or missing values. Needs pandas, which is imported on first use."""

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
    x, invalid = floats_where_valid(cells)
    if invalid.any():
        k, count = int(invalid.argmax()), int(invalid.sum())
        raise ValueError(
            f"column {cells.name!r} must contain numbers, got {shown(str(cells.iloc[k]))} in {place(cells, k)}"
            + (f" ({count} such cells)" if count > 1 else "")
            + "; write numbers as 1234.5, and leave a cell empty if its number is unknown"
        )
    return x


def floats_where_valid(cells: Cells) -> tuple[np.ndarray, np.ndarray]:
    """A column as float64, NaN for other cells, and a mask of the cells that are neither finite numbers nor missing."""
    pd = pandas()
    if cells.dtype.kind in "cmM" or isinstance(cells.dtype, (pd.CategoricalDtype, pd.DatetimeTZDtype)):
        cells = cells.astype(object).map(str, na_action="ignore")
    x: np.ndarray = pd.to_numeric(cells, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan).copy()
    invalid = (np.isnan(x) & ~is_missing_number(cells)) | np.isinf(x)
    x[invalid] = np.nan
    return x, invalid


def as_strings(cells: Cells) -> list[str | None]:
    """A column as strings, None for missing cells. An integer-valued float has no decimal point."""
    missing = cells.isna().to_numpy()
    return [None if is_missing else as_string(value) for value, is_missing in zip(cells, missing, strict=True)]


def as_string(value: Any) -> str:
    """One cell as a string without surrounding spaces."""
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        value = int(value)
    return str(value).strip()


def is_categorical(cells: Cells) -> bool:
    """True if a column contains categories, False if it contains numbers or booleans.

    ValueError if every cell is missing, or if it is a column of numbers with some text in it.
    """
    pd = pandas()
    if cells.isna().all():
        raise ValueError(f"column {cells.name!r} has no value in any row: delete the column or fill it")
    if is_numeric(cells):
        return False
    if cells.dtype.kind in "cmM" or isinstance(cells.dtype, pd.DatetimeTZDtype):
        return True
    present = cells[~is_missing_number(cells)]
    x = pd.to_numeric(present.astype(object), errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    x = x[~np.isnan(x)]
    if 2 * len(x) <= len(present):
        return True
    # codes such as 1, 2, 3, A are categories; measurements with a word among them need correction
    if (x != np.floor(x)).any() or len(np.unique(x)) > min(MAX_INTEGER_CLASSES, len(present) // 2):
        as_floats(cells)
        return False
    return len(x) < len(present)


def is_numeric(cells: Cells) -> bool:
    """True if pandas read a column as numbers or booleans."""
    numeric = pandas().api.types.is_numeric_dtype(cells.dtype) and cells.dtype.kind != "c"
    return bool(numeric) or has_only_booleans(cells.dropna())


def has_only_booleans(cells: Cells) -> bool:
    """True if every cell is True or False."""
    return {type(value) for value in cells} <= {bool, np.bool_}


def mean_and_scale(x: np.ndarray) -> tuple[float, float | None]:
    """Mean and standard deviation. The deviation is None if it is no larger than rounding errors."""
    largest = float(np.abs(x).max())
    if largest == 0:
        return 0.0, None
    # scaled first, so that no square overflows or underflows
    mean, deviation = float((x / largest).mean()), float((x / largest).std())
    return mean * largest, deviation * largest if deviation > 1e-12 and deviation * largest > 0 else None


def is_missing_number(cells: Cells) -> np.ndarray:
    """True for the cells of a numeric column that are missing."""
    missing: np.ndarray = cells.isna().to_numpy()
    if cells.dtype.kind in "biuf":
        return missing
    spelled: np.ndarray = missing | [isinstance(value, str) and value.strip() in MISSING_NUMBERS for value in cells]
    return spelled
