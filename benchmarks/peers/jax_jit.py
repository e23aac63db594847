"""JAX with a jitted step: gather, forward, gradients and update in one computation with donated buffers."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..clocks import Clock
from ..conventions import BETA_1, BETA_2, EPSILON, Orders, Task
from ..nets import Net

PACKAGES = ("jax", "jaxlib", "numpy")

Array = Any
State = dict[str, Any]  # p, m, v: lists of arrays; t: steps taken; k: steps of the epoch


def logits(p: list[Array], x: Array, compute_dtype: Any = None) -> Array:
    """zᴸ (E1, E2) in the dtype of the parameters, computed in `compute_dtype` if that is given."""
    dtype = p[0].dtype
    if compute_dtype is not None:
        p, x = [theta.astype(compute_dtype) for theta in p], x.astype(compute_dtype)
    for k in range(0, len(p), 2):
        x = x @ p[k] + p[k + 1]
        if k < len(p) - 2:
            x = jax.nn.relu(x)
    return x.astype(dtype)


def cost(p: list[Array], x: Array, y: Array, net: Net, compute_dtype: Any) -> Array:
    """C of a batch, the mean over its rows (E3)."""
    z = logits(p, x, compute_dtype)
    if net.loss == "half_squared_error":
        return 0.5 * jnp.mean(jnp.sum((z - y) ** 2, axis=1))
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(z), y[:, None], axis=1))


def step(state: State, X: Array, y: Array, rows: Array, net: Net, compute_dtype: Any = None) -> tuple[State, Array]:
    """The state after one step on these rows, and the loss before it."""
    p, m, v, t = state["p"], state["m"], state["v"], state["t"] + 1
    loss, g = jax.value_and_grad(cost)(p, X[rows], y[rows], net, compute_dtype)
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


def outputs(p: list[Array], x: Array, net: Net, compute_dtype: Any = None) -> Array:
    """aᴸ of a block of rows."""
    z = logits(p, x, compute_dtype)
    return jax.nn.softmax(z) if net.loss == "crossentropy" else z


class JaxJit:
    """Data and state on JAX's device, and a Python loop over the steps."""

    def __init__(self, task: Task) -> None:
        self.task, self.epoch = task, 0
        self.compute_dtype = jnp.bfloat16 if task.precision == "bf16" else None
        self.clock = Clock(lambda: jax.block_until_ready(self.state))
        self.orders = Orders(task, self.put)
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
        """Make the jitted functions of this net."""

        def next_step(state: State, X: Array, y: Array, order: Array) -> tuple[State, Array]:
            # the step number in the state selects the batch, so nothing is copied from the host
            return step(state, X, y, order[state["k"]], net, self.compute_dtype)

        self.next_step = jax.jit(next_step, donate_argnums=0)
        self.outputs = jax.jit(partial(outputs, net=net, compute_dtype=self.compute_dtype))

    def put(self, rows: np.ndarray) -> Array:
        """An order as (steps, batch) on the device."""
        return jnp.asarray(rows.astype(np.int32).reshape(-1, self.task.net.batch))

    def order(self) -> Array:
        """The rows (steps, batch) of the next epoch."""
        self.epoch += 1
        return self.orders(self.epoch - 1)

    def steps(self, n: int) -> list[Array]:
        """Run n steps of the next epoch and return their losses."""
        order, state, found = self.order(), self.state, []
        state["k"] = jnp.zeros((), jnp.int32)
        for _ in range(n):
            state, loss = self.next_step(state, self.X, self.y, order)
            found.append(loss)
        self.state = state
        return found

    def losses(self, n: int) -> list[float]:
        return [float(loss) for loss in self.steps(n)]

    def train(self, epochs: int) -> None:
        for _ in range(epochs):
            self.steps(self.task.net.steps)
        # on a GPU the clock synchronizes; on a CPU the work must be finished on return
        if self.task.device == "cpu":
            jax.block_until_ready(self.state)

    def predict(self) -> Array:
        if not self.blocks:
            block = self.task.net.block
            self.blocks = [self.X[k : k + block] for k in range(0, self.task.net.rows, block)]
        found = [self.outputs(self.state["p"], x) for x in self.blocks]
        return np.concatenate(found) if self.task.device == "cpu" else jax.block_until_ready(jnp.concatenate(found))

    def weights(self) -> list[np.ndarray]:
        return [np.asarray(p) for p in self.state["p"]]

    def product(self, a: np.ndarray, b: np.ndarray) -> Array:
        a, b = jnp.asarray(a), jnp.asarray(b)
        return jax.jit(jnp.matmul)(
            *((a, b) if self.compute_dtype is None else (a.astype(self.compute_dtype), b.astype(self.compute_dtype)))
        )


def set_up(task: Task) -> None:
    """Configure JAX for the task's device and precision. TF32 is used only for "tf32", not by default."""
    jax.config.update("jax_platforms", task.device)
    jax.config.update("jax_enable_x64", task.precision == "float64")
    if task.device != "cpu":
        matmul_precision = {"tf32": "tensorfloat32", "bf16": None}.get(task.precision, "highest")
        jax.config.update("jax_default_matmul_precision", matmul_precision)


def release() -> None:
    """Clear the caches of compiled functions to free memory."""
    jax.clear_caches()


def prepare(task: Task, threads: int) -> JaxJit:
    """Prepare the contestant. The environment limits XLA to `threads`."""
    set_up(task)
    return JaxJit(task)
