"""A fit from its call to its end: what it is given is checked, agreed upon, brought to the device and trained on."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np

from .. import input_checks as checks
from ..backend.concurrency import EpochCoroutine
from ..kernels.state import Slot
from ..network import Network
from ..parallel import Rows
from ..parallel.disk_rows import resolve
from ..recording import SINGLE_PROCESS, Array, execute
from ..validation import as_list, boolean, positive_integer
from . import fused_epochs, inputs, loop, stream
from . import host_dataset as host_blocks
from .callbacks import Callback, CallbackList, EpochLogger, ProgressBar
from .history import History
from .inputs import Arrays, Shard
from .loop import FitContext
from .resume import LoadedCheckpoint, TrainerState, TrainingRun, dataset_fingerprint


class Model(Protocol):
    """What of a `Sequential` a fit reads and sets."""

    _net: Network
    _epochs: int
    _threads: int | None
    _run: TrainingRun | None

    def _exclusive(self, what: str) -> AbstractContextManager[None]: ...


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
    """`Sequential.fit`."""
    batch_size = positive_integer("batch_size", batch_size)
    epochs = positive_integer("epochs", epochs)
    if verbose not in (0, 1, 2):
        raise ValueError(f"verbose must be 0, 1 or 2, got {verbose!r}")
    shuffle = boolean("shuffle", shuffle)
    chosen = as_list("callbacks", callbacks, "gpunn.Callback objects")
    if verbose:
        chosen.append(_progress(verbose))
    options: dict[str, Any] = {"epochs": epochs, "callbacks": chosen, "verbose": verbose, "resume": resume}
    net = model._net
    group = net.group
    if y is None and not isinstance(X, Rows) and stream.is_stream(X):
        if group is not SINGLE_PROCESS:
            raise ValueError(
                "a stream's batches are not shared among processes: give arrays, memory-mapped ones say, or gpunn.Rows"
            )
        if sample_weight is not None:
            raise ValueError("sample_weight comes in the batches of a stream: (x, y, sample_weight)")
        if validation_split != 0:
            raise ValueError("validation_split needs all rows, and X is a stream: give validation_data")
        return _fit_stream(model, X, steps_per_epoch, validation_data, class_weight, options)
    if steps_per_epoch is not None:
        raise ValueError("steps_per_epoch is for streams; an array's epoch is all its rows")
    options["batch_size"] = batch_size
    if any(isinstance(given, Rows) for given in (X, y, sample_weight)):
        if validation_split != 0:
            raise ValueError("validation_split takes rows of a set in memory: give validation_data, as gpunn.Rows say")
        given = {"X": X, "y": y, "sample_weight": sample_weight}
        return _fit_rows(model, given, shuffle, validation_data, class_weight, options)
    X, y, w = inputs.validate(net, X, y, sample_weight, own=(group.rank, group.size))
    held: Any = None
    n = checks.n_training_rows(X.shape[0], validation_split)
    if n < X.shape[0]:
        if validation_data is not None:
            raise ValueError("give validation_data or validation_split, not both")
        held = X[n:], y[n:], None if w is None else w[n:]
        X, y, w = X[:n], y[:n], None if w is None else w[:n]
        if not (checks.any_weight(w) and checks.any_weight(held[2])):
            raise ValueError("validation_split leaves one side whose sample_weight is all zero")
    else:
        held = inputs.validation(net, validation_data, X.shape[1])
    order = (lambda epoch: checks.epoch_permutation(n, net.seed, epoch, True)) if shuffle else None
    return train(model, inputs.apply_class_weight(net, (X, y, w), class_weight), held, order_of=order, **options)


def _fit_rows(
    model: Model, given: dict[str, Any], shuffle: bool, validation_data: Any, class_weight: Any, options: dict[str, Any]
) -> History:
    """`fit` on `Rows`, of which this process reads its own blocks."""
    net, X = model._net, given["X"]
    group, seed = net.group, net.seed
    if not isinstance(X, Rows) or X.ndim != 2:
        raise ValueError("y or sample_weight is a gpunn.Rows, so X must be one, of a table (rows, columns)")
    if given["y"] is None:
        raise TypeError("y is missing: the targets, as another gpunn.Rows or an array")
    if class_weight is not None and not isinstance(class_weight, dict):
        raise ValueError("class_weight='balanced' needs all rows, and a process has its own: pass a dict")
    n = X.shape[0]
    inputs.check_shard_sizes(n, options["batch_size"], group)
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
        order_of=lambda epoch: blocks.order(seed, epoch, own, shuffle),
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
    """Train on what was checked, on `rows` of it where not all train, in the order that `order_of(epoch)` tells. A
    checkpoint is the file of `subject`, the model unless given. `first_row` is the number of this process's first row
    if the arrays hold its own rows only. `how` holds callbacks, verbose and resume, as in `fit`."""
    net, n = model._net, training[0].shape[0] if rows is None else len(rows)
    inputs.check_shard_sizes(n, batch_size, net.group)
    shuffled = order_of is not None if shuffled is None else shuffled

    def run_epochs(context: FitContext, **run: Any) -> History:
        # several processes read their own rows of a set that is too large for one
        data = (inputs.to_device_or_host if net.group.size == 1 else inputs.on_device)(net, training)
        take: Any = host_blocks.fit if isinstance(data, host_blocks.HostDataset) else loop.fit
        found: History = take(net, data, context, batch_size=batch_size, order_of=order_of, rows=rows, **run)
        return found

    return run_fit(
        model,
        run_epochs,
        Shard(*training) if first_row is None else Shard(*training, first_row, n),
        None if validation is None else Shard(*validation),
        epochs=epochs,
        steps=-(-n // batch_size),
        n_in=training[0].shape[1],
        facts={"training data": dataset_fingerprint(training, n), "batch_size": batch_size, "shuffle": shuffled},
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
    """`train` as a course, for fits that nobody watches from step to step: `put` as in `sets.on_device`, and `how`
    holds order_of, ahead and orders, as in `unwatched.course`."""
    net, n = model._net, training[0].shape[0] if rows is None else len(rows)
    with model._exclusive("fit"):
        net.apply_attribute_changes()
        hooks = CallbackList(callbacks, model, {"epochs": epochs, "steps": -(-n // batch_size), "verbose": verbose})
        model._run = TrainingRun(net, model, hooks, facts={}, n_in=training[0].shape[1], first=model._epochs)
        if history is not None:
            model._run.history = history
        try:
            if not net.is_built:
                net.build(training[0].shape[1])
            net.prepare_training()
            held = None if validation is None else inputs.on_device(net, validation, put)
            counting = _EpochCounter(hooks, model, model._run, None)
            yield from fused_epochs.epoch_coroutine(
                net,
                inputs.on_device(net, training, put),
                FitContext(net, held, counting, model, model._run.history),
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
    """`fit` on batches that X gives one after another."""
    net, epochs = model._net, options["epochs"]
    if steps is not None:
        steps = positive_integer("steps_per_epoch", steps)
    batches = stream.Stream(X, steps)
    inputs.require_explicit_class_weight(class_weight, "X is a stream")
    if batches.single_pass and options["resume"] is not None:
        raise ValueError("resume needs batches that can be begun anew, not an iterator: pass a function")
    if batches.single_pass and steps is None and epochs > 1:
        raise ValueError(
            f"X is an iterator, which gives its batches once, and epochs={epochs}: pass steps_per_epoch, or a "
            "function that makes a new iterator for every epoch"
        )
    n_in = inputs.stream_batch(net, batches.peek(), 0, class_weight)[0].shape[1]
    validation = inputs.validation(net, validation_data, n_in)

    def check(batch: Any, number: int) -> loop.DeviceDataset:
        return inputs.on_device(net, inputs.stream_batch(net, batch, number, class_weight))

    def run_epochs(context: FitContext, **run: Any) -> History:
        return stream.fit(net, batches, check, context, **run)

    count = len(X) if steps is None and hasattr(X, "__len__") else steps
    facts = {"training data": "a stream", "steps_per_epoch": steps}
    return run_fit(
        model, run_epochs, None, validation, steps=count, n_in=n_in, facts=facts, checkpoint_owner=model, **options
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
    facts: dict[str, Any],
    checkpoint_owner: Any,
    verbose: Any = 0,
    resume: Any = None,
) -> History:
    """Take a fit through its epochs by `go`, from a checkpoint's on where there is one; `of` is the model whose file a
    checkpoint is, `training` None for a stream."""
    net = model._net
    with model._exclusive("fit"):
        net.apply_attribute_changes()
        # of several processes the first one shows and writes
        watches = net.group.rank == 0
        callbacks = [c for c in callbacks if watches or not getattr(c, "passive", False)]
        hooks = CallbackList(callbacks, model, {"epochs": epochs, "steps": steps, "verbose": verbose})
        facts |= {
            "validation data": None
            if validation is None
            else dataset_fingerprint(validation[:3], validation.total_rows)
        }
        if hooks.callbacks or resume is not None or net.group is not SINGLE_PROCESS:
            # computed before a callback can change the arrays, and only where something can be compared with them
            data = {"the training data": training, "the validation data": validation}
            facts |= {f"checksums of {k}": v.checksums(net.group) for k, v in data.items() if v is not None}
        under_way = TrainingRun(net, checkpoint_owner, hooks, facts=facts, n_in=n_in, first=model._epochs)
        saved = None if resume is None else under_way.open(resume, epochs)
        first, done = (model._epochs, 0) if saved is None else (saved.position.first, saved.position.done)
        net.group.check_agreement(
            "fit",
            lambda: {
                **under_way.facts(),
                "epochs": epochs,
                "epochs done": [model._epochs, done],
                "the weights (seed= or random_state= draws them)": net.weights_checksum(),
            },
        )
        if not net.is_built:
            net.build(n_in)
        net.prepare_training()
        try:
            with net.backend.activate(), _thread_limit(model._threads):
                model._run = under_way
                held = None if validation is None else validation.on_device(net)
                context = FitContext(net, held, _EpochCounter(hooks, model, under_way, saved), model, under_way.history)
                return run_epochs(context, epochs=epochs, first_epoch=first, done=done)
        finally:
            # behind the context: where memory ran out, its message says what was free then
            model._run = None
            net.backend.release_memory()


def train_on_batch(model: Model, data: Arrays) -> float:
    """One step on one batch; the loss before it."""
    net, n = model._net, data[0].shape[0]
    inputs.check_shard_sizes(n, n, net.group)
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
    return float(state[Slot.LOSS] + state[Slot.PENALTY])


class _EpochCounter:
    """The callbacks of a fit, and the number of epochs that the model has seen; brings a checkpoint back."""

    def __init__(
        self, hooks: CallbackList, model: Model, under_way: TrainingRun, saved: LoadedCheckpoint | None
    ) -> None:
        self.hooks, self.model, self.run, self.saved = hooks, model, under_way, saved
        self.has_batch_hooks = hooks.has_batch_hooks

    def __call__(self, hook: str, *arguments: Any) -> None:
        if hook == "on_train_begin" and self.saved is not None:
            self._resume(self.saved, *arguments)
            return
        if hook == "on_epoch_end":
            self.run.done = arguments[0] + 1
            self.model._epochs = self.run.first + self.run.done
        if hook != "on_epoch_complete":
            self.hooks(hook, *arguments)
            return
        with self.run.whole():
            self.hooks(hook, *arguments)

    def _resume(self, saved: LoadedCheckpoint, logs: dict[str, float]) -> None:
        before = self.run.position()
        try:
            self._restore(saved.position)
            self.hooks("on_train_begin", logs)
            # again: what a callback sets at the beginning was set, and trained on, long ago
            self._restore(saved.position)
            saved.restore_callbacks()
        except BaseException:
            self._restore(before)
            raise

    def _restore(self, position: TrainerState) -> None:
        self.run.restore(position)
        self.model._epochs = position.first + position.done


def _progress(verbose: int) -> Callback:
    """A bar where tqdm is installed, else a line an epoch."""
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
