"""Execution of launches: once, or step after step with regular returns to Python."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

POLL_SECONDS = 0.1  # maximum time of compiled code between two returns to Python


def execute(launches: Iterable[Callable[[], Any]]) -> None:
    """Execute launches in order. NumPy's floating-point warnings are off: the non-finite check reports instead."""
    with np.errstate(all="ignore"):
        for launch in launches:
            launch()


def is_executable(launches: list[Any]) -> bool:
    """True if the launches are one executable, which can run many steps."""
    return len(launches) == 1 and hasattr(launches[0], "repeat")


def run_steps(
    launches: list[Any], times: int, state: Any, *, seconds: float, rates: np.ndarray | None = None, first: int = 0
) -> int:
    """Run the launches repeatedly and return how often, fewer times after `seconds` or a step that is not finite.

    rates[t − first] is the learning rate of step t; None leaves the rate unchanged. Launches that are not an executable
    run once.
    """
    if times > 1 and is_executable(launches):
        return int(launches[0].repeat(times, state, rates, first, seconds=seconds))
    execute(launches)
    return 1


def run_all(launches: list[Any], times: int, state: Any) -> None:
    """Run the launches `times` times, with regular returns to Python for interrupts."""
    while times > 0:
        times -= run_steps(launches, times, state, seconds=POLL_SECONDS)
