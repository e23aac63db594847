"""Sequential, the front: compiles, fits, predicts, explains and saves. The numbers are made in `network`."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import importlib.util
import json
import operator
import os
import re
import secrets
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from . import __version__, losses, metrics, optimizers
from . import backend as backends
from . import data as checks
from . import layers as layer_registry
from .activations import Activation
from .arguments import positive
from .backend.courses import Course
from .kernels import get as kernel
from .kernels.state import Slot
from .layers import Dense, Layer
from .losses import Loss
from .network import Network, Plan, evaluate
from .parallel import DataParallel, Rows
from .parallel.rows import Blocks, of_fit
from .recording import ALONE, Array, Group, part, run
from .training import blocks as host_blocks
from .training import checkpoint, loop, stream, unwatched
from .training.callbacks import Callback, CallbackList, EpochLines, ProgressBar
from .training.history import History
from .training.loop import Data
from .training.run import Position, Run, Saved, check_arrays, print_of, shapes_of, views_of

BATCH = 32
PREDICTION_BATCH = 1024


class Summary(str):
    """Text that a notebook or a prompt shows as it reads."""

    def __repr__(self) -> str:
        return str(self)


@dataclass(frozen=True)
class LayerTrace:
    """One layer's numbers in a step: z, a, delta (n, n_out), dW and db (None where the layer has none).

    `gradients` holds every parameter's gradient by name: {"W": dW, "b": db} of a Dense layer.
    """

    layer: str
    z: Array
    a: Array
    delta: Array | None
    dW: Array | None = None
    db: Array | None = None
    gradients: dict[str, Array] = field(default_factory=dict)


class Sequential:
    """Layers in a row, trained by back-propagation.

    layers       Dense, Activation, Dropout, BatchNormalization, LayerNormalization, or a `Layer` of one's own
    input_shape  the number of inputs, or (inputs,); None learns it from the first X
    seed         of initial weights, shuffles and dropout masks; None draws one and keeps it in `net.seed`
    dtype        "float32" or "float64", of parameters and activations

    Weights are drawn when the number of inputs is known: here with `input_shape=`, at `build(n_in)`, or at the first
    fit, predict or trace. ValueError or TypeError names the argument that makes no sense.
    """

    def __init__(
        self,
        layers: Iterable[Layer],
        *,
        input_shape: int | tuple[int] | None = None,
        seed: int | None = None,
        dtype: Any = "float32",
    ) -> None:
        found = _listed("layers", layers, "gpunn layers")
        if not found:
            raise ValueError("layers is empty; a network needs at least one layer")
        seen = set()
        for k, layer in enumerate(found):
            if not isinstance(layer, Layer):
                raise TypeError(f"layers[{k}] must be a gpunn layer, got {type(layer).__name__}")
            if id(layer) in seen or layer.in_use:
                raise ValueError(f"layers[{k}] ({layer!r}) is in use already; make a new one, or copy.deepcopy it")
            seen.add(id(layer))
        n_in = _inputs(input_shape)
        self._net = Network(found, _seed(seed), checks.floating(dtype))
        self._compiled: dict[str, Any] | None = None
        self._loss: Loss | None = None
        self._epochs = 0
        self._threads: int | None = None
        self._fitting = threading.Lock()
        self._run: Run | None = None
        self.stop_training = False
        if n_in is not None:
            self.build(n_in)
        self._claim()

    def _claim(self) -> None:
        for layer in self._net.layers:
            layer.in_use = True

    def __getstate__(self) -> dict[str, Any]:
        """A copy made while a fit runs is not being fitted itself."""
        return {k: v for k, v in vars(self).items() if k != "_fitting"} | {"_run": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._fitting = threading.Lock()
        self._claim()

    # --- what it is ---------------------------------------------------------------------------------------------

    @property
    def layers(self) -> list[Layer]:
        """The layers, first to last; a new list of the network's own layers."""
        return list(self._net.layers)

    @property
    def seed(self) -> int:
        """The seed of initial weights, shuffles and dropout masks."""
        return self._net.seed

    @property
    def dtype(self) -> np.dtype:
        """The type of parameters and activations."""
        return self._net.dtype

    @property
    def precision(self) -> str | None:
        """What `compile` was given: "tf32" or "bf16" for products on a GPU, None for products in `dtype`."""
        return self._net.precision

    @property
    def device(self) -> str:
        """Where the parameters are: "cpu" or "cuda:N"."""
        return self._net.backend.device

    @property
    def device_reason(self) -> str:
        """One line: why that device was taken."""
        return self._net.backend.reason

    @property
    def optimizer(self) -> optimizers.Optimizer:
        """The compiled optimiser. RuntimeError before `compile`."""
        self._need_compiled("optimizer")
        return self._net.optimizer

    @property
    def loss(self) -> Loss:
        """The compiled loss. RuntimeError before `compile`."""
        self._need_compiled("loss")
        assert self._loss is not None
        return self._loss

    @property
    def learning_rate(self) -> float:
        """η of the next step: what it was set to, else what the optimiser's schedule gives. RuntimeError before
        `compile`.

        Setting it holds the rate there, whatever the schedule says, until it is set again or `compile` is called; None
        returns to the schedule. ValueError or TypeError where it is no positive number.
        """
        self._need_compiled("learning_rate")
        return loop.rate(self._net, self._epochs)

    @learning_rate.setter
    def learning_rate(self, rate: float | None) -> None:
        self._need_compiled("learning_rate")
        self._net.held_rate = None if rate is None else positive("learning_rate", rate)

    def __len__(self) -> int:
        return len(self._net.layers)

    def __getitem__(self, index: int) -> Layer:
        return self._net.layers[index]

    def __iter__(self) -> Iterator[Layer]:
        return iter(self._net.layers)

    def __repr__(self) -> str:
        inside = ", ".join(map(repr, self._net.layers))
        shape = f", input_shape={self._net.n_in}" if self._net.is_built else ""
        return f"Sequential([{inside}]{shape}, seed={self.seed}, dtype='{self.dtype}')"

    def summary(self, batch_size: int = BATCH) -> Summary:
        """A table of the layers, their parameters, the bytes of a training plan for `batch_size` rows, and whatever
        leaves the fast path with the reason. Before the number of inputs is known, the layers alone."""
        net = self._net
        if not net.is_built:
            return Summary(f"{self!r}\nnot built: the number of inputs is not known yet")
        rows = [("layer", "outputs", "parameters", "")]
        for k, layer in enumerate(net.layers):
            count = sum(p.stop - p.start for p in net.places_of(k))
            rows.append((repr(layer), f"{layer.n_out}", f"{count:,}", "" if layer.trainable else "frozen"))
        widths = [max(len(row[c]) for row in rows) for c in range(3)]
        lines = [f"{a:<{widths[0]}}  {b:>{widths[1]}}  {c:>{widths[2]}}  {d}".rstrip() for a, b, c, d in rows]
        trained = sum(b - a for a, b in net.segments())
        lines.insert(1, "-" * max(map(len, lines)))
        lines.append(lines[1])
        lines.append(f"inputs {net.n_in}, parameters {net.theta.shape[0]:,} ({trained:,} trained), {net.dtype}")
        lines.append(f"device {self.device}: {self.device_reason}")
        if net.precision is not None:
            here = net.backend.why_no_lower_precision(asked=True)
            lines.append(f"products in {net.precision}" + (f" on a GPU; here in {net.dtype}" if here else ""))
        if self._compiled is not None:
            _positive_integer("batch_size", batch_size)
            net.ready()
            with loop.training_plan(net, batch_size, weighted=False) as plan:
                lines.append(f"a training plan for {batch_size} rows owns {_bytes(plan.bytes)}")
                slow = [*plan.eager, *net.faults]
                lines += [f"leaves the fast path: {why}" for why in slow] or ["nothing leaves the fast path"]
        return Summary("\n".join(lines))

    # --- weights ------------------------------------------------------------------------------------------------

    def build(self, n_in: int) -> Sequential:
        """Learn the number of inputs and draw the initial weights from the seed. RuntimeError if built already."""
        if self._net.is_built:
            raise RuntimeError(f"the network is built already, for {self._net.n_in} inputs")
        self._net.build(_positive_integer("n_in", n_in))
        return self

    def _reseed(self, seed: int, name: str) -> None:
        """Another seed, before anything was trained; weights that there are already are drawn anew. ValueError or
        TypeError names the argument."""
        self._net.seed = _seed(seed, name)
        if self._net.is_built:
            self._net.build(self._net.n_in)

    def get_weights(self) -> list[np.ndarray]:
        """[W1, b1, W2, b2, …] as NumPy arrays, copies. RuntimeError before the number of inputs is known."""
        self._need_built("get_weights")
        net = self._net
        return [np.array(net.backend.to_host(p.of(net.theta))) for p in net.ordered_places()]

    def set_weights(self, weights: Sequence[Any]) -> None:
        """Take weights in the order of `get_weights`. ValueError where their number or a shape differs, or one is not
        finite; nothing is changed then. RuntimeError before the number of inputs is known."""
        self._need_built("set_weights")
        net = self._net
        places, listed = net.ordered_places(), _listed("weights", weights, "arrays")
        if len(listed) != len(places):
            raise ValueError(f"weights must hold {len(places)} arrays, got {len(listed)}")
        arrays = []
        for k, (given, place) in enumerate(zip(listed, places, strict=True)):
            array = backends.to_host(checks.numbers(given, f"weights[{k}]"))
            if array.shape != place.parameter.shape:
                raise ValueError(f"weights[{k}] must have shape {place.parameter.shape}, got {array.shape}")
            with np.errstate(over="ignore"):
                converted = array.astype(net.dtype)
            if not np.isfinite(converted).all():
                raise ValueError(f"weights[{k}] holds NaN, infinity or a number too large for {net.dtype}")
            arrays.append(converted)
        for array, place in zip(arrays, places, strict=True):
            place.of(net.theta)[...] = net.backend.asarray(array)

    def to(self, device: str) -> Sequential:
        """Bring the network to a device: "cpu", "cuda", "cuda:1" or "auto". On a CPU its products are in its dtype,
        whatever `precision` they have on a GPU. ValueError where that GPU cannot have it."""
        self._need_rest("to")
        return self._move(device, self._net.precision, asked=False)

    def _move(self, device: str, precision: str | None, *, asked: bool) -> Sequential:
        """To a device, with that precision there; `asked` is that of `Backend.why_no_lower_precision`."""
        group = self._net.group
        with group.together():
            backend = group.backend(backends.get(device), device)
            lower = _lower_precision(precision, backend, self._net.dtype, asked=asked)
            group.meet("to", None)
            self._net.move(backend)
            self._net.compute_in(lower)
            group.use(backend)
        return self

    # --- training -----------------------------------------------------------------------------------------------

    def compile(
        self,
        optimizer: Any = "adam",
        loss: Any = None,
        metrics: Iterable[Any] = (),
        *,
        device: Any = "auto",
        precision: str | None = None,
        threads: int | None = None,
        strategy: DataParallel | None = None,
    ) -> Sequential:
        """Choose the update rule, the loss, metrics and the device. Called again it keeps the weights and resets the
        optimiser's state.

        optimizer  a name ("adam") or an object (`Adam(1e-3)`)
        loss       a name, a `gpunn.losses` object, or a function (y, a) → (ℓ, g)
        metrics    names ("accuracy") or objects, shown beside the loss
        device     "auto", "cpu", "cuda" or "cuda:N"
        precision  of products in a float32 network on a GPU: None for float32, "tf32" for operands cut to 11 bits,
                   "bf16" for operands rounded to 8; sums, activations, gradients, parameters and the optimiser's state
                   stay float32
        threads    the most threads that a fit uses, in BLAS and around it; None takes as many as BLAS is set to
                   (extra `threads`)
        strategy   `DataParallel()` where `mpiexec` started several processes, which then share every step's rows; None
                   trains in this process alone

        ValueError or TypeError, before anything changes, where an argument makes no sense or loss and last layer do
        not fit; DeviceError where the device cannot be used; for a strategy RuntimeError without an MPI launch,
        ImportError without mpi4py, and ValueError on every process where they disagree.
        """
        self._need_rest("compile")
        group = _group_of(strategy)
        with group.together():
            return self._compile(group, optimizer, loss, metrics, device, precision, threads)

    def _compile(
        self,
        group: Group,
        optimizer: Any,
        loss: Any,
        metrics: Iterable[Any],
        device: Any,
        precision: str | None,
        threads: int | None,
    ) -> Sequential:
        rule = optimizers.get(optimizer)
        if loss is None:
            raise TypeError("loss is missing: name one, for example loss='sparse_categorical_crossentropy'")
        chosen = losses.get(loss)
        self._net.check_rule(rule)
        resolved = chosen.resolve(self._last_activation(chosen))
        if isinstance(metrics, str):
            raise TypeError(f"metrics must be a list, write metrics=[{metrics!r}]")
        # copies, since resolving a metric ties it to this loss
        watched = [copy.copy(_metric(m)) for m in _listed("metrics", metrics, "names or gpunn metrics")]
        names = [m.name for m in watched]
        if len(set(names)) != len(names) or "loss" in names:
            raise ValueError(f"metrics must have different names, none of them 'loss', got {names}")
        for metric in watched:
            metric.resolve(resolved, self._outputs())
        if threads is not None:
            _positive_integer("threads", threads)
            if importlib.util.find_spec("threadpoolctl") is None:
                raise ImportError('threads= needs threadpoolctl: pip install "gpunn[threads]"')
        backend = group.backend(backends.get(device), device)
        lower = _lower_precision(precision, backend, self._net.dtype)
        group.agree(
            "compile",
            lambda: {
                "gpunn's version": __version__,
                "NumPy's version": np.__version__,
                "seed": self.seed,
                "the network": _without_places(self),
                "the initial weights": self._net.fingerprint(),
                "optimizer": _without_places(rule),
                "loss": resolved.name,
                "metrics": names,
                "the kind of device": backend.device.partition(":")[0],
                "precision": lower,
                "strategy": [group.size, group.synchronized_batch_norm],
            },
        )
        self._net.move(backend)
        self._net.compile(rule, resolved, watched, precision=lower)
        group.use(backend)
        self._net.join(group)
        self._loss = chosen
        self._threads = threads
        self._epochs = 0
        self._compiled = {"metrics": watched}
        return self

    def join(self, strategy: DataParallel | None) -> Sequential:
        """Share the steps from now on as `compile(…, strategy=…)` does, with the optimiser's state kept: after a copy
        or a load, which are of this process alone. Errors as there."""
        self._need_compiled("join")
        self._need_rest("join")
        group = _group_of(strategy)
        with group.together():
            group.agree("join", lambda: {"the weights": self._net.fingerprint()})
            group.use(self._net.backend)
            self._net.join(group)
        return self

    def fit(
        self,
        X: Any,
        y: Any = None,
        *,
        batch_size: int = BATCH,
        epochs: int = 1,
        shuffle: bool = True,
        validation_data: Any = None,
        validation_split: float = 0.0,
        sample_weight: Any = None,
        class_weight: dict[Any, float] | str | None = None,
        callbacks: Iterable[Callback] = (),
        verbose: int = 1,
        resume: str | os.PathLike[str] | None = None,
        steps_per_epoch: int | None = None,
    ) -> History:
        """Train on X (n, n_in) and y by mini-batches for `epochs` epochs; returns a `History`.

        y is (n,) labels for sparse_categorical_crossentropy, else (n, n_out). `validation_data` is (X, y) or (X, y,
        sample_weight); `validation_split` takes the last part of X instead. `sample_weight` (n,) and `class_weight`
        {class: weight} or "balanced" multiply; validation knows sample weights alone, as in Keras. `verbose` 0 is
        silent, 1 a bar, 2 a line an epoch. A second fit goes on with the optimiser's state and the next epoch's
        shuffle.

        Memory-mapped arrays are read batch by batch, and X may instead be a stream, of which one batch is held at a
        time: an iterable that is no array, list or table, or a function without arguments that returns one, giving
        (x, y) or (x, y, sample_weight). y is left out then, size and order of the batches are the stream's, and an
        epoch is all that it gives, or `steps_per_epoch` batches. An epoch begins the stream anew, but goes on with an
        iterator, which is given out once, where the last one ended.

        X, y, sample_weight and validation_data may be `gpunn.Rows`, sets on disk. Processes that train together
        (`compile(…, strategy=DataParallel())`) each make this call with the same arguments; `batch_size` is that of all
        of them, and of a `Rows` each reads its own rows alone. Streams are not shared.

        `resume` names the checkpoint, written by a `ModelCheckpoint`, of a fit like this one that was stopped: its
        weights, optimiser, history and callbacks come back, and what follows is bit for bit what would have followed.
        `epochs` is then the total, and where there is no such file the fit begins anew.

        ValueError or TypeError, before anything changes, for input that makes no sense, CheckpointError for a
        checkpoint that is damaged or of another fit; DivergenceError at the first step that is not finite, with the
        weights before it kept.
        """
        self._need_compiled("fit")
        self._need_rest("fit")
        with self._net.group.together():
            return self._fit(
                X,
                y,
                batch_size=batch_size,
                epochs=epochs,
                shuffle=shuffle,
                validation_data=validation_data,
                validation_split=validation_split,
                sample_weight=sample_weight,
                class_weight=class_weight,
                callbacks=callbacks,
                verbose=verbose,
                resume=resume,
                steps_per_epoch=steps_per_epoch,
            )

    def _fit(
        self,
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
        _positive_integer("batch_size", batch_size)
        _positive_integer("epochs", epochs)
        if verbose not in (0, 1, 2):
            raise ValueError(f"verbose must be 0, 1 or 2, got {verbose!r}")
        if shuffle not in (True, False):
            raise ValueError(f"shuffle must be True or False, got {shuffle!r}")
        chosen = _listed("callbacks", callbacks, "gpunn.Callback objects")
        group = self._net.group
        if y is None and not isinstance(X, Rows) and stream.is_stream(X):
            if group is not ALONE:
                raise ValueError(
                    "a stream's batches are not shared among processes: give arrays, memory-mapped ones say, or "
                    "gpunn.Rows"
                )
            if sample_weight is not None:
                raise ValueError("sample_weight comes in the batches of a stream: (x, y, sample_weight)")
            if validation_split != 0:
                raise ValueError("validation_split needs all rows, and X is a stream: give validation_data")
            return self._fit_stream(
                X,
                steps_per_epoch,
                epochs=epochs,
                validation_data=validation_data,
                class_weight=class_weight,
                callbacks=[*chosen, *([_progress(verbose)] if verbose else [])],
                verbose=verbose,
                resume=resume,
            )
        if steps_per_epoch is not None:
            raise ValueError("steps_per_epoch is for streams; an array's epoch is all its rows")
        if any(isinstance(given, Rows) for given in (X, y, sample_weight)):
            return self._fit_rows(
                {"X": X, "y": y, "sample_weight": sample_weight},
                batch_size=batch_size,
                epochs=epochs,
                shuffle=shuffle,
                validation_data=validation_data,
                validation_split=validation_split,
                class_weight=class_weight,
                callbacks=[*chosen, *([_progress(verbose)] if verbose else [])],
                verbose=verbose,
                resume=resume,
            )
        X = checks.features(X, self._known_inputs(), self.dtype, own=(group.rank, group.size))
        n_in, n_out = X.shape[1], self._outputs(X.shape[1])
        y = checks.targets(y, self._net.loss, X.shape[0], n_out, self.dtype)
        w = None if sample_weight is None else checks.weights(sample_weight, X.shape[0], self.dtype)
        validation: tuple[Any, ...] | None = None
        if validation_data is not None:
            if checks.split(max(1, X.shape[0]), validation_split) != X.shape[0]:
                raise ValueError("give validation_data or validation_split, not both")
            validation = self._validation(validation_data, n_in, n_out)
        else:
            rows = checks.split(X.shape[0], validation_split)
            if rows < X.shape[0]:
                validation = (X[rows:], y[rows:], None if w is None else w[rows:])
                X, y, w = X[:rows], y[:rows], None if w is None else w[:rows]
                for part in (w, validation[2]):
                    if part is not None and not bool((part > 0).any()):
                        raise ValueError("validation_split leaves one side whose sample_weight is all zero")
        w = self._with_classes(w, class_weight, y, n_out)
        if verbose:
            chosen.append(_progress(verbose))
        n, seed = X.shape[0], self.seed
        return self._train(
            (X, y, w),
            validation,
            batch_size=batch_size,
            epochs=epochs,
            order_of=(lambda epoch: checks.order_of_epoch(n, seed, epoch, True)) if shuffle else None,
            callbacks=chosen,
            verbose=verbose,
            resume=resume,
        )

    def _fit_rows(
        self,
        sets: dict[str, Any],
        *,
        batch_size: int,
        epochs: int,
        shuffle: bool,
        validation_data: Any,
        validation_split: float,
        class_weight: Any,
        callbacks: list[Callback],
        verbose: int,
        resume: Any,
    ) -> History:
        """`fit` on `Rows`, of which this process reads its own blocks."""
        group, given = self._net.group, sets["X"]
        if not isinstance(given, Rows) or given.ndim != 2:
            raise ValueError("y or sample_weight is a gpunn.Rows, so X must be one, of a table (rows, columns)")
        if sets["y"] is None:
            raise TypeError("y is missing: the targets, as another gpunn.Rows or an array")
        if validation_split != 0:
            raise ValueError("validation_split takes rows of a set in memory: give validation_data, as gpunn.Rows say")
        if class_weight is not None and not isinstance(class_weight, dict):
            raise ValueError("class_weight='balanced' needs all rows, and a process has its own: pass a dict")
        n = given.shape[0]
        _check_shares(n, batch_size, group)
        sets = {name: rows for name, rows in sets.items() if rows is not None}
        found, blocks, own = of_fit(sets, n, batch_size, group.rank, group.size)
        X = checks.features(found["X"], self._known_inputs(), self.dtype)
        here, n_in, n_out = X.shape[0], X.shape[1], self._outputs(X.shape[1])
        y = checks.targets(found["y"], self._net.loss, here, n_out, self.dtype)
        w = None
        if "sample_weight" in found:
            w = checks.weights_of_a_batch(found["sample_weight"], here, self.dtype)
        if class_weight is not None:
            by_class = checks.class_weights(class_weight, y, self._net.loss, n_out)
            both = by_class if w is None else backends.to_host(w) * by_class
            w = checks.weights_of_a_batch(both, here, self.dtype, "sample_weight times class_weight")
        if not any(group.meet("the weights of a set", w is None or bool((w > 0).any()))):
            raise ValueError("sample_weight is zero in every row; at least one weight must be > 0")
        validation = None
        if validation_data is not None:
            validation = self._validation(validation_data, n_in, n_out)
        return self._train(
            (X, y, w),
            validation,
            batch_size=batch_size,
            epochs=epochs,
            order_of=lambda epoch: blocks.order(self.seed, epoch, own, shuffle),
            callbacks=callbacks,
            verbose=verbose,
            rows=np.zeros(n, np.int64),
            resume=resume,
            shuffled=shuffle,
            blocks=blocks,
        )

    def _train(
        self,
        training: tuple[Array, Array, Array | None],
        validation: tuple[Any, ...] | None,
        *,
        batch_size: int,
        epochs: int,
        order_of: Callable[[int], np.ndarray] | None,
        callbacks: list[Callback],
        verbose: Any = 0,
        rows: np.ndarray | None = None,
        resume: str | os.PathLike[str] | None = None,
        subject: Any = None,
        shuffled: bool | None = None,
        blocks: Blocks | None = None,
    ) -> History:
        """Train on what was checked: (X, y, weights or None), on `rows` of it where not all train, in the order that
        `order_of(epoch)` tells. A checkpoint is the file of `subject`, this network unless given. Of a set in `blocks`
        the arrays hold this process's."""
        n, n_in = training[0].shape[0] if rows is None else len(rows), training[0].shape[1]
        _check_shares(n, batch_size, self._net.group)
        shuffled = order_of is not None if shuffled is None else shuffled
        facts = {"training data": print_of(training, n), "batch_size": batch_size, "shuffle": shuffled}
        seen = None if blocks is not None else training

        def go(**run: Any) -> History:
            # several processes read their own rows of a set that is too large for one
            data = self._place(*training) if self._net.group.size == 1 else self._on_device(*training)
            fit: Any = host_blocks.fit if isinstance(data, host_blocks.HostData) else loop.fit
            found: History = fit(self._net, data, batch_size=batch_size, order_of=order_of, rows=rows, **run)
            return found

        params = {"epochs": epochs, "steps": -(-n // batch_size), "verbose": verbose}
        of = self if subject is None else subject
        return self._run_fit(go, validation, params, callbacks, n_in=n_in, facts=facts, resume=resume, of=of, seen=seen)

    def _course(
        self,
        training: tuple[Array, Array, Array | None],
        validation: tuple[Array, Array, Array | None] | None = None,
        *,
        batch_size: int,
        epochs: int,
        order_of: Callable[[int], np.ndarray] | None,
        callbacks: Iterable[Callback] = (),
        verbose: Any = 0,
        rows: np.ndarray | None = None,
        ahead: unwatched.Ahead | None = None,
        orders: Callable[[int], np.ndarray] | None = None,
        history: History | None = None,
        put: Callable[[Any], Array] | None = None,
    ) -> Course:
        """`_train` as a course, for fits that nobody watches from step to step; `ahead` and `orders` as in
        `unwatched.course`, and `put` brings arrays to the device where fits share them."""
        net, n = self._net, training[0].shape[0] if rows is None else len(rows)
        with self._alone("fit"):
            hooks = CallbackList(callbacks, self, {"epochs": epochs, "steps": -(-n // batch_size), "verbose": verbose})
            self._run = Run(net, self, hooks, facts={}, n_in=training[0].shape[1], first=self._epochs)
            if history is not None:
                self._run.history = history
            try:
                if not net.is_built:
                    self.build(training[0].shape[1])
                net.ready()
                yield from unwatched.course(
                    net,
                    self._on_device(*training, put=put),
                    None if validation is None else self._on_device(*validation, put=put),
                    batch_size=batch_size,
                    epochs=epochs,
                    order_of=order_of,
                    callbacks=_Counting(hooks, self, self._run, None),
                    model=self,
                    history=self._run.history,
                    first_epoch=self._epochs,
                    rows=rows,
                    ahead=ahead,
                    orders=orders,
                )
            finally:
                self._run = None

    def _fit_stream(
        self,
        X: Any,
        steps: int | None,
        *,
        epochs: int,
        validation_data: Any,
        class_weight: Any,
        callbacks: list[Callback],
        verbose: int,
        resume: Any,
    ) -> History:
        """`fit` on batches that X gives one after another."""
        if steps is not None:
            _positive_integer("steps_per_epoch", steps)
        batches = stream.Stream(X, steps)
        if isinstance(class_weight, str) and class_weight == "balanced":
            raise ValueError("class_weight='balanced' needs all rows, and X is a stream: pass a dict")
        if batches.only_once and resume is not None:
            raise ValueError("resume needs batches that can be begun anew, not an iterator: pass a function")
        if batches.only_once and steps is None and epochs > 1:
            raise ValueError(
                f"X is an iterator, which gives its batches once, and epochs={epochs}: pass steps_per_epoch, or a "
                "function that makes a new iterator for every epoch"
            )
        n_in = self._of_stream(batches.peek(), 0, class_weight)[0].shape[1]
        validation = None
        if validation_data is not None:
            validation = self._validation(validation_data, n_in, self._outputs(n_in))

        def go(**run: Any) -> History:
            def check(batch: Any, number: int) -> Data:
                return self._on_device(*self._of_stream(batch, number, class_weight))

            return stream.fit(self._net, batches, check, **run)

        count = len(X) if steps is None and hasattr(X, "__len__") else steps
        params = {"epochs": epochs, "steps": count, "verbose": verbose}
        facts = {"training data": "a stream", "steps_per_epoch": steps}
        return self._run_fit(go, validation, params, callbacks, n_in=n_in, facts=facts, resume=resume, of=self)

    def _of_stream(self, batch: Any, number: int, class_weight: Any) -> tuple[Array, Array, Array | None]:
        """A batch of a stream, checked. TypeError or ValueError says which one it is, counted from 1."""
        it = f"batch {number + 1}"
        if not isinstance(batch, (tuple, list)) or len(batch) not in (2, 3):
            got = f"{len(batch)} things" if isinstance(batch, (tuple, list)) else type(batch).__name__
            raise TypeError(f"{it} of X must be (x, y) or (x, y, sample_weight), got {got}")
        x = checks.features(batch[0], self._known_inputs(), self.dtype, f"{it}: x")
        n, n_out = x.shape[0], self._outputs(x.shape[1])
        y = checks.targets(batch[1], self._net.loss, n, n_out, self.dtype, f"{it}: y")
        w = None
        if len(batch) == 3 and batch[2] is not None:
            w = checks.weights_of_a_batch(batch[2], n, self.dtype, f"{it}: sample_weight")
        if class_weight is not None:
            by_class = checks.class_weights(class_weight, y, self._net.loss, n_out)
            both = by_class if w is None else backends.to_host(w) * by_class
            w = checks.weights_of_a_batch(both, n, self.dtype, f"{it}: class_weight")
        return x, y, w

    def _run_fit(
        self,
        go: Callable[..., History],
        validation: tuple[Any, ...] | None,
        params: dict[str, Any],
        callbacks: list[Callback],
        *,
        n_in: int,
        facts: dict[str, Any],
        resume: Any,
        of: Any,
        seen: Any = None,
    ) -> History:
        """Take a fit through its epochs by `go`, from a checkpoint's on where there is one; `of` is the model whose
        file a checkpoint is, `seen` the set that every process should have alike."""
        net, epochs = self._net, params["epochs"]
        with self._alone("fit"):
            # of several processes the first one shows and writes
            watches = net.group.rank == 0
            callbacks = [c for c in callbacks if watches or not getattr(c, "only_watches", False)]
            hooks = CallbackList(callbacks, self, params)
            held = None if validation is None else _Validation(*validation)
            facts = facts | {"validation data": None if held is None else print_of(held[:3], held.rows)}
            under_way = Run(net, of, hooks, facts=facts, n_in=n_in, first=self._epochs)
            saved = None if resume is None else under_way.open(resume, epochs)
            net.group.agree(
                "fit",
                lambda: {
                    **under_way.facts(),
                    "epochs": epochs,
                    "epochs done": [self._epochs, 0 if saved is None else saved.position.done],
                    "what a few rows hold": None if seen is None else _a_few_rows(seen),
                    "the weights (seed= or random_state= draws them)": net.fingerprint(),
                },
            )
            if not net.is_built:
                self.build(n_in)
            net.ready()
            try:
                with net.backend.activate(), _thread_limit(self._threads):
                    self._run = under_way
                    return go(
                        validation=None if held is None else held.on_device(self._place),
                        epochs=epochs,
                        callbacks=_Counting(hooks, self, under_way, saved),
                        model=self,
                        history=under_way.history,
                        first_epoch=self._epochs if saved is None else saved.position.first,
                        done=0 if saved is None else saved.position.done,
                    )
            finally:
                # behind the context: where memory ran out, its message says what was free then
                self._run = None
                net.backend.free()

    def train_on_batch(self, x: Any, y: Any, *, sample_weight: Any = None, class_weight: Any = None) -> float:
        """One step on x (n, n_in) and y as one batch; returns the loss before the step, penalties included. Processes
        that train together all call it with the whole batch."""
        self._need_compiled("train_on_batch")
        self._need_rest("train_on_batch")
        with self._net.group.together():
            return self._train_on_batch(*self._batch(x, y, sample_weight, class_weight))

    def _train_on_batch(self, x: Any, y: Array, w: Array | None) -> float:
        net, n = self._net, x.shape[0]
        _check_shares(n, n, net.group)
        net.group.agree(
            "train_on_batch", lambda: {"the batch": print_of((x, y, w)), "what a few rows hold": _a_few_rows((x, y, w))}
        )
        net.ready()
        with net.backend.activate(), loop.training_plan(net, n, weighted=w is not None) as plan:
            on_device = self._on_device(*(_rows(array, plan.share.first, plan.share.n) for array in (x, y, w)))
            loop.set_learning_rate(net, self._epochs)
            run(loop.step_on(plan, on_device))
            state = np.array(net.backend.to_host(net.state))
        if state[Slot.BAD]:
            raise loop.diverged(net, state, None, None)
        return float(state[Slot.LOSS] + state[Slot.PENALTY])

    def evaluate(
        self, X: Any, y: Any, *, batch_size: int = PREDICTION_BATCH, sample_weight: Any = None
    ) -> dict[str, float]:
        """{"loss": …, metric: …} over X and y with nothing moved: the weighted means over the rows. Of several
        processes each that calls it looks at all of them."""
        self._need_compiled("evaluate")
        _positive_integer("batch_size", batch_size)
        X, y, w = self._batch(X, y, sample_weight, None, "X")
        self._net.follow_layers()
        with self._net.backend.activate():
            return loop.score(self._net, self._place(X, y, w), batch_size)

    # --- prediction ---------------------------------------------------------------------------------------------

    def predict(self, X: Any, batch_size: int = PREDICTION_BATCH) -> Array:
        """aᴸ (n, n_out) for X (n, n_in): exactly what the last layer gives. CuPy in, CuPy out; else NumPy."""
        _positive_integer("batch_size", batch_size)
        array = checks.table(X, self._known_inputs())
        if not self._net.is_built:
            checks.check_numbers(array, self.dtype)
            self.build(array.shape[1])
        self._net.follow_layers()
        with self._net.backend.activate():
            backend = self._net.backend
            parts = host_blocks.pieces(backend, array)
            if len(parts) == 1:
                return checks.as_given(self._predict(array, batch_size), X)
            return np.concatenate([backend.to_host(self._predict(part, batch_size)) for part in parts])

    def _predict(self, X: Any, batch_size: int) -> Array:
        """aᴸ on the device for rows that it has room for."""
        on_device = checks.on_device(X, self._net.backend)
        return loop.predict(self._net, on_device, batch_size, lambda: checks.check_numbers(X, self.dtype))

    def predict_proba(self, X: Any, batch_size: int = PREDICTION_BATCH) -> Array:
        """Probabilities (n, n_out): aᴸ behind softmax or sigmoid, and that of the logits where the last layer gives
        logits. ValueError where the network gives neither."""
        meaning, are_logits = self._probability()
        a = self.predict(X, batch_size=batch_size)
        return kernel(meaning)(a) if are_logits else a

    def predict_classes(self, X: Any, batch_size: int = PREDICTION_BATCH) -> Array:
        """Indices (n,) of the largest probability; of sigmoid outputs 0 or 1 each, (n,) for one output."""
        meaning, _ = self._probability()
        p = self.predict_proba(X, batch_size=batch_size)
        if meaning != "sigmoid":
            return p.argmax(axis=1)
        yes = (p > 0.5).astype("int64")
        return yes[:, 0] if yes.shape[1] == 1 else yes

    def _probability(self) -> tuple[str, bool]:
        """("softmax" | "sigmoid", whether aᴸ are its logits): what the loss says, else what the last layer is."""
        loss = self._net.loss if self._compiled is not None else None
        meaning = getattr(loss, "probability", None)
        if meaning is not None:
            return meaning, bool(getattr(loss, "takes_logits", False))
        last = self._net.layers[-1].activation.name
        if last in ("softmax", "sigmoid"):
            return last, False
        raise ValueError(
            f"the last layer gives {last} outputs, which are not probabilities; end with softmax or sigmoid, or "
            "compile with a cross-entropy loss"
        )

    # --- the student's window -----------------------------------------------------------------------------------

    def loss_and_gradients(
        self, x: Any, y: Any, training: bool = True, *, sample_weight: Any = None
    ) -> tuple[float, list[np.ndarray]]:
        """(C, [dW1, db1, …]) for x (n, n_in) and y as one batch, penalties included; moves nothing, not even the step.

        With `training` it uses the current step's dropout masks and the batch's statistics: twice gives the same bits.
        A frozen layer's gradients are zero.
        """
        self._need_compiled("loss_and_gradients")
        x, y, w = self._batch(x, y, sample_weight, None)
        net = self._net
        with self._backward_plan(x, y, w, training) as plan:
            state = net.backend.to_host(plan.state)
            gradients = [
                np.array(net.backend.to_host(p.of(plan.gradient)))
                if net.layers[p.layer].trainable
                else np.zeros(p.parameter.shape, net.dtype)
                for p in net.ordered_places()
            ]
            return float(state[Slot.LOSS] + state[Slot.PENALTY]), gradients

    def input_gradient(self, x: Any, y: Any, training: bool = True, *, sample_weight: Any = None) -> np.ndarray:
        """∂C/∂x (n, n_in), as `loss_and_gradients` computes the others."""
        self._need_compiled("input_gradient")
        x, y, w = self._batch(x, y, sample_weight, None)
        with self._backward_plan(x, y, w, training, input_gradient=True) as plan:
            return np.array(self._net.backend.to_host(plan.grad_x))

    def trace(self, x: Any, y: Any = None, training: bool = False, *, sample_weight: Any = None) -> list[LayerTrace]:
        """z, a, delta = ∂C/∂z, dW and db of every layer for x as one batch: the text's quantities, nothing merged.

        Without y the forward pass alone; with y the network must be compiled.
        """
        if y is None:
            array = checks.features(x, self._known_inputs(), self.dtype, "x")
            if not self._net.is_built:
                self.build(array.shape[1])
            self._net.follow_layers()
            options = {"training": bool(training), "keep": True}
            with self._net.backend.activate(), self._net.plan(array.shape[0], **options) as plan:
                self._copy_step(plan)
                plan.state[Slot.OFFSET] = 0
                run(plan.source(checks.on_device(array, self._net.backend)))
                run(plan.forward)
                return [self._layer_trace(plan, k) for k in range(len(self))]
        self._need_compiled("trace with y")
        x, y, w = self._batch(x, y, sample_weight, None)
        with self._backward_plan(x, y, w, training, keep=True) as plan:
            return [self._layer_trace(plan, k) for k in range(len(self))]

    def _layer_trace(self, plan: Plan, k: int) -> LayerTrace:
        net, t = self._net, plan.layers[k]

        def copy(array: Array) -> np.ndarray:
            return np.array(net.backend.to_host(array))

        gradients = {}
        if plan.backward:
            gradients = {p.parameter.name: copy(p.of(plan.gradient)) for p in net.places_of(k)}
        return LayerTrace(
            repr(net.layers[k]),
            copy(t.z),
            copy(t.a),
            copy(t.delta) if plan.backward else None,
            gradients.get("W"),
            gradients.get("b"),
            gradients,
        )

    @contextlib.contextmanager
    def _backward_plan(self, x: Array, y: Array, w: Array | None, training: bool, **options: Any) -> Iterator[Plan]:
        """A plan that has run forward and backward on that batch, and taken no step."""
        net = self._net
        net.ready()
        options |= {"training": bool(training), "loss": True, "backward": True, "weighted": w is not None}
        with net.backend.activate(), net.plan(x.shape[0], **options) as plan:
            on_device = self._on_device(x, y, w)
            self._copy_step(plan)
            evaluate(plan, plan.source(on_device.X, on_device.y, on_device.w), 0)
            yield plan

    def _copy_step(self, plan: Plan) -> None:
        """Dropout masks are those of the current step, on all rows of the batch."""
        plan.state[...] = self._net.state
        plan.state[Slot.FIRST_ROW] = 0

    # --- files --------------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write weights, running statistics, architecture and what was compiled to a safetensors file, as one step.

        No pickle: own layers, activations and losses are kept by name, and `load(…, custom=…)` brings them. OSError
        where it fails, the old file whole. RuntimeError before the number of inputs is known.
        """
        self._need_built("save")
        tensors, metadata = self.to_tensors()
        checkpoint.write(path, tensors, metadata)

    def save_checkpoint(self, path: str | os.PathLike[str]) -> None:
        """Write the fit under way, for `fit(…, resume=path)`; `gpunn.load` opens it as the network at that epoch.

        For a callback's `on_epoch_complete`: RuntimeError elsewhere. OSError where it fails, the old file whole.
        """
        if self._run is None:
            raise RuntimeError("save_checkpoint writes a fit under way, and none is; save keeps the network")
        # of processes that train together the first one writes
        if self._net.group.rank == 0:
            self._run.save(path)

    def export(self, path: str | os.PathLike[str]) -> None:
        """Write the network as an ONNX graph, as one step: input "X" (N, n_in), output "output" (N, n_out), for any
        number N of rows, which gives what `predict` gives.

        ImportError without onnx (extra `onnx`), ValueError for a layer or an activation of one's own, RuntimeError
        before the number of inputs is known; OSError where writing fails, the old file whole.
        """
        # the front alone knows no format: the one import that points up
        from .interchange import onnx

        onnx.write(onnx.network(self), path)

    def to_tensors(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """The arrays and the JSON metadata that a file of this network holds."""
        self._need_built("to_tensors")
        net = self._net
        tensors = {name: np.array(net.backend.to_host(view)) for name, view in views_of(net).items()}
        metadata: dict[str, Any] = {
            "kind": "sequential",
            "layers": [layer_registry.to_config(layer) for layer in net.layers],
            "n_in": net.n_in,
            "seed": str(net.seed),
            "dtype": net.dtype.name,
            "compiled": None,
        }
        if self._compiled is not None:
            metadata["compiled"] = {
                "optimizer": optimizers.to_config(net.optimizer),
                "loss": losses.to_config(self.loss),
                "metrics": [_metric_config(m) for m in self._compiled["metrics"]],
                "precision": net.precision,
            }
        # what cannot be written as JSON is found out before a file is touched
        json.dumps(metadata, allow_nan=False)
        return tensors, metadata

    @classmethod
    def from_tensors(
        cls,
        tensors: dict[str, np.ndarray],
        metadata: dict[str, Any],
        *,
        custom: dict[str, Any] | None = None,
        device: str = "cpu",
    ) -> Sequential:
        """The inverse of `to_tensors`. CheckpointError where the arrays do not fit the architecture."""
        custom = custom or {}
        if metadata.get("kind") != "sequential":
            raise checkpoint.CheckpointError(f"the file holds a {metadata.get('kind')!r}, not a network")
        layers = [layer_registry.from_config(c, custom) for c in metadata["layers"]]
        model = cls(layers, seed=int(metadata["seed"]), dtype=metadata["dtype"])
        # before the architecture is believed and memory taken for it
        parameters, running = shapes_of(layers, _positive_integer("n_in", metadata["n_in"]))
        check_arrays(parameters | running, model.dtype, tensors)
        net = model._net
        net.build(metadata["n_in"], draw=False)
        for name, view in views_of(net).items():
            view[...] = tensors[name]
        compiled = metadata["compiled"]
        if compiled is not None:
            model.compile(
                optimizers.from_config(compiled["optimizer"], custom),
                losses.from_config(compiled["loss"], custom),
                [metrics.from_config(m, custom) for m in compiled["metrics"]],
                device=device,
            )
            model._move(device, compiled.get("precision"), asked=False)
        else:
            model.to(device)
        return model

    # --- checks -------------------------------------------------------------------------------------------------

    def _last_activation(self, loss: Loss) -> Activation:
        """The last layer's activation; the identity of a layer that has none. ValueError where a cross-entropy would
        take thinned or normalised probabilities for logits."""
        *before, last = self._net.layers
        for layer in reversed(before):
            if last.activation.name != "identity" or isinstance(last, Dense):
                break
            if layer.activation.name in ("softmax", "sigmoid") and hasattr(loss, "from_logits"):
                raise ValueError(
                    f"loss {loss.name!r}: {last!r} stands behind {layer.activation.name}, so that the outputs are "
                    f"neither its probabilities nor logits; put {type(last).__name__} before the layer with it"
                )
            if isinstance(layer, Dense):
                break
        return last.activation

    def _need_compiled(self, what: str) -> None:
        if self._compiled is None:
            raise RuntimeError(f"{what} needs a loss and an optimiser: call compile(optimizer=…, loss=…) first")

    def _need_rest(self, what: str) -> None:
        """A fit owns the network's state; a callback may look, change weights and stop it, but not begin another."""
        if self._fitting.locked():
            raise RuntimeError(f"{what} cannot be called while fit runs; set stop_training = True to end it first")

    @contextlib.contextmanager
    def _alone(self, what: str) -> Iterator[None]:
        """One fit at a time, whichever threads ask."""
        if not self._fitting.acquire(blocking=False):
            raise RuntimeError(f"{what} cannot be called while fit runs; set stop_training = True to end it first")
        try:
            yield
        finally:
            self._fitting.release()

    def _need_built(self, what: str) -> None:
        if not self._net.is_built:
            raise RuntimeError(
                f"{what}: there are no weights yet, the number of inputs is not known; "
                "give input_shape=, call build(n_in), or fit first"
            )

    def _known_inputs(self) -> int | None:
        return self._net.n_in if self._net.is_built else None

    def _outputs(self, n_in: int | None = None) -> int:
        """n_out for n_in inputs; before they are known what the last layers tell by themselves, or 0."""
        if self._net.is_built:
            return self._net.n_out
        if n_in is not None:
            width = n_in
            for layer in copy.deepcopy(self._net.layers):
                width = layer.build(width)
            return width
        for layer in reversed(self._net.layers):
            if type(layer).build is not Layer.build:
                return getattr(layer, "units", 0)
        return 0

    def _with_classes(self, w: Array | None, class_weight: Any, y: Array, n_out: int) -> Array | None:
        """Sample weights times the weights of the classes."""
        if class_weight is None:
            return w
        by_class = checks.class_weights(class_weight, y, self._net.loss, n_out)
        if w is None:
            return checks.weights(by_class, len(by_class), self.dtype, "class_weight")
        both = backends.to_host(w) * by_class
        return checks.weights(both, len(both), self.dtype, "sample_weight times class_weight")

    def _batch(
        self, x: Any, y: Any, sample_weight: Any, class_weight: Any, name: str = "x"
    ) -> tuple[Array, Array, Array | None]:
        if isinstance(class_weight, str) and class_weight == "balanced":
            raise ValueError("class_weight='balanced' needs all rows, and this is one batch: pass a dict")
        array = checks.features(x, self._known_inputs(), self.dtype, name)
        n, n_out = array.shape[0], self._outputs(array.shape[1])
        targets = checks.targets(y, self._net.loss, n, n_out, self.dtype)
        w = None if sample_weight is None else checks.weights(sample_weight, n, self.dtype)
        w = self._with_classes(w, class_weight, targets, n_out)
        if not self._net.is_built:
            self.build(array.shape[1])
        return array, targets, w

    def _validation(self, given: Any, n_in: int, n_out: int) -> _Validation:
        if not isinstance(given, (tuple, list)) or len(given) not in (2, 3):
            raise ValueError("validation_data must be (X, y) or (X, y, sample_weight)")
        X, y, w = (*given, None)[:3]
        group, first, rows = self._net.group, 0, None
        if isinstance(X, Rows):
            rows = len(X)
            if any(each is not None and np.shape(each)[0] != rows for each in (y, w)):
                raise ValueError(f"validation X has {rows} rows, and its y or sample_weight another number")
            if rows < group.size:
                raise ValueError(f"validation X has {rows} rows, fewer than there are processes, {group.size}")
            first, count = part(rows, group.rank, group.size)
            X, y, w = (_rows_on_disk(each, first, count) for each in (X, y, w))
        own = (group.rank, group.size) if rows is None else (0, 1)
        X = checks.features(X, n_in, self.dtype, "validation X", own=own)
        y = checks.targets(y, self._net.loss, X.shape[0], n_out, self.dtype, "validation y")
        if w is not None:
            look = checks.weights if rows is None else checks.weights_of_a_batch
            w = look(w, X.shape[0], self.dtype, "validation sample_weight")
        return _Validation(X, y, w, first, rows)

    def _on_device(self, X: Any, y: Array, w: Array | None, *, put: Callable[[Any], Array] | None = None) -> Data:
        if put is not None:
            return Data(put(X), put(y), None if w is None else put(w))
        put = self._net.backend.asarray
        return Data(checks.on_device(X, self._net.backend), put(y), None if w is None else put(w))

    def _place(self, X: Any, y: Array, w: Array | None) -> Data | host_blocks.HostData:
        stays = host_blocks.stays(self._net.backend, X, y, w)
        return host_blocks.HostData(X, y, w) if stays else self._on_device(X, y, w)


class _Validation(NamedTuple):
    """What a fit is measured on: all rows, or this process's of a set of `rows` rows, the first of which is `first`."""

    X: Array
    y: Array
    w: Array | None
    first: int = 0
    rows: int | None = None

    def on_device(self, put: Callable[..., Any]) -> Any:
        """The same where `put` brings it."""
        return dataclasses.replace(put(self.X, self.y, self.w), first=self.first, whole=self.rows)


class _Counting:
    """The callbacks of a fit, and the number of epochs that the model has seen; brings a checkpoint back."""

    def __init__(self, hooks: CallbackList, model: Sequential, under_way: Run, saved: Saved | None) -> None:
        self.hooks, self.model, self.run, self.saved = hooks, model, under_way, saved
        self.watch_batches = hooks.watch_batches

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

    def _resume(self, saved: Saved, logs: dict[str, float]) -> None:
        before = self.run.position()
        try:
            self._take(saved.position)
            self.hooks("on_train_begin", logs)
            # again: what a callback sets at the beginning was set, and trained on, long ago
            self._take(saved.position)
            saved.restore_callbacks()
        except BaseException:
            self._take(before)
            raise

    def _take(self, position: Position) -> None:
        self.run.restore(position)
        self.model._epochs = position.first + position.done


# `compile` has an argument of the module's name
_metric = metrics.get
_metric_config = metrics.to_config


def _listed(name: str, given: Any, what: str) -> list[Any]:
    """The entries of a list that an argument should be."""
    if isinstance(given, (str, bytes, dict)) or not isinstance(given, Iterable):
        raise TypeError(f"{name} must be a list of {what}, got {given!r}")
    return list(given)


def _progress(verbose: int) -> Callback:
    """A bar where tqdm is installed, else a line an epoch."""
    if verbose == 1:
        with contextlib.suppress(ImportError):
            return ProgressBar()
    return EpochLines()


def _group_of(strategy: Any) -> Group:
    """The processes that a strategy starts; one alone for None."""
    if strategy is None:
        return ALONE
    if not isinstance(strategy, DataParallel):
        raise TypeError(f"strategy must be gpunn.DataParallel() or None, got {strategy!r}")
    return strategy.start()


def _check_shares(n: int, batch_size: int, group: Group) -> None:
    """ValueError where a process would have no rows."""
    if n < group.size:
        raise ValueError(f"there are {group.size} processes, but {n} rows: start at most as many processes as rows")
    if batch_size < group.size:
        raise ValueError(
            f"batch_size={batch_size} leaves process {group.size - 1} of {group.size} without a row: give each "
            "at least one, or start fewer processes"
        )


def _rows(array: Any, first: int, count: int) -> Any:
    """So many rows from that one on: the very array where they are all."""
    return array if array is None or array.shape[0] == count else array[first : first + count]


def _rows_on_disk(given: Any, first: int, count: int) -> Any:
    """The same of a `Rows`, read, or of an array."""
    if isinstance(given, Rows):
        return given.read(first, first + count)
    return None if given is None else np.asarray(given)[first : first + count]


def _a_few_rows(training: tuple[Any, Any, Any]) -> list[int]:
    """A number that tells the first, the middle and the last rows of a set, of X, y and weights, from other ones."""
    found = []
    for array in training:
        if array is None:
            continue
        n = array.shape[0]
        rows = array[[0, n // 2, n - 1]]
        host = backends.to_host(rows.toarray() if hasattr(rows, "toarray") else rows)
        found.append(zlib.crc32(np.ascontiguousarray(host).data))
    return found


def _without_places(thing: Any) -> str:
    """repr, without the addresses that differ from process to process."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(thing))


@contextlib.contextmanager
def _limited(threads: int) -> Iterator[None]:
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        raise ImportError('threads= needs threadpoolctl: pip install "gpunn[threads]"') from None
    with threadpool_limits(threads):
        yield


def _thread_limit(threads: int | None) -> contextlib.AbstractContextManager[None]:
    return contextlib.nullcontext() if threads is None else _limited(threads)


def _lower_precision(precision: str | None, backend: backends.Backend, dtype: np.dtype, *, asked: bool = True) -> Any:
    """The precision of products, None for the dtype's own. ValueError where it makes no sense."""
    if precision is None or precision == dtype.name:
        return None
    if precision not in ("tf32", "bf16", "float32", "float64"):
        raise ValueError(f"precision must be None, 'tf32' or 'bf16', got {precision!r}")
    if precision in ("float32", "float64"):
        raise ValueError(f"precision={precision!r} does not fit a {dtype} network: give Sequential dtype={precision!r}")
    why = backend.why_no_lower_precision(asked=asked)
    if not why and dtype != np.float32:
        why = f"is for float32, and the network is in {dtype}; give dtype='float32', or leave precision out"
    if why:
        raise ValueError(f"precision={precision!r} {why}")
    return precision


def _inputs(shape: Any) -> int | None:
    if shape is None:
        return None
    if isinstance(shape, (tuple, list)):
        if len(shape) != 1:
            raise ValueError(f"input_shape must be the number of inputs or (inputs,), got {shape!r}")
        shape = shape[0]
    return _positive_integer("input_shape", shape)


def _positive_integer(name: str, value: Any) -> int:
    number = _integer(name, value, "an integer")
    if number < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")
    return number


def _integer(name: str, value: Any, wanted: str) -> int:
    with contextlib.suppress(TypeError):
        if not isinstance(value, bool):
            return operator.index(value)
    raise TypeError(f"{name} must be {wanted}, got {value!r}")


def _seed(seed: Any, name: str = "seed") -> int:
    if seed is None:
        return secrets.randbits(63)
    number = _integer(name, seed, "an integer or None")
    if not 0 <= number < 2**64:
        raise ValueError(f"{name} must lie in [0, 2⁶⁴), got {seed}")
    return number


def _bytes(count: int) -> str:
    size, unit = float(count), "bytes"
    for bigger in ("KiB", "MiB", "GiB"):
        if size < 1024:
            break
        size, unit = size / 1024, bigger
    return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
