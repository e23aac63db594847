"""Epoch runners: run the recorded steps of whole epochs, in compiled code if possible."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from ctypes import Structure, c_double, c_longlong, c_void_p
from itertools import pairwise
from typing import Any

import numpy as np

from ..kernels._compiler.compiled_launch import address_of, byte_range
from ..kernels.state import StateEntry
from .arrays import to_host
from .cpu import native
from .cpu.executor import STATE_INDICES, CompiledProgram, compile_launches

Section = tuple[Sequence[Callable[[], Any]], int]


class EpochRunner:
    """A runner of whole epochs. An epoch runs the launches of each section a given number of times.

    `reset` sets the number of epochs, `run` runs them. `state` is the state array that the launches read and write. A
    step that sets its flag ends the run.
    """

    def __init__(self, sections: Sequence[Section], state: Any) -> None:
        self.sections, self.state = [(list(launches), times) for launches, times in sections], state
        self.reset(0)

    def reset(self, epochs: int, rates: np.ndarray | None = None, first: int = 0) -> None:
        """Set the number of epochs that `run` starts. rates[t − first] is the learning rate of the optimizer's step t.

        `rates` has one entry more than there are steps; None leaves the rate unchanged.
        """
        self.epochs, self.rates, self.first = epochs, rates, first
        self.epoch = self.section = self.iteration = 0

    def run(self, seconds: float) -> bool:
        """Continue for `seconds` at most. True if no epoch is left."""
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
        """True if a step was not finite. Later steps change nothing."""
        return bool(to_host(self.state)[StateEntry.NONFINITE_STEP])

    def _run_section(self, launches: list[Any], times: int, seconds: float) -> int:
        """Run the launches `times` times, or for `seconds`, but at least once. Return how many times they ran."""
        rates, first = None, 0
        if self.rates is not None:
            first = int(to_host(self.state)[StateEntry.STEP])
            rates = self.rates[first - self.first :][:times]
        if times > 1 and len(launches) == 1 and hasattr(launches[0], "repeat"):
            return int(launches[0].repeat(times, self.state, rates, first, seconds=seconds))
        if rates is not None:
            self.state[StateEntry.LR] = rates[0]
        with np.errstate(all="ignore"):
            for launch in launches:
                launch()
        return 1


class _Section(Structure):
    _fields_ = [
        ("tasks", c_void_p),
        ("counts", c_void_p),
        ("threads", c_longlong),
        ("times", c_longlong),
    ]


class CompiledEpochRunner(EpochRunner):
    """A runner for sections that are one compiled program each: it runs without Python in between."""

    def __init__(self, programs: Sequence[tuple[CompiledProgram, int]], state: np.ndarray, *, flush: bool) -> None:
        super().__init__([([program], times) for program, times in programs], state)
        self._flush = flush
        self.programs = [program for program, _ in programs]
        self.threads = max(program.threads for program in self.programs)
        library = native.executor_library()
        assert library is not None
        self._run = library.run_epochs
        self._sections = (_Section * len(programs))(
            *(_Section(*program.task_tables, program.threads, times) for program, times in programs)
        )

    def reset(self, epochs: int, rates: np.ndarray | None = None, first: int = 0) -> None:
        super().reset(epochs, rates, first)
        self._position = (c_longlong * 3)()

    def run(self, seconds: float) -> bool:
        rates = None if self.rates is None else c_void_p(self.rates.ctypes.data)
        return bool(
            self._run(
                self._sections,
                c_longlong(len(self.sections)),
                c_longlong(self.epochs),
                self._position,
                c_longlong(self._flush),
                c_void_p(self.state.ctypes.data),
                rates,
                c_longlong(self.first),
                *STATE_INDICES,
                c_double(seconds),
            )
        )


class BufferRebinder:
    """Replaces arrays of compiled launches: it knows the addresses that point into them."""

    def __init__(self, epochs: CompiledEpochRunner, arrays: Sequence[np.ndarray]) -> None:
        launches = [launch for program in epochs.programs for launch in program.launches]
        self._addresses: list[list[tuple[Any, int, int]]] = []
        for array in arrays:
            low, high = byte_range(array)
            self._addresses.append(
                [
                    (launch.pointers, k, address - low)
                    for launch in launches
                    for k, address in enumerate(launch.pointers)
                    if address is not None and low <= address < high
                ]
            )

    def rebind(self, arrays: Sequence[np.ndarray]) -> None:
        """Use these arrays, of the same types and layouts, from now on. The caller must keep references to them."""
        for addresses, array in zip(self._addresses, arrays, strict=True):
            begin = address_of(array)
            for at, k, offset in addresses:
                at[k] = begin + offset


def make_rebinder(epochs: EpochRunner, arrays: Sequence[np.ndarray]) -> BufferRebinder | None:
    """A rebinder for these arrays. None if a launch is not compiled, several threads run it, or two arrays overlap."""
    if not isinstance(epochs, CompiledEpochRunner) or epochs.threads > 1:
        return None
    # an address in two arrays would be ambiguous
    spans = sorted(byte_range(array) for array in arrays if array.size)
    if any(before[1] > after[0] for before, after in pairwise(spans)):
        return None
    return BufferRebinder(epochs, arrays)


def build_epoch_runner(sections: Sequence[Section], state: Any, *, flush: bool) -> EpochRunner:
    """A runner for these sections, compiled if all of their launches are."""
    compiled = [(compile_launches(launches, flush=flush), times) for launches, times in sections]
    programs = [
        (found[0], times) for found, times in compiled if len(found) == 1 and isinstance(found[0], CompiledProgram)
    ]
    if len(programs) < len(compiled):
        return EpochRunner(compiled, state)
    return CompiledEpochRunner(programs, state, flush=flush)
