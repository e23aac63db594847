"""NumPy as in a textbook: one expression per equation, nothing fused, no buffer reused.

In float64 it is also the reference for all losses. On a GPU CuPy computes it, because a CPU would need minutes for the
large nets.
"""

from __future__ import annotations

import importlib
import math
from typing import Any

import numpy as np

from ..conventions import BETA_1, BETA_2, EPSILON, Task

PACKAGES = ("numpy",)


class NumpyPlain:
    """Weights and moments as lists of arrays; `rule` is the form of Adam, and `xp` is numpy or cupy."""

    def __init__(self, task: Task, rule: str, xp: Any = np) -> None:
        self.task, self.rule, self.xp = task, rule, xp
        self.X, self.y = xp.asarray(task.X), xp.asarray(task.y)
        self.W = [xp.asarray(w).copy() for w in task.weights[0::2]]
        self.b = [xp.asarray(b).copy() for b in task.weights[1::2]]
        self.m = [xp.zeros_like(p) for p in self.W + self.b]
        self.v = [xp.zeros_like(p) for p in self.W + self.b]
        self.t = self.epoch = 0

    def forward(self, x: np.ndarray) -> list[np.ndarray]:
        """[a⁰, a¹, …, zᴸ] (E1, E2)."""
        a = [x]
        for k, (W, b) in enumerate(zip(self.W, self.b, strict=True)):
            z = a[-1] @ W + b
            a.append(self.xp.maximum(z, 0) if k < len(self.W) - 1 else z)
        return a

    def output_error(self, z: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
        """C and δᴸ (E3, E4)."""
        n, xp = len(z), self.xp
        if self.task.net.loss == "half_squared_error":
            return float(0.5 * ((z - y) ** 2).sum() / n), (z - y) / n
        shifted = z - z.max(axis=1, keepdims=True)
        e = xp.exp(shifted)
        total = e.sum(axis=1, keepdims=True)
        rows = xp.arange(n)
        loss = float((xp.log(total[:, 0]) - shifted[rows, y]).mean())
        p = e / total
        p[rows, y] -= 1
        return loss, p / n

    def step(self, x: np.ndarray, y: np.ndarray) -> float:
        """Run the six steps of the procedure; returns the loss before the update."""
        a = self.forward(x)
        loss, delta = self.output_error(a[-1], y)
        dW: list[np.ndarray] = []
        db: list[np.ndarray] = []
        for k in reversed(range(len(self.W))):
            dW.insert(0, a[k].T @ delta)
            db.insert(0, delta.sum(axis=0))
            if k:
                delta = (delta @ self.W[k].T) * (a[k] > 0)
        self.update(dW + db)
        return loss

    def update(self, gradients: list[np.ndarray]) -> None:
        """Update by SGD, or by Adam in either form (E8)."""
        self.t += 1
        lr = self.task.net.learning_rate
        c1, c2 = 1 - BETA_1**self.t, math.sqrt(1 - BETA_2**self.t)
        for k, (p, g) in enumerate(zip(self.W + self.b, gradients, strict=True)):
            if self.task.net.rule == "sgd":
                p -= lr * g
                continue
            self.m[k] = BETA_1 * self.m[k] + (1 - BETA_1) * g
            self.v[k] = BETA_2 * self.v[k] + (1 - BETA_2) * g**2
            if self.rule == "pytorch":
                p -= lr / c1 * self.m[k] / (self.xp.sqrt(self.v[k]) / c2 + EPSILON)
            else:
                p -= lr * c2 / c1 * self.m[k] / (self.xp.sqrt(self.v[k]) + EPSILON)

    def steps(self, n: int) -> list[float]:
        """Run n steps of the next epoch and return their losses."""
        X, y, batch = self.X, self.y, self.task.net.batch
        order = self.xp.asarray(self.task.order(self.epoch))
        self.epoch += 1
        found = []
        for start in range(0, n * batch, batch):
            rows = order[start : start + batch]
            found.append(self.step(X[rows], y[rows]))
        return found

    def losses(self, n: int) -> list[float]:
        return self.steps(n)

    def train(self, epochs: int) -> None:
        for _ in range(epochs):
            self.steps(self.task.net.steps)

    def predict(self) -> Any:
        X, parts, block = self.X, [], self.task.net.block
        for start in range(0, len(X), block):
            z = self.forward(X[start : start + block])[-1]
            if self.task.net.loss == "crossentropy":
                e = self.xp.exp(z - z.max(axis=1, keepdims=True))
                z = e / e.sum(axis=1, keepdims=True)
            parts.append(z)
        return self.xp.concatenate(parts)

    def weights(self) -> list[np.ndarray]:
        return [p for pair in zip(self.W, self.b, strict=True) for p in pair]


def prepare(task: Task, threads: int, rule: str = "pytorch") -> NumpyPlain:
    """Prepare the contestant. The environment limits BLAS to `threads`."""
    return NumpyPlain(task, rule, np if task.device == "cpu" else importlib.import_module("cupy"))
