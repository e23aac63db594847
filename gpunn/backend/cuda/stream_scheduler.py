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
from ..cpu.executor import overlaps

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
    spans = [(_spans(x.reads), _spans(x.writes)) for x in launches]
    for k, launch in enumerate(launches):
        before, dependencies = 0, []
        saturates = any(int(a.size) >= SATURATING_ELEMENTS for a in (*launch.reads, *launch.writes))
        for j in reversed(range(k)):
            if not before >> j & 1 and ((saturates and j == last_saturating) or _depends(spans[k], spans[j])):
                before |= ancestors[j]
                dependencies.append(j)
        last_saturating = k if saturates else last_saturating
        free = [b for b, j in last.items() if before >> j & 1]
        if free:
            stream = max(free, key=lambda b: (last[b] in dependencies, last[b]))
        elif len(last) < MAX_STREAMS:
            stream = len(last)
        else:
            stream = min(last, key=lambda b: last[b])
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


Spans = list[tuple[int, int]]


def _depends(later: tuple[Spans, Spans], earlier: tuple[Spans, Spans]) -> bool:
    """True if two launches, each (byte ranges read, byte ranges written), must run in their order."""
    (reads, writes), (read, written) = later, earlier
    return overlaps(reads, written) or overlaps(writes, written) or overlaps(writes, read)


def _spans(arrays: Sequence[Any]) -> Spans:
    """The byte ranges (start, stop) of arrays."""
    found = []
    for a in arrays:
        if a.size:
            steps = [(n - 1) * stride for n, stride in zip(a.shape, a.strides, strict=True)]
            low = int(a.data.ptr) + sum(s for s in steps if s < 0)
            found.append((low, int(a.data.ptr) + sum(s for s in steps if s > 0) + int(a.itemsize)))
    return found
