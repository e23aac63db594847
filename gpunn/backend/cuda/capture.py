"""Capture of launches on several streams, ordered by events."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

from ...kernels import DeviceLaunch


class StreamSet:
    """Streams whose launches are captured as a graph. `products` marks the streams with products, whose workspaces live
    as long as the set."""

    def __init__(self, backend: Any, products: Sequence[bool]) -> None:
        self._cuda = backend.xp.cuda
        self.products = products
        self.streams = [self._cuda.Stream(non_blocking=True) for _ in products]
        # nothing may be allocated during a capture
        self._workspaces = [
            backend.allocate_workspace(stream) for stream, needed in zip(self.streams, products, strict=True) if needed
        ]

    def can_host(self, products: Sequence[bool]) -> bool:
        """True if there are enough streams, with a workspace where one is needed."""
        enough = all(has or not needed for needed, has in zip(products, self.products, strict=False))
        return enough and len(products) <= len(self.products)

    def record_event(self, stream: int) -> Any:
        """Record an event on a stream."""
        event = self._cuda.Event(disable_timing=True)
        self.streams[stream].record(event)
        return event

    def launch(self, stream: int, launch: DeviceLaunch, step: int) -> None:
        """Launch on a stream in one of several steps, unless the launch belongs to the first step only."""
        if not (step and launch.first_step_only):
            with self.streams[stream]:
                launch()

    def wait(self, stream: int, event: Any) -> None:
        """Make a stream wait for an event. A stream joins a capture by waiting for one that captures."""
        self.streams[stream].wait_event(event)

    def capture(self, record: Callable[[], None]) -> Any:
        """Capture what `record` launches as a graph. The first stream starts first and waits for all others at the end.

        If an error is raised, the capture is ended first.
        """
        main = self.streams[0]
        main.begin_capture()
        try:
            record()
        except BaseException:
            with contextlib.suppress(Exception):  # the first error is raised
                main.end_capture()
            raise
        return main.end_capture()
