"""Launches captured on branches: streams of their own, whose events say which branch waits for which."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

from ...kernels import DeviceLaunch


class StreamSet:
    """Streams. What is launched on them while they capture becomes a graph, which holds what it needs as long as they
    live: memory for products on those where `products` says that there are any."""

    def __init__(self, backend: Any, products: Sequence[bool]) -> None:
        self._cuda = backend.xp.cuda
        self.products = products
        self.streams = [self._cuda.Stream(non_blocking=True) for _ in products]
        # nothing may be allocated while they capture
        self._workspaces = [
            backend.allocate_workspace(stream) for stream, any_ in zip(self.streams, products, strict=True) if any_
        ]

    def can_host(self, products: Sequence[bool]) -> bool:
        """Whether there are so many, with memory for products where it is wanted."""
        enough = all(has or not wanted for wanted, has in zip(products, self.products, strict=False))
        return enough and len(products) <= len(self.products)

    def record_event(self, stream: int) -> Any:
        """The place that a branch has reached."""
        event = self._cuda.Event(disable_timing=True)
        self.streams[stream].record(event)
        return event

    def launch(self, stream: int, launch: DeviceLaunch, step: int) -> None:
        """A launch of the step-th of several steps on a branch, unless an earlier step has done it for this one."""
        if not (step and launch.first_step_only):
            with self.streams[stream]:
                launch()

    def wait(self, stream: int, place: Any) -> None:
        """What follows on a branch comes after all before that place; a branch joins a capture by waiting."""
        self.streams[stream].wait_event(place)

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
