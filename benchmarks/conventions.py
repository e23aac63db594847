"""Inputs of all contestants, and the conventions that make their objectives equal.

- The data, the initial weights and the order of the rows are drawn here, from the seed, with NumPy.
- The cost of a batch is the mean over its rows: of ½(y − a)², or of the cross-entropy −log softmax(z)_y. No penalty.
- SGD is θ ← θ − ηg. Adam is PyTorch's form, θ ← θ − η/(1 − β₁ᵗ) · m/(√v/√(1 − β₂ᵗ) + ε), t = 1, 2, …, ε = 1e-7, for all
  except scikit-learn's `fit` and gpunn's estimators, which are compared with each other: there ε is outside the bias
  correction, θ ← θ − η√(1 − β₂ᵗ)/(1 − β₁ᵗ) · m/(√v + ε).
- Weights are (n_in, n_out); PyTorch's are transposed.
- Losses of the first steps are computed before each step and must agree before a time is shown.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from .nets import Net

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-7
CHECKED_STEPS = 20
# relative to the largest loss; float64 allows the same number of roundings as float32
LOSS_TOLERANCE = {"float32": 1e-5, "float64": 1e-12}
# in TF32 and bf16: the largest error relative to the most accurate contestant's, and the largest error of any
MAX_ERROR_RATIO, MAX_LOSS_ERROR = 3.0, {"tf32": 3e-3, "bf16": 3e-2}
# bounds of a product's error ‖computed − exact‖ / ‖exact‖; an error outside means that another precision is used
PRODUCT_ERROR = {"float64": (0.0, 1e-13), "float32": (0.0, 1e-5), "tf32": (5e-5, 2e-3), "bf16": (5e-4, 2e-2)}
# relative to the largest output after training; rounding errors grow with the logits
OUTPUT_TOLERANCE = {"float32": 1e-4, "float64": 1e-11, "tf32": 1e-2, "bf16": 1e-1}
# the type of parameters, moments and data in each precision
MASTER = {"float32": "float32", "float64": "float64", "tf32": "float32", "bf16": "float32"}
NOISE = 0.5  # standard deviation of the targets' noise, so that no net fits its data exactly and gradients stay normal


@dataclass(frozen=True)
class Task:
    """A net with its data and its initial weights.

    X (rows, n_in); y (rows,) int64 labels, or (rows, 1) values; weights [W1, b1, W2, b2, …]; X, values and weights are
    float64 if `precision` is "float64", else float32. "tf32" and "bf16" are the precision of matrix products.
    `device` is "cpu" or "cuda".
    """

    net: Net
    seed: int
    precision: str
    X: np.ndarray
    y: np.ndarray
    weights: list[np.ndarray]
    device: str = "cpu"

    @property
    def dtype(self) -> str:
        """The type of parameters, moments and data."""
        return MASTER[self.precision]

    def order(self, epoch: int) -> np.ndarray:
        """The order (rows,) of an epoch: a permutation drawn from a Philox generator keyed (seed, epoch)."""
        return generator(self.seed, epoch % self.net.orders if self.net.orders else epoch).permutation(self.net.rows)

    def in_float64(self) -> Task:
        """The same task in float64."""
        y = self.y.astype(np.float64) if self.y.ndim == 2 else self.y
        weights = [w.astype(np.float64) for w in self.weights]
        return dataclasses.replace(self, precision="float64", X=self.X.astype(np.float64), y=y, weights=weights)


class Orders:
    """A task's orders on the contestant's device. `put` copies one there; orders drawn in advance stay there."""

    def __init__(self, task: Task, put: Callable[[np.ndarray], Any]) -> None:
        self.task, self.put = task, put
        self.prepared = [put(task.order(k)) for k in range(task.net.orders)]

    def __call__(self, epoch: int) -> Any:
        """The order of an epoch."""
        return self.prepared[epoch % len(self.prepared)] if self.prepared else self.put(self.task.order(epoch))


def generator(seed: int, purpose: int) -> np.random.Generator:
    """A generator for one purpose."""
    return np.random.Generator(np.random.Philox(key=np.array([seed, purpose], dtype=np.uint64)))


def task(net: Net, seed: int, precision: str, device: str = "cpu", store: str | None = None) -> Task:
    """The net's data and initial weights. `store` is a folder for data that several processes read."""
    dtype = np.dtype(MASTER[precision])
    X, y = draw_data(net, seed, dtype) if store is None else cached_data(net, seed, dtype, Path(store))
    return Task(net, seed, precision, X, y, initial_weights(net.sizes, seed, dtype), device)


def cached_data(net: Net, seed: int, dtype: Any, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """The data from the folder, drawn if it is not there. The files are memory-mapped and never written back.

    The result is a plain array, because gpunn trains batch by batch on an array that is a memmap.
    """
    paths = [folder / f"{net.name}-{seed}-{dtype}-{part}.npy" for part in ("y", "X")]
    if not paths[1].exists():
        X, y = draw_data(net, seed, dtype)
        for path, array in zip(paths, (y, X), strict=True):
            temporary = path.with_suffix(f".{os.getpid()}.npy")
            np.save(temporary, array)
            temporary.replace(path)
    y, X = (np.asarray(np.load(path, mmap_mode="c")) for path in paths)
    return X, y


def draw_data(net: Net, seed: int, dtype: Any) -> tuple[np.ndarray, np.ndarray]:
    """Draw normally distributed inputs and the targets of a noisy linear teacher."""
    draws = np.random.default_rng(seed)
    # float32 even for float64: it needs less memory, and both precisions have the same data
    X = draws.standard_normal((net.rows, net.sizes[0]), dtype=np.float32).astype(dtype, copy=False)
    teacher = draws.standard_normal((net.sizes[0], net.sizes[-1]), dtype=np.float32) / math.sqrt(net.sizes[0])
    linear = X.astype(np.float32, copy=False) @ teacher
    linear += NOISE * draws.standard_normal(linear.shape, dtype=np.float32)
    y = linear.astype(dtype) if net.loss == "half_squared_error" else linear.argmax(axis=1)
    return X, y


def initial_weights(sizes: Sequence[int], seed: int, dtype: Any) -> list[np.ndarray]:
    """[W1, b1, …], uniform within ±√(6/(n_in + n_out)), as scikit-learn draws them from `random_state=seed`.

    scikit-learn's `fit` accepts no initial weights, so all contestants start from its own.
    """
    draws, weights = np.random.RandomState(seed), []
    for n_in, n_out in pairwise(sizes):
        bound = math.sqrt(6 / (n_in + n_out))
        weights += [draws.uniform(-bound, bound, shape).astype(dtype) for shape in ((n_in, n_out), (n_out,))]
    return weights


def forward(weights: Sequence[np.ndarray], X: np.ndarray, loss: str) -> np.ndarray:
    """aᴸ in float64: values, or softmax probabilities."""
    a, last = X.astype(np.float64), len(weights) // 2 - 1
    for k in range(last + 1):
        a = a @ weights[2 * k].astype(np.float64) + weights[2 * k + 1]
        if k < last:
            a = np.maximum(a, 0)
    if loss == "half_squared_error":
        return a
    e = np.exp(a - a.max(axis=1, keepdims=True))
    p: np.ndarray = e / e.sum(axis=1, keepdims=True)
    return p


def disagreement(found: Sequence[float], expected: Sequence[float]) -> float:
    """The largest difference between two lists of losses, relative to the largest expected loss.

    Infinite if a loss is not finite or missing.
    """
    if len(found) != len(expected):
        return math.inf
    differences = [abs(a - b) for a, b in zip(found, expected, strict=True)]
    if not all(map(math.isfinite, differences)):
        return math.inf
    return max(differences) / max(map(abs, expected))
