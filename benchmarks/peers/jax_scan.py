"""JAX with a whole epoch as one computation: `lax.scan` over its steps."""

from __future__ import annotations

import jax
import numpy as np

from ..conventions import Task
from ..nets import Net
from .jax_jit import Array, JaxJit, State, outputs, release, set_up, step

__all__ = ["PACKAGES", "JaxScan", "prepare", "release"]

PACKAGES = ("jax", "jaxlib", "numpy")


class JaxScan(JaxJit):
    """Like `JaxJit`, without Python between the steps of an epoch or the blocks of a prediction."""

    def compile(self, net: Net) -> None:
        """Make the jitted functions of this net."""

        def one_epoch(state: State, X: Array, y: Array, order: Array) -> tuple[State, Array]:
            def one(state: State, rows: Array) -> tuple[State, Array]:
                return step(state, X, y, rows, net, self.compute_dtype)

            scanned: tuple[State, Array] = jax.lax.scan(one, state, order)
            return scanned

        def all_outputs(p: list[Array], X: Array) -> Array:
            blocks = X.reshape(-1, net.block, X.shape[1])
            return jax.lax.map(lambda x: outputs(p, x, net, self.compute_dtype), blocks).reshape(X.shape[0], -1)

        self.one_epoch = jax.jit(one_epoch, donate_argnums=0)
        self.all_outputs = jax.jit(all_outputs)

    def losses(self, n: int) -> list[float]:
        """The losses of a whole epoch, which is one compiled function."""
        self.state, found = self.one_epoch(self.state, self.X, self.y, self.order())
        return [float(loss) for loss in np.asarray(found)]

    def train(self, epochs: int) -> None:
        for _ in range(epochs):
            self.state, _ = self.one_epoch(self.state, self.X, self.y, self.order())
        if self.task.device == "cpu":
            jax.block_until_ready(self.state)

    def predict(self) -> Array:
        found = self.all_outputs(self.state["p"], self.X)
        return np.asarray(found) if self.task.device == "cpu" else jax.block_until_ready(found)


def prepare(task: Task, threads: int) -> JaxScan:
    """Prepare the contestant. The environment limits XLA to `threads`."""
    set_up(task)
    return JaxScan(task)
