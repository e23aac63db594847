"""Whole epochs as one: their steps, and what ends each, again and again, with Python looking only now and then."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from ctypes import Structure, c_double, c_longlong, c_void_p
from itertools import pairwise
from typing import Any

import numpy as np

from ..kernels._compiler.host import address_of, byte_range
from ..kernels.state import Slot
from .arrays import to_host
from .cpu import native
from .cpu.executor import SLOTS, CompiledProgram, compile_launches

Section = tuple[Sequence[Callable[[], Any]], int]


class EpochRunner:
    """The launches of each part so many times, part after part: an epoch. `begin` says how many, `go` takes them.

    `state` is the state array that the launches read and write; a step that raises its flag ends everything.
    """

    def __init__(self, sections: Sequence[Section], state: Any) -> None:
        self.sections, self.state = [(list(launches), times) for launches, times in sections], state
        self.reset(0)

    def reset(self, epochs: int, rates: np.ndarray | None = None, first: int = 0) -> None:
        """The next `go` takes so many epochs from their beginning. rates[t − first] is the learning rate of the
        optimiser's step t, one more than there are steps; None leaves it as it stands."""
        self.epochs, self.rates, self.first = epochs, rates, first
        self.epoch = self.section = self.iteration = 0

    def run(self, seconds: float) -> bool:
        """Go on until all is done, or for so many `seconds`; whether nothing is left to do."""
        end = time.monotonic() + seconds
        while self.epoch < self.epochs:
            while self.section < len(self.sections):
                launches, times = self.sections[self.section]
                while self.iteration < times:
                    self.iteration += self._run_section(launches, times - self.iteration, end - time.monotonic())
                    if time.monotonic() > end:
                        return False
                self.section, self.iteration = self.section + 1, 0
            self.epoch, self.section = self.epoch + 1, 0
            if self.has_diverged():
                return True
        return True

    def has_diverged(self) -> bool:
        """Whether a step was bad, after which nothing changes."""
        return bool(to_host(self.state)[Slot.NONFINITE_STEP])

    def _run_section(self, launches: list[Any], times: int, seconds: float) -> int:
        """The launches so many times, or until so many `seconds` are over; how many times it was, at least once."""
        rates, first = None, 0
        if self.rates is not None:
            first = int(to_host(self.state)[Slot.STEP])
            rates = self.rates[first - self.first :][:times]
        if times > 1 and len(launches) == 1 and hasattr(launches[0], "repeat"):
            return int(launches[0].repeat(times, self.state, rates, first, seconds=seconds))
        if rates is not None:
            self.state[Slot.LR] = rates[0]
        with np.errstate(all="ignore"):
            for launch in launches:
                launch()
        return 1


class _Part(Structure):
    _fields_ = [
        ("nodes", c_void_p),
        ("counts", c_void_p),
        ("threads", c_longlong),
        ("times", c_longlong),
    ]


class CompiledEpochRunner(EpochRunner):
    """The same where every part is one walk: without Python in between."""

    def __init__(self, programs: Sequence[tuple[CompiledProgram, int]], state: np.ndarray, *, flush: bool) -> None:
        super().__init__([([program], times) for program, times in programs], state)
        self._flush = flush
        self.programs = [program for program, _ in programs]
        self.threads = max(program.threads for program in self.programs)
        found = native.executor_library()
        assert found is not None
        self._walk = found.walk_epochs
        self._parts = (_Part * len(programs))(
            *(_Part(*program.node_tables, program.threads, times) for program, times in programs)
        )

    def reset(self, epochs: int, rates: np.ndarray | None = None, first: int = 0) -> None:
        super().reset(epochs, rates, first)
        self._at = (c_longlong * 3)()

    def run(self, seconds: float) -> bool:
        rates = None if self.rates is None else c_void_p(self.rates.ctypes.data)
        return bool(
            self._walk(
                self._parts,
                c_longlong(len(self.sections)),
                c_longlong(self.epochs),
                self._at,
                c_longlong(self._flush),
                c_void_p(self.state.ctypes.data),
                rates,
                c_longlong(self.first),
                *SLOTS,
                c_double(seconds),
            )
        )


class BufferRebinder:
    """Places in compiled launches where the addresses of some arrays stand, so that others may take their place."""

    def __init__(self, epochs: CompiledEpochRunner, arrays: Sequence[np.ndarray]) -> None:
        launches = [launch for program in epochs.programs for launch in program.launches]
        self._places: list[list[tuple[Any, int, int]]] = []
        for array in arrays:
            low, high = byte_range(array)
            self._places.append(
                [
                    (launch.pointers, k, address - low)
                    for launch in launches
                    for k, address in enumerate(launch.pointers)
                    if address is not None and low <= address < high
                ]
            )

    def rebind(self, arrays: Sequence[np.ndarray]) -> None:
        """These arrays, of the same types and layouts, from now on. Whoever calls this keeps them alive."""
        for places, array in zip(self._places, arrays, strict=True):
            begin = address_of(array)
            for at, k, offset in places:
                at[k] = begin + offset


def make_rebinder(epochs: EpochRunner, arrays: Sequence[np.ndarray]) -> BufferRebinder | None:
    """Where those arrays stand; None where not all is compiled, threads share launches, or two arrays overlap, so that
    an address would not tell which of them is meant."""
    if not isinstance(epochs, CompiledEpochRunner) or epochs.threads > 1:
        return None
    spans = sorted(byte_range(array) for array in arrays if array.size)
    if any(before[1] > after[0] for before, after in pairwise(spans)):
        return None
    return BufferRebinder(epochs, arrays)


def build_epoch_runner(sections: Sequence[Section], state: Any, *, flush: bool) -> EpochRunner:
    """Epochs of those parts, in compiled code where all of them are compiled."""
    joined = [(compile_launches(launches, flush=flush), times) for launches, times in sections]
    programs = [
        (found[0], times) for found, times in joined if len(found) == 1 and isinstance(found[0], CompiledProgram)
    ]
    if len(programs) < len(joined):
        return EpochRunner(joined, state)
    return CompiledEpochRunner(programs, state, flush=flush)
