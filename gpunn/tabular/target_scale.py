"""The standardization of numeric targets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..validation import finite, positive

MAX_TARGET = 1e150  # squares of targets, and float32 outputs times the scale, are finite in float64 up to here


def mean_and_deviation(x: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation of x (n,), scaled first, so that no square overflows or underflows."""
    largest = float(np.abs(x).max()) or 1.0
    scaled = x / largest
    return float(scaled.mean()) * largest, float(scaled.std()) * largest


@dataclass(frozen=True)
class TargetScale:
    """Standardized targets z = (y − mean)/deviation; predictions a = z · deviation + mean stay in [low, high].

    mean, deviation  of the training targets; the deviation is 1 if all are equal
    low, high        the range of the training targets
    """

    mean: float
    deviation: float
    low: float
    high: float

    @classmethod
    def fit(cls, y: np.ndarray) -> TargetScale:
        """Learn the scale from the training targets (n,)."""
        mean, deviation = mean_and_deviation(y)
        return cls(mean, deviation or 1.0, float(y.min()), float(y.max()))

    def standardize(self, y: np.ndarray) -> np.ndarray:
        """The standardized targets (n, 1) of y (n,)."""
        z: np.ndarray = ((y - self.mean) / self.deviation)[:, None]
        return z

    def restore(self, z: np.ndarray) -> np.ndarray:
        """The predictions in units of y, of any shape."""
        a: np.ndarray = np.clip(z * self.deviation + self.mean, self.low, self.high)
        return a

    def get_config(self) -> dict[str, Any]:
        """The scale as JSON data."""
        return {"mean": self.mean, "scale": self.deviation, "range": [self.low, self.high]}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> TargetScale:
        """The inverse of `get_config`. ValueError, KeyError or TypeError if the data is invalid."""
        low, high = (finite("range", each) for each in config["range"])
        if low > high:
            raise ValueError(f"range must increase, got {config['range']}")
        return cls(finite("mean", config["mean"]), positive("scale", config["scale"]), low, high)
