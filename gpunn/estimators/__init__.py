"""scikit-learn's estimators on gpunn's network: `MLPClassifier`, `MLPRegressor` and `MLPSearchCV`.

scikit-learn is imported when one of the names is first used. Without it the names exist, and their constructors raise
ImportError that names the extra.
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


class _Missing:
    """Base of the estimators' placeholders without scikit-learn."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        raise ImportError(
            f'gpunn.{type(self).__name__} needs scikit-learn: pip install "gpunn[sklearn]"; '
            "gpunn.Sequential works without it"
        )

    @classmethod
    def from_tensors(cls, *arguments: Any, **options: Any) -> Any:
        """Raise ImportError."""
        return cls()


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if importlib.util.find_spec("sklearn") is None:
        return type(name, (_Missing,), {"__doc__": "Needs scikit-learn."})
    return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
