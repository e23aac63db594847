"""Datasets on disk, .npy and Parquet files, of which each process reads only its own rows.

The rows are divided into `parts` blocks, one per process. A batch takes rows of every block, in the order of the block,
which may be shuffled in every epoch. Therefore a process needs no rows of other blocks, and a single process with the
same number of blocks takes the same batches.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..program.groups import shard_bounds
from ..validation import positive_integer


class Rows:
    """The concatenated rows of files, read when a fit knows the rows of this process.

    `shape`, `dtype` and `len` are read from the file headers.

    Parameters
    ----------
    files : path-like or list of path-like
        .npy files, read as memory maps, or .parquet files (needs pyarrow, extra `tables`).
    columns : str or list of str, optional
        Columns of Parquet files: a name for targets (n,), or a list of names for a table (n, columns). All by default.
    parts : int, optional
        Number of blocks. One per process by default.

    Raises
    ------
    ValueError
        If shapes or dtypes of the files differ, a column is not numeric, or there are no rows.
    OSError
        If a file cannot be read.
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
                    f"all files must have rows of one shape and dtype, got {first.shape[1:]} and {first.dtype} in "
                    f"{first.path}, but {file.shape[1:]} and {file.dtype} in {file.path}"
                )
        self.shape = (sum(file.shape[0] for file in self._files), *first.shape[1:])
        if not self.shape[0]:
            names = ", ".join(str(file.path) for file in self._files)
            raise ValueError(f"files must have at least one row, got none in {names}")
        self.dtype = first.dtype

    def __len__(self) -> int:
        return int(self.shape[0])

    @property
    def ndim(self) -> int:
        """1 for targets, 2 for a table."""
        return len(self.shape)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return rows start … stop: a view of the memory map if they are in one .npy file, else a new array."""
        found = []
        at = 0
        for file in self._files:
            low = max(start - at, 0)
            high = min(stop - at, file.shape[0])
            if low < high:
                found.append(file.read(low, high))
            at += file.shape[0]
        if not found:
            return np.empty((0, *self.shape[1:]), self.dtype)
        return found[0] if len(found) == 1 else np.concatenate(found)

    def __repr__(self) -> str:
        return f"Rows({[str(file.path) for file in self._files]}, shape={self.shape}, dtype={self.dtype})"


class _Npy:
    """A memory-mapped .npy file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._rows = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise ValueError(f"{path} is not a .npy file of numbers: {error}") from None
        if self._rows.ndim not in (1, 2):
            raise ValueError(f"{path} must hold (rows, columns) or (rows,), got shape {self._rows.shape}")
        self.shape = self._rows.shape
        self.dtype = self._rows.dtype

    def read(self, start: int, stop: int) -> np.ndarray:
        found: np.ndarray = self._rows[start:stop]
        return found


class _Parquet:
    """Columns of a Parquet file. Only the row groups with requested rows are read."""

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
            raise ValueError(f"{path} is not a Parquet file: {error}") from None
        names = self._file.schema_arrow.names
        self._one_column = isinstance(columns, str)
        self._columns = [columns] if isinstance(columns, str) else list(names if columns is None else columns)
        unknown = [name for name in self._columns if name not in names]
        if unknown or not self._columns:
            raise ValueError(f"{path} has no column {unknown[:1]}; its columns are {', '.join(names)}")
        self.dtype: np.dtype = np.result_type(*map(self._column_dtype, self._columns))
        groups = self._file.metadata
        counts = [groups.row_group(k).num_rows for k in range(groups.num_row_groups)]
        self._ends = np.cumsum(counts, dtype=np.int64)
        rows = int(self._ends[-1]) if counts else 0
        self.shape = (rows,) if self._one_column else (rows, len(self._columns))

    def _column_dtype(self, name: str) -> np.dtype:
        """Return the dtype of a column. ValueError if it is not numeric."""
        kind = self._file.schema_arrow.field(name).type
        try:
            dtype: np.dtype = np.dtype(kind.to_pandas_dtype())
        except (NotImplementedError, TypeError):
            dtype = np.dtype(object)
        if dtype.kind not in "biuf":
            raise ValueError(f"column {name!r} of {self.path} must be numeric, got {kind}")
        return dtype

    def read(self, start: int, stop: int) -> np.ndarray:
        first, last = (int(np.searchsorted(self._ends, row, side="right")) for row in (start, stop - 1))
        table = self._file.read_row_groups(list(range(first, last + 1)), columns=self._columns)
        skipped = int(self._ends[first - 1]) if first else 0
        table = table.slice(start - skipped, stop - start)
        found = np.empty((stop - start, len(self._columns)), self.dtype)
        for k, name in enumerate(self._columns):
            column = table.column(name)
            if column.null_count:
                raise ValueError(f"column {name!r} of {self.path} has missing values; fill or drop them first")
            found[:, k] = column.to_numpy()
        return found[:, 0] if self._one_column else found


def _open(path: Path, columns: str | Sequence[str] | None) -> _Npy | _Parquet:
    if path.suffix == ".npy":
        if columns is not None:
            raise ValueError(f"columns needs Parquet files, got {path}")
        return _Npy(path)
    if path.suffix in (".parquet", ".pq"):
        return _Parquet(path, columns)
    raise ValueError(f"{path} must end with .npy or .parquet")


@dataclass(frozen=True)
class RowPartition:
    """The positions of each block's rows in the batches of an epoch.

    n      number of rows
    batch  rows per batch, of which the last may be shorter
    parts  number of blocks; block k provides part k of every batch
    """

    n: int
    batch: int
    parts: int

    def positions(self, k: int) -> np.ndarray:
        """Return the positions, in the order of an epoch, of the rows of block k."""
        full_batches, remainder = divmod(self.n, self.batch)
        begins = np.arange(full_batches + 1) * self.batch
        found = []
        for begin, size in ((begins[:-1], self.batch), (begins[-1:], remainder)):
            first, count = shard_bounds(size, k, self.parts)
            found.append((begin[:, None] + first + np.arange(count)).ravel())
        return np.concatenate(found)

    def block(self, k: int) -> tuple[int, int]:
        """Return (first row, last row + 1) of block k."""
        full_batches, remainder = divmod(self.n, self.batch)
        per_batch = [shard_bounds(self.batch, j, self.parts)[1] for j in range(k + 1)]
        in_remainder = [shard_bounds(remainder, j, self.parts)[1] for j in range(k + 1)]
        counts = [full_batches * a + b for a, b in zip(per_batch, in_remainder, strict=True)]
        return sum(counts[:k]), sum(counts)

    def order(self, seed: int, epoch: int, own: range, *, shuffle: bool) -> np.ndarray:
        """Return the row (n,) at each position of the epoch, counted from the first row of the blocks `own`.

        Positions of other blocks are 0. The order within block k is drawn from Philox keyed (seed, epoch), jumped k
        times.
        """
        found = np.zeros(self.n, np.int64)
        begin = 0
        for k in own:
            positions = self.positions(k)
            rows = np.arange(len(positions))
            if shuffle:
                key = np.array([seed, epoch], dtype=np.uint64)
                rows = np.random.Generator(np.random.Philox(key=key).jumped(k)).permutation(len(positions))
            found[positions] = begin + rows
            begin += len(positions)
        return found


def own_blocks(parts: int | None, rank: int, size: int) -> tuple[int, range]:
    """Return (number of blocks, blocks of this process). ValueError if several processes and the blocks differ."""
    if parts is None or parts == size:
        return size, range(rank, rank + 1)
    if size > 1:
        raise ValueError(f"parts must be the number of processes, {size}, got {parts}")
    return parts, range(parts)


def resolve(
    arrays: dict[str, Any], n: int, batch: int, rank: int, size: int
) -> tuple[dict[str, Any], RowPartition, range]:
    """Read the rows of this process from `Rows` or arrays with n rows. Return them, the partition, and its blocks."""
    parts_of = {name: given.parts for name, given in arrays.items() if isinstance(given, Rows)}
    if len(set(parts_of.values())) > 1:
        raise ValueError(f"parts must be the same for all Rows of a fit, got {parts_of}")
    for name, given in arrays.items():
        rows = len(given) if isinstance(given, Rows) else np.shape(given)[0]
        if rows != n:
            raise ValueError(f"{name} has {rows} rows, but X has {n}: check the number of rows in the files or parts")
    parts, own = own_blocks(next(iter(parts_of.values())), rank, size)
    partition = RowPartition(n, min(batch, n), parts)
    start = partition.block(own[0])[0]
    stop = partition.block(own[-1])[1]
    found = {
        name: given.read(start, stop) if isinstance(given, Rows) else given[start:stop]
        for name, given in arrays.items()
    }
    return found, partition, own
