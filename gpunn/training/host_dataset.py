"""Sets that the device has no room for: they stay on the host, and go over in blocks of rows.

While the steps on one block are taken, a thread gathers the rows of the next, in the epoch's order, and sends them. The
batches are those of a set that lies on the device, and so is every number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np

from ..backend import Backend
from ..kernels import Launch
from ..kernels.state import Slot
from ..network import Network
from .history import History
from .loop import EVALUATION_ROWS, DeviceDataset, FitContext, RepeatedStep, Steps, batches, train

BLOCK_BYTES = 1 << 26  # of rows that go over together


class HostDataset(DeviceDataset):
    """A set as `loop.Data` has it, in NumPy arrays that stay on the host."""

    def arrays(self) -> list[np.ndarray]:
        """X, y and the weights where there are some."""
        return [self.X, self.y] + ([] if self.w is None else [self.w])

    def block_rows(self, multiple: int) -> int:
        """How many rows make a block: whole batches of `multiple` rows, one at least."""
        row = sum(a.nbytes // len(a) for a in self.arrays())
        return max(1, BLOCK_BYTES // max(1, row * multiple)) * multiple

    def blocks(self, backend: Backend) -> Iterator[tuple[int, DeviceDataset]]:
        """The set in its own order, as blocks on the device, each with the number of its first row."""
        rows = self.block_rows(EVALUATION_ROWS)
        for start in range(0, self.n, rows):
            yield (
                start,
                DeviceDataset(*(backend.asarray(np.ascontiguousarray(a[start : start + rows])) for a in self.arrays())),
            )


def exceeds_device(backend: Backend, *arrays: Any) -> bool:
    """Whether a set of those arrays is one of the host for which the device has no room."""
    given = [a for a in arrays if a is not None]
    return all(isinstance(a, np.ndarray) for a in given) and not backend.fits_in_memory(sum(a.nbytes for a in given))


def row_chunks(backend: Backend, X: Any) -> list[Any]:
    """X as parts of its rows, of which each has room on the device; X itself where that has room for all of it."""
    if not isinstance(X, np.ndarray) or backend.fits_in_memory(X.nbytes):
        return [X]
    rows = max(1, BLOCK_BYTES // max(1, X.nbytes // len(X)))
    return [X[start : start + rows] for start in range(0, len(X), rows)]


class BlockPrefetcher:
    """Blocks of rows, two on the device at a time: one that is worked on, and one that is on its way."""

    def __init__(self, backend: Backend, data: HostDataset, rows: int) -> None:
        self.backend, self.data, self.rows = backend, data, rows
        like = [((rows, *a.shape[1:]), a.dtype) for a in data.arrays()]
        self.slots = [backend.transfer_buffers(like) for _ in range(2)]

    def on_device(self, slot: int) -> DeviceDataset:
        """The block of that slot."""
        X, y, *w = (buffer.device for buffer in self.slots[slot])
        return DeviceDataset(X, y, *w)

    def blocks(self, order: np.ndarray) -> Iterator[tuple[int, int]]:
        """(slot, rows) of one block after another, whose rows are those of the set that `order` tells. What is to be
        done on a block must have been asked of the device when the next is asked for."""
        cuts = [order[start : start + self.rows] for start in range(0, len(order), self.rows)]
        try:
            with ThreadPoolExecutor(1) as thread:
                coming = thread.submit(self._prefetch, 0, cuts[0])
                for k, rows in enumerate(cuts):
                    slot = k % 2
                    coming.result()
                    if k + 1 < len(cuts):
                        coming = thread.submit(self._prefetch, 1 - slot, cuts[k + 1])
                    for buffer in self.slots[slot]:
                        buffer.wait_on_stream()
                    yield slot, len(rows)
                    for buffer in self.slots[slot]:
                        buffer.mark_consumed()
        finally:
            # whoever stops on the way may let go of the memory that a copy is still reading
            for buffer in (*self.slots[0], *self.slots[1]):
                buffer.wait_reusable()

    def _prefetch(self, slot: int, rows: np.ndarray) -> None:
        with self.backend.activate():
            for buffer, array in zip(self.slots[slot], self.data.arrays(), strict=True):
                buffer.wait_reusable()
                # the rows are a permutation's; "raise" would gather into a copy first
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
    """Train on a set that stays on the host, as `loop.fit` does on one that lies on the device: the same batches, the
    same numbers. `run` holds epochs, first_epoch and done, as there. Metrics that look at all rows together are not
    among the epoch's, as with a stream; those of the validation set are."""
    order = np.arange(data.n) if rows is None else np.array(rows)
    batch = min(batch_size, len(order))
    prefetcher = BlockPrefetcher(net.backend, data, min(data.block_rows(batch), -(-len(order) // batch) * batch))
    with Steps(net, weighted=data.w is not None) as steps:

        def step(slot: int, n: int) -> list[Launch]:
            block = prefetcher.on_device(slot)
            return steps.of(n, lambda plan: plan.gather(block.X, block.y, block.w), key=slot)

        def steps_of(epoch: int) -> Iterator[RepeatedStep]:
            if order_of is not None:
                order[...] = order_of(epoch)
            for slot, count in prefetcher.blocks(order):
                net.state[Slot.OFFSET] = 0
                for size, times in batches(count, batch).items():
                    yield RepeatedStep(partial(step, slot, size), times)

        return train(net, steps_of, context, **run)
