"""The column to predict: decide between classes and numbers, and read its cells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .cells import (
    MAX_INTEGER_CLASSES,
    Cells,
    Frame,
    as_floats,
    as_string,
    check_numbers,
    has_only_booleans,
    is_missing_number,
    pandas,
    place,
)
from .number_formats import NumberFormat, describe_unread_numbers, find_format
from .table import listed, shown
from .target_scale import MAX_TARGET, mean_and_deviation

MIN_DEVIATION = 1e-12  # of targets that differ by more than rounding errors, in units of the largest one
LABEL_TYPES = {"text": str, "boolean": bool, "integer": int, "number": float}


@dataclass(frozen=True)
class ClassTarget:
    """A target of classes, with the labels as the user wrote them, sorted."""

    name: str
    labels: tuple[Any, ...]

    def read(self, cells: Cells) -> np.ndarray:
        """The labels (n,) of a column. ValueError for a cell that is none of them."""
        labels = {as_string(label): label for label in self.labels}
        texts = [as_string(value) for value in cells]
        unknown = next((k for k, text in enumerate(texts) if text not in labels), None)
        if unknown is not None:
            raise ValueError(
                f"column {self.name!r} must contain labels of the training table, got {shown(texts[unknown])} in "
                f"{place(cells, unknown)}"
            )
        return np.array([labels[text] for text in texts])


@dataclass(frozen=True)
class NumericTarget:
    """A target of numbers.

    number_format  the format of texts in this column, None for numbers that `float` reads
    """

    name: str
    number_format: NumberFormat | None = None

    def read(self, cells: Cells) -> np.ndarray:
        """The numbers (n,) of a column whose format has been read. ValueError for a cell that is none."""
        return as_floats(cells)


Target = ClassTarget | NumericTarget


def rows_with_target(frame: Frame, name: str, decimal: str | None = None) -> np.ndarray:
    """True for the rows (n,) that have a target. `decimal` is the decimal mark of its numbers, if it is known.

    ValueError if there is no such column, or if no row has a target.
    """
    if name not in frame.columns:
        raise ValueError(
            f"target must be a column of the table, got {name!r}; there are {listed([*frame.columns], 20)}"
        )
    cells = frame[name]
    missing: np.ndarray = is_missing_number(cells) if find_format(cells, decimal) else cells.isna().to_numpy()
    if missing.all():
        raise ValueError(f"column {name!r} has no value in any row: there is nothing to learn")
    return ~missing


def infer_target(cells: Cells, task: str = "auto", decimal: str | None = None) -> tuple[Target, str]:
    """Decide how a target is learned, and describe its values.

    Parameters
    ----------
    cells : pandas.Series
        The target of every row, none missing.
    task : {"auto", "classification", "regression"}
        "auto" means classification for text, booleans, and integers with at most 20 distinct values. 1.0 is an
        integer.
    decimal : {None, ".", ","}
        The decimal mark, if it is known.

    Returns
    -------
    target : ClassTarget or NumericTarget
    description : str
        The kind of the cells and the number of distinct values, for the user.

    Raises
    ------
    ValueError
        All rows contain the same value, there are too many classes, or text where numbers are needed.
    """
    number_format = None if task == "classification" else find_format(cells, decimal)
    if number_format is not None:
        numbers = number_format.read(cells)
        if task == "auto" and _is_class_like(numbers, _kind(numbers), numbers.nunique()):
            number_format = None  # classes are predicted as they are written
        else:
            cells = numbers
    name, kind = str(cells.name), _kind(cells)
    labels = {as_string(value) if kind == "text" else LABEL_TYPES[kind](value) for value in cells}
    distinct = len(labels)
    if distinct == 1:
        raise ValueError(f"column {name!r} contains {shown(*labels)} in every row: there is nothing to learn")
    if task == "auto":
        task = "classification" if _is_class_like(cells, kind, distinct) else "regression"
    described = {"text": "text", "boolean": "true or false", "integer": "integers", "number": "numbers"}[kind]
    description = f"{described}{f' with {number_format}' if number_format else ''}, {distinct} distinct values"
    if task == "regression":
        _check_values(cells)
        return NumericTarget(name, number_format), description
    if kind == "number":
        as_floats(cells)  # refuses infinity, which a model file cannot store
    _check_number_of_classes(cells, distinct)
    return ClassTarget(name, tuple(sorted(labels))), description


def _is_class_like(cells: Cells, kind: str, distinct: int) -> bool:
    """True if the task is classification unless the user says otherwise."""
    if kind == "text":
        check_numbers(cells)
    return kind in ("text", "boolean") or (kind == "integer" and distinct <= MAX_INTEGER_CLASSES)


def _check_values(cells: Cells) -> None:
    """Raise ValueError for cells that are not numbers, equal up to rounding, or too large."""
    y = as_floats(cells)
    largest = np.abs(y).max()
    if mean_and_deviation(y)[1] <= MIN_DEVIATION * largest:
        raise ValueError(
            f"column {cells.name!r} contains the same number in every row, up to rounding: nothing to learn"
        )
    if largest > MAX_TARGET:
        k = int(np.abs(y).argmax())
        raise ValueError(
            f"column {cells.name!r} must be at most {MAX_TARGET:g} in magnitude, got {y[k]:.7g} in {place(cells, k)}: "
            "divide the column by a power of ten, or leave the cell empty"
        )


def _check_number_of_classes(cells: Cells, distinct: int) -> None:
    """Raise ValueError if most classes would have a single row."""
    if distinct <= max(MAX_INTEGER_CLASSES, len(cells) // 2):
        return
    unread = describe_unread_numbers(cells)
    are_numbers = pandas().to_numeric(cells, errors="coerce").notna().all()  # even where 007 is text
    raise ValueError(
        f"column {cells.name!r} has {distinct} distinct values in {len(cells)} rows: too many to be classes, each of "
        "which needs several rows to be learned from"
        + ("; --task regression learns them as numbers" if are_numbers else "")
        + (f"; the column {unread}" if unread else "")
    )


def _kind(cells: Cells) -> str:
    """The kind of a target's cells, a key of LABEL_TYPES."""
    types = pandas().api.types
    if types.is_bool_dtype(cells.dtype) or has_only_booleans(cells):
        return "boolean"
    if not types.is_numeric_dtype(cells.dtype):
        return "text"
    if types.is_float_dtype(cells.dtype):
        # pandas writes and reads integers next to missing cells as floats; 0.0 and 1.0 are the classes 0 and 1
        whole = (cells % 1 == 0).all() and (cells.abs() < 2**53).all()
        return "integer" if whole else "number"
    return "integer"
