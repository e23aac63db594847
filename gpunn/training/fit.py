"""`Sequential.fit`: check the arguments, agree on them across ranks, copy the data to the device, and train."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterable, Mapping, Sized
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from .. import input_checks as checks
from ..kernels.state import StateEntry
from ..network import Network
from ..parallel import Rows
from ..parallel.disk_rows import RowPartition, resolve
from ..program.groups import SINGLE_PROCESS
from ..user_warnings import warn_user
from ..validation import as_list, boolean, positive_integer
from . import inputs
from .callbacks import NEVER_SAVE, Callback, CallbackList, EpochLogger, ModelCheckpoint, ProgressBar
from .datasets import (
    ArrayBatches,
    Dataset,
    DeviceDataset,
    HostBatches,
    HostDataset,
    RowOrder,
    Shuffled,
    StreamBatches,
    step_spec,
)
from .divergence import raise_if_diverged, warn_if_loss_rose
from .history import History
from .inputs import Arrays
from .learning_rates import learning_rate
from .resume import LoadedCheckpoint, Saved, TrainingRun, dataset_fingerprint
from .shard import Shard, check_shard_sizes
from .stream import Batches, Stream, is_stream
from .trainer import Model, Trainer


@dataclass
class FitOptions:
    """The arguments of `Sequential.fit`, except the data."""

    batch_size: int
    epochs: int
    shuffle: bool = True
    validation_data: object = None
    validation_split: float = 0.0
    class_weight: object = None
    callbacks: Iterable[Callback] = ()
    verbose: int = 0
    resume: str | os.PathLike[str] | None = None
    steps_per_epoch: int | None = None

    def checked(self) -> FitOptions:
        """The options after the checks that need no data. ValueError or TypeError if one is invalid."""
        batch_size = positive_integer("batch_size", self.batch_size)
        epochs = positive_integer("epochs", self.epochs)
        if self.verbose not in (0, 1, 2):
            raise ValueError(f"verbose must be 0, 1 or 2, got {self.verbose!r}")
        shuffle = boolean("shuffle", self.shuffle)
        callbacks = as_list("callbacks", self.callbacks, "gpunn.Callback objects")
        steps = None if self.steps_per_epoch is None else positive_integer("steps_per_epoch", self.steps_per_epoch)
        return dataclasses.replace(
            self,
            batch_size=batch_size,
            epochs=epochs,
            shuffle=shuffle,
            callbacks=callbacks + ([_progress(self.verbose)] if self.verbose else []),
            steps_per_epoch=steps,
        )


@dataclass
class FitData:
    """The validated data of a fit.

    training    the training data, or the rows of this process; None for a stream
    validation  the validation data, None if there is none
    n_in        the number of inputs
    rows        indices of the training rows, all by default
    order       draws the order of the rows in each epoch, None keeps it
    stream      the batches, if the data is a stream
    steps       the number of steps per epoch, if known
    device      copies of arrays on devices, which several fits share
    """

    training: Shard | None
    validation: Shard | None
    n_in: int
    rows: NDArray[np.int64] | None = None
    order: RowOrder | None = None
    stream: StreamBatches | None = None
    steps: int | None = None
    device: inputs.DeviceCopies = field(default_factory=inputs.DeviceCopies)

    @property
    def n(self) -> int:
        """The number of training rows of all processes."""
        assert self.training is not None
        total = self.training.total_rows
        found = self.training.X.shape[0] if total is None else total
        return int(found if self.rows is None else len(self.rows))


def fit(model: Model, X: object, y: object, sample_weight: object, options: FitOptions) -> History:
    """Implement `Sequential.fit`."""
    options = options.checked()
    given = {"X": X, "y": y, "sample_weight": sample_weight}
    if y is not None and is_stream(X) and not isinstance(X, Rows):
        raise TypeError(f"X is a stream ({type(X).__name__}) and yields its targets in batches (x, y): leave y out")
    if y is None and not isinstance(X, Rows) and is_stream(X):
        data = _stream(model._net, X, sample_weight, options)
        return run(model, data, options, {"steps_per_epoch": options.steps_per_epoch})
    if options.steps_per_epoch is not None:
        raise ValueError("steps_per_epoch needs a stream; an epoch of an array uses all its rows")
    on_disk = any(isinstance(each, Rows) for each in given.values())
    data = (_rows if on_disk else _arrays)(model._net, given, options)
    history = run(model, data, options, {"batch_size": options.batch_size, "shuffle": options.shuffle})
    warn_if_loss_rose(history)
    return history


# --- validated data ---------------------------------------------------------------------------------------------------


def _stream(net: Network, X: Batches, sample_weight: object, options: FitOptions) -> FitData:
    """The data of a fit on a stream of batches."""
    if net.group is not SINGLE_PROCESS:
        raise ValueError(
            "the batches of a stream cannot be divided among processes: give arrays, also memory-mapped ones, or "
            "gpunn.Rows"
        )
    if sample_weight is not None:
        raise ValueError("sample_weight must be in the batches of a stream: (x, y, sample_weight)")
    if options.validation_split != 0:
        raise ValueError("validation_split needs all rows, and X is a stream: give validation_data")
    steps, epochs = options.steps_per_epoch, options.epochs
    batches = Stream(X, steps)
    inputs.require_explicit_class_weight(options.class_weight, "X is a stream")
    if batches.single_pass and options.resume is not None:
        raise ValueError("resume needs batches that can be iterated again, got an iterator: pass a function")
    if batches.single_pass and steps is None and epochs > 1:
        raise ValueError(
            f"X is an iterator, which yields its batches only once, but epochs={epochs}: pass steps_per_epoch, or a "
            "function that returns a new iterator for every epoch"
        )
    n_in = inputs.stream_batch(net, batches.peek(), 0, options.class_weight)[0].shape[1]
    validation = inputs.validation(net, options.validation_data, n_in)
    count = len(X) if steps is None and isinstance(X, Sized) else steps
    checked = inputs.CheckedStream(net, batches, options.class_weight)
    return FitData(None, validation, n_in, stream=StreamBatches(net, checked), steps=count)


def _arrays(net: Network, given: dict[str, object], options: FitOptions) -> FitData:
    """The data of a fit on arrays."""
    shard = (net.group.rank, net.group.size)
    X, y, w = inputs.validate(net, given["X"], given["y"], given["sample_weight"], shard=shard)
    rows = X.shape[0]
    n = checks.n_training_rows(rows, options.validation_split)
    if n < rows:
        if options.validation_data is not None:
            raise ValueError("give validation_data or validation_split, not both")
        last = Shard(X[n:], y[n:], None if w is None else w[n:])
        X, y, w = X[:n], y[:n], None if w is None else w[:n]
        if not (checks.any_weight(w) and checks.any_weight(last.w)):
            raise ValueError("validation_split leaves one part whose sample_weight is all zero")
    validation = last if n < rows else inputs.validation(net, options.validation_data, X.shape[1])
    training = Shard(*inputs.apply_class_weight(net, (X, y, w), options.class_weight))
    return FitData(training, validation, X.shape[1], order=Shuffled(n, net.seed) if options.shuffle else None)


@dataclass(frozen=True)
class _PartitionOrder:
    """The order of rows on disk, of which this process reads its own blocks."""

    partition: RowPartition
    own: range
    seed: int
    shuffle: bool

    def draw(self, epoch: int, into: NDArray[np.int64]) -> None:
        for k, order in enumerate(into):
            order[...] = self.partition.order(self.seed, epoch + k, self.own, shuffle=self.shuffle)


def _rows(net: Network, given: dict[str, object], options: FitOptions) -> FitData:
    """The data of a fit on `Rows`, of which this process reads its own blocks."""
    X, group = given["X"], net.group
    if options.validation_split != 0:
        raise ValueError("validation_split needs arrays: give validation_data, for example as gpunn.Rows")
    if not isinstance(X, Rows) or X.ndim != 2:
        raise ValueError("X must be a gpunn.Rows of shape (rows, columns) if y or sample_weight is a gpunn.Rows")
    if given["y"] is None:
        raise TypeError("y is missing: give the targets as gpunn.Rows or an array")
    if options.class_weight is not None and not isinstance(options.class_weight, dict):
        raise ValueError("class_weight='balanced' needs all rows, but a process reads only its own: pass a dict")
    n = X.shape[0]
    check_shard_sizes(n, options.batch_size, group)
    present = {name: rows for name, rows in given.items() if rows is not None}
    found, partition, own = resolve(present, n, options.batch_size, group.rank, group.size)
    check_weights = checks.batch_weights
    data = inputs.validate(net, found["X"], found["y"], found.get("sample_weight"), check_weights=check_weights)
    arrays = inputs.apply_class_weight(net, data, options.class_weight, check_weights=check_weights)
    inputs.check_weight(arrays[2], "sample_weight", group)
    n_in = arrays[0].shape[1]
    return FitData(
        Shard(*arrays, partition.block(own[0])[0], n),
        inputs.validation(net, options.validation_data, n_in),
        n_in,
        rows=np.zeros(n, np.int64),
        order=_PartitionOrder(partition, own, net.seed, options.shuffle),
    )


# --- training ---------------------------------------------------------------------------------------------------------


def run(
    model: Model,
    data: FitData,
    options: FitOptions,
    settings: Mapping[str, object],
    owner: Saved | None = None,
    history: History | None = None,
) -> History:
    """Run a fit on validated data, from a checkpoint if there is one.

    Parameters
    ----------
    model : Sequential
    data : FitData
    options : FitOptions
    settings : dict
        What a resumed fit must have in common with this one, besides the data and the model.
    owner : object, optional
        The object that a checkpoint opens as, by default the model.
    history : History, optional
        An empty history to which the epochs are added.
    """
    net = model._net
    if data.training is not None:
        check_shard_sizes(data.n, options.batch_size, net.group)
        data.steps = -(-data.n // options.batch_size)
    with model._exclusive("fit"):
        net.apply_attribute_changes()
        record = _record(model, data, options, settings, owner)
        record.history = record.history if history is None else history
        saved = _resumed(record, options)
        first, done = (model._epochs, 0) if saved is None else (saved.state.first_epoch, saved.state.epochs_done)
        net.group.check_agreement("fit", lambda: _shared_settings(record, options.epochs, first, done))
        if not net.is_built:
            net.build(data.n_in)
        net.prepare_training()
        try:
            with net.backend.activate(), thread_limit(model._threads):
                model._run = record
                validation = None if data.validation is None else data.device.shard(net, data.validation)
                dataset = _dataset(net, data, options)
                return Trainer(model, dataset, validation, record, epochs=options.epochs, saved=saved).run()
        finally:
            # after the context, so that an out-of-memory error reports the memory that was free when it occurred
            model._run = None
            net.backend.release_memory()


def _resumed(record: TrainingRun, options: FitOptions) -> LoadedCheckpoint | None:
    """The checkpoint that the fit continues, if there is one. Warn if there is none and no callback writes it."""
    if options.resume is None:
        return None
    saved = record.open(options.resume, options.epochs)
    path = os.fspath(options.resume)
    written = any(_may_write(callback, path) for callback in record.hooks.callbacks)
    if saved is None and not written and record.net.group.rank == 0:
        warn_user(
            f"resume={path!r} is no file, and no callback writes it, so this fit cannot be resumed: add "
            f"gpunn.ModelCheckpoint({path!r}) to callbacks"
        )
    return saved


def _may_write(callback: Callback, path: str) -> bool:
    """True if a callback may write a checkpoint to this path; a user's callback always may."""
    if isinstance(callback, ModelCheckpoint):
        return "{" in callback.path or os.path.abspath(callback.path) == os.path.abspath(path)
    return not type(callback).__module__.startswith("gpunn.")


def _record(
    model: Model, data: FitData, options: FitOptions, settings: Mapping[str, object], owner: Saved | None
) -> TrainingRun:
    """The record of a fit, with its callbacks, before its first epoch."""
    net = model._net
    used = [c for c in options.callbacks if net.group.rank == 0 or not getattr(c, "passive", False)]
    hooks = CallbackList(used, model, {"epochs": options.epochs, "steps": data.steps, "verbose": options.verbose})
    # another callback that sees every epoch may write a checkpoint
    saves = hooks.undecided_epochs() <= 1 and not all(type(c) in NEVER_SAVE for c in hooks.callbacks)
    compared = saves or options.resume is not None or net.group is not SINGLE_PROCESS
    return TrainingRun(
        net,
        model if owner is None else owner,
        hooks,
        fit_settings={**(_data_settings(net, data) if compared else {}), **settings},
        n_in=data.n_in,
        first_epoch=model._epochs,
    )


def _dataset(net: Network, data: FitData, options: FitOptions) -> Dataset:
    """The batches of a fit."""
    batch_size = options.batch_size
    if data.stream is not None:
        return data.stream
    assert data.training is not None
    # with several processes, only their own rows must fit on the device
    found = data.device.training(net, data.training)
    rows = np.arange(data.n) if data.rows is None else data.rows
    if isinstance(found, HostDataset):
        return HostBatches(net, found, batch_size=batch_size, rows=rows, order=data.order)
    return ArrayBatches(net, found, batch_size=batch_size, rows=rows, order=data.order, epochs=options.epochs)


def _data_settings(net: Network, data: FitData) -> dict[str, object]:
    """Return the part of the fingerprint about the data, before a callback can change it. All ranks must call it."""
    validation, training = data.validation, data.training
    settings: dict[str, object] = {
        "training data": "a stream" if training is None else dataset_fingerprint(training[:3], data.n),
        "validation data": None if validation is None else dataset_fingerprint(validation[:3], validation.total_rows),
    }
    named = {"the training data": training, "the validation data": validation}
    return settings | {f"checksums of {k}": v.checksums(net.group) for k, v in named.items() if v is not None}


def _shared_settings(record: TrainingRun, epochs: int, first: int, done: int) -> dict[str, object]:
    """Return the settings of a fit that must be the same on all ranks."""
    return {
        **record.fingerprint(),
        "epochs": epochs,
        "epochs done": [first, done],
        "the weights (seed= or random_state= draws them)": record.net.weights_checksum(),
    }


def train_on_batch(model: Model, data: Arrays) -> float:
    """Take one step on one batch. Return the loss before it."""
    net, n = model._net, data[0].shape[0]
    check_shard_sizes(n, n, net.group)
    net.group.check_agreement(
        "train_on_batch",
        lambda: {"the batch": dataset_fingerprint(data), "checksums of the batch": Shard(*data).checksums(net.group)},
    )
    net.prepare_training()
    X, y, w = data
    spec = step_spec(net, {n: 1}, weighted=w is not None)
    with net.backend.activate(), net.executable(spec) as executable:
        begin, end = spec.shards[0].offset, spec.shards[0].offset + spec.shards[0].n
        if end - begin < n:
            X, y, w = X[begin:end], y[begin:end], None if w is None else w[begin:end]
        net.state[StateEntry.LR] = learning_rate(net, model._epochs)
        batch: DeviceDataset = inputs.on_device(net, (X, y, w))
        executable.load(batch.X, batch.y, batch.w)
        executable.run()
        state = np.array(net.backend.to_host(net.state))
    raise_if_diverged(net, state)
    return float(state[StateEntry.LOSS] + state[StateEntry.PENALTY])


def _progress(verbose: int) -> Callback:
    """Return a progress bar if tqdm is installed, else one line per epoch."""
    if verbose == 1:
        with contextlib.suppress(ImportError):
            return ProgressBar()
    return EpochLogger()


def thread_limit(threads: int | None, argument: str = "threads") -> AbstractContextManager[object]:
    """Limit the threads of BLAS, and so of fits. ImportError if a number is given and threadpoolctl is missing."""
    if threads is None:
        return contextlib.nullcontext()
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        raise ImportError(f'{argument}= needs threadpoolctl: pip install "gpunn[threads]"') from None
    limits: AbstractContextManager[object] = threadpool_limits(threads)
    return limits
