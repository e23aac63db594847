"""Time short operations in one process: interleaved rounds in a shuffled order, windows of a minimum length."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

from . import ratios
from .clocks import Clock, Span

ROUNDS, SECONDS = 9, 0.1


class Timed:
    """An operation that is launched repeatedly.

    call   launches it once
    batch  number of launches before a synchronization, so that the device's queue does not fill
    """

    def __init__(self, call: Callable[[], Any], batch: int = 256) -> None:
        self.call, self.batch = call, batch

    def window(self, clock: Clock, batches: int) -> Span:
        """Time batches of launches, with one synchronization at the end."""
        call = self.call
        clock.begin()
        for _ in range(batches * self.batch):
            call()
        return clock.end()

    def launch_seconds(self, clock: Clock, now: Callable[[], float]) -> float:
        """The host's seconds per launch, without synchronization."""
        call = self.call
        clock.wait()
        begun = now()
        for _ in range(self.batch):
            call()
        spent = now() - begun
        clock.wait()
        return spent / self.batch


def interleaved(
    operations: Mapping[str, Timed], clock: Clock, *, rounds: int = ROUNDS, seconds: float = SECONDS, seed: int = 0
) -> dict[str, list[Span]]:
    """One span per operation and round: seconds per call by the host's clock, and by events."""
    batches = {}
    for name, operation in operations.items():
        operation.window(clock, 1)  # compiles, loads, allocates
        once = operation.window(clock, 1).host
        batches[name] = max(1, min(10_000, int(1.05 * seconds / max(once, 1e-7)) + 1))
    draws, names = random.Random(seed), list(operations)
    found: dict[str, list[Span]] = {name: [] for name in names}
    for _ in range(rounds):
        draws.shuffle(names)
        for name in names:
            n = batches[name] * operations[name].batch
            host, device = operations[name].window(clock, batches[name])
            found[name].append(Span(host / n, None if device is None else device / n))
    return found


def microseconds(values: list[float]) -> dict[str, Any]:
    """Median and quartiles of seconds, in µs."""
    q = ratios.quartiles(values)
    return {"us": short(1e6 * q.median), "us_quartiles": [short(1e6 * q.lower), short(1e6 * q.upper)]}


def short(value: float) -> float:
    """Round to five significant digits."""
    return float(f"{value:.5g}")
