"""The network: flat parameters, the forward pass, the δ-recursion, and the plans that run them. It knows no loop.

All parameters live in one flat buffer: first all weights, then everything unpenalised (intercepts, γ, β). Gradients
and the optimiser's moments lie in buffers of the same shape, and a layer holds views. A plan belongs to a batch size
and owns every buffer of a step; making it records the step, and running it only writes in place.
"""

from __future__ import annotations

import copy
import itertools
import threading
import weakref
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import backend as backends
from .activations import Activation
from .backend import Backend
from .kernels import Launch
from .kernels import get as kernel
from .kernels.state import SIZE, Slot
from .layers import Buffers, Dense, Layer, Parameter
from .losses import Loss
from .optimizers import Optimizer
from .recording import POLL_SECONDS, SINGLE_PROCESS, Array, BatchShard, Group, Recorder, execute

# above these magnitudes an update of finite numbers might overflow, and is tried before it is written
OVERFLOW_LIMITS = {"float32": 2.0**50, "float64": 2.0**400}
MAX_PLANS = 8
_versions = itertools.count(1)


@dataclass(frozen=True)
class ParameterSlice:
    """Where a parameter lies in the flat buffer."""

    layer: int
    parameter: Parameter
    start: int
    stop: int

    def of(self, flat: Array) -> Array:
        """The parameter's view of a flat buffer."""
        return flat[self.start : self.stop].reshape(self.parameter.shape)


@dataclass(frozen=True)
class CompressedRows:
    """A table (n, m) of which only what is not 0 is stored, on the device: row r holds values[k] in column columns[k]
    for k = starts[r] … starts[r + 1] − 1. values (any real type), columns (int32), starts (int64, n + 1)."""

    values: Array
    columns: Array
    starts: Array
    shape: tuple[int, int]


Table = Any  # an Array (n, m), or CompressedRows


@dataclass(frozen=True)
class RowBuffer:
    """What the network said of every row of an epoch or of a set: outputs (n, n_out), targets, weights (n,) or None."""

    a: Array
    y: Array
    w: Array | None

    def rows(self, start: int, stop: int) -> RowBuffer:
        """The room of those rows."""
        return RowBuffer(self.a[start:stop], self.y[start:stop], None if self.w is None else self.w[start:stop])


@dataclass(frozen=True)
class LossConvention:
    """The kernels that say how a penalty and a batch count in the cost and in its mean over an epoch.

    As they stand: the penalty of E9 in full, and batches by their weight.
    """

    penalty_gradient: str = "add_penalty_gradient"
    after_penalty: str | None = None
    end_step: str = "end_step"

    def mean_penalty(self, penalty: float, batch: float, weight: float) -> float:
        """The penalty in the mean loss over a set of that weight, from its part in the loss of one batch."""
        return penalty if self.after_penalty is None else penalty * batch / weight


@dataclass(frozen=True)
class PenaltyRange:
    """A slice of the flat buffer with one l2 and one l1."""

    start: int
    stop: int
    l2: float
    l1: float


class Plan:
    """Every buffer of a step for n rows, and the step itself as lists of launches.

    Where processes share a batch the n rows are this one's part of it, `shard`: what is summed over rows is summed over
    the processes as well, before it is used.

    normalize_weights  the batch's weights: wᵢ ← wᵢ/Σw
    forward   steps (1), (2) of the procedure: x to aᴸ
    loss      (3): C, and δᴸ or ∂C/∂aᴸ
    backward  (4), (5): δ back to the first layer, gradients, penalties
    update    (6): the flag, clipping, the optimiser, what follows it, the tick
    """

    def __init__(
        self,
        network: Network,
        n: int,
        *,
        training: bool,
        loss: bool = False,
        backward: bool = False,
        update: bool = False,
        weighted: bool = False,
        trace: bool = False,
        input_gradient: bool = False,
        shard: BatchShard | None = None,
    ) -> None:
        # the network holds its plans; a circle would keep all of it until Python looks for circles
        self._network = weakref.ref(network)
        self.n, self.training = n, training
        self.shard = BatchShard.of(n) if shard is None else shard
        self.backend = network.backend
        self.bytes = 0
        self.weighted = weighted
        self.state = network.state if update else self._new((SIZE,), np.float64)
        # a plan that takes no step may run beside others, so its gradients are its own
        self.gradient: Array = network.gradient if update else None
        if backward and not update:
            self.gradient = self._new((network.theta.shape[0],))
        self.ops = Recorder(self.backend, trace=trace, precision=network.precision, shard=self.shard)
        self.ops.register_flat(network.theta)
        self._block_program: Any = None
        self.batch_step: list[Launch] | None = None  # the whole step on what `load_batch` brings
        self.forward_step: list[Launch] | None = None  # the forward pass, joined
        fusable = {} if trace else self._fusable_pairs()
        # the batch, too, is held as the first product reads it
        first = next((k for k in network.layers if not k.is_identity(training)), None)
        held = (
            self.ops.storage_dtype(network.n_in)
            if not trace and first is not None and first.can_fuse_backward
            else None
        )
        self.x = self._new((n, network.n_in), held)
        self.grad_x = self._new((n, network.n_in)) if input_gradient else None
        self.layers = self._allocate(trace, backward, fusable)
        self._penalty_args: list[tuple[list[Any], int, int]] = []
        self.normalize_weights: list[Launch] = []
        self.loss: list[Launch] = []
        self.backward: list[Launch] = []
        self.update: list[Launch] = []
        self._merged = loss and network.loss.fused_with_activation
        self._record_forward()
        self.forward = self.ops.end_section()
        if loss:
            self._record_loss(backward)
            self.loss = self.ops.end_section()
        if backward:
            self._record_backward()
            self.backward = self.ops.end_section()
        if update:
            self._record_update()
            self.update = self.ops.end_section()
        self.ops.bind()
        self.bytes += self.ops.bytes
        self.slow_path_reasons = list(dict.fromkeys(self.ops.slow_path_reasons))

    def _new(self, shape: tuple[int, ...], dtype: Any = None) -> Array:
        made = self.backend.zeros(shape, dtype or self.network.dtype)
        self.bytes += made.nbytes
        return made

    def _fusable_pairs(self) -> dict[int, int]:
        """Neighbours of which one's product reads what the other's has left: the lower by the upper. The upper's δ Wᵀ
        may apply the lower's f′; `trace` wants ∂C/∂a and δ apart."""
        layers = self.network.layers
        indices = [k for k, layer in enumerate(layers) if not layer.is_identity(self.training)]
        return {
            upper: lower
            for lower, upper in itertools.pairwise(indices)
            if layers[lower].can_fuse_backward and layers[upper].can_fuse_backward
        }

    def _allocate(self, trace: bool, backward: bool, fusable: dict[int, int]) -> list[Buffers]:
        """The layers' buffers, each reading the one before it and passing ∂C/∂a_prev back to it."""
        net = self.network
        found: list[Buffers] = []
        lower = set(fusable.values())
        a = self.x
        for index, layer in enumerate(net.layers):
            t = Buffers(index=index, a_prev=a, state=self.state, delta_is_known=False)
            t.storage_dtype = (
                self.ops.storage_dtype(layer.n_out or 0) if index in lower and layer.supports_bf16 else None
            )
            t.grad_a = t.delta = t.grad_prev = t.below = t.aux = None
            t.save_aux = t.db_is_known = False
            for place in net.slices_of(index):
                setattr(t, place.parameter.name, place.of(net.theta))
                if backward:
                    setattr(t, f"d{place.parameter.name}", place.of(self.gradient))
            for name, view in net.running_stats_of(index).items():
                setattr(t, name, view)
            if layer.is_identity(self.training):
                t.z = t.a = a
            else:
                layer.allocate(t, self._new, self.n, trace)
            found.append(t)
            a = t.a
        if backward:
            grad = self._new((self.n, net.n_out))
            for t, layer in zip(reversed(found), reversed(net.layers), strict=True):
                t.grad_a = grad
                # without an activation of its own, a layer's δ is ∂C/∂a
                apart = trace and layer.activation.name != "identity"
                t.delta = self._new(grad.shape) if apart else grad
                if layer.is_identity(self.training):
                    t.delta = t.grad_prev = grad
                    if t.index == 0 and self.grad_x is not None:
                        self.grad_x = grad
                elif t.index > 0:
                    held = found[fusable[t.index]].storage_dtype if t.index in fusable else None
                    t.grad_prev = grad = self._new((self.n, layer.n_in or 0), held)
                else:
                    t.grad_prev = self.grad_x
            for upper, below in fusable.items():
                found[upper].below, found[below].save_aux = found[below], True
        return found

    @property
    def network(self) -> Network:
        """The network whose plan it is."""
        found = self._network()
        assert found is not None
        return found

    @property
    def output(self) -> Array:
        """aᴸ (n, n_out)."""
        return self.layers[-1].a

    def _record_forward(self) -> None:
        """(1) a⁰ = x; (2) feed forward by E1 and E2."""
        last = len(self.layers) - 1
        for t, layer in zip(self.layers, self.network.layers, strict=True):
            if layer.is_identity(self.training):
                continue
            if t.index == last and self._merged:
                layer.forward_to_z(self.ops, t, self.training)
            else:
                layer.forward(self.ops, t, self.training)

    def _record_loss(self, backward: bool) -> None:
        """(3) C = Σ wᵢℓᵢ + penalty (E3, E9) and δᴸ, or ∂C/∂aᴸ where the last layer turns it into δᴸ itself (E4)."""
        net, n, ops = self.network, self.n, self.ops
        labels = net.loss.targets == "class_index"
        self.y = self._new((n,), np.int32) if labels else self._new((n, net.n_out))
        self.sample_weight = self._new((n,))
        self.w = self._new((n,))  # wᵢ/Σw
        self.row_losses = self._new((n,))
        if self.shard.group is not SINGLE_PROCESS:
            ops(kernel("start_shard"), out=self.state, count=1, first=self.shard.offset)
        if not self.weighted:
            self.sample_weight.fill(1)
            self.w.fill(1 / self.shard.rows)  # mutate: E3 mean
            ops(kernel("start_batch"), out=self.state, count=1, rows=self.shard.rows)
        else:
            ops(kernel("sum_all"), self.sample_weight, out=_slot(self.state, Slot.WEIGHT))
            ops.all_reduce(_slot(self.state, Slot.WEIGHT))
            ops(kernel("start_weighted_batch"), out=self.state, count=1)
            ops(kernel("normalize_weights"), self.sample_weight, self.state, out=self.w)
        self.normalize_weights = ops.end_section()
        t = self.layers[-1]
        grad = t.delta if t.delta is not None else self._new((n, net.n_out))
        if self._merged:
            net.loss.record_fused(ops, t.z, self.y, self.w, t.a, grad, self.row_losses)
            t.delta_is_known = True
        else:
            into = t.grad_a if t.grad_a is not None else grad
            net.loss.record(ops, t.a, self.y, self.w, into, self.row_losses)
        ops(kernel("sum_all"), self.row_losses, out=_slot(self.state, Slot.LOSS))
        self._record_penalty_value()
        self.batch_metrics = self._new((max(1, net.n_metric_sums),), np.float64)
        for metric, part in net.metric_slices():
            metric.record_batch(ops, t.a, self.y, self.sample_weight, self.batch_metrics[part])

    def _record_penalty_value(self) -> None:
        penalties = self.network.penalties()
        if not penalties:
            return
        parts = self._new((len(penalties),), np.float64)
        for k, p in enumerate(penalties):
            theta = self.network.theta[p.start : p.stop]
            self.ops(kernel("penalty"), theta, out=parts[k : k + 1], l2=p.l2, l1=p.l1)
            self._penalty_args.append((*self.ops.last, k))
        self.ops(kernel("sum_all"), parts, out=_slot(self.state, Slot.PENALTY))
        if self.network.loss_convention.after_penalty is not None:
            self.ops(kernel(self.network.loss_convention.after_penalty), out=self.state, count=1)

    def _record_backward(self) -> None:
        """(4) δˡ by E5 down to the first layer; (5) gradients by E6 and E7; λW of E9."""
        net = self.network
        bucket = self.shard.group.bucket_bytes
        in_flight: list[Launch] = []
        # weights lie in the layers' order, so those from `available` to `sent_upto` are still to be sent
        sent_upto = available = sum(p.stop - p.start for p in net.slices if p.parameter.penalized)
        unpenalised = available
        for t, layer in zip(reversed(self.layers), reversed(net.layers), strict=True):
            if not layer.is_identity(self.training):
                layer.backward(self.ops, t, self.training)
            available = min([available, *(p.start for p in net.slices_of(t.index) if p.parameter.penalized)])
            if bucket is not None and (sent_upto - available) * self.gradient.itemsize >= bucket:
                in_flight += self.ops.start_all_reduce(self.gradient[available:sent_upto])
                sent_upto = available
        # the parts' gradients, losses and metrics become those of the batch; a penalty is no part's
        numbers = (_slot(self.state, Slot.LOSS), self.batch_metrics)
        if bucket is None:
            self.ops.all_reduce(self.gradient, *numbers)
        else:
            in_flight += self.ops.start_all_reduce(self.gradient[:sent_upto], self.gradient[unpenalised:], *numbers)
            self.ops.wait_all_reduce(in_flight)
        everyone = net.penalties()
        for p in net.penalties(trainable_only=True):
            theta, g = net.theta[p.start : p.stop], self.gradient[p.start : p.stop]
            self.ops(kernel(net.loss_convention.penalty_gradient), theta, self.state, out=g, l2=p.l2, l1=p.l1)
            self._penalty_args += [(*self.ops.last, k) for k, q in enumerate(everyone) if q.start <= p.start < q.stop]

    def set_l2(self, values: list[float]) -> None:
        """λ of every penalty, in their order, into launches that are compiled."""
        for stage, at, k in self._penalty_args:
            stage[at].scalars[0] = values[k]

    def _record_update(self) -> None:
        """(6) gradient step by E8 or a descendant of it, unless something is not finite."""
        net, ops, state = self.network, self.ops, self.state
        rule = net.optimizer
        ops(kernel("max_abs_pair"), net.gradient, net.theta, out=_slot(state, Slot.MAX_ABS))
        ops(kernel("check_finite"), out=state, count=1, limit=net.overflow_limit())
        rule.record_clipping(ops, net.gradient, state)
        rule.record_bias_correction(ops, state)
        segments = [
            (net.theta[a:b], net.gradient[a:b], {name: flat[a:b] for name, flat in net.slots.items()})
            for a, b in net.trainable_ranges()
        ]
        for record in (rule.record_overflow_check, rule.record):
            for theta, g, slots in segments:
                record(ops, theta, g, slots, state)
        for t, layer in zip(self.layers, net.layers, strict=True):
            layer.after_update(ops, t)
        self._record_sums(ops, net.metric_sums)
        ops(kernel(net.loss_convention.end_step), out=state, count=1, rows=self.shard.rows)

    def _record_sums(self, ops: Recorder, sums: Array) -> None:
        for metric, part in self.network.metric_slices():
            metric.record_sums(ops, self.y, self.batch_metrics[part], sums[part], self.state)

    def accumulate_metrics(self, sums: Array) -> list[Launch]:
        """Launches that add the batch's metrics to `sums`; a step that updates has its own."""
        return self._launches(lambda ops: self._record_sums(ops, sums))

    def advance_offset(self, kernel_name: str) -> list[Launch]:
        """The launch that brings the state's offset to the next batch: "accumulate_loss" or "advance_offset"."""
        return self._launches(lambda ops: ops(kernel(kernel_name), out=self.state, count=1, rows=self.n))

    def store_predictions(self, into: Array) -> list[Launch]:
        """The launch that keeps aᴸ in the rows of `into` from the state's offset on."""
        return self._launches(lambda ops: ops(kernel("store_rows"), self.output, self.state, out=into))

    def predict_in_place(self, X: Table, result: Array, start: int, stop: int) -> float | None:
        """aᴸ of rows start … stop of X, whole blocks, into those rows of `result`; returns max |x|, NaN where an x is.

        X and the result are read and written where they are, block after block; None, with nothing done, where X is not
        of the network's type and layout or this device does not do so.
        """
        usual = not isinstance(X, CompressedRows) and X.dtype == self.x.dtype == self.network.dtype
        usual = usual and X.flags.c_contiguous
        if self._block_program is None and usual:
            largest = self._new((1,), np.float64)
            look = self._launches(lambda ops: ops(kernel("max_abs"), self.x, out=largest))
            walk = self.backend.bind_blocks([*look, *self.forward], [self.x, self.output, largest])
            # a network that passes everything through writes nothing
            self._block_program = False if walk is None or self.output is self.x else walk
        if self._block_program is False or not usual:
            return None
        blocks = (stop - start) // self.n
        found = self.backend.empty((blocks,), np.float64)
        self._block_program.run_blocks((X[start:stop], result[start:stop], found), blocks, seconds=POLL_SECONDS)
        return float(found.max())

    def _launches(self, record: Callable[[Recorder], None]) -> list[Launch]:
        ops = Recorder(self.backend)
        record(ops)
        launches = ops.end_section()
        ops.bind()
        return launches

    def store_rows(self, kept: RowBuffer | None) -> list[Launch]:
        """Launches that keep outputs, targets and weights of the batch's rows, where there is room for them."""
        if kept is None:
            return []
        labels = self.network.loss.targets == "class_index"

        first = self.shard.offset

        def record(ops: Recorder) -> None:
            ops(kernel("store_rows"), self.output, self.state, out=kept.a[first:])
            ops(kernel("store_labels" if labels else "store_rows"), self.y, self.state, out=kept.y[first:])
            if kept.w is not None:
                ops(kernel("store_weights"), self.sample_weight, self.state, out=kept.w[first:])

        return self._launches(record)

    def load_batch(self, X: Table, y: Array, w: Array = None) -> None:
        """Bring one batch, arrays on the device, into the plan's x, y and w."""
        self.state[Slot.OFFSET] = 0
        if isinstance(X, CompressedRows):
            execute(self.gather(X, y, w))
            return
        with np.errstate(all="ignore"):
            self.ops.copy_into(X, self.x)
            self.y[...] = y
            if w is not None:
                self.sample_weight[...] = w

    def gather(self, X: Table, y: Array = None, w: Array = None, order: Array = None) -> list[Launch]:
        """Launches that bring the batch at the state's offset: x, y, w from whole arrays on the device.

        With `order` (int64, a permutation) row i of the batch is row order[offset + i], else row offset + i.
        """
        ops = Recorder(self.backend, precision=self.network.precision)
        if order is not None:
            order = order[self.shard.offset :]
        pairs = [(X, self.x)]
        if y is not None:
            if self.network.loss.targets == "class_index":
                if order is None:
                    ops(kernel("copy_labels"), y, self.state, out=self.y)
                else:
                    ops(kernel("gather_labels"), y, order, self.state, out=self.y)
            else:
                pairs.append((y, self.y))
        if w is not None:
            pairs.append((w[:, None], self.sample_weight[:, None]))
        for whole, into in pairs:
            if isinstance(whole, CompressedRows):
                stored = (whole.values, whole.columns, whole.starts)
                with ops.accumulate_in_float32(into) as sums:
                    if order is None:
                        ops(kernel("copy_csr"), *stored, self.state, out=sums)
                    else:
                        ops(kernel("gather_csr"), *stored, order, self.state, out=sums)
                continue
            steps = {
                "row_step": whole.strides[0] // whole.itemsize,
                "column_step": whole.strides[1] // whole.itemsize,
            }
            if order is None:
                ops(kernel("copy_rows"), whole, self.state, out=into, **steps)
            else:
                ops(kernel("gather"), whole, order, self.state, out=into, **steps)
        self.bytes += ops.bytes
        launches = ops.end_section()
        ops.bind()
        return launches


class Network:
    """Layers with their parameters on a device, and what training them needs. `seed` draws everything."""

    def __init__(self, layers: Sequence[Layer], seed: int, dtype: np.dtype) -> None:
        self.layers = list(layers)
        self.seed = seed
        self.dtype = dtype
        self.backend: Backend = backends.get("cpu")
        self.n_in = self.n_out = 0
        self.slices: list[ParameterSlice] = []
        self.theta: Array = None
        self.running: Array = None
        self.gradient: Array = None
        self.state: Array = None
        self.slots: dict[str, Array] = {}
        self.metric_sums: Array = None
        self.given_loss: Loss | None = None  # as it was given to compile; None before
        self.given_metrics: list[Any] = []
        self.loss: Loss  # resolved for the last activation
        self.metrics: list[Any] = []  # resolved for the loss
        self.optimizer: Optimizer
        self.loss_convention = LossConvention()
        self.precision: str | None = None  # of products on a GPU, where it is less than the dtype's
        self.group: Group = SINGLE_PROCESS  # the processes that share its steps
        self.learning_rate_override: float | None = None  # η where a callback holds it, whatever the schedule says
        self.capture_errors: dict[str, None] = {}  # what kept its steps from being one graph, since it was compiled
        self._recorded: list[Any] | None = None  # the settings that loss, metrics and plans were made for
        self._lock = threading.Lock()  # of the plans
        self._reset_plans()

    # --- parameters ---

    @property
    def is_built(self) -> bool:
        """Whether the number of inputs is known and the weights are drawn."""
        return self.theta is not None

    def build(self, n_in: int, *, draw: bool = True) -> None:
        """Lay the parameters out and draw them on the host: layer by layer, from a Philox generator keyed by the
        seed and the layer, so that a layer's weights do not depend on what stands before it. (E10)
        Without `draw` they are zeros, for whoever brings the values."""
        width = n_in
        for layer in self.layers:
            width = layer.build(width)
        self.n_in, self.n_out = n_in, width
        listed = [(k, p) for k, layer in enumerate(self.layers) for p in layer.parameters()]
        at = 0
        self.slices = []
        for k, p in sorted(listed, key=lambda pair: not pair[1].penalized):
            size = int(np.prod(p.shape))
            self.slices.append(ParameterSlice(k, p, at, at + size))
            at += size
        theta = np.zeros(at, self.dtype)
        for k in range(len(self.layers) if draw else 0):
            generator = keyed_generator(self.seed, 2**64 - 1 - k)
            for place in self.slices_of(k):
                place.of(theta)[...] = place.parameter.initializer(place.parameter.shape, generator)
        statistics = [r for layer in self.layers for r in layer.running()]
        running = np.concatenate(
            [np.full(r.shape, r.initial_value, self.dtype).ravel() for r in statistics] or [theta[:0]]
        )
        self.theta, self.running = self.backend.asarray(theta), self.backend.asarray(running)
        self.gradient = self.backend.zeros((at,), self.dtype)
        self.state = self.backend.zeros((SIZE,), np.float64)
        self._set_seed()
        self._reset_plans()

    def _set_seed(self) -> None:
        with self.backend.activate():
            self.state[Slot.SEED_LOW] = float(self.seed & 0xFFFFFFFF)
            self.state[Slot.SEED_HIGH] = float(self.seed >> 32 & 0xFFFFFFFF)

    def slices_of(self, layer: int) -> list[ParameterSlice]:
        """The places of one layer's parameters, in the layer's own order."""
        return sorted(
            (p for p in self.slices if p.layer == layer),
            key=lambda p: [q.name for q in self.layers[layer].parameters()].index(p.parameter.name),
        )

    def slices_in_order(self) -> list[ParameterSlice]:
        """All places in the order of `get_weights`: W1, b1, W2, b2, …"""
        return [p for k in range(len(self.layers)) for p in self.slices_of(k)]

    def running_stats_of(self, layer: int) -> dict[str, Array]:
        """One layer's running statistics, views of their flat buffer."""
        found, at = {}, 0
        for k, each in enumerate(self.layers):
            for r in each.running():
                size = int(np.prod(r.shape))
                if k == layer:
                    found[r.name] = self.running[at : at + size].reshape(r.shape)
                at += size
        return found

    def trainable_ranges(self) -> list[tuple[int, int]]:
        """The stretches of the flat buffer that train, neighbours joined: one, unless a layer is frozen."""
        found: list[tuple[int, int]] = []
        for p in self.slices:
            if not self.layers[p.layer].trainable:
                continue
            if found and found[-1][1] == p.start:
                found[-1] = (found[-1][0], p.stop)
            else:
                found.append((p.start, p.stop))
        return found

    def penalties(self, *, trainable_only: bool = False) -> list[PenaltyRange]:
        """The stretches with a penalty, neighbours of equal λ joined: one, unless layers differ. (E9)"""
        found: list[PenaltyRange] = []
        for p in self.slices:
            now = {q.name: q for q in self.layers[p.layer].parameters()}[p.parameter.name]
            l2, l1 = now.l2, now.l1
            if (l2 == 0 and l1 == 0) or (trainable_only and not self.layers[p.layer].trainable):
                continue
            if found and (found[-1].stop, found[-1].l2, found[-1].l1) == (p.start, l2, l1):
                found[-1] = PenaltyRange(found[-1].start, p.stop, l2, l1)
            else:
                found.append(PenaltyRange(p.start, p.stop, l2, l1))
        return found

    # --- training state ---

    def compile(
        self,
        optimizer: Optimizer,
        loss: Loss,
        metrics: list[Any],
        loss_convention: LossConvention = LossConvention(),
        precision: str | None = None,
    ) -> None:
        """Set the optimizer, the loss, the metrics, and the precision of products on a GPU. The optimizer starts again
        at step 0. ValueError if they do not fit each other; then nothing is changed."""
        self.loss, self.metrics = self.resolve(loss, metrics)
        self.given_loss, self.given_metrics = loss, metrics
        self.optimizer, self.loss_convention = optimizer, loss_convention
        self.precision = precision
        self.learning_rate_override = None
        self.slots, self.metric_sums, self.capture_errors = {}, None, {}
        if self.is_built:
            self._reset_state()
        self._recorded = self.plan_key()
        self._reset_plans()

    def resolve(self, loss: Loss, metrics: Sequence[Any]) -> tuple[Loss, list[Any]]:
        """The loss for the last activation, and copies of the metrics for that loss. ValueError if they do not fit each
        other, or the layers do not fit the weights."""
        if self.is_built:
            self._check_parameters()
        resolved = loss.for_activation(self._last_activation(loss))
        names = [metric.name for metric in metrics]
        if len(set(names)) != len(names) or "loss" in names:
            raise ValueError(f"metrics must have different names, none of them 'loss', got {names}")
        copies = [copy.copy(metric) for metric in metrics]
        for metric in copies:
            metric.resolve(resolved, self.output_width())
        return resolved, copies

    def output_width(self, n_in: int | None = None) -> int:
        """n_out for n_in inputs. Before n_in is known, the units of the last layer that defines its width, or 0."""
        if self.is_built:
            return self.n_out
        if n_in is not None:
            width = n_in
            for layer in copy.deepcopy(self.layers):
                width = layer.build(width)
            return width
        for layer in reversed(self.layers):
            if type(layer).build is not Layer.build:
                return getattr(layer, "units", 0)
        return 0

    def _last_activation(self, loss: Loss) -> Activation:
        """The last layer's activation, the identity if it has none. ValueError if a cross-entropy would take thinned or
        normalized probabilities for logits."""
        *before, last = self.layers
        for layer in reversed(before):
            if last.activation.name != "identity" or isinstance(last, Dense):
                break
            if layer.activation.name in ("softmax", "sigmoid") and hasattr(loss, "from_logits"):
                raise ValueError(
                    f"loss {loss.name!r}: {last!r} follows {layer.activation.name}, so that the outputs are "
                    f"neither its probabilities nor logits; put {type(last).__name__} before the layer with it"
                )
            if isinstance(layer, Dense):
                break
        return last.activation

    def set_precision(self, precision: str | None) -> None:
        """Products on a GPU in that precision from now on."""
        if precision != self.precision:
            self.precision = precision
            self._reset_plans()

    def set_group(self, group: Group) -> None:
        """Share steps with the processes of a group from now on."""
        self.group = group
        self._reset_plans()

    def check_optimizer(self, optimizer: Optimizer) -> None:
        """ValueError where a hyper-parameter is 0 or infinite in the network's dtype."""
        for name, value in optimizer.hyperparameters().items():
            with np.errstate(over="ignore", under="ignore"):
                held = float(self.dtype.type(value))
            if not np.isfinite(held) or (held == 0) != (value == 0):
                raise ValueError(f"{name}={value!r} is {held} in {self.dtype}: choose another, or dtype='float64'")

    def reset_optimizer(self) -> None:
        """Moments as before the first step, t = 0."""
        count = self.theta.shape[0]
        self.slots = {}
        with self.backend.activate():
            for name in self.optimizer.slots:
                self.slots[name] = self.backend.zeros((count,), self.dtype)
                self.slots[name].fill(self.optimizer.initial_value(name))
            self.metric_sums = self.backend.zeros((max(1, self.n_metric_sums),), np.float64)
        self._reset_state()
        self._reset_plans()

    def _reset_state(self) -> None:
        """Set the state array to step 0."""
        with self.backend.activate():
            self.state.fill(0)
        self._set_seed()

    def metric_slices(self) -> list[tuple[Any, slice]]:
        """The metrics, and where their numbers lie among those of all."""
        ends = np.cumsum([metric.n_sums(self.n_out) for metric in self.metrics], dtype=int)
        return [
            (metric, slice(int(end) - metric.n_sums(self.n_out), int(end)))
            for metric, end in zip(self.metrics, ends, strict=True)
        ]

    @property
    def n_metric_sums(self) -> int:
        """How many numbers the metrics take together."""
        return sum(metric.n_sums(self.n_out) for metric in self.metrics)

    def weights_checksum(self) -> int | None:
        """A number that tells these parameters and running statistics from others; None before there are any."""
        if not self.is_built:
            return None
        theta, running = (np.ascontiguousarray(self.backend.to_host(a)) for a in (self.theta, self.running))
        return zlib.crc32(running.data, zlib.crc32(theta.data))

    def new_row_buffer(self, n: int, *, weighted: bool) -> RowBuffer | None:
        """Room for n rows where a metric looks at all rows together, else None."""
        if not any(metric.needs_all_rows for metric in self.metrics):
            return None
        new, labels = self.backend.empty, self.loss.targets == "class_index"
        y = new((n,), np.int32) if labels else new((n, self.n_out), self.dtype)
        return RowBuffer(new((n, self.n_out), self.dtype), y, new((n,), np.float64) if weighted else None)

    def prepare_training(self) -> None:
        """Create the optimizer's state if it does not exist."""
        if self.metric_sums is None:
            self.reset_optimizer()

    def apply_attribute_changes(self) -> None:
        """Apply the attributes that were set on layers, optimizer, loss and metrics: resolve loss and metrics again and
        drop the plans, which changes `version`. Does nothing if no attribute changed.

        ValueError if the attributes do not fit each other or the weights; then nothing is changed.
        """
        settings = self.plan_key()
        if settings == self._recorded:
            return
        if self.given_loss is not None:
            self.check_optimizer(self.optimizer)
            self.loss, self.metrics = self.resolve(self.given_loss, self.given_metrics)
            if self.metric_sums is not None and self.metric_sums.shape[0] != max(1, self.n_metric_sums):
                self.metric_sums = self.backend.zeros((max(1, self.n_metric_sums),), np.float64)
        elif self.is_built:
            self._check_parameters()
        self._recorded = settings
        self._reset_plans()

    def plan_key(self) -> list[Any]:
        """The attribute values that plans record from layers, optimizer, loss and metrics."""
        found = [layer.plan_key() for layer in self.layers]
        if self.given_loss is not None:
            found += [self.optimizer.plan_key(), self.given_loss.plan_key()]
            found += [metric.plan_key() for metric in self.given_metrics]
        return found

    def _check_parameters(self) -> None:
        """ValueError if an attribute gives a layer other parameters than it was built with."""
        for k, layer in enumerate(self.layers):
            built = {p.parameter.name: p.parameter.shape for p in self.slices if p.layer == k}
            now = {p.name: p.shape for p in layer.parameters()}
            if now != built:
                raise ValueError(
                    f"layers[{k}] ({layer!r}) has parameters of shapes {now}, but was built with {built}: set its "
                    "attribute back, or make a new network"
                )

    def overflow_limit(self) -> float:
        """The magnitude from which on an update is tried before it is written; 0 where a rule's numbers are extreme."""
        plain = all(h == 0 or 1e-30 <= abs(h) <= 1e6 for h in self.optimizer.hyperparameters().values())
        return OVERFLOW_LIMITS[self.dtype.name] if plain else 0.0

    def move(self, backend: Backend) -> None:
        """Bring every buffer to another device; plans are made anew there."""
        if backend.device == self.backend.device:
            self.backend = backend  # the same device, perhaps for another reason
            return
        # everything is there before anything is let go: the other device may lack the memory
        names = ("theta", "running", "gradient", "state", "metric_sums")
        arrays = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        moved = {name: backend.asarray(self.backend.to_host(array)) for name, array in arrays.items()}
        slots = {k: backend.asarray(self.backend.to_host(v)) for k, v in self.slots.items()}
        vars(self).update(moved)
        self.slots, self.capture_errors = slots, {}
        self.backend = backend
        self._reset_plans()

    # --- plans ---

    def _reset_plans(self) -> None:
        """Drop all plans. `version` differs from that of any plan made before."""
        self._pool: dict[Any, list[Plan]] = {}
        self.version = next(_versions)

    def drop_plans(self) -> None:
        """Give back the memory of plans that are not in use; they are made anew where they are needed."""
        self._reset_plans()

    @contextmanager
    def plan(self, n: int, **options: Any) -> Iterator[Plan]:
        """A plan for n rows and the current settings, from the pool of those not in use or made now. It serves one
        thread at a time."""
        self.apply_attribute_changes()
        key = (n, *sorted(options.items()))
        with self._lock:
            pool = self._pool  # a plan made while another thread changes an attribute must not enter the next pool
            free = pool.get(key)
            plan = free.pop() if free else None
        if plan is None:
            with self.backend.activate():
                plan = Plan(self, n, **options)
        try:
            yield plan
        finally:
            with self._lock:
                # a pool that was dropped meanwhile does not take old plans back
                if pool is self._pool:
                    pool.setdefault(key, []).append(plan)
                    while len(pool) > MAX_PLANS:
                        pool.pop(next(iter(pool)))

    def __getstate__(self) -> dict[str, Any]:
        """Pickles and deep copies hold host arrays and no plans."""
        state = {k: v for k, v in vars(self).items() if k not in ("_lock", "_pool", "_recorded", "backend", "group")}
        for name in ("theta", "running", "gradient", "state", "metric_sums"):
            if state[name] is not None:
                state[name] = np.array(self.backend.to_host(state[name]))
        state["slots"] = {k: np.array(self.backend.to_host(v)) for k, v in self.slots.items()}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Unpickled on the CPU, whatever device it came from."""
        vars(self).update(state)
        self.backend, self.group, self.capture_errors = backends.get("cpu"), SINGLE_PROCESS, {}
        self._recorded, self._lock = None, threading.Lock()
        self._reset_plans()


def keyed_generator(seed: int, purpose: int) -> np.random.Generator:
    """The host's generator for one purpose: Philox keyed (seed, purpose), never a running one."""
    return np.random.Generator(np.random.Philox(key=np.array([seed, purpose], dtype=np.uint64)))


def _slot(state: Array, slot: Slot) -> Array:
    return state[int(slot) : int(slot) + 1]
