"""gpunn as its users call it: `Sequential.fit` and `Sequential.predict`."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np

import gpunn

from ..nets import PREDICTION_ROWS
from ..translator import BETA_1, BETA_2, EPSILON, Task

PACKAGES = ("gpunn", "numpy")


class Enough(Exception):
    """Ends a fit in the middle of an epoch; the network is as after its last step."""


class BatchLosses(gpunn.Callback):
    """The first n steps' own losses, from the running mean over the epoch's batches."""

    def __init__(self, n: int) -> None:
        self.n, self.total = n, 0.0
        self.found: list[float] = []

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        total = (logs or {})["loss"] * (batch + 1)
        self.found.append(total - self.total)
        self.total = total
        if len(self.found) == self.n:
            raise Enough


class GpunnSequential:
    """A network with the task's weights; `options` go to `fit`."""

    def __init__(self, task: Task, **options: Any) -> None:
        self.task, self.options = task, options
        self.net = self.model()

    def model(self) -> gpunn.Sequential:
        """The compiled network, with the task's weights."""
        net = self.task.net
        last = "softmax" if net.loss == "crossentropy" else "identity"
        layers = [gpunn.Dense(width, "relu") for width in net.sizes[1:-1]] + [gpunn.Dense(net.sizes[-1], last)]
        model = gpunn.Sequential(layers, input_shape=net.sizes[0], seed=self.task.seed, dtype=self.task.precision)
        model.set_weights(self.task.weights)
        if net.rule == "sgd":
            rule: Any = gpunn.SGD(net.learning_rate)
        else:
            rule = gpunn.Adam(net.learning_rate, beta_1=BETA_1, beta_2=BETA_2, epsilon=EPSILON)
        loss = "half_squared_error" if net.loss == "half_squared_error" else "sparse_categorical_crossentropy"
        return model.compile(rule, loss, device="cpu")

    def losses(self, n: int) -> list[float]:
        watching = BatchLosses(n)
        with contextlib.suppress(Enough):
            self.net.fit(self.task.X, self.task.y, batch_size=self.task.net.batch, verbose=0, callbacks=[watching])
        return watching.found

    def train(self, epochs: int) -> None:
        options = {"verbose": 0, **self.options}
        self.net.fit(self.task.X, self.task.y, batch_size=self.task.net.batch, epochs=epochs, **options)

    def predict(self) -> np.ndarray:
        found: np.ndarray = self.net.predict(self.task.X, batch_size=PREDICTION_ROWS)
        return found

    def weights(self) -> list[np.ndarray]:
        return self.net.get_weights()

    def setup(self) -> None:
        batch = self.task.net.batch
        self.model().fit(self.task.X[:batch], self.task.y[:batch], batch_size=batch, verbose=0)


def prepare(task: Task, threads: int) -> GpunnSequential:
    """`threads` is what the environment has told BLAS."""
    return GpunnSequential(task)
