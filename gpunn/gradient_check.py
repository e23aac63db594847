"""Gradient check: back-propagation compared with central differences, coordinate by coordinate."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from . import input_checks as checks
from . import inspection
from .inspection import copy_step_state
from .kernels.state import StateEntry
from .losses import Huber, MeanAbsoluteError
from .model import Sequential
from .network import Executable, ExecutableSpec, Network, StepOptions
from .program.groups import BatchShard
from .training import inputs
from .validation import boolean, positive_integer

STEP = 6e-6  # near the cube root of float64's unit roundoff, where truncation and rounding errors are equal
COST_ROUNDOFFS = 16  # rounding error of a cost in units of its roundoff
KINKED = ("relu", "leaky_relu", "elu", "selu")


@dataclass(frozen=True)
class Entry:
    """The result for one parameter, or for the inputs.

    Attributes
    ----------
    name : str
        Layer and parameter, or "inputs x".
    relative_error : float
        max |difference of the two derivatives| / max |derivative|.
    checked, kinks : int
        Numbers of coordinates that were compared, and that were skipped at a kink.
    resolution : float
        The relative error that the rounding of the costs can cause; smaller errors are not detectable.
    """

    name: str
    relative_error: float
    checked: int
    kinks: int
    resolution: float = 0.0

    def within(self, tolerance: float) -> bool:
        """True if the tolerance or the rounding of the costs explains the error."""
        return self.relative_error <= tolerance + self.resolution


@dataclass(frozen=True)
class GradientReport:
    """The result of `check_gradients`; `print(report)` shows a table.

    Attributes
    ----------
    entries : list of Entry
        One entry per trainable parameter, and one for the inputs.
    tolerance : float
        The largest relative error that counts as right.
    repeats : bool
        True if two computations of the gradients gave the same bits.
    worst : float
        The largest relative error.
    """

    entries: list[Entry]
    tolerance: float
    repeats: bool
    worst: float = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "worst", max((e.relative_error for e in self.entries), default=0.0))

    @property
    def ok(self) -> bool:
        """True if every parameter was checked, every error is within the tolerance, and the bits repeat."""
        return self.repeats and self._all_within and not self.unchecked

    @property
    def unchecked(self) -> list[str]:
        """The names of the parameters, or "inputs x", of which no coordinate could be compared."""
        return [e.name for e in self.entries if not e.checked]

    @property
    def _all_within(self) -> bool:
        return all(e.within(self.tolerance) for e in self.entries)

    def __str__(self) -> str:
        width = max([len(e.name) for e in self.entries] + [9])
        lines = [f"{'parameter':<{width}}  relative error  resolution  checked  at a kink"]
        lines += [
            f"{e.name:<{width}}  {e.relative_error:14.2e}  {e.resolution:10.1e}  {e.checked:7d}  {e.kinks:9d}"
            for e in self.entries
        ]
        verdict = "right" if self._all_within else "WRONG"
        if self._all_within and self.unchecked:
            verdict = f"right where it was checked, but nothing of {', '.join(self.unchecked)} could be"
        repeated = "the same bits" if self.repeats else "OTHER BITS"
        lines.append(f"the derivative is {verdict} (worst {self.worst:.2e}, tolerance {self.tolerance:.0e})")
        lines.append(f"a second computation gives {repeated}")
        return "\n".join(lines)


def check_gradients(
    net: Sequential,
    x: Any,
    y: Any,
    *,
    sample_weight: Any = None,
    training: bool = True,
    tolerance: float = 1e-6,
    samples: int | None = None,
    rewritten: bool = True,
) -> GradientReport:
    """Compare back-propagated gradients (E4 to E9) with central differences in float64.

    Every coordinate of θ and x is compared with (C(θ + h) − C(θ − h)) / 2h. Penalties, sample weights, batch statistics
    and the current step's dropout mask take part; the mask is the same for all costs. The network is not changed.

    A coordinate has no derivative where ±h moves a rectifier, an absolute or Huber error, or a weight with l1 across
    its kink. It is counted in `Entry.kinks` and not compared. If no coordinate of a parameter can be compared, the
    result is not `ok`: give other inputs, for example random ones. An error below `Entry.resolution` does not indicate
    a wrong derivative: an intercept before batch normalization has derivative 0, and its difference is rounding.

    Parameters
    ----------
    net : Sequential
        A compiled network.
    x : array-like (n, n_in)
        Inputs, one batch.
    y : array-like (n,) or (n, n_out)
        Targets, as in `Sequential.fit`.
    sample_weight : array-like (n,), optional
        Weights ≥ 0 of the rows, not all 0.
    training : bool
        If true, check the training step, otherwise the prediction form of dropout and batch normalization.
    tolerance : float
        The largest relative error that counts as right.
    samples : int, optional
        Maximum number of coordinates per parameter, evenly spaced; None checks all.
    rewritten : bool
        If true, check the program as it is executed, with fused operations; otherwise the program as it is recorded.

    Returns
    -------
    GradientReport
        The errors; `report.ok` is the result.

    Raises
    ------
    ValueError, TypeError
        For invalid input, as `Sequential.fit`.
    RuntimeError
        Before `compile`.
    """
    samples = None if samples is None else positive_integer("samples", samples)
    rewritten = boolean("rewritten", rewritten)
    batch = (x, y, sample_weight)
    training = bool(training)
    loss, gradients = _gradients(net, batch, training=training, rewritten=rewritten)
    again = _gradients(net, batch, training=training, rewritten=rewritten)
    repeats = loss == again[0] and all(np.array_equal(a, b) for a, b in zip(gradients, again[1], strict=True))
    net64 = _in_float64(net)
    inner = net64._net
    x64, y64, w64 = data = inputs.batch(inner, x, y, sample_weight)
    _, gradients = _gradients(net64, batch, training=training, rewritten=rewritten)
    grad_x = inspection.input_gradient(inner, data, training=training, rewritten=rewritten)
    if not checks.any_weight(w64):
        raise ValueError("sample_weight must not be zero in every row: there is no gradient to check")
    on_device = inputs.on_device(inner, (np.array(inner.backend.to_host(x64), dtype=np.float64), y64, w64))
    entries = []
    options = StepOptions(training, loss=True, weighted=w64 is not None, keep_activations=True, rewritten=rewritten)
    spec = ExecutableSpec(options, (BatchShard.of(x64.shape[0]),))
    with inner.backend.activate(), inner.executable(spec) as executable:
        copy_step_state(inner, executable)
        executable.load(on_device.X, on_device.y, on_device.w)
        for p, gradient in zip(inner.slices_in_order(), gradients, strict=True):
            layer = inner.layers[p.layer]
            if layer.trainable:
                name = f"{p.layer} {type(layer).__name__} {p.parameter.name}"
                flat = inner.theta[p.start : p.stop]
                entries.append(_compare(inner, executable, name, flat, gradient.ravel(), samples))
        entries.append(_compare(inner, executable, "inputs x", executable.x.reshape(-1), grad_x.ravel(), samples))
    return GradientReport(entries, tolerance, repeats)


def _gradients(
    net: Sequential, batch: tuple[Any, Any, Any], *, training: bool, rewritten: bool
) -> tuple[float, list[np.ndarray]]:
    """(C, [dW1, db1, …]) of a batch (x, y, sample weights)."""
    net._require_compiled("check_gradients")
    data = inputs.batch(net._net, *batch)
    return inspection.loss_and_gradients(net._net, data, training=training, rewritten=rewritten)


def _in_float64(net: Sequential) -> Sequential:
    """A copy with the same weights, step and seed in float64, on the same device."""
    copied = copy.deepcopy(net)
    inner = copied._net
    inner.dtype, inner.precision = np.dtype(np.float64), None
    for name in ("theta", "running", "gradient"):
        setattr(inner, name, getattr(inner, name).astype(np.float64))
    inner.slots = {k: v.astype(np.float64) for k, v in inner.slots.items()}
    return copied.to(net.device)


def _compare(
    net: Network, executable: Executable, name: str, flat: Any, analytic: np.ndarray, samples: int | None
) -> Entry:
    """Compare the gradient with central differences along coordinates of a flat buffer that the step reads."""
    count = analytic.size
    coordinates = np.unique(np.linspace(0, count - 1, count if samples is None else min(samples, count)).astype(int))
    _cost(executable)
    sides = _kink_sides(net, executable)
    worst = scale = rounding = 0.0
    kinks = 0
    for k in coordinates:
        value = float(flat[k])
        h = STEP * max(1.0, abs(value))
        costs, crossed = [], False
        for moved in (value + h, value - h):
            flat[k] = moved
            costs.append(_cost(executable))
            crossed = crossed or not np.array_equal(_kink_sides(net, executable), sides)
        flat[k] = value
        if crossed:
            kinks += 1
            continue
        width = (value + h) - (value - h)
        numeric = (costs[0] - costs[1]) / width
        rounding = max(rounding, COST_ROUNDOFFS * np.finfo(np.float64).eps * max(map(abs, costs)) / width)
        worst = max(worst, abs(numeric - analytic[k]))
        scale = max(scale, abs(numeric), abs(analytic[k]))
    scale = scale or 1.0
    return Entry(name, worst / scale, len(coordinates) - kinks, kinks, rounding / scale)


def _cost(executable: Executable) -> float:
    executable.run()
    return float(executable.state[StateEntry.LOSS] + executable.state[StateEntry.PENALTY])


def _kink_sides(net: Network, executable: Executable) -> np.ndarray:
    """The side of its kink for every rectifier, every absolute or Huber error, and every weight with l1."""
    found = [t.a > 0 for t, layer in zip(executable.layers, net.layers, strict=True) if layer.activation.name in KINKED]
    if isinstance(net.loss, MeanAbsoluteError):
        found.append(executable.output > executable.y)
    if isinstance(net.loss, Huber):
        error = executable.output - executable.y
        found += [error > net.loss.delta, error < -net.loss.delta]
    found += [net.theta[p.start : p.stop] > 0 for p in net.penalties() if p.l1]
    return np.concatenate([np.zeros(0, dtype=bool), *(net.backend.to_host(f).ravel() for f in found)])
