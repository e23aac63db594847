"""Compiled execution of recorded steps on a CPU, the counterpart of a CUDA graph on a GPU.

A recorded step is a list of launches. If all of them are compiled, the executor runs the list, step after step, without
Python in between. Several threads share each step: every launch is divided into ranges of rows or elements, one per
thread. The threads wait at a barrier only where one reads what another has written. The partition depends on the sizes
and the number of threads only, so equal thread counts give equal results, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from ctypes import Structure, addressof, c_double, c_longlong, c_void_p, sizeof
from itertools import groupby
from typing import Any

import numpy as np

from ...kernels._compiler.compiled_launch import CompiledLaunch, ThreadTask, address_of, byte_range
from ...kernels.state import StateEntry
from ...program.ranges import Access, Range, Tracker
from . import blas, native

MIN_NS_PER_THREAD = 12_000.0  # estimated work for which one more thread pays off
MAX_THREADS = 256
STATE_INDICES = [c_longlong(int(s)) for s in (StateEntry.STEP, StateEntry.LR, StateEntry.NONFINITE_STEP)]

_ONE, _ZERO, _NO_LIMIT = c_longlong(1), c_longlong(0), c_double(0)


class _Task(Structure):
    _fields_ = [(name, c_void_p) for name in ("run", "pointers", "sizes", "scalars")]


class _PointerStep(Structure):
    _fields_ = [("address", c_void_p), ("bytes", c_longlong)]


class CompiledProgram:
    """Compiled launches that run as one.

    A call runs them once, in order. `repeat` runs them for many steps, `run_blocks` for many blocks of larger arrays.

    flush         treat subnormal numbers as 0 while it runs, as a GPU does
    threads       number of threads; None derives it from the estimated work
    block_arrays  arrays that `run_blocks` replaces with blocks of larger ones
    """

    def __init__(
        self,
        launches: Sequence[CompiledLaunch],
        *,
        flush: bool = False,
        threads: int | None = None,
        block_arrays: Sequence[np.ndarray] = (),
    ) -> None:
        library = native.executor_library()
        assert library is not None
        self.launches = list(launches)
        self.count = len(self.launches)
        if threads is None:
            threads = thread_count_for(sum(launch.estimated_ns for launch in self.launches))
        self._partition = [self.launches] if threads == 1 else partition(self.launches, threads)
        self.threads = len(self._partition)
        self._tasks = [
            (_Task * max(1, len(each)))(*(_Task() if launch is None else _Task(*launch.node) for launch in each))
            for each in self._partition
        ]
        self._lists = (c_void_p * self.threads)(*map(addressof, self._tasks))
        self._counts = (c_longlong * self.threads)(*map(len, self._partition))
        self._run = library.run_steps
        self._block_addresses = [self._addresses_in(array) for array in block_arrays]
        moves = [
            _PointerStep(addressof(address), size)
            for addresses, size in self._block_addresses
            for address, _ in addresses
        ]
        self._moves = (_PointerStep * max(1, len(moves)))(*moves)
        self._move_arguments = (c_void_p(addressof(self._moves)), c_longlong(len(moves)))
        self._fixed_args = (
            c_void_p(addressof(self._lists)),
            c_void_p(addressof(self._counts)),
            c_longlong(self.threads),
            c_longlong(flush),
        )
        self._single_run_args = (*self._fixed_args, None, _ZERO, _ONE, None, None, _ZERO, *STATE_INDICES, _NO_LIMIT)

    @property
    def task_tables(self) -> tuple[int, int]:
        """Addresses of the threads' task lists and of their lengths."""
        return addressof(self._lists), addressof(self._counts)

    def __call__(self) -> None:
        """Run the launches once, in order."""
        self._run(*self._single_run_args)

    def repeat(
        self, steps: int, state: np.ndarray, rates: np.ndarray | None = None, first: int = 0, *, seconds: float
    ) -> int:
        """Run the launches `steps` times and return how many times they ran.

        It ends early after `seconds`, and when the flag in `state` is set. rates[t − first] is the learning rate of the
        optimizer's step t; None leaves the rate unchanged.
        """
        if rates is not None and (rates.dtype != np.float64 or not rates.flags.c_contiguous or len(rates) < steps):
            raise ValueError(f"rates must be {steps} contiguous float64 numbers")
        done: int = self._run(
            *self._fixed_args,
            None,
            _ZERO,
            c_longlong(steps),
            c_void_p(state.ctypes.data),
            None if rates is None else c_void_p(rates.ctypes.data),
            c_longlong(first),
            *STATE_INDICES,
            c_double(seconds),
        )
        return done

    def _addresses_in(self, array: np.ndarray) -> tuple[list[tuple[c_void_p, int]], int]:
        """The addresses in all tasks that point into `array`, each with its offset in bytes; and the array's bytes.

        ValueError if there is none.
        """
        low, high = byte_range(array)
        found = {}
        for launch in (launch for each in self._partition for launch in each if launch is not None):
            for k, address in enumerate(launch.pointers):
                if address is not None and low <= address < high:
                    found[addressof(launch.pointers) + k * sizeof(c_void_p)] = address - low
        if not found:
            raise ValueError("no launch reads or writes one of the block arrays")
        return [(c_void_p.from_address(location), offset) for location, offset in found.items()], array.nbytes

    def run_blocks(self, arrays: Sequence[np.ndarray], steps: int, *, seconds: float) -> None:
        """Run the launches `steps` times, step k on the k-th block of each array, which replaces a block array.

        The arrays are contiguous, of the block array's type, with `steps` times its rows. Python checks for interrupts
        every `seconds`.
        """
        for (addresses, size), array in zip(self._block_addresses, arrays, strict=True):
            if array.nbytes < steps * size:
                raise ValueError(f"an array must have {steps} blocks of {size} bytes, got {array.nbytes} bytes")
            begin = address_of(array)
            for address, offset in addresses:
                address.value = begin + offset
        while steps > 0:
            steps -= self._run(
                *self._fixed_args,
                *self._move_arguments,
                c_longlong(steps),
                None,
                None,
                _ZERO,
                *STATE_INDICES,
                c_double(seconds),
            )


def thread_count_for(work: float) -> int:
    """The number of threads that pay off for `work` nanoseconds."""
    if work < 2 * MIN_NS_PER_THREAD:
        return 1
    return min(blas.thread_count(), MAX_THREADS, int(work / MIN_NS_PER_THREAD))


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


def compile_launches(launches: Sequence[Callable[[], Any]], *, flush: bool = False) -> list[Callable[[], Any]]:
    """The same launches, with each run of compiled ones in a `CompiledProgram`."""
    if native.executor_library() is None:
        return list(launches)
    return group_runs(launches, CompiledLaunch, lambda each: [CompiledProgram(each, flush=flush)])


def group_runs(
    launches: Sequence[Callable[[], Any]], kind: type, make: Callable[[list[Any]], Iterable[Callable[[], Any]]]
) -> list[Callable[[], Any]]:
    """The same launches, with each run of consecutive ones of that kind replaced by what `make` returns for it."""
    grouped: list[Callable[[], Any]] = []
    for matches, group in groupby(launches, lambda launch: isinstance(launch, kind)):
        each = list(group)
        grouped += make(each) if matches else each
    return grouped


def compile_blocks(launches: Sequence[Callable[[], Any]], block_arrays: Sequence[np.ndarray]) -> CompiledProgram | None:
    """A program with `run_blocks`, or None if a launch is not compiled or none uses one of the block arrays."""
    if native.executor_library() is None or not launches:
        return None
    compiled = [launch for launch in launches if isinstance(launch, CompiledLaunch)]
    if len(compiled) < len(launches):
        return None
    try:
        # clones, so that other programs with these launches keep their addresses
        return CompiledProgram([launch.clone() for launch in compiled], block_arrays=block_arrays)
    except ValueError:
        return None
