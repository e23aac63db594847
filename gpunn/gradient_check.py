"""Is the derivative right? Back-propagation against central differences, coordinate by coordinate."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from . import input_checks as checks
from .inspection import copy_step_state
from .kernels.state import Slot
from .losses import Huber, MeanAbsoluteError
from .model import Sequential
from .network import Plan
from .recording import execute
from .training import inputs, loop
from .validation import positive_integer

STEP = 6e-6  # near the cube root of float64's unit round-off, where truncation and rounding are alike
ROUNDINGS = 16  # of a cost, in units of float64's round-off: what its difference cannot tell from 0
KINKED = ("relu", "leaky_relu", "elu")


@dataclass(frozen=True)
class Entry:
    """One parameter (or the inputs): the largest difference over the largest derivative, what was tried, kinks, and
    the smallest relative error that the rounding of the costs lets differences tell."""

    name: str
    relative_error: float
    checked: int
    kinks: int
    resolution: float = 0.0

    def within(self, tolerance: float) -> bool:
        """Whether the error is one that the tolerance or the costs' rounding explains."""
        return self.relative_error <= tolerance + self.resolution


@dataclass(frozen=True)
class GradientReport:
    """What `check_gradients` found. `ok` says that every error is within the tolerance and the bits repeat."""

    entries: list[Entry]
    tolerance: float
    repeats: bool
    worst: float = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "worst", max((e.relative_error for e in self.entries), default=0.0))

    @property
    def ok(self) -> bool:
        """Whether all is well."""
        return self.repeats and self._right

    @property
    def _right(self) -> bool:
        return all(e.within(self.tolerance) for e in self.entries)

    def __str__(self) -> str:
        width = max([len(e.name) for e in self.entries] + [9])
        lines = [f"{'parameter':<{width}}  relative error  resolution  checked  at a kink"]
        lines += [
            f"{e.name:<{width}}  {e.relative_error:14.2e}  {e.resolution:10.1e}  {e.checked:7d}  {e.kinks:9d}"
            for e in self.entries
        ]
        verdict = "right" if self._right else "WRONG"
        again = "the same bits" if self.repeats else "OTHER BITS"
        lines.append(
            f"the derivative is {verdict} (worst {self.worst:.2e}, tolerance {self.tolerance:.0e}); twice gives {again}"
        )
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
) -> GradientReport:
    """Compare ∂C/∂θ and ∂C/∂x of back-propagation (E4 to E9) with (C(θ + h) − C(θ − h))/2h, in float64.

    Penalties, sample weights, batch statistics and the current step's dropout mask take part; the mask stays frozen.
    A coordinate whose ±h moves a rectifier, an absolute or Huber error, or a weight under l1 across its kink has no
    derivative there: it is counted apart. `samples` limits the coordinates tried per parameter, spread evenly. The
    network is not changed. An error within the resolution, what the rounding of the two costs alone makes, is no sign
    of a wrong derivative: that of an intercept before batch normalisation vanishes, and its difference is rounding.
    The relative error is max |difference| / max |derivative| over a parameter. ValueError as `fit` for bad input.
    """
    samples = None if samples is None else positive_integer("samples", samples)
    first = net.loss_and_gradients(x, y, training=training, sample_weight=sample_weight)
    again = net.loss_and_gradients(x, y, training=training, sample_weight=sample_weight)
    repeats = first[0] == again[0] and all(np.array_equal(a, b) for a, b in zip(first[1], again[1], strict=True))
    twin = _in_float64(net)
    inner = twin._net
    _, gradients = twin.loss_and_gradients(x, y, training=training, sample_weight=sample_weight)
    wanted = dict(zip([(p.layer, p.parameter.name) for p in inner.slices_in_order()], gradients, strict=True))
    grad_x = twin.input_gradient(x, y, training=training, sample_weight=sample_weight)
    x64, y64, w64 = inputs.batch(inner, x, y, sample_weight)
    if not checks.any_weight(w64):
        raise ValueError("sample_weight is zero in every row, so that there is no gradient to check")
    on_device = inputs.on_device(inner, (np.array(inner.backend.to_host(x64), dtype=np.float64), y64, w64))
    entries = []
    options = {"training": bool(training), "loss": True, "weighted": w64 is not None}
    with inner.backend.activate(), inner.plan(x64.shape[0], **options) as plan:
        copy_step_state(plan)
        loop.forward_backward(plan, on_device, 0)
        for place in inner.slices_in_order():
            if inner.layers[place.layer].trainable:
                name = f"{place.layer} {type(inner.layers[place.layer]).__name__} {place.parameter.name}"
                analytic = wanted[place.layer, place.parameter.name].ravel()
                entries.append(_compare(plan, name, inner.theta[place.start : place.stop], analytic, samples))
        entries.append(_compare(plan, "inputs x", plan.x.reshape(-1), grad_x.ravel(), samples))
    return GradientReport(entries, tolerance, repeats)


def _in_float64(net: Sequential) -> Sequential:
    """A twin with the same weights, step and seed in float64, on the same device."""
    twin = copy.deepcopy(net)
    inner = twin._net
    inner.dtype, inner.precision = np.dtype(np.float64), None
    for name in ("theta", "running", "gradient"):
        setattr(inner, name, getattr(inner, name).astype(np.float64))
    inner.slots = {k: v.astype(np.float64) for k, v in inner.slots.items()}
    return twin.to(net.device)


def _compare(plan: Plan, name: str, flat: Any, analytic: np.ndarray, samples: int | None) -> Entry:
    """Central differences along coordinates of one flat buffer that the plan reads."""
    count = analytic.size
    tried = np.unique(np.linspace(0, count - 1, count if samples is None else min(samples, count)).astype(int))
    _cost(plan)
    still = _sides(plan)
    worst = scale = 0.0
    kinks, rounding = 0, 0.0
    for k in tried:
        kept = float(flat[k])
        h = STEP * max(1.0, abs(kept))
        costs, crossed = [], False
        for value in (kept + h, kept - h):
            flat[k] = value
            costs.append(_cost(plan))
            crossed = crossed or not np.array_equal(_sides(plan), still)
        flat[k] = kept
        if crossed:
            kinks += 1
            continue
        width = (kept + h) - (kept - h)
        numeric = (costs[0] - costs[1]) / width
        rounding = max(rounding, ROUNDINGS * np.finfo(np.float64).eps * max(map(abs, costs)) / width)
        worst = max(worst, abs(numeric - analytic[k]))
        scale = max(scale, abs(numeric), abs(analytic[k]))
    scale = scale or 1.0
    return Entry(name, worst / scale, len(tried) - kinks, kinks, rounding / scale)


def _cost(plan: Plan) -> float:
    execute(plan.forward)
    execute(plan.loss)
    return float(plan.state[Slot.LOSS] + plan.state[Slot.PENALTY])


def _sides(plan: Plan) -> np.ndarray:
    """On which side of its kink every rectifier, every term of an absolute or Huber error, every l1 weight stands."""
    net = plan.network
    found = [t.a > 0 for t, layer in zip(plan.layers, net.layers, strict=True) if layer.activation.name in KINKED]
    if isinstance(net.loss, MeanAbsoluteError):
        found.append(plan.output > plan.y)
    if isinstance(net.loss, Huber):
        error = plan.output - plan.y
        found += [error > net.loss.delta, error < -net.loss.delta]
    found += [net.theta[p.start : p.stop] > 0 for p in net.penalties() if p.l1]
    return np.concatenate([np.zeros(0, dtype=bool), *(net.backend.to_host(f).ravel() for f in found)])
