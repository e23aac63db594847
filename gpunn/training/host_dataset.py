"""Datasets that exceed the device's memory: they stay on the host and are copied in blocks of rows.

While the device trains on one block, a thread gathers the rows of the next in the order of the epoch and copies them.
Batches and results are the same as with a dataset on the device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np

from ..backend import Backend
from ..kernels import Launch
from ..kernels.state import StateEntry
from ..network import Network
from .history import History
from .loop import EVALUATION_ROWS, DeviceDataset, FitContext, RepeatedStep, Steps, batches, train

BLOCK_BYTES = 1 << 26  # bytes of a block of rows


class HostDataset(DeviceDataset):
    """A dataset in NumPy arrays on the host."""

    def arrays(self) -> list[np.ndarray]:
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


def exceeds_device(backend: Backend, *arrays: Any) -> bool:
    """True if the arrays are on the host and do not fit in the device's memory."""
    given = [a for a in arrays if a is not None]
    return all(isinstance(a, np.ndarray) for a in given) and not backend.fits_in_memory(sum(a.nbytes for a in given))


def row_chunks(backend: Backend, X: Any) -> list[Any]:
    """Divide X into chunks of rows that fit in the device's memory. X itself if it fits."""
    if not isinstance(X, np.ndarray) or backend.fits_in_memory(X.nbytes):
        return [X]
    rows = max(1, BLOCK_BYTES // max(1, X.nbytes // len(X)))
    return [X[start : start + rows] for start in range(0, len(X), rows)]


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

    def blocks(self, order: np.ndarray) -> Iterator[tuple[int, int]]:
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

    def _prefetch(self, index: int, rows: np.ndarray) -> None:
        with self.backend.activate():
            for buffer, array in zip(self.buffers[index], self.data.arrays(), strict=True):
                buffer.wait_reusable()
                # mode="raise" would gather into a temporary array first; the rows are in range
                np.take(array, rows, axis=0, out=buffer.host[: len(rows)], mode="clip")
                buffer.copy_async(len(rows))


def fit(
    net: Network,
    data: HostDataset,
    context: FitContext,
    *,
    batch_size: int,
    order_of: Callable[[int], np.ndarray] | None,
    rows: np.ndarray | None = None,
    **run: Any,
) -> History:
    """Train on a dataset on the host, with the same results as `loop.fit` on a device dataset.

    Metrics that need all rows are computed for the validation data only, as with a stream. `run` as in `loop.train`.
    """
    order = np.arange(data.n) if rows is None else np.array(rows)
    batch = min(batch_size, len(order))
    prefetcher = BlockPrefetcher(net.backend, data, min(data.block_rows(batch), -(-len(order) // batch) * batch))
    with Steps(net, weighted=data.w is not None) as steps:

        def step(index: int, n: int) -> list[Launch]:
            block = prefetcher.on_device(index)
            return steps.of(n, lambda plan: plan.gather(block.X, block.y, block.w), key=index)

        def steps_of(epoch: int) -> Iterator[RepeatedStep]:
            if order_of is not None:
                order[...] = order_of(epoch)
            for index, count in prefetcher.blocks(order):
                net.state[StateEntry.OFFSET] = 0
                for size, times in batches(count, batch).items():
                    yield RepeatedStep(partial(step, index, size), times)

        return train(net, steps_of, context, **run)
