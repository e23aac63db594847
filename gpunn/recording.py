"""Recording a step: the layers say once what is to be computed, and the launches they leave are run step after step.

A layer's text is imperative — ``ops.matmul(a_prev, W, out=z)`` — and runs once, when a plan is made. Each call binds
its buffers and leaves a launch, a callable without arguments. A step is that list run in order: no shapes are
checked, nothing is allocated, and nothing of it depends on Python beyond the loop over the list.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

from .backend import Backend
from .kernels import Kernel, Launch, bind_all
from .kernels import get as kernel

Array = Any
POLL_SECONDS = 0.1  # seconds that compiled code runs at most before Python looks again


class Group(Protocol):
    """The processes that take a step together, each with a part of the batch's rows.

    rank, size               this process's number, counted from 0, and how many there are
    synchronized_batch_norm  whether a batch's mean and variance are over the rows of all of them
    bucket_bytes             how many bytes of gradients are sent as soon as they are there; None sends them all at once
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
        """The launches of `bind_all_reduce` in two halves: the first sends the arrays, after the second they are sums.
        In between, no launch may use them."""

    def bind_all_reduce(self, arrays: Sequence[Array]) -> list[Launch]:
        """Launches after which each array holds the sum of those of all processes, the same bits on every one."""

    def allgather(self, where: str, value: Any) -> list[Any]:
        """What every process brings, in their order; each must come. The error of one is raised on all."""

    def check_agreement(self, where: str, facts: Callable[[], dict[str, Any]]) -> None:
        """ValueError on every process that names the first of the facts that differs, and on whom."""

    def collective(self) -> AbstractContextManager[None]:
        """A call that all processes make: what the body raises on one, all hear of."""

    def backend(self, backend: Backend, asked: Any) -> Backend:
        """The device of this process, where all asked for that one."""

    def set_device(self, backend: Backend) -> None:
        """Add up arrays of that device from now on."""


class SingleProcess:
    """One process, which has all rows: nobody to add to, to tell or to disagree with."""

    rank, size, synchronized_batch_norm, bucket_bytes = 0, 1, False, None

    def bind_async_all_reduce(self, arrays: Sequence[Array]) -> tuple[list[Launch], list[Launch]]:
        return [], []

    def bind_all_reduce(self, arrays: Sequence[Array]) -> list[Launch]:
        return []

    def allgather(self, where: str, value: Any) -> list[Any]:
        return [value]

    def check_agreement(self, where: str, facts: Callable[[], dict[str, Any]]) -> None:
        """Nobody to disagree with."""

    def collective(self) -> AbstractContextManager[None]:
        return contextlib.nullcontext()

    def backend(self, backend: Backend, asked: Any) -> Backend:
        return backend

    def set_device(self, backend: Backend) -> None:
        """Nothing to add."""


SINGLE_PROCESS = SingleProcess()


def shard_bounds(rows: int, rank: int, size: int) -> tuple[int, int]:
    """(first, count) of the rows that are a process's of so many: parts in a row that differ by at most one."""
    each, more = divmod(rows, size)
    return rank * each + min(rank, more), each + (rank < more)


@dataclass(frozen=True)
class BatchShard:
    """A process's part of a batch: n of its rows, from row `offset` on, of `rows` that the group has together."""

    rows: int
    offset: int
    n: int
    group: Group

    @classmethod
    def of(cls, rows: int, group: Group = SINGLE_PROCESS) -> BatchShard:
        """This process's part of so many rows; all of them, unless there is a group."""
        return cls(rows, *shard_bounds(rows, group.rank, group.size), group)


class Recorder:
    """What a layer writes to.

    trace      asks layers to keep z and δ apart from a and ∂C/∂a, for `trace`
    precision  of the products: None for the arrays' own, else "tf32" or "bf16"
    shard      the part of a batch whose rows other processes have too
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
        self._roundings: list[tuple[list[Any], int]] = []  # of all of it
        self.slow_path_reasons: list[str] = []
        self.bytes = 0
        self._stages: list[list[Any]] = [[]]

    def __call__(self, kernel: Kernel, *inputs: Array, out: Any, count: Any = None, **scalars: float) -> None:
        """Record out = kernel(inputs)."""
        self._stages[-1].append((kernel, inputs, out, count, scalars))
        self._operands.invalidate(*(out if isinstance(out, tuple) else (out,)))

    @property
    def last(self) -> tuple[list[Any], int]:
        """Where the launch that was recorded last will stand."""
        return self._stages[-1], len(self._stages[-1]) - 1

    def new(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """Scratch for what is being recorded; it counts among the plan's bytes."""
        made = self.backend.empty(shape, dtype)
        self.bytes += made.nbytes
        return made

    def storage_dtype(self, columns: int) -> Any:
        """The type of a matrix that products alone read and write; None for the network's."""
        return self._operands.storage_dtype(columns)

    def register_flat(self, flat: Array) -> None:
        """Vectors and matrices within `flat` are read often, and written together."""
        self._operands.register_flat(flat)
        self._flat = flat

    def bf16_view(self, part: Array) -> Array:
        """The bfloat16 copy of a part of the registered buffer, for its writer; None if products read the part."""
        return self._operands.bf16_view(part)

    def mark_current(self) -> None:
        """What `bf16_view` gave was written as the part was."""
        self._operands.mark_current()

    def matmul(self, a: Array, b: Array, out: Array) -> None:
        """Record out = a b."""
        a, b = self._read(a), self._read(b)
        self._launch(self.backend.bind_matmul(a, b, out, self.precision), out)

    @contextlib.contextmanager
    def accumulate_in_float32(self, into: Array) -> Iterator[Array]:
        """Where what `into` is to be is added up: `into`, or an array that is rounded to it after."""
        before = self._operands.bytes
        sums, rounding = self._operands.accumulate_in_float32(into)
        self.bytes += self._operands.bytes - before
        yield sums
        self._stages[-1] += rounding

    def copy_into(self, x: Array, into: Array) -> None:
        """At once: into ← x, cast to whatever `storage_dtype` gave."""
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
        """Record z = a W + b where this device does so in one launch, and out = f(z) with it where it can; which of
        them was recorded, z or a, or "" where nothing was, and what f′ can be had from in `dgrad_epilogue`. The
        flags `nan_checked` and `save_aux` are those of `Backend.bind_affine`."""
        a, W, b = self._read(a), self._read(W), self._read(b, beside=z)
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
        """Record out = f′(z) ⊙ (δ Wᵀ), and its sums over rows where `sums` is there, where this device does so in one
        launch, and whether it was. `aux` is what `forward_epilogue` gave."""
        delta, W_T = self._read(delta), self._read(W_T)
        launch = self.backend.bind_dgrad(delta, W_T, out, f, aux, sums, self.precision)
        if launch is not None:
            self._launch(launch, out, *([] if sums is None else [sums]))
        return launch is not None

    def wgrad_epilogue(self, a: Array, b: Array, out: Array, sums: Array) -> bool:
        """Record out = a b and b's sums over rows where this device does so in one launch, and whether it was."""
        a, b = self._read(a), self._read(b)
        launch = self.backend.bind_wgrad_with_bias_grad(a, b, out, sums, self.precision)
        if launch is not None:
            self._launch(launch, out, sums)
        return launch is not None

    def _read(self, a: Array, beside: Array = None) -> Array:
        """What a product reads in the place of `a`, recorded if it has to be made; of a vector `beside` its result."""
        before = self._operands.bytes
        read, made = self._operands.operand(a) if beside is None else self._operands.bias_operand(a, beside)
        stage = self._stages[-1]
        self._roundings += [(stage, len(stage)) for _, (x, *_), *_ in made if x is self._flat]
        stage += made
        self.bytes += self._operands.bytes - before
        return read

    def _launch(self, launch: Callable[[], Any], *written: Array) -> None:
        self._stages[-1].append(launch)
        self._operands.invalidate(*written)

    def fused_column_sum(self, kernel: Kernel, *inputs: Array, out: Array, sums: Array, **scalars: float) -> bool:
        """Record out = kernel(inputs) and sums = Σ over the rows of `out` where this device does both in one pass;
        whether it did."""
        launch = kernel.bind_with_column_sums(*inputs, out=out, sums=sums, **scalars)
        if launch is not None:
            self._launch(launch, out, sums)
        return launch is not None

    def copy(self, a: Array, out: Array) -> None:
        """Record out = a."""
        self(kernel("identity"), a, out=out)

    # --- over the processes that share a batch ---

    def all_reduce(self, *arrays: Array) -> None:
        """Record that each array becomes the sum of those of all processes; alone it is that already."""
        self._stages[-1] += self.shard.group.bind_all_reduce(arrays)
        self._operands.invalidate(*arrays)

    def start_all_reduce(self, *arrays: Array) -> list[Launch]:
        """Record that the arrays are sent off to be summed over the processes. No launch may use them
        until `wait_all_reduce` is called with the result."""
        begin, finish = self.shard.group.bind_async_all_reduce(arrays)
        self._stages[-1] += begin
        return finish

    def wait_all_reduce(self, begun: Iterable[Launch]) -> None:
        """Record that what was sent off comes back."""
        self._stages[-1] += begun
        self._operands.invalidate_all()

    def broadcast_first_row(self, table: Array) -> Array:
        """Row 0 of the batch, of the table (n, m) that holds this process's rows of it."""
        if self.shard.group.size == 1:
            return table[0]
        if id(table) not in self._first_rows:
            row = self.new((1, table.shape[1]), table.dtype)
            theirs = self.backend.zeros(row.shape, table.dtype)
            self.copy(table[:1] if self.shard.offset == 0 else theirs, out=row)
            self.all_reduce(row)
            self._first_rows[id(table)] = row[0]
        return self._first_rows[id(table)]

    def batch_norm_count(self, n: int) -> int:
        """How many rows a batch's mean and variance are over: those of all processes where that is asked, else n."""
        return self.shard.rows if self.shard.group.synchronized_batch_norm else n

    def all_reduce_if_synced(self, *arrays: Array) -> None:
        """Record the sum over the processes whose rows a batch's mean and variance are over."""
        if self.shard.group.synchronized_batch_norm:
            self.all_reduce(*arrays)

    def synced_sums(self, mine: Sequence[Array], into: Sequence[Array]) -> Sequence[Array]:
        """Sums over the rows that are normalised together, of this process's sums, which stay as they are."""
        if not self.shard.group.synchronized_batch_norm:
            return mine
        for a, out in zip(mine, into, strict=True):
            self.copy(a, out=out)
        self.all_reduce(*into)
        return into

    def call_python(self, function: Callable[..., Any], *arguments: Any, reason: str) -> None:
        """Record a call of a Python function on the plan's arrays, which it writes in place.

        Such a step runs eagerly: `reason` says what leaves the fast path, and `summary` repeats it.
        """
        self._stages[-1].append(lambda: function(*arguments))
        self._operands.invalidate_all()
        self.slow_path_reasons.append(reason)

    def end_section(self) -> list[Launch]:
        """The list of what was recorded since the last call; its launches can run after `bind`."""
        stage = self._stages[-1]
        self._stages.append([])
        return stage

    def bind(self) -> None:
        """Bind every kernel recorded so far, in the lists that `end_section` gave out; texts compile side by side."""
        places = [(stage, k) for stage in self._stages for k, item in enumerate(stage) if isinstance(item, tuple)]
        for (stage, k), launch in zip(places, bind_all(stage[k] for stage, k in places), strict=True):
            stage[k] = launch
        if len(self._roundings) == 1 and self._operands.flat_is_current():
            ((stage, k),) = self._roundings
            stage[k].first_step_only = True


def execute(launches: Iterable[Launch]) -> None:
    """Run recorded launches in order. Whether numbers stay finite is the flag's to judge, not NumPy's warnings'."""
    with np.errstate(all="ignore"):
        for launch in launches:
            launch()


def is_executable(launches: list[Any]) -> bool:
    """Whether one launch does it all, and may do so again and again by itself."""
    return len(launches) == 1 and hasattr(launches[0], "repeat")


def run_steps(launches: list[Any], times: int, state: Array, *, seconds: float, **rates: Any) -> int:
    """Run the same launches again and again; how many times it was: fewer where `seconds` are over or a step was bad.

    `rates` are the learning rates that a `CompiledProgram` takes. Launches that are not one walk run once.
    """
    if times > 1 and is_executable(launches):
        return int(launches[0].repeat(times, state, seconds=seconds, **rates))
    execute(launches)
    return 1


def run_all(launches: list[Any], times: int, state: Array) -> None:
    """Run the same launches so many times; now and then Python looks whether somebody interrupts."""
    while times > 0:
        times -= run_steps(launches, times, state, seconds=POLL_SECONDS)
