"""gpunn's estimators in the place of scikit-learn's: the same parameters, the same `fit` from beginning to end."""

from __future__ import annotations

import gpunn

from ..conventions import Task
from .scikit_learn import Estimator

PACKAGES = ("gpunn", "scikit-learn", "numpy")


def prepare(task: Task, threads: int) -> Estimator:
    """`threads` is what the environment has told BLAS."""
    return Estimator(task, gpunn.MLPClassifier, gpunn.MLPRegressor, device="cpu")
