"""Input columns: learn an encoding from the training rows, turn cells into float32 inputs."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from ..validation import boolean, finite, positive
from .cells import MAX_INTEGER_CLASSES, Cells, as_floats, as_strings, floats_where_valid, mean_and_scale, place
from .number_formats import NumberFormat
from .table import shown

MAX_CATEGORIES = 100  # the most frequent ones become inputs


@dataclass(frozen=True)
class NumericColumn:
    """A numeric column, encoded as (x − mean) / scale and an indicator of missing cells, which take the median.

    scale          None if every training row contained the same number; the column has no standardized input then
    indicator      True if a training cell was missing: a second input is 1 for missing cells
    number_format  the format of texts in this column, None for numbers that `float` reads
    """

    name: str
    median: float
    mean: float
    scale: float | None
    indicator: bool
    number_format: NumberFormat | None = None

    @classmethod
    def fit(cls, cells: Cells, number_format: NumberFormat | None = None) -> NumericColumn:
        """Learn the column from training cells. ValueError names the first cell that is not a number."""
        x = as_floats(cells)
        missing = np.isnan(x)
        median = float(np.median(x[~missing]))
        x[missing] = median
        mean, scale = mean_and_scale(x)
        return cls(str(cells.name), median, mean, scale, bool(missing.any()), number_format)

    def check(self) -> None:
        """Raise ValueError if a field cannot have been learned from a table."""
        finite("median", self.median)
        finite("mean", self.mean)
        if self.scale is not None:
            positive("scale", self.scale)
        boolean("indicator", self.indicator)
        if self.number_format is not None:
            self.number_format.check()

    @property
    def width(self) -> int:
        """Number of inputs."""
        return (self.scale is not None) + self.indicator

    def encode(self, cells: Cells) -> tuple[np.ndarray, list[str]]:
        """The inputs (n, width), float32, and notes about cells that are not numbers, and that training did not see.

        A cell that is not a number counts as missing. ValueError names the first number that float32 cannot represent
        after scaling.
        """
        x, invalid = floats_where_valid(cells if self.number_format is None else self.number_format.read(cells))
        missing = np.isnan(x)
        x[missing] = self.median
        inputs = [] if self.scale is None else [self._standardize(x, self.scale, cells)]
        if self.indicator:
            inputs.append(missing)
        return np.column_stack(inputs).astype(np.float32), self._notes(cells, missing & ~invalid, invalid)

    def _notes(self, cells: Cells, missing: np.ndarray, invalid: np.ndarray) -> list[str]:
        """Count the cells that are not numbers, and those that are missing if training had none."""
        notes = []
        if invalid.any():
            k = int(invalid.argmax())
            notes.append(
                f"column {self.name!r}: {int(invalid.sum())} of {len(cells)} cells are not numbers, the first is "
                f"{shown(str(cells.iloc[k]))} in {place(cells, k)}; they count as missing, and the median "
                f"{self.median:.7g} is used"
            )
        if missing.any() and not self.indicator:
            notes.append(
                f"column {self.name!r}: {int(missing.sum())} of {len(cells)} cells are missing, which training did not "
                f"see; the median {self.median:.7g} is used"
            )
        return notes

    def _standardize(self, x: np.ndarray, scale: float, cells: Cells) -> np.ndarray:
        with np.errstate(over="ignore"):
            z: np.ndarray = (x - self.mean) / scale
        too_large = np.abs(z) > np.finfo(np.float32).max
        if too_large.any():
            k = int(too_large.argmax())
            raise ValueError(
                f"column {self.name!r} must be close to the training rows (mean {self.mean:.4g}, standard deviation "
                f"{scale:.4g}), got {x[k]:.7g} in {place(cells, k)}; correct the cell or leave it empty"
            )
        return z


@dataclass(frozen=True)
class CategoricalColumn:
    """A categorical column, one-hot encoded. None is the category of missing cells.

    values  the categories that have an input
    rare    the other categories of the training rows; empty if they are not known
    """

    name: str
    values: tuple[str | None, ...]
    rare: tuple[str | None, ...] = ()

    @classmethod
    def fit(cls, cells: Cells) -> tuple[CategoricalColumn | None, str]:
        """Learn the column from training cells: the most frequent categories.

        Returns the column and a note for the user. The column is None if its cells look like identifiers.
        """
        name = str(cells.name)
        counts = Counter(as_strings(cells))
        n_missing = counts.get(None, 0)
        n_present = counts.total() - n_missing
        n_categories = len(counts) - (None in counts)
        if n_categories > MAX_INTEGER_CLASSES and 2 * n_categories > n_present:
            note = (
                f"left out: column {name!r} has {n_categories} distinct texts in {n_present} rows, such as names, "
                "dates or identifiers, which do not generalize to other rows"
            )
            return None, note
        note = ""
        if len(counts) > MAX_CATEGORIES:
            note = f"column {name!r} has {n_categories} categories: the {MAX_CATEGORIES} most frequent are used"
        by_count = sorted(counts, key=lambda value: (-counts[value], value or ""))
        frequent = [] if len(by_count) == 1 else by_count[:MAX_CATEGORIES]
        values = sorted(frequent, key=lambda value: (value is None, value or ""))
        return cls(name, tuple(values), tuple(by_count[MAX_CATEGORIES:])), note

    def check(self) -> None:
        """Raise ValueError if a field cannot have been learned from a table."""
        for field, values in (("values", self.values), ("rare", self.rare)):
            if not all(value is None or isinstance(value, str) for value in values):
                raise ValueError(f"{field} must be text, or null for missing cells, got {shown(values)}")

    @property
    def width(self) -> int:
        """Number of inputs."""
        return len(self.values)

    def encode(self, cells: Cells) -> tuple[np.ndarray, list[str]]:
        """The inputs (n, width), float32, and notes about cells without an input, whose row is all zero."""
        index = {value: k for k, value in enumerate(self.values)}
        values = as_strings(cells)
        indices = np.array([index.get(value, -1) for value in values])
        x = np.zeros((len(indices), self.width), np.float32)
        known = np.flatnonzero(indices >= 0)
        x[known, indices[known]] = 1
        return x, self._notes([value for value, k in zip(values, indices, strict=True) if k < 0], len(values))

    def _notes(self, without_input: list[str | None], n: int) -> list[str]:
        """Count the cells without an input: rare in training, not in training, or empty."""
        rare = set(self.rare)
        n_missing = without_input.count(None)
        n_rare = sum(value is not None and value in rare for value in without_input)
        n_unknown = len(without_input) - n_missing - n_rare
        unknown = "a category that training did not see"
        if len(self.values) == MAX_CATEGORIES and not rare:
            unknown = "a category that was rare in training, or that training did not see"
        counts = {
            f"contain a category that was rare in training, and is not among the {MAX_CATEGORIES} used": n_rare,
            f"contain {unknown}": n_unknown,
            f"are missing, which training {'rarely saw' if None in rare else 'did not see'}": n_missing,
        }
        return [
            f"column {self.name!r}: {count} of {n} cells {text}; they count as no category"
            for text, count in counts.items()
            if count
        ]
