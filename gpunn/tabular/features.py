"""Input columns: learn an encoding from training cells, turn cells into float32 inputs."""

from __future__ import annotations

import datetime
import re
from collections import Counter
from dataclasses import dataclass, replace

import numpy as np

from ..validation import boolean, finite, positive
from .cells import MISSING_NUMBERS
from .table import DATE, Cells, shown

MAX_CATEGORIES = 100  # the most frequent ones become inputs
MIN_ROWS_OF_CATEGORY = 2  # categories of fewer training rows share one input
CLIP = 3.0  # scaled numbers beyond it are compressed
MAX_SCALED = 1e100  # squares of scaled numbers are finite up to here
LARGEST = float(np.finfo(np.float64).max) / 4  # larger numbers count as this one, so that differences are finite
ISO_DATE = re.compile(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d:?\d\d)?)?", re.ASCII)


@dataclass(frozen=True)
class NumericColumn:
    """A numeric column: scaled and smoothly clipped, piecewise linear in bins, and an indicator of missing cells.

    With z = (x − center)/scale, the inputs are z/√(1 + (z/c)²), whose size is less than c; for each bin [eₜ₋₁, eₜ] the
    share min(max((x − eₜ₋₁)/(eₜ − eₜ₋₁), 0), 1) of it that is below x; and 1 where x is missing. A missing x takes the
    median.

    median     of the training cells
    center     the median, or the smaller number of a column of two numbers
    scale      the interquartile range, or half of the range if that is 0; None if all training cells are equal
    indicator  True if a training cell was missing
    edges      the quantiles e₀ < e₁ < …, () without bins
    clip       c, None for z as it is

    References
    ----------
    Gorishniy et al. 2022 (piecewise linear encoding); Holzmüller et al. 2024 (robust scaling with a smooth clip).
    """

    name: str
    median: float
    center: float
    scale: float | None
    indicator: bool
    edges: tuple[float, ...] = ()
    clip: float | None = None

    @classmethod
    def fit(cls, cells: Cells, bins: int) -> NumericColumn | None:
        """Learn the column from training cells, with at most `bins` bins. None if no cell has a number."""
        x = np.clip(cells.values, -LARGEST, LARGEST)
        missing = np.isnan(x)
        if missing.all():
            return None
        median = float(np.median(x[~missing]))
        x = np.where(missing, median, x)
        indicator = bool(missing.any())
        distinct = np.unique(x)
        if len(distinct) == 1:
            return cls(cells.name, median, median, None, indicator)
        if len(distinct) == 2:
            low, high = map(float, distinct)
            return cls(cells.name, median, low, high - low, indicator)
        q1, q3 = np.quantile(x, [0.25, 0.75])
        scale = float(q3 - q1 or (distinct[-1] - distinct[0]) / 2)
        edges = np.unique(np.quantile(x, np.linspace(0, 1, bins + 1))) if bins > 1 else distinct[:0]
        return cls(
            cells.name, median, median, scale, indicator, tuple(map(float, edges)) if len(edges) > 2 else (), CLIP
        )

    def check(self) -> None:
        """Raise ValueError if a field cannot have been learned from a table."""
        finite("median", self.median)
        finite("center", self.center)
        if self.scale is not None:
            positive("scale", self.scale)
        if self.clip is not None:
            positive("clip", self.clip)
        boolean("indicator", self.indicator)
        for edge in self.edges:
            finite("edges", edge)
        if not all(a < b for a, b in zip(self.edges, self.edges[1:], strict=False)) or len(self.edges) == 1:
            raise ValueError(f"edges must increase, got {self.edges}")

    @property
    def width(self) -> int:
        """Number of inputs."""
        return (self.scale is not None) + max(len(self.edges) - 1, 0) + self.indicator

    @property
    def description(self) -> str:
        """The encoding, for the user."""
        parts = [] if self.scale is None else ["scaled" if self.clip is None else "scaled and clipped"]
        parts += [f"{len(self.edges) - 1} bins"] if self.edges else []
        return ", ".join(parts + ["missing"] * self.indicator)

    def encode(self, cells: Cells, into: np.ndarray) -> list[str]:
        """Write the inputs (n, width), and return notes about cells that are not numbers or that training did not see.

        TypeError if the column contains dates, or texts none of which is a number.
        """
        x, invalid = numbers(cells)
        missing = np.isnan(x)
        x = np.clip(np.where(missing, self.median, x), -LARGEST, LARGEST)
        k = 0
        if self.scale is not None:
            with np.errstate(over="ignore"):
                z = (x - self.center) / self.scale
            if self.clip is not None:
                z = np.clip(z, -MAX_SCALED, MAX_SCALED)
                z = z / np.sqrt(1 + (z / self.clip) ** 2)
            else:
                _check_float32(self, z, x, cells)
            into[:, 0] = z
            k = 1
        if self.edges:
            edges = np.array(self.edges)
            with np.errstate(over="ignore"):
                share = x[:, None] - edges[:-1]
                share /= np.diff(edges)  # in place, since fresh memory takes most of the time
            np.clip(share, 0, 1, out=into[:, k : k + len(edges) - 1], casting="same_kind")
        if self.indicator:
            into[:, -1] = missing
        return self._notes(cells, missing & ~invalid, invalid)

    def _notes(self, cells: Cells, missing: np.ndarray, invalid: np.ndarray) -> list[str]:
        """Count the cells that are not numbers, and those that are missing if training had none."""
        notes = []
        if invalid.any():
            k = int(invalid.argmax())
            notes.append(
                f"column {self.name!r}: {int(invalid.sum())} of {len(cells)} cells are not numbers, the first is "
                f"{shown(cells.values[k])} in {cells.where(k)}; they count as missing, and the median "
                f"{self.median:.7g} is used"
            )
        if missing.any() and not self.indicator:
            notes.append(
                f"column {self.name!r}: {int(missing.sum())} of {len(cells)} cells are missing, which training did not "
                f"see; the median {self.median:.7g} is used"
            )
        return notes


@dataclass(frozen=True)
class CategoricalColumn:
    """A categorical column, one-hot encoded. None is the category of missing cells.

    Two categories make one input, which is 1 for the second.

    values      the categories that have an input
    rare        the other categories of the training rows; empty if they are not stored
    rare_input  True if all other categories share the last input
    """

    name: str
    values: tuple[str | None, ...]
    rare: tuple[str | None, ...] = ()
    rare_input: bool = False
    binary: bool = False

    @classmethod
    def fit(
        cls, cells: Cells, max_categories: int = MAX_CATEGORIES, *, missing_level: bool = True
    ) -> CategoricalColumn:
        """Learn the column from training cells: the `max_categories` most frequent categories."""
        counts = Counter(texts(cells))
        if not missing_level:
            counts.pop(None, None)
        by_count = sorted(counts, key=lambda value: (-counts[value], value or ""))
        single = {value for value in by_count if counts[value] < MIN_ROWS_OF_CATEGORY and value is not None}
        frequent = [value for value in by_count if value not in single] if len(single) > 1 else by_count
        values = sorted(frequent[:max_categories], key=lambda value: (value is None, value or ""))
        if len(by_count) == 1 or not values:
            return cls(cells.name, ())
        used = set(values)
        rare = tuple(value for value in by_count if value not in used)
        if len(values) == 2 and not rare:
            return cls(cells.name, tuple(values), binary=True)
        return cls(cells.name, tuple(values), rare, rare_input=bool(rare))

    def check(self) -> None:
        """Raise ValueError if a field cannot have been learned from a table."""
        for field, values in (("values", self.values), ("rare", self.rare)):
            if not all(value is None or isinstance(value, str) for value in values):
                raise ValueError(f"{field} must be text, or null for missing cells, got {shown(values)}")
        if len(set(self.values)) < len(self.values):
            raise ValueError(f"values must differ, got {shown(self.values)}")
        rare_input = boolean("rare_input", self.rare_input)
        if boolean("binary", self.binary) and (len(self.values) != 2 or rare_input):
            raise ValueError(f"a binary column must have two categories, got {shown(self.values)}")

    @property
    def width(self) -> int:
        """Number of inputs."""
        return 1 if self.binary else len(self.values) + self.rare_input

    @property
    def description(self) -> str:
        """The encoding, for the user."""
        if self.binary:
            return f"1 for {self.values[1]!r}" if self.values[1] is not None else "1 for missing"
        return f"{len(self.values)} categories" + (", rare" if self.rare_input else "")

    def encode(self, cells: Cells, into: np.ndarray) -> list[str]:
        """Write the inputs (n, width), and return notes about cells without an input of their own."""
        index = {value: k for k, value in enumerate(self.values)}
        found = texts(cells)
        indices = np.array([index.get(value, -1) for value in found], dtype=np.int64)
        known = np.flatnonzero(indices >= 0)
        into[:] = 0
        if self.binary:
            into[:, 0] = indices == 1
        else:
            into[known, indices[known]] = 1
        without = [value for value, k in zip(found, indices, strict=True) if k < 0]
        if self.rare_input:
            into[indices < 0, -1] = 1
            rare = set(self.rare)
            without = [value for value in without if value not in rare and rare]
        return self._notes(without, len(found))

    def _notes(self, without_input: list[str | None], n: int) -> list[str]:
        """Count the cells without an input: rare in training, not in training, or missing."""
        rare = set(self.rare)
        n_missing = without_input.count(None)
        n_rare = sum(value is not None and value in rare for value in without_input)
        n_unknown = len(without_input) - n_missing - n_rare
        if self.binary:
            effect = "they count as missing" if self.values[0] is None else f"they count as {shown(self.values[0])}"
        else:
            effect = "they count as rare" if self.rare_input else "they count as no category"
        cases = (
            (n_rare, f"contain a category that was rare in training, and is not among the {len(self.values)} used"),
            (n_unknown, "contain a category that training did not see"),
            (n_missing, "are missing, which training did not see"),
        )
        return [f"column {self.name!r}: {count} of {n} cells {what}; {effect}" for count, what in cases if count]


Part = NumericColumn | CategoricalColumn


@dataclass(frozen=True)
class DateColumn:
    """A column of dates: elapsed days, year, month, weekday and hour, each encoded as a column.

    parts  encoded quantities by their keys in `QUANTITIES`; those that are equal in all training rows are left out
    """

    name: str
    parts: tuple[tuple[str, Part], ...]

    @classmethod
    def fit(cls, cells: Cells, bins: int) -> DateColumn | None:
        """Learn the column from training cells, None if no cell has a date."""
        parts: list[tuple[str, Part]] = []
        for key in QUANTITIES:
            quantity = _quantity(cells, key)
            is_number = quantity.kind == "number"
            part = (
                NumericColumn.fit(quantity, bins) if is_number else CategoricalColumn.fit(quantity, missing_level=False)
            )
            if part is None:
                return None
            if isinstance(part, NumericColumn) and key != "day":
                part = replace(part, indicator=False)
            if part.width:
                parts.append((key, part))
        return cls(cells.name, tuple(parts))

    def check(self) -> None:
        """Raise ValueError if a field cannot have been learned from a table."""
        keys = [key for key, _ in self.parts]
        if len(set(keys)) < len(keys) or not set(keys) <= set(QUANTITIES):
            raise ValueError(f"parts of a date must be {', '.join(QUANTITIES)}, got {shown(keys)}")
        for key, part in self.parts:
            if isinstance(part, DateColumn) or part.name != self.name:
                raise ValueError(f"part {key!r} of the date {self.name!r} must be numbers or categories of that column")
            part.check()

    @property
    def width(self) -> int:
        """Number of inputs."""
        return sum(part.width for _, part in self.parts)

    @property
    def description(self) -> str:
        """The encoding, for the user."""
        return "; ".join(f"{key}: {part.description}" for key, part in self.parts)

    def encode(self, cells: Cells, into: np.ndarray) -> list[str]:
        """Write the inputs (n, width). TypeError if the column does not contain dates."""
        if cells.kind == "text":
            read = dates_of(cells)
            if read is None:
                other = np.array([text is not None and _iso_date(text) is None for text in cells.values])
                raise TypeError(
                    f"column {self.name!r} must contain dates such as 2026-01-31, got {_example(cells, other)}"
                )
            cells = read
        if cells.kind == "number" and not cells.missing.all():
            raise TypeError(f"column {self.name!r} must contain dates as in training, got numbers")
        if cells.kind == "number":
            cells = replace(cells, kind="date", values=np.full(len(cells), "NaT", dtype=DATE))
        left, notes = 0, []
        for key, part in self.parts:
            found = part.encode(_quantity(cells, key), into[:, left : left + part.width])
            notes += found if key == "day" else []
            left += part.width
        return notes


def _quantity(cells: Cells, key: str) -> Cells:
    """A quantity of dates as a column."""
    days = cells.values.astype("datetime64[D]")
    if key == "day":
        x: np.ndarray = (cells.values - np.datetime64(0, "us")) / np.timedelta64(1, "D")
        return replace(cells, kind="number", values=np.where(cells.missing, np.nan, x))
    if key == "year":
        years = cells.values.astype("datetime64[Y]").astype(np.int64) + 1970
        return replace(cells, kind="number", values=np.where(cells.missing, np.nan, years))
    if key == "month":
        k = cells.values.astype("datetime64[M]").astype(np.int64) % 12 + 1
    elif key == "weekday":
        k = (days.astype(np.int64) + 3) % 7 + 1  # 1970-01-01 was a Thursday; 1 is Monday
    else:
        k = (cells.values - days).astype("timedelta64[h]").astype(np.int64)
    found = k.astype(str).astype(object)
    found[cells.missing] = None
    return replace(cells, kind="text", values=found)


QUANTITIES = ("day", "year", "month", "weekday", "hour")
Column = NumericColumn | CategoricalColumn | DateColumn


def numbers(cells: Cells) -> tuple[np.ndarray, np.ndarray]:
    """A column as float64, NaN for other cells, and a mask of the cells that are neither finite numbers nor missing.

    TypeError if the column contains dates, or texts none of which is a number.
    """
    none = np.zeros(len(cells), dtype=bool)
    if cells.kind == "number":
        return cells.values, none
    if cells.kind == "date":
        if not cells.missing.all():
            raise TypeError(f"column {cells.name!r} must contain numbers as in training, got dates")
        return np.full(len(cells), np.nan), none
    x = np.array([_number(text) for text in cells.values], dtype=np.float64).reshape(len(cells))
    absent = np.array([text is None or text in MISSING_NUMBERS for text in cells.values], dtype=bool)
    invalid = ~np.isfinite(x) & ~absent
    x[invalid] = np.nan
    if invalid.any() and np.isnan(x).all():
        raise TypeError(f"column {cells.name!r} must contain numbers as in training, got {_example(cells, invalid)}")
    return x, invalid


def _number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return np.nan


def texts(cells: Cells) -> list[str | None]:
    """A column as texts, None for missing cells. A whole number has no decimal point."""
    if cells.kind == "text":
        return list(cells.values)
    if cells.kind == "date":
        return [None if np.isnat(value) else str(value) for value in cells.values]
    return [None if x != x else str(int(x)) if x.is_integer() else str(x) for x in cells.values.tolist()]


def dates_of(cells: Cells) -> Cells | None:
    """A column of texts that all are dates in ISO 8601 as a column of dates, otherwise None."""
    found = np.full(len(cells), "NaT", dtype=DATE)
    for k in np.flatnonzero(~cells.missing):
        date = _iso_date(cells.values[k])
        if date is None:
            return None
        found[k] = date
    return replace(cells, kind="date", values=found)


def _iso_date(text: str) -> np.datetime64 | None:
    """A date in ISO 8601, in UTC if it has a time zone. None for other text."""
    found = ISO_DATE.fullmatch(text)
    if found is None:
        return None
    try:
        date = datetime.datetime.fromisoformat(text)
        return np.datetime64(date if date.tzinfo is None else date.astimezone(datetime.UTC).replace(tzinfo=None), "us")
    except (ValueError, OverflowError):
        return None


def _example(cells: Cells, wrong: np.ndarray) -> str:
    """The first of the wrong cells with its place."""
    k = int(wrong.argmax())
    return f"{shown(cells.values[k])} in {cells.where(k)}"


def _check_float32(column: NumericColumn, z: np.ndarray, x: np.ndarray, cells: Cells) -> None:
    """Raise ValueError if float32 cannot represent a scaled number."""
    too_large = np.abs(z) > np.finfo(np.float32).max
    if too_large.any():
        k = int(too_large.argmax())
        raise ValueError(
            f"column {column.name!r} must be close to the training rows (center {column.center:.4g}, scale "
            f"{column.scale:.4g}), got {x[k]:.7g} in {cells.where(k)}; correct the cell or leave it empty"
        )
