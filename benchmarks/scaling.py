"""The time of a step by the number of processes: a model with four constants, fitted to what was measured.

    t(P) = fixed + compute · r w + update · w + [P > 1] (latency · ⌈log₂ P⌉ + 2 (P − 1)/P · bytes / bandwidth)

r = B/P rows a process, w weights (parameters); every process updates all parameters, and one sum of the flat gradient,
of so many bytes, a step crosses the network as in a ring, its latency as in a tree. (Thakur, Rabenseifner, Gropp 2005)
Constants are ≥ 0, by least squares of relative errors; their uncertainty by drawing residuals anew.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

MAX_EXTRAPOLATION = 64  # times the most processes that were measured, and no further
DRAWS = 400
BAND = (5.0, 95.0)  # percent of the draws below the band's lower and upper edge
CONSTANTS = ("fixed", "compute", "update", "latency", "per byte")
ASSUMPTIONS = (
    "one sum of the whole gradient a step, not overlapped with computing",
    "all processes equally fast, on a network like the measured one: its latency grows as log2 P,",
    "its bandwidth is every process's own; reading, validation and checkpoints cost nothing",
)


@dataclass(frozen=True)
class Load:
    """A step: so many processes share `batch` rows of a network of so many parameters of `itemsize` bytes."""

    processes: int
    batch: int
    parameters: int
    itemsize: int = 4

    def terms(self) -> list[float]:
        """What each constant is multiplied by."""
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
    """Constants in seconds, those of every draw (DRAWS, 5), and the most processes that were measured."""

    constants: np.ndarray
    draws: np.ndarray
    most: int

    def predict(self, load: Load) -> tuple[float, float, float]:
        """(seconds, lower, upper) of a step. ValueError beyond what a prediction may be made of."""
        self._check(load)
        low, high = np.percentile(self.draws @ np.array(load.terms()), BAND)
        return float(self.constants @ np.array(load.terms())), float(low), float(high)

    def efficiency(self, one: Load, many: Load) -> tuple[float, float, float]:
        """(efficiency, lower, upper): the rows a second and process of `many` over those of `one`."""
        self._check(many)

        def of(constants: np.ndarray) -> Any:
            first, last = (constants @ np.array(load.terms()) for load in (one, many))
            return (many.batch / many.processes / last) / (one.batch / one.processes / first)

        low, high = np.percentile(of(self.draws), BAND)
        return float(of(self.constants)), float(low), float(high)

    def _check(self, load: Load) -> None:
        if load.processes > MAX_EXTRAPOLATION * self.most:
            raise ValueError(
                f"{load.processes} processes are more than {MAX_EXTRAPOLATION} times the {self.most} that were measured: "
                "no prediction is made so far from a measurement"
            )

    def to_json(self) -> dict[str, list[float]]:
        """Each constant with its band: seconds; of compute a row and weight, of update a weight, of a byte a byte."""
        low, high = np.percentile(self.draws, BAND, axis=0)
        return {
            name: [float(f"{v:.4g}") for v in (self.constants[k], low[k], high[k])] for k, name in enumerate(CONSTANTS)
        }


def fit(loads: Sequence[Load], seconds: Sequence[float], seed: int = 0) -> Model:
    """The model of measured steps. ValueError where they do not tell all constants."""
    terms, t = np.array([load.terms() for load in loads]), np.array(seconds, dtype=float)
    if not (np.isfinite(t).all() and (t > 0).all()):
        raise ValueError("seconds must be finite numbers > 0")
    if np.linalg.matrix_rank(terms / np.maximum(terms.max(axis=0), 1e-300)) < len(CONSTANTS):
        raise ValueError(
            "these measurements do not tell the constants apart: measure one process and more, several batches, and "
            "networks of several sizes"
        )
    constants = _least_squares(terms, t)
    fitted = terms @ constants
    residuals = t / fitted - 1
    # a fit of five constants leaves residuals that are too small by so much
    residuals = residuals * math.sqrt(len(t) / max(1, len(t) - len(CONSTANTS)))
    rng = np.random.default_rng(seed)
    draws = [_least_squares(terms, fitted * np.maximum(1 + rng.choice(residuals, len(t)), 0.05)) for _ in range(DRAWS)]
    return Model(constants, np.array(draws), max(load.processes for load in loads))


def _least_squares(terms: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Constants ≥ 0 with the least squares of relative errors."""
    from scipy.optimize import nnls

    # columns of one size, for numbers that are nanoseconds beside ones that are milliseconds
    relative = terms / t[:, None]
    scale = np.linalg.norm(relative, axis=0)
    found, _ = nnls(relative / scale, np.ones(len(t)))
    return np.asarray(found / scale)
