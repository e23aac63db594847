"""The six steps of the theory as array code: `gpunn.theory.train_step`, for every layer, loss, metric and optimizer.

The same text records a program, if its values are tensors, and computes immediately in eager mode, if they are arrays.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..activations import Identity
from ..kernels import get as kernel
from ..kernels.state import SIZE, StateEntry
from ..layers import Layer, Quantities
from ..program import Array, named_call, python_call
from ..program.csr import CompressedBatch
from ..program.groups import SINGLE_PROCESS, BatchShard
from ..program.tensor import REMEDY
from .parameters import UpdateRange
from .state import CompiledState
from .user_code import (
    after_update_opaque,
    backward_opaque,
    check_shape,
    checked,
    evaluate_loss,
    forward_opaque,
    loss_from_z,
    update_opaque,
)
from .values import Values


@dataclass(frozen=True)
class StepOptions:
    """The parts of a step that are computed, and the values that are read after it.

    Attributes
    ----------
    training : bool
        The training form of dropout and batch normalization.
    loss, backward, update : bool
        The sections of the step; each needs those before it.
    weighted : bool
        The rows have sample weights.
    trace : bool
        z, a and δ of every layer are read after the step. The program is not rewritten.
    keep_activations : bool
        a of every layer is read after the step.
    input_gradient : bool
        ∂C/∂x is read after the step.
    rewritten : bool
        Apply the rewrite rules of the backend.
    compressed : CompressedBatch or None
        The step reads its batch from a table in CSR format, without a copy as a dense matrix where that is possible.
    """

    training: bool
    loss: bool = False
    backward: bool = False
    update: bool = False
    weighted: bool = False
    trace: bool = False
    keep_activations: bool = False
    input_gradient: bool = False
    rewritten: bool = True
    compressed: CompressedBatch | None = None

    @property
    def sections(self) -> tuple[bool, ...]:
        """For each of SECTIONS, whether the step has it."""
        return self.loss, True, self.loss, self.backward, self.update

    @property
    def kept(self) -> tuple[str, ...]:
        """The quantities of every layer that are read after the step."""
        if self.trace:
            return ("z", "a", "delta") if self.backward else ("z", "a")
        return ("a",) if self.keep_activations else ()


class Step:
    """One step of a network on n rows. The methods weights, forward, loss, backward and update run in this order.

    Parameters
    ----------
    net : CompiledState
    n : int
        Rows of this process.
    shard : BatchShard
    values : Values
    options : StepOptions
    """

    def __init__(self, net: CompiledState, n: int, shard: BatchShard, values: Values, options: StepOptions) -> None:
        self.net = net
        self.n = n
        self.shard = shard
        self.values = values
        self.options = options
        self.state = values.read("state", 0, SIZE, name="state")
        self.layers = list(net.layers)
        if options.loss and net.loss.takes_z:
            # the loss computes a from z
            last = copy.copy(self.layers[-1])
            last.activation = Identity()
            self.layers[-1] = last
        self.quantities: list[Quantities] = []
        self.learning_rate_factor = 1.0  # of η in the state array
        self.output: Array = None  # aᴸ
        self.grad_x: Array = None  # ∂C/∂x

    # --- (1), (2) ---

    def forward(self) -> None:
        """(1) a⁰ = x; (2) feed forward by E1 and E2."""
        a = self.values.rows()
        self.quantities = []
        for index, layer in enumerate(self.layers):
            t = self._quantities(index, layer)
            t.a_prev = a
            self.values.set_local_sums(local=self._has_local_sums(layer))
            if layer.opaque:
                forward_opaque(layer, t, self.n)
            else:
                named_call(layer, "forward", t)
            shape = self.n, layer.n_out or 0
            a = t.a = self._result(layer, t, "a", "forward", shape)
            t.z = self._result(layer, t, "z", "forward", shape) if hasattr(t, "z") else a
            self.quantities.append(t)
        self.values.set_local_sums(local=False)
        self.output = a

    def _quantities(self, index: int, layer: Layer) -> Quantities:
        group = self.shard.group
        rows = self.shard.rows if group.synchronized_batch_norm else self.n
        t = Quantities(index=index, state=self.state, training=self.options.training, rows=rows)
        self._read_variables(t)
        return t

    def _read_variables(self, t: Quantities) -> None:
        """Set the parameters and running statistics of a layer."""
        for p in self.net.slices_of(t.index):
            value = self.values.read("theta", p.start, p.stop, p.parameter.shape, f"{p.parameter.name}{t.index + 1}")
            setattr(t, p.parameter.name, value)
        for name, (start, shape) in self.net.running_slices_of(t.index).items():
            stop = start + int(np.prod(shape))
            setattr(t, name, self.values.read("running", start, stop, shape, f"{name}{t.index + 1}"))

    def _has_local_sums(self, layer: Layer) -> bool:
        return layer.batch_statistics and not self.shard.group.synchronized_batch_norm

    def _result(self, layer: Layer, t: Quantities, name: str, method: str, shape: tuple[int, ...]) -> Array:
        """A quantity of this shape that a method of a layer must have set."""
        found = checked(layer, t, name, method, shape)
        self._check(layer, method, f"set t.{name}", found)
        return self.values.stored(found, batch=name in ("z", "a", "delta", "grad_prev"))

    def _check(self, owner: object, method: str, what: str, found: Array) -> None:
        """Raise TypeError if a value of user code has another dtype, or is no value of a recorded step."""
        must = f"{type(owner).__name__}.{method} must {what}"
        if found.dtype != self.net.dtype:
            raise TypeError(f"{must} of {self.net.dtype}, got {found.dtype}")
        if not self.values.holds(found):
            raise TypeError(f"{must} computed from the values that it was given: {REMEDY}")

    # --- (3) ---

    def weights(self) -> None:
        """wᵢ ← wᵢ/Σw. (E3)"""
        state, values = self.state, self.values
        if self.shard.group is not SINGLE_PROCESS:
            kernel("start_shard")(state, count=1, first=self.shard.offset)
        if not self.options.weighted:
            kernel("start_batch")(state, count=1, rows=self.shard.rows)
            self.w = values.w
            return
        self._set(StateEntry.WEIGHT, kernel("sum_all")(values.sample_weight))
        kernel("start_weighted_batch")(state, count=1)
        self.w = kernel("normalize_weights")(values.sample_weight, state)

    def loss(self) -> None:
        """(3) C = Σ wᵢℓᵢ + penalty (E3, E9), and ∂C/∂aᴸ, or δᴸ and aᴸ where the loss computes them from zᴸ (E4)."""
        loss, values = self.net.loss, self.values
        if loss.takes_z:
            self.output, self.gradient, row_losses = loss_from_z(loss, self.output, values.y, self.w)
        elif loss.opaque:
            given, like = (self.output, values.y, self.w), (self.output, self.w)
            reason = f"loss {loss.name} is Python code"
            evaluate = functools.partial(evaluate_loss, loss)
            self.gradient, row_losses = python_call(evaluate, given, like, reason)
        else:
            self.gradient, row_losses = evaluate_loss(loss, self.output, values.y, self.w)
            self._check(loss, "evaluate", "return ∂C/∂a", self.gradient)
            self._check(loss, "evaluate", "return row losses", row_losses)
        self._set(StateEntry.LOSS, kernel("sum_all")(row_losses))
        self._penalty()
        for metric, part in self.net.metric_slices():
            start = part.start
            for sums in named_call(metric, "batch_sums", self.output, values.y, values.sample_weight):
                values.assign("batch_metrics", start, sums)
                start += sums.shape[0]
        if not self.options.backward:
            self._accumulate_metrics()

    def _penalty(self) -> None:
        """½λ Σ W² + λ₁ Σ |W|. (E9)"""
        penalties = self.net.penalties()
        if not penalties:
            return
        for k, p in enumerate(penalties):
            theta = self.values.read("theta", p.start, p.stop)
            self.values.assign("penalties", k, kernel("penalty")(theta, l2=p.l2, l1=p.l1))
        parts = self.values.read("penalties", 0, len(penalties))
        self._set(StateEntry.PENALTY, kernel("sum_all")(parts))
        if self.net.loss_convention.after_penalty is not None:
            kernel(self.net.loss_convention.after_penalty)(self.state, count=1)

    # --- (4), (5) ---

    def backward(self) -> None:
        """(4) δˡ by E5 down to the first layer; (5) gradients by E6 and E7; λW of E9."""
        net, grad = self.net, self.gradient
        for t, layer in zip(reversed(self.quantities), reversed(self.layers), strict=True):
            t.grad_a = grad
            self.values.set_local_sums(local=self._has_local_sums(layer))
            if layer.opaque:
                backward_opaque(layer, t)
            else:
                named_call(layer, "backward", t)
            self.values.set_local_sums(local=False)
            shape = self.n, layer.n_out or 0
            t.delta = self._result(layer, t, "delta", "backward", shape) if hasattr(t, "delta") else grad
            for p in net.slices_of(t.index) if layer.trainable else ():
                value = self._result(layer, t, f"d{p.parameter.name}", "backward", p.parameter.shape)
                self.values.assign("gradient", p.start, value)
            if t.index > 0 or self.options.input_gradient:
                grad = t.grad_prev = self._result(layer, t, "grad_prev", "backward", t.a_prev.shape)
        add = kernel(net.loss_convention.penalty_gradient)
        for penalty in net.penalties(trainable_only=True):
            theta, g = (self.values.read(name, penalty.start, penalty.stop) for name in ("theta", "gradient"))
            self.values.assign("gradient", penalty.start, add(theta, self.state, g, l2=penalty.l2, l1=penalty.l1))
        self.grad_x = grad if self.options.input_gradient else None

    # --- (6) ---

    def update(self) -> None:
        """(6) gradient step by E8 or another optimizer, unless a value is not finite."""
        net, values, state = self.net, self.values, self.state
        rule, size = net.optimizer, net.size
        g, theta = values.read("gradient", 0, size), values.read("theta", 0, size)
        self._set(StateEntry.MAX_ABS, kernel("max_abs_pair")(g, theta))
        kernel("check_finite")(state, count=1, limit=net.overflow_limit())
        clipped = named_call(rule, "clip", g, state)
        if clipped is not g:
            check_shape(rule, "clip", "return a gradient", clipped, (size,))
            self._check(rule, "clip", "return a gradient", clipped)
            values.assign("gradient", 0, clipped)
        rule.bias_correction(state)
        self._update_parameters()
        self._after_update()
        self._accumulate_metrics()
        kernel(net.loss_convention.end_step)(state, count=1, rows=self.shard.rows)

    def _update_parameters(self) -> None:
        """θ ← θ − … and the optimizer's slots, unless a new value would not be finite. (E8)"""
        rule = self.net.optimizer
        names = ("theta", *rule.slots)
        parts = self.net.update_ranges(separate_weights=rule.separates_weights)
        parts.sort(key=lambda part: part.learning_rate_factor)
        segments = [(part, self._segment(part)) for part in parts]
        # all ranges are checked before the first one is stored
        for part, t in segments if rule.uses_rule else ():
            self._scale_learning_rate(part.learning_rate_factor)
            self._check_update(rule.probe(t))
        for part, t in segments:
            self._scale_learning_rate(part.learning_rate_factor)
            if rule.uses_rule:
                rule.update(t)
            else:
                self._update_by_method(t, names)
        self._scale_learning_rate(1.0)
        self._assign_all([(name, part.start, getattr(t, name)) for part, t in segments for name in names])

    def _scale_learning_rate(self, factor: float) -> None:
        """Set η in the state array, and what the optimizer computes from it, for layers with this factor."""
        if factor == self.learning_rate_factor:
            return
        if self.learning_rate_factor == 1:
            kernel("store_lr")(self.state, count=1)
        kernel("scale_lr")(self.state, count=1, factor=factor)
        self.net.optimizer.bias_correction(self.state)
        self.learning_rate_factor = factor

    def _update_by_method(self, t: Quantities, names: Sequence[str]) -> None:
        """Set the new values that a method of the optimizer computes, and check them."""
        rule, shape = self.net.optimizer, t.theta.shape
        if rule.opaque:
            update_opaque(rule, t)
        else:
            # kernels in update(t) may overwrite their operands, but new values are stored only after the check
            vars(t).update({name: kernel("identity")(getattr(t, name)) for name in names})
            named_call(rule, "update", t)
        for name in names:
            value = checked(rule, t, name, "update", shape)
            self._check(rule, "update", f"set t.{name}", value)
            self._check_update(kernel("nonfinite_difference")(value, self.state))

    def _check_update(self, probe: Array) -> None:
        """Stop all updates from this step on if the probe of an update is not finite."""
        self._set(StateEntry.UPDATE_PROBE, probe)
        kernel("check_update_finite")(self.state, count=1)

    def _assign_all(self, found: Sequence[tuple[str, int, Array]]) -> None:
        """Store values in variables. One may be the value that another variable had before."""
        values = [self.values.detached(value) for _, _, value in found]
        for (variable, start, _), value in zip(found, values, strict=True):
            self._assign_if_updating(variable, start, value)

    def _assign_if_updating(self, variable: str, start: int, value: Array) -> None:
        """Store a value in a variable, unless a value of the step is not finite or the batch is empty."""
        if not self.values.is_stored(variable, start, value):
            current = self.values.read(variable, start, start + value.size, tuple(value.shape))
            value = kernel("assign_if_updating")(value, self.state, current)
        self.values.assign(variable, start, value)

    def _segment(self, part: UpdateRange) -> Quantities:
        """θ, g and the optimizer's slots of a range of trainable parameters."""
        names = ("theta", "gradient", *self.net.optimizer.slots)
        theta, g, *slots = (self.values.read(name, part.start, part.stop) for name in names)
        t = Quantities(theta=theta, g=g, state=self.state, are_weights=part.are_weights)
        vars(t).update(zip(self.net.optimizer.slots, slots, strict=True))
        return t

    def _after_update(self) -> None:
        """Constraints and running statistics of the layers."""
        net = self.net
        for t, layer in zip(self.quantities, self.layers, strict=True):
            if type(layer).after_update is Layer.after_update:
                continue
            self._read_variables(t)
            before = dict(vars(t))
            if layer.opaque:
                after_update_opaque(layer, t)
            else:
                named_call(layer, "after_update", t)
            places = {p.parameter.name: ("theta", p.start) for p in net.slices_of(t.index)}
            places |= {name: ("running", start) for name, (start, _) in net.running_slices_of(t.index).items()}
            changed = [name for name in places if getattr(t, name, None) is not before[name]]
            values = [self._result(layer, t, name, "after_update", tuple(before[name].shape)) for name in changed]
            self._assign_all([(*places[name], value) for name, value in zip(changed, values, strict=True)])

    def _accumulate_metrics(self) -> None:
        for metric, part in self.net.metric_slices():
            if part.stop > part.start:
                batch = self.values.read("batch_metrics", part.start, part.stop)
                sums = self.values.read("metric_sums", part.start, part.stop)
                found = metric.accumulate(batch, self.values.y, sums, self.state)
                self.values.assign("metric_sums", part.start, found)

    def _set(self, entry: StateEntry, value: Array) -> None:
        self.values.assign("state", int(entry), value)
