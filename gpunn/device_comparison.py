"""Do two devices compute the same? One network on both, layer by layer, then step by step."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import backend as backends
from .input_checks import as_real_array, epoch_permutation
from .kernels._compiler import cpu_cache
from .model import BATCH, Sequential
from .validation import positive_integer

QUANTITIES = ("z", "a", "delta", "dW", "db")
SHOWN = ("z", "a", "δ", "∂W", "∂b")
ROUNDINGS = 64  # times u√K: two sums of K terms in different orders
CUTS = 4  # times the rounding of operands, where they are rounded: once a product, forward and back
EXACT = 1e-9  # of the largest loss, in float64


@dataclass(frozen=True)
class Difference:
    """How far two arrays are apart: max |a − b| over max |a|, and the same in units in the last place of max |a|.

    `allowed` is 64·u·√K, K the longest sum in the network; where a device rounds the operands of products by r of them,
    as `precision` asks, 8·L·r more in L layers.
    """

    relative: float
    ulp: float
    allowed: float

    @property
    def ok(self) -> bool:
        """Whether rounding explains it; never where a number is not finite on one side alone."""
        return self.relative <= self.allowed


@dataclass(frozen=True)
class DeviceReport:
    """What `compare_devices` found.

    sides    the two devices' names, the reference first
    layers   for each layer its number and kind, and the `Difference` of z, a, delta, dW and db, None where it has none
    losses   each side's loss before every step
    allowed  how far two losses may be apart, as a part of the largest
    drift    the first step whose losses are further apart, counted from 0; None where there is none
    """

    devices: tuple[str, str]
    dtype: str
    rows: int
    layers: list[tuple[str, dict[str, Difference | None]]]
    losses: tuple[list[float], list[float]]
    allowed: float
    first_divergent_step: int | None

    @property
    def ok(self) -> bool:
        """Whether every difference is one that rounding explains, in the first step's numbers and in all losses."""
        return self.first_divergent_step is None and all(
            d is None or d.ok for _, found in self.layers for d in found.values()
        )

    @property
    def max_loss_difference(self) -> float:
        """The largest difference between the two sides' losses, as a part of the largest."""
        return max(_distances(*self.losses), default=0.0)

    def __str__(self) -> str:
        width = max(len(name) for name, _ in self.layers)
        lines = [
            f"{self.devices[1]} against {self.devices[0]}, {self.dtype}, a batch of {self.rows} rows: the largest",
            "difference over the largest number, then in its units in the last place",
            f"{'layer':<{width}}" + "".join(f"{name:>11}" for name in SHOWN),
        ]
        for name, found in self.layers:
            cells = [f"{d.relative:.0e} {d.ulp:.2g}{' ' if d.ok else '!'}" if d else "– " for d in found.values()]
            lines.append(f"{name:<{width}}" + "".join(f"{cell:>11}" for cell in cells))
        steps = len(self.losses[0])
        apart = self.max_loss_difference
        told = f"losses of {steps} steps: apart by {apart:.1e}  of the largest, {self.allowed:.1e} allowed"
        lines.append(
            told if self.first_divergent_step is None else f"{told}; beyond it from step {self.first_divergent_step} on"
        )
        lines.append("the same to rounding" if self.ok else "NOT THE SAME: more than rounding explains, marked with !")
        return "\n".join(lines)


def compare_devices(
    net: Sequential,
    X: Any,
    y: Any,
    steps: int = 20,
    *,
    batch_size: int = BATCH,
    devices: tuple[str, str] | None = None,
) -> DeviceReport:
    """Run a compiled network on two devices, from the same weights, on the same batches, and tell how far they part.

    First z, a, δ, ∂W and ∂b of every layer for one batch, with the current step's dropout masks (E1 to E7); then
    `steps` steps (E8), the losses before each. The network is not changed.

    devices  two of "numpy" (the kernels' NumPy bodies), "cpu" (their compiled texts) and "cuda" or "cuda:N"; None takes
             ("cpu", "cuda") where a GPU works, else ("numpy", "cpu")

    A loss may be apart by 64·u·√K of the largest, by 1e-9 in float64. Behind rectifiers two right runs may part for
    good where rounding moves one unit across zero: that a later step drifts then says nothing, a table that is not
    clean does. ValueError or TypeError as `fit` for bad input and for devices that do not exist; DeviceError for a GPU
    that cannot be used; RuntimeError before `compile`.
    """
    sides = _sides(devices)
    steps = positive_integer("steps", steps)
    batch_size = positive_integer("batch_size", batch_size)
    start = copy.deepcopy(net)
    start.loss_and_gradients(X, y)  # which checks X and y, and draws weights that are not drawn yet
    X, y = (backends.to_host(as_real_array(x, name)) for x, name in ((X, "X"), (y, "y")))
    order = epoch_permutation(len(X), net.seed, 0, True)
    size = min(batch_size, len(X))
    batches = [np.take(order, range(k * size, (k + 1) * size), mode="wrap") for k in range(steps)]
    traces, losses = [], []
    for side in sides:
        twin = copy.deepcopy(start)
        with _on(side):
            twin.to(_named(side))
            traces.append(twin.trace(X[batches[0]], y[batches[0]], training=True))
            losses.append([twin.train_on_batch(X[rows], y[rows]) for rows in batches])
    inner = start._net
    longest = max(len(batches[0]), inner.n_in, *(layer.n_out or 1 for layer in inner.layers))
    unit = float(np.finfo(inner.dtype).eps) / 2
    cut = max(backends.get(_named(side)).operand_rounding(inner.precision) for side in sides)
    allowed = ROUNDINGS * unit * longest**0.5 + CUTS * 2 * len(inner.layers) * cut
    layers = [
        (
            f"{k} {type(layer).__name__}",
            {name: _difference(getattr(a, name), getattr(b, name), allowed) for name in QUANTITIES},
        )
        for k, (layer, a, b) in enumerate(zip(inner.layers, *traces, strict=True))
    ]
    of_losses = EXACT if inner.dtype == np.float64 else allowed
    drift = next((k for k, far in enumerate(_distances(*losses)) if not far <= of_losses), None)
    return DeviceReport(sides, inner.dtype.name, len(batches[0]), layers, (losses[0], losses[1]), of_losses, drift)


def _sides(devices: Any) -> tuple[str, str]:
    if devices is None:
        devices = ("cpu", "cuda") if backends.get("auto").device != "cpu" else ("numpy", "cpu")
    if not isinstance(devices, (tuple, list)) or len(devices) != 2 or not all(isinstance(d, str) for d in devices):
        raise TypeError(f"devices must be two names, of 'numpy', 'cpu', 'cuda' and 'cuda:N', got {devices!r}")
    for device in devices:
        if device != "numpy":
            backends.get(device)
    if "cpu" in devices and cpu_cache.status().implementation != "compiled":
        raise ValueError(f"'cpu' means the kernels' compiled texts, which do not run here: {cpu_cache.status().reason}")
    return devices[0], devices[1]


def _named(side: str) -> str:
    return "cpu" if side == "numpy" else side


def _on(side: str) -> AbstractContextManager[None]:
    return cpu_cache.use_numpy() if side == "numpy" else contextlib.nullcontext()


def _difference(a: np.ndarray | None, b: np.ndarray | None, allowed: float) -> Difference | None:
    """Of b from a; None where there is nothing."""
    if a is None or b is None:
        return None
    finite = np.isfinite(a)
    if not np.array_equal(finite, np.isfinite(b)) or not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return Difference(float("inf"), float("inf"), allowed)
    one, other = (np.where(finite, x, 0).astype(np.longdouble) for x in (a, b))
    largest = np.abs(one).max(initial=0)
    apart = np.abs(one - other).max(initial=0)
    if apart == 0:
        return Difference(0.0, 0.0, allowed)
    last_place = np.longdouble(np.spacing(largest.astype(a.dtype)))
    return Difference(float(apart / largest) if largest else float("inf"), float(apart / last_place), allowed)


def _distances(some: list[float], others: list[float]) -> Iterator[float]:
    """|a − b| of each two losses, as a part of the largest of all."""
    largest = max((abs(loss) for loss in (*some, *others)), default=0.0) or 1.0
    return (abs(a - b) / largest for a, b in zip(some, others, strict=True))
