"""The floor: the matrix products of a step only, by `np.matmul` into existing buffers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..conventions import Task

PACKAGES = ("numpy",)

Product = tuple[Any, Any, Any]  # a, b, out


def products(task: Task, numbers: Callable[..., Any], W: list[Any]) -> tuple[list[Product], list[Product]]:
    """The products of a training step, and of the forward pass of a block.

    `numbers(n, m)` makes an array of random numbers on the device, and W are the weights on the device.
    """
    training: list[Product] = []
    prediction: list[Product] = []
    batch = task.net.batch
    for n, listed in ((batch, training), (task.net.block, prediction)):
        a = [numbers(n, width) for width in task.net.sizes]
        # the product writes aˡ; leaving out the activation does not change the time of the products
        listed += [(a[k], W[k], a[k + 1]) for k in range(len(W))]
    delta = [numbers(batch, width) for width in task.net.sizes]
    a_prev = [numbers(batch, width) for width in task.net.sizes]
    for k in reversed(range(len(W))):
        training.append((a_prev[k].T, delta[k + 1], numbers(*W[k].shape)))
        if k:
            training.append((delta[k + 1], W[k].T, numbers(*delta[k].shape)))
    return training, prediction


class Floor:
    """Lists of products (a, b, out)."""

    def __init__(self, task: Task) -> None:
        self.task = task
        draws = np.random.default_rng(task.seed)

        def numbers(*shape: int) -> np.ndarray:
            return draws.standard_normal(shape, dtype=np.float32).astype(task.dtype)

        self.training, self.prediction = products(task, numbers, task.weights[0::2])

    def train(self, epochs: int) -> None:
        """Compute the products of all steps of the epochs."""
        for _ in range(epochs * self.task.net.steps):
            for a, b, out in self.training:
                np.matmul(a, b, out=out)

    def predict(self) -> np.ndarray:
        """Compute the products of a prediction; the numbers have no meaning."""
        for _ in range(self.task.net.rows // self.task.net.block):
            for a, b, out in self.prediction:
                np.matmul(a, b, out=out)
        found: np.ndarray = self.prediction[-1][2]
        return found


def prepare(task: Task, threads: int) -> Floor:
    """Prepare the contestant. The environment limits BLAS to `threads`."""
    return Floor(task)
