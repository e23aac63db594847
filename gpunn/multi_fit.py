"""Many nets at once: a search over seeds, rates, penalties or folds, whose nets train side by side."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from . import input_checks as checks
from . import schedules
from .backend import array_module, device_of, to_host
from .backend.concurrency import EpochCoroutine
from .model import BATCH, Sequential
from .training import fit, fused_epochs, inputs
from .training.history import History
from .training.loop import DivergenceError
from .validation import boolean, nonnegative, positive_integer

OWN = ("seed", "lr", "l2", "rows")  # what a candidate says beside the arguments of `build`


class Fitted(NamedTuple):
    """A net and the record of its fit."""

    net: Sequential
    history: History


def fit_many(
    build: Callable[..., Sequential],
    X: Any,
    y: Any,
    candidates: Iterable[Mapping[str, Any]],
    *,
    splits: Iterable[tuple[Any, Any]] | None = None,
    batch_size: int = BATCH,
    epochs: int = 1,
    shuffle: bool = True,
    sample_weight: Any = None,
) -> list[Fitted]:
    """Train a net for each candidate on X (n, n_in) and y, side by side; [(net, history), …] in their order.

    build       makes a compiled `Sequential` from a candidate's keyword arguments, a new one at each call
    candidates  dicts of keyword arguments for `build`, plus any of
                seed  of the net's weights, shuffles and dropout masks, in the place of what `build` gave it
                lr    the optimiser's learning rate, a number or a schedule
                l2    λ of every layer that has one (E9)
                rows  (n_rows,) indices of the rows of X it trains on; repeated ones count as often. All unless given
    splits      pairs (training rows, validation rows), as scikit-learn's splitters give them. Every candidate is then
                trained on each pair, one net after another in the list, with val_loss, … in its history

    `batch_size`, `epochs`, `shuffle` and `sample_weight` (n,) as in `Sequential.fit`, and so is what comes out: each
    net is, to rounding, the one that a fit of its own on X[rows] gives. On a CPU the nets are shared out among as many
    threads as BLAS is set to, one thread a net; on a GPU their steps are branches of one CUDA graph.

    ValueError or TypeError, before anything is trained, for input that makes no sense. Where a net diverges the others
    go on to their ends; then DivergenceError says which it was, and its `fitted` is the list all the same.
    """
    listed = _candidates(candidates)
    batch_size = positive_integer("batch_size", batch_size)
    epochs = positive_integer("epochs", epochs)
    shuffle = boolean("shuffle", shuffle)
    table = checks.as_matrix(X, None)
    pairs = None if splits is None else _splits(splits, table.shape[0])
    plans = [
        (number, *pair) for number in range(len(listed)) for pair in (pairs if pairs is not None else [(None, None)])
    ]
    nets: list[Sequential] = []
    for number, _, _ in plans:
        nets.append(_net(build, listed[number], f"candidates[{number}]", nets))
    checked = _Checked(table, y, sample_weight)
    jobs = []
    for net, (number, rows, held_out) in zip(nets, plans, strict=True):
        if held_out is None:
            rows = _rows(listed[number].get("rows"), table.shape[0], f"candidates[{number}]['rows']")
        elif "rows" in listed[number]:
            raise ValueError(f"candidates[{number}] names rows, and splits name them too: give one of the two")
        fold = None if held_out is None else checked.fold(net, held_out)
        jobs.append(_Job(net, number, rows, checked.of(net), fold))
    for job in jobs:
        job.check()
    # nothing is refused from here on
    by_device: dict[Any, list[EpochCoroutine]] = {}
    for job in jobs:
        backend = job.net._net.backend
        by_device.setdefault(backend, []).append(job.course(batch_size, epochs, shuffle, checked.put(backend)))
    for backend, courses in by_device.items():
        fused_epochs.run_concurrently(backend, courses)
    fitted = [Fitted(job.net, job.history) for job in jobs]
    failed = [(job.number, job.error) for job in jobs if job.error is not None]
    if failed:
        more = f" So did {len(failed) - 1} more." if len(failed) > 1 else ""
        error = DivergenceError(f"candidates[{failed[0][0]}]: {failed[0][1]}{more} The error's `fitted` has all nets.")
        error.fitted = fitted  # type: ignore[attr-defined]
        raise error
    return fitted


class _Checked:
    """X, y and weights as nets of one kind take them: each looked at once, however many nets there are, and brought
    to a device once."""

    def __init__(self, X: Any, y: Any, w: Any) -> None:
        self.X, self.y, self.w = X, y, w
        self.found: dict[Any, inputs.Arrays] = {}
        self.folds: dict[Any, Any] = {}
        self.parts: dict[Any, Any] = {}

    def of(self, net: Sequential) -> inputs.Arrays:
        """(X, y, weights or None) for that net. ValueError or TypeError where they do not fit it."""
        inner = net._net
        n_out, known = inner.output_width(self.X.shape[1]), inputs.known_inputs(inner)
        key = (net.dtype, type(inner.loss), repr(vars(inner.loss)), n_out, known)
        if key not in self.found:
            self.found[key] = inputs.validate(inner, self.X, self.y, self.w)
        return self.found[key]

    def fold(self, net: Sequential, rows: np.ndarray) -> inputs.Arrays:
        """Those rows of what `of` gives, the same arrays for all nets of one kind."""
        data = self.of(net)
        key = tuple(map(id, (*data, rows)))
        if key not in self.folds:
            self.folds[key] = tuple(None if a is None else _taken(a, rows) for a in data)
        found: inputs.Arrays = self.folds[key]
        return found

    def put(self, backend: Any) -> Callable[[Any], Any]:
        """What brings an array to that device, the same one for all nets."""

        def put(array: Any) -> Any:
            key = (backend, id(array))
            if key not in self.parts:
                # the array is kept too, so that its id stays its own
                self.parts[key] = array, checks.on_device(array, backend)
            return self.parts[key][1]

        return put


class _Job:
    """One net of many, and what it trains on."""

    def __init__(
        self,
        net: Sequential,
        number: int,
        rows: np.ndarray | None,
        data: inputs.Arrays,
        held_out: inputs.Arrays | None,
    ) -> None:
        self.net, self.number, self.rows, self.data, self.held_out = net, number, rows, data, held_out
        self.history = History()
        self.error: DivergenceError | None = None

    def check(self) -> None:
        """ValueError where the weights of the rows that train, or of those held out, are all zero."""
        weights = [] if self.data[2] is None or self.rows is None else [to_host(self.data[2])[self.rows]]
        weights += [] if self.held_out is None else [self.held_out[2]]
        if not all(map(checks.any_weight, weights)):
            raise ValueError(f"sample_weight is all zero on the rows of candidates[{self.number}]")

    def course(self, batch_size: int, epochs: int, shuffle: bool, put: Callable[[Any], Any]) -> EpochCoroutine:
        """Its fit; a divergence is kept in `error`, and ends it alone."""
        net, rows = self.net, self.rows
        n = self.data[0].shape[0] if rows is None else len(rows)
        which = np.arange(n) if rows is None else rows

        def order_of(epoch: int) -> np.ndarray:
            return np.asarray(which[checks.epoch_permutation(n, net.seed, epoch, True)])

        try:
            yield from fit.epoch_coroutine(
                net,
                self.data,
                self.held_out,
                batch_size=batch_size,
                epochs=epochs,
                order_of=order_of if shuffle else None,
                rows=rows,
                history=self.history,
                put=put,
            )
        except DivergenceError as error:
            self.error = error
        finally:
            # of many nets the buffers of a step would be many
            net._net.drop_plans()


def _taken(array: Any, rows: np.ndarray) -> Any:
    """Those rows, where the array lies."""
    with device_of(array):
        return array[array_module(array).asarray(rows)]


def _candidates(given: Any) -> list[Mapping[str, Any]]:
    """The candidates as a list of dicts."""
    if isinstance(given, (str, bytes, Mapping)) or not isinstance(given, Iterable):
        raise TypeError(f"candidates must be a list of dicts, got {given!r}; one candidate is [{{…}}]")
    listed = list(given)
    if not listed:
        raise ValueError("candidates is empty; [{}] trains the net of build as it is")
    for k, candidate in enumerate(listed):
        if not isinstance(candidate, Mapping):
            raise TypeError(f"candidates[{k}] must be a dict of arguments for build, got {candidate!r}")
    return listed


def _net(
    build: Callable[..., Sequential], candidate: Mapping[str, Any], name: str, others: list[Sequential]
) -> Sequential:
    """The net of a candidate, new and with what it says in the place of what `build` gave it."""
    arguments = {key: value for key, value in candidate.items() if key not in OWN}
    if not callable(build):
        raise TypeError(f"build must be a function that returns a compiled Sequential, got {build!r}")
    try:
        inspect.signature(build).bind(**arguments)
    except TypeError as error:
        raise TypeError(
            f"{name} does not fit build: {error}; beside {', '.join(OWN)} it holds build's arguments"
        ) from None
    net = build(**arguments)
    if not isinstance(net, Sequential):
        raise TypeError(f"build must return a compiled Sequential, got {type(net).__name__} for {name}")
    if net._net.given_loss is None:
        raise ValueError(f"build must return a compiled Sequential: call compile(…) in it ({name})")
    if net._net.group.size > 1:
        raise ValueError(f"build must leave strategy out of compile: processes share the batches of one net ({name})")
    if net._epochs or any(net is other for other in others):
        raise ValueError(f"build must return a new net at each call, not one that it gave before or trained ({name})")
    if "seed" in candidate:
        net._reseed(candidate["seed"], f"{name}['seed']")
    if "lr" in candidate:
        rule = copy.copy(net._net.optimizer)
        try:
            rule.schedule = schedules.get(candidate["lr"])
            net._net.check_optimizer(rule)
        except (ValueError, TypeError) as error:
            raise type(error)(f"{name}['lr']: {error}") from None
        net._net.optimizer = rule
    if "l2" in candidate:
        value = nonnegative(f"{name}['l2']", candidate["l2"])
        having = [layer for layer in net.layers if hasattr(layer, "l2")]
        if not having:
            raise ValueError(f"{name} says l2, but no layer of its net has one: leave it out")
        for layer in having:
            layer.l2 = value
    return net


def _rows(given: Any, n: int, name: str) -> np.ndarray | None:
    """Indices of rows, checked; None where none are given."""
    if given is None:
        return None
    rows = np.asarray(to_host(given))
    if rows.ndim != 1 or rows.dtype.kind not in "iu":
        hint = "; np.flatnonzero(mask) makes indices of a mask" if rows.dtype.kind == "b" else ""
        raise TypeError(f"{name} must be a list of indices of rows, got {rows.dtype} of shape {rows.shape}{hint}")
    if len(rows) == 0:
        raise ValueError(f"{name} is empty: a net needs rows to train on")
    if rows.min() < 0 or rows.max() >= n:
        raise ValueError(f"{name} must lie in [0, {n}), X's rows; got {rows.min()} … {rows.max()}")
    return rows.astype(np.int64)


def _splits(given: Any, n: int) -> list[tuple[np.ndarray | None, np.ndarray | None]]:
    """Pairs of training and validation rows, checked."""
    if isinstance(given, (str, bytes, Mapping)) or not isinstance(given, Iterable):
        raise TypeError(
            f"splits must be pairs (training rows, validation rows), got {given!r}; cv.split(X, y) gives them"
        )
    pairs = list(given)
    if not pairs:
        raise ValueError("splits is empty; leave it out to train on all rows")
    for k, pair in enumerate(pairs):
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise TypeError(f"splits[{k}] must be (training rows, validation rows), got {type(pair).__name__}")
    return [(_rows(a, n, f"splits[{k}][0]"), _rows(b, n, f"splits[{k}][1]")) for k, (a, b) in enumerate(pairs)]
