"""Sequential, the front: compiles, fits, predicts, explains and saves. The numbers are made in `network`."""

from __future__ import annotations

import contextlib
import importlib.util
import operator
import os
import re
import secrets
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from . import __version__, inspection, losses, metrics, optimizers
from . import backend as backends
from . import input_checks as checks
from . import layers as layer_registry
from .inspection import LayerTrace, Summary
from .kernels import get as kernel
from .layers import Layer
from .losses import Loss
from .network import Network
from .parallel import DataParallel
from .recording import SINGLE_PROCESS, Array, Group
from .training import checkpoint, fit, host_dataset, inputs, loop, parameter_arrays
from .training.callbacks import Callback
from .training.history import History
from .training.resume import TrainingRun
from .validation import as_list, positive, positive_integer

BATCH = 32
PREDICTION_BATCH = 1024


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
        found = as_list("layers", layers, "gpunn layers")
        if not found:
            raise ValueError("layers is empty; a network needs at least one layer")
        seen = set()
        for k, layer in enumerate(found):
            if not isinstance(layer, Layer):
                raise TypeError(f"layers[{k}] must be a gpunn layer, got {type(layer).__name__}")
            if id(layer) in seen or layer.owned:
                raise ValueError(f"layers[{k}] ({layer!r}) is in use already; make a new one, or copy.deepcopy it")
            seen.add(id(layer))
        n_in = _inputs(input_shape)
        self._net = Network(found, _seed(seed), checks.float_dtype(dtype))
        self._epochs = 0
        self._threads: int | None = None
        self._fitting = threading.Lock()
        self._run: TrainingRun | None = None
        self.stop_training = False
        if n_in is not None:
            self.build(n_in)
        self._mark_layers_owned()

    def _mark_layers_owned(self) -> None:
        for layer in self._net.layers:
            layer.owned = True

    def __getstate__(self) -> dict[str, Any]:
        """A copy made while a fit runs is not being fitted itself."""
        return {k: v for k, v in vars(self).items() if k != "_fitting"} | {"_run": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._fitting = threading.Lock()
        self._mark_layers_owned()

    # --- what it is ---

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
        self._require_compiled("optimizer")
        return self._net.optimizer

    @property
    def loss(self) -> Loss:
        """The compiled loss. RuntimeError before `compile`."""
        self._require_compiled("loss")
        assert self._net.given_loss is not None
        return self._net.given_loss

    @property
    def learning_rate(self) -> float:
        """η of the next step: what it was set to, else what the optimiser's schedule gives. RuntimeError before
        `compile`.

        Setting it holds the rate there, whatever the schedule says, until it is set again or `compile` is called; None
        returns to the schedule. ValueError or TypeError where it is no positive number.
        """
        self._require_compiled("learning_rate")
        return loop.learning_rate(self._net, self._epochs)

    @learning_rate.setter
    def learning_rate(self, rate: float | None) -> None:
        self._require_compiled("learning_rate")
        self._net.learning_rate_override = None if rate is None else positive("learning_rate", rate)

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
        if not self._net.is_built:
            return Summary(f"{self!r}\nnot built: the number of inputs is not known yet")
        rows = None if self._net.given_loss is None else positive_integer("batch_size", batch_size)
        return Summary(inspection.summary(self._net, rows))

    # --- weights ---

    def build(self, n_in: int) -> Sequential:
        """Learn the number of inputs and draw the initial weights from the seed. RuntimeError if built already."""
        if self._net.is_built:
            raise RuntimeError(f"the network is built already, for {self._net.n_in} inputs")
        self._net.build(positive_integer("n_in", n_in))
        return self

    def _reseed(self, seed: int, name: str) -> None:
        """Another seed, before anything was trained; weights that there are already are drawn anew. ValueError or
        TypeError names the argument."""
        self._net.seed = _seed(seed, name)
        if self._net.is_built:
            self._net.build(self._net.n_in)

    def get_weights(self) -> list[np.ndarray]:
        """[W1, b1, W2, b2, …] as NumPy arrays, copies. RuntimeError before the number of inputs is known."""
        self._require_built("get_weights")
        net = self._net
        return [np.array(net.backend.to_host(p.of(net.theta))) for p in net.slices_in_order()]

    def set_weights(self, weights: Sequence[Any]) -> None:
        """Take weights in the order of `get_weights`. ValueError where their number or a shape differs, or one is not
        finite; nothing is changed then. RuntimeError before the number of inputs is known."""
        self._require_built("set_weights")
        net = self._net
        places, entries = net.slices_in_order(), as_list("weights", weights, "arrays")
        if len(entries) != len(places):
            raise ValueError(f"weights must hold {len(places)} arrays, got {len(entries)}")
        arrays = []
        for k, (given, place) in enumerate(zip(entries, places, strict=True)):
            array = backends.to_host(checks.as_real_array(given, f"weights[{k}]"))
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
        self._require_idle("to")
        return self._move(device, self._net.precision, explicit=False)

    def _move(self, device: str, precision: str | None, *, explicit: bool) -> Sequential:
        """To a device, with that precision there; `explicit` is that of `Backend.lower_precision_error`."""
        group = self._net.group
        with group.collective():
            backend = group.backend(backends.get(device), device)
            lower = _resolve_precision(precision, backend, self._net.dtype, explicit=explicit)
            group.allgather("to", None)
            self._net.move(backend)
            self._net.set_precision(lower)
            group.set_device(backend)
        return self

    # --- training ---

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
        optimiser's state. Attributes of the layers, the optimizer, the loss and the metrics may be set later; a change
        takes effect at the next step.

        optimizer  a name ("adam") or an object (`Adam(1e-3)`)
        loss       a name, a `gpunn.losses` object, or a function (y, a) → (ℓ, g)
        metrics    names ("accuracy") or objects, shown beside the loss
        device     "auto", "cpu", "cuda" or "cuda:N"
        precision  of products in a float32 network on a GPU: None for float32, "tf32" for operands cut to 11 bits,
                   "bf16" for operands rounded to 8, in which the batch, z, a and δ are held between dense layers whose
                   widths are multiples of 8; sums, parameters, their gradients and the optimiser's state stay float32
        threads    the most threads that a fit uses, in BLAS and around it; None takes as many as BLAS is set to
                   (extra `threads`)
        strategy   `DataParallel()` where `mpiexec` started several processes, which then share every step's rows; None
                   trains in this process alone

        ValueError or TypeError, before anything changes, where an argument makes no sense or loss and last layer do
        not fit; DeviceError where the device cannot be used; for a strategy RuntimeError without an MPI launch,
        ImportError without mpi4py, and ValueError on every process where they disagree.
        """
        self._require_idle("compile")
        group = _process_group(strategy)
        with group.collective():
            rule = optimizers.get(optimizer)
            if loss is None:
                raise TypeError("loss is missing: name one, for example loss='sparse_categorical_crossentropy'")
            chosen = losses.get(loss)
            self._net.check_optimizer(rule)
            if isinstance(metrics, str):
                raise TypeError(f"metrics must be a list, write metrics=[{metrics!r}]")
            watched = [_metric(m) for m in as_list("metrics", metrics, "names or gpunn metrics")]
            self._net.resolve(chosen, watched)
            if threads is not None:
                threads = positive_integer("threads", threads)
                if importlib.util.find_spec("threadpoolctl") is None:
                    raise ImportError('threads= needs threadpoolctl: pip install "gpunn[threads]"')
            backend = group.backend(backends.get(device), device)
            lower = _resolve_precision(precision, backend, self._net.dtype)
            group.check_agreement(
                "compile",
                lambda: {
                    "gpunn's version": __version__,
                    "NumPy's version": np.__version__,
                    "seed": self.seed,
                    "the network": _strip_addresses(self),
                    "the initial weights": self._net.weights_checksum(),
                    "optimizer": _strip_addresses(rule),
                    "loss": chosen.name,
                    "metrics": [m.name for m in watched],
                    "the kind of device": backend.device.partition(":")[0],
                    "precision": lower,
                    "strategy": [group.size, group.synchronized_batch_norm],
                },
            )
            self._net.move(backend)
            self._net.compile(rule, chosen, watched, precision=lower)
            group.set_device(backend)
            self._net.set_group(group)
            self._threads = threads
            self._epochs = 0
            return self

    def set_strategy(self, strategy: DataParallel | None) -> Sequential:
        """Share the steps from now on as `compile(…, strategy=…)` does, with the optimiser's state kept: after a copy
        or a load, which are of this process alone. Errors as there."""
        self._require_compiled("set_strategy")
        self._require_idle("set_strategy")
        group = _process_group(strategy)
        with group.collective():
            group.check_agreement("set_strategy", lambda: {"the weights": self._net.weights_checksum()})
            group.set_device(self._net.backend)
            self._net.set_group(group)
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
        `epochs` is then the total, and if there is no such file the fit starts from nothing. The data sets are compared
        by shape, dtype and a checksum of sampled rows, labels and weights; the batches of a stream are not compared.

        ValueError or TypeError, before anything changes, for input that makes no sense, CheckpointError for a
        checkpoint that is damaged or of another fit; DivergenceError at the first step that is not finite, with the
        weights before it kept.
        """
        self._require_compiled("fit")
        self._require_idle("fit")
        with self._net.group.collective():
            return fit.fit(
                self,
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

    def train_on_batch(self, x: Any, y: Any, *, sample_weight: Any = None, class_weight: Any = None) -> float:
        """One step on x (n, n_in) and y as one batch; returns the loss before the step, penalties included. A batch
        whose weights are all zero changes nothing, and its loss is the penalties alone (E3). Processes that train
        together all call it with the whole batch."""
        self._require_compiled("train_on_batch")
        self._require_idle("train_on_batch")
        with self._net.group.collective():
            return fit.train_on_batch(self, inputs.batch(self._net, x, y, sample_weight, class_weight))

    def evaluate(
        self, X: Any, y: Any, *, batch_size: int = PREDICTION_BATCH, sample_weight: Any = None
    ) -> dict[str, float]:
        """{"loss": …, metric: …} over X and y with nothing moved: the weighted means over the rows. Of several
        processes each that calls it looks at all of them."""
        self._require_compiled("evaluate")
        batch_size = positive_integer("batch_size", batch_size)
        data = inputs.evaluation_data(self._net, X, y, sample_weight)
        with self._net.backend.activate():
            return loop.evaluate(self._net, inputs.to_device_or_host(self._net, data), batch_size)

    # --- prediction ---

    def predict(self, X: Any, batch_size: int = PREDICTION_BATCH) -> Array:
        """aᴸ (n, n_out) for X (n, n_in): exactly what the last layer gives. CuPy in, CuPy out; else NumPy."""
        batch_size = positive_integer("batch_size", batch_size)
        array = checks.as_matrix(X, inputs.known_inputs(self._net))
        if not self._net.is_built:
            checks.check_numbers(array, self.dtype)
            self.build(array.shape[1])
        with self._net.backend.activate():
            backend = self._net.backend
            parts = host_dataset.row_chunks(backend, array)
            if len(parts) == 1:
                return checks.like_input(self._predict(array, batch_size), X)
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
        with backends.device_of(a):
            return kernel(meaning)(a) if are_logits else a

    def predict_classes(self, X: Any, batch_size: int = PREDICTION_BATCH) -> Array:
        """Indices (n,) of the largest probability; of sigmoid outputs 0 or 1 each, (n,) for one output."""
        meaning, _ = self._probability()
        p = self.predict_proba(X, batch_size=batch_size)
        with backends.device_of(p):
            if meaning != "sigmoid":
                return p.argmax(axis=1)
            yes = (p > 0.5).astype("int64")
            return yes[:, 0] if yes.shape[1] == 1 else yes

    def _probability(self) -> tuple[str, bool]:
        """("softmax" | "sigmoid", whether aᴸ are its logits): what the loss says, else what the last layer is."""
        self._net.apply_attribute_changes()
        loss = self._net.loss if self._net.given_loss is not None else None
        meaning = getattr(loss, "paired_activation", None)
        if meaning is not None:
            return meaning, bool(getattr(loss, "takes_logits", False))
        last = self._net.layers[-1].activation.name
        if last in ("softmax", "sigmoid"):
            return last, False
        raise ValueError(
            f"the last layer gives {last} outputs, which are not probabilities; end with softmax or sigmoid, or "
            "compile with a cross-entropy loss"
        )

    # --- the student's window ---

    def loss_and_gradients(
        self, x: Any, y: Any, training: bool = True, *, sample_weight: Any = None
    ) -> tuple[float, list[np.ndarray]]:
        """(C, [dW1, db1, …]) for x (n, n_in) and y as one batch, penalties included; moves nothing, not even the step.

        With `training` it uses the current step's dropout masks and the batch's statistics: twice gives the same bits.
        A frozen layer's gradients are zero.
        """
        self._require_compiled("loss_and_gradients")
        return inspection.loss_and_gradients(self._net, inputs.batch(self._net, x, y, sample_weight), training)

    def input_gradient(self, x: Any, y: Any, training: bool = True, *, sample_weight: Any = None) -> np.ndarray:
        """∂C/∂x (n, n_in), as `loss_and_gradients` computes the others."""
        self._require_compiled("input_gradient")
        return inspection.input_gradient(self._net, inputs.batch(self._net, x, y, sample_weight), training)

    def trace(self, x: Any, y: Any = None, training: bool = False, *, sample_weight: Any = None) -> list[LayerTrace]:
        """z, a, delta = ∂C/∂z, dW and db of every layer for x as one batch: the text's quantities, nothing merged.

        Without y the forward pass alone; with y the network must be compiled.
        """
        if y is None:
            return inspection.trace_forward(self._net, x, training)
        self._require_compiled("trace with y")
        return inspection.trace(self._net, inputs.batch(self._net, x, y, sample_weight), training)

    # --- files ---

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write weights, running statistics, architecture and what was compiled to a safetensors file, as one step.

        No pickle: own layers, activations and losses are kept by name, and `load(…, custom=…)` brings them. OSError
        where it fails, the old file whole. RuntimeError before the number of inputs is known.
        """
        self._require_built("save")
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

        self._net.apply_attribute_changes()
        onnx.write(onnx.network(self), path)

    def to_tensors(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """The arrays and the JSON metadata that a file of this network holds."""
        self._require_built("to_tensors")
        self._net.apply_attribute_changes()
        return parameter_arrays.to_tensors(self._net)

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
        parameter_arrays.load_parameters(model._net, metadata["n_in"], tensors)
        compiled = metadata["compiled"]
        if compiled is not None:
            model.compile(
                optimizers.from_config(compiled["optimizer"], custom),
                losses.from_config(compiled["loss"], custom),
                [metrics.from_config(m, custom) for m in compiled["metrics"]],
                device=device,
            )
            model._move(device, compiled.get("precision"), explicit=False)
        else:
            model.to(device)
        return model

    # --- checks ---

    def _require_compiled(self, what: str) -> None:
        if self._net.given_loss is None:
            raise RuntimeError(f"{what} needs a loss and an optimiser: call compile(optimizer=…, loss=…) first")

    def _require_idle(self, what: str) -> None:
        """A fit owns the network's state; a callback may look, change weights and stop it, but not begin another."""
        if self._fitting.locked():
            raise RuntimeError(f"{what} cannot be called while fit runs; set stop_training = True to end it first")

    @contextlib.contextmanager
    def _exclusive(self, what: str) -> Iterator[None]:
        """One fit at a time, whichever threads ask."""
        if not self._fitting.acquire(blocking=False):
            raise RuntimeError(f"{what} cannot be called while fit runs; set stop_training = True to end it first")
        try:
            yield
        finally:
            self._fitting.release()

    def _require_built(self, what: str) -> None:
        if not self._net.is_built:
            raise RuntimeError(
                f"{what}: there are no weights yet, the number of inputs is not known; "
                "give input_shape=, call build(n_in), or fit first"
            )


# `compile` has an argument of the module's name
_metric = metrics.get


def _process_group(strategy: Any) -> Group:
    """The processes that a strategy starts; one alone for None."""
    if strategy is None:
        return SINGLE_PROCESS
    if not isinstance(strategy, DataParallel):
        raise TypeError(f"strategy must be gpunn.DataParallel() or None, got {strategy!r}")
    return strategy.start()


def _strip_addresses(thing: Any) -> str:
    """repr, without the addresses that differ from process to process."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(thing))


def _resolve_precision(
    precision: str | None, backend: backends.Backend, dtype: np.dtype, *, explicit: bool = True
) -> Any:
    """The precision of products, None for the dtype's own. ValueError where it makes no sense."""
    if precision is None or precision == dtype.name:
        return None
    if precision not in ("tf32", "bf16", "float32", "float64"):
        raise ValueError(f"precision must be None, 'tf32' or 'bf16', got {precision!r}")
    if precision in ("float32", "float64"):
        raise ValueError(f"precision={precision!r} does not fit a {dtype} network: give Sequential dtype={precision!r}")
    why = backend.lower_precision_error(explicit=explicit)
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
    return positive_integer("input_shape", shape)


def _seed(seed: Any, name: str = "seed") -> int:
    if seed is None:
        return secrets.randbits(63)
    with contextlib.suppress(TypeError):
        if not isinstance(seed, bool):
            number = operator.index(seed)
            if not 0 <= number < 2**64:
                raise ValueError(f"{name} must lie in [0, 2⁶⁴), got {seed}")
            return number
    raise TypeError(f"{name} must be an integer or None, got {seed!r}")
