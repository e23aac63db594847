"""What a metric is, and the names by which metrics are found again."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..kernels import get as kernel
from ..losses import BinaryCrossentropy, Loss
from ..recording import Array, Recorder
from ..validation import complete, enter, named

_NAMES: dict[str, type[Metric]] = {}


class Metric:
    """A number a row, or a few; the metric is made of their weighted means over rows by `compute`.

    A metric of one's own is a subclass with `record`: by kernels, or in Python by `ops.call`. It overrides `resolve`
    where it does not fit every loss, `n_sums` and `compute` where it takes more than one mean, and `get_config`
    where its constructor takes more than a name.
    """

    names: tuple[str, ...] = ()
    needs_all_rows = False  # whether it looks at all rows together

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        enter("a metric", cls, _NAMES, f"{__package__}.")

    def __init__(self, name: str | None = None) -> None:
        self.name = name or _name(type(self))

    def resolve(self, loss: Loss, n_out: int) -> None:
        """ValueError where the metric does not fit the loss's targets; n_out is 0 where it is not known yet."""

    def n_sums(self, n_out: int) -> int:
        """How many numbers a row gives."""
        return 1

    def record(self, ops: Recorder, a: Array, y: Array, w: Array, row_values: Array) -> None:
        """Record row_values = w · (the row's numbers), w (n,) the sample weights, a (n, n_out) y as the loss takes it.

        w is 1 without sample weights. `row_values` is (n,) where the size is 1, else (n, size), float64.
        """
        raise NotImplementedError(f"{type(self).__name__} must define record(self, ops, a, y, w, row_values)")

    def compute(self, mean: Any) -> float:
        """The metric from the mean over rows: a float where the size is 1, else an array (size,)."""
        return float(mean)

    def plan_key(self) -> Any:
        """The values that a plan records from the metric's attributes. A plan is recorded again if they change."""
        return self.name, repr(self.get_config())

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments beside the name, as JSON."""
        return {}

    def __repr__(self) -> str:
        arguments = [f"{k}={v!r}" for k, v in self.get_config().items()]
        arguments += [f"name={self.name!r}"] if self.name != _name(type(self)) else []
        return f"{type(self).__name__}({', '.join(arguments)})"

    # --- what the step calls ---

    def record_batch(self, ops: Recorder, a: Array, y: Array, w: Array, batch: Array) -> None:
        """Record batch = Σ row_values (size,), float64, over the rows of one batch."""
        if batch.shape[0] == 1:
            row_values = ops.new((a.shape[0],), np.float64)
            self.record(ops, a, y, w, row_values)
            ops(kernel("sum_all"), row_values, out=batch)
        elif batch.shape[0] > 1:
            table = ops.new((a.shape[0], batch.shape[0]), np.float64)
            self.record(ops, a, y, w, table)
            ops(kernel("column_sum"), table, out=batch)

    def record_sums(self, ops: Recorder, y: Array, batch: Array, sums: Array, state: Array) -> None:
        """Record what a batch adds to the sums (size,) over an epoch or a data set."""
        if batch.shape[0]:
            ops(kernel("accumulate"), batch, state, out=sums)

    def merge(self, parts: list[np.ndarray]) -> np.ndarray:
        """The sums (size,) over a set from those over its parts."""
        return np.asarray(np.sum(parts, axis=0))

    def value(self, sums: np.ndarray, weight: float, n_out: int) -> float:
        """The metric of a network with n_out outputs from the sums over rows of that weight."""
        return self.compute(float(sums[0]) / weight if len(sums) == 1 else sums / weight)


class NonDecomposableMetric(Metric):
    """A metric that no means over rows give: `compute_from_rows` gets all rows of an epoch or a set, on the host.

    Their outputs are kept for it, in training as each batch found them: (n, n_out) numbers beside targets and weights.
    It is not among the running numbers of a batch hook, and not among the training numbers of a fit on a stream, whose
    rows nobody counts. A metric of one's own is a subclass with `compute_from_rows`, written with NumPy or any library.
    """

    needs_all_rows = True

    def n_sums(self, n_out: int) -> int:
        return 0

    def compute_from_rows(self, a: np.ndarray, y: np.ndarray, w: np.ndarray | None) -> float:
        """The metric of the outputs a (n, n_out), targets y as the loss has them, and weights w (n,) or None."""
        raise NotImplementedError(f"{type(self).__name__} must define compute_from_rows(self, a, y, w)")


def target_format(metric: Metric, loss: Loss, n_out: int) -> str:
    """How outputs and targets tell classes under that loss: "labels", one integer a row; "columns", a yes or no each;
    "largest", the column of the largest one. ValueError where one output stands for no class."""
    if loss.targets == "class_index":
        return "labels"
    if isinstance(loss, BinaryCrossentropy):
        return "columns"
    if n_out == 1:
        raise ValueError(f"metric {metric.name!r} does not fit loss {loss.name!r} with one output: it counts classes")
    return "largest"


def built_in() -> list[str]:
    """The names of gpunn's own metrics."""
    return sorted(name for name, cls in _NAMES.items() if _is_ours(cls))


def get(metric: str | Metric | type[Metric]) -> Metric:
    """The metric of a name (which the history then uses), an object or a class. ValueError lists the names."""
    found = named("metric", metric, Metric, _NAMES, built_in())
    if found is None:
        raise TypeError(f"metrics must hold names or gpunn.metrics.Metric objects, got {type(metric).__name__}")
    if isinstance(metric, str):
        found.name = metric
    return found


def to_config(metric: Metric) -> dict[str, Any]:
    """The metric as JSON: which it is, its arguments, and its name in the history."""
    config = {"name": metric.name, **metric.get_config()}
    return {"metric": _name(type(metric)), **complete(metric, config)}


def from_config(config: dict[str, Any], custom: dict[str, Any] | None = None) -> Metric:
    """The inverse of `to_config`; `custom` maps the names of the user's own metrics to them."""
    name = config["metric"]
    found = (custom or {}).get(name) or _NAMES.get(name)
    if found is None:
        raise ValueError(f"metric {name!r} is not built in: pass custom={{{name!r}: its class}}")
    if isinstance(found, Metric):
        return found
    arguments = {k: v for k, v in config.items() if k != "metric"}
    return found(**arguments)


def _name(cls: type[Metric]) -> str:
    return next(iter(vars(cls).get("names", ())), cls.__name__)


def _is_ours(cls: type[Metric]) -> bool:
    return cls.__module__.rpartition(".")[0] == __package__
