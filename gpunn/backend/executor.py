"""Executors: the one way to repeat the launches of a step against a clock."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np

from ..kernels.state import StateEntry
from .arrays import to_host

Launch = Callable[[], Any]
POLL_SECONDS = 0.1  # maximum time of compiled code between two returns to Python


def execute(launches: Iterable[Launch]) -> None:
    """Execute launches in order. NumPy's floating-point warnings are off: the non-finite check reports instead."""
    with np.errstate(all="ignore"):
        for launch in launches:
            launch()


class Executor:
    """Runs phases of launches in a cycle, each a given number of times, and `end` after the last phase.

    A step is one run of one phase: an epoch has a phase for its full batches and one for a shorter last batch.

    Parameters
    ----------
    phases : sequence of sequence of callables
        The launches of a step, by phase. A single launch that has `repeat` can run several steps without Python.
    state : array
        The state array that the launches read and write.
    end : sequence of callables
        The launches after the last phase.
    """

    rebindable = False  # True if `rebind` can exchange arrays

    def __init__(self, phases: Sequence[Sequence[Launch]], state: Any, end: Sequence[Launch] = ()) -> None:
        self.phases = [list(launches) for launches in phases]
        self.state = state
        self.end = list(end)
        self.set_times([1] * len(self.phases))

    def set_times(self, times: Sequence[int], done: int = 0) -> None:
        """Set how often each phase runs in a cycle, and how many steps of the cycle are done."""
        self.times = list(times)
        self._phase, self._iteration = position(times, done)

    def run(self, steps: int = 1, *, deadline: float = math.inf, learning_rates: np.ndarray | None = None) -> int:
        """Run steps from the current position on.

        Parameters
        ----------
        steps : int
            The number of steps, at least 1.
        deadline : float
            Seconds after which no further step begins.
        learning_rates : array of float64, optional
            learning_rates[k] is the rate of the optimizer's k-th step from now; None leaves the rate as it is.

        Returns
        -------
        int
            The number of steps done: fewer than `steps` after the deadline, or after a step that is not finite.
        """
        begin, done = time.monotonic(), 0
        first = 0 if learning_rates is None else int(to_host(self.state)[StateEntry.STEP])
        while True:
            left = min(self.times[self._phase] - self._iteration, steps - done)
            ran = self._run_phase(left, deadline - (time.monotonic() - begin), learning_rates, first)
            done, self._iteration = done + ran, self._iteration + ran
            at_end = self._phase == len(self.phases) - 1 and self._iteration == self.times[self._phase]
            diverged = (done < steps or (at_end and bool(self.end))) and self._has_diverged()
            if self._iteration == self.times[self._phase]:
                self._phase, self._iteration = (self._phase + 1) % len(self.phases), 0
            if at_end and not diverged:
                execute(self.end)
            if diverged or done == steps or time.monotonic() - begin >= deadline:
                return done

    def rebind(self, arrays: Mapping[str, Any]) -> None:
        """Use these arrays in place of those of the same names, which have the same types and layouts."""
        raise NotImplementedError

    def release(self) -> None:
        """Drop the references to the arrays that `rebind` can exchange. It must be called before the next run."""

    def run_blocks(self, steps: int, arrays: Mapping[str, Any]) -> bool:
        """Run steps on blocks of larger, contiguous arrays.

        Step k uses the k-th block of each array in place of the array of the same name. False, with nothing done, if
        this device cannot.
        """
        return False

    def _run_phase(self, steps: int, seconds: float, rates: np.ndarray | None, first: int) -> int:
        launches = self.phases[self._phase]
        if rates is not None:
            now = int(to_host(self.state)[StateEntry.STEP])
            rates, first = rates[now - first :][:steps], now
        if steps > 1 and len(launches) == 1 and hasattr(launches[0], "repeat"):
            return int(launches[0].repeat(steps, self.state, rates, first, seconds=seconds))
        if rates is not None:
            self.state[StateEntry.LR] = rates[0]
        execute(launches)
        return 1

    def _has_diverged(self) -> bool:
        """True if a step was not finite. Later steps change nothing."""
        return bool(to_host(self.state)[StateEntry.NONFINITE_STEP])


def position(times: Sequence[int], done: int) -> tuple[int, int]:
    """(phase, times that it has run) after `done` steps of a cycle."""
    phase = 0
    while done and done >= times[phase]:
        done -= times[phase]
        phase += 1
    return phase, done


def group_runs(launches: Sequence[Launch], kind: type, make: Callable[[list[Any]], Iterable[Launch]]) -> list[Launch]:
    """The same launches, with each run of consecutive ones of that kind replaced by what `make` returns for it."""
    grouped: list[Launch] = []
    for matches, group in groupby(launches, lambda launch: isinstance(launch, kind)):
        each = list(group)
        grouped += make(each) if matches else each
    return grouped
