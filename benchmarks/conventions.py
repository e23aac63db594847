"""What all contestants are given, and the conventions that make their objective one and the same.

- The set, the initial weights and the order of the rows are drawn here, from the seed, in plain NumPy.
- The cost of a batch is the mean over its rows: of ½(y − a)², or of the cross-entropy −log softmax(z)_y. No penalty.
- SGD is θ ← θ − ηg. Adam is PyTorch's form, θ ← θ − η/(1 − β₁ᵗ) · m/(√v/√(1 − β₂ᵗ) + ε), t = 1, 2, …, ε = 1e-7, for all
  but scikit-learn's `fit` and gpunn's estimators, which are compared with each other: there ε stands outside the bias
  correction, θ ← θ − η√(1 − β₂ᵗ)/(1 − β₁ᵗ) · m/(√v + ε).
- Weights are (n_in, n_out); PyTorch's are transposed.
- Losses of the first steps are those before each step, and must agree before a time is shown.
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
STEPS_THAT_AGREE = 20
# of the largest loss; float32 as the comparison is laid down, float64 the same number of roundings away
LOSS_TOLERANCE = {"float32": 1e-5, "float64": 1e-12}
# of the shorter number types each contestant is held to so many times the error of the most accurate one, and nobody
# may be further off than this
TIMES_THE_BEST, LOSS_LIMIT = 3.0, {"tf32": 3e-3, "bf16": 3e-2}
# between these lies the error of a product with so many digits, ‖found − right‖ / ‖right‖ in float64: whoever lies
# outside computes in another precision than was asked for
PRODUCT_ERROR = {"float64": (0.0, 1e-13), "float32": (0.0, 1e-5), "tf32": (5e-5, 2e-3), "bf16": (5e-4, 2e-2)}
# of the largest output, after training, where rounding in the logits has grown with them
OUTPUT_TOLERANCE = {"float32": 1e-4, "float64": 1e-11, "tf32": 1e-2, "bf16": 1e-1}
# of the numbers that a precision begins with: master parameters, moments and the set
MASTER = {"float32": "float32", "float64": "float64", "tf32": "float32", "bf16": "float32"}
NOISE = 0.5  # of the targets, so that no net learns its set by heart and gradients stay ordinary numbers


@dataclass(frozen=True)
class Task:
    """A net with its set and its beginning.

    X (rows, n_in); y (rows,) int64 labels, or (rows, 1) values; weights [W1, b1, W2, b2, …]; X, values and weights are
    float64 where `precision` is "float64", else float32. "tf32" and "bf16" say how products are computed.
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
        """The type of parameters, moments and the set."""
        return MASTER[self.precision]

    def order(self, epoch: int) -> np.ndarray:
        """The rows' order (rows,) in an epoch: a permutation drawn from a Philox generator keyed (seed, epoch)."""
        return generator(self.seed, epoch % self.net.orders if self.net.orders else epoch).permutation(self.net.rows)

    def in_float64(self) -> Task:
        """The same numbers, to be computed with in float64."""
        y = self.y.astype(np.float64) if self.y.ndim == 2 else self.y
        weights = [w.astype(np.float64) for w in self.weights]
        return dataclasses.replace(self, precision="float64", X=self.X.astype(np.float64), y=y, weights=weights)


class Orders:
    """A task's orders where its contestant wants them: `put` brings one there. What is drawn beforehand stays there."""

    def __init__(self, task: Task, put: Callable[[np.ndarray], Any]) -> None:
        self.task, self.put = task, put
        self.kept = [put(task.order(k)) for k in range(task.net.orders)]

    def __call__(self, epoch: int) -> Any:
        """The order of an epoch."""
        return self.kept[epoch % len(self.kept)] if self.kept else self.put(self.task.order(epoch))


def generator(seed: int, purpose: int) -> np.random.Generator:
    """A generator for one purpose."""
    return np.random.Generator(np.random.Philox(key=np.array([seed, purpose], dtype=np.uint64)))


def task(net: Net, seed: int, precision: str, device: str = "cpu", store: str | None = None) -> Task:
    """The net's set and its initial weights. `store` is a folder where a set is kept that many processes read."""
    dtype = np.dtype(MASTER[precision])
    X, y = drawn(net, seed, dtype) if store is None else stored(net, seed, dtype, Path(store))
    return Task(net, seed, precision, X, y, initial_weights(net.sizes, seed, dtype), device)


def stored(net: Net, seed: int, dtype: Any, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """The set out of the folder, drawn where it is not there yet; what is read is mapped, and never written back.

    They are plain arrays: gpunn trains on one that says it is mapped batch by batch."""
    paths = [folder / f"{net.name}-{seed}-{dtype}-{part}.npy" for part in ("y", "X")]
    if not paths[1].exists():
        X, y = drawn(net, seed, dtype)
        for path, array in zip(paths, (y, X), strict=True):
            beside = path.with_suffix(f".{os.getpid()}.npy")
            np.save(beside, array)
            beside.replace(path)
    y, X = (np.asarray(np.load(path, mmap_mode="c")) for path in paths)
    return X, y


def drawn(net: Net, seed: int, dtype: Any) -> tuple[np.ndarray, np.ndarray]:
    """Normally distributed inputs, and a noisy linear teacher's targets."""
    draws = np.random.default_rng(seed)
    # drawn in float32 also for float64: memory, and the same set for both
    X = draws.standard_normal((net.rows, net.sizes[0]), dtype=np.float32).astype(dtype, copy=False)
    teacher = draws.standard_normal((net.sizes[0], net.sizes[-1]), dtype=np.float32) / math.sqrt(net.sizes[0])
    taught = X.astype(np.float32, copy=False) @ teacher
    taught += NOISE * draws.standard_normal(taught.shape, dtype=np.float32)
    y = taught.astype(dtype) if net.loss == "half_squared_error" else taught.argmax(axis=1)
    return X, y


def initial_weights(sizes: Sequence[int], seed: int, dtype: Any) -> list[np.ndarray]:
    """[W1, b1, …], uniform within ±√(6/(n_in + n_out)), as scikit-learn draws them from `random_state=seed`: its `fit`
    takes no weights, so that the others begin with its own."""
    draws, weights = np.random.RandomState(seed), []
    for n_in, n_out in pairwise(sizes):
        bound = math.sqrt(6 / (n_in + n_out))
        weights += [draws.uniform(-bound, bound, shape).astype(dtype) for shape in ((n_in, n_out), (n_out,))]
    return weights


def forward(weights: Sequence[np.ndarray], X: np.ndarray, loss: str) -> np.ndarray:
    """aᴸ in float64: values, or probabilities by softmax."""
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


def disagreement(found: Sequence[float], wanted: Sequence[float]) -> float:
    """The largest difference between two rows of losses, as part of the largest wanted; infinite where one is not
    finite or some are missing."""
    if len(found) != len(wanted):
        return math.inf
    differences = [abs(a - b) for a, b in zip(found, wanted, strict=True)]
    if not all(map(math.isfinite, differences)):
        return math.inf
    return max(differences) / max(map(abs, wanted))
