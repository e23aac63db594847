"""Multi-model training: concurrent fits of networks that differ in seed, learning rate, penalty, rows or arguments."""

from __future__ import annotations

import copy
import dataclasses
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from . import input_checks as checks
from . import schedules
from .backend import array_module, device_of, to_host
from .model import BATCH, Sequential
from .training import fit, inputs
from .training.callbacks import Callback
from .training.datasets import Shuffled
from .training.divergence import DivergenceError
from .training.history import History
from .training.interrupts import run_concurrently
from .training.shard import Shard
from .validation import as_list, boolean, nonnegative, positive_integer

CANDIDATE_KEYS = ("seed", "lr", "l2", "rows", "epochs", "callbacks")  # those that are not arguments of `build`


@dataclass(frozen=True, eq=False)
class Fitted:
    """A trained network and the history of its fit, as `net, history = fitted` or by name.

    Attributes
    ----------
    net : Sequential
    history : History
    validation_predictions : array (epochs, n, n_out) or None
        aᴸ of the validation rows after every epoch, with `snapshots=True`.
    """

    net: Sequential
    history: History
    validation_predictions: np.ndarray | None = None

    def __iter__(self) -> Iterator[Any]:
        return iter((self.net, self.history))

    def __getitem__(self, index: int) -> Any:
        return (self.net, self.history)[index]

    def __len__(self) -> int:
        return 2


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
    validation_data: Any = None,
    snapshots: bool = False,
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
        - rows: indices (n_rows,) of the training rows; repeated rows count repeatedly. All rows by default
        - epochs: the number of epochs of this network
        - callbacks: a list of new callbacks, for example `EarlyStopping`, which also restores the best epoch; or a
          function that returns one, if `splits` gives several networks.
    splits : iterable of (training rows, validation rows), optional
        Index arrays as scikit-learn's splitters yield them. Every candidate is trained on each pair, consecutive in the
        result, with val_loss and the other validation values in its history.
    batch_size, epochs, shuffle, sample_weight
        As in `Sequential.fit`.
    validation_data : (X, y) or (X, y, sample_weight), optional
        Data that is evaluated after every epoch of each network. Not together with `splits`.
    snapshots : bool
        If true, the results have the predictions of the validation rows after every epoch.

    Returns
    -------
    list of Fitted
        In the order of the candidates.

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
    if validation_data is not None and splits is not None:
        raise ValueError("validation_data cannot be combined with splits, which have validation rows")
    data = _InputCache(matrix, y, sample_weight, validation_data)
    jobs = _jobs(build, listed, pairs, data, fit.FitOptions(batch_size=batch_size, epochs=epochs, shuffle=shuffle))
    if boolean("snapshots", snapshots):
        for job in jobs:
            job.add_snapshots()
    for job in jobs:
        job.check_weights()
    # all input is valid from here on
    by_device: dict[Any, list[Callable[[], None]]] = {}
    for job in jobs:
        by_device.setdefault(job.net._net.backend, []).append(partial(job.train, data.copies))
    for backend, fits in by_device.items():
        run_concurrently(backend, fits)
    return _results(jobs)


def _results(jobs: list[_Job]) -> list[Fitted]:
    """The trained networks. DivergenceError if training of one of them diverged."""
    fitted = [job.result() for job in jobs]
    failed = [(job.number, job.error) for job in jobs if job.error is not None]
    if failed:
        more = f" {len(failed) - 1} more diverged." if len(failed) > 1 else ""
        error = DivergenceError(f"candidates[{failed[0][0]}]: {failed[0][1]}{more} The error's `fitted` has all nets.")
        error.fitted = fitted  # type: ignore[attr-defined]
        raise error
    return fitted


class _InputCache:
    """X, y and weights as the networks use them: validated once per kind of network, copied once to each device."""

    def __init__(self, X: Any, y: Any, w: Any, validation_data: Any) -> None:
        self.X, self.y, self.w = X, y, w
        self._validation_data = validation_data
        self._validated: dict[Any, inputs.Arrays] = {}
        self._validation: dict[Any, inputs.Arrays | None] = {}
        self._subsets: dict[Any, Any] = {}
        self.copies = inputs.DeviceCopies(shared=True)

    def arrays(self, net: Sequential) -> inputs.Arrays:
        """(X, y, weights or None) for a network. ValueError or TypeError if they do not fit it."""
        key = self._kind(net)
        if key not in self._validated:
            self._validated[key] = inputs.validate(net._net, self.X, self.y, self.w)
        return self._validated[key]

    def validation(self, net: Sequential) -> inputs.Arrays | None:
        """The validation data of a network, None if there is none. ValueError or TypeError if it does not fit it."""
        key = self._kind(net)
        if key not in self._validation:
            found = inputs.validation(net._net, self._validation_data, self.X.shape[1])
            self._validation[key] = None if found is None else found[:3]
        return self._validation[key]

    def _kind(self, net: Sequential) -> Any:
        """The properties of a network that its data depend on."""
        inner = net._net
        n_out, known = inner.output_width(self.X.shape[1]), inputs.known_inputs(inner)
        return net.dtype, type(inner.loss), repr(inner.loss), n_out, known

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
    options: fit.FitOptions
    history: History = field(default_factory=History)
    snapshots: _Snapshots | None = None
    error: DivergenceError | None = None

    def check_weights(self) -> None:
        """Raise ValueError if the weights of all training or all validation rows are zero."""
        weights = [] if self.data[2] is None or self.rows is None else [to_host(self.data[2])[self.rows]]
        weights += [] if self.validation is None else [self.validation[2]]
        if not all(map(checks.any_weight, weights)):
            raise ValueError(f"sample_weight must not be all zero on the rows of candidates[{self.number}]")

    def add_snapshots(self) -> None:
        """Store the validation predictions after every epoch. ValueError without validation data."""
        if self.validation is None:
            raise ValueError("snapshots needs validation rows: give validation_data, or splits")
        self.snapshots = _Snapshots(self.validation[0], self.net._net.output_width(self.data[0].shape[1]))
        self.options.callbacks = [*self.options.callbacks, self.snapshots]

    def result(self) -> Fitted:
        """The trained network with its history."""
        predictions = None if self.snapshots is None else self.snapshots.predictions()
        return Fitted(self.net, self.history, predictions)

    def train(self, copies: inputs.DeviceCopies) -> None:
        """Fit the network. A divergence ends this fit only and is stored in `error`."""
        net, rows, options = self.net, self.rows, self.options
        n = self.data[0].shape[0] if rows is None else len(rows)
        order = Shuffled(n, net.seed, rows) if options.shuffle else None
        validation = None if self.validation is None else Shard(*self.validation)
        data = fit.FitData(Shard(*self.data), validation, self.data[0].shape[1], rows=rows, order=order, device=copies)
        try:
            fit.run(net, data, options, {}, history=self.history)
        except DivergenceError as error:
            self.error = error
        finally:
            # the buffers of many networks would need much memory
            net._net.drop_executables()


class _Snapshots(Callback):
    """Stores the predictions of the validation rows after every epoch."""

    def __init__(self, X: Any, n_out: int) -> None:
        self._X, self._shape = X, (X.shape[0], n_out)
        self._found: list[np.ndarray] = []

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Predict the rows."""
        self._found.append(np.array(to_host(self.model.predict(self._X))))

    def predictions(self) -> np.ndarray:
        """The predictions (epochs, n, n_out), also of 0 epochs."""
        return np.array(self._found).reshape(len(self._found), *self._shape)


def _take_rows(array: Any, rows: np.ndarray) -> Any:
    """Rows of an array, on its device."""
    with device_of(array):
        return array[array_module(array).asarray(rows)]


def _jobs(
    build: Callable[..., Sequential],
    candidates: list[Mapping[str, Any]],
    pairs: list[Any],
    data: _InputCache,
    options: fit.FitOptions,
) -> list[_Job]:
    """One job per candidate and pair of training and validation rows; a pair of None means the candidate's rows."""
    nets: list[Sequential] = []
    seen: dict[int, str] = {}  # the candidate of each callback
    for number, candidate in enumerate(candidates):
        for _ in pairs:
            nets.append(_build_net(build, candidate, f"candidates[{number}]", nets))
    jobs = []
    for k, net in enumerate(nets):
        number, pair = k // len(pairs), pairs[k % len(pairs)]
        candidate, name = candidates[number], f"candidates[{number}]"
        own = _options_of(candidate, name, options)
        for callback in own.callbacks:
            if id(callback) in seen:
                raise ValueError(
                    f"{seen[id(callback)]} and {name} share {callback!r}, but each network needs callbacks of its own: "
                    "give a function that returns a list of new ones"
                )
        seen |= {id(callback): name for callback in own.callbacks}
        if pair is None or pair[1] is None:
            rows = _check_rows(candidate.get("rows"), data.X.shape[0], f"{name}['rows']")
            jobs.append(_Job(net, number, rows, data.arrays(net), data.validation(net), own))
            continue
        if "rows" in candidate:
            raise ValueError(f"{name} has rows, and splits has rows too: give one of the two")
        rows, validation_rows = pair
        validation = data.subset(net, validation_rows)
        jobs.append(_Job(net, number, rows, data.arrays(net), validation, own))
    return jobs


def _options_of(candidate: Mapping[str, Any], name: str, options: fit.FitOptions) -> fit.FitOptions:
    """The options of a candidate's fit."""
    epochs = positive_integer(f"{name}['epochs']", candidate.get("epochs", options.epochs))
    given = candidate.get("callbacks", ())
    callbacks = as_list(f"{name}['callbacks']", given() if callable(given) else given, "gpunn.Callback objects")
    return dataclasses.replace(options, epochs=epochs, callbacks=callbacks)


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
