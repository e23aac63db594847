"""Data sets of a fit: arrays on the device, arrays on the host that are copied in blocks, and streams of batches.

A data set divides the next epochs into parts, and a part says what to run: a spec, arrays and a number of steps.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from .. import input_checks as checks
from ..backend import Backend
from ..kernels.state import StateEntry
from ..network import Arrays, ExecutableSpec, Network, RowBuffer, StepOptions, Table
from ..program import Array, HostArray
from ..program.groups import BatchShard

STEP = StepOptions(training=True, loss=True, backward=True, update=True)
WEIGHTED_STEP = dataclasses.replace(STEP, weighted=True)
EVALUATION_ROWS = 1024
BLOCK_BYTES = 1 << 26  # bytes of a block of rows that is copied to the device
MAX_EPOCHS = 64  # epochs that run without a return to Python
MAX_ORDERED_ROWS = 1 << 15  # in these epochs together, so that the order does not displace the data from the cache


# --- the order of the rows --------------------------------------------------------------------------------------------


class RowOrder(Protocol):
    """The order of the rows in each epoch."""

    def draw(self, epoch: int, into: NDArray[np.int64]) -> None:
        """Write the row indices of epochs from `epoch` on into an array (epochs, n). Epochs are drawn in order."""


@dataclass(frozen=True)
class Shuffled:
    """The rows in an order drawn from (seed, epoch); `rows` are their indices, 0 … n − 1 by default."""

    n: int
    seed: int
    rows: NDArray[np.int64] | None = None

    def draw(self, epoch: int, into: NDArray[np.int64]) -> None:
        for k, order in enumerate(into):
            drawn = checks.epoch_permutation(self.n, self.seed, epoch + k, True)
            order[...] = drawn if self.rows is None else self.rows[drawn]


@dataclass(frozen=True)
class InOrder:
    """The rows in their given order."""

    rows: NDArray[np.int64]

    def draw(self, epoch: int, into: NDArray[np.int64]) -> None:
        into[...] = self.rows


# --- parts ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """Steps that one executable runs.

    spec, arrays  of the executable
    steps         their number
    times         number of consecutive steps of each batch size
    batch         (X, y, weights or None) that is loaded before the step; None if it gathers its rows itself
    """

    spec: ExecutableSpec
    arrays: Arrays
    steps: int
    times: tuple[int, ...]
    batch: tuple[Table, Array, Array | None] | None = None


class Dataset(Protocol):
    """A data set, as the trainer uses it.

    max_epochs  number of epochs that can run without a return to Python
    row_buffer  outputs of all rows of an epoch, for metrics that need them together
    epoch_log   (epochs, 2 + metric sums), the sums of each epoch; None if the state array holds them
    """

    max_epochs: int
    row_buffer: RowBuffer | None
    epoch_log: Array | None

    def parts(self, epoch: int, count: int) -> Iterator[Part]:
        """The parts of `count` epochs. The steps of a part end before the next part is requested."""

    def fit_log_to_metrics(self) -> None:
        """Give the log of epochs the sums of the network's metrics, which may have changed."""


def batches(n: int, batch_size: int) -> dict[int, int]:
    """Return {rows per batch: number of batches} for n rows: the full batches, then a shorter last one."""
    found = {batch_size: n // batch_size, n % batch_size: 1}
    return {rows: times for rows, times in found.items() if rows and times}


def step_spec(net: Network, sizes: Iterator[int] | dict[int, int], *, weighted: bool) -> ExecutableSpec:
    """The spec of training steps on batches of these sizes, or on this rank's shard of them."""
    return ExecutableSpec(WEIGHTED_STEP if weighted else STEP, tuple(BatchShard.of(rows, net.group) for rows in sizes))


@dataclass
class DeviceDataset:
    """A data set on the network's device: X (n, d), y for the loss, and weights (n,) or None.

    If a process has only its own rows of `total_rows`, they begin with row `offset`.
    """

    X: Table
    y: Array
    w: Array | None = None
    offset: int = 0
    total_rows: int | None = None
    row_buffer: RowBuffer | None = field(default=None, init=False)  # of `evaluate`

    @property
    def n(self) -> int:
        return int(self.X.shape[0])

    def named(self) -> dict[str, Table]:
        """The arrays by the names that executables use."""
        found = {"X": self.X, "y": self.y}
        return found if self.w is None else found | {"sample_weight": self.w}

    def blocks(self, backend: Backend) -> Iterator[tuple[int, DeviceDataset]]:
        """Yield the blocks of the data set, each with the index of its first row: one block with all rows."""
        yield 0, self


@dataclass
class HostDataset(DeviceDataset):
    """A data set in NumPy arrays on the host, which exceeds the device's memory."""

    def arrays(self) -> list[HostArray]:
        """Return X, y and, if present, the weights."""
        return [self.X, self.y] + ([] if self.w is None else [self.w])

    def block_rows(self, multiple: int) -> int:
        """Return the number of rows of a block: a multiple of `multiple`."""
        row = sum(a.nbytes // len(a) for a in self.arrays())
        return max(1, BLOCK_BYTES // max(1, row * multiple)) * multiple

    def blocks(self, backend: Backend) -> Iterator[tuple[int, DeviceDataset]]:
        """Yield the blocks in order, copied to the device, each with the index of its first row."""
        rows = self.block_rows(EVALUATION_ROWS)
        for start in range(0, self.n, rows):
            chunks = (np.ascontiguousarray(a[start : start + rows]) for a in self.arrays())
            yield start, DeviceDataset(*map(backend.asarray, chunks))


def exceeds_device(backend: Backend, *arrays: Array) -> bool:
    """True if the arrays are on the host and do not fit in the device's memory."""
    given = [a for a in arrays if a is not None]
    return all(isinstance(a, np.ndarray) for a in given) and not backend.fits_in_memory(sum(a.nbytes for a in given))


def row_chunks(backend: Backend, X: Table) -> list[Table]:
    """Divide X into chunks of rows that fit in the device's memory. X itself if it fits."""
    if not isinstance(X, np.ndarray) or backend.fits_in_memory(X.nbytes):
        return [X]
    rows = max(1, BLOCK_BYTES // max(1, X.nbytes // len(X)))
    return [X[start : start + rows] for start in range(0, len(X), rows)]


# --- arrays on the device ---------------------------------------------------------------------------------------------


class ArrayBatches:
    """The batches of arrays on the device. A shorter last batch is a batch size of its own.

    rows    indices of the training rows
    order   draws their order, None keeps it
    epochs  the number of epochs of the fit
    """

    def __init__(
        self,
        net: Network,
        data: DeviceDataset,
        *,
        batch_size: int,
        rows: NDArray[np.int64],
        order: RowOrder | None,
        epochs: int,
    ) -> None:
        self.net = net
        self.data = data
        self.rows_order: RowOrder = InOrder(rows) if order is None else order
        self.n = len(rows)
        self.sizes = batches(self.n, batch_size)
        self.steps = sum(self.sizes.values())
        self.row_buffer = net.new_row_buffer(self.n, weighted=data.w is not None)
        alone = self.row_buffer is None and net.group.size == 1
        self.max_epochs = min(epochs, MAX_EPOCHS, max(1, MAX_ORDERED_ROWS // self.n)) if alone else 1
        self._drawn = np.empty((self.max_epochs, self.n), np.int64)
        self.order = net.backend.asarray(self._drawn.reshape(-1))  # the same memory on a CPU
        self.epoch_log: Array = None
        self._arrays = {**self.data.named(), "order": self.order, **named_rows(self.row_buffer)}
        self.fit_log_to_metrics()
        self._spec = step_spec(net, self.sizes, weighted=data.w is not None)

    def parts(self, epoch: int, count: int) -> Iterator[Part]:
        self.draw_order(epoch, count)
        yield Part(self._spec, self._arrays, count * self.steps, tuple(self.sizes.values()))

    def draw_order(self, epoch: int, count: int) -> None:
        """Write the row indices of `count` epochs into `order`."""
        drawn = self._drawn[:count]
        self.rows_order.draw(epoch, drawn)
        self.order[: drawn.size] = self.net.backend.asarray(drawn.reshape(-1))

    def fit_log_to_metrics(self) -> None:
        columns = 2 + self.net.metric_sums.shape[0]
        if self.epoch_log is None or self.epoch_log.shape[1] != columns:
            self.epoch_log = self._arrays["epoch_log"] = self.net.backend.zeros((self.max_epochs, columns), np.float64)


def named_rows(rows: RowBuffer | None) -> dict[str, Table]:
    """The arrays of a row buffer by the names that executables use."""
    found = {} if rows is None else {"rows.a": rows.a, "rows.y": rows.y, "rows.w": rows.w}
    return {name: array for name, array in found.items() if array is not None}


# --- blocks of rows ---------------------------------------------------------------------------------------------------


class BlockPrefetcher:
    """Copies blocks of rows to the device with double buffering: one block in use, the next being copied."""

    def __init__(self, backend: Backend, data: HostDataset, rows: int) -> None:
        self.backend, self.data, self.rows = backend, data, rows
        like = [((rows, *a.shape[1:]), a.dtype) for a in data.arrays()]
        self.buffers = [backend.transfer_buffers(like) for _ in range(2)]

    def on_device(self, index: int) -> DeviceDataset:
        """Return the block in a buffer."""
        X, y, *w = (buffer.device for buffer in self.buffers[index])
        return DeviceDataset(X, y, *w)

    def blocks(self, order: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
        """Yield (buffer, number of rows) of each block of the rows `order`.

        All work on a block must have been submitted to the device before the next block is requested.
        """
        cuts = [order[start : start + self.rows] for start in range(0, len(order), self.rows)]
        try:
            with ThreadPoolExecutor(1) as thread:
                coming = thread.submit(self._prefetch, 0, cuts[0])
                for k, rows in enumerate(cuts):
                    index = k % 2
                    coming.result()
                    if k + 1 < len(cuts):
                        coming = thread.submit(self._prefetch, 1 - index, cuts[k + 1])
                    for buffer in self.buffers[index]:
                        buffer.wait_on_stream()
                    yield index, len(rows)
                    for buffer in self.buffers[index]:
                        buffer.mark_consumed()
        finally:
            # if the iteration stops early, the caller may free memory that a copy is still reading
            for buffer in (*self.buffers[0], *self.buffers[1]):
                buffer.wait_reusable()

    def _prefetch(self, index: int, rows: NDArray[np.int64]) -> None:
        with self.backend.activate():
            for buffer, array in zip(self.buffers[index], self.data.arrays(), strict=True):
                buffer.wait_reusable()
                # mode="raise" would gather into a temporary array first; the rows are in range
                np.take(array, rows, axis=0, out=buffer.host[: len(rows)], mode="clip")
                buffer.copy_async(len(rows))


class HostBatches:
    """The batches of arrays on the host, with the same results as `ArrayBatches`.

    Metrics that need all rows are computed for the validation data only, as with a stream.
    """

    max_epochs = 1
    row_buffer: RowBuffer | None = None
    epoch_log: Array | None = None

    def __init__(
        self, net: Network, data: HostDataset, *, batch_size: int, rows: NDArray[np.int64], order: RowOrder | None
    ) -> None:
        self.net = net
        self.data = data
        self.rows_order: RowOrder = InOrder(rows) if order is None else order
        self.n = len(rows)
        self.batch = min(batch_size, self.n)
        whole = -(-self.n // self.batch) * self.batch
        self.prefetcher = BlockPrefetcher(net.backend, data, min(data.block_rows(self.batch), whole))

    def parts(self, epoch: int, count: int) -> Iterator[Part]:
        net = self.net
        order = np.empty((1, self.n), np.int64)
        self.rows_order.draw(epoch, order)
        for index, rows in self.prefetcher.blocks(order[0]):
            net.state[StateEntry.OFFSET] = 0
            sizes = batches(rows, self.batch)
            spec = step_spec(net, sizes, weighted=self.data.w is not None)
            arrays = self.prefetcher.on_device(index).named()
            yield Part(spec, arrays, sum(sizes.values()), tuple(sizes.values()))

    def fit_log_to_metrics(self) -> None:
        """It has no log."""


# --- streams ----------------------------------------------------------------------------------------------------------


class CheckedBatches(Protocol):
    """The batches of a stream: checked, and on the device."""

    def epoch(self) -> Iterator[DeviceDataset]:
        """The batches of the next epoch."""


@dataclass
class StreamBatches:
    """The batches of a stream."""

    net: Network
    stream: CheckedBatches
    max_epochs: int = field(default=1, init=False)
    row_buffer: RowBuffer | None = field(default=None, init=False)
    epoch_log: Array | None = field(default=None, init=False)

    def parts(self, epoch: int, count: int) -> Iterator[Part]:
        for data in self.stream.epoch():
            spec = step_spec(self.net, {data.n: 1}, weighted=data.w is not None)
            yield Part(spec, {}, 1, (1,), (data.X, data.y, data.w))

    def fit_log_to_metrics(self) -> None:
        """It has no log."""
