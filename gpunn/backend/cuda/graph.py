"""The whole training step as one CUDA graph: what walking in compiled code is to a CPU.

A recorded step is a list of launches on fixed buffers, and whatever changes from step to step lies in the state array.
So the list can be captured once and replayed: the host then pays one launch for a whole step, or for many. Replay does
what the launches do when they are called one by one, bit for bit.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...kernels import DeviceLaunch
from ...kernels import get as kernel
from ..cpu.executor import group_runs
from .capture import Branches
from .stream_scheduler import START, Placed, place

WARM_UP = 3  # steps before capture: modules are loaded then, and libraries have made what they need
MOST_NODES = 640  # launches of one graph, about
MOST_STEPS = 32  # steps of one graph
LOOKS = 8  # how often the host looks at the clock within the time it was given
RATES = 4096  # learning rates on the device at once


class CaptureWarning(UserWarning):
    """A step could not be captured as a CUDA graph and runs launch by launch; the message says why."""


def join(
    backend: Any, launches: Sequence[Callable[[], Any]], tell: Callable[[str], Any] | None = None
) -> list[Callable[[], Any]]:
    """The same launches, neighbours that a stream may capture joined into graphs."""
    return group_runs(launches, DeviceLaunch, lambda each: [Graph(backend, each, tell)] if len(each) > 1 else each)


class Graph:
    """Launches as one: called, it runs them in order; `repeat` does so for step after step.

    The first steps run launch by launch; then one step is captured, and several in one graph where there are many to
    take. It is launched on the stream that is current, and captured on streams of its own. `tell` hears, once, why that
    failed.
    """

    def __init__(
        self, backend: Any, launches: Sequence[DeviceLaunch], tell: Callable[[str], Any] | None = None
    ) -> None:
        self.backend = backend
        self.tell = tell
        self.launches = list(launches)
        self.fault: str | None = None
        self.taken = 0
        self._captured: dict[tuple[int, bool], Any] = {}
        self._branches: list[Branches] = []
        self._placed: dict[bool, tuple[list[Placed], tuple[int, ...]]] = {}
        self._rates: Any = None
        self._set_rate: DeviceLaunch | None = None
        self._each = 0.0
        nodes = max(1, sum(len(launch.calls) for launch in self.launches))
        self.steps = max(1, min(MOST_STEPS, MOST_NODES // nodes))

    def __call__(self) -> None:
        """Run the launches once, in order."""
        self._take(1, rated=False)

    def repeat(self, steps: int, state: Any, rates: np.ndarray | None = None, first: int = 0, *, seconds: float) -> int:
        """Run them `steps` times, or until `seconds` are over; how many times it was. A step for which the flag in
        `state` stands changes nothing.

        rates[t − first] is the learning rate of the optimiser's step t; None leaves it as it stands.
        """
        if rates is not None:
            steps = min(steps, RATES)
            self._put_rates(state, rates[:steps], first)
        begin = now = time.monotonic()
        done = 0
        while True:
            # what was asked of the device is done when the clock is looked at
            some = max(1, int(seconds / LOOKS / self._each)) if self._each > 0 else 1
            some = min(some, steps - done)
            self._take(some, rated=rates is not None)
            self.backend.synchronize()
            before, now = now, time.monotonic()
            done += some
            # of these steps alone: the first ones compile
            self._each = (now - before) / some
            if done == steps or now - begin >= seconds:
                return done

    def _put_rates(self, state: Any, rates: np.ndarray, first: int) -> None:
        made = self._set_rate is None
        if self._set_rate is None:
            self._rates = self.backend.zeros((RATES + 1,), np.float64)
            bound = kernel("set_scheduled_lr").bind(self._rates, out=state, count=1)
            assert isinstance(bound, DeviceLaunch)
            self._set_rate = bound
        self._rates[: len(rates) + 1] = self.backend.asarray(np.concatenate([[first], rates]))
        if made:
            self._set_rate()  # its module is loaded before a capture

    def _take(self, steps: int, *, rated: bool) -> None:
        """So many steps, asked of the device and not waited for."""
        while steps > 0:
            several = self.steps if steps >= self.steps else 1
            graph = self._graph(several, rated)
            if graph is None:
                several = 1
                for launch in self._list(rated):
                    launch()
            else:
                graph.launch()
            steps -= several
            self.taken += several

    def _list(self, rated: bool) -> list[DeviceLaunch]:
        return [self._set_rate, *self.launches] if rated and self._set_rate is not None else self.launches

    def _graph(self, steps: int, rated: bool) -> Any:
        """The graph of so many steps, captured at first use; None while steps run launch by launch."""
        if self.taken < WARM_UP or self.fault is not None:
            return None
        if (steps, rated) not in self._captured:
            try:
                self._captured[steps, rated] = self._capture(steps, rated)
            except Exception as error:
                # nothing has run: what capture refuses, the launches do one by one
                self.fault = " ".join(f"{type(error).__name__}: {error}".split())
                if self.tell is not None:
                    self.tell(f"no CUDA graph could be captured, {self.fault}")
                warnings.warn(
                    f"a step is not captured as a CUDA graph and runs launch by launch, which is slower: {self.fault}",
                    CaptureWarning,
                    stacklevel=2,
                )
                return None
        return self._captured[steps, rated]

    def _capture(self, steps: int, rated: bool) -> Any:
        products = self._products(rated)
        if not self._branches or not self._branches[-1].serve(products):
            # those before stay: graphs need what was made for them
            self._branches.append(Branches(self.backend, products))
        branches = self._branches[-1]
        return branches.capture(lambda: self._record(branches, steps, rated))

    def _products(self, rated: bool) -> list[bool]:
        """Of every branch of the launches, whether products lie there: they take memory as long as the graph lives."""
        if rated not in self._placed:
            self._placed[rated] = place(self._list(rated))
        placed, _ = self._placed[rated]
        found = {p.branch for p in placed if p.launch.needs_workspace}
        return [k in found for k in range(1 + max(p.branch for p in placed))]

    def _record(self, branches: Branches, steps: int, rated: bool) -> None:
        """Launch so many steps on the branches."""
        placed, ends = self._placed[rated]
        awaited = {k for p in placed for k in p.after}.union(ends)
        for step in range(steps):
            reached = {START: branches.mark(0)}
            for k, p in enumerate(placed):
                for j in p.after:
                    branches.wait(p.branch, reached[j])
                branches.take(p.branch, p.launch, step)
                if k in awaited:
                    reached[k] = branches.mark(p.branch)
            for j in ends:
                branches.wait(0, reached[j])
