"""Medians and quartiles of per-round ratios, which are more stable than times on a shared machine."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Quartiles(NamedTuple):
    """The lower quartile, the median and the upper quartile."""

    lower: float
    median: float
    upper: float


def quartiles(values: Sequence[float]) -> Quartiles:
    """Quartiles by linear interpolation, including both extremes. ValueError without values."""
    if not values:
        raise ValueError("no values to take quartiles of")
    if len(values) == 1:
        return Quartiles(values[0], values[0], values[0])
    return Quartiles(*statistics.quantiles(values, n=4, method="inclusive"))


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Quartiles:
    """The quartiles of ours/theirs, round by round. ValueError if the numbers of rounds differ."""
    return quartiles([a / b for a, b in zip(ours, theirs, strict=True)])


def best(times: Mapping[str, Sequence[float]]) -> str | None:
    """The name with the smallest median; None if there are no times."""
    return min(times, key=lambda name: statistics.median(times[name]), default=None)
