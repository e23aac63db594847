"""Tables of numbers and categories: from their rows to a network's inputs, and from its outputs to the user's answers.

`TableEncoder.from_training_rows` learns it, as plain numbers and words; `TableModel` keeps it with the network in
one file, so that a prediction takes a table as the user has it and answers in the user's labels and units.
"""

from __future__ import annotations

import contextlib
import csv
import json
import logging
import os
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .interchange import onnx
from .model import Sequential
from .training import checkpoint
from .training.checkpoint import CheckpointError
from .validation import boolean, finite, positive

Frame = Any  # pandas.DataFrame
Cells = Any  # pandas.Series

CLASSES = 20  # integers with at most so many distinct values are classes
CATEGORIES = 100  # the most frequent that become columns of their own
LARGEST = 1e150  # of a target: its squares, and float32 outputs times its scale, are finite in float64
KINDS = {"text": str, "boolean": bool, "integer": int, "number": float}  # of labels
SPACE = checkpoint.MAX_HEADER - 1_000_000  # bytes of a model file for its encoding

MISSING = ("", "?")  # cells without a value, in every column
# the same in a column whose other cells are all numbers, or all true or false
MISSING_NUMBERS = (
    *MISSING, "NA", "N/A", "n/a", "<NA>", "#NA", "#N/A", "#N/A N/A", "NaN", "nan", "-NaN", "-nan", "NULL", "null",
    "None", "1.#IND", "-1.#IND", "1.#QNAN", "-1.#QNAN",
)  # fmt: skip

_log = logging.getLogger("gpunn")


def pandas() -> Any:
    """The module pandas. ImportError names the extra where it is absent."""
    try:
        import pandas as pd
    except ImportError:
        raise ImportError('reading tables needs pandas: pip install "gpunn[cli]"') from None
    return pd


def read_csv(path: str | os.PathLike[str], words: tuple[str, ...] = (), missing: tuple[str, ...] = MISSING) -> Frame:
    """Read a CSV file with a line of names; comma, semicolon, tab and bar are told apart by that line.

    words    columns of words, kept as written; others are such columns where a cell is neither a number nor missing
    missing  the cells of such columns that are missing; in columns of numbers, or of true and false, MISSING_NUMBERS

    OSError where the file cannot be read, ValueError where it is no such table.
    """
    file = _CsvFile.of(Path(path))
    known = [k for k, name in enumerate(file.names) if name in words]
    frame = file.read({k: missing if k in known else MISSING_NUMBERS for k in range(len(file.names))}, known)
    # None and NA are words in a column of words, and only now is it known which these are
    found = [k for k in frame.columns if k not in known and frame[k].isna().any() and not _holds_numbers(frame[k])]
    if found:
        again = file.read(dict.fromkeys(found, missing), found)
        for k in found:
            frame[k] = again[k]
    frame.columns = file.names
    if len(frame) == 0:
        raise ValueError(f"{path} has no rows below its line of names")
    # a first column without a name holds row numbers, as pandas and spreadsheets write them
    for k, name in enumerate(file.names):
        if k and not name and not frame.iloc[:, k].isna().all():
            _log.warning(f"column {k + 1} of {path} has no name and is not used")
    return frame[[name for name in file.names if name]]


def read_column(path: str | os.PathLike[str], name: str) -> Cells:
    """Read one column of a CSV file as text, every cell as written. Errors as in `read_csv`."""
    file = _CsvFile.of(Path(path))
    k = file.names.index(name)
    return file.read({k: ()}, [k])[k].fillna("").rename(name)


@dataclass(frozen=True)
class _CsvFile:
    """A CSV file and the names in its first line."""

    path: Path
    separator: str
    names: list[str]

    @classmethod
    def of(cls, path: Path) -> _CsvFile:
        with _named_errors(path), path.open(encoding="utf-8-sig", newline="") as file:
            head = _outside_quotes(file.readline())
            separator = max(",;\t|", key=head.count)
            file.seek(0)
            names = [name.strip() for name in next(csv.reader(file, delimiter=separator, skipinitialspace=True), [])]
        if not any(names):
            raise ValueError(f"{path} is empty: its first line should name the columns")
        twice = sorted({name for name in names if name and names.count(name) > 1})
        if twice:
            raise ValueError(f"{path} has more than one column {_listed(twice)}: give each a name of its own")
        return cls(path, separator, names)

    def read(self, missing: dict[int, tuple[str, ...]], words: list[int]) -> Frame:
        """The columns in `missing`, by their position in the file, with row numbers from 1.

        missing  the spellings of a missing cell in each column
        words    the columns that are kept as text
        """
        pd = pandas()
        # pandas does not look for lines that are too long where it is given the columns
        columns = None if len(missing) == len(self.names) else sorted(missing)
        with _named_errors(self.path), warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            frame = pd.read_csv(
                self.path,
                sep=self.separator,
                encoding="utf-8-sig",
                skipinitialspace=True,
                header=0,
                names=range(len(self.names)),
                usecols=columns,
                keep_default_na=False,
                na_values={k: list(spellings) for k, spellings in missing.items()},
                dtype=dict.fromkeys(words, str),
                low_memory=False,
                index_col=False,  # a line too long warns, where pandas would otherwise shift the names
                skip_blank_lines=len(self.names) > 1,  # of a single column it is a missing cell
            )
        frame.index = range(1, len(frame) + 1)
        return frame


@contextlib.contextmanager
def _named_errors(path: Path) -> Iterator[None]:
    """ValueError with the file's name for what the readers of CSV raise."""
    pd = pandas()
    try:
        yield
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not text in UTF-8 (byte {error.start}: {error.reason}): save it as UTF-8"
        ) from None
    except pd.errors.ParserWarning:
        raise ValueError(f"{path} has lines with more cells than its first line has names") from None
    except (pd.errors.ParserError, csv.Error) as error:
        reason = " ".join(str(error).removeprefix("Error tokenizing data. C error: ").split())
        raise ValueError(f"{path} is not a CSV table: {reason}") from None


def _outside_quotes(line: str) -> str:
    """A line without its quoted cells. A quote opens a cell at its beginning only."""
    return re.sub(r'(^|[,;\t|])\s*"(?:[^"]|"")*("|$)', r"\1", line)


# --- columns ---


@dataclass(frozen=True)
class NumericColumn:
    """A numeric column as (x − mean) / scale, and 1 where the cell was missing and the median stands in for it.

    scale      None: every training row held the same number, which tells nothing
    indicator  whether a training cell was missing
    """

    name: str
    median: float
    mean: float
    scale: float | None
    indicator: bool

    def check(self) -> None:
        """ValueError where a field cannot come from a table."""
        finite("median", self.median)
        finite("mean", self.mean)
        if self.scale is not None:
            positive("scale", self.scale)
        boolean("indicator", self.indicator)

    @property
    def width(self) -> int:
        return (self.scale is not None) + self.indicator

    def encode(self, cells: Cells) -> tuple[np.ndarray, list[str]]:
        """The inputs (n, width), float32, and a note on missing cells if training saw none.

        ValueError names the first cell that is not a number, or too large a one.
        """
        x = as_floats(cells)
        missing = np.isnan(x)
        x[missing] = self.median
        columns = [] if self.scale is None else [self._standardised(x, self.scale, cells)]
        notes = []
        if missing.any() and not self.indicator:
            notes.append(
                f"column {self.name!r}: {int(missing.sum())} of {len(x)} cells are missing, which training did not "
                f"see; the median {self.median:.7g} is used"
            )
        return np.column_stack([*columns, *([missing] if self.indicator else [])]).astype(np.float32), notes

    def _standardised(self, x: np.ndarray, scale: float, cells: Cells) -> np.ndarray:
        with np.errstate(over="ignore"):
            z: np.ndarray = (x - self.mean) / scale
        wrong = np.abs(z) > np.finfo(np.float32).max
        if wrong.any():
            k = int(wrong.argmax())
            raise ValueError(
                f"column {self.name!r} holds {x[k]:.7g} in row {cells.index[k]}, which is too far from the numbers of "
                f"the training rows (mean {self.mean:.4g}, standard deviation {scale:.4g}); correct the cell, or "
                "leave it empty"
            )
        return z


@dataclass(frozen=True)
class CategoricalColumn:
    """A column of categories: one input for each, 1 where the cell holds it. None is the category of a missing cell."""

    name: str
    values: tuple[str | None, ...]

    def check(self) -> None:
        """ValueError where a field cannot come from a table."""
        if not all(value is None or isinstance(value, str) for value in self.values):
            raise ValueError("values must be texts, or null for missing cells")

    @property
    def width(self) -> int:
        return len(self.values)

    def encode(self, cells: Cells) -> tuple[np.ndarray, list[str]]:
        """The inputs (n, width), float32, and notes on cells whose category is none of these: their row is all zero."""
        places = {value: k for k, value in enumerate(self.values)}
        words = as_strings(cells)
        place = np.array([places.get(word, -1) for word in words])
        x = np.zeros((len(place), self.width), np.float32)
        known = np.flatnonzero(place >= 0)
        x[known, place[known]] = 1
        missing = 0 if None in places else words.count(None)
        unseen = len(place) - len(known) - missing
        notes = []
        if unseen:
            notes.append(
                f"column {self.name!r}: {unseen} of {len(words)} cells hold a category that training did not see"
            )
        if missing:
            notes.append(
                f"column {self.name!r}: {missing} of {len(words)} cells are missing, which training did not see; they "
                "count as no category"
            )
        return x, notes


@dataclass(frozen=True)
class ClassTarget:
    """A target of classes: the user's own labels, in order; the network's output k stands for labels[k]."""

    name: str
    labels: tuple[Any, ...]
    kind: str

    def check(self) -> None:
        """ValueError where a field cannot come from a table."""
        if self.kind not in KINDS or not all(type(label) is KINDS[self.kind] for label in self.labels):
            raise ValueError(f"labels must be of kind {self.kind!r}, one of {', '.join(KINDS)}")

    @property
    def n_out(self) -> int:
        return len(self.labels)

    def encode(self, cells: Cells) -> np.ndarray:
        """The indices (n,) of the labels."""
        place = {label: k for k, label in enumerate(self.labels)}
        return np.array([place[_label(value, self.kind)] for value in cells], dtype=np.int32)

    def outputs(self, net: Sequential, X: np.ndarray) -> np.ndarray:
        """The probabilities (n, n_out) that the network gives to rows of inputs."""
        return np.asarray(net.predict_proba(X))

    def decode(self, outputs: np.ndarray) -> np.ndarray:
        """The labels (n,) for `outputs`."""
        labels: np.ndarray = np.array(self.labels)[outputs.argmax(axis=1)]
        return labels


@dataclass(frozen=True)
class NumericTarget:
    """A target of numbers, which the network learns as (y − mean) / scale and answers in the user's units."""

    name: str
    mean: float
    scale: float
    n_out = 1

    def check(self) -> None:
        """ValueError where a field cannot come from a table."""
        finite("mean", self.mean)
        positive("scale", self.scale)

    def encode(self, cells: Cells) -> np.ndarray:
        """The standardised targets (n, 1)."""
        return ((as_floats(cells) - self.mean) / self.scale)[:, None]

    def outputs(self, net: Sequential, X: np.ndarray) -> np.ndarray:
        """The standardised predictions (n, 1) that the network gives to rows of inputs."""
        return np.asarray(net.predict(X))

    def decode(self, outputs: np.ndarray) -> np.ndarray:
        """The predictions (n,) in the user's units for `outputs`."""
        a: np.ndarray = outputs[:, 0].astype(np.float64)
        return a * self.scale + self.mean


@dataclass
class TableEncoder:
    """What each column becomes, learned from the training rows.

    notes    what was left out, and why, for the user
    missing  the cells of columns of words that are missing, as they are written in a CSV file
    """

    columns: list[NumericColumn | CategoricalColumn]
    target: ClassTarget | NumericTarget
    notes: list[str] = field(default_factory=list)
    missing: tuple[str, ...] = MISSING

    @classmethod
    def from_training_rows(cls, frame: Frame, target: ClassTarget | NumericTarget, rows: np.ndarray) -> TableEncoder:
        """Learn the columns from `rows` of a table (indices), the target left aside.

        ValueError where a column has no value, holds text among numbers, or none tells anything, and where its
        categories or labels are too long to be saved.
        """
        columns: list[NumericColumn | CategoricalColumn] = []
        notes: list[str] = []
        useless: list[str] = []
        for name in frame.columns:
            if name == target.name:
                continue
            words = is_categorical(frame[name])
            cells = frame[name].iloc[rows]
            if cells.isna().all():
                useless.append(name)
                continue
            column = _categories(cells, notes) if words else _numbers(cells)
            if column is not None and column.width:
                columns.append(column)
            elif column is not None:
                useless.append(name)
        if useless:
            notes.append(f"left out, the same in every row: {_listed(useless)}")
        if not columns:
            raise ValueError(f"no column beside {target.name!r} to learn from: {'; '.join(notes) or 'there is none'}")
        encoding = cls(columns, target, notes)
        encoding._check_space(frame)
        return encoding

    def _check_space(self, frame: Frame) -> None:
        """ValueError where a model file has no space for the encoding; it names the longest text's column and row."""
        needed = len(json.dumps(json.dumps(self.get_config())))  # metadata is a JSON string in a JSON header
        if needed <= SPACE:
            return
        texts: list[tuple[str, str]] = []
        for column in (*self.columns, self.target):
            values = {CategoricalColumn: "values", ClassTarget: "labels"}.get(type(column), "")
            texts += [(column.name, text) for text in getattr(column, values, ()) if isinstance(text, str)]
        where = ""
        if texts:
            name, text = max(texts, key=lambda found: len(found[1]))
            row = frame.index[as_strings(frame[name]).index(text)]
            where = f"; the longest text has {len(text)} characters, in column {name!r}, row {row}"
        raise ValueError(
            f"names, categories and labels need {needed} bytes in the model file, which has space for {SPACE}{where}: "
            "shorten such texts, or leave out columns"
        )

    def encode(self, frame: Frame) -> tuple[np.ndarray, list[str]]:
        """The inputs (n, width) of a table's rows, float32, and notes on cells that training did not see.

        ValueError where a column lacks, holds text among numbers, or a number too far from those of training.
        """
        lacking = [column.name for column in self.columns if column.name not in frame.columns]
        if lacking:
            raise ValueError(f"the table lacks what the model was trained on: column {_listed(lacking)}")
        parts, notes = [], []
        for column in self.columns:
            part, found = column.encode(frame[column.name])
            parts.append(part)
            notes += found
        return np.hstack(parts), notes

    def get_config(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "columns": [{"type": type(c).__name__, **vars(c)} for c in self.columns],
            "target": {"type": type(self.target).__name__, **vars(self.target)},
            "missing": self.missing,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> TableEncoder:
        """The inverse of `get_config`. KeyError, TypeError or ValueError where it is not one."""
        columns = [_from_config(c) for c in config["columns"]]
        # without the field it is from a version that read all columns alike
        missing = tuple(str(spelling) for spelling in config.get("missing", MISSING_NUMBERS))
        target = _from_config(config["target"])
        for column in (*columns, target):
            column.check()
        return cls(columns, target, missing=missing)


class TableModel:
    """A network with the encoding of the tables that it answers for: what `gpunn train` saves.

    net       the `Sequential`
    encoding  what each column becomes
    source    where the training table came from, in words
    """

    def __init__(self, net: Sequential, encoding: TableEncoder, source: str = "") -> None:
        self.net, self.encoder, self.source = net, encoding, source

    @property
    def target(self) -> str:
        """The name of the column that is predicted."""
        return self.encoder.target.name

    def predict(self, table: Frame | str | os.PathLike[str]) -> np.ndarray:
        """The answers (n,) for the rows of a DataFrame or a CSV file: the user's own labels, or numbers in their units.

        Columns are found by name; others are ignored. In a CSV file a cell is missing where it is empty or "?", and in
        a column of numbers also where it is NA, NaN, null, None or the like. Cells of a category that training did not
        see count as none, and `logging` says how many. ValueError where a column lacks, holds text among numbers, or a
        number so large that the network's output is not finite.
        """
        if isinstance(table, (str, os.PathLike)):
            words = tuple(c.name for c in self.encoder.columns if isinstance(c, CategoricalColumn))
            table = read_csv(table, words, self.encoder.missing)
        elif not hasattr(table, "columns") or not hasattr(table, "iloc"):
            raise TypeError(f"table must be a pandas DataFrame or the path of a CSV file, got {type(table).__name__}")
        if len(table) == 0:
            raise ValueError("the table has no rows")
        X, notes = self.encoder.encode(table)
        for line in notes:
            _log.warning(line)
        outputs = self.encoder.target.outputs(self.net, X)
        wrong = ~np.isfinite(outputs).all(axis=1)
        if wrong.any():
            raise ValueError(
                f"the network's output for row {table.index[int(wrong.argmax())]} is not finite: its numbers are too "
                "far from those of the training rows"
            )
        return self.encoder.target.decode(outputs)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write network and encoding to a safetensors file, as one step; `gpunn.load` opens it."""
        tensors, net = self.net.to_tensors()
        table = {**self.encoder.get_config(), "source": self.source}
        checkpoint.write(path, tensors, {"kind": "table", "net": net, "table": table})

    def export(self, path: str | os.PathLike[str]) -> None:
        """Write network and encoding as one ONNX graph, as one step.

        Its inputs are the columns by name, (N, 1) each, N any number of rows: float64 for numbers, NaN where one is
        missing; text for categories, the empty text where one is missing. Its outputs are "label" (N,) and
        "probabilities" (N, number of labels) for classes, or "variable" (N,), float64 in the target's units: what
        `predict` answers.

        ImportError without onnx (extra `onnx`), ValueError for a layer or an activation of one's own; OSError where
        writing fails, the old file whole.
        """
        onnx.write(onnx.table(self.net, self.encoder), path)

    @classmethod
    def from_tensors(
        cls,
        tensors: dict[str, np.ndarray],
        metadata: dict[str, Any],
        *,
        custom: dict[str, Any] | None = None,
        device: str = "cpu",
    ) -> TableModel:
        """What `save` wrote. CheckpointError where encoding and network do not fit each other."""
        net = Sequential.from_tensors(tensors, metadata["net"], custom=custom, device=device)
        try:
            encoding = TableEncoder.from_config(metadata["table"])
        except ValueError as error:
            raise CheckpointError(f"the encoding of the table's columns is invalid: {error}") from error
        width = sum(column.width for column in encoding.columns)
        if width != metadata["net"]["n_in"]:
            raise CheckpointError(f"the columns make {width} inputs, but the network has {metadata['net']['n_in']}")
        if encoding.target.n_out != net._net.n_out:
            raise CheckpointError(
                f"the target {encoding.target.name!r} needs {encoding.target.n_out} outputs, but the network has "
                f"{net._net.n_out}"
            )
        return cls(net, encoding, metadata["table"]["source"])

    def __repr__(self) -> str:
        return f"TableModel({self.target!r} from {len(self.encoder.columns)} columns, {self.net!r})"


# --- the target ---


def drop_missing_targets(frame: Frame, name: str) -> tuple[Frame, int]:
    """The rows whose target is there, and how many are not. ValueError where no such column or row is."""
    if name not in frame.columns:
        raise ValueError(f"there is no column {name!r}; there are {_listed(list(frame.columns), 20)}")
    there = frame[name].notna().to_numpy()
    if not there.any():
        raise ValueError(f"column {name!r} has no value in any row: there is nothing to learn")
    if there.all():
        return frame, 0
    kept = frame[there].copy()
    cells = kept[name]
    if cells.dtype.kind == "f" and (cells % 1 == 0).all() and (cells.abs() < 2**53).all():
        kept[name] = cells.astype("int64")  # the missing cells alone made floats of integers
    return kept, int((~there).sum())


def infer_target(cells: Cells, task: str = "auto") -> tuple[ClassTarget | NumericTarget, str]:
    """How a target, none of it missing, is learned; and in words what was seen in it.

    task="auto": text, boolean, or integers with at most 20 distinct values is classification, all else regression.
    ValueError where all rows hold the same, or text stands where numbers are due.
    """
    name, kind = str(cells.name), _kind(cells)
    labels = [_label(value, kind) for value in cells]
    distinct = len(set(labels))
    what = {"text": "text", "boolean": "true or false", "integer": "integers", "number": "numbers"}[kind]
    if distinct == 1:
        raise ValueError(f"column {name!r} holds {_shown(labels[0])} in every row: there is nothing to learn")
    if task == "auto":
        if kind == "text":
            is_categorical(cells)  # numbers with a word among them are an error, not classes
        few = kind in ("text", "boolean") or (kind == "integer" and distinct <= CLASSES)
        task = "classification" if few else "regression"
    if task == "regression":
        y = as_floats(cells)
        mean, scale = _moments(y)
        if scale is None:
            raise ValueError(f"column {name!r} is the same number in every row, but for rounding: nothing to learn")
        if np.abs(y).max() > LARGEST:
            k = int(np.abs(y).argmax())
            raise ValueError(
                f"column {name!r} holds {y[k]:.7g} in row {cells.index[k]}, and {LARGEST:g} is the largest number that "
                "can be learned: divide the column by a power of ten, or leave the cell empty"
            )
        return NumericTarget(name, mean, scale), f"{what}, {distinct} distinct values"
    if kind == "number":
        as_floats(cells)  # of which a model file cannot hold infinity
    if distinct > max(CLASSES, len(labels) // 2):
        numbers = pandas().to_numeric(cells, errors="coerce").notna().all()  # 007 is text here
        raise ValueError(
            f"column {name!r} has {distinct} distinct values in {len(labels)} rows: "
            "too many to be classes, each of which needs several rows to be learned from"
            + ("; --task regression learns them as numbers" if numbers else "")
        )
    return ClassTarget(name, tuple(sorted(set(labels))), kind), f"{what}, {distinct} distinct values"


def _kind(cells: Cells) -> str:
    types = pandas().api.types
    if types.is_bool_dtype(cells.dtype) or _all_booleans(cells):
        return "boolean"
    if not types.is_numeric_dtype(cells.dtype):
        return "text"
    return "integer" if types.is_integer_dtype(cells.dtype) else "number"


def _all_booleans(cells: Cells) -> bool:
    return {type(value) for value in cells} <= {bool, np.bool_}


def _label(value: Any, kind: str) -> Any:
    """One cell of a target as the user knows it: a word, a truth value or a number, of Python's own types."""
    if kind == "text":
        return _word(value)
    return KINDS[kind](value)


# --- columns of training rows ---


def as_floats(cells: Cells) -> np.ndarray:
    """A column as float64, NaN where missing. ValueError names the first cell that is not a finite number."""
    pd = pandas()
    if cells.dtype.kind in "cmM" or isinstance(cells.dtype, (pd.CategoricalDtype, pd.DatetimeTZDtype)):
        cells = cells.astype(object).map(str, na_action="ignore")
    x: np.ndarray = pd.to_numeric(cells, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan).copy()
    wrong = (np.isnan(x) & ~_missing_numbers(cells)) | np.isinf(x)
    if wrong.any():
        k = int(wrong.argmax())
        count = int(wrong.sum())
        raise ValueError(
            f"column {cells.name!r} should hold numbers, but row {cells.index[k]} holds {_shown(str(cells.iloc[k]))}"
            + (f" ({count} such cells)" if count > 1 else "")
            + "; leave a cell empty where the number is not known"
        )
    return x


def _missing_numbers(cells: Cells) -> np.ndarray:
    """Which cells of a column are missing if it is one of numbers."""
    missing: np.ndarray = cells.isna().to_numpy()
    if cells.dtype.kind in "biuf":
        return missing
    spelled: np.ndarray = missing | [isinstance(value, str) and value.strip() in MISSING_NUMBERS for value in cells]
    return spelled


def _shown(value: Any) -> str:
    """A cell as an error shows it, not longer than a line."""
    shown = repr(value)
    return shown if len(shown) <= 80 else f"{shown[:60]}… ({len(shown)} characters)"


def as_strings(cells: Cells) -> list[str | None]:
    """A column as words, None where missing; a whole number is written without a decimal point."""
    missing = cells.isna().to_numpy()
    return [None if gone else _word(value) for value, gone in zip(cells, missing, strict=True)]


def _word(value: Any) -> str:
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        value = int(value)
    return str(value).strip()


def is_categorical(cells: Cells) -> bool:
    """Whether a column holds categories rather than numbers (true and false count as 1 and 0).

    ValueError where it is empty, or is a column of numbers with some text among them.
    """
    pd = pandas()
    if cells.isna().all():
        raise ValueError(f"column {cells.name!r} has no value in any row: delete it, or fill it")
    if _holds_numbers(cells):
        return False
    if cells.dtype.kind in "cmM" or isinstance(cells.dtype, pd.DatetimeTZDtype):
        return True
    there = cells[~_missing_numbers(cells)]
    x = pd.to_numeric(there.astype(object), errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    x = x[~np.isnan(x)]
    if 2 * len(x) <= len(there):
        return True
    # codes like 1, 2, 3, A are categories; amounts with a word among them are numbers that need the user's care
    if (x != np.floor(x)).any() or len(np.unique(x)) > min(CLASSES, len(there) // 2):
        as_floats(cells)
        return False
    return len(x) < len(there)


def _holds_numbers(cells: Cells) -> bool:
    """True if a column was read as numbers, or as true and false."""
    numeric = pandas().api.types.is_numeric_dtype(cells.dtype) and cells.dtype.kind != "c"
    return bool(numeric) or _all_booleans(cells.dropna())


def _numbers(cells: Cells) -> NumericColumn:
    x = as_floats(cells)
    missing = np.isnan(x)
    median = float(np.median(x[~missing]))
    x[missing] = median
    return NumericColumn(str(cells.name), median, *_moments(x), bool(missing.any()))


def _moments(x: np.ndarray) -> tuple[float, float | None]:
    """Mean and standard deviation, the latter None where it is no more than rounding."""
    top = float(np.abs(x).max())
    if top == 0:
        return 0.0, None
    mean, scale = float((x / top).mean()), float((x / top).std())
    return mean * top, scale * top if scale > 1e-12 and scale * top > 0 else None


def _categories(cells: Cells, notes: list[str]) -> CategoricalColumn | None:
    """The categories of a column, the most frequent where there are too many; None for a column of identifiers."""
    name, words = str(cells.name), as_strings(cells)
    counts: dict[str | None, int] = {}
    for word in words:
        counts[word] = counts.get(word, 0) + 1
    there = len(words) - counts.get(None, 0)
    distinct = len(counts) - (None in counts)
    if distinct > CLASSES and 2 * distinct > there:
        notes.append(
            f"left out: column {name!r} has {distinct} distinct texts in {there} rows, "
            "like names, dates or identifiers, from which nothing general can be learned"
        )
        return None
    frequent = sorted(counts, key=lambda word: (-counts[word], word or ""))[:CATEGORIES]
    if len(counts) > CATEGORIES:
        notes.append(f"column {name!r} has {distinct} categories: the {CATEGORIES} most frequent are used")
    if len(frequent) == 1:
        frequent = []
    return CategoricalColumn(name, tuple(sorted(frequent, key=lambda word: (word is None, word or ""))))


def _from_config(config: dict[str, Any]) -> Any:
    kinds: dict[str, Any] = {
        kind.__name__: kind for kind in (NumericColumn, CategoricalColumn, ClassTarget, NumericTarget)
    }
    old = ("Numbers", "Categories", "Classes", "Amounts")
    kinds |= dict(zip(old, list(kinds.values()), strict=True))
    given = {key: tuple(value) if isinstance(value, list) else value for key, value in config.items()}
    return kinds[str(given.pop("type"))](**given)


def _listed(names: list[str], most: int = 6) -> str:
    return ", ".join(map(repr, names[:most])) + (f" and {len(names) - most} more" if len(names) > most else "")
