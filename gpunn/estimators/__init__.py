"""The scikit-learn shells: `MLPClassifier` and `MLPRegressor`, drop-ins for scikit-learn's own, and `MLPSearchCV`.

scikit-learn is imported when one of the names is first used. Without it the names exist, and making one raises
ImportError naming the extra.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .classifier import MLPClassifier
    from .regressor import MLPRegressor
    from .search import MLPSearchCV

__all__ = ["MLPClassifier", "MLPRegressor", "MLPSearchCV"]
_HOME = {"MLPClassifier": "classifier", "MLPRegressor": "regressor", "MLPSearchCV": "search"}


class _Absent:
    """Stands for an estimator where scikit-learn is not installed."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        raise ImportError(
            f'gpunn.{type(self).__name__} needs scikit-learn: pip install "gpunn[sklearn]"; '
            "gpunn.Sequential works without it"
        )

    @classmethod
    def from_tensors(cls, *arguments: Any, **options: Any) -> Any:
        """ImportError."""
        return cls()


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if importlib.util.find_spec("sklearn") is None:
        return type(name, (_Absent,), {"__doc__": "Needs scikit-learn."})
    return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
