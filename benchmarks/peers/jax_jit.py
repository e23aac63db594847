"""JAX with a jitted step: gather, forward, gradients and update in one computation, its buffers donated."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..nets import PREDICTION_ROWS, Net
from ..translator import BETA_1, BETA_2, EPSILON, Task

PACKAGES = ("jax", "jaxlib", "numpy")

Array = Any
State = dict[str, Any]  # p, m, v: lists of arrays; t: steps taken; k: steps of the epoch


def logits(p: list[Array], x: Array) -> Array:
    """zᴸ (E1, E2)."""
    for k in range(0, len(p), 2):
        x = x @ p[k] + p[k + 1]
        if k < len(p) - 2:
            x = jax.nn.relu(x)
    return x


def cost(p: list[Array], x: Array, y: Array, net: Net) -> Array:
    """C of a batch, the mean over its rows (E3)."""
    z = logits(p, x)
    if net.loss == "half_squared_error":
        return 0.5 * jnp.mean(jnp.sum((z - y) ** 2, axis=1))
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(z), y[:, None], axis=1))


def step(state: State, X: Array, y: Array, rows: Array, net: Net) -> tuple[State, Array]:
    """The state after one step on those rows, and the loss before it."""
    p, m, v, t = state["p"], state["m"], state["v"], state["t"] + 1
    loss, g = jax.value_and_grad(cost)(p, X[rows], y[rows], net)
    if net.rule == "sgd":
        p = [theta - net.learning_rate * d for theta, d in zip(p, g, strict=True)]
    else:
        # 1 − βᵗ without its cancellation
        c1, c2 = (-jnp.expm1(t * math.log(beta)) for beta in (BETA_1, BETA_2))
        rate, root = (net.learning_rate / c1).astype(X.dtype), jnp.sqrt(c2).astype(X.dtype)
        m = [BETA_1 * a + (1 - BETA_1) * d for a, d in zip(m, g, strict=True)]
        v = [BETA_2 * a + (1 - BETA_2) * d * d for a, d in zip(v, g, strict=True)]
        p = [theta - rate * a / (jnp.sqrt(b) / root + EPSILON) for theta, a, b in zip(p, m, v, strict=True)]
    return {"p": p, "m": m, "v": v, "t": t, "k": state["k"] + 1}, loss


def outputs(p: list[Array], x: Array, net: Net) -> Array:
    """aᴸ of a block of rows."""
    z = logits(p, x)
    return jax.nn.softmax(z) if net.loss == "crossentropy" else z


class JaxJit:
    """The set and the state on JAX's device, and a Python loop over the steps."""

    def __init__(self, task: Task) -> None:
        self.task, self.epoch = task, 0
        self.X, self.y = jnp.asarray(task.X), jnp.asarray(task.y)
        p = [jnp.array(w) for w in task.weights]
        moments = [] if task.net.rule == "sgd" else p
        self.state: State = {
            "p": p,
            "m": [jnp.zeros_like(w) for w in moments],
            "v": [jnp.zeros_like(w) for w in moments],
            "t": jnp.zeros((), self.X.dtype),
            "k": jnp.zeros((), jnp.int32),
        }
        self.blocks: list[Array] = []
        self.compile(task.net)

    def compile(self, net: Net) -> None:
        """The functions that are jitted, for this net."""

        def next_step(state: State, X: Array, y: Array, order: Array) -> tuple[State, Array]:
            # the state's own batch of order (steps, batch): nothing comes from the host
            return step(state, X, y, order[state["k"]], net)

        self.next_step = jax.jit(next_step, donate_argnums=0)
        self.outputs = jax.jit(partial(outputs, net=net))

    def order(self) -> Array:
        """The rows (steps, batch) of the epoch that comes."""
        rows = self.task.order(self.epoch).astype(np.int32).reshape(-1, self.task.net.batch)
        self.epoch += 1
        return jnp.asarray(rows)

    def steps(self, n: int) -> list[Array]:
        """The losses of n steps of the epoch that comes."""
        order, state, found = self.order(), self.state, []
        state["k"] = jnp.zeros((), jnp.int32)
        for _ in range(n):
            state, loss = self.next_step(state, self.X, self.y, order)
            found.append(loss)
        self.state = jax.block_until_ready(state)
        return found

    def losses(self, n: int) -> list[float]:
        return [float(loss) for loss in self.steps(n)]

    def train(self, epochs: int) -> None:
        for _ in range(epochs):
            self.steps(self.task.net.steps)

    def predict(self) -> np.ndarray:
        if not self.blocks:
            self.blocks = [self.X[k : k + PREDICTION_ROWS] for k in range(0, self.task.net.rows, PREDICTION_ROWS)]
        return np.concatenate([self.outputs(self.state["p"], x) for x in self.blocks])

    def weights(self) -> list[np.ndarray]:
        return [np.asarray(p) for p in self.state["p"]]


def set_up(task: Task) -> None:
    """JAX on the CPU, in the task's precision."""
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_x64", task.precision == "float64")


def prepare(task: Task, threads: int) -> JaxJit:
    """`threads` is what the environment has told XLA before it was imported."""
    set_up(task)
    return JaxJit(task)
