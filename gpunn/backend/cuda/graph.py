"""A training step as one CUDA graph.

A recorded step is a list of launches on fixed buffers, and the state array stores everything that changes from step to
step. So the list can be captured once and replayed: the host then pays one launch for a whole step, or for several. A
replay gives the same bits as the launches one by one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...kernels import DeviceLaunch
from ...kernels import get as kernel
from ...user_warnings import warn_user
from ..executor import group_runs
from .capture import StreamSet
from .stream_scheduler import START, ScheduledLaunch, assign_streams

WARM_UP_STEPS = 3  # steps before the capture, which load CUDA modules and initialize libraries
MAX_NODES = 640  # approximate number of launches in one graph
MAX_STEPS = 32  # in one graph
POLLS_PER_WINDOW = 8  # how often the host checks the clock before the deadline
MAX_RATES = 4096  # learning rates stored on the device together


class CaptureWarning(UserWarning):
    """Issued if a step cannot be captured as a CUDA graph and runs launch by launch. The message gives the reason."""


def build_graphs(
    backend: Any, launches: Sequence[Callable[[], Any]], on_fallback: Callable[[str], Any] | None = None
) -> list[Callable[[], Any]]:
    """Combine consecutive launches that can be captured into graphs."""
    return group_runs(
        launches, DeviceLaunch, lambda each: [StepGraph(backend, each, on_fallback)] if len(each) > 1 else each
    )


class StepGraph:
    """Launches that run as one CUDA graph. A call runs them in order; `repeat` runs step after step.

    The first steps run launch by launch. Then one step is captured, and several steps in one graph if many are to run.
    The graph is captured on separate streams and launched on the current one. If the capture fails, `on_fallback` is
    called once with the reason.
    """

    def __init__(
        self, backend: Any, launches: Sequence[DeviceLaunch], on_fallback: Callable[[str], Any] | None = None
    ) -> None:
        self.backend = backend
        self.on_fallback = on_fallback
        self.launches = list(launches)
        self.capture_error: str | None = None
        self.steps_done = 0
        self._captured: dict[tuple[int, bool], Any] = {}
        self._stream_sets: list[StreamSet] = []
        self._schedules: dict[bool, tuple[list[ScheduledLaunch], tuple[int, ...]]] = {}
        self._rates: Any = None
        self._set_rate: DeviceLaunch | None = None
        self._each = 0.0
        nodes = max(1, sum(len(launch.calls) for launch in self.launches))
        self.steps = max(1, min(MAX_STEPS, MAX_NODES // nodes))

    def __call__(self) -> None:
        """Run the launches once, in order."""
        self._run(1, with_schedule=False)

    def repeat(self, steps: int, state: Any, rates: np.ndarray | None = None, first: int = 0, *, seconds: float) -> int:
        """Run the launches `steps` times, or until `seconds` have passed, and return the number of steps that ran.

        A step changes nothing if the non-finite flag in `state` is set. rates[t − first] is the learning rate of the
        optimizer's step t; None leaves it unchanged.
        """
        if rates is not None:
            steps = min(steps, MAX_RATES)
            self._put_rates(state, rates[:steps], first)
        begin = now = time.monotonic()
        done = 0
        while True:
            # the clock is checked after the device has finished the submitted steps
            some = max(1, int(seconds / POLLS_PER_WINDOW / self._each)) if self._each > 0 else 1
            some = min(some, steps - done)
            self._run(some, with_schedule=rates is not None)
            self.backend.synchronize()
            before, now = now, time.monotonic()
            done += some
            # measured on these steps only, because the first ones compile
            self._each = (now - before) / some
            if done == steps or now - begin >= seconds:
                return done

    def _put_rates(self, state: Any, rates: np.ndarray, first: int) -> None:
        made = self._set_rate is None
        if self._set_rate is None:
            self._rates = self.backend.zeros((MAX_RATES + 1,), np.float64)
            bound = kernel("set_scheduled_lr").bind(self._rates, out=state, count=1)
            assert isinstance(bound, DeviceLaunch)
            self._set_rate = bound
        self._rates[: len(rates) + 1] = self.backend.asarray(np.concatenate([[first], rates]))
        if made:
            self._set_rate()  # loads its CUDA module before a capture

    def _run(self, steps: int, *, with_schedule: bool) -> None:
        """Submit steps to the device without waiting for them."""
        while steps > 0:
            several = self.steps if steps >= self.steps else 1
            graph = self._graph(several, with_schedule)
            if graph is None:
                several = 1
                for launch in self._step_launches(with_schedule):
                    launch()
            else:
                graph.launch()
            steps -= several
            self.steps_done += several

    def _step_launches(self, with_schedule: bool) -> list[DeviceLaunch]:
        return [self._set_rate, *self.launches] if with_schedule and self._set_rate is not None else self.launches

    def _graph(self, steps: int, with_schedule: bool) -> Any:
        """The graph of several steps, captured at first use. None while steps run launch by launch."""
        if self.steps_done < WARM_UP_STEPS or self.capture_error is not None:
            return None
        if (steps, with_schedule) not in self._captured:
            try:
                self._captured[steps, with_schedule] = self._capture(steps, with_schedule)
            except Exception as error:
                # a failed capture has run nothing, so the launches can run one by one
                self.capture_error = " ".join(f"{type(error).__name__}: {error}".split())
                if self.on_fallback is not None:
                    self.on_fallback(f"no CUDA graph could be captured, {self.capture_error}")
                warn_user(
                    f"a step is not captured as a CUDA graph and runs launch by launch, slower: {self.capture_error}",
                    CaptureWarning,
                )
                return None
        return self._captured[steps, with_schedule]

    def _capture(self, steps: int, with_schedule: bool) -> Any:
        products = self._products(with_schedule)
        if not self._stream_sets or not self._stream_sets[-1].can_host(products):
            # earlier sets stay alive, because their graphs use the workspaces
            self._stream_sets.append(StreamSet(self.backend, products))
        stream_set = self._stream_sets[-1]
        return stream_set.capture(lambda: self._record(stream_set, steps, with_schedule))

    def _products(self, with_schedule: bool) -> list[bool]:
        """For each stream, whether it has products: they need a workspace as long as the graph lives."""
        if with_schedule not in self._schedules:
            self._schedules[with_schedule] = assign_streams(self._step_launches(with_schedule))
        scheduled, _ = self._schedules[with_schedule]
        found = {p.stream for p in scheduled if p.launch.needs_workspace}
        return [k in found for k in range(1 + max(p.stream for p in scheduled))]

    def _record(self, stream_set: StreamSet, steps: int, with_schedule: bool) -> None:
        """Launch steps on the streams."""
        scheduled, sinks = self._schedules[with_schedule]
        awaited = {k for p in scheduled for k in p.after}.union(sinks)
        for step in range(steps):
            reached = {START: stream_set.record_event(0)}
            for k, p in enumerate(scheduled):
                for j in p.after:
                    stream_set.wait(p.stream, reached[j])
                stream_set.launch(p.stream, p.launch, step)
                if k in awaited:
                    reached[k] = stream_set.record_event(p.stream)
            for j in sinks:
                stream_set.wait(0, reached[j])
