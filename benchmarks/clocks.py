"""Clocks for timed windows: the host's clock and, on a GPU, CUDA events.

A clock synchronizes with the device at both ends of a window and nowhere in between.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple


class Span(NamedTuple):
    """A duration in seconds: by the host's clock, and by the device's events if it has any."""

    host: float
    device: float | None = None


class Clock:
    """The host's clock. `wait` synchronizes with the device; a CPU needs none."""

    def __init__(self, wait: Callable[[], Any] | None = None) -> None:
        self._wait = wait
        self._begun = 0.0

    def wait(self) -> None:
        """Wait until the device has finished all work."""
        if self._wait is not None:
            self._wait()

    def begin(self) -> None:
        """Begin a window."""
        self.wait()
        self._begun = time.perf_counter()

    def end(self) -> Span:
        """End the window and return its duration."""
        self.wait()
        return Span(time.perf_counter() - self._begun)


class EventClock(Clock):
    """A clock with CUDA events: `event` records an event, `milliseconds` is the time between two completed ones."""

    def __init__(
        self, wait: Callable[[], Any], event: Callable[[], Any], milliseconds: Callable[[Any, Any], float]
    ) -> None:
        super().__init__(wait)
        self._event, self._milliseconds = event, milliseconds
        self._first: Any = None

    def begin(self) -> None:
        super().begin()
        self._first = self._event()

    def end(self) -> Span:
        last = self._event()
        host, _ = super().end()
        return Span(host, 1e-3 * self._milliseconds(self._first, last))
