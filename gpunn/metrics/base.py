"""The base classes of metrics, and the registry of their names."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..kernels import get as kernel
from ..losses import BinaryCrossentropy, Loss
from ..recording import Array, Recorder
from ..registry import Registry, check_config, name_of, names_of


class Metric:
    """A metric that is computed from weighted means over rows.

    Each row has `n_sums` values. `record` stores each row's values times its weight; the step sums them. `compute`
    turns the means into the metric. A subclass defines `record`, with kernels or in Python by ``ops.call_python``. It
    overrides `resolve` if it does not fit every loss, `n_sums` and `compute` if it needs more than one mean, and
    `get_config` if its constructor has arguments other than the name.

    Parameters
    ----------
    name : str or None
        The key in the history. By default the first of `names`, or the name of the class.

    Attributes
    ----------
    names : tuple of str
        The names that strings may use. Files store the first one, or the name of the class if there are none.
    needs_all_rows : bool
        True for a `NonDecomposableMetric`.

    Examples
    --------
    >>> class Bias(gpunn.metrics.Metric):
    ...     def record(self, ops, a, y, w, row_values):
    ...         def evaluate():
    ...             row_values[...] = w * (a - y).mean(axis=1)
    ...
    ...         ops.call_python(evaluate, reason="Bias is written in Python")
    """

    names: tuple[str, ...] = ()
    needs_all_rows = False

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        REGISTRY.check_free(names_of(cls) or (name_of(cls),))
        REGISTRY.register(cls, *names_of(cls))

    def __init__(self, name: str | None = None) -> None:
        self.name = name or name_of(type(self))

    def resolve(self, loss: Loss, n_out: int) -> None:
        """Prepare the metric for a loss. `n_out` is 0 if it is not known yet.

        Raises
        ------
        ValueError
            If the metric does not fit the loss's targets.
        """

    def n_sums(self, n_out: int) -> int:
        """The number of values per row for a network with `n_out` outputs."""
        return 1

    def record(self, ops: Recorder, a: Array, y: Array, w: Array, row_values: Array) -> None:
        """Record the values of each row, times its weight.

        Parameters
        ----------
        ops : Recorder
        a : array, shape (n, n_out)
            The network's outputs.
        y : array, shape (n, n_out) or (n,)
            The targets, as the loss takes them.
        w : array, shape (n,)
            The sample weights; 1 if there are none.
        row_values : float64 array, shape (n,) if `n_sums` is 1, else (n, n_sums)
            Receives the weighted values.
        """
        raise NotImplementedError(f"{type(self).__name__} must define record(self, ops, a, y, w, row_values)")

    def compute(self, mean: Any) -> float:
        """Compute the metric from the weighted mean over rows: a float if `n_sums` is 1, else an array (n_sums,)."""
        return float(mean)

    def plan_key(self) -> Any:
        """The attributes that a recorded step depends on. The step is recorded again when they change."""
        return self.name, repr(self.get_config())

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments except the name, as JSON."""
        return {}

    def __repr__(self) -> str:
        arguments = [f"{k}={v!r}" for k, v in self.get_config().items()]
        arguments += [f"name={self.name!r}"] if self.name != name_of(type(self)) else []
        return f"{type(self).__name__}({', '.join(arguments)})"

    # The methods that a step and an epoch call. A metric overrides them if sums over rows are not enough.

    def record_batch(self, ops: Recorder, a: Array, y: Array, w: Array, batch: Array) -> None:
        """Record the sums over the rows of one batch, `batch` (n_sums,), float64."""
        if batch.shape[0] == 1:
            row_values = ops.new((a.shape[0],), np.float64)
            self.record(ops, a, y, w, row_values)
            ops(kernel("sum_all"), row_values, out=batch)
        elif batch.shape[0] > 1:
            table = ops.new((a.shape[0], batch.shape[0]), np.float64)
            self.record(ops, a, y, w, table)
            ops(kernel("column_sum"), table, out=batch)

    def record_sums(self, ops: Recorder, y: Array, batch: Array, sums: Array, state: Array) -> None:
        """Record the addition of a batch to the sums (n_sums,) of an epoch or a data set."""
        if batch.shape[0]:
            ops(kernel("accumulate"), batch, state, out=sums)

    def merge(self, parts: list[np.ndarray]) -> np.ndarray:
        """Return the sums (n_sums,) of a data set from those of its parts."""
        return np.asarray(np.sum(parts, axis=0))

    def value(self, sums: np.ndarray, weight: float, n_out: int) -> float:
        """Return the metric of a network with `n_out` outputs from the sums over rows of that total weight."""
        return self.compute(float(sums[0]) / weight if len(sums) == 1 else sums / weight)


REGISTRY: Registry[Metric] = Registry("metric", Metric, __package__)


class NonDecomposableMetric(Metric):
    """A metric that needs all rows of an epoch or a data set together, such as the area under a curve.

    A subclass defines `compute_from_rows` with NumPy or any library. The outputs of all rows are stored for it, in
    training as each batch produced them: (n, n_out) numbers, in addition to targets and weights. Such a metric is not
    available to batch callbacks, nor as a training metric of a fit on a stream, whose number of rows is not known.
    """

    needs_all_rows = True

    def n_sums(self, n_out: int) -> int:
        return 0

    def compute_from_rows(self, a: np.ndarray, y: np.ndarray, w: np.ndarray | None) -> float:
        """Compute the metric on the host.

        Parameters
        ----------
        a : array, shape (n, n_out)
            The network's outputs.
        y : array, shape (n, n_out) or (n,)
            The targets, as the loss takes them.
        w : array, shape (n,), or None
            The sample weights.
        """
        raise NotImplementedError(f"{type(self).__name__} must define compute_from_rows(self, a, y, w)")


def target_format(metric: Metric, loss: Loss, n_out: int) -> str:
    """Return the form in which outputs and targets encode classes for a loss.

    "class_index" is one integer per row, "one_hot" one column per class, "binary" one yes or no per column. ValueError
    if one output cannot encode classes.
    """
    if loss.targets == "class_index":
        return "class_index"
    if isinstance(loss, BinaryCrossentropy):
        return "binary"
    if n_out == 1:
        raise ValueError(f"metric {metric.name!r} does not fit loss {loss.name!r} with one output: it needs classes")
    return "one_hot"


def built_in() -> list[str]:
    """The names of the built-in metrics."""
    return REGISTRY.built_in()


def get(metric: str | Metric | type[Metric]) -> Metric:
    """Return a metric from its name, an object or a class.

    Parameters
    ----------
    metric : str, Metric or class
        A name is also the key in the history.

    Returns
    -------
    Metric

    Raises
    ------
    ValueError
        If the name is unknown. The message lists the built-in names.
    TypeError
        If the argument is anything else.
    """
    found = REGISTRY.get(metric)
    if found is None:
        raise TypeError(f"metrics must be names or gpunn.metrics.Metric objects, got {type(metric).__name__}")
    if isinstance(metric, str):
        found.name = metric
    return found


def to_config(metric: Metric) -> dict[str, Any]:
    """Describe a metric as JSON: its class, its arguments, and its name in the history."""
    config = {"name": metric.name, **metric.get_config()}
    return {"metric": name_of(type(metric)), **check_config(metric, config)}


def from_config(config: dict[str, Any], custom: dict[str, Any] | None = None) -> Metric:
    """Make the metric that `to_config` described. `custom` maps the names of user classes to them."""
    return REGISTRY.from_config(config, custom, key="metric")
