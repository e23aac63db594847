"""Checkpoints: write the state of a running fit to a file, and continue from it with bit-identical results.

A checkpoint is the model file of that epoch with additional content: metadata "training", and arrays with the prefix
"training/" for the optimizer slots, the state array, the history and the state of the callbacks.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, cast

import numpy as np

from .. import losses, metrics, optimizers
from ..backend import is_device_array, to_host
from ..network import Network, Table
from ..program import Array, HostArray
from . import checkpoint, trainer_state
from .callbacks import Callback, CallbackList
from .checkpoint import CheckpointError
from .history import History
from .trainer_state import CallbackEntry, TrainerState, TrainingMetadata

TRAINING = "training"
VERSION = 3  # of the additional content
PREFIX = f"{TRAINING}/"
# raised while invalid metadata is read
INVALID_FILE = (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError, RecursionError)


def model_tensors(tensors: dict[str, HostArray], metadata: dict[str, object]) -> dict[str, HostArray]:
    """Return the arrays of the model in a checkpoint. For any other file, return all arrays."""
    if TRAINING not in metadata:
        return tensors
    return {name: a for name, a in tensors.items() if not name.startswith(PREFIX)}


def read_callback_state(path: str | os.PathLike[str], name: str) -> dict[str, object] | None:
    """Read the state of the first callback of a class from a checkpoint.

    None if there is no file or no such callback. CheckpointError if the file is damaged.
    """
    try:
        tensors, metadata = checkpoint.read(path)
    except FileNotFoundError:
        return None
    try:
        training = cast("TrainingMetadata", metadata.get(TRAINING, {}))
        for k, entry in enumerate(training.get("callbacks", ())):
            if entry["class"] == name:
                arrays = {key: tensors[f"{PREFIX}callbacks/{k}/{key}"] for key in entry["arrays"]}
                return dict(json.loads(entry["state"])) | arrays
    except INVALID_FILE as error:
        raise CheckpointError(f"{os.fspath(path)}: its metadata does not describe a fit: {error!r}") from error
    return None


def dataset_fingerprint(
    data: tuple[Table, Array, Array | None] | None, rows: int | None = None
) -> dict[str, object] | None:
    """Return shapes and dtypes of a dataset (X, y, weights or None), of which `rows` rows are used. None for None."""
    if data is None:
        return None
    X, y, w = data
    dtype = X.dtype if hasattr(X, "dtype") else X.values.dtype
    return {
        "rows": int(X.shape[0] if rows is None else rows),
        "columns": int(X.shape[1]),
        "dtype": str(dtype),
        "targets": f"{y.dtype} {tuple(y.shape[1:])}",
        "weights": w is not None,
    }


@dataclass
class LoadedCheckpoint:
    """The valid content of a checkpoint."""

    path: str
    state: TrainerState
    history: History
    callbacks: list[tuple[Callback, dict[str, object]]]

    def restore_callbacks(self) -> None:
        """Restore the state of the callbacks. CheckpointError if a callback refuses its state."""
        for callback, state in self.callbacks:
            try:
                callback.set_state(state)
            except INVALID_FILE as error:
                name = type(callback).__name__
                raise CheckpointError(f"{self.path}: {name} cannot restore its state: {error!r}") from error


class Saved(Protocol):
    """The object that a checkpoint opens as."""

    def to_tensors(self) -> tuple[dict[str, HostArray], dict[str, object]]: ...


class TrainingRun:
    """A running fit, which can be saved and resumed.

    net           the network being trained, compiled
    model         the object that a checkpoint opens as, with `to_tensors()`
    hooks         the callbacks
    fit_settings  the part of the fingerprint that the network does not know: data and arguments of the fit
    n_in          number of inputs, which the network may not know yet
    first_epoch   epochs that the network had been trained for when the fit began
    """

    def __init__(
        self,
        net: Network,
        model: Saved,
        hooks: CallbackList,
        *,
        fit_settings: dict[str, object],
        n_in: int,
        first_epoch: int,
    ) -> None:
        self.net = net
        self.model = model
        self.hooks = hooks
        self.n_in = n_in
        self.first_epoch = first_epoch
        self.epochs_done = 0
        self.history = History()
        self._fit_settings = fit_settings
        self._initial_attributes = trainer_state.layer_attributes(net)
        self._can_save = False

    @contextmanager
    def at_epoch_boundary(self) -> Iterator[None]:
        """Allow checkpoints within the body: an epoch is complete, its callbacks and history included."""
        self._can_save = True
        try:
            yield
        finally:
            self._can_save = False

    def fingerprint(self) -> dict[str, object]:
        """Return, as JSON, everything that a resumed fit must have in common with this one."""
        net = self.net
        fingerprint = {
            "model": type(self.model).__name__,
            "inputs": self.n_in,
            "layers": self._initial_attributes,
            "dtype": net.dtype.name,
            "precision": net.precision,
            "seed": str(net.seed),
            "optimizer": optimizers.to_config(net.optimizer),
            "loss": losses.to_config(net.loss),
            "metrics": [metrics.to_config(m) for m in net.metrics],
            "callbacks": [type(c).__name__ for c in self.hooks.callbacks if not c.passive],
            **self._fit_settings,
        }
        return dict(json.loads(json.dumps(fingerprint, allow_nan=False)))

    def capture(self) -> TrainerState:
        """Copy the current state to the host."""
        return trainer_state.capture(self.net, self._initial_attributes, self.first_epoch, self.epochs_done)

    def restore(self, state: TrainerState) -> None:
        """Set the built network and its optimizer to a saved state."""
        trainer_state.restore(self.net, self._initial_attributes, state)
        self.first_epoch = state.first_epoch
        self.epochs_done = state.epochs_done

    # --- writing ---

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a checkpoint atomically. OSError if that fails. RuntimeError within an epoch."""
        if not self._can_save:
            raise RuntimeError(
                "a checkpoint needs a complete epoch: call save_checkpoint from a callback's on_epoch_complete"
            )
        tensors, metadata = self.model.to_tensors()
        state = self.capture()
        # an estimator may export other weights than those being trained, for example the best so far
        extra = {name: a for name, a in state.arrays.items() if not _same_bits(tensors.get(name), a)}
        extra |= {f"slots/{name}": a for name, a in state.slots.items()} | {"state": state.state}
        extra |= {f"history/{name}": np.array(v, np.float64) for name, v in self.history.history.items()}
        callbacks, callback_arrays = self._callback_states()
        training: TrainingMetadata = {
            "version": VERSION,
            "fingerprint": self.fingerprint(),
            "first_epoch": state.first_epoch,
            "epochs_done": state.epochs_done,
            "learning_rate_override": state.learning_rate_override,
            "layer_overrides": state.layer_overrides,
            "history": list(self.history.history),
            "callbacks": callbacks,
        }
        metadata[TRAINING] = training
        extra |= callback_arrays
        checkpoint.write(path, tensors | {PREFIX + name: a for name, a in extra.items()}, metadata)

    def _callback_states(self) -> tuple[list[CallbackEntry], dict[str, HostArray]]:
        """Return the state of each callback as metadata, and their arrays by name."""
        entries: list[CallbackEntry] = []
        arrays: dict[str, HostArray] = {}
        for k, callback in enumerate(self.hooks.callbacks):
            state = callback.get_state()
            found = {name: to_host(v) for name, v in state.items() if _is_array(v)}
            arrays |= {f"callbacks/{k}/{name}": a for name, a in found.items()}
            rest = {name: v for name, v in state.items() if name not in found}
            # nested text may contain NaN and infinities, which the metadata itself may not
            text = json.dumps(rest, default=_to_json)
            entries.append({"class": type(callback).__name__, "arrays": list(found), "state": text})
        return entries, arrays

    # --- reading ---

    def open(self, path: str | os.PathLike[str], epochs: int) -> LoadedCheckpoint | None:
        """Read and check a checkpoint, without changing the network. None if there is no file.

        CheckpointError if the file is damaged or belongs to another fit.
        """
        try:
            tensors, metadata = checkpoint.read(path)
        except FileNotFoundError:
            return None
        name = str(os.fspath(path))
        if TRAINING not in metadata:
            raise CheckpointError(f"{name} holds a model without training state: resume= needs a ModelCheckpoint file")
        fingerprint = self.fingerprint()
        try:
            training = cast("TrainingMetadata", metadata[TRAINING])
            _check_version(training)
            difference = _difference(training["fingerprint"], fingerprint)
            if difference:
                raise CheckpointError(
                    f"the checkpoint belongs to another fit: {difference}. Use the same settings, or delete the file"
                )
            saved = self._parse(name, training, tensors, epochs)
        except CheckpointError as error:
            raise CheckpointError(f"{name}: {error}") from None
        except INVALID_FILE as error:
            raise CheckpointError(f"{name}: its metadata does not describe a fit: {error!r}") from error
        self.history = saved.history
        return saved

    def _parse(
        self, path: str, training: TrainingMetadata, tensors: dict[str, HostArray], epochs: int
    ) -> LoadedCheckpoint:
        """Check each part of a checkpoint before it is used."""
        extra = {name.removeprefix(PREFIX): a for name, a in tensors.items() if name.startswith(PREFIX)}
        state = trainer_state.parse(self.net, self.n_in, self._initial_attributes, training, tensors, extra)
        if state.epochs_done > epochs:
            raise CheckpointError(f"it holds {state.epochs_done} epochs, more than epochs={epochs}, which is the total")
        history = _parse_history(training["history"], extra, state.epochs_done)
        return LoadedCheckpoint(path, state, history, self._match_callbacks(training["callbacks"], extra))

    def _match_callbacks(
        self, entries: list[CallbackEntry], extra: dict[str, HostArray]
    ) -> list[tuple[Callback, dict[str, object]]]:
        """Match the saved states with the callbacks: the n-th state of a class belongs to its n-th callback."""
        unmatched: dict[str, list[Callback]] = {}
        for callback in self.hooks.callbacks:
            unmatched.setdefault(type(callback).__name__, []).append(callback)
        found = []
        for k, entry in enumerate(entries):
            same_class = unmatched.get(entry["class"])
            state = json.loads(entry["state"])
            state |= {name: extra[f"callbacks/{k}/{name}"] for name in entry["arrays"]}
            # a passive callback may be absent here
            if same_class:
                found.append((same_class.pop(0), state))
        missing = [c for rest in unmatched.values() for c in rest if not c.passive]
        if missing:
            raise CheckpointError(f"it has no state of {type(missing[0]).__name__}")
        return [(callback, state) for callback, state in found if state]


def _check_version(training: TrainingMetadata) -> None:
    """Raise CheckpointError unless this gpunn can resume the checkpoint."""
    version = training.get("version", 1)
    if version != VERSION:
        raise CheckpointError(
            f"the checkpoint has version {version!r}, but this gpunn resumes version {VERSION}. Finish the fit with "
            "the gpunn that wrote it, or delete the file; gpunn.load opens the model in it"
        )


def _parse_history(names: list[str], extra: dict[str, HostArray], epochs: int) -> History:
    curves = {name: extra[f"history/{name}"] for name in ("loss", *names)}
    for name, values in curves.items():
        if values.shape != (epochs,) or values.dtype != np.float64:
            found = f"{values.dtype} {values.shape}"
            raise CheckpointError(f"its history of {name!r} must be float64 {(epochs,)}, got {found}")
    history = History()
    history.history = {name: curves[name].tolist() for name in names}
    history.epoch = list(range(epochs))
    return history


def _same_bits(a: HostArray | None, b: HostArray) -> bool:
    if a is None or (a.dtype, a.shape) != (b.dtype, b.shape):
        return False
    return np.array_equal(a.reshape(-1).view(np.uint8), b.reshape(-1).view(np.uint8))


def _is_array(value: object) -> bool:
    return isinstance(value, np.ndarray) or is_device_array(value)


def _to_json(value: object) -> object:
    """Convert a NumPy number to a Python number."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"a callback's state must be JSON or arrays, got {type(value).__name__}")


def _difference(saved: object, current: object, name: str = "") -> str:
    """Describe the first difference between two JSON values. Empty if they are equal."""
    if isinstance(saved, dict) and isinstance(current, dict):
        pairs = [(f"{name}.{key}" if name else key, saved.get(key), current.get(key)) for key in {**current, **saved}]
    elif isinstance(saved, list) and isinstance(current, list) and len(saved) == len(current):
        pairs = [(f"{name}[{k}]", a, b) for k, (a, b) in enumerate(zip(saved, current, strict=True))]
    elif saved == current:
        return ""
    else:
        return f"{name} is {_short(saved)} in the file and {_short(current)} here"
    return next((found for label, a, b in pairs if (found := _difference(a, b, label))), "")


def _short(value: object) -> str:
    if isinstance(value, list) and any(isinstance(v, dict) for v in value):
        return f"a list of {len(value)}"
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "…"
