"""A network as files have it: arrays by name, and the JSON that says what they belong to."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import layers as layer_registry
from .. import losses, metrics, optimizers
from ..layers import Layer
from ..network import Network
from ..recording import Array
from ..validation import positive_integer
from .checkpoint import CheckpointError

Shapes = dict[str, tuple[int, ...]]


def to_tensors(net: Network) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays and the metadata of a network, and what it was compiled with."""
    found = {name: np.array(net.backend.to_host(view)) for name, view in named_arrays(net).items()}
    metadata: dict[str, Any] = {
        "kind": "sequential",
        "layers": [layer_registry.to_config(layer) for layer in net.layers],
        "n_in": net.n_in,
        "seed": str(net.seed),
        "dtype": net.dtype.name,
        "compiled": None,
    }
    if net.given_loss is not None:
        metadata["compiled"] = {
            "optimizer": optimizers.to_config(net.optimizer),
            "loss": losses.to_config(net.given_loss),
            "metrics": [metrics.to_config(m) for m in net.given_metrics],
            "precision": net.precision,
        }
    # what cannot be written as JSON is found out before a file is touched
    json.dumps(metadata, allow_nan=False)
    return found, metadata


def load_parameters(net: Network, n_in: Any, arrays: dict[str, np.ndarray]) -> None:
    """Build a new network with those parameters and statistics. CheckpointError where they are not its own."""
    # before the architecture is believed and memory taken for it
    parameters, running = named_shapes(net.layers, positive_integer("n_in", n_in))
    check_arrays(parameters | running, net.dtype, arrays)
    net.build(n_in, draw=False)
    for name, view in named_arrays(net).items():
        view[...] = arrays[name]


def named_arrays(net: Network) -> dict[str, Array]:
    """The views of a network's parameters and running statistics, by the names that files give them."""
    found: dict[str, Array] = {}
    for k in range(len(net.layers)):
        views = {p.parameter.name: p.of(net.theta) for p in net.slices_of(k)} | net.running_stats_of(k)
        found |= {f"layers.{k}.{name}": view for name, view in views.items()}
    return found


def named_shapes(layers: Sequence[Layer], n_in: int) -> tuple[Shapes, Shapes]:
    """The shapes of parameters and of running statistics by those names; builds the layers for `n_in` inputs."""
    parameters: Shapes = {}
    running: Shapes = {}
    width = n_in
    for k, layer in enumerate(layers):
        width = layer.build(width)
        parameters |= {f"layers.{k}.{p.name}": p.shape for p in layer.parameters()}
        running |= {f"layers.{k}.{r.name}": r.shape for r in layer.running()}
    return parameters, running


def check_arrays(expected: Shapes, dtype: np.dtype, found: dict[str, np.ndarray]) -> None:
    """CheckpointError unless the arrays are those expected, and no others."""
    for name in sorted({*expected, *found}):
        shape, array = expected.get(name), found.get(name)
        if shape is None or array is None or array.shape != shape or array.dtype != dtype:
            wanted = "nothing" if shape is None else f"{dtype} {shape}"
            got = "nothing" if array is None else f"{array.dtype} {array.shape}"
            raise CheckpointError(f"{name} should be {wanted}, got {got}")
