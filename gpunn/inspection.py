"""What a network shows of itself: a table of its layers, and every quantity of a step, which moves nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from . import input_checks as checks
from .kernels.state import Slot
from .network import Network, Plan
from .recording import Array, execute
from .training import inputs, loop


class Summary(str):
    """Text that a notebook or a prompt shows as it reads."""

    def __repr__(self) -> str:
        return str(self)


@dataclass(frozen=True)
class LayerTrace:
    """One layer's numbers in a step: z, a, delta (n, n_out), dW and db (None where the layer has none).

    `gradients` holds every parameter's gradient by name: {"W": dW, "b": db} of a Dense layer.
    """

    layer: str
    z: Array
    a: Array
    delta: Array | None
    dW: Array | None = None
    db: Array | None = None
    gradients: dict[str, Array] = field(default_factory=dict)


def summary(net: Network, batch_size: int | None) -> str:
    """The table of a built network; None for a network that is not compiled."""
    rows = [("layer", "outputs", "parameters", "")]
    for k, layer in enumerate(net.layers):
        count = sum(p.stop - p.start for p in net.slices_of(k))
        rows.append((repr(layer), f"{layer.n_out}", f"{count:,}", "" if layer.trainable else "frozen"))
    widths = [max(len(row[c]) for row in rows) for c in range(3)]
    lines = [f"{a:<{widths[0]}}  {b:>{widths[1]}}  {c:>{widths[2]}}  {d}".rstrip() for a, b, c, d in rows]
    trained = sum(b - a for a, b in net.trainable_ranges())
    lines.insert(1, "-" * max(map(len, lines)))
    lines.append(lines[1])
    lines.append(f"inputs {net.n_in}, parameters {net.theta.shape[0]:,} ({trained:,} trained), {net.dtype}")
    lines.append(f"device {net.backend.device}: {net.backend.reason}")
    if net.precision is not None:
        here = net.backend.lower_precision_error(explicit=True)
        lines.append(f"products in {net.precision}" + (f" on a GPU; here in {net.dtype}" if here else ""))
    if batch_size is not None:
        net.prepare_training()
        with loop.training_plan(net, batch_size, weighted=False) as plan:
            lines.append(f"a training plan for {batch_size} rows owns {_bytes(plan.bytes)}")
            slow = [*plan.slow_path_reasons, *net.capture_errors]
            lines += [f"leaves the fast path: {why}" for why in slow] or ["nothing leaves the fast path"]
    return "\n".join(lines)


def _bytes(count: int) -> str:
    size, unit = float(count), "bytes"
    for bigger in ("KiB", "MiB", "GiB"):
        if size < 1024:
            break
        size, unit = size / 1024, bigger
    return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"


# --- the quantities of a step ---


def loss_and_gradients(net: Network, data: inputs.Arrays, training: bool) -> tuple[float, list[np.ndarray]]:
    """(C, [dW1, db1, …]) of one batch."""
    with _backward_plan(net, data, training) as plan:
        state = net.backend.to_host(plan.state)
        gradients = [
            np.array(net.backend.to_host(p.of(plan.gradient)))
            if net.layers[p.layer].trainable
            else np.zeros(p.parameter.shape, net.dtype)
            for p in net.slices_in_order()
        ]
        return float(state[Slot.LOSS] + state[Slot.PENALTY]), gradients


def input_gradient(net: Network, data: inputs.Arrays, training: bool) -> np.ndarray:
    """∂C/∂x (n, n_in) of one batch."""
    with _backward_plan(net, data, training, input_gradient=True) as plan:
        return np.array(net.backend.to_host(plan.grad_x))


def trace(net: Network, data: inputs.Arrays, training: bool) -> list[LayerTrace]:
    """Every layer's numbers for one batch, forward and back."""
    with _backward_plan(net, data, training, trace=True) as plan:
        return _layers_of(plan)


def trace_forward(net: Network, x: Any, training: bool) -> list[LayerTrace]:
    """Every layer's numbers for one batch, forward alone."""
    x = checks.features(x, inputs.known_inputs(net), net.dtype, "x")
    if not net.is_built:
        net.build(x.shape[1])
    with net.backend.activate(), net.plan(x.shape[0], training=bool(training), trace=True) as plan:
        copy_step_state(plan)
        plan.state[Slot.OFFSET] = 0
        execute(plan.gather(checks.on_device(x, net.backend)))
        execute(plan.forward)
        return _layers_of(plan)


def _layers_of(plan: Plan) -> list[LayerTrace]:
    net = plan.network

    def copy(array: Array) -> np.ndarray:
        return np.array(net.backend.to_host(array))

    found = []
    for k, t in enumerate(plan.layers):
        delta, gradients = None, {}
        if plan.backward:
            delta = copy(t.delta)
            gradients = {p.parameter.name: copy(p.of(plan.gradient)) for p in net.slices_of(k)}
        dW, db = gradients.get("W"), gradients.get("b")
        found.append(LayerTrace(repr(net.layers[k]), copy(t.z), copy(t.a), delta, dW, db, gradients))
    return found


@contextmanager
def _backward_plan(net: Network, data: inputs.Arrays, training: bool, **options: Any) -> Iterator[Plan]:
    """A plan that has run forward and backward on that batch, and taken no step."""
    net.prepare_training()
    options |= {"training": bool(training), "loss": True, "backward": True, "weighted": data[2] is not None}
    with net.backend.activate(), net.plan(data[0].shape[0], **options) as plan:
        copy_step_state(plan)
        loop.forward_backward(plan, inputs.on_device(net, data), 0)
        yield plan


def copy_step_state(plan: Plan) -> None:
    """Dropout masks are those of the network's current step, on all rows of the batch."""
    plan.state[...] = plan.network.state
    plan.state[Slot.FIRST_ROW] = 0
