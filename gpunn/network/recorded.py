"""Recorded steps: programs of a network's steps, optimized, and shared by networks of the same structure."""

from __future__ import annotations

import threading
from collections.abc import Hashable
from dataclasses import dataclass
from operator import attrgetter

import numpy as np

from ..activations import Activation
from ..kernels._compiler.definition import DEFINITIONS
from ..kernels.state import SIZE
from ..layers import Layer
from ..losses import Loss
from ..metrics import Metric
from ..optimizers import Optimizer
from ..program import Program, Tensor
from ..program.buffers import Arena, assign_buffers
from ..program.groups import BatchShard
from ..program.tensor import ShapeAndType
from .binding import optimize
from .state import CompiledState
from .step import Step, StepOptions
from .values import ProgramValues

# what a step uses of the classes of layers, activations, losses, metrics and optimizers
USED = {
    Layer: ("forward", "backward", "after_update", "opaque", "batch_statistics"),
    Activation: ("forward", "backward", "f", "derivative", "opaque"),
    Loss: ("evaluate", "from_z", "opaque"),
    Metric: ("batch_sums", "rows", "accumulate", "opaque"),
    Optimizer: (
        "clip",
        "bias_correction",
        "probe",
        "update",
        "hyperparameters",
        "hyperparameters_of",
        "rule",
        "slots",
        "opaque",
        "separates_weights",
    ),
}
USED_OF = {kind: attrgetter(*names) for kind, names in USED.items()}
PACKAGES = {("gpunn", name) for name in "layers activations losses metrics optimizers estimators".split()}
MAX_PROGRAMS = 64  # a program has no arrays, and so takes little memory


@dataclass(frozen=True)
class RecordedStep:
    """The program of a step after all passes, its arena, and the tensors that are read after it."""

    program: Program
    arena: Arena
    output: Tensor
    grad_x: Tensor | None
    kept: list[dict[str, Tensor]]  # of every layer, by attribute


class _Cache:
    """Recorded steps by everything that they depend on."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.steps: dict[Hashable, RecordedStep] = {}


_cache = _Cache()


def batch_layout(net: CompiledState, n: int, *, loss: bool) -> dict[str, ShapeAndType]:
    """The arrays that a batch of n rows is written to, by name."""
    found: dict[str, ShapeAndType] = {"x": ((n, net.n_in), net.dtype)}
    if loss:
        labels = net.loss.targets == "class_index"
        found["y"] = ((n,), np.dtype(np.int32)) if labels else ((n, net.n_out), net.dtype)
        found |= {"sample_weight": ((n,), net.dtype), "w": ((n,), net.dtype)}
    return found


def variable_layout(net: CompiledState, options: StepOptions) -> dict[str, ShapeAndType]:
    """The flat arrays that a step reads and writes, by name."""
    sums, double = max(1, net.n_metric_sums), np.dtype(np.float64)
    found: dict[str, ShapeAndType] = {
        "theta": ((net.size,), net.dtype),
        "running": (net.running.shape, net.dtype),
        "state": ((SIZE,), double),
    }
    if options.backward:
        found["gradient"] = ((net.size,), net.dtype)
    if options.loss:
        found |= {"batch_metrics": ((sums,), double), "penalties": ((len(net.penalties()),), double)}
    if options.update or (options.loss and not options.backward):
        found["metric_sums"] = ((sums,), double)
    if options.update:
        found |= dict.fromkeys(net.optimizer.slots, ((net.size,), net.dtype))
    return found


def recorded_step(net: CompiledState, shard: BatchShard, options: StepOptions) -> RecordedStep:
    """The step of a network on a shard of a batch, from the cache or recorded."""
    key = structure(net, shard, options)
    found = None if key is None else _cache.steps.get(key)
    if found is None:
        found = record_step(net, shard, options)
        if key is not None and not any(op.function is not None for op in found.program.ops):
            with _cache.lock:
                _cache.steps[key] = found
                while len(_cache.steps) > MAX_PROGRAMS:
                    _cache.steps.pop(next(iter(_cache.steps)))
    return found


def record_step(net: CompiledState, shard: BatchShard, options: StepOptions) -> RecordedStep:
    """Record the step of a network on a shard of a batch, and apply all passes."""
    n = shard.n
    program = Program(nan_checked=options.update, precision=net.precision)
    batch, variables = batch_layout(net, n, loss=options.loss), variable_layout(net, options)
    values = ProgramValues(program, batch, variables, options.compressed)
    step = Step(net, n, shard, values, options)
    methods = (step.weights, step.forward, step.loss, step.backward, step.update)
    for index, (record, wanted) in enumerate(zip(methods, options.sections, strict=True)):
        program.section = index
        if wanted:
            record()
    program.end_recording()
    _name_quantities(step)
    kept = [{name: getattr(t, name) for name in options.kept} for t in step.quantities]
    if kept[-1:] and options.kept:
        kept[-1]["a"] = step.output  # the loss may have computed it from z
    outputs = [step.output, *(x for each in kept for x in each.values())]
    outputs += [] if step.grad_x is None else [step.grad_x]
    program.outputs = list(dict.fromkeys(outputs))
    optimize(program, net.backend, shard.group, rewritten=options.rewritten and not options.trace)
    return RecordedStep(program, assign_buffers(program), step.output, step.grad_x, kept)


def _name_quantities(step: Step) -> None:
    """Name the tensors of the layers for `str(program)`: z1, a1, δ1, dW1, …"""
    for t in step.quantities:
        number, order = t.index + 1, list(vars(t))
        if "grad_prev" in order and order.index("delta") < order.index("grad_prev"):
            order.insert(0, "delta")  # the layer sets δ: it is named δ even if it is ∂C/∂a, as for the identity
        names = {"delta": f"δ{number}", "grad_a": f"∂C/∂a{number}", "grad_prev": f"∂C/∂a{number - 1}"}
        for attribute in order:
            value = getattr(t, attribute)
            if isinstance(value, Tensor) and not value.name:
                value.name = names.get(attribute, f"{attribute}{number}")
    if not step.output.name:
        step.output.name = f"a{len(step.quantities)}"


def structure(net: CompiledState, shard: BatchShard, options: StepOptions, *, with_l2: bool = True) -> Hashable:
    """Everything that the program of a step depends on, λ only if asked for. None if that is unknown."""
    group = shard.group
    penalties = [(p.start, p.stop, p.l1, p.l2 if with_l2 else None) for p in net.penalties() if options.loss]
    owners: list[tuple[type, object]] = [(Layer, layer) for layer in net.layers]
    owners += [(Activation, layer.activation) for layer in net.layers]
    if options.loss:
        owners += [(Loss, net.loss), *((Metric, metric) for metric in net.metrics)]
    if options.update:
        owners.append((Optimizer, net.optimizer))
    used = []
    for kind, owner in owners:
        cls = type(owner)
        if tuple(cls.__module__.split(".")[:2]) not in PACKAGES:
            return None  # a user's class may depend on anything
        if not vars(owner).keys().isdisjoint(USED[kind]):
            return None  # a method or an attribute was replaced on one object
        used.append((cls, USED_OF[kind](cls)))
    return (
        shard.n,
        options,
        (shard.rows, shard.offset, group.rank, group.size, group.synchronized_batch_norm, group.bucket_bytes),
        net.backend.rewrite_key(),
        len(DEFINITIONS),
        net.dtype,
        net.precision,
        net.n_in,
        tuple(used),
        tuple(net.attribute_values()),
        net.loss_convention,
        tuple(penalties),
        type(group),
    )
