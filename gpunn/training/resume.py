"""A fit under way as a file: all that it takes to go on after a stop as if there had been none.

A checkpoint is the file of the model at that epoch, with metadata "training" beside the model's own, and arrays whose
names begin with "training/": the optimiser's moments, the state array, the history, and what callbacks remember.
"""

from __future__ import annotations

import copy
import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import losses, metrics, optimizers
from ..backend import is_device_array, to_host
from ..kernels.state import SIZE, Slot
from ..network import Network
from ..recording import Array
from . import checkpoint
from .callbacks import Callback, CallbackList
from .checkpoint import CheckpointError
from .history import History
from .parameter_arrays import Shapes, check_arrays, named_arrays, named_shapes

TRAINING = "training"
VERSION = 2  # of what a checkpoint holds in addition to the model; 1 had no checksums of the data
PREFIX = f"{TRAINING}/"
INVALID_FILE = (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError, RecursionError)


def model_tensors(tensors: dict[str, np.ndarray], metadata: dict[str, Any]) -> dict[str, np.ndarray]:
    """The model's own arrays of a checkpoint; of any other file all there are."""
    if TRAINING not in metadata:
        return tensors
    return {name: a for name, a in tensors.items() if not name.startswith(PREFIX)}


def read_callback_state(path: str | os.PathLike[str], name: str) -> dict[str, Any] | None:
    """What the first callback of that class left in a checkpoint; None where there is no file, or nothing of it.
    CheckpointError where the file is damaged."""
    try:
        tensors, metadata = checkpoint.read(path)
    except FileNotFoundError:
        return None
    try:
        for k, entry in enumerate(metadata.get(TRAINING, {}).get("callbacks", ())):
            if entry["class"] == name:
                arrays = {key: tensors[f"{PREFIX}callbacks/{k}/{key}"] for key in entry["arrays"]}
                return dict(json.loads(entry["state"])) | arrays
    except INVALID_FILE as error:
        raise CheckpointError(f"{os.fspath(path)}: its metadata does not describe a fit: {error!r}") from error
    return None


def dataset_fingerprint(data: tuple[Any, Any, Any] | None, rows: int | None = None) -> dict[str, Any] | None:
    """The fingerprint of a set (X, y, weights or None) of which `rows` rows train; None where there is none."""
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
class TrainerState:
    """Where a fit is: all that the next step depends on, beside what callbacks remember."""

    first: int
    done: int
    arrays: dict[str, np.ndarray]
    slots: dict[str, np.ndarray]
    state: np.ndarray
    learning_rate_override: float | None
    changed: dict[str, dict[str, Any]]


@dataclass
class LoadedCheckpoint:
    """A checkpoint that was read and that fits."""

    path: str
    position: TrainerState
    history: History
    callbacks: list[tuple[Callback, dict[str, Any]]]

    def restore_callbacks(self) -> None:
        """The callbacks as they were then. CheckpointError where one cannot take what it is given."""
        for callback, state in self.callbacks:
            try:
                callback.set_state(state)
            except INVALID_FILE as error:
                what = type(callback).__name__
                raise CheckpointError(f"{self.path}: {what} cannot take what it had remembered: {error!r}") from error


class TrainingRun:
    """A fit under way.

    net      the network that trains, compiled
    subject  the model whose file a checkpoint is, by its `to_tensors()`
    hooks    the callbacks
    facts    what a fit that goes on must have in common with this one, beside network, optimiser and loss
    n_in     the number of inputs, which the network may not know yet
    first    how many epochs the network had seen when the fit began
    """

    def __init__(
        self, net: Network, subject: Any, hooks: CallbackList, *, facts: dict[str, Any], n_in: int, first: int
    ) -> None:
        self.net, self.subject, self.hooks, self.n_in, self.first = net, subject, hooks, n_in, first
        self.done = 0
        self.history = History()
        self._facts = facts
        self._began = _settings(net)
        self._whole = False

    @contextmanager
    def whole(self) -> Iterator[None]:
        """While an epoch has ended, with all that belongs to it: a checkpoint may be written."""
        self._whole = True
        try:
            yield
        finally:
            self._whole = False

    def facts(self) -> dict[str, Any]:
        """What two fits must have in common for one to go on where the other stopped, as JSON."""
        net = self.net
        facts = {
            "model": type(self.subject).__name__,
            "inputs": self.n_in,
            "layers": self._began,
            "dtype": net.dtype.name,
            "precision": net.precision,
            "seed": str(net.seed),
            "optimizer": optimizers.to_config(net.optimizer),
            "loss": losses.to_config(net.loss),
            "metrics": [metrics.to_config(m) for m in net.metrics],
            "callbacks": [type(c).__name__ for c in self.hooks.callbacks if not c.passive],
            **self._facts,
        }
        return dict(json.loads(json.dumps(facts, allow_nan=False)))

    # --- writing ---

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a checkpoint as one step. OSError where that fails, the old file whole; RuntimeError in the midst of
        an epoch."""
        if not self._whole:
            raise RuntimeError(
                "a checkpoint is of a whole epoch: call save_checkpoint from a callback's on_epoch_complete"
            )
        tensors, metadata = self.subject.to_tensors()
        here = self.position()
        # the subject may show other weights than those that train, the best so far, say
        extra = {name: a for name, a in here.arrays.items() if not _same(tensors.get(name), a)}
        extra |= {f"slots/{name}": a for name, a in here.slots.items()} | {"state": here.state}
        extra |= {f"history/{name}": np.array(v, np.float64) for name, v in self.history.history.items()}
        states = []
        for k, callback in enumerate(self.hooks.callbacks):
            given = callback.get_state()
            arrays = {name: to_host(v) for name, v in given.items() if _is_array(v)}
            extra |= {f"callbacks/{k}/{name}": a for name, a in arrays.items()}
            rest = {name: v for name, v in given.items() if name not in arrays}
            # as text of its own, which may hold NaN and infinities
            text = json.dumps(rest, default=_plain)
            states.append({"class": type(callback).__name__, "arrays": list(arrays), "state": text})
        metadata[TRAINING] = {
            "version": VERSION,
            "facts": self.facts(),
            "first": here.first,
            "done": here.done,
            "learning_rate_override": here.learning_rate_override,
            "changed": here.changed,
            "history": list(self.history.history),
            "callbacks": states,
        }
        checkpoint.write(path, tensors | {PREFIX + name: a for name, a in extra.items()}, metadata)

    def position(self) -> TrainerState:
        """Where the fit is now, on the host."""
        net = self.net

        def copied(array: Array) -> np.ndarray:
            return np.array(net.backend.to_host(array))

        return TrainerState(
            self.first,
            self.done,
            {name: copied(view) for name, view in named_arrays(net).items()},
            {name: copied(flat) for name, flat in net.slots.items()},
            copied(net.state),
            net.learning_rate_override,
            self._changed(),
        )

    def _changed(self) -> dict[str, dict[str, Any]]:
        """What callbacks set otherwise on layers since the fit began: frozen no longer, or another rate of dropout."""
        found = {}
        for k, (now, began) in enumerate(zip(_settings(self.net), self._began, strict=True)):
            changed = {name: value for name, value in now["set"].items() if value != began["set"].get(name)}
            if changed:
                found[str(k)] = changed
        return found

    # --- reading ---

    def open(self, path: str | os.PathLike[str], epochs: int) -> LoadedCheckpoint | None:
        """The checkpoint in a file, or None where there is no file; nothing changes yet. CheckpointError where the
        file is damaged, or says what of it does not fit."""
        try:
            tensors, metadata = checkpoint.read(path)
        except FileNotFoundError:
            return None
        name, here = os.fspath(path), self.facts()
        if TRAINING not in metadata:
            raise CheckpointError(
                f"{name} holds a model, but no fit under way: resume= takes what ModelCheckpoint wrote"
            )
        try:
            version = metadata[TRAINING].get("version", 1)
            if version != VERSION:
                raise CheckpointError(
                    f"another gpunn wrote this checkpoint: its version is {version!r}, this gpunn resumes {VERSION}. "
                    "Finish the fit with that gpunn, or delete the file; gpunn.load opens the model in it"
                )
            difference = _difference(metadata[TRAINING]["facts"], here)
            if difference:
                raise CheckpointError(
                    f"the checkpoint is of another fit: {difference}. Go on as it was begun, or delete the file"
                )
            saved = self._saved(str(name), metadata[TRAINING], tensors, epochs)
        except CheckpointError as error:
            raise CheckpointError(f"{name}: {error}") from None
        except INVALID_FILE as error:
            raise CheckpointError(f"{name}: its metadata does not describe a fit: {error!r}") from error
        self.history = saved.history
        return saved

    def _saved(
        self, path: str, training: dict[str, Any], tensors: dict[str, np.ndarray], epochs: int
    ) -> LoadedCheckpoint:
        """What the file holds, each part of it looked at before it is believed."""
        net = self.net
        extra = {name.removeprefix(PREFIX): a for name, a in tensors.items() if name.startswith(PREFIX)}
        layers = copy.deepcopy(net.layers)
        self._check_changed(training["changed"])
        for k, changed in training["changed"].items():
            for name, value in changed.items():
                setattr(layers[int(k)], name, value)
        parameters, running = named_shapes(layers, self.n_in)
        shapes = parameters | running
        arrays = {name: extra.get(name, tensors.get(name)) for name in shapes}
        check_arrays(shapes, net.dtype, {name: a for name, a in arrays.items() if a is not None})
        count = sum(math.prod(shape) for shape in parameters.values())
        slots: Shapes = {f"slots/{name}": (count,) for name in net.optimizer.slots}
        check_arrays(slots, net.dtype, {n: a for n, a in extra.items() if n.startswith("slots/")})
        state = extra["state"]
        check_arrays({"state": (SIZE,)}, np.dtype(np.float64), {"state": state})
        seed = int(state[Slot.SEED_LOW]) | int(state[Slot.SEED_HIGH]) << 32
        step = float(state[Slot.STEP])
        if seed != net.seed or state[Slot.NONFINITE_STEP] != 0 or step < 0 or not step.is_integer():
            raise CheckpointError("its state holds what no training gives")
        first, done, rate = training["first"], training["done"], training["learning_rate_override"]
        if not all(type(number) is int and number >= 0 for number in (first, done)):
            raise CheckpointError(f"its counts of epochs are {first!r} and {done!r}")
        if not (rate is None or (type(rate) is float and 0 < rate < math.inf)):
            raise CheckpointError(f"its learning rate is {rate!r}")
        if done > epochs:
            raise CheckpointError(f"it holds {done} epochs, more than epochs={epochs}, which counts them in")
        curves = {name: extra[f"history/{name}"] for name in ("loss", *training["history"])}
        for name, values in curves.items():
            if values.shape != (done,) or values.dtype != np.float64:
                found = f"{values.dtype} {values.shape}"
                raise CheckpointError(f"its history of {name!r} should be float64 {(done,)}, got {found}")
        history = History()
        history.history = {name: curves[name].tolist() for name in training["history"]}
        history.epoch = list(range(done))
        position = TrainerState(
            first,
            done,
            {name: a for name, a in arrays.items() if a is not None},
            {name: extra[f"slots/{name}"] for name in net.optimizer.slots},
            state,
            rate,
            training["changed"],
        )
        return LoadedCheckpoint(path, position, history, self._states(training["callbacks"], extra))

    def _check_changed(self, given: dict[str, dict[str, Any]]) -> None:
        """CheckpointError unless it says what to set on layers: a number, a word, or frozen or not."""
        settings = {str(k): began["set"] for k, began in enumerate(self._began)}
        for k, changed in given.items():
            known = settings[k]
            for name, value in changed.items():
                plain = value is None or isinstance(value, (bool, int, float, str))
                if name not in known or not plain or (name == "trainable" and not isinstance(value, bool)):
                    raise CheckpointError(f"layers[{k}].{name} cannot be set to {value!r}")

    def _states(self, given: list[Any], extra: dict[str, np.ndarray]) -> list[tuple[Callback, dict[str, Any]]]:
        """What each callback remembers: the n-th of a class here takes what the n-th of that class left."""
        waiting: dict[str, list[Callback]] = {}
        for callback in self.hooks.callbacks:
            waiting.setdefault(type(callback).__name__, []).append(callback)
        found = []
        for k, entry in enumerate(given):
            mine = waiting.get(entry["class"])
            state = json.loads(entry["state"])
            state |= {name: extra[f"callbacks/{k}/{name}"] for name in entry["arrays"]}
            # one that only watches need not be here again
            if mine:
                found.append((mine.pop(0), state))
        left = [c for rest in waiting.values() for c in rest if not c.passive]
        if left:
            raise CheckpointError(f"it holds nothing of {type(left[0]).__name__}")
        return [(callback, state) for callback, state in found if state]

    def restore(self, position: TrainerState) -> None:
        """Bring network and optimiser to a position. The network is built and ready."""
        net = self.net
        for k, (layer, now, began) in enumerate(zip(net.layers, _settings(net), self._began, strict=True)):
            for name, value in (began["set"] | position.changed.get(str(k), {})).items():
                if now["set"][name] != value:
                    setattr(layer, name, value)
        put = net.backend.asarray
        for name, view in named_arrays(net).items():
            view[...] = put(position.arrays[name])
        for name, flat in net.slots.items():
            flat[...] = put(position.slots[name])
        net.state[...] = put(position.state)
        net.learning_rate_override = position.learning_rate_override
        self.first, self.done = position.first, position.done


def _settings(net: Network) -> list[dict[str, Any]]:
    """The layers' classes, and what is set on them: their arguments, and whether they are frozen."""
    return [
        {"class": type(layer).__name__, "set": {**layer.get_config(), "trainable": layer.trainable}}
        for layer in net.layers
    ]


def _same(a: np.ndarray | None, b: np.ndarray) -> bool:
    """Whether two arrays are equal bit for bit."""
    if a is None or (a.dtype, a.shape) != (b.dtype, b.shape):
        return False
    return np.array_equal(a.reshape(-1).view(np.uint8), b.reshape(-1).view(np.uint8))


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray) or is_device_array(value)


def _plain(value: Any) -> Any:
    """A NumPy number as Python's, for JSON."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"a callback's state must be JSON or arrays, got {type(value).__name__}")


def _difference(there: Any, here: Any, name: str = "") -> str:
    """The first place where two values of JSON differ, in words; "" where they are equal."""
    if isinstance(there, dict) and isinstance(here, dict):
        for key in {**here, **there}:
            found = _difference(there.get(key), here.get(key), f"{name}.{key}" if name else key)
            if found:
                return found
        return ""
    if isinstance(there, list) and isinstance(here, list) and len(there) == len(here):
        for k, (a, b) in enumerate(zip(there, here, strict=True)):
            found = _difference(a, b, f"{name}[{k}]")
            if found:
                return found
        return ""
    return "" if there == here else f"{name} is {_shown(there)} in the file and {_shown(here)} here"


def _shown(value: Any) -> str:
    if isinstance(value, list) and any(isinstance(v, dict) for v in value):
        return f"a list of {len(value)}"
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "…"
