"""The floor: the matrix products of a step alone, by `np.matmul` into buffers that are there already."""

from __future__ import annotations

import numpy as np

from ..nets import PREDICTION_ROWS
from ..translator import Task

PACKAGES = ("numpy",)

Product = tuple[np.ndarray, np.ndarray, np.ndarray]


class Floor:
    """Lists of products (a, b, out): of a training step, and of the forward pass of a block of rows."""

    def __init__(self, task: Task) -> None:
        self.task = task
        draws = np.random.default_rng(task.seed)

        def numbers(*shape: int) -> np.ndarray:
            return draws.standard_normal(shape, dtype=np.float32).astype(task.precision)

        W = task.weights[0::2]
        self.training: list[Product] = []
        self.prediction: list[Product] = []
        for n, products in ((task.net.batch, self.training), (PREDICTION_ROWS, self.prediction)):
            a = [numbers(n, width) for width in task.net.sizes]
            # aˡ is written by its product; what an activation would make of it does not matter to the time
            products += [(a[k], W[k], a[k + 1]) for k in range(len(W))]
        batch = task.net.batch
        delta = [numbers(batch, width) for width in task.net.sizes]
        a_prev = [numbers(batch, width) for width in task.net.sizes]
        for k in reversed(range(len(W))):
            self.training.append((a_prev[k].T, delta[k + 1], np.empty_like(W[k])))
            if k:
                self.training.append((delta[k + 1], W[k].T, np.empty_like(delta[k])))

    def train(self, epochs: int) -> None:
        """The products of so many epochs' steps."""
        for _ in range(epochs * self.task.net.steps):
            for a, b, out in self.training:
                np.matmul(a, b, out=out)

    def predict(self) -> np.ndarray:
        """The products of a prediction; its numbers mean nothing."""
        for _ in range(self.task.net.rows // PREDICTION_ROWS):
            for a, b, out in self.prediction:
                np.matmul(a, b, out=out)
        return self.prediction[-1][2]


def prepare(task: Task, threads: int) -> Floor:
    """`threads` is what the environment has told BLAS."""
    return Floor(task)
