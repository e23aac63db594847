"""The base classes of metrics, and the registry of their names."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..kernels import get as kernel
from ..losses import BinaryCrossentropy, Loss
from ..program import Array, TensorSpec, as_tuple, named_call, python_call
from ..registry import Registry, Versioned, check_config, name_of, names_of


class Metric(Versioned):
    """A metric that is computed from weighted means over rows.

    `rows` returns the values of each row times its weight; the step sums them, and `compute` turns the means into the
    metric. A subclass defines `rows`. It overrides `resolve` if it does not fit every loss, and `n_sums` and `compute`
    if it needs more than one mean. It overrides `get_config` if its constructor has arguments other than the name.

    `rows` computes with kernels. The same text runs on arrays, and on symbolic tensors that record the step's program.
    A subclass with ``opaque = True`` may use all of NumPy: `rows` gets arrays of the device each time the step runs. It
    must not change them. No op is fused with it, and `Sequential.summary` reports it.

    A new value of an attribute that `get_config` returns takes effect at the next step. A saved network stores the name
    and `get_config`; ``gpunn.load(…, custom={name: class})`` restores it.

    Parameters
    ----------
    name : str or None
        The key in the history. By default the first of `names`, or the name of the class.

    Attributes
    ----------
    names : tuple of str
        The names that strings may use. Files store the first one, or the name of the class if there are none.
    opaque : bool
        True if `rows` takes arrays only.
    needs_all_rows : bool
        True for a `NonDecomposableMetric`.

    Examples
    --------
    >>> class Bias(gpunn.metrics.Metric):
    ...     opaque = True
    ...
    ...     def rows(self, a, y, w):
    ...         return w * (a - y).mean(axis=1)
    >>> net.compile("adam", "mse", metrics=[Bias()])
    """

    names: tuple[str, ...] = ()
    opaque = False
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

    def rows(self, a: Array, y: Array, w: Array) -> Array | tuple[Array, ...]:
        """Return the values of each row, times its weight.

        Parameters
        ----------
        a : array or tensor, shape (n, n_out)
            The network's outputs, in its dtype.
        y : array or tensor, shape (n, n_out) or (n,)
            The targets, as the loss takes them.
        w : array or tensor, shape (n,)
            The sample weights; 1 if there are none.

        Returns
        -------
        array or tensor, or a tuple of them
            float64, of shape (n,) if `n_sums` is 1, else (n, n_sums); a tuple has the columns in parts. If opaque, one
            array of real numbers.
        """
        raise NotImplementedError(f"{type(self).__name__} must define rows(self, a, y, w)")

    def compute(self, mean: Any) -> float:
        """Compute the metric from the weighted mean over rows: a float if `n_sums` is 1, else an array (n_sums,)."""
        return float(mean)

    def step_key(self) -> Any:
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

    def batch_sums(self, a: Array, y: Array, w: Array) -> list[Array]:
        """Return the sums over the rows of one batch in parts (k,), float64. `accumulate` gets them joined."""
        n, n_sums = a.shape[0], self.n_sums(a.shape[1])
        if n_sums == 0:
            return []
        shape = (n,) if n_sums == 1 else (n, n_sums)
        rows = self._opaque_rows(a, y, w, shape) if self.opaque else named_call(self, "rows", a, y, w)
        parts = as_tuple(rows)
        width = sum(part.shape[1] if len(part.shape) == 2 else 1 for part in parts)
        # a metric with an `accumulate` of its own may compute other sums there
        if width > n_sums or (width < n_sums and type(self).accumulate is Metric.accumulate):
            raise ValueError(f"{type(self).__name__}.rows must return n_sums = {n_sums} values per row, got {width}")
        for part in parts:
            if len(part.shape) == 2 and part.dtype != np.float64:
                got = f"a matrix of {part.dtype}: use a kernel with float64 results, or set opaque = True"
                raise TypeError(f"{type(self).__name__}.rows must return float64, got {got}")
        return [kernel("sum_all" if len(part.shape) == 1 else "column_sum")(part) for part in parts]

    def _opaque_rows(self, a: Array, y: Array, w: Array, shape: tuple[int, ...]) -> Array:
        """The result of `rows` on arrays, in float64. ValueError if it has another shape."""

        def rows(a: Array, y: Array, w: Array) -> Array:
            found: Any = self.rows(a, y, w)
            if getattr(found, "shape", None) != shape:
                got = getattr(found, "shape", found)
                raise ValueError(f"{type(self).__name__}.rows must return an array of shape {shape}, got {got!r}")
            if found.dtype.kind not in "biuf":
                raise TypeError(f"{type(self).__name__}.rows must return real numbers, got {found.dtype}")
            return found.astype(np.float64)

        return python_call(rows, (a, y, w), (TensorSpec(shape, np.float64),), f"metric {self.name} is Python code")

    def accumulate(self, batch: Array, y: Array, sums: Array, state: Array) -> Array:
        """Return the sums (n_sums,) of an epoch or a data set, with a batch added to them."""
        return kernel("accumulate")(batch, state, sums)

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
