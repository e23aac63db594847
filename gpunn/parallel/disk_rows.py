"""Sets on disk of which every process reads its own rows, and never the whole: .npy files and Parquet files.

A set in files lies in `parts` blocks of rows, one a process, and a batch takes some rows of each block, in the block's
own order: shuffled in every epoch, or as they stand. So a process needs no row of another's block, and one process that
is told the number of blocks takes the same batches.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..recording import shard_bounds
from ..validation import positive_integer


class Rows:
    """The rows of one or several files, one after another, read when a fit knows which of them are this process's.

    files    a path or a list of paths: .npy, read as memory maps, or .parquet (pyarrow, extra `tables`)
    columns  of Parquet: a name, for targets (n,), or a list of names, for a table (n, columns); all by default
    parts    the number of blocks that rows lie in: None is one for each process

    `shape`, `dtype` and `len` are known from the files' heads. ValueError where the files' columns or types do not
    fit each other, columns do not hold numbers, or there are no rows; OSError where one cannot be read.
    """

    def __init__(
        self,
        files: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        columns: str | Sequence[str] | None = None,
        *,
        parts: int | None = None,
    ) -> None:
        given = [files] if isinstance(files, (str, os.PathLike)) else list(files)
        if not given:
            raise ValueError("files is empty: name at least one file")
        self.parts = None if parts is None else positive_integer("parts", parts)
        self._files = [_open(Path(file), columns) for file in given]
        first = self._files[0]
        for file in self._files[1:]:
            if (file.shape[1:], file.dtype) != (first.shape[1:], first.dtype):
                raise ValueError(
                    f"{file.path} holds rows of shape {file.shape[1:]} and type {file.dtype}, but {first.path} of "
                    f"{first.shape[1:]} and {first.dtype}: the parts of a set must be alike"
                )
        self.shape = (sum(file.shape[0] for file in self._files), *first.shape[1:])
        if not self.shape[0]:
            names = ", ".join(str(file.path) for file in self._files)
            raise ValueError(f"there are no rows in {names}: a set needs at least one")
        self.dtype = first.dtype

    def __len__(self) -> int:
        return int(self.shape[0])

    @property
    def ndim(self) -> int:
        """1 for targets, 2 for a table."""
        return len(self.shape)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Rows start … stop: of one .npy file the memory map's own, else a new array."""
        found, at = [], 0
        for file in self._files:
            low, high = max(start - at, 0), min(stop - at, file.shape[0])
            if low < high:
                found.append(file.read(low, high))
            at += file.shape[0]
        if not found:
            return np.empty((0, *self.shape[1:]), self.dtype)
        return found[0] if len(found) == 1 else np.concatenate(found)

    def __repr__(self) -> str:
        return f"Rows({[str(file.path) for file in self._files]}, shape={self.shape}, dtype={self.dtype})"


class _Npy:
    """A .npy file, its rows never read before they are used."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._rows = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise ValueError(f"{path} is no .npy file of numbers: {error}") from None
        if self._rows.ndim not in (1, 2):
            raise ValueError(f"{path} must hold (rows, columns) or (rows,), got shape {self._rows.shape}")
        self.shape, self.dtype = self._rows.shape, self._rows.dtype

    def read(self, start: int, stop: int) -> np.ndarray:
        found: np.ndarray = self._rows[start:stop]
        return found


class _Parquet:
    """Columns of a Parquet file; only the row groups that hold rows asked for are read."""

    def __init__(self, path: Path, columns: str | Sequence[str] | None) -> None:
        try:
            from pyarrow import ArrowInvalid
            from pyarrow.parquet import ParquetFile
        except ImportError:
            raise ImportError('Parquet files need pyarrow: pip install "gpunn[tables]"') from None
        self.path = path
        try:
            self._file = ParquetFile(path)
        except ArrowInvalid as error:
            raise ValueError(f"{path} is no Parquet file: {error}") from None
        schema = self._file.schema_arrow
        self._one = isinstance(columns, str)
        self._columns = [columns] if isinstance(columns, str) else list(schema.names if columns is None else columns)
        unknown = [name for name in self._columns if name not in schema.names]
        if unknown or not self._columns:
            raise ValueError(f"{path} has no column {unknown[:1]}; there are {', '.join(schema.names)}")
        types = []
        for name in self._columns:
            try:
                types.append(np.dtype(schema.field(name).type.to_pandas_dtype()))
            except (NotImplementedError, TypeError):
                types.append(np.dtype(object))
            if types[-1].kind not in "biuf":
                raise ValueError(f"column {name!r} of {path} holds {schema.field(name).type}, not numbers")
        self.dtype = np.result_type(*types)
        groups = self._file.metadata
        counts = [groups.row_group(k).num_rows for k in range(groups.num_row_groups)]
        self._ends = np.cumsum(counts, dtype=np.int64)
        rows = int(self._ends[-1]) if counts else 0
        self.shape = (rows,) if self._one else (rows, len(self._columns))

    def read(self, start: int, stop: int) -> np.ndarray:
        first, last = (int(np.searchsorted(self._ends, row, side="right")) for row in (start, stop - 1))
        table = self._file.read_row_groups(list(range(first, last + 1)), columns=self._columns)
        begin = start - (int(self._ends[first - 1]) if first else 0)
        table = table.slice(begin, stop - start)
        found = np.empty((stop - start, len(self._columns)), self.dtype)
        for k, name in enumerate(self._columns):
            column = table.column(name)
            if column.null_count:
                raise ValueError(f"column {name!r} of {self.path} has empty cells; fill or drop them first")
            found[:, k] = column.to_numpy()
        return found[:, 0] if self._one else found


def _open(path: Path, columns: str | Sequence[str] | None) -> _Npy | _Parquet:
    if path.suffix == ".npy":
        if columns is not None:
            raise ValueError(f"columns= names columns of Parquet files, and {path} is a .npy file")
        return _Npy(path)
    if path.suffix in (".parquet", ".pq"):
        return _Parquet(path, columns)
    raise ValueError(f"{path} must end with .npy or .parquet, which tells what it is")


@dataclass(frozen=True)
class RowPartition:
    """Where the rows of a set in so many blocks stand in the batches of an epoch.

    n, batch  rows of the set and of a batch, the last of which may be shorter
    parts     the number of blocks; block k gives every batch its part number k
    """

    n: int
    batch: int
    parts: int

    def positions(self, k: int) -> np.ndarray:
        """The places, in the order of an epoch, of the rows that block k gives."""
        whole, last = divmod(self.n, self.batch)
        begins = np.arange(whole + 1) * self.batch
        found = []
        for begin, size in ((begins[:-1], self.batch), (begins[-1:], last)):
            first, count = shard_bounds(size, k, self.parts)
            found.append((begin[:, None] + first + np.arange(count)).ravel())
        return np.concatenate(found)

    def block(self, k: int) -> tuple[int, int]:
        """(first row, last row + 1) of block k."""
        whole, last = divmod(self.n, self.batch)
        counts = [
            whole * shard_bounds(self.batch, j, self.parts)[1] + shard_bounds(last, j, self.parts)[1]
            for j in range(k + 1)
        ]
        return sum(counts[:k]), sum(counts)

    def order(self, seed: int, epoch: int, own: range, shuffle: bool) -> np.ndarray:
        """(n,) which row stands at each place of the epoch, counted from the first row of the blocks in `own`; 0 at the
        places of other blocks. The order within block k is drawn from Philox keyed (seed, epoch), jumped k times."""
        found = np.zeros(self.n, np.int64)
        begin = 0
        for k in own:
            places = self.positions(k)
            rows = np.arange(len(places))
            if shuffle:
                key = np.array([seed, epoch], dtype=np.uint64)
                rows = np.random.Generator(np.random.Philox(key=key).jumped(k)).permutation(len(places))
            found[places] = begin + rows
            begin += len(places)
        return found


def own_blocks(parts: int | None, rank: int, size: int) -> tuple[int, range]:
    """(number of blocks, those of this process). ValueError where several processes and the blocks are not as many."""
    if parts is None or parts == size:
        return size, range(rank, rank + 1)
    if size > 1:
        raise ValueError(f"the set lies in parts={parts}, and there are {size} processes: one block is one process's")
    return parts, range(parts)


def resolve(
    sets: dict[str, Any], n: int, batch: int, rank: int, size: int
) -> tuple[dict[str, Any], RowPartition, range]:
    """What this process has of each of the sets (`Rows`, or arrays with n rows), the blocks, and which are its own."""
    told = {name: given.parts for name, given in sets.items() if isinstance(given, Rows)}
    if len(set(told.values())) > 1:
        raise ValueError(f"parts= must be the same for all of a fit's Rows, got {told}")
    for name, given in sets.items():
        rows = len(given) if isinstance(given, Rows) else np.shape(given)[0]
        if rows != n:
            raise ValueError(f"{name} has {rows} rows, but X has {n}: the parts of a set must add up")
    parts, own = own_blocks(next(iter(told.values())), rank, size)
    blocks = RowPartition(n, min(batch, n), parts)
    start, stop = blocks.block(own[0])[0], blocks.block(own[-1])[1]
    found = {
        name: given.read(start, stop) if isinstance(given, Rows) else given[start:stop] for name, given in sets.items()
    }
    return found, blocks, own
