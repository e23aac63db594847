"""Small things timed in one process: interleaved rounds in an order shuffled anew, windows of a least length."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

from . import ratios
from .clocks import Clock, Span

ROUNDS, SECONDS = 9, 0.1


class Timed:
    """Something that a device is asked for again and again.

    call   asks for it once
    batch  how often it is asked for before the device is waited for, so that its queue does not fill
    """

    def __init__(self, call: Callable[[], Any], batch: int = 256) -> None:
        self.call, self.batch = call, batch

    def window(self, clock: Clock, batches: int) -> Span:
        """So many batches, the device waited for at the end alone."""
        call = self.call
        clock.begin()
        for _ in range(batches * self.batch):
            call()
        return clock.end()

    def launch_seconds(self, clock: Clock, now: Callable[[], float]) -> float:
        """The host's seconds for asking once, the device not waited for."""
        call = self.call
        clock.wait()
        begun = now()
        for _ in range(self.batch):
            call()
        spent = now() - begun
        clock.wait()
        return spent / self.batch


def interleaved(
    things: Mapping[str, Timed], clock: Clock, *, rounds: int = ROUNDS, seconds: float = SECONDS, seed: int = 0
) -> dict[str, list[Span]]:
    """For each of them a span a round: the seconds of one call by the host's clock, and by events."""
    batches = {}
    for name, thing in things.items():
        thing.window(clock, 1)  # compiles, loads, allocates
        once = thing.window(clock, 1).host
        batches[name] = max(1, min(10_000, int(1.05 * seconds / max(once, 1e-7)) + 1))
    draws, names = random.Random(seed), list(things)
    found: dict[str, list[Span]] = {name: [] for name in names}
    for _ in range(rounds):
        draws.shuffle(names)
        for name in names:
            n = batches[name] * things[name].batch
            host, device = things[name].window(clock, batches[name])
            found[name].append(Span(host / n, None if device is None else device / n))
    return found


def microseconds(values: list[float]) -> dict[str, Any]:
    """Median and quartiles, of seconds, in µs."""
    q = ratios.quartiles(values)
    return {"us": short(1e6 * q.median), "us_quartiles": [short(1e6 * q.lower), short(1e6 * q.upper)]}


def short(value: float) -> float:
    """To five significant digits."""
    return float(f"{value:.5g}")
