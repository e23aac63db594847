"""The state of a fit that the next step depends on: capture it, restore it, and check it in a checkpoint."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np

from ..kernels.state import SIZE, StateEntry
from ..layers import Layer
from ..network import Network
from ..program import Array, HostArray
from .checkpoint import CheckpointError
from .parameter_arrays import Shapes, check_arrays, named_arrays, named_shapes

LayerAttributes = TypedDict("LayerAttributes", {"class": str, "set": dict[str, object]})
Attributes = list[LayerAttributes]  # of each layer: {"class": its name, "set": {attribute: value}}
Overrides = dict[str, dict[str, object]]  # {index of the layer: {attribute: value}}
# a callback in a checkpoint: its class, the names of the arrays in its state, and the rest of the state as JSON
CallbackEntry = TypedDict("CallbackEntry", {"class": str, "arrays": list[str], "state": str})


class TrainingMetadata(TypedDict):
    """The metadata of a checkpoint about the fit. That of a file is checked before it is used."""

    version: int
    fingerprint: dict[str, object]
    first_epoch: int
    epochs_done: int
    learning_rate_override: float | None
    layer_overrides: Overrides
    history: list[str]
    callbacks: list[CallbackEntry]


@dataclass
class TrainerState:
    """Everything that the next step depends on, on the host, except the state of the callbacks.

    first_epoch      epochs that the network had been trained for when the fit began
    epochs_done      epochs that the fit has completed
    arrays           parameters and running statistics, by name
    slots            optimizer slots, by name
    state            the state array
    learning_rate_override  learning rate that replaces the schedule, or None
    layer_overrides  layer attributes that were changed since the fit began
    """

    first_epoch: int
    epochs_done: int
    arrays: dict[str, HostArray]
    slots: dict[str, HostArray]
    state: HostArray
    learning_rate_override: float | None
    layer_overrides: Overrides


def layer_attributes(net: Network) -> Attributes:
    """Return the class of each layer and its settable attributes, with `trainable` and `learning_rate_factor`."""
    names = ("trainable", "learning_rate_factor")
    return [
        {"class": type(layer).__name__, "set": layer.get_config() | {name: getattr(layer, name) for name in names}}
        for layer in net.layers
    ]


def capture(net: Network, initial: Attributes, first_epoch: int, epochs_done: int) -> TrainerState:
    """Copy the current state to the host. `initial` are the layers' attributes at the beginning of the fit."""

    def copied(array: Array) -> HostArray:
        return np.array(net.backend.to_host(array))

    return TrainerState(
        first_epoch,
        epochs_done,
        {name: copied(view) for name, view in named_arrays(net).items()},
        {name: copied(flat) for name, flat in net.slots.items()},
        copied(net.state),
        net.learning_rate_override,
        _overrides(net, initial),
    )


def _overrides(net: Network, initial: Attributes) -> Overrides:
    """Return the layer attributes that differ from the initial ones."""
    found = {}
    for k, (now, before) in enumerate(zip(layer_attributes(net), initial, strict=True)):
        changed = {name: value for name, value in now["set"].items() if value != before["set"].get(name)}
        if changed:
            found[str(k)] = changed
    return found


def restore(net: Network, initial: Attributes, saved: TrainerState) -> None:
    """Set a built network and its optimizer to a saved state."""
    for k, (layer, now, before) in enumerate(zip(net.layers, layer_attributes(net), initial, strict=True)):
        for name, value in (before["set"] | saved.layer_overrides.get(str(k), {})).items():
            if now["set"][name] != value:
                setattr(layer, name, value)
    to_device = net.backend.asarray
    for name, view in named_arrays(net).items():
        view[...] = to_device(saved.arrays[name])
    for name, flat in net.slots.items():
        flat[...] = to_device(saved.slots[name])
    net.state[...] = to_device(saved.state)
    net.learning_rate_override = saved.learning_rate_override


def parse(
    net: Network,
    n_in: int,
    initial: Attributes,
    training: TrainingMetadata,
    tensors: dict[str, HostArray],
    extra: dict[str, HostArray],
) -> TrainerState:
    """Build the state from a checkpoint, after checking it against the network. CheckpointError if it is invalid.

    training  the checkpoint's metadata about the fit
    tensors   all arrays of the file
    extra     those that do not belong to the model file, by their names without the prefix
    """
    overrides = training["layer_overrides"]
    _check_overrides(overrides, initial)
    parameters, running = named_shapes(_with_overrides(net.layers, overrides), n_in)
    shapes = parameters | running
    found = {name: extra.get(name, tensors.get(name)) for name in shapes}
    arrays = {name: a for name, a in found.items() if a is not None}
    check_arrays(shapes, net.dtype, arrays)
    count = sum(math.prod(shape) for shape in parameters.values())
    slots: Shapes = {f"slots/{name}": (count,) for name in net.optimizer.slots}
    check_arrays(slots, net.dtype, {name: a for name, a in extra.items() if name.startswith("slots/")})
    state = extra["state"]
    _check_state(state, net.seed)
    first_epoch = training["first_epoch"]
    epochs_done = training["epochs_done"]
    rate = training["learning_rate_override"]
    if not all(type(number) is int and number >= 0 for number in (first_epoch, epochs_done)):
        raise CheckpointError(f"its numbers of epochs are {first_epoch!r} and {epochs_done!r}")
    if not (rate is None or (type(rate) is float and 0 < rate < math.inf)):
        raise CheckpointError(f"its learning rate is {rate!r}")
    return TrainerState(
        first_epoch,
        epochs_done,
        arrays,
        {name: extra[f"slots/{name}"] for name in net.optimizer.slots},
        state,
        rate,
        overrides,
    )


def _check_overrides(overrides: Overrides, initial: Attributes) -> None:
    """Raise CheckpointError unless all overrides are plain values of existing layer attributes."""
    known = {str(k): before["set"] for k, before in enumerate(initial)}
    for k, changed in overrides.items():
        settable = known[k]
        for name, value in changed.items():
            plain = value is None or isinstance(value, (bool, int, float, str))
            if name not in settable or not plain or (name == "trainable" and not isinstance(value, bool)):
                raise CheckpointError(f"layers[{k}].{name} cannot be set to {value!r}")


def _with_overrides(layers: Sequence[Layer], overrides: Overrides) -> list[Layer]:
    """Copy the layers and set the attributes."""
    copies = copy.deepcopy(list(layers))
    for k, changed in overrides.items():
        for name, value in changed.items():
            setattr(copies[int(k)], name, value)
    return copies


def _check_state(state: HostArray, network_seed: int) -> None:
    """Raise CheckpointError unless it is the state array of a fit with this seed that has not diverged."""
    check_arrays({"state": (SIZE,)}, np.dtype(np.float64), {"state": state})
    seed = int(state[StateEntry.SEED_LOW]) | int(state[StateEntry.SEED_HIGH]) << 32
    step = float(state[StateEntry.STEP])
    if seed != network_seed or state[StateEntry.NONFINITE_STEP] != 0 or step < 0 or not step.is_integer():
        raise CheckpointError("its state array is invalid")
