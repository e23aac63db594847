"""Recording of a step: layers describe the computation once, and the recorded launches run step after step.

A layer's code is imperative, ``ops.matmul(a_prev, W, out=z)``, and runs once, when a plan is created. Each call binds
its buffers and records a launch, a callable without arguments. A step executes the launches in order: no shape is
checked and nothing is allocated.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

from .backend import Backend
from .kernels import Kernel, Launch, all_kernels, bind_all
from .kernels import get as kernel

Array = Any
POLL_SECONDS = 0.1  # maximum time of compiled code between two returns to Python


class ProcessGroup(Protocol):
    """The processes that take steps together, each with a shard of the rows of a batch.

    rank, size               number of this process, from 0, and number of processes
    synchronized_batch_norm  True if batch statistics are computed over the rows of all processes
    bucket_bytes             all-reduce gradients in buckets of this size during the backward pass; None: once, after it
    """

    @property
    def rank(self) -> int: ...

    @property
    def size(self) -> int: ...

    @property
    def synchronized_batch_norm(self) -> bool: ...

    @property
    def bucket_bytes(self) -> int | None: ...

    def bind_async_all_reduce(self, arrays: Sequence[Array]) -> tuple[list[Launch], list[Launch]]:
        """The launches of `bind_all_reduce` in two halves.

        The first half sends the arrays, after the second they are sums. In between, no launch may use them.
        """

    def bind_all_reduce(self, arrays: Sequence[Array]) -> list[Launch]:
        """Launches after which each array holds its sum over all processes, with the same bits on every rank."""

    def allgather(self, where: str, value: Any) -> list[Any]:
        """The values of all processes, by rank. An error of one process is raised on all."""

    def check_agreement(self, where: str, facts: Callable[[], dict[str, Any]]) -> None:
        """Raise ValueError on every process that names the first fact that differs, and the ranks."""

    def collective(self) -> AbstractContextManager[None]:
        """Enter a call that all processes make: an error on one rank is raised on all."""

    def backend(self, backend: Backend, requested: Any) -> Backend:
        """The device of this process: one GPU per process if no number was requested. DeviceError if the machine has
        fewer GPUs."""

    def set_device(self, backend: Backend) -> None:
        """Set the device whose arrays are all-reduced."""


class SingleProcess:
    """A process group of one process."""

    rank, size, synchronized_batch_norm, bucket_bytes = 0, 1, False, None

    def bind_async_all_reduce(self, arrays: Sequence[Array]) -> tuple[list[Launch], list[Launch]]:
        return [], []

    def bind_all_reduce(self, arrays: Sequence[Array]) -> list[Launch]:
        return []

    def allgather(self, where: str, value: Any) -> list[Any]:
        return [value]

    def check_agreement(self, where: str, facts: Callable[[], dict[str, Any]]) -> None:
        """Do nothing: one process agrees."""

    def collective(self) -> AbstractContextManager[None]:
        return contextlib.nullcontext()

    def backend(self, backend: Backend, requested: Any) -> Backend:
        return backend

    def set_device(self, backend: Backend) -> None:
        """Do nothing: there is nothing to reduce."""


SINGLE_PROCESS = SingleProcess()


def shard_bounds(rows: int, rank: int, size: int) -> tuple[int, int]:
    """(first row, number of rows) of a rank's shard; the sizes of consecutive shards differ by at most one."""
    each, more = divmod(rows, size)
    return rank * each + min(rank, more), each + (rank < more)


@dataclass(frozen=True)
class BatchShard:
    """A rank's shard of a batch: n rows from row `offset` on, of `rows` rows in total."""

    rows: int
    offset: int
    n: int
    group: ProcessGroup

    @classmethod
    def of(cls, rows: int, group: ProcessGroup = SINGLE_PROCESS) -> BatchShard:
        """This rank's shard; all rows without a process group."""
        return cls(rows, *shard_bounds(rows, group.rank, group.size), group)


class Recorder:
    """The interface that layers, losses and optimizers record with.

    trace      request z and δ in buffers of their own, not shared with a and ∂C/∂a
    precision  of matrix products: None for the arrays' type, else "tf32" or "bf16"
    shard      this rank's rows of the batch
    """

    def __init__(
        self,
        backend: Backend,
        *,
        trace: bool = False,
        precision: str | None = None,
        shard: BatchShard | None = None,
    ) -> None:
        self.backend = backend
        self.trace = trace
        self.precision = precision
        self._operands = backend.operands(precision)
        self.shard = BatchShard.of(0) if shard is None else shard
        self._first_rows: dict[int, Array] = {}
        self._flat: Array = None
        self._roundings: list[tuple[list[Any], int]] = []  # conversions of the whole flat buffer
        self.slow_path_reasons: list[str] = []
        self.bytes = 0
        self._stages: list[list[Any]] = [[]]

    def __call__(self, kernel: Kernel, *inputs: Array, out: Any, count: Any = None, **scalars: float) -> None:
        """Record out = kernel(inputs)."""
        self._stages[-1].append((kernel, inputs, out, count, scalars))
        self._operands.invalidate(*(out if isinstance(out, tuple) else (out,)))

    @property
    def last(self) -> tuple[list[Any], int]:
        """The list and the index of the launch that was recorded last."""
        return self._stages[-1], len(self._stages[-1]) - 1

    def new(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """A scratch buffer; it counts among the plan's bytes."""
        made = self.backend.empty(shape, dtype)
        self.bytes += made.nbytes
        return made

    def storage_dtype(self, columns: int) -> Any:
        """The storage type of a matrix that only products read and write; None for the network's type."""
        return self._operands.storage_dtype(columns)

    def register_flat(self, flat: Array) -> None:
        """Register a flat buffer whose parts are read often and written together."""
        self._operands.register_flat(flat)
        self._flat = flat

    def bf16_copy(self, part: Array) -> Array:
        """The bfloat16 copy of a part of the registered buffer, for its writer; None if products read the part."""
        return self._operands.bf16_copy(part)

    def mark_current(self) -> None:
        """Declare that the copy of `bf16_copy` was written with the part."""
        self._operands.mark_current()

    def matmul(self, a: Array, b: Array, out: Array) -> None:
        """Record out = a b."""
        a, b = self._read(a), self._read(b)
        self._launch(self.backend.bind_matmul(a, b, out, self.precision), out)

    @contextlib.contextmanager
    def accumulate_in_float32(self, into: Array) -> Iterator[Array]:
        """The buffer in which a sum for `into` is computed: `into`, or a float32 buffer that is rounded to it."""
        before = self._operands.bytes
        sums, rounding = self._operands.accumulate_in_float32(into)
        self.bytes += self._operands.bytes - before
        yield sums
        self._stages[-1] += rounding

    def copy_into(self, x: Array, into: Array) -> None:
        """Copy x into a buffer now, converted to the type of `storage_dtype`."""
        self._operands.copy_into(x, into)

    def forward_epilogue(
        self,
        a: Array,
        W: Array,
        b: Array,
        z: Array,
        out: Array,
        f: str,
        *,
        nan_checked: bool = False,
        save_aux: bool = False,
    ) -> tuple[Literal["", "z", "a"], Array]:
        """Record z = a W + b in one launch if the device can, and out = f(z) with it if possible.

        Returns "z" or "a" for what was recorded, "" for nothing, and the buffer from which `dgrad_epilogue` computes
        f′. `nan_checked` and `save_aux` are passed to `Backend.bind_affine`.
        """
        a, W, b = self._read(a), self._read(W), self._read(b, bias_of=z)
        found = self.backend.bind_affine(
            a, W, b, z, out, f, nan_checked=nan_checked, save_aux=save_aux, precision=self.precision
        )
        if found is None:
            return "", None
        self._launch(found.launch, z, out)
        if found.aux is not None and found.aux is not z:
            self.bytes += found.aux.nbytes
        return found.result, found.aux

    def dgrad_epilogue(self, delta: Array, W_T: Array, out: Array, f: str, aux: Array, sums: Array = None) -> bool:
        """Record out = f′(z) ⊙ (δ Wᵀ), and its sums over rows in `sums`, in one launch; True if the device can.

        `aux` is the buffer that `forward_epilogue` returned.
        """
        delta, W_T = self._read(delta), self._read(W_T)
        launch = self.backend.bind_dgrad(delta, W_T, out, f, aux, sums, self.precision)
        if launch is not None:
            self._launch(launch, out, *([] if sums is None else [sums]))
        return launch is not None

    def wgrad_epilogue(self, a: Array, b: Array, out: Array, sums: Array) -> bool:
        """Record out = a b and the sums of b over rows in one launch; True if the device can."""
        a, b = self._read(a), self._read(b)
        launch = self.backend.bind_wgrad_with_bias_grad(a, b, out, sums, self.precision)
        if launch is not None:
            self._launch(launch, out, sums)
        return launch is not None

    def _read(self, a: Array, bias_of: Array = None) -> Array:
        """The array that a product reads instead of `a`, or of the bias `a` of `bias_of`; record its conversion."""
        before = self._operands.bytes
        read, made = self._operands.operand(a) if bias_of is None else self._operands.bias_operand(a, bias_of)
        stage = self._stages[-1]
        self._roundings += [(stage, len(stage)) for _, (x, *_), *_ in made if x is self._flat]
        stage += made
        self.bytes += self._operands.bytes - before
        return read

    def _launch(self, launch: Callable[[], Any], *written: Array) -> None:
        self._stages[-1].append(launch)
        self._operands.invalidate(*written)

    def fused_column_sum(self, kernel: Kernel, *inputs: Array, out: Array, sums: Array, **scalars: float) -> bool:
        """Record out = kernel(inputs) and sums = Σ over the rows of `out` in one pass; True if the device can."""
        name = f"{kernel.name}_summed"
        found = [] if isinstance(out, np.ndarray) else [k for k in all_kernels() if k.name == name]
        for fused in found:
            self._launch(fused.bind(*inputs, out=(out, sums), count=None, **scalars), out, sums)
        return bool(found)

    def copy(self, a: Array, out: Array) -> None:
        """Record out = a."""
        self(kernel("identity"), a, out=out)

    # --- collectives ---

    def all_reduce(self, *arrays: Array) -> None:
        """Record that each array becomes its sum over all processes; a no-op in a single process."""
        self._stages[-1] += self.shard.group.bind_all_reduce(arrays)
        self._operands.invalidate(*arrays)

    def start_all_reduce(self, *arrays: Array) -> list[Launch]:
        """Record the start of an all-reduce. No launch may use the arrays until `wait_all_reduce` of the result."""
        start, wait = self.shard.group.bind_async_all_reduce(arrays)
        self._stages[-1] += start
        return wait

    def wait_all_reduce(self, started: Iterable[Launch]) -> None:
        """Record the end of all-reduces."""
        self._stages[-1] += started
        self._operands.invalidate_all()

    def broadcast_first_row(self, table: Array) -> Array:
        """Row 0 of the batch, from a table (n, m) of this rank's rows."""
        if self.shard.group.size == 1:
            return table[0]
        if id(table) not in self._first_rows:
            row = self.new((1, table.shape[1]), table.dtype)
            zeros = self.backend.zeros(row.shape, table.dtype)
            self.copy(table[:1] if self.shard.offset == 0 else zeros, out=row)
            self.all_reduce(row)
            self._first_rows[id(table)] = row[0]
        return self._first_rows[id(table)]

    def batch_norm_count(self, n: int) -> int:
        """The number of rows of batch statistics: of all processes if they are synchronized, else n."""
        return self.shard.rows if self.shard.group.synchronized_batch_norm else n

    def all_reduce_if_synced(self, *arrays: Array) -> None:
        """Record an all-reduce if batch statistics are synchronized."""
        if self.shard.group.synchronized_batch_norm:
            self.all_reduce(*arrays)

    def synced_sums(self, local_sums: Sequence[Array], into: Sequence[Array]) -> Sequence[Array]:
        """The sums over the rows of the batch statistics; `local_sums` is not changed."""
        if not self.shard.group.synchronized_batch_norm:
            return local_sums
        for a, out in zip(local_sums, into, strict=True):
            self.copy(a, out=out)
        self.all_reduce(*into)
        return into

    def call_python(self, function: Callable[..., Any], *arguments: Any, reason: str) -> None:
        """Record a call of a Python function on the plan's arrays, which it writes in place.

        The step then leaves the fast path; `summary` shows the `reason`.
        """
        self._stages[-1].append(lambda: function(*arguments))
        self._operands.invalidate_all()
        self.slow_path_reasons.append(reason)

    def end_section(self) -> list[Launch]:
        """End the section: the list of what was recorded since the last call. Its launches run after `bind`."""
        stage = self._stages[-1]
        self._stages.append([])
        return stage

    def bind(self) -> None:
        """Bind all kernels recorded so far, in the lists of `end_section`; their sources are compiled in parallel."""
        positions = [(stage, k) for stage in self._stages for k, item in enumerate(stage) if isinstance(item, tuple)]
        for (stage, k), launch in zip(positions, bind_all(stage[k] for stage, k in positions), strict=True):
            stage[k] = launch
        if len(self._roundings) == 1 and self._operands.flat_is_current():
            ((stage, k),) = self._roundings
            stage[k].first_step_only = True


def execute(launches: Iterable[Launch]) -> None:
    """Execute launches in order. NumPy's floating-point warnings are off: the non-finite check reports instead."""
    with np.errstate(all="ignore"):
        for launch in launches:
            launch()


def is_executable(launches: list[Any]) -> bool:
    """True if the launches are one executable, which can run many steps."""
    return len(launches) == 1 and hasattr(launches[0], "repeat")


def run_steps(launches: list[Any], times: int, state: Array, *, seconds: float, **rates: Any) -> int:
    """Run the launches repeatedly and return how often, fewer times after `seconds` or a step that is not finite.

    `rates` are the learning rates of the steps. Launches that are not an executable run once.
    """
    if times > 1 and is_executable(launches):
        return int(launches[0].repeat(times, state, seconds=seconds, **rates))
    execute(launches)
    return 1


def run_all(launches: list[Any], times: int, state: Array) -> None:
    """Run the launches `times` times, with regular returns to Python for interrupts."""
    while times > 0:
        times -= run_steps(launches, times, state, seconds=POLL_SECONDS)
