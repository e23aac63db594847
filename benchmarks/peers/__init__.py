"""The contestants, one module each, with a common interface. Only worker processes import them.

A module has a function `prepare(task, threads)` that returns a `Prepared`, and `PACKAGES`, the packages whose versions
are recorded. On a CPU the methods of `Prepared` return when their work is finished.

On a GPU, data, state and outputs stay there, and methods may return before the GPU has finished. `Prepared` then has a
`clock` (`benchmarks.clocks`) that synchronizes, and `product(a, b)`, a matrix product of host arrays in the task's
precision. The module may have `to_host(x)`, which copies outputs to the host, and `release()`, which frees memory. A
contestant raises `process.Unsupported` for a task that it does not offer.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np


class Prepared(Protocol):
    """A contestant with a net in some state of training."""

    def losses(self, n: int) -> list[float]:
        """Run at least the first n steps and return the loss before each. Called once, before any other method."""

    def train(self, epochs: int) -> tuple[float, float | None] | None:
        """Train for `epochs` epochs with the task's orders, in mode "fit" from the initial weights.

        A contestant that times itself returns its span.
        """

    def predict(self) -> Any:
        """aᴸ (rows, n_out) of the task's data, on the task's device: values or probabilities."""

    def weights(self) -> list[np.ndarray]:
        """The current [W1, b1, W2, b2, …], with W (n_in, n_out)."""

    def setup(self) -> None:
        """Build a new model and train it for one step on one batch. Only for mode "setup"."""
