"""The rows of a dataset that one process has, and checksums of whole datasets."""

from __future__ import annotations

import zlib
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..backend import array_module, device_of, to_host
from ..network import Table
from ..program import Array, HostArray
from ..program.groups import ProcessGroup

SAMPLED_ROWS = 65  # of a table, which may be on a disk or a GPU
SAMPLED_NUMBERS = 1025  # of labels and weights


class Shard(NamedTuple):
    """A dataset, or the rows of this process in a dataset of `total_rows` rows, beginning with row `offset`."""

    X: Table
    y: Array
    w: Array | None
    offset: int = 0
    total_rows: int | None = None

    def checksums(self, group: ProcessGroup) -> dict[str, int]:
        """Return a checksum of sampled rows of each array, equal on all ranks. All ranks must call it."""
        total = int(self.X.shape[0] if self.total_rows is None else self.total_rows)
        arrays = {"X": self.X, "y": self.y, "sample_weight and class_weight": self.w}
        sampled = {name: self._sample(array, total) for name, array in arrays.items() if array is not None}
        shards = [sampled] if self.total_rows is None else group.allgather("the checksums of the dataset", sampled)
        return {name: zlib.crc32(b"".join(shard.get(name, b"") for shard in shards)) for name in sampled}

    def _sample(self, array: Array, total: int) -> bytes:
        """Return the bytes of the sampled rows that this process has."""
        rows = sampled_rows(total, SAMPLED_ROWS if array.ndim > 1 else SAMPLED_NUMBERS) - self.offset
        with device_of(array):
            chosen = array[array_module(array).asarray(rows[(rows >= 0) & (rows < array.shape[0])])]
        if hasattr(chosen, "tocsr"):
            return _sparse_bytes(chosen.tocsr())
        chosen = to_host(chosen)
        if chosen.ndim == 1:
            return bytes(chosen.tobytes())
        return b"".join(_row_bytes(np.flatnonzero(row), row[np.flatnonzero(row)]) for row in chosen)


def _sparse_bytes(rows: Array) -> bytes:
    rows.sum_duplicates()
    rows.eliminate_zeros()
    bounds = zip(rows.indptr[:-1], rows.indptr[1:], strict=True)
    return b"".join(_row_bytes(rows.indices[start:stop], rows.data[start:stop]) for start, stop in bounds)


def _row_bytes(columns: NDArray[np.int64], values: HostArray) -> bytes:
    """Return the bytes of the nonzero values of a row: equal for dense and sparse tables."""
    return bytes(columns.astype(np.int64).tobytes() + values.tobytes())


def sampled_rows(n: int, most: int) -> NDArray[np.int64]:
    """Return at most `most` of n row indices, evenly spaced, the first and the last included."""
    count = min(n, most)
    return np.arange(count) * (n - 1) // max(1, count - 1)


def check_shard_sizes(n: int, batch_size: int, group: ProcessGroup) -> None:
    """Check that every process has rows."""
    if n < group.size:
        raise ValueError(f"{n} rows are too few for {group.size} processes: start at most one process per row")
    if batch_size < group.size:
        raise ValueError(
            f"batch_size={batch_size} is too small for {group.size} processes: give each process at least one row, or "
            "start fewer processes"
        )
