"""What a window is timed with: the host's clock, and on a GPU its events beside it.

A clock waits for the device once at each end of a window, and nowhere within it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple


class Span(NamedTuple):
    """How long something took in seconds, by the host's clock and by the device's events, where it has any."""

    host: float
    device: float | None = None


class Clock:
    """The host's clock. `wait` waits for the device; on a CPU there is nothing to wait for."""

    def __init__(self, wait: Callable[[], Any] | None = None) -> None:
        self._wait = wait
        self._begun = 0.0

    def wait(self) -> None:
        """Until the device has done what it was asked for."""
        if self._wait is not None:
            self._wait()

    def begin(self) -> None:
        """A window begins."""
        self.wait()
        self._begun = time.perf_counter()

    def end(self) -> Span:
        """It ends."""
        self.wait()
        return Span(time.perf_counter() - self._begun)


class EventClock(Clock):
    """`event` makes and records an event; `milliseconds` is the time between two that are over."""

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
