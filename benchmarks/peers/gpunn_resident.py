"""gpunn on a GPU, its set there already: `Sequential.fit` and `Sequential.predict` on arrays of the device.

A fit prepares itself anew at every call, and captures its step; what counts is the epochs behind the first. The orders
of the rows lie on the device as the other contestants' do, unless `shuffling`, where every epoch draws its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

import gpunn
from gpunn import backend, input_checks

from ..clocks import Clock, EventClock, Span
from ..conventions import Orders, Task
from .gpunn_sequential import GpunnSequential

PACKAGES = ("gpunn", "cupy", "numpy")


class AfterFirstEpoch(gpunn.Callback):
    """Times what comes behind the first epoch of a fit."""

    def __init__(self, clock: Clock, epochs: int) -> None:
        self.clock, self.last = clock, epochs - 1
        self.span: Span | None = None

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        if epoch == self.last:
            self.span = self.clock.end()
        if epoch == 0:
            self.clock.begin()


class Resident(GpunnSequential):
    """X, y and the orders as arrays of the device."""

    def __init__(self, task: Task, shuffling: bool) -> None:
        super().__init__(task)
        self.device = backend.get(task.device)
        self.X, self.y = self.device.asarray(task.X), self.device.asarray(task.y)
        self.clock = clock(self.device)
        self.orders = None if shuffling else Orders(task, self.device.asarray)

    @contextmanager
    def resident_orders(self) -> Iterator[None]:
        """While it lasts, `fit` finds its orders on the device instead of drawing them."""
        drawn, orders = input_checks.epoch_permutation, self.orders
        if orders is not None:
            input_checks.epoch_permutation = lambda n, seed, epoch, shuffle: orders(epoch)  # type: ignore[assignment]
        try:
            yield
        finally:
            input_checks.epoch_permutation = drawn

    def fit(self, **options: Any) -> None:
        with self.resident_orders():
            super().fit(**options)

    def train(self, epochs: int) -> Span | None:
        callback = AfterFirstEpoch(self.clock, epochs + 1)
        self.fit(epochs=epochs + 1, callbacks=[callback])
        return callback.span

    def product(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """By a layer without activation and intercepts."""
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
    """An array of the device as NumPy's."""
    return backend.to_host(x)


def release() -> None:
    """Give the memory back that CuPy keeps."""
    backend.get("auto").release_memory()


def prepare(task: Task, threads: int, shuffling: bool = False) -> Resident:
    """`threads` is what the environment has told BLAS."""
    return Resident(task, shuffling)
