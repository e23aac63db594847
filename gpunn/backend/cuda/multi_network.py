"""Concurrent training of several networks on a GPU: their steps are captured as one graph, one stream per network.

A GPU runs launches of different streams concurrently, so networks that are too small to fill it share it, and the host
pays one launch for a step of all of them. Each network's launches keep their order: the result equals that of a
separate fit, bit for bit.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ...kernels import DeviceLaunch
from ..epoch_runner import EpochRunner
from .capture import StreamSet
from .graph import StepGraph

MAX_STREAMS = 16  # one more network starts after the step of another


class InterleavedGraph(StepGraph):
    """Independent lists of launches, captured on one stream each. Without a graph they run one after another."""

    def __init__(
        self, backend: Any, lists: Sequence[Sequence[DeviceLaunch]], on_fallback: Callable[[str], Any]
    ) -> None:
        super().__init__(backend, [launch for each in lists for launch in each], on_fallback)
        self.lists = [list(each) for each in lists]

    def _products(self, with_schedule: bool) -> list[bool]:
        count = min(MAX_STREAMS, len(self.lists))
        return [any(x.needs_workspace for each in self.lists[k::count] for x in each) for k in range(count)]

    def _record(self, stream_set: StreamSet, steps: int, with_schedule: bool) -> None:
        count, begin = len(stream_set.streams), stream_set.record_event(0)
        for other in range(1, count):
            stream_set.wait(other, begin)
        for k, launches in enumerate(self.lists):
            for step in range(steps):
                for launch in launches:
                    stream_set.launch(k % count, launch, step)
        for other in range(1, count):
            stream_set.wait(0, stream_set.record_event(other))


class CombinedEpochs(EpochRunner):
    """The epochs of several networks, section by section together. A diverged network no longer changes."""

    def __init__(self, backend: Any, members: Sequence[EpochRunner]) -> None:
        self.members = list(members)
        parts = []
        for each in zip(*(member.sections for member in members), strict=True):
            graphs = [launch for launches, _ in each for launch in launches if isinstance(launch, StepGraph)]
            on_fallback = functools.partial(_notify_all, graphs)
            together = InterleavedGraph(
                backend, [capturable_launches(launches) or [] for launches, _ in each], on_fallback
            )
            parts.append(([together], each[0][1]))
        super().__init__(parts, None)

    def has_diverged(self) -> bool:
        return all(member.has_diverged() for member in self.members)


def _notify_all(graphs: Sequence[StepGraph], reason: str) -> None:
    for graph in graphs:
        if graph.on_fallback is not None:
            graph.on_fallback(reason)


def capturable_launches(launches: Sequence[Callable[[], Any]]) -> list[DeviceLaunch] | None:
    """The launches of a section if a stream can capture all of them, else None."""
    found: list[DeviceLaunch] = []
    for launch in launches:
        if isinstance(launch, StepGraph):
            found += launch.launches
        elif isinstance(launch, DeviceLaunch):
            found.append(launch)
        else:
            return None
    return found


class EpochCombiner:
    """Combine the epochs that several coroutines request at a time, and cache the result."""

    def __init__(self, backend: Any) -> None:
        self.backend = backend
        self._made: dict[tuple[int, ...], CombinedEpochs] = {}

    def __call__(self, asked: Iterable[EpochRunner]) -> list[EpochRunner]:
        """Combine epoch runners that agree in the number of epochs and steps and have a constant learning rate."""
        alike: dict[Any, list[EpochRunner]] = {}
        for epochs in asked:
            together = epochs.rates is None and all(capturable_launches(launches) for launches, _ in epochs.sections)
            key: Any = (epochs.epochs, tuple(times for _, times in epochs.sections)) if together else id(epochs)
            alike.setdefault(key, []).append(epochs)
        return [self._one(each) if len(each) > 1 else each[0] for each in alike.values()]

    def _one(self, members: list[EpochRunner]) -> CombinedEpochs:
        key = tuple(map(id, members))
        if key not in self._made:
            # a network has stopped: what was captured for it is released
            self._made.clear()
            self._made[key] = CombinedEpochs(self.backend, members)
        made = self._made[key]
        made.reset(members[0].epochs)
        return made
