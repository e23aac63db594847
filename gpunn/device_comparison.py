"""Comparison of two devices: one network on both, layer by layer for one step, then the losses of several steps."""

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
from .inspection import LayerTrace
from .kernels._compiler import cpu_cache
from .model import BATCH, Sequential
from .network import Network
from .validation import positive_integer

QUANTITIES = ("z", "a", "delta", "dW", "db")
HEADINGS = ("z", "a", "δ", "∂W", "∂b")
SUM_TOLERANCE = 64  # in units of u√K, for two sums of K terms in different orders
OPERAND_TOLERANCE = 4  # in units of the rounding of a product's operands, per product
FLOAT64_LOSS_TOLERANCE = 1e-9  # as a fraction of the largest loss


@dataclass(frozen=True)
class Difference:
    """The difference of two arrays a and b.

    Attributes
    ----------
    relative : float
        max |a − b| / max |a|.
    ulp : float
        max |a − b| in units in the last place of max |a|.
    allowed : float
        The largest `relative` that rounding explains: 64·u·√K, with u the unit roundoff and K the longest sum in the
        network. If a device rounds the operands of products by r, as `precision` asks, 8·L·r is added for L layers.
    """

    relative: float
    ulp: float
    allowed: float

    @property
    def ok(self) -> bool:
        """True if rounding explains the difference; false if a number is not finite in one array only."""
        return self.relative <= self.allowed


@dataclass(frozen=True)
class DeviceReport:
    """The result of `compare_devices`; `print(report)` shows a table.

    Attributes
    ----------
    devices : (str, str)
        The two devices, the reference first.
    dtype, rows : str, int
        Type of the network, and number of rows of a batch.
    layers : list of (str, dict)
        Number and class of each layer, and the `Difference` of z, a, delta, dW and db; None if there is none.
    losses : (list of float, list of float)
        The losses before every step on each device.
    allowed : float
        The largest difference of two losses that rounding explains, as a fraction of the largest loss.
    first_divergent_step : int or None
        The first step, counted from 0, whose losses differ by more than `allowed`.
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
        """True if rounding explains all differences, of the first step's quantities and of all losses."""
        differences = [d for _, found in self.layers for d in found.values() if d is not None]
        return self.first_divergent_step is None and all(d.ok for d in differences)

    @property
    def max_loss_difference(self) -> float:
        """The largest difference of two losses, as a fraction of the largest loss."""
        return max(_loss_differences(*self.losses), default=0.0)

    def __str__(self) -> str:
        width = max(len(name) for name, _ in self.layers)
        lines = [
            f"{self.devices[1]} against {self.devices[0]}, {self.dtype}, a batch of {self.rows} rows: the largest",
            "difference over the largest number, then in its units in the last place",
            f"{'layer':<{width}}" + "".join(f"{name:>11}" for name in HEADINGS),
        ]
        for name, found in self.layers:
            cells = [f"{d.relative:.0e} {d.ulp:.2g}{' ' if d.ok else '!'}" if d else "– " for d in found.values()]
            lines.append(f"{name:<{width}}" + "".join(f"{cell:>11}" for cell in cells))
        losses = f"losses of {len(self.losses[0])} steps: apart by {self.max_loss_difference:.1e} of the largest, "
        losses += f"{self.allowed:.1e} allowed"
        if self.first_divergent_step is not None:
            losses += f"; beyond it from step {self.first_divergent_step} on"
        lines.append(losses)
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
    """Run a compiled network on two devices, from the same weights and on the same batches, and compare the results.

    First z, a, δ, ∂C/∂W and ∂C/∂b of every layer are compared for one batch, with the current step's dropout masks
    (E1 to E7). Then each device takes `steps` steps (E8), and the losses before each step are compared. The network is
    not changed.

    Losses may differ by 64·u·√K of the largest, in float64 by 1e-9 of it. With rectifiers, rounding can move one unit
    across zero, and two correct runs diverge from that step on. If only later losses differ and the table is clean,
    that is the likely cause; a table with differences shows an error.

    Parameters
    ----------
    net : Sequential
        A compiled network.
    X : array-like (n, n_in)
        Inputs.
    y : array-like (n,) or (n, n_out)
        Targets, as in `Sequential.fit`.
    steps : int
        Number of steps.
    batch_size : int
        Number of rows per step.
    devices : (str, str), optional
        Two of "numpy" (the kernels' NumPy references), "cpu" (compiled kernels), "cuda" and "cuda:N". None compares
        ("cpu", "cuda") if a GPU works, otherwise ("numpy", "cpu").

    Returns
    -------
    DeviceReport
        All differences; `report.ok` is the result.

    Raises
    ------
    ValueError, TypeError
        For invalid input, as `Sequential.fit`, or unknown devices.
    DeviceError
        For a GPU that cannot be used.
    RuntimeError
        Before `compile`.
    """
    devices = _check_devices(devices)
    steps = positive_integer("steps", steps)
    batch_size = positive_integer("batch_size", batch_size)
    start = copy.deepcopy(net)
    start.loss_and_gradients(X, y)  # validates X and y, and draws the weights if necessary
    X, y = (backends.to_host(as_real_array(x, name)) for x, name in ((X, "X"), (y, "y")))
    order = epoch_permutation(len(X), net.seed, 0, True)
    size = min(batch_size, len(X))
    batches = [np.take(order, range(k * size, (k + 1) * size), mode="wrap") for k in range(steps)]
    traces, losses = [], []
    for device in devices:
        copied = copy.deepcopy(start)
        with _kernels_of(device):
            copied.to(_backend_name(device))
            traces.append(copied.trace(X[batches[0]], y[batches[0]], training=True))
            losses.append([copied.train_on_batch(X[rows], y[rows]) for rows in batches])
    inner = start._net
    allowed = _tolerance(inner, size, devices)
    allowed_loss = FLOAT64_LOSS_TOLERANCE if inner.dtype == np.float64 else allowed
    layers = _compare_layers(inner, traces[0], traces[1], allowed)
    divergent = (k for k, difference in enumerate(_loss_differences(*losses)) if not difference <= allowed_loss)
    return DeviceReport(
        devices, inner.dtype.name, size, layers, (losses[0], losses[1]), allowed_loss, next(divergent, None)
    )


def _tolerance(net: Network, rows: int, devices: tuple[str, str]) -> float:
    """The relative difference that rounding explains, see `Difference.allowed`."""
    longest = max(rows, net.n_in, *(layer.n_out or 1 for layer in net.layers))
    unit = float(np.finfo(net.dtype).eps) / 2
    rounding = max(backends.get(_backend_name(device)).operand_rounding(net.precision) for device in devices)
    return float(SUM_TOLERANCE * unit * longest**0.5 + OPERAND_TOLERANCE * 2 * len(net.layers) * rounding)


def _compare_layers(
    net: Network, traces: list[LayerTrace], others: list[LayerTrace], allowed: float
) -> list[tuple[str, dict[str, Difference | None]]]:
    return [
        (
            f"{k} {type(layer).__name__}",
            {name: _difference(getattr(a, name), getattr(b, name), allowed) for name in QUANTITIES},
        )
        for k, (layer, a, b) in enumerate(zip(net.layers, traces, others, strict=True))
    ]


def _check_devices(devices: Any) -> tuple[str, str]:
    if devices is None:
        devices = ("cpu", "cuda") if backends.get("auto").device != "cpu" else ("numpy", "cpu")
    if not isinstance(devices, (tuple, list)) or len(devices) != 2 or not all(isinstance(d, str) for d in devices):
        raise TypeError(f"devices must be two of 'numpy', 'cpu', 'cuda' and 'cuda:N', got {devices!r}")
    for device in devices:
        if device != "numpy":
            backends.get(device)
    if "cpu" in devices and cpu_cache.status().implementation != "compiled":
        raise ValueError(f"device 'cpu' needs compiled kernels, which do not run here: {cpu_cache.status().reason}")
    return devices[0], devices[1]


def _backend_name(device: str) -> str:
    return "cpu" if device == "numpy" else device


def _kernels_of(device: str) -> AbstractContextManager[None]:
    return cpu_cache.use_numpy() if device == "numpy" else contextlib.nullcontext()


def _difference(a: np.ndarray | None, b: np.ndarray | None, allowed: float) -> Difference | None:
    """The difference of b from a; None if one of them is None."""
    if a is None or b is None:
        return None
    finite = np.isfinite(a)
    if not np.array_equal(finite, np.isfinite(b)) or not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return Difference(float("inf"), float("inf"), allowed)
    wide_a, wide_b = (np.where(finite, x, 0).astype(np.longdouble) for x in (a, b))
    largest = np.abs(wide_a).max(initial=0)
    difference = np.abs(wide_a - wide_b).max(initial=0)
    if difference == 0:
        return Difference(0.0, 0.0, allowed)
    last_place = np.longdouble(np.spacing(largest.astype(a.dtype)))
    relative = float(difference / largest) if largest else float("inf")
    return Difference(relative, float(difference / last_place), allowed)


def _loss_differences(losses: list[float], others: list[float]) -> Iterator[float]:
    """|a − b| for each pair of losses, as a fraction of the largest of all."""
    largest = max((abs(loss) for loss in (*losses, *others)), default=0.0) or 1.0
    return (abs(a - b) / largest for a, b in zip(losses, others, strict=True))
