"""gpunn's estimators, with the parameters and the complete `fit` of the scikit-learn contestant."""

from __future__ import annotations

import gpunn

from ..conventions import Task
from .scikit_learn import Estimator

PACKAGES = ("gpunn", "scikit-learn", "numpy")


def prepare(task: Task, threads: int) -> Estimator:
    """Prepare the contestant. The environment limits BLAS to `threads`."""
    return Estimator(task, gpunn.MLPClassifier, gpunn.MLPRegressor, device="cpu")
