"""Export to ONNX: graphs that compute what `predict` returns, for onnxruntime and other readers of the format.

`network`, `classifier` and `regressor` build a graph, and `write` saves it. Numbers keep the network's dtype;
the batch axis is named "N" and has any length.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from .. import activations
from ..training.files import write_bytes
from ..training.parameter_arrays import named_arrays
from . import onnx_layers
from .model_protocol import Model
from .onnx_graph import Graph

LIMIT = 2**31 - 2**20  # bytes of parameters; a protocol-buffers file ends at 2 GiB


def write(graph: Graph, path: str | os.PathLike[str]) -> None:
    """Check the graph and write it to `path`, atomically. Raise OSError if writing fails."""
    model = graph.model()
    graph.onnx.checker.check_model(model, full_check=True)
    write_bytes(Path(path), model.SerializeToString(deterministic=True))


def network(net: Model) -> Graph:
    """Build a graph with input "X" (N, n_in) and output "output" (N, n_out): aᴸ, as `net.predict` returns it.

    Raise RuntimeError if the number of inputs is unknown, ValueError for a user-defined layer or activation.
    """
    graph = Graph(net.dtype)
    graph.output("output", _from_X(graph, net), net.dtype, net._net.n_out)
    return graph


def classifier(net: Model, labels: Any) -> Graph:
    """Build a graph with input "X" (N, n_in), outputs "label" (N,) and "probabilities" (N, number of labels).

    Parameters
    ----------
    net : Sequential
        A network whose outputs are probabilities or logits.
    labels : array or None
        The classes in order, one per output. For a single output, the probability of the second class, two labels, or
        only one. Integers become int64; strings, booleans and floats keep their type. With None the outputs are
        independent, and "label" (N, n_out) is 0 or 1 (int64).

    Raises
    ------
    RuntimeError, ValueError
        As `network`; ValueError also if the outputs are not probabilities or their number is not that of the labels.
    """
    graph = Graph(net.dtype)
    _add_classes(graph, net, _from_X(graph, net), labels)
    return graph


def regressor(net: Model) -> Graph:
    """Build a graph with input "X" (N, n_in) and output "variable": the predictions (N,) of one output, (N, n_out) of
    several. Raise RuntimeError and ValueError as `network`."""
    graph = Graph(net.dtype)
    a, n_out = _from_X(graph, net), net._net.n_out
    if n_out == 1:
        graph.output("variable", graph.squeeze(a), net.dtype)
    else:
        graph.output("variable", a, net.dtype, n_out)
    return graph


def _from_X(graph: Graph, net: Model) -> str:
    net._require_built("export")
    return forward(graph, net, graph.input("X", net.dtype, net._net.n_in))


def forward(graph: Graph, net: Model, x: str) -> str:
    """Add the forward pass of a network from a = x; return aᴸ."""
    backend = net._net.backend
    arrays = {name: np.array(backend.to_host(view)) for name, view in named_arrays(net._net).items()}
    size = sum(a.nbytes for a in arrays.values())
    if size > LIMIT:
        raise ValueError(f"the network must have at most 2 GiB of parameters for ONNX, got {size / 2**30:.1f} GiB")
    return onnx_layers.forward(graph, net.layers, arrays, x)


def _add_classes(graph: Graph, net: Model, a: str, labels: Any) -> None:
    """Add the outputs "label" and "probabilities"."""
    meaning, are_logits = net._probability()
    n_out = net._net.n_out
    p = onnx_layers.activate(graph, a, activations.get(meaning)) if are_logits else a
    if labels is None or n_out == 1:
        index = graph.cast(graph("Greater", p, 0.5), np.int64)
    else:
        index = graph("ArgMax", p, axis=1, keepdims=0)
    if labels is None:
        graph.output("label", index, np.int64, n_out)
        graph.output("probabilities", p, net.dtype, n_out)
        return
    classes = onnx_labels(labels)
    if n_out == 1:
        if len(classes) not in (1, 2):
            raise ValueError(f"labels must be two for a single output, got {len(classes)}")
        classes = classes[[0, -1]]
        index = graph.squeeze(index)
        p = graph("Concat", graph("Sub", 1, p), p, axis=1)
    elif len(classes) != n_out:
        raise ValueError(f"labels must be {n_out}, one per output, got {len(classes)}")
    graph.output("label", graph("Gather", graph.constant("labels", classes), index, axis=0), classes.dtype)
    graph.output("probabilities", p, net.dtype, len(classes))


def onnx_labels(labels: Any) -> np.ndarray:
    """Convert labels to a type of ONNX: int64, float64, bool, or strings (object)."""
    array = np.asarray(labels)
    if array.dtype.kind == "O":
        typed = np.array(array.tolist())
        # a mixture of strings and numbers would become strings
        array = typed if np.array_equal(typed.astype(object), array) else array
    if array.ndim != 1 or array.dtype.kind not in "biufU" or array.dtype == np.uint64:
        raise ValueError(f"labels must be integers, strings, booleans or floats, got {labels!r}")
    types = {"i": np.int64, "u": np.int64, "f": np.float64, "b": np.bool_, "U": object}
    return array.astype(types[array.dtype.kind])
