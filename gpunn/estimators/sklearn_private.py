"""scikit-learn's private names that the estimators use, imported here only (tested with scikit-learn 1.7 to 1.9)."""

from __future__ import annotations

from sklearn.base import _fit_context as fit_context
from sklearn.neural_network._stochastic_optimizers import AdamOptimizer, SGDOptimizer
from sklearn.utils._param_validation import Interval, StrOptions, validate_parameter_constraints
from sklearn.utils.validation import _check_sample_weight as check_sample_weight

__all__ = [
    "AdamOptimizer",
    "Interval",
    "SGDOptimizer",
    "StrOptions",
    "check_sample_weight",
    "fit_context",
    "validate_parameter_constraints",
]
