"""Launches captured on branches: streams of their own, whose events say which branch waits for which."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any


class Branches:
    """So many streams. What is launched on them while they capture becomes a graph, which holds what it needs as long
    as they live."""

    def __init__(self, backend: Any, count: int) -> None:
        self._cuda = backend.xp.cuda
        self.streams = [self._cuda.Stream(non_blocking=True) for _ in range(count)]
        # nothing may be allocated while they capture
        self._needs = [backend.prepare(stream) for stream in self.streams]

    def mark(self, branch: int) -> Any:
        """The place that a branch has reached."""
        event = self._cuda.Event(disable_timing=True)
        self.streams[branch].record(event)
        return event

    def wait(self, branch: int, place: Any) -> None:
        """What follows on a branch comes after all before that place; a branch joins a capture by waiting."""
        self.streams[branch].wait_event(place)

    def capture(self, record: Callable[[], None]) -> Any:
        """What `record` launches on the branches as a graph. They begin with the first, which waits for all others at
        the end; where something fails, the capture is over before the error is raised."""
        main = self.streams[0]
        main.begin_capture()
        try:
            record()
        except BaseException:
            with contextlib.suppress(Exception):  # that it failed is known
                main.end_capture()
            raise
        return main.end_capture()
