"""The time of a step by the number of processes: a model with five constants, fitted to measurements.

    t(P) = fixed + compute · r w + update · w + [P > 1] (latency · ⌈log₂ P⌉ + 2 (P − 1)/P · bytes / bandwidth)

r = B/P rows per process, w weights (parameters). Every process updates all parameters. Each step all-reduces the flat
gradient once: its bytes are sent as in a ring, its latency is that of a tree (Thakur, Rabenseifner, Gropp 2005).
The constants are ≥ 0 and minimize squared relative errors; their uncertainty comes from resampled residuals.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

MAX_EXTRAPOLATION = 64  # times the largest measured number of processes
DRAWS = 400
BAND = (5.0, 95.0)  # percent of the draws below the band's lower and upper edge
CONSTANTS = ("fixed", "compute", "update", "latency", "per byte")
ASSUMPTIONS = (
    "one all-reduce of the whole gradient per step, not overlapped with computation",
    "all processes are equally fast, on a network like the measured one: its latency grows as log2 P,",
    "every process has its full bandwidth; reading, validation and checkpoints take no time",
)


@dataclass(frozen=True)
class Load:
    """A step: the processes share `batch` rows of a network with `parameters` numbers of `itemsize` bytes."""

    processes: int
    batch: int
    parameters: int
    itemsize: int = 4

    def terms(self) -> list[float]:
        """The factor of each constant."""
        P, w = self.processes, self.parameters
        shared = P > 1
        return [
            1.0,
            math.ceil(self.batch / P) * w,
            w,
            math.ceil(math.log2(P)) if shared else 0.0,
            2 * (P - 1) / P * w * self.itemsize if shared else 0.0,
        ]


@dataclass(frozen=True)
class Model:
    """Constants in seconds, those of every resample (DRAWS, 5), and the largest measured number of processes."""

    constants: np.ndarray
    draws: np.ndarray
    most: int

    def predict(self, load: Load) -> tuple[float, float, float]:
        """(seconds, lower, upper) of a step. ValueError beyond MAX_EXTRAPOLATION."""
        self._check(load)
        low, high = np.percentile(self.draws @ np.array(load.terms()), BAND)
        return float(self.constants @ np.array(load.terms())), float(low), float(high)

    def efficiency(self, one: Load, many: Load) -> tuple[float, float, float]:
        """(efficiency, lower, upper): rows per second and process of `many` relative to `one`."""
        self._check(many)

        def of(constants: np.ndarray) -> Any:
            first, last = (constants @ np.array(load.terms()) for load in (one, many))
            return (many.batch / many.processes / last) / (one.batch / one.processes / first)

        low, high = np.percentile(of(self.draws), BAND)
        return float(of(self.constants)), float(low), float(high)

    def _check(self, load: Load) -> None:
        if load.processes > MAX_EXTRAPOLATION * self.most:
            raise ValueError(
                f"processes must be at most {MAX_EXTRAPOLATION} times the measured {self.most} for a prediction, "
                f"got {load.processes}"
            )

    def to_json(self) -> dict[str, list[float]]:
        """Each constant with its band: seconds (compute: per row and weight, update: per weight, bytes: per byte)."""
        low, high = np.percentile(self.draws, BAND, axis=0)
        return {
            name: [float(f"{v:.4g}") for v in (self.constants[k], low[k], high[k])] for k, name in enumerate(CONSTANTS)
        }


def fit(loads: Sequence[Load], seconds: Sequence[float], seed: int = 0) -> Model:
    """Fit the model to measured steps. ValueError if they do not determine all constants."""
    terms, t = np.array([load.terms() for load in loads]), np.array(seconds, dtype=float)
    if not (np.isfinite(t).all() and (t > 0).all()):
        raise ValueError("seconds must be finite numbers > 0")
    if np.linalg.matrix_rank(terms / np.maximum(terms.max(axis=0), 1e-300)) < len(CONSTANTS):
        raise ValueError(
            "measurements must determine all constants: measure one process and more, several batches, and networks of "
            "several sizes"
        )
    constants = _least_squares(terms, t)
    fitted = terms @ constants
    residuals = t / fitted - 1
    # five fitted constants reduce the residuals by this factor
    residuals = residuals * math.sqrt(len(t) / max(1, len(t) - len(CONSTANTS)))
    rng = np.random.default_rng(seed)
    draws = [_least_squares(terms, fitted * np.maximum(1 + rng.choice(residuals, len(t)), 0.05)) for _ in range(DRAWS)]
    return Model(constants, np.array(draws), max(load.processes for load in loads))


def _least_squares(terms: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Constants ≥ 0 with the least squares of relative errors."""
    from scipy.optimize import nnls

    # scaled columns, because some constants are nanoseconds and others milliseconds
    relative = terms / t[:, None]
    scale = np.linalg.norm(relative, axis=0)
    found, _ = nnls(relative / scale, np.ones(len(t)))
    return np.asarray(found / scale)
