"""Which launches of a step wait for which, and on which branch of the graph each lies.

A launch comes after those whose results it reads, and after those that read or write what it writes; nothing else of
the order in which they were recorded counts. So ∂W = a_prevᵀ δ (E6) lies beside δ_prev = δ Wᵀ (E5), and the sum of a
loss beside both. What fills a GPU by itself is not set beside another that does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...kernels import DeviceLaunch
from ..cpu.executor import overlaps

MAX_STREAMS = 4
SATURATING_ELEMENTS = 132 * 128 * 128  # elements that a launch has to do with, from which on it fills a GPU by itself
START = -1


@dataclass(frozen=True)
class ScheduledLaunch:
    """A launch, the branch on which it lies, and the launches of other branches after which it comes, by their numbers;
    START is the beginning of the step."""

    launch: DeviceLaunch
    stream: int
    after: tuple[int, ...]


def assign_streams(launches: Sequence[DeviceLaunch]) -> tuple[list[ScheduledLaunch], tuple[int, ...]]:
    """The launches on branches, the first of which is the first launch's, and those that it must wait for at the end.

    A launch goes where the last one is among those that it comes after anyway, else to a branch that is empty yet, else
    to the one that was longest without a launch.
    """
    scheduled: list[ScheduledLaunch] = []
    ancestors: list[
        int
    ] = []  # ancestors[k]: bit j stands where launch j is over when k is, and so do all bits of ancestors[j]
    last: dict[int, int] = {}  # of each branch
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
    """Whether the order of the two, (what they read, what they write), counts."""
    (reads, writes), (read, written) = later, earlier
    return overlaps(reads, written) or overlaps(writes, written) or overlaps(writes, read)


def _spans(arrays: Sequence[Any]) -> Spans:
    """The bytes (from, to) in which arrays' elements lie."""
    found = []
    for a in arrays:
        if a.size:
            steps = [(n - 1) * stride for n, stride in zip(a.shape, a.strides, strict=True)]
            low = int(a.data.ptr) + sum(s for s in steps if s < 0)
            found.append((low, int(a.data.ptr) + sum(s for s in steps if s > 0) + int(a.itemsize)))
    return found
