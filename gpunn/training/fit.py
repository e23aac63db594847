"""`Sequential.fit`: check the arguments, agree on them across ranks, copy the data to the device, and train."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np

from .. import input_checks as checks
from ..backend.concurrency import EpochCoroutine
from ..backend.launches import execute
from ..kernels.state import StateEntry
from ..network import Network
from ..parallel import Rows
from ..parallel.disk_rows import resolve
from ..program import Array
from ..program.groups import SINGLE_PROCESS
from ..validation import as_list, boolean, positive_integer
from . import fused_epochs, host_dataset, inputs, loop, stream
from .callbacks import Callback, CallbackList, EpochLogger, ProgressBar
from .history import History
from .inputs import Arrays
from .loop import FitContext
from .resume import LoadedCheckpoint, TrainingRun, dataset_fingerprint
from .shard import Shard, check_shard_sizes
from .trainer_state import TrainerState


class Model(Protocol):
    """The attributes of a `Sequential` that a fit reads and sets."""

    _net: Network
    _epochs: int
    _threads: int | None
    _run: TrainingRun | None

    def _exclusive(self, name: str, /) -> AbstractContextManager[None]: ...


def fit(
    model: Model,
    X: Any,
    y: Any,
    *,
    batch_size: int,
    epochs: int,
    shuffle: bool,
    validation_data: Any,
    validation_split: float,
    sample_weight: Any,
    class_weight: Any,
    callbacks: Iterable[Callback],
    verbose: int,
    resume: Any,
    steps_per_epoch: int | None,
) -> History:
    """Implement `Sequential.fit`."""
    batch_size = positive_integer("batch_size", batch_size)
    epochs = positive_integer("epochs", epochs)
    if verbose not in (0, 1, 2):
        raise ValueError(f"verbose must be 0, 1 or 2, got {verbose!r}")
    shuffle = boolean("shuffle", shuffle)
    chosen = as_list("callbacks", callbacks, "gpunn.Callback objects")
    if verbose:
        chosen.append(_progress(verbose))
    options: dict[str, Any] = {"epochs": epochs, "callbacks": chosen, "verbose": verbose, "resume": resume}
    if y is None and not isinstance(X, Rows) and stream.is_stream(X):
        _check_stream_arguments(model._net, sample_weight, validation_split)
        return _fit_stream(model, X, steps_per_epoch, validation_data, class_weight, options)
    if steps_per_epoch is not None:
        raise ValueError("steps_per_epoch needs a stream; an epoch of an array uses all its rows")
    options["batch_size"] = batch_size
    given = {"X": X, "y": y, "sample_weight": sample_weight}
    if any(isinstance(each, Rows) for each in given.values()):
        if validation_split != 0:
            raise ValueError("validation_split needs arrays: give validation_data, for example as gpunn.Rows")
        return _fit_rows(model, given, shuffle, validation_data, class_weight, options)
    return _fit_arrays(model, given, shuffle, validation_data, validation_split, class_weight, options)


def _check_stream_arguments(net: Network, sample_weight: Any, validation_split: Any) -> None:
    """Raise ValueError for arguments that a stream does not support."""
    if net.group is not SINGLE_PROCESS:
        raise ValueError(
            "the batches of a stream cannot be divided among processes: give arrays, also memory-mapped ones, or "
            "gpunn.Rows"
        )
    if sample_weight is not None:
        raise ValueError("sample_weight must be in the batches of a stream: (x, y, sample_weight)")
    if validation_split != 0:
        raise ValueError("validation_split needs all rows, and X is a stream: give validation_data")


def _fit_arrays(
    model: Model,
    given: dict[str, Any],
    shuffle: bool,
    validation_data: Any,
    validation_split: Any,
    class_weight: Any,
    options: dict[str, Any],
) -> History:
    """Fit on arrays."""
    net = model._net
    shard = (net.group.rank, net.group.size)
    X, y, w = inputs.validate(net, given["X"], given["y"], given["sample_weight"], shard=shard)
    validation: Any = None
    n = checks.n_training_rows(X.shape[0], validation_split)
    if n < X.shape[0]:
        if validation_data is not None:
            raise ValueError("give validation_data or validation_split, not both")
        validation = X[n:], y[n:], None if w is None else w[n:]
        X, y, w = X[:n], y[:n], None if w is None else w[:n]
        if not (checks.any_weight(w) and checks.any_weight(validation[2])):
            raise ValueError("validation_split leaves one part whose sample_weight is all zero")
    else:
        validation = inputs.validation(net, validation_data, X.shape[1])
    order = (lambda epoch: checks.epoch_permutation(n, net.seed, epoch, True)) if shuffle else None
    return train(model, inputs.apply_class_weight(net, (X, y, w), class_weight), validation, order_of=order, **options)


def _fit_rows(
    model: Model, given: dict[str, Any], shuffle: bool, validation_data: Any, class_weight: Any, options: dict[str, Any]
) -> History:
    """Fit on `Rows`, of which this process reads its own blocks."""
    net, X = model._net, given["X"]
    group, seed = net.group, net.seed
    if not isinstance(X, Rows) or X.ndim != 2:
        raise ValueError("X must be a gpunn.Rows of shape (rows, columns) if y or sample_weight is a gpunn.Rows")
    if given["y"] is None:
        raise TypeError("y is missing: give the targets as gpunn.Rows or an array")
    if class_weight is not None and not isinstance(class_weight, dict):
        raise ValueError("class_weight='balanced' needs all rows, but a process reads only its own: pass a dict")
    n = X.shape[0]
    check_shard_sizes(n, options["batch_size"], group)
    given = {name: rows for name, rows in given.items() if rows is not None}
    found, blocks, own = resolve(given, n, options["batch_size"], group.rank, group.size)
    check_weights = checks.batch_weights
    data = inputs.validate(net, found["X"], found["y"], found.get("sample_weight"), check_weights=check_weights)
    X, y, w = inputs.apply_class_weight(net, data, class_weight, check_weights=check_weights)
    inputs.check_weight(w, "sample_weight", group)
    return train(
        model,
        (X, y, w),
        inputs.validation(net, validation_data, X.shape[1]),
        order_of=lambda epoch: blocks.order(seed, epoch, own, shuffle=shuffle),
        rows=np.zeros(n, np.int64),
        shuffled=shuffle,
        first_row=blocks.block(own[0])[0],
        **options,
    )


def train(
    model: Model,
    training: Arrays,
    validation: tuple[Any, ...] | None,
    *,
    batch_size: int,
    epochs: int,
    order_of: Callable[[int], np.ndarray] | None,
    rows: np.ndarray | None = None,
    checkpoint_owner: Any = None,
    shuffled: bool | None = None,
    first_row: int | None = None,
    **options: Any,
) -> History:
    """Train on validated data.

    rows              indices of the training rows, all by default
    order_of(epoch)   the order of the rows in an epoch
    checkpoint_owner  the object that a checkpoint opens as, the model by default
    first_row         index of this process's first row, if the arrays have only the rows of this process
    options           callbacks, verbose and resume, as in `fit`
    """
    net, n = model._net, training[0].shape[0] if rows is None else len(rows)
    check_shard_sizes(n, batch_size, net.group)

    def run_epochs(context: FitContext, **run: Any) -> History:
        # with several processes, only their own rows must fit on the device
        data = (inputs.to_device_or_host if net.group.size == 1 else inputs.on_device)(net, training)
        fit_dataset: Any = host_dataset.fit if isinstance(data, host_dataset.HostDataset) else loop.fit
        found: History = fit_dataset(net, data, context, batch_size=batch_size, order_of=order_of, rows=rows, **run)
        return found

    return run_fit(
        model,
        run_epochs,
        Shard(*training) if first_row is None else Shard(*training, first_row, n),
        None if validation is None else Shard(*validation),
        epochs=epochs,
        steps=-(-n // batch_size),
        n_in=training[0].shape[1],
        fit_settings={
            "training data": dataset_fingerprint(training, n),
            "batch_size": batch_size,
            "shuffle": order_of is not None if shuffled is None else shuffled,
        },
        checkpoint_owner=model if checkpoint_owner is None else checkpoint_owner,
        **options,
    )


def epoch_coroutine(
    model: Model,
    training: Arrays,
    validation: Arrays | None = None,
    *,
    batch_size: int,
    epochs: int,
    callbacks: Iterable[Callback] = (),
    verbose: Any = 0,
    rows: np.ndarray | None = None,
    history: History | None = None,
    put: Callable[[Any], Array] | None = None,
    **options: Any,
) -> EpochCoroutine:
    """Train like `train`, without per-step callbacks, as a coroutine that yields epoch runners.

    put      copies an array to the device, as in `inputs.on_device`
    options  order_of, epochs_until_callback and draw_orders, as in `fused_epochs.epoch_coroutine`
    """
    net, n = model._net, training[0].shape[0] if rows is None else len(rows)
    with model._exclusive("fit"):
        net.apply_attribute_changes()
        hooks = CallbackList(callbacks, model, {"epochs": epochs, "steps": -(-n // batch_size), "verbose": verbose})
        model._run = TrainingRun(
            net, model, hooks, fit_settings={}, n_in=training[0].shape[1], first_epoch=model._epochs
        )
        model._run.history = model._run.history if history is None else history
        try:
            _build(net, training[0].shape[1])
            validation_set = None if validation is None else inputs.on_device(net, validation, put)
            callback_caller = _EpochCounter(hooks, model, model._run, None)
            yield from fused_epochs.epoch_coroutine(
                net,
                inputs.on_device(net, training, put),
                FitContext(net, validation_set, callback_caller, model, model._run.history),
                batch_size=batch_size,
                epochs=epochs,
                first_epoch=model._epochs,
                rows=rows,
                **options,
            )
        finally:
            model._run = None


def _fit_stream(
    model: Model, X: Any, steps: int | None, validation_data: Any, class_weight: Any, options: dict[str, Any]
) -> History:
    """Fit on a stream of batches."""
    net, epochs = model._net, options["epochs"]
    if steps is not None:
        steps = positive_integer("steps_per_epoch", steps)
    batches = stream.Stream(X, steps)
    inputs.require_explicit_class_weight(class_weight, "X is a stream")
    if batches.single_pass and options["resume"] is not None:
        raise ValueError("resume needs batches that can be iterated again, got an iterator: pass a function")
    if batches.single_pass and steps is None and epochs > 1:
        raise ValueError(
            f"X is an iterator, which yields its batches only once, but epochs={epochs}: pass steps_per_epoch, or a "
            "function that returns a new iterator for every epoch"
        )
    n_in = inputs.stream_batch(net, batches.peek(), 0, class_weight)[0].shape[1]
    validation = inputs.validation(net, validation_data, n_in)

    def check(batch: Any, number: int) -> loop.DeviceDataset:
        return inputs.on_device(net, inputs.stream_batch(net, batch, number, class_weight))

    def run_epochs(context: FitContext, **run: Any) -> History:
        return stream.fit(net, batches, check, context, **run)

    count = len(X) if steps is None and hasattr(X, "__len__") else steps
    return run_fit(
        model,
        run_epochs,
        None,
        validation,
        steps=count,
        n_in=n_in,
        fit_settings={"training data": "a stream", "steps_per_epoch": steps},
        checkpoint_owner=model,
        **options,
    )


def run_fit(
    model: Model,
    run_epochs: Callable[..., History],
    training: Shard | None,
    validation: Shard | None,
    *,
    epochs: int,
    steps: int | None,
    callbacks: list[Callback],
    n_in: int,
    fit_settings: dict[str, Any],
    checkpoint_owner: Any,
    verbose: Any = 0,
    resume: Any = None,
) -> History:
    """Run a fit by `run_epochs`, from a checkpoint if there is one.

    training          the training data, None for a stream
    steps             number of steps per epoch, if known
    fit_settings      as in `TrainingRun`
    checkpoint_owner  the object that a checkpoint opens as
    """
    net = model._net
    with model._exclusive("fit"):
        net.apply_attribute_changes()
        used = _callbacks_of_rank(callbacks, net.group.rank)
        hooks = CallbackList(used, model, {"epochs": epochs, "steps": steps, "verbose": verbose})
        comparable = bool(hooks.callbacks) or resume is not None or net.group is not SINGLE_PROCESS
        fit_settings |= _data_settings(net, training, validation, with_checksums=comparable)
        training_run = TrainingRun(
            net, checkpoint_owner, hooks, fit_settings=fit_settings, n_in=n_in, first_epoch=model._epochs
        )
        saved = None if resume is None else training_run.open(resume, epochs)
        first, done = (model._epochs, 0) if saved is None else (saved.state.first_epoch, saved.state.epochs_done)
        net.group.check_agreement("fit", lambda: _shared_settings(training_run, epochs, done))
        _build(net, n_in)
        try:
            with net.backend.activate(), _thread_limit(model._threads):
                model._run = training_run
                validation_set = None if validation is None else inputs.shard_to_device(net, validation)
                callback_caller = _EpochCounter(hooks, model, training_run, saved)
                context = FitContext(net, validation_set, callback_caller, model, training_run.history)
                return run_epochs(context, epochs=epochs, first_epoch=first, done=done)
        finally:
            # after the context, so that an out-of-memory error reports the memory that was free when it occurred
            model._run = None
            net.backend.release_memory()


def _data_settings(
    net: Network, training: Shard | None, validation: Shard | None, *, with_checksums: bool
) -> dict[str, Any]:
    """Return the part of the fingerprint about the data, before a callback can change it. All ranks must call it."""
    fingerprint = None if validation is None else dataset_fingerprint(validation[:3], validation.total_rows)
    settings: dict[str, Any] = {"validation data": fingerprint}
    if with_checksums:
        data = {"the training data": training, "the validation data": validation}
        settings |= {f"checksums of {k}": v.checksums(net.group) for k, v in data.items() if v is not None}
    return settings


def _build(net: Network, n_in: int) -> None:
    """Build the network if it is not built, and prepare it for training steps."""
    if not net.is_built:
        net.build(n_in)
    net.prepare_training()


def _callbacks_of_rank(callbacks: list[Callback], rank: int) -> list[Callback]:
    """Return the callbacks that a rank calls. Only rank 0 displays progress and writes files."""
    return [c for c in callbacks if rank == 0 or not getattr(c, "passive", False)]


def _shared_settings(training_run: TrainingRun, epochs: int, done: int) -> dict[str, Any]:
    """Return the settings of a fit that must be the same on all ranks."""
    return {
        **training_run.fingerprint(),
        "epochs": epochs,
        "epochs done": [training_run.first_epoch, done],
        "the weights (seed= or random_state= draws them)": training_run.net.weights_checksum(),
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
    with net.backend.activate(), loop.training_plan(net, n, weighted=w is not None) as plan:
        begin, end = plan.shard.offset, plan.shard.offset + plan.shard.n
        if end - begin < n:
            X, y, w = X[begin:end], y[begin:end], None if w is None else w[begin:end]
        loop.set_learning_rate(net, model._epochs)
        execute(loop.batch_step(plan, inputs.on_device(net, (X, y, w))))
        state = np.array(net.backend.to_host(net.state))
    loop.raise_if_diverged(net, state)
    return float(state[StateEntry.LOSS] + state[StateEntry.PENALTY])


class _EpochCounter:
    """Calls the callbacks of a fit, counts the epochs of the model, and restores a checkpoint."""

    def __init__(
        self, hooks: CallbackList, model: Model, training_run: TrainingRun, saved: LoadedCheckpoint | None
    ) -> None:
        self.hooks, self.model, self.run, self.saved = hooks, model, training_run, saved
        self.has_batch_hooks = hooks.has_batch_hooks

    def __call__(self, hook: str, *arguments: Any) -> None:
        if hook == "on_train_begin" and self.saved is not None:
            self._resume(self.saved, *arguments)
            return
        if hook == "on_epoch_end":
            self.run.epochs_done = arguments[0] + 1
            self.model._epochs = self.run.first_epoch + self.run.epochs_done
        if hook != "on_epoch_complete":
            self.hooks(hook, *arguments)
            return
        with self.run.at_epoch_boundary():
            self.hooks(hook, *arguments)

    def _resume(self, saved: LoadedCheckpoint, logs: dict[str, float]) -> None:
        before = self.run.capture()
        try:
            self._restore(saved.state)
            self.hooks("on_train_begin", logs)
            # again, since the saved state already contains the effects of on_train_begin
            self._restore(saved.state)
            saved.restore_callbacks()
        except BaseException:
            self._restore(before)
            raise

    def _restore(self, state: TrainerState) -> None:
        self.run.restore(state)
        self.model._epochs = state.first_epoch + state.epochs_done


def _progress(verbose: int) -> Callback:
    """Return a progress bar if tqdm is installed, else one line per epoch."""
    if verbose == 1:
        with contextlib.suppress(ImportError):
            return ProgressBar()
    return EpochLogger()


@contextlib.contextmanager
def _thread_limit(threads: int | None) -> Iterator[None]:
    if threads is None:
        yield
        return
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        raise ImportError('threads= needs threadpoolctl: pip install "gpunn[threads]"') from None
    with threadpool_limits(threads):
        yield
