"""gpunn on a GPU with resident data: `Sequential.fit` and `Sequential.predict` on arrays of the device.

Every call of `fit` prepares and captures its step, so only the epochs after the first one are timed. The orders of the
rows are on the device, as for the other contestants. With `shuffling` every epoch draws its own order.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

import gpunn
from gpunn import backend
from gpunn.training.datasets import ArrayBatches

from ..clocks import Clock, EventClock, Span
from ..conventions import Orders, Task
from .gpunn_sequential import GpunnSequential

PACKAGES = ("gpunn", "cupy", "numpy")


class AfterFirstEpoch(gpunn.Callback):
    """Time the epochs after the first one of a fit."""

    def __init__(self, clock: Clock, epochs: int) -> None:
        self.clock = clock
        self.last_epoch = epochs - 1
        self.span: Span | None = None

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        if epoch == self.last_epoch:
            self.span = self.clock.end()
        if epoch == 0:
            self.clock.begin()


class Resident(GpunnSequential):
    """A contestant with X, y and the orders as arrays of the device."""

    def __init__(self, task: Task, shuffling: bool) -> None:
        super().__init__(task)
        self.device = backend.get(task.device)
        self.X, self.y = self.device.asarray(task.X), self.device.asarray(task.y)
        self.clock = clock(self.device)
        self.orders = None if shuffling else Orders(task, self.device.asarray)

    @contextmanager
    def resident_orders(self) -> Iterator[None]:
        """Make `fit` use the orders on the device instead of drawing them."""
        original, orders = ArrayBatches.draw_order, self.orders

        def copy_orders(batches: ArrayBatches, epoch: int, count: int) -> None:
            assert orders is not None
            for k in range(count):
                batches.order[k * batches.n : (k + 1) * batches.n] = orders(epoch + k)

        if orders is not None:
            ArrayBatches.draw_order = copy_orders  # type: ignore[method-assign]
        try:
            yield
        finally:
            ArrayBatches.draw_order = original  # type: ignore[method-assign]

    def fit(self, **options: Any) -> None:
        with self.resident_orders():
            super().fit(**options)

    def train(self, epochs: int) -> Span | None:
        callback = AfterFirstEpoch(self.clock, epochs + 1)
        self.fit(epochs=epochs + 1, callbacks=[callback])
        return callback.span

    def product(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """A matrix product, computed by a layer without activation and intercepts."""
        layer = gpunn.Dense(b.shape[1], use_bias=False)
        model = gpunn.Sequential([layer], input_shape=b.shape[0], seed=0, dtype=self.task.dtype)
        model.set_weights([b])
        found: np.ndarray = self.compiled(model, gpunn.SGD(0.1), "half_squared_error").predict(a)
        return found


def clock(device: Any) -> Clock:
    """The device's clock."""
    if device.device == "cpu":
        return Clock()
    cuda = device.xp.cuda

    def event() -> Any:
        made = cuda.Event()
        made.record()
        return made

    return EventClock(device.synchronize, event, cuda.get_elapsed_time)


def to_host(x: Any) -> np.ndarray:
    """An array of the device as a NumPy array."""
    return backend.to_host(x)


def release() -> None:
    """Free the memory that CuPy's pool keeps."""
    backend.get("auto").release_memory()


def prepare(task: Task, threads: int, shuffling: bool = False) -> Resident:
    """Prepare the contestant. The environment limits BLAS to `threads`."""
    return Resident(task, shuffling)
