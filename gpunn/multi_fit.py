"""Multi-model training: concurrent fits of networks that differ in seed, learning rate, penalty, rows or arguments."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from . import input_checks as checks
from . import schedules
from .backend import array_module, device_of, to_host
from .model import BATCH, Sequential
from .training import fit, inputs
from .training.datasets import Shuffled
from .training.divergence import DivergenceError
from .training.history import History
from .training.interrupts import run_concurrently
from .training.shard import Shard
from .validation import boolean, nonnegative, positive_integer

CANDIDATE_KEYS = ("seed", "lr", "l2", "rows")  # the keys of a candidate that are not arguments of `build`


class Fitted(NamedTuple):
    """A trained network and the history of its fit."""

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
    """Train one network per candidate concurrently.

    Each network equals, to rounding, the one that `Sequential.fit` on X[rows] gives. On a CPU, each network is trained
    in one thread, and the number of threads is BLAS's setting. On a GPU, they are trained one after another.

    Parameters
    ----------
    build : callable
        Returns a new compiled `Sequential` for a candidate's keyword arguments.
    X : array-like (n, n_in)
        Inputs.
    y : array-like (n,) or (n, n_out)
        Targets, as in `Sequential.fit`.
    candidates : iterable of dict
        Keyword arguments for `build`, and optionally

        - seed: the seed of the network, instead of the one that `build` sets
        - lr: the learning rate, a number or a schedule
        - l2: λ of every layer that has one (E9)
        - rows: indices (n_rows,) of the training rows; repeated rows count repeatedly. All rows by default.
    splits : iterable of (training rows, validation rows), optional
        Index arrays as scikit-learn's splitters yield them. Every candidate is trained on each pair, consecutive in the
        result, with val_loss and the other validation values in its history.
    batch_size, epochs, shuffle, sample_weight
        As in `Sequential.fit`.

    Returns
    -------
    list of Fitted
        (net, history) in the order of the candidates.

    Raises
    ------
    ValueError, TypeError
        For invalid input, before anything is trained.
    DivergenceError
        After all networks have ended, if training of one of them diverged. The error's `fitted` is the list of all.
    """
    listed = _check_candidates(candidates)
    batch_size = positive_integer("batch_size", batch_size)
    epochs = positive_integer("epochs", epochs)
    shuffle = boolean("shuffle", shuffle)
    matrix = checks.as_matrix(X, None)
    pairs = [None] if splits is None else _check_splits(splits, matrix.shape[0])
    data = _InputCache(matrix, y, sample_weight)
    jobs = _jobs(build, listed, pairs, data)
    for job in jobs:
        job.check_weights()
    # all input is valid from here on
    options = fit.FitOptions(batch_size, epochs, shuffle)
    by_device: dict[Any, list[Callable[[], None]]] = {}
    for job in jobs:
        by_device.setdefault(job.net._net.backend, []).append(partial(job.train, options, data.copies))
    for backend, fits in by_device.items():
        run_concurrently(backend, fits)
    fitted = [Fitted(job.net, job.history) for job in jobs]
    failed = [(job.number, job.error) for job in jobs if job.error is not None]
    if failed:
        more = f" {len(failed) - 1} more diverged." if len(failed) > 1 else ""
        error = DivergenceError(f"candidates[{failed[0][0]}]: {failed[0][1]}{more} The error's `fitted` has all nets.")
        error.fitted = fitted  # type: ignore[attr-defined]
        raise error
    return fitted


class _InputCache:
    """X, y and weights as the networks use them: validated once per kind of network, copied once to each device."""

    def __init__(self, X: Any, y: Any, w: Any) -> None:
        self.X, self.y, self.w = X, y, w
        self._validated: dict[Any, inputs.Arrays] = {}
        self._subsets: dict[Any, Any] = {}
        self.copies = inputs.DeviceCopies(shared=True)

    def arrays(self, net: Sequential) -> inputs.Arrays:
        """(X, y, weights or None) for a network. ValueError or TypeError if they do not fit it."""
        inner = net._net
        n_out, known = inner.output_width(self.X.shape[1]), inputs.known_inputs(inner)
        key = (net.dtype, type(inner.loss), repr(inner.loss), n_out, known)
        if key not in self._validated:
            self._validated[key] = inputs.validate(inner, self.X, self.y, self.w)
        return self._validated[key]

    def subset(self, net: Sequential, rows: np.ndarray) -> inputs.Arrays:
        """Rows of `arrays`, the same objects for all networks of one kind."""
        arrays = self.arrays(net)
        key = tuple(map(id, (*arrays, rows)))
        if key not in self._subsets:
            self._subsets[key] = tuple(None if a is None else _take_rows(a, rows) for a in arrays)
        found: inputs.Arrays = self._subsets[key]
        return found


@dataclass
class _Job:
    """A network and its data: all rows, or the training rows `rows`, and validation data."""

    net: Sequential
    number: int
    rows: np.ndarray | None
    data: inputs.Arrays
    validation: inputs.Arrays | None
    history: History = field(default_factory=History)
    error: DivergenceError | None = None

    def check_weights(self) -> None:
        """Raise ValueError if the weights of all training or all validation rows are zero."""
        weights = [] if self.data[2] is None or self.rows is None else [to_host(self.data[2])[self.rows]]
        weights += [] if self.validation is None else [self.validation[2]]
        if not all(map(checks.any_weight, weights)):
            raise ValueError(f"sample_weight must not be all zero on the rows of candidates[{self.number}]")

    def train(self, options: fit.FitOptions, copies: inputs.DeviceCopies) -> None:
        """Fit the network. A divergence ends this fit only and is stored in `error`."""
        net, rows = self.net, self.rows
        n = self.data[0].shape[0] if rows is None else len(rows)
        order = Shuffled(n, net.seed, rows) if options.shuffle else None
        validation = None if self.validation is None else Shard(*self.validation)
        data = fit.FitData(Shard(*self.data), validation, self.data[0].shape[1], rows=rows, order=order, device=copies)
        try:
            fit.run(net, data, options, {}, history=self.history)
        except DivergenceError as error:
            self.error = error


def _take_rows(array: Any, rows: np.ndarray) -> Any:
    """Rows of an array, on its device."""
    with device_of(array):
        return array[array_module(array).asarray(rows)]


def _jobs(
    build: Callable[..., Sequential], candidates: list[Mapping[str, Any]], pairs: list[Any], data: _InputCache
) -> list[_Job]:
    """One job per candidate and pair of training and validation rows; a pair of None means the candidate's rows."""
    nets: list[Sequential] = []
    for number, candidate in enumerate(candidates):
        for _ in pairs:
            nets.append(_build_net(build, candidate, f"candidates[{number}]", nets))
    jobs = []
    for k, net in enumerate(nets):
        number, pair = k // len(pairs), pairs[k % len(pairs)]
        candidate, name = candidates[number], f"candidates[{number}]"
        if pair is None or pair[1] is None:
            rows = _check_rows(candidate.get("rows"), data.X.shape[0], f"{name}['rows']")
            jobs.append(_Job(net, number, rows, data.arrays(net), None))
            continue
        if "rows" in candidate:
            raise ValueError(f"{name} has rows, and splits has rows too: give one of the two")
        rows, validation_rows = pair
        validation = data.subset(net, validation_rows)
        jobs.append(_Job(net, number, rows, data.arrays(net), validation))
    return jobs


def _check_candidates(given: Any) -> list[Mapping[str, Any]]:
    """The candidates as a list of dicts."""
    if isinstance(given, (str, bytes, Mapping)) or not isinstance(given, Iterable):
        raise TypeError(f"candidates must be a list of dicts, got {given!r}; one candidate is [{{…}}]")
    listed = list(given)
    if not listed:
        raise ValueError("candidates is empty; [{}] trains the network that build returns by default")
    for k, candidate in enumerate(listed):
        if not isinstance(candidate, Mapping):
            raise TypeError(f"candidates[{k}] must be a dict of arguments for build, got {candidate!r}")
    return listed


def _build_net(
    build: Callable[..., Sequential], candidate: Mapping[str, Any], name: str, others: list[Sequential]
) -> Sequential:
    """A new network for a candidate, with the candidate's seed, learning rate and penalty."""
    arguments = {key: value for key, value in candidate.items() if key not in CANDIDATE_KEYS}
    if not callable(build):
        raise TypeError(f"build must be a function that returns a compiled Sequential, got {build!r}")
    try:
        inspect.signature(build).bind(**arguments)
    except TypeError as error:
        keys = ", ".join(CANDIDATE_KEYS)
        raise TypeError(f"{name} does not fit build: {error}; keys other than {keys} are build's arguments") from None
    net = build(**arguments)
    if not isinstance(net, Sequential):
        raise TypeError(f"build must return a compiled Sequential, got {type(net).__name__} for {name}")
    if net._net.given_loss is None:
        raise ValueError(f"build must return a compiled Sequential: call compile(…) in it ({name})")
    if net._net.group.size > 1:
        raise ValueError(f"build must compile without strategy: fit_many is not distributed ({name})")
    if net._epochs or any(net is other for other in others):
        raise ValueError(
            f"build must return a new net at each call, got one that it returned before or trained ({name})"
        )
    _apply_candidate(net, candidate, name)
    return net


def _apply_candidate(net: Sequential, candidate: Mapping[str, Any], name: str) -> None:
    """Set seed, learning rate and penalty of a network as a candidate says."""
    if "seed" in candidate:
        net._reseed(candidate["seed"], f"{name}['seed']")
    if "lr" in candidate:
        optimizer = copy.copy(net._net.optimizer)
        try:
            optimizer.schedule = schedules.get(candidate["lr"])
            net._net.check_optimizer(optimizer)
        except (ValueError, TypeError) as error:
            raise type(error)(f"{name}['lr']: {error}") from None
        net._net.optimizer = optimizer
    if "l2" in candidate:
        value = nonnegative(f"{name}['l2']", candidate["l2"])
        penalized = [layer for layer in net.layers if hasattr(layer, "l2")]
        if not penalized:
            raise ValueError(f"{name} has l2, but no layer of its network has one: leave it out")
        for layer in penalized:
            layer.l2 = value


def _check_rows(given: Any, n: int, name: str) -> np.ndarray | None:
    """Row indices as int64; None if none are given."""
    if given is None:
        return None
    rows = np.asarray(to_host(given))
    if rows.ndim != 1 or rows.dtype.kind not in "iu":
        hint = "; np.flatnonzero(mask) makes indices of a mask" if rows.dtype.kind == "b" else ""
        raise TypeError(f"{name} must be a list of row indices, got {rows.dtype} of shape {rows.shape}{hint}")
    if len(rows) == 0:
        raise ValueError(f"{name} is empty: a network needs rows to train on")
    if rows.min() < 0 or rows.max() >= n:
        raise ValueError(f"{name} must be in [0, {n}), X's rows, got {rows.min()} … {rows.max()}")
    return rows.astype(np.int64)


def _check_splits(given: Any, n: int) -> list[tuple[np.ndarray | None, np.ndarray | None]]:
    """The pairs of training and validation rows as int64 arrays."""
    if isinstance(given, (str, bytes, Mapping)) or not isinstance(given, Iterable):
        raise TypeError(
            f"splits must be pairs (training rows, validation rows), got {given!r}; cv.split(X, y) yields them"
        )
    pairs = list(given)
    if not pairs:
        raise ValueError("splits is empty; leave it out to train on all rows")
    for k, pair in enumerate(pairs):
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise TypeError(f"splits[{k}] must be (training rows, validation rows), got {type(pair).__name__}")
    return [
        (_check_rows(a, n, f"splits[{k}][0]"), _check_rows(b, n, f"splits[{k}][1]")) for k, (a, b) in enumerate(pairs)
    ]
