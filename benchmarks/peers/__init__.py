"""The contestants, one file each, with one interface; nothing but a worker process imports them.

A module has a function `prepare(task, threads)` that gives a `Prepared`, and `PACKAGES`, the packages whose versions
count. On a CPU what `Prepared` computes is done when a method returns.

Where the task's device is a GPU, set, state and answers stay there, and the GPU may still be at it: `Prepared` then has
a `clock` (`benchmarks.clocks`) that waits for it, and `product(a, b)`, a product of two host arrays in the task's
precision. The module may have `to_host(x)`, which brings an answer to the host, and `release()`, which gives back
memory. What a contestant does not offer is `process.Unsupported`.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np


class Prepared(Protocol):
    """A contestant with a net, in the state that training has brought it to."""

    def losses(self, n: int) -> list[float]:
        """The losses before each of the first steps, n or more of them, which it takes; called once, first."""

    def train(self, epochs: int) -> tuple[float, float | None] | None:
        """Train for so many epochs, the rows of each in the task's order for it. For `fit`: from the beginning. Who
        times itself returns its span."""

    def predict(self) -> Any:
        """aᴸ (rows, n_out) of the task's rows, on the task's device: values or probabilities."""

    def weights(self) -> list[np.ndarray]:
        """[W1, b1, W2, b2, …] as they are now, with W (n_in, n_out)."""

    def setup(self) -> None:
        """A new model, from its constructor to the end of its first step, on one batch. Only for mode "setup"."""
