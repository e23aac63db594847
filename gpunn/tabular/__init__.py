"""Tables of numbers, categories and dates: encode their columns, train networks on them, and predict.

`TabularClassifier` and `TabularRegressor` take tables of any kind. Files of `gpunn train` contain the same models, and
the way in which the columns of a CSV file are read.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .estimators import TabularClassifier, TabularRegressor

__all__ = ["TabularClassifier", "TabularRegressor"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(".estimators", __name__), name)
