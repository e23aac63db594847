"""scikit-learn's base classes where it is installed, otherwise the part of their interface that this package uses."""

from __future__ import annotations

import importlib.util
import inspect
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING or importlib.util.find_spec("sklearn") is not None:
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
    from sklearn.exceptions import DataConversionWarning, NotFittedError
else:

    class NotFittedError(ValueError, AttributeError):
        """The estimator is not fitted."""

    class DataConversionWarning(UserWarning):
        """A target was given as a column."""

    class BaseEstimator:
        """Parameters by the names of the constructor's arguments."""

        def get_params(self, deep: bool = True) -> dict[str, Any]:
            """Return the parameters by name."""
            return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

        def set_params(self, **parameters: Any) -> Any:
            """Set parameters. ValueError for an unknown name."""
            unknown = set(parameters) - set(self.get_params())
            if unknown:
                raise ValueError(f"parameters must be {', '.join(self.get_params())}, got {sorted(unknown)}")
            vars(self).update(parameters)
            return self

        def __repr__(self) -> str:
            defaults = inspect.signature(type(self)).parameters
            changed = {name: value for name, value in self.get_params().items() if value != defaults[name].default}
            return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in changed.items())})"

    class ClassifierMixin:
        """The score of a classifier."""

        def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
            """Return the weighted share of rows whose label is predicted."""
            import numpy as np

            return float(np.average(np.asarray(y) == self.predict(X), weights=sample_weight))

    class RegressorMixin:
        """The score of a regressor."""

        def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
            """Return R² = 1 − Σ w(y − a)² / Σ w(y − ȳ)²."""
            import numpy as np

            y = np.asarray(y, dtype=np.float64)
            mean = np.average(y, weights=sample_weight)
            residual, total = (np.average((y - a) ** 2, weights=sample_weight) for a in (self.predict(X), mean))
            return float(1 - residual / total)


__all__ = ["BaseEstimator", "ClassifierMixin", "DataConversionWarning", "NotFittedError", "RegressorMixin"]
