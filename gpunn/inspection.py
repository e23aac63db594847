"""Inspection of a network: a summary of its layers, and all quantities of one step. Nothing is changed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from . import input_checks as checks
from .kernels.state import StateEntry
from .network import Executable, ExecutableSpec, Network, StepOptions, compressed_batch
from .network.recorded import record_step
from .program import Array, Program
from .program.groups import BatchShard
from .training import inputs
from .training.datasets import STEP, step_spec
from .validation import boolean, positive_integer


class Summary(str):
    """A string that prompts and notebooks show as text."""

    def __repr__(self) -> str:
        return str(self)


@dataclass(frozen=True)
class LayerTrace:
    """The quantities of one layer in one step, as NumPy arrays.

    Attributes
    ----------
    layer : str
        The layer's repr.
    z, a : array (n, n_out)
        Aggregate and activation. (E1, E2)
    delta : array (n, n_out) or None
        δ = ∂C/∂z; None in a forward pass. (E4, E5)
    dW, db : array or None
        ∂C/∂W (n_in, n_out) and ∂C/∂b (n_out,); None if the layer has no such parameter. (E6, E7)
    gradients : dict of str to array
        The gradient of every parameter by name, {"W": dW, "b": db} for a Dense layer.
    """

    layer: str
    z: Array
    a: Array
    delta: Array | None
    dW: Array | None = None
    db: Array | None = None
    gradients: dict[str, Array] = field(default_factory=dict)


def step_program(net: Network, rows: int, *, rewritten: bool) -> Program:
    """The program of a training step on batches of `rows` rows, of which this process may have a shard."""
    shard = BatchShard.of(positive_integer("batch_size", rows), net.group)
    options = dataclasses.replace(STEP, rewritten=boolean("rewritten", rewritten))
    net.apply_attribute_changes()
    net.prepare_training()
    return record_step(net, shard, options).program


# --- the summary ---


def summary(net: Network, batch_size: int | None) -> str:
    """The summary of a built network; without a training step if `batch_size` is None."""
    lines = _layer_table(net)
    lines.append(lines[1])
    trained = sum(part.stop - part.start for part in net.update_ranges())
    lines.append(f"inputs {net.n_in}, parameters {net.theta.shape[0]:,} ({trained:,} trained), {net.dtype}")
    lines.append(f"device {net.backend.device}: {net.backend.reason}")
    lines += [f"kernels {found}" for found in [net.backend.kernel_report()] if found]
    if net.precision is not None:
        unavailable = net.backend.lower_precision_error(explicit=True)
        lines.append(f"products in {net.precision}" + (f" on a GPU; here in {net.dtype}" if unavailable else ""))
    if batch_size is not None:
        net.prepare_training()
        with net.executable(step_spec(net, {batch_size: 1}, weighted=False)) as executable:
            lines.append(f"a training step on {batch_size} rows owns {_format_bytes(executable.bytes)}")
            reasons = [*net.backend.slow_path_reasons(), *executable.slow_path_reasons, *net.capture_errors]
            lines += [f"leaves the fast path: {reason}" for reason in reasons] or ["nothing leaves the fast path"]
    return "\n".join(lines)


def _layer_table(net: Network) -> list[str]:
    """The lines of the table of layers, without the rule below it."""
    rows = [("layer", "outputs", "parameters", "")]
    for k, layer in enumerate(net.layers):
        count = sum(p.stop - p.start for p in net.slices_of(k))
        factor = "" if layer.learning_rate_factor == 1 else f"learning rate × {layer.learning_rate_factor:g}"
        rows.append((repr(layer), f"{layer.n_out}", f"{count:,}", factor if layer.trainable else "frozen"))
    widths = [max(len(row[c]) for row in rows) for c in range(3)]
    lines = [f"{a:<{widths[0]}}  {b:>{widths[1]}}  {c:>{widths[2]}}  {d}".rstrip() for a, b, c, d in rows]
    lines.insert(1, "-" * max(map(len, lines)))
    return lines


def _format_bytes(count: int) -> str:
    size, unit = float(count), "bytes"
    for larger in ("KiB", "MiB", "GiB"):
        if size < 1024:
            break
        size, unit = size / 1024, larger
    return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"


# --- the duration of a step ---


@dataclass(frozen=True)
class Profile:
    """The launches of a training step with their durations.

    Attributes
    ----------
    batch_size : int
    rows : list of (str, float)
        Name and shapes of each launch, in order, and microseconds.
    """

    batch_size: int
    rows: list[tuple[str, float]]

    @property
    def total(self) -> float:
        """The sum of all durations in microseconds."""
        return sum(duration for _, duration in self.rows)

    def __str__(self) -> str:
        width = max(len(name) for name, _ in self.rows)
        lines = [f"{name:<{width}}  {t:>10.3f} µs  {100 * t / self.total:>5.1f} %" for name, t in self.rows]
        lines.append(f"{f'{len(self.rows)} launches, {self.batch_size} rows':<{width}}  {self.total:>10.3f} µs")
        return "\n".join(lines)

    __repr__ = __str__


def profile(net: Network, data: inputs.Arrays, batch_size: int) -> Profile:
    """Time the launches of a training step on the first rows of a data set."""
    rows = positive_integer("batch_size", batch_size)
    if data[0].shape[0] < rows:
        raise ValueError(f"profile needs at least batch_size rows, got {data[0].shape[0]} rows and batch_size={rows}")
    if not net.is_built:
        net.build(data[0].shape[1])
    net.prepare_training()
    arrays = dict(inputs.on_device(net, data).named())
    arrays["order"] = net.backend.asarray(np.arange(data[0].shape[0]))
    changed = [net.theta, net.running, net.state, net.metric_sums, *net.slots.values()]
    before = [net.backend.asarray(np.array(net.backend.to_host(array))) for array in changed]
    net.apply_attribute_changes()
    spec = step_spec(net, {rows: 1}, weighted=data[2] is not None)
    spec = spec.reading(compressed_batch(net, arrays, spec.options))
    with net.backend.activate():
        # a shared executable exchanges addresses for the whole step, and its single launches keep the first ones
        step = Executable(net, spec, arrays)
        step.bind(net, arrays)
        try:
            net.state[StateEntry.OFFSET] = 0
            return Profile(rows, step.profile(arrays))
        finally:
            for array, saved in zip(changed, before, strict=True):
                array[...] = saved


# --- the quantities of a step ---


def loss_and_gradients(
    net: Network, data: inputs.Arrays, *, training: bool, rewritten: bool = True
) -> tuple[float, list[np.ndarray]]:
    """(C, [dW1, db1, …]) of one batch, by the rewritten program or the recorded one."""
    with _backward_pass(net, data, StepOptions(training=bool(training), rewritten=rewritten)) as executable:
        state = net.backend.to_host(executable.state)
        gradients = [
            np.array(net.backend.to_host(p.of(executable.gradient)))
            if net.layers[p.layer].trainable
            else np.zeros(p.parameter.shape, net.dtype)
            for p in net.slices_in_order()
        ]
        return float(state[StateEntry.LOSS] + state[StateEntry.PENALTY]), gradients


def input_gradient(net: Network, data: inputs.Arrays, *, training: bool, rewritten: bool = True) -> np.ndarray:
    """∂C/∂x (n, n_in) of one batch, by the rewritten program or the recorded one."""
    options = StepOptions(training=bool(training), input_gradient=True, rewritten=rewritten)
    with _backward_pass(net, data, options) as executable:
        return np.array(net.backend.to_host(executable.grad_x))


def trace(net: Network, data: inputs.Arrays, *, training: bool) -> list[LayerTrace]:
    """The quantities of every layer for one batch, forward and backward."""
    with _backward_pass(net, data, StepOptions(training=bool(training), trace=True)) as executable:
        return _layer_traces(net, executable)


def trace_forward(net: Network, x: Any, *, training: bool) -> list[LayerTrace]:
    """The quantities of every layer for one batch, forward only."""
    x = checks.features(x, inputs.known_inputs(net), net.dtype, "x")
    if not net.is_built:
        net.build(x.shape[1])
    options = StepOptions(training=bool(training), trace=True)
    with net.backend.activate(), net.executable(ExecutableSpec(options, (BatchShard.of(x.shape[0]),))) as executable:
        copy_step_state(net, executable)
        executable.load(checks.on_device(x, net.backend))
        executable.run()
        return _layer_traces(net, executable)


def _layer_traces(net: Network, executable: Executable) -> list[LayerTrace]:
    def copy(array: Array) -> np.ndarray:
        return np.array(net.backend.to_host(array))

    found = []
    for k, t in enumerate(executable.layers):
        delta, gradients = None, {}
        if executable.spec.options.backward:
            delta = copy(t.delta)
            gradients = {p.parameter.name: copy(p.of(executable.gradient)) for p in net.slices_of(k)}
        dW, db = gradients.get("W"), gradients.get("b")
        found.append(LayerTrace(repr(net.layers[k]), copy(t.z), copy(t.a), delta, dW, db, gradients))
    return found


@contextmanager
def _backward_pass(net: Network, data: inputs.Arrays, options: StepOptions) -> Iterator[Executable]:
    """An executable after its forward and backward pass on one batch, without an update."""
    net.prepare_training()
    options = dataclasses.replace(options, loss=True, backward=True, weighted=data[2] is not None)
    spec = ExecutableSpec(options, (BatchShard.of(data[0].shape[0]),))
    with net.backend.activate(), net.executable(spec) as executable:
        copy_step_state(net, executable)
        batch = inputs.on_device(net, data)
        executable.load(batch.X, batch.y, batch.w)
        executable.run()
        yield executable


def copy_step_state(net: Network, executable: Executable) -> None:
    """Copy the network's state, so that dropout masks are those of the current step for all rows of the batch."""
    executable.state[...] = net.state
    executable.state[StateEntry.FIRST_ROW] = 0
