"""Metrics of a fit and of `evaluate`: weighted means over rows, gathered beside the loss in the same pass."""

from __future__ import annotations

import math
from typing import Any

from .kernels import get as kernel
from .losses import BinaryCrossentropy, Loss
from .recording import Array, Recorder

_NAMES: dict[str, type[Metric]] = {}


class Metric:
    """A number a row; the metric is its weighted mean over rows, then `finish`.

    A metric of one's own is a subclass with `record`, and `resolve` where it does not fit every loss.
    """

    names: tuple[str, ...] = ()

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        names = vars(cls).get("names", ())
        for name in names or (cls.__name__,):
            if name in _NAMES and _NAMES[name].__module__ == __name__:
                raise TypeError(f"gpunn has a metric {name!r} already: give yours another name, files keep it")
        _NAMES.update(dict.fromkeys(names, cls))

    def __init__(self, name: str | None = None) -> None:
        self.name = name or _name(type(self))

    def resolve(self, loss: Loss, n_out: int) -> None:
        """ValueError where the metric does not fit the loss's targets."""

    def record(self, ops: Recorder, a: Array, y: Array, w: Array, terms: Array) -> None:
        """Record terms = w · (the row's number), shapes (n, n_out) or (n,), (n,), (n,)."""
        raise NotImplementedError

    def finish(self, mean: float) -> float:
        """The metric from the mean over rows."""
        return mean


class Accuracy(Metric):
    """The share of rows (of outputs, where each is a yes or no) that are classified right.

    Which of the three meanings applies is decided by the loss: labels, rows of probabilities, or yes and no a column.
    """

    names = ("accuracy", "acc")

    def resolve(self, loss: Loss, n_out: int) -> None:
        self._kernel, self._numbers = "categorical_accuracy", {}
        if loss.targets == "labels":
            self._kernel = "sparse_accuracy"
        elif isinstance(loss, BinaryCrossentropy):
            self._kernel, self._numbers = "binary_accuracy", {"threshold": 0.0 if loss.takes_logits else 0.5}
        elif n_out == 1:
            raise ValueError(f"metric 'accuracy' does not fit loss {loss.name!r} with one output: it counts classes")

    def record(self, ops: Recorder, a: Array, y: Array, w: Array, terms: Array) -> None:
        ops(kernel(self._kernel), a, y, w, out=terms, **self._numbers)


class _OfValues(Metric):
    kernel_name: str

    def resolve(self, loss: Loss, n_out: int) -> None:
        if loss.targets != "values":
            raise ValueError(f"metric {self.name!r} compares values, but loss {loss.name!r} takes labels")

    def record(self, ops: Recorder, a: Array, y: Array, w: Array, terms: Array) -> None:
        ops(kernel(self.kernel_name), a, y, w, out=terms)


class MeanAbsoluteError(_OfValues):
    """The mean over rows and outputs of |a − y|, in the units of y."""

    names = ("mean_absolute_error", "mae")
    kernel_name = "absolute_error"


class MeanSquaredError(_OfValues):
    """The mean over rows and outputs of (a − y)², in the square of the units of y."""

    names = ("mean_squared_error", "mse")
    kernel_name = "squared_error"


class RootMeanSquaredError(_OfValues):
    """The square root of the mean over rows and outputs of (a − y)², in the units of y."""

    names = ("root_mean_squared_error", "rmse")
    kernel_name = "squared_error"

    def finish(self, mean: float) -> float:
        return math.sqrt(mean)


def get(metric: str | Metric | type[Metric]) -> Metric:
    """The metric of a name (which the history then uses), an object or a class. ValueError lists the names."""
    if isinstance(metric, Metric):
        return metric
    if isinstance(metric, type) and issubclass(metric, Metric):
        return metric()
    if isinstance(metric, str):
        if metric not in _NAMES:
            raise ValueError(f"metric {metric!r} is unknown; there are {', '.join(sorted(_NAMES))}")
        return _NAMES[metric](metric)
    raise TypeError(f"metrics must hold names or gpunn.metrics.Metric objects, got {type(metric).__name__}")


def to_config(metric: Metric) -> dict[str, Any]:
    """The metric as JSON: which it is, and its name in the history."""
    return {"metric": _name(type(metric)), "name": metric.name}


def _name(cls: type[Metric]) -> str:
    return next(iter(vars(cls).get("names", ())), cls.__name__)


def from_config(config: dict[str, Any], custom: dict[str, Any] | None = None) -> Metric:
    """The inverse of `to_config`; `custom` maps the names of the user's own metrics to them."""
    name = config["metric"]
    found = (custom or {}).get(name) or _NAMES.get(name)
    if found is None:
        raise ValueError(f"metric {name!r} is not built in: pass custom={{{name!r}: its class}}")
    return found if isinstance(found, Metric) else found(config["name"])
