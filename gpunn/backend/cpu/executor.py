"""Compiled execution of recorded steps on a CPU, the counterpart of a CUDA graph on a GPU.

A recorded step is a list of launches. If all of them are compiled, the executor runs the list, step after step, without
Python in between. Several threads share each step: every launch is divided into ranges of rows or elements, one per
thread. The threads wait at a barrier only where one reads what another has written. The partition depends on the sizes
and the number of threads only, so equal thread counts give equal results, bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from ctypes import Structure, addressof, byref, c_double, c_longlong, c_ulonglong, c_void_p
from itertools import pairwise
from typing import Any, cast

import numpy as np

from ...kernels._compiler.compiled_launch import CompiledLaunch, ThreadTask, address_of, byte_range
from ...kernels.state import SIZE, StateEntry
from ...program.ranges import Access, Range, Tracker
from ..executor import POLL_SECONDS, Executor, Launch, group_runs, position
from . import blas, native

MIN_NS_PER_THREAD = 12_000.0  # estimated work for which one more thread pays off
MAX_THREADS = 256

_NO_STATE = np.zeros(SIZE)


class _Task(Structure):
    _fields_ = [(name, c_void_p) for name in ("run", "pointers", "sizes", "scalars")]


class _Phase(Structure):
    _fields_ = [("tasks", c_void_p), ("counts", c_void_p), ("threads", c_longlong), ("times", c_longlong)]


class _PointerStep(Structure):
    _fields_ = [("address", c_void_p), ("bytes", c_longlong)]


class _Cycle(Structure):
    _fields_ = [
        ("phases", c_void_p),
        ("count", c_longlong),
        ("end", c_void_p),
        ("state", c_void_p),
        ("step_index", c_longlong),
        ("rate_index", c_longlong),
        ("nonfinite_index", c_longlong),
        ("flush", c_longlong),
        ("phase", c_longlong),
        ("iteration", c_longlong),
    ]


class _Tasks:
    """The tasks of one phase for all threads, in C. `pointers` collects the addresses of their arrays."""

    def __init__(self, launches: Sequence[CompiledLaunch], threads: int | None, pointers: list[int]) -> None:
        if threads is None:
            threads = thread_count_for(sum(launch.estimated_ns for launch in launches))
        self.lists = [list(launches)] if threads == 1 else partition(launches, threads)
        tasks = [launch for each in self.lists for launch in each if launch is not None]
        self._launches = {*launches, *tasks}
        self._first = len(pointers)
        for launch in tasks:
            pointers += [address or 0 for address in launch.pointers]

    def phase(self, table: int) -> _Phase:
        """The phase, whose pointers begin at the address `table`."""
        at, arrays = table + 8 * self._first, []
        for each in self.lists:
            tasks = (_Task * max(1, len(each)))()
            for k, launch in enumerate(each):
                if launch is not None:
                    run, _, sizes, scalars = launch.node
                    tasks[k] = _Task(run, at, sizes, scalars)
                    at += 8 * len(launch.pointers)
            arrays.append(tasks)
        self._arrays = arrays
        self._tasks = (c_void_p * len(arrays))(*map(addressof, arrays))
        self._counts = (c_longlong * len(arrays))(*map(len, self.lists))
        return _Phase(addressof(self._tasks), addressof(self._counts), len(arrays), 1)

    def release(self, ranges: Sequence[Range]) -> None:
        """Drop the references to arrays in these ranges of addresses, which are not the launches' own."""
        for launch in self._launches:
            launch.arrays = [a for a in launch.arrays if not _within(byte_range(a), ranges)]


class CompiledExecutor(Executor):
    """Phases of compiled launches, which run without Python in between.

    Parameters
    ----------
    phases, state, end
        As in `Executor`.
    flush : bool
        Treat subnormal numbers as 0 while it runs, as a GPU does.
    arrays : mapping of str to array
        Arrays that `rebind` and `run_blocks` may exchange. The executor keeps no reference to them.
    threads : int, optional
        Number of threads; None derives it from the estimated work.
    """

    def __init__(
        self,
        phases: Sequence[Sequence[CompiledLaunch]],
        state: np.ndarray,
        end: Sequence[CompiledLaunch] = (),
        *,
        flush: bool = False,
        arrays: Mapping[str, np.ndarray] | None = None,
        threads: int | None = None,
    ) -> None:
        library = native.executor_library()
        assert library is not None
        self._run_cycle = library.run_cycle
        pointers: list[int] = []
        self._tasks = [_Tasks(launches, threads, pointers) for launches in phases]
        self._end = _Tasks(end, 1, pointers) if end else None
        self._table = np.array(pointers, np.uint64)
        table = address_of(self._table)
        self._phases = (_Phase * len(phases))(*(tasks.phase(table) for tasks in self._tasks))
        self._end_phase = None if self._end is None else self._end.phase(table)
        self.threads = max(phase.threads for phase in self._phases)
        self._index(arrays or {}, pointers)
        self._bound["state"] = address_of(state)
        self._cycle = _Cycle(
            addressof(self._phases),
            len(self._phases),
            None if self._end_phase is None else addressof(self._end_phase),
            self._bound["state"],
            *(int(entry) for entry in (StateEntry.STEP, StateEntry.LR, StateEntry.NONFINITE_STEP)),
            flush,
        )
        self._pointer = byref(self._cycle)
        self._once = (self._pointer, 1, None, 0, None, 0, 0.0)

    def _index(self, arrays: Mapping[str, np.ndarray], pointers: Sequence[int]) -> None:
        """Find the addresses that point into arrays."""
        self.rebindable = not _overlap(arrays.values())
        self._first_ranges = [byte_range(array) for array in arrays.values()]
        self._words = (c_ulonglong * len(pointers)).from_buffer(self._table.data)
        self._places: dict[str, list[tuple[int, int]]] = {}  # where an array's addresses are, and their offsets in it
        self._sizes: dict[str, int] = {}
        self._bound: dict[str, int] = {}
        for name, array in arrays.items():
            low, high = byte_range(array)
            first = address_of(array)  # of element 0; a negative stride has lower addresses
            self._places[name] = [(k, address - first) for k, address in enumerate(pointers) if low <= address < high]
            self._bound[name] = first
            self._sizes[name] = array.nbytes
        self._moves: dict[tuple[str, ...], Any] = {}  # for `run_blocks`, by the names of the arrays

    def set_times(self, times: Sequence[int], done: int = 0) -> None:
        for phase, count in zip(self._phases, times, strict=True):
            phase.times = count
        self._cycle.phase, self._cycle.iteration = position(times, done)

    def release(self) -> None:
        if not self._first_ranges:
            return  # `rebind` stores addresses only
        for tasks in (*self._tasks, *([] if self._end is None else [self._end])):
            tasks.release(self._first_ranges)
        self._first_ranges = []

    def __call__(self) -> None:
        """Run one step."""
        self._run_cycle(*self._once)

    def run(self, steps: int = 1, *, deadline: float = math.inf, learning_rates: np.ndarray | None = None) -> int:
        if steps == 1 and learning_rates is None:
            self._run_cycle(*self._once)
            return 1
        rates, first = None, 0
        if learning_rates is not None:
            if (
                learning_rates.dtype != np.float64
                or not learning_rates.flags.c_contiguous
                or len(learning_rates) < steps
            ):
                raise ValueError(f"learning_rates must be {steps} contiguous float64 numbers")
            rates = c_void_p(learning_rates.ctypes.data)
            first = int(c_double.from_address(self._cycle.state + 8 * int(StateEntry.STEP)).value)
        done: int = self._run_cycle(self._pointer, steps, rates, first, None, 0, deadline)
        return done

    def rebind(self, arrays: Mapping[str, np.ndarray]) -> None:
        for name, array in arrays.items():
            self._move(name, address_of(array))

    def _move(self, name: str, address: int) -> None:
        """Use the array of a name at another address."""
        if self._bound[name] != address:
            for k, offset in self._places[name]:
                self._words[k] = address + offset
            self._bound[name] = address
            if name == "state":
                self._cycle.state = address

    def run_blocks(self, steps: int, arrays: Mapping[str, np.ndarray]) -> bool:
        names = tuple(arrays)
        if not all(self._places[name] for name in names):
            return False
        for name, array in arrays.items():
            if array.nbytes < steps * self._sizes[name]:
                raise ValueError(
                    f"{name} must have {steps} blocks of {self._sizes[name]} bytes, got {array.nbytes} bytes"
                )
        before = [self._bound[name] for name in names]
        for name, array in arrays.items():
            self._move(name, address_of(array))
        moves = self._moves.get(names)
        if moves is None:
            table = address_of(self._table)
            each = [_PointerStep(table + 8 * k, self._sizes[name]) for name in names for k, _ in self._places[name]]
            moves = self._moves[names] = (_PointerStep * len(each))(*each)
        left = steps
        while left > 0:  # Python checks for interrupts in between
            left -= self._run_cycle(self._pointer, left, None, 0, moves, len(moves), POLL_SECONDS)
        for name, address in zip(names, before, strict=True):
            self._bound[name] = 0  # the addresses have moved
            self._move(name, address)
        return True


def time_launch(launch: CompiledLaunch, times: int) -> float:
    """Run a launch `times` times in compiled code, on this thread, and return the seconds that this took."""
    library = native.executor_library()
    assert library is not None
    found: float = library.time_task(byref(_Task(*launch.node)), times, False)
    return found


def _within(found: Range, ranges: Sequence[Range]) -> bool:
    """True if a range of addresses is a part of one of the ranges."""
    return any(low <= found[0] and found[1] <= high for low, high in ranges)


def _overlap(arrays: Iterable[np.ndarray]) -> bool:
    """True if an address is in two of the arrays, so that it could not be exchanged."""
    ranges = sorted(byte_range(array) for array in arrays if array.size)
    return any(before[1] > after[0] for before, after in pairwise(ranges))


def thread_count_for(work: float) -> int:
    """The number of threads that pay off for `work` nanoseconds."""
    if work < 2 * MIN_NS_PER_THREAD:
        return 1
    return min(maximum_threads(), int(work / MIN_NS_PER_THREAD))


def maximum_threads() -> int:
    """The number of threads of the largest step."""
    return min(blas.thread_count(), MAX_THREADS)


def partition(launches: Iterable[CompiledLaunch], threads: int) -> list[list[CompiledLaunch | None]]:
    """Each thread's launches in order; None is a barrier for all threads.

    A barrier precedes a launch if one of its threads reads what another has written since the last barrier, or writes
    what another has read or written.
    """
    lists: list[list[CompiledLaunch | None]] = [[] for _ in range(threads)]
    tracker = Tracker()  # the accesses since the last barrier, by thread

    def add_tasks(tasks: list[ThreadTask]) -> None:
        nonlocal tracker
        accesses = [(_bytes(task.reads), _bytes(task.writes)) for task in tasks]
        if any(tracker.find(*each) - {thread} for thread, each in enumerate(accesses)):
            tracker = Tracker()
            for each in lists:
                each.append(None)
        for thread, task in enumerate(tasks):
            lists[thread].append(task.launch)
            tracker.record(thread, *accesses[thread])

    for launch in launches:
        split = launch.partition(threads)
        add_tasks(split.tasks)
        if split.combine is not None:
            add_tasks(split.combine.partition(1).tasks)
    return lists


def _bytes(ranges: Iterable[Range]) -> list[Access]:
    """Byte ranges of the process's memory, for a tracker."""
    return [("", start, end) for start, end in ranges]


def compile_launches(launches: Sequence[Launch], *, flush: bool = False) -> list[Launch]:
    """The same launches, with each run of compiled ones as one launch."""
    if native.executor_library() is None:
        return list(launches)
    return group_runs(launches, CompiledLaunch, lambda each: [CompiledExecutor([each], _NO_STATE, flush=flush)])


def build_executor(
    phases: Sequence[Sequence[Launch]],
    state: np.ndarray,
    end: Sequence[Launch],
    *,
    flush: bool,
    arrays: Mapping[str, np.ndarray],
) -> Executor:
    """The executor of these phases, compiled if all launches are."""
    launches = [launch for each in (*phases, end) for launch in each]
    if native.executor_library() is None or not all(isinstance(launch, CompiledLaunch) for launch in launches):
        return Executor([compile_launches(each, flush=flush) for each in phases], state, end)
    compiled = cast("Sequence[Sequence[CompiledLaunch]]", phases)
    return CompiledExecutor(compiled, state, cast("Sequence[CompiledLaunch]", end), flush=flush, arrays=arrays)
