"""The column to predict: decide between classes and numbers, encode it, decode the network's outputs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from ..validation import finite, positive
from .cells import (
    MAX_INTEGER_CLASSES,
    Cells,
    Frame,
    as_floats,
    as_string,
    has_only_booleans,
    is_categorical,
    is_missing_number,
    mean_and_scale,
    pandas,
    place,
)
from .number_formats import NumberFormat, describe_unread_numbers, find_format
from .table import listed, shown

MAX_TARGET = 1e150  # squares of targets, and float32 outputs times the scale, are finite in float64 up to here
LABEL_TYPES = {"text": str, "boolean": bool, "integer": int, "number": float}


class Predictor(Protocol):
    """A trained network."""

    def predict(self, X: np.ndarray) -> Any:
        """The outputs (n, n_out)."""

    def predict_proba(self, X: np.ndarray) -> Any:
        """The class probabilities (n, n_out)."""


@dataclass(frozen=True)
class ClassTarget:
    """A target of classes. Output k of the network is the probability of labels[k], a label as the user wrote it."""

    name: str
    labels: tuple[Any, ...]
    kind: str

    def check(self) -> None:
        """Raise ValueError if a field cannot have been learned from a table."""
        if self.kind not in LABEL_TYPES or not all(type(label) is LABEL_TYPES[self.kind] for label in self.labels):
            kinds = ", ".join(LABEL_TYPES)
            raise ValueError(f"labels must be of one kind ({kinds}), got {shown(self.labels)} as {self.kind!r}")

    @property
    def n_out(self) -> int:
        """Number of outputs."""
        return len(self.labels)

    def encode(self, cells: Cells) -> np.ndarray:
        """The class indices (n,), int32."""
        index = {label: k for k, label in enumerate(self.labels)}
        return np.array([index[label_of(value, self.kind)] for value in cells], dtype=np.int32)

    def outputs(self, net: Predictor, X: np.ndarray) -> np.ndarray:
        """The class probabilities (n, n_out) that the network predicts."""
        return np.asarray(net.predict_proba(X))

    def decode(self, outputs: np.ndarray) -> np.ndarray:
        """The most probable labels (n,)."""
        labels: np.ndarray = np.array(self.labels)[outputs.argmax(axis=1)]
        return labels


@dataclass(frozen=True)
class NumericTarget:
    """A target of numbers. The network learns (y − mean) / scale.

    number_format  the format of texts in this column, None for numbers that `float` reads
    """

    name: str
    mean: float
    scale: float
    number_format: NumberFormat | None = None
    n_out = 1

    def check(self) -> None:
        """Raise ValueError if a field cannot have been learned from a table."""
        finite("mean", self.mean)
        positive("scale", self.scale)
        if self.number_format is not None:
            self.number_format.check()

    def encode(self, cells: Cells) -> np.ndarray:
        """The standardized targets (n, 1)."""
        y = as_floats(cells if self.number_format is None else self.number_format.read(cells))
        return ((y - self.mean) / self.scale)[:, None]

    def outputs(self, net: Predictor, X: np.ndarray) -> np.ndarray:
        """The standardized predictions (n, 1)."""
        return np.asarray(net.predict(X))

    def decode(self, outputs: np.ndarray) -> np.ndarray:
        """The predictions (n,) in the user's units."""
        a: np.ndarray = outputs[:, 0].astype(np.float64)
        return a * self.scale + self.mean


Target = ClassTarget | NumericTarget


def drop_missing_targets(frame: Frame, name: str) -> tuple[Frame, int]:
    """The rows that have a target, and the number of rows that have none.

    ValueError if there is no such column, or if no row has a target.
    """
    if name not in frame.columns:
        raise ValueError(
            f"target must be a column of the table, got {name!r}; there are {listed([*frame.columns], 20)}"
        )
    present = ~(is_missing_number(frame[name]) if find_format(frame[name]) else frame[name].isna().to_numpy())
    if not present.any():
        raise ValueError(f"column {name!r} has no value in any row: there is nothing to learn")
    if present.all():
        return frame, 0
    return frame[present], int((~present).sum())


def infer_target(cells: Cells, task: str = "auto") -> tuple[Target, str]:
    """Decide how a target is learned, and describe its values.

    Parameters
    ----------
    cells : pandas.Series
        The target of every row, none missing.
    task : {"auto", "classification", "regression"}
        "auto" means classification for text, booleans, and integers with at most 20 distinct values. 1.0 is an
        integer.

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
    number_format = None if task == "classification" else find_format(cells)
    if number_format is not None:
        numbers = number_format.numbers(cells)
        if task == "auto" and _is_class_like(numbers, _kind(numbers), numbers.nunique()):
            number_format = None  # classes are predicted as they are written
        else:
            cells = numbers
    name, kind = str(cells.name), _kind(cells)
    labels = [label_of(value, kind) for value in cells]
    distinct = len(set(labels))
    if distinct == 1:
        raise ValueError(f"column {name!r} contains {shown(labels[0])} in every row: there is nothing to learn")
    if task == "auto":
        task = "classification" if _is_class_like(cells, kind, distinct) else "regression"
    described = {"text": "text", "boolean": "true or false", "integer": "integers", "number": "numbers"}[kind]
    description = f"{described}{f' with {number_format}' if number_format else ''}, {distinct} distinct values"
    if task == "regression":
        return replace(_numeric_target(cells), number_format=number_format), description
    if kind == "number":
        as_floats(cells)  # refuses infinity, which a model file cannot store
    _check_number_of_classes(cells, distinct)
    return ClassTarget(name, tuple(sorted(set(labels))), kind), description


def _is_class_like(cells: Cells, kind: str, distinct: int) -> bool:
    """True if the task is classification unless the user says otherwise."""
    if kind == "text":
        is_categorical(cells)  # a column of numbers with a word among them is an error, not a set of classes
    return kind in ("text", "boolean") or (kind == "integer" and distinct <= MAX_INTEGER_CLASSES)


def _numeric_target(cells: Cells) -> NumericTarget:
    y, name = as_floats(cells), str(cells.name)
    mean, scale = mean_and_scale(y)
    if scale is None:
        raise ValueError(f"column {name!r} contains the same number in every row, up to rounding: nothing to learn")
    if np.abs(y).max() > MAX_TARGET:
        k = int(np.abs(y).argmax())
        raise ValueError(
            f"column {name!r} must be at most {MAX_TARGET:g} in magnitude, got {y[k]:.7g} in {place(cells, k)}: "
            "divide the column by a power of ten, or leave the cell empty"
        )
    return NumericTarget(name, mean, scale)


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


def label_of(value: Any, kind: str) -> Any:
    """One cell of a target as str, bool, int or float."""
    return as_string(value) if kind == "text" else LABEL_TYPES[kind](value)
