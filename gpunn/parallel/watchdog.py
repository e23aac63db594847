"""A watch over waiting: a process that waits for the others beyond its patience says so and ends the job."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

POLL_SECONDS = 0.25  # seconds between two looks at the clock


class Watchdog:
    """Calls `end(message)` from a thread of its own where a wait lasts longer than it may."""

    def __init__(self, end: Callable[[str], None]) -> None:
        self._end = end
        self._until = math.inf
        self._say: Callable[[], str] = str
        self._thread: threading.Thread | None = None

    @contextmanager
    def deadline(self, seconds: float, say: Callable[[], str]) -> Iterator[None]:
        """The body is a wait for others; `say()` tells what was waited for, where it lasts longer than `seconds`."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._look, name="gpunn watch", daemon=True)
            self._thread.start()
        self._say, self._until = say, time.monotonic() + seconds
        try:
            yield
        finally:
            self._until = math.inf

    def _look(self) -> None:
        while True:
            time.sleep(POLL_SECONDS)
            if time.monotonic() > self._until:
                self._until = math.inf
                self._end(self._say())
