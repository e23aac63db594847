"""A timeout for blocking MPI calls: a process that waits too long for other ranks reports it and ends the job."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

POLL_SECONDS = 0.25


class Watchdog:
    """Calls `end(message)` from a separate thread if a blocking call exceeds its deadline."""

    def __init__(self, end: Callable[[str], None]) -> None:
        self._end = end
        self._until = math.inf
        self._message: Callable[[], str] = str
        self._thread: threading.Thread | None = None

    @contextmanager
    def deadline(self, seconds: float, message: Callable[[], str]) -> Iterator[None]:
        """Limit the body to `seconds`. `message()` describes the blocking call if it takes longer."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._poll, name="gpunn watchdog", daemon=True)
            self._thread.start()
        self._message = message
        self._until = time.monotonic() + seconds
        try:
            yield
        finally:
            self._until = math.inf

    def _poll(self) -> None:
        while True:
            time.sleep(POLL_SECONDS)
            if time.monotonic() > self._until:
                self._until = math.inf
                self._end(self._message())
