"""Assignment of a step's launches to the streams of a CUDA graph, by data dependencies.

A launch waits for the launches whose results it reads, and for those that read or write what it writes. The recorded
order does not matter otherwise. So ∂W = a_prevᵀ δ (E6) and the loss reduction overlap with δ_prev = δ Wᵀ (E5). A launch
that fills a GPU does not overlap with another such launch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...kernels import DeviceLaunch
from ...kernels._compiler.compiled_launch import byte_range
from ...program.ranges import Access, Tracker

MAX_STREAMS = 4
SATURATING_ELEMENTS = 132 * 128 * 128  # elements of an array with which one launch fills a GPU
START = -1


@dataclass(frozen=True)
class ScheduledLaunch:
    """A launch, its stream, and the launches on other streams that it waits for. START is the start of the step."""

    launch: DeviceLaunch
    stream: int
    after: tuple[int, ...]


def assign_streams(launches: Sequence[DeviceLaunch]) -> tuple[list[ScheduledLaunch], tuple[int, ...]]:
    """Assign launches to streams. Return them, and the launches that the first stream waits for at the end.

    A launch is assigned to a stream whose last launch it depends on, else to an empty stream, else to the stream that
    has been without a launch for longest.
    """
    scheduled: list[ScheduledLaunch] = []
    # bit j of ancestors[k] is set if launch j has finished when launch k has; all bits of ancestors[j] are set too
    ancestors: list[int] = []
    last: dict[int, int] = {}  # the last launch of each stream
    last_saturating: int | None = None
    tracker = Tracker()
    for k, launch in enumerate(launches):
        before, dependencies = 0, []
        saturates = any(int(a.size) >= SATURATING_ELEMENTS for a in (*launch.reads, *launch.writes))
        conflicting = tracker.add(k, _accesses(launch.reads), _accesses(launch.writes))
        if saturates:
            conflicting |= set() if last_saturating is None else {last_saturating}
            last_saturating = k
        for j in sorted(conflicting, reverse=True):
            if not before >> j & 1:
                before |= ancestors[j]
                dependencies.append(j)
        stream = _choose_stream(last, before, dependencies)
        known = ancestors[last[stream]] if stream in last else 0
        after = []
        for j in dependencies:
            if not known >> j & 1:
                after.append(j)
                known |= ancestors[j]
        if k > 0 and stream not in last and not after:
            after.append(START)  # a stream joins a capture by waiting for one that captures
        scheduled.append(ScheduledLaunch(launch, stream, tuple(after)))
        ancestors.append(known | 1 << k)
        last[stream] = k
    sinks, known = [], ancestors[last[0]] if last else 0
    for j in sorted(last.values(), reverse=True):
        if not known >> j & 1:
            sinks.append(j)
            known |= ancestors[j]
    return scheduled, tuple(sinks)


def _choose_stream(last: dict[int, int], before: int, dependencies: Sequence[int]) -> int:
    """The stream of a launch; `before` has the bits of the launches that it follows."""
    free = [b for b, j in last.items() if before >> j & 1]
    if free:
        return max(free, key=lambda b: (last[b] in dependencies, last[b]))
    return len(last) if len(last) < MAX_STREAMS else min(last, key=lambda b: last[b])


def _accesses(arrays: Sequence[Any]) -> list[Access]:
    """The memory of arrays, in one address space."""
    return [("device", *byte_range(a)) for a in arrays]
