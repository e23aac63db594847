"""A plan: all buffers of a step for a number of rows, and the step as lists of launches.

Creating a plan records the step; executing it only writes into existing buffers.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..kernels import Launch
from ..kernels import get as kernel
from ..kernels.state import SIZE, StateEntry
from ..layers import Buffers
from ..recording import POLL_SECONDS, SINGLE_PROCESS, Array, BatchShard, Recorder, execute
from .state import CompiledState, RowBuffer


@dataclass(frozen=True)
class CompressedRows:
    """A matrix (n, m) on the device in CSR format.

    Row r has values[k] in column columns[k] for k = starts[r] … starts[r + 1] − 1. `values` has any real type,
    `columns` is int32, `starts` (n + 1,) int64.
    """

    values: Array
    columns: Array
    starts: Array
    shape: tuple[int, int]


Table = Any  # an array (n, m), or CompressedRows


class Plan:
    """All buffers of a step for n rows, and the step as lists of launches.

    With a process group, the n rows are this rank's `shard` of the batch, and sums over rows are all-reduced before
    they are used. The launches follow the procedure of `gpunn.theory.train_step`:

    normalize_weights  wᵢ ← wᵢ/Σw
    forward            (1), (2): x to aᴸ
    loss               (3): C, and δᴸ or ∂C/∂aᴸ
    backward           (4), (5): δ down to the first layer, gradients, penalties
    update             (6): check for non-finite values, clipping, optimizer, constraints, end of the step
    """

    def __init__(
        self,
        network: CompiledState,
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
        # the network references its plans: a cycle would delay the release of all buffers
        self._network = weakref.ref(network)
        self.n, self.training = n, training
        self.shard = BatchShard.of(n) if shard is None else shard
        self.backend = network.backend
        self.bytes = 0
        self.weighted = weighted
        self.state = network.state if update else self._new((SIZE,), np.float64)
        # a plan without update may run in parallel to others, so it has its own gradients
        self.gradient: Array = network.gradient if update else None
        if backward and not update:
            self.gradient = self._new((network.theta.shape[0],))
        self.ops = Recorder(self.backend, trace=trace, precision=network.precision, shard=self.shard)
        self.ops.register_flat(network.theta)
        self._block_program: Any = None
        self.batch_step: list[Launch] | None = None  # the whole step on the batch of `load_batch`
        self.forward_step: list[Launch] | None = None  # the compiled forward pass
        fusable = {} if trace else self._fusable_pairs()
        self.x = self._new((n, network.n_in), self._input_dtype(trace))
        self.grad_x = self._new((n, network.n_in)) if input_gradient else None
        self.layers = self._allocate(trace, backward, fusable)
        self._penalty_args: list[tuple[list[Any], int, int]] = []
        self._fused_loss = loss and network.loss.fused_with_activation
        self._record(loss, backward, update)
        self.ops.bind()
        self.bytes += self.ops.bytes
        self.slow_path_reasons = list(dict.fromkeys(self.ops.slow_path_reasons))

    def _record(self, loss: bool, backward: bool, update: bool) -> None:
        """Record the launches of the requested stages."""
        self.normalize_weights: list[Launch] = []
        self.loss: list[Launch] = []
        self.backward: list[Launch] = []
        self.update: list[Launch] = []
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

    def _input_dtype(self, trace: bool) -> Any:
        """The storage type of the batch, as the first product reads it; None for the network's dtype."""
        net = self.network
        first = next((k for k in net.layers if not k.is_identity(self.training)), None)
        return self.ops.storage_dtype(net.n_in) if not trace and first is not None and first.can_fuse_backward else None

    def _new(self, shape: tuple[int, ...], dtype: Any = None) -> Array:
        made = self.backend.zeros(shape, dtype or self.network.dtype)
        self.bytes += made.nbytes
        return made

    def _fusable_pairs(self) -> dict[int, int]:
        """The lower layer by the upper, for adjacent layers whose products can be fused.

        The upper's δ Wᵀ applies the lower's f′. Not used by `trace`, which needs ∂C/∂a and δ.
        """
        layers = self.network.layers
        indices = [k for k, layer in enumerate(layers) if not layer.is_identity(self.training)]
        return {
            upper: lower
            for lower, upper in itertools.pairwise(indices)
            if layers[lower].can_fuse_backward and layers[upper].can_fuse_backward
        }

    def _allocate(self, trace: bool, backward: bool, fusable: dict[int, int]) -> list[Buffers]:
        """The buffers of all layers. Each layer reads its predecessor's a, and writes its predecessor's ∂C/∂a."""
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
            for p in net.slices_of(index):
                setattr(t, p.parameter.name, p.of(net.theta))
                if backward:
                    setattr(t, f"d{p.parameter.name}", p.of(self.gradient))
            for name, view in net.running_stats_of(index).items():
                setattr(t, name, view)
            if layer.is_identity(self.training):
                t.z = t.a = a
            else:
                layer.allocate(t, self._new, self.n, trace)
            found.append(t)
            a = t.a
        if backward:
            self._allocate_gradients(found, trace, fusable)
        return found

    def _allocate_gradients(self, layers: list[Buffers], trace: bool, fusable: dict[int, int]) -> None:
        """Allocate ∂C/∂a and δ of all layers, last to first, and link the layers whose products are fused."""
        net = self.network
        grad = self._new((self.n, net.n_out))
        for t, layer in zip(reversed(layers), reversed(net.layers), strict=True):
            t.grad_a = grad
            # δ of a layer without activation is ∂C/∂a
            separate = trace and layer.activation.name != "identity"
            t.delta = self._new(grad.shape) if separate else grad
            if layer.is_identity(self.training):
                t.delta = t.grad_prev = grad
                if t.index == 0 and self.grad_x is not None:
                    self.grad_x = grad
            elif t.index > 0:
                dtype = layers[fusable[t.index]].storage_dtype if t.index in fusable else None
                t.grad_prev = grad = self._new((self.n, layer.n_in or 0), dtype)
            else:
                t.grad_prev = self.grad_x
        for upper, lower in fusable.items():
            layers[upper].below, layers[lower].save_aux = layers[lower], True

    @property
    def network(self) -> CompiledState:
        """The network of this plan."""
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
            if t.index == last and self._fused_loss:
                layer.forward_to_z(self.ops, t, self.training)
            else:
                layer.forward(self.ops, t, self.training)

    def _record_loss(self, backward: bool) -> None:
        """(3) C = Σ wᵢℓᵢ + penalty (E3, E9), and δᴸ, or ∂C/∂aᴸ if the last layer computes δᴸ (E4)."""
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
            ops(kernel("sum_all"), self.sample_weight, out=_entry(self.state, StateEntry.WEIGHT))
            ops.all_reduce(_entry(self.state, StateEntry.WEIGHT))
            ops(kernel("start_weighted_batch"), out=self.state, count=1)
            ops(kernel("normalize_weights"), self.sample_weight, self.state, out=self.w)
        self.normalize_weights = ops.end_section()
        t = self.layers[-1]
        grad = t.delta if t.delta is not None else self._new((n, net.n_out))
        if self._fused_loss:
            net.loss.record_fused(ops, t.z, self.y, self.w, t.a, grad, self.row_losses)
            t.delta_is_known = True
        else:
            into = t.grad_a if t.grad_a is not None else grad
            net.loss.record(ops, t.a, self.y, self.w, into, self.row_losses)
        ops(kernel("sum_all"), self.row_losses, out=_entry(self.state, StateEntry.LOSS))
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
        self.ops(kernel("sum_all"), parts, out=_entry(self.state, StateEntry.PENALTY))
        if self.network.loss_convention.after_penalty is not None:
            self.ops(kernel(self.network.loss_convention.after_penalty), out=self.state, count=1)

    def _record_backward(self) -> None:
        """(4) δˡ by E5 down to the first layer; (5) gradients by E6 and E7; λW of E9."""
        net = self.network
        bucket = self.shard.group.bucket_bytes
        in_flight: list[Launch] = []
        # weights are stored in the layers' order: those from `available` to `sent_upto` are computed and not yet sent
        sent_upto = available = sum(p.stop - p.start for p in net.slices if p.parameter.penalized)
        unpenalized = available
        for t, layer in zip(reversed(self.layers), reversed(net.layers), strict=True):
            if not layer.is_identity(self.training):
                layer.backward(self.ops, t, self.training)
            available = min([available, *(p.start for p in net.slices_of(t.index) if p.parameter.penalized)])
            if bucket is not None and (sent_upto - available) * self.gradient.itemsize >= bucket:
                in_flight += self.ops.start_all_reduce(self.gradient[available:sent_upto])
                sent_upto = available
        # all-reduce gradients, loss and metrics before the penalties, which do not depend on the rows
        numbers = (_entry(self.state, StateEntry.LOSS), self.batch_metrics)
        if bucket is None:
            self.ops.all_reduce(self.gradient, *numbers)
        else:
            in_flight += self.ops.start_all_reduce(self.gradient[:sent_upto], self.gradient[unpenalized:], *numbers)
            self.ops.wait_all_reduce(in_flight)
        penalties = net.penalties()
        for p in net.penalties(trainable_only=True):
            theta, g = net.theta[p.start : p.stop], self.gradient[p.start : p.stop]
            self.ops(kernel(net.loss_convention.penalty_gradient), theta, self.state, out=g, l2=p.l2, l1=p.l1)
            self._penalty_args += [(*self.ops.last, k) for k, q in enumerate(penalties) if q.start <= p.start < q.stop]

    def set_l2(self, values: list[float]) -> None:
        """Set λ of every penalty range, in order, in compiled launches."""
        for stage, at, k in self._penalty_args:
            stage[at].scalars[0] = values[k]

    def _record_update(self) -> None:
        """(6) gradient step by E8 or another optimizer, unless a value is not finite."""
        net, ops, state = self.network, self.ops, self.state
        rule = net.optimizer
        ops(kernel("max_abs_pair"), net.gradient, net.theta, out=_entry(state, StateEntry.MAX_ABS))
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
        """Launches that add the batch's metrics to `sums`; for plans without update."""
        return self._launches(lambda ops: self._record_sums(ops, sums))

    def advance_offset(self, kernel_name: str) -> list[Launch]:
        """The launch that advances the state's offset to the next batch: "accumulate_loss" or "advance_offset"."""
        return self._launches(lambda ops: ops(kernel(kernel_name), out=self.state, count=1, rows=self.n))

    def store_predictions(self, into: Array) -> list[Launch]:
        """The launch that stores aᴸ in `into`, from row offset on."""
        return self._launches(lambda ops: ops(kernel("store_rows"), self.output, self.state, out=into))

    def predict_in_place(self, X: Table, result: Array, start: int, stop: int) -> float | None:
        """Compute aᴸ of rows start … stop of X, whole blocks, into `result`; returns max |x|, or NaN if an x is NaN.

        X and `result` are used in place, block by block. Returns None, with nothing done, if X does not have the
        network's type and layout or the device does not support it.
        """
        supported = not isinstance(X, CompressedRows) and X.dtype == self.x.dtype == self.network.dtype
        supported = supported and X.flags.c_contiguous
        if self._block_program is None and supported:
            largest = self._new((1,), np.float64)
            max_launches = self._launches(lambda ops: ops(kernel("max_abs"), self.x, out=largest))
            program = self.backend.bind_blocks([*max_launches, *self.forward], [self.x, self.output, largest])
            # an identity network writes nothing
            self._block_program = False if program is None or self.output is self.x else program
        if self._block_program is False or not supported:
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

    def store_rows(self, buffer: RowBuffer | None) -> list[Launch]:
        """Launches that store outputs, targets and weights of the batch's rows in a buffer; none without a buffer."""
        if buffer is None:
            return []
        labels = self.network.loss.targets == "class_index"
        first = self.shard.offset

        def record(ops: Recorder) -> None:
            ops(kernel("store_rows"), self.output, self.state, out=buffer.a[first:])
            ops(kernel("store_labels" if labels else "store_rows"), self.y, self.state, out=buffer.y[first:])
            if buffer.w is not None:
                ops(kernel("store_weights"), self.sample_weight, self.state, out=buffer.w[first:])

        return self._launches(record)

    def load_batch(self, X: Table, y: Array, w: Array = None) -> None:
        """Copy one batch of device arrays into x, y and w."""
        self.state[StateEntry.OFFSET] = 0
        if isinstance(X, CompressedRows):
            execute(self.gather(X, y, w))
            return
        with np.errstate(all="ignore"):
            self.ops.copy_into(X, self.x)
            self.y[...] = y
            if w is not None:
                self.sample_weight[...] = w

    def gather(self, X: Table, y: Array = None, w: Array = None, order: Array = None) -> list[Launch]:
        """Launches that copy the batch at the state's offset from device arrays into x, y and w.

        With `order`, an int64 permutation, row i of the batch is row order[offset + i], otherwise row offset + i.
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
        for array, into in pairs:
            if isinstance(array, CompressedRows):
                stored = (array.values, array.columns, array.starts)
                with ops.accumulate_in_float32(into) as sums:
                    if order is None:
                        ops(kernel("copy_csr"), *stored, self.state, out=sums)
                    else:
                        ops(kernel("gather_csr"), *stored, order, self.state, out=sums)
                continue
            steps = {
                "row_step": array.strides[0] // array.itemsize,
                "column_step": array.strides[1] // array.itemsize,
            }
            if order is None:
                ops(kernel("copy_rows"), array, self.state, out=into, **steps)
            else:
                ops(kernel("gather"), array, order, self.state, out=into, **steps)
        self.bytes += ops.bytes
        launches = ops.end_section()
        ops.bind()
        return launches


def _entry(state: Array, entry: StateEntry) -> Array:
    return state[int(entry) : int(entry) + 1]
