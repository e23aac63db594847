"""Tables of numbers and categories: read CSV files, encode their columns for a network, decode its outputs.

`TableEncoder.from_training_rows` learns the encoding from the training rows. `TableModel` saves it with the network, so
that predictions take a table as the user has it and return the user's labels and units.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .encoder import TableEncoder
from .model import TableModel

if TYPE_CHECKING:
    from .estimators import TabularClassifier, TabularRegressor

__all__ = ["TableEncoder", "TableModel", "TabularClassifier", "TabularRegressor"]


def __getattr__(name: str) -> Any:
    if name not in ("TabularClassifier", "TabularRegressor"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(".estimators", __name__), name)
