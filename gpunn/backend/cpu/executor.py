"""Walking a recorded step in compiled code: what a CUDA graph is to a GPU.

A recorded step is a list of launches. Where all of them are compiled, each a (function, at, sizes, numbers), the walk
runs the list, step after step, without Python in between, and shares it among as many threads as BLAS would take:
every launch is split into stretches of rows or elements, one a thread, and the threads wait for one another only where
one reads what another has written. Splits are fixed by the sizes, so that a number of threads gives one result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from ctypes import Structure, addressof, c_double, c_longlong, c_void_p, sizeof
from itertools import groupby
from typing import Any

import numpy as np

from ...kernels._compiler.host import CompiledLaunch, ThreadTask, address_of, byte_range
from ...kernels.state import Slot
from . import blas, native

# nanoseconds of work for which one more thread pays
MIN_NS_PER_THREAD = 12_000.0
MAX_THREADS = 256
SLOTS = [c_longlong(int(s)) for s in (Slot.STEP, Slot.LR, Slot.NONFINITE_STEP)]


class _Node(Structure):
    _fields_ = [(name, c_void_p) for name in ("run", "at", "sizes", "numbers")]


class _Move(Structure):
    _fields_ = [("slot", c_void_p), ("bytes", c_longlong)]


class CompiledProgram:
    """Compiled launches as one: called, it runs them in order; `repeat` does so for step after step, and `along` for
    block after block of larger arrays.

    flush   whether numbers too small to be normal are 0 while it runs, as they are on a GPU
    moving  the arrays in whose place `along` takes blocks of others
    """

    def __init__(
        self,
        launches: Sequence[CompiledLaunch],
        *,
        flush: bool = False,
        threads: int | None = None,
        block_arrays: Sequence[np.ndarray] = (),
    ) -> None:
        found = native.executor_library()
        assert found is not None
        self.launches = list(launches)
        self.count = len(self.launches)
        if threads is None:
            threads = thread_count_for(sum(launch.estimated_ns for launch in self.launches))
        lists = [self.launches] if threads == 1 else partition(self.launches, threads)
        self.threads = len(lists)
        self._kept = lists
        self._nodes = [
            (_Node * max(1, len(each)))(*(_Node() if launch is None else _Node(*launch.node) for launch in each))
            for each in lists
        ]
        self._lists = (c_void_p * len(lists))(*map(addressof, self._nodes))
        self._counts = (c_longlong * len(lists))(*map(len, lists))
        self._walk = found.walk
        self._moving = [self._slots_in(array) for array in block_arrays]
        each = [_Move(addressof(slot), size) for slots, size in self._moving for slot, _ in slots]
        self._block = (_Move * max(1, len(each)))(*each)
        self._moves = (c_void_p(addressof(self._block)), c_longlong(len(each)))
        self._what = (
            c_void_p(addressof(self._lists)),
            c_void_p(addressof(self._counts)),
            c_longlong(len(lists)),
            c_longlong(flush),
        )
        self._once = (*self._what, None, _NONE, _ONE, None, None, _NONE, *SLOTS, _NO_TIME)

    @property
    def node_tables(self) -> tuple[int, int]:
        """Where every thread's nodes and their numbers lie."""
        return addressof(self._lists), addressof(self._counts)

    def __call__(self) -> None:
        """Run the launches once, in order."""
        self._walk(*self._once)

    def repeat(
        self, steps: int, state: np.ndarray, rates: np.ndarray | None = None, first: int = 0, *, seconds: float
    ) -> int:
        """Run them `steps` times, or until `seconds` are over or the flag in `state` is raised; how many times it was.

        rates[t − first] is the learning rate of the optimiser's step t; None leaves it as it stands.
        """
        if rates is not None and (rates.dtype != np.float64 or not rates.flags.c_contiguous or len(rates) < steps):
            raise ValueError(f"rates must be {steps} contiguous float64 numbers")
        done: int = self._walk(
            *self._what,
            None,
            _NONE,
            c_longlong(steps),
            c_void_p(state.ctypes.data),
            None if rates is None else c_void_p(rates.ctypes.data),
            c_longlong(first),
            *SLOTS,
            c_double(seconds),
        )
        return done

    def _slots_in(self, array: np.ndarray) -> tuple[list[tuple[c_void_p, int]], int]:
        """Where an address in that array stands among all nodes, (the place, bytes from the array's beginning) of each,
        and the array's bytes. ValueError where there is none."""
        low, high = byte_range(array)
        found = {}
        for launch in (launch for each in self._kept for launch in each if launch is not None):
            for k, address in enumerate(launch.pointers):
                if address is not None and low <= address < high:
                    found[addressof(launch.pointers) + k * sizeof(c_void_p)] = address - low
        if not found:
            raise ValueError("no launch reads or writes an array that is to move")
        return [(c_void_p.from_address(place), offset) for place, offset in found.items()], array.nbytes

    def run_blocks(self, wholes: Sequence[np.ndarray], steps: int, *, seconds: float) -> None:
        """Run them `steps` times, step k with the k-th block of each of `wholes` in the place of the array that was
        named as moving: contiguous arrays of its type, with as many rows more as there are steps. After so many
        `seconds` Python may look whether somebody interrupts."""
        for (slots, size), whole in zip(self._moving, wholes, strict=True):
            if whole.nbytes < steps * size:
                raise ValueError(f"{steps} blocks of {size} bytes were asked for, of an array of {whole.nbytes}")
            begin = address_of(whole)
            for slot, offset in slots:
                slot.value = begin + offset
        while steps > 0:
            steps -= self._walk(
                *self._what,
                *self._moves,
                c_longlong(steps),
                None,
                None,
                _NONE,
                *SLOTS,
                c_double(seconds),
            )


_ONE, _NONE, _NO_TIME = c_longlong(1), c_longlong(0), c_double(0)


def thread_count_for(work: float) -> int:
    """The threads that so many nanoseconds of work are worth."""
    if work < 2 * MIN_NS_PER_THREAD:
        return 1
    return min(blas.thread_count(), MAX_THREADS, int(work / MIN_NS_PER_THREAD))


def partition(launches: Iterable[CompiledLaunch], threads: int) -> list[list[CompiledLaunch | None]]:
    """Every thread's launches in order. None stands where all wait for one another: before a launch of which a thread
    reads what another has written since the last wait, or writes what another has read or written."""
    lists: list[list[CompiledLaunch | None]] = [[] for _ in range(threads)]
    reads: list[list[tuple[int, int]]] = [[] for _ in range(threads)]
    writes: list[list[tuple[int, int]]] = [[] for _ in range(threads)]

    def place(shares: list[ThreadTask]) -> None:
        if any(
            overlaps(mine.writes, theirs) or overlaps(mine.reads, written)
            for who, mine in enumerate(shares)
            for other, (theirs, written) in enumerate(
                zip((r + w for r, w in zip(reads, writes, strict=True)), writes, strict=True)
            )
            if other != who
        ):
            for who in range(threads):
                lists[who].append(None)
                reads[who], writes[who] = [], []
        for who, mine in enumerate(shares):
            lists[who].append(mine.launch)
            reads[who] += mine.reads
            writes[who] += mine.writes

    for launch in launches:
        split = launch.partition(threads)
        place(split.tasks)
        if split.combine is not None:
            place(split.combine.partition(1).tasks)
    return lists


def overlaps(some: list[tuple[int, int]], others: list[tuple[int, int]]) -> bool:
    """Whether a stretch of bytes among `some` overlaps one among `others`."""
    return any(a < d and c < b for a, b in some for c, d in others)


def compile_launches(launches: Sequence[Callable[[], Any]], *, flush: bool = False) -> list[Callable[[], Any]]:
    """The same launches, neighbours that are compiled joined into walks."""
    if native.executor_library() is None:
        return list(launches)
    return group_runs(launches, CompiledLaunch, lambda each: [CompiledProgram(each, flush=flush)])


def group_runs(
    launches: Sequence[Callable[[], Any]], kind: type, make: Callable[[list[Any]], Iterable[Callable[[], Any]]]
) -> list[Callable[[], Any]]:
    """The same launches, with what `make` makes of neighbours of that kind in their place."""
    joined: list[Callable[[], Any]] = []
    for alike, group in groupby(launches, lambda launch: isinstance(launch, kind)):
        each = list(group)
        joined += make(each) if alike else each
    return joined


def compile_blocks(launches: Sequence[Callable[[], Any]], block_arrays: Sequence[np.ndarray]) -> CompiledProgram | None:
    """The launches as a walk with `along`; None where one of them is not compiled, or none touches such an array."""
    if (
        native.executor_library() is None
        or not launches
        or not all(isinstance(launch, CompiledLaunch) for launch in launches)
    ):
        return None
    try:
        # whoever else runs these launches finds his arrays where they were
        return CompiledProgram(
            [launch.clone() for launch in launches if isinstance(launch, CompiledLaunch)], block_arrays=block_arrays
        )
    except ValueError:
        return None
