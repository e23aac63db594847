"""gpunn as users call it: `Sequential.fit` and `Sequential.predict`."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np

import gpunn

from ..conventions import BETA_1, BETA_2, EPSILON, Task
from ..process import Unsupported

PACKAGES = ("gpunn", "numpy")


class StopFit(Exception):
    """End a fit within an epoch. The network keeps the state after its last step."""


class BatchLosses(gpunn.Callback):
    """The losses of the first n steps, recovered from the running mean over the epoch's batches."""

    def __init__(self, n: int) -> None:
        self.n, self.total = n, 0.0
        self.found: list[float] = []

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        total = (logs or {})["loss"] * (batch + 1)
        self.found.append(total - self.total)
        self.total = total
        if len(self.found) == self.n:
            raise StopFit


class GpunnSequential:
    """A network with the task's weights. `options` are arguments of `fit`."""

    def __init__(self, task: Task, **options: Any) -> None:
        self.task, self.options = task, options
        self.X: Any = task.X
        self.y: Any = task.y
        self.net = self.model()

    def model(self) -> gpunn.Sequential:
        """Build and compile a network with the task's weights."""
        net = self.task.net
        last = "softmax" if net.loss == "crossentropy" else "identity"
        layers = [gpunn.Dense(width, "relu") for width in net.sizes[1:-1]] + [gpunn.Dense(net.sizes[-1], last)]
        model = gpunn.Sequential(layers, input_shape=net.sizes[0], seed=self.task.seed, dtype=self.task.dtype)
        model.set_weights(self.task.weights)
        if net.rule == "sgd":
            rule: Any = gpunn.SGD(net.learning_rate)
        else:
            rule = gpunn.Adam(net.learning_rate, beta_1=BETA_1, beta_2=BETA_2, epsilon=EPSILON)
        loss = "half_squared_error" if net.loss == "half_squared_error" else "sparse_categorical_crossentropy"
        return self.compiled(model, rule, loss)

    def compiled(self, model: gpunn.Sequential, rule: Any, loss: str) -> gpunn.Sequential:
        """Compile a network for the task's device and precision; `Unsupported` if gpunn refuses the precision."""
        precision = {"precision": self.task.precision} if self.task.precision in ("tf32", "bf16") else {}
        try:
            return model.compile(rule, loss, device=self.task.device, **precision)
        except ValueError as error:
            if not precision:
                raise
            raise Unsupported(f"gpunn: {error}") from error

    def losses(self, n: int) -> list[float]:
        callback = BatchLosses(n)
        with contextlib.suppress(StopFit):
            self.fit(callbacks=[callback])
        return callback.found

    def fit(self, **options: Any) -> None:
        """Call `Sequential.fit` on the task's data."""
        self.net.fit(self.X, self.y, batch_size=self.task.net.batch, **{"verbose": 0, **options})

    def train(self, epochs: int) -> Any:
        self.fit(epochs=epochs, **self.options)

    def predict(self) -> Any:
        return self.net.predict(self.X, batch_size=self.task.net.block)

    def weights(self) -> list[np.ndarray]:
        return self.net.get_weights()

    def setup(self) -> None:
        batch = self.task.net.batch
        self.model().fit(self.task.X[:batch], self.task.y[:batch], batch_size=batch, verbose=0)


def prepare(task: Task, threads: int) -> GpunnSequential:
    """Prepare the contestant. The environment limits BLAS to `threads`."""
    return GpunnSequential(task)
