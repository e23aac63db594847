"""Convert a network to named arrays and JSON metadata, and back."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np

from .. import layers as layer_registry
from .. import losses, metrics, optimizers
from ..layers import Layer
from ..network import Network
from ..program import Array, DType, HostArray
from ..validation import positive_integer
from .checkpoint import CheckpointError

Shapes = dict[str, tuple[int, ...]]


def to_tensors(net: Network) -> tuple[dict[str, HostArray], dict[str, object]]:
    """Return the parameters and running statistics of a network, and metadata with its layers and compile arguments."""
    found = {name: np.array(net.backend.to_host(view)) for name, view in named_arrays(net).items()}
    metadata: dict[str, object] = {
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
    # a value that is not JSON must raise before a file is opened
    json.dumps(metadata, allow_nan=False)
    return found, metadata


def load_parameters(net: Network, n_in: int, arrays: dict[str, HostArray]) -> None:
    """Build a new network with these parameters and running statistics. CheckpointError if they do not match it."""
    # checked before memory is allocated for sizes read from a file
    parameters, running = named_shapes(net.layers, positive_integer("n_in", n_in))
    check_arrays(parameters | running, net.dtype, arrays)
    net.build(n_in, draw=False)
    for name, view in named_arrays(net).items():
        view[...] = arrays[name]


def named_arrays(net: Network) -> dict[str, Array]:
    """Return views of a network's parameters and running statistics, by their names in files."""
    found: dict[str, Array] = {}
    for k in range(len(net.layers)):
        views = {p.parameter.name: p.of(net.theta) for p in net.slices_of(k)} | net.running_stats_of(k)
        found |= {f"layers.{k}.{name}": view for name, view in views.items()}
    return found


def named_shapes(layers: Sequence[Layer], n_in: int) -> tuple[Shapes, Shapes]:
    """Build the layers for `n_in` inputs. Return the shapes of parameters and running statistics by their names."""
    parameters: Shapes = {}
    running: Shapes = {}
    width = n_in
    for k, layer in enumerate(layers):
        width = layer.build(width)
        parameters |= {f"layers.{k}.{p.name}": p.shape for p in layer.parameters()}
        running |= {f"layers.{k}.{r.name}": r.shape for r in layer.running()}
    return parameters, running


def check_arrays(expected: Shapes, dtype: DType, arrays: dict[str, HostArray]) -> None:
    """Raise CheckpointError unless the arrays have exactly these names, shapes and dtype."""
    for name in sorted({*expected, *arrays}):
        shape = expected.get(name)
        array = arrays.get(name)
        if shape is None or array is None or array.shape != shape or array.dtype != dtype:
            required = "absent" if shape is None else f"{dtype} {shape}"
            got = "nothing" if array is None else f"{array.dtype} {array.shape}"
            raise CheckpointError(f"{name} must be {required}, got {got}")
