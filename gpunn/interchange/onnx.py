"""Networks as ONNX graphs: what `predict` gives, for onnxruntime and whatever else reads the format.

`network`, `classifier`, `regressor` and `table` build a graph, and `write` makes a file of it. Numbers keep the
network's dtype; the batch axis is free, "N". Operators are chosen so that float64 runs too: where onnxruntime has one
for float32 alone (Elu, Softplus), or where it holds a constant as float32 (an ε, a slope), it is put together from
plain arithmetic.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import __version__, activations, layers
from ..activations import Activation
from ..kernels import gelu
from ..layers import Layer
from ..model import Sequential
from ..training.checkpoint import write_bytes
from ..training.parameter_arrays import named_arrays

if TYPE_CHECKING:
    from ..tables import CategoricalColumn, ClassTarget, NumericColumn, NumericTarget, TableEncoder

# of ONNX 1.12 (2022): every onnxruntime since 1.13 reads it, and nothing here needs a newer one
OPSET, ML_OPSET, IR_VERSION = 17, 3, 8
LIMIT = 2**31 - 2**20  # bytes of numbers; a file of protocol buffers ends at 2 GiB
BATCH = "N"


def import_onnx() -> Any:
    """The module onnx. ImportError names the extra where it is absent."""
    try:
        import onnx
    except ImportError:
        raise ImportError('export needs the library onnx: pip install "gpunn[onnx]"') from None
    return onnx


# --- graphs ---


class Graph:
    """A graph in the making, with a network's dtype. A value is known by its name; names are given once.

    Calling it adds a node: ``z = graph("Gemm", x, w, b)``. A number among the inputs becomes a constant of that dtype.
    """

    def __init__(self, dtype: np.dtype) -> None:
        self.onnx = import_onnx()
        self.dtype = dtype
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []
        self.prefix = ""  # what the names of nodes and constants begin with
        self._names: set[str] = set()

    def __call__(self, operator: str, *inputs: str | float, **attributes: Any) -> str:
        """Add a node with one output, and return the output's name."""
        values = [x if isinstance(x, str) else self.constant("constant", self.dtype.type(x)) for x in inputs]
        name = self._name(f"{self.prefix}{operator}")
        self.nodes.append(self.onnx.helper.make_node(operator, values, [name], name=name, **attributes))
        return name

    def constant(self, name: str, value: Any) -> str:
        """Add a constant: an array of numbers or truth values, or of objects that are all text."""
        name = self._name(f"{self.prefix}{name}")
        self.constants.append(self.onnx.numpy_helper.from_array(np.asarray(value), name))
        return name

    def input(self, name: str, dtype: Any, width: int, doc: str = "") -> str:
        """Add an input (N, width)."""
        name = self._name(name)
        self.inputs.append(self._info(name, dtype, (width,), doc))
        return name

    def output(self, name: str, value: str, dtype: Any, *shape: int) -> None:
        """Make a value an output (N, …) of that name."""
        name = self._name(name)
        self.nodes.append(self.onnx.helper.make_node("Identity", [value], [name], name=name))
        self.outputs.append(self._info(name, dtype, shape))

    def cast(self, value: str, dtype: Any) -> str:
        """The value as another type of number."""
        return self("Cast", value, to=self._type(dtype))

    def model(self) -> Any:
        """The whole as an onnx.ModelProto."""
        helper = self.onnx.helper
        graph = helper.make_graph(self.nodes, "gpunn", self.inputs, self.outputs, self.constants)
        opsets = [helper.make_opsetid("", OPSET)]
        if any(node.domain for node in self.nodes):
            opsets.append(helper.make_opsetid("ai.onnx.ml", ML_OPSET))
        return helper.make_model(
            graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="gpunn", producer_version=__version__
        )

    def _info(self, name: str, dtype: Any, shape: tuple[int, ...], doc: str = "") -> Any:
        return self.onnx.helper.make_tensor_value_info(name, self._type(dtype), [BATCH, *shape], doc_string=doc)

    def _type(self, dtype: Any) -> int:
        if np.dtype(dtype).kind == "O":
            return int(self.onnx.TensorProto.STRING)
        return int(self.onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def _name(self, wanted: str) -> str:
        """The name, or where it is taken with the first number behind it that makes it new."""
        name, count = wanted, 1
        while name in self._names:
            name, count = f"{wanted}_{count}", count + 1
        self._names.add(name)
        return name


def write(graph: Graph, path: str | os.PathLike[str]) -> None:
    """Check the graph and write it to `path`, replacing it as one step. OSError where that fails."""
    model = graph.model()
    graph.onnx.checker.check_model(model, full_check=True)
    write_bytes(Path(path), model.SerializeToString(deterministic=True))


# --- what graphs there are ---


def network(net: Sequential) -> Graph:
    """Input "X" (N, n_in), output "output" (N, n_out): aᴸ, as `net.predict` gives it.

    RuntimeError before the number of inputs is known; ValueError names a layer or an activation of the user's own.
    """
    graph = Graph(net.dtype)
    graph.output("output", _from_X(graph, net), net.dtype, net._net.n_out)
    return graph


def classifier(net: Sequential, labels: Any) -> Graph:
    """Input "X" (N, n_in); outputs "label" (N,) and "probabilities" (N, number of labels).

    labels  the classes in order, one for each output of the network, or two (or the only one) for a single output,
            the probability of the second: whole numbers come out as int64, text, truth values and floats as they are.
            None: the outputs are independent of each other, "label" (N, n_out) is 0 or 1 (int64) for each

    ValueError as in `network`, and where the outputs are not probabilities or the labels do not fit them.
    """
    graph = Graph(net.dtype)
    _classes(graph, net, _from_X(graph, net), labels)
    return graph


def regressor(net: Sequential) -> Graph:
    """Input "X" (N, n_in), output "variable": the predictions (N,) of one output, (N, n_out) of several. ValueError as
    in `network`."""
    graph = Graph(net.dtype)
    a, n_out = _from_X(graph, net), net._net.n_out
    if n_out == 1:
        graph.output("variable", _column(graph, a), net.dtype)
    else:
        graph.output("variable", a, net.dtype, n_out)
    return graph


def table(net: Sequential, encoding: TableEncoder) -> Graph:
    """One input (N, 1) a column, by the column's name: float64 for numbers, NaN where one is missing; text for
    categories, the empty text where one is missing. Outputs as `classifier` has them, or "variable" (N,), float64, in
    the target's units.

    An output whose name a column has is called "label_1", say. ValueError as in `network` and `classifier`, and where
    the empty text is a category beside the missing cell.
    """
    graph = Graph(net.dtype)
    columns = encoding.columns
    # all inputs before any node, so that each has its column's name
    inputs = [_INPUTS[type(column).__name__](graph, column) for column in columns]
    parts = [_PARTS[type(column).__name__](graph, x, column) for x, column in zip(inputs, columns, strict=True)]
    # as `TableEncoder.encode` does: made in float64, kept as float32
    x = graph("Concat", *parts, axis=1)
    a = _forward(graph, net, x if net.dtype == np.float32 else graph.cast(x, net.dtype))
    _TARGETS[type(encoding.target).__name__](graph, net, a, encoding.target)
    return graph


# --- inputs and outputs ---


def _from_X(graph: Graph, net: Sequential) -> str:
    net._require_built("export")
    return _forward(graph, net, graph.input("X", net.dtype, net._net.n_in))


def _numeric_input(graph: Graph, column: NumericColumn) -> str:
    return graph.input(column.name, np.float64, 1, "a number; NaN where it is missing")


def _categorical_input(graph: Graph, column: CategoricalColumn) -> str:
    if {"", None} <= {*column.values}:
        raise ValueError(
            f"column {column.name!r} has the empty text as a category beside missing cells, which ONNX cannot tell "
            "apart: train on a table that has only one of them"
        )
    return graph.input(column.name, object, 1, "a category; empty where it is missing")


def _numeric_column(graph: Graph, x: str, column: NumericColumn) -> str:
    """(x − mean) / scale, the median where x is NaN, and 1 or 0 for whether it is."""
    graph.prefix = f"{column.name}."
    missing = graph("IsNaN", x)
    parts = []
    if column.scale is not None:
        filled = graph("Where", missing, graph.constant("median", np.float64(column.median)), x)
        centred = graph("Sub", filled, graph.constant("mean", np.float64(column.mean)))
        parts.append(graph.cast(graph("Div", centred, graph.constant("scale", np.float64(column.scale))), np.float32))
    if column.indicator:
        parts.append(graph.cast(missing, np.float32))
    graph.prefix = ""
    return parts[0] if len(parts) == 1 else graph("Concat", *parts, axis=1)


def _categorical_column(graph: Graph, x: str, column: CategoricalColumn) -> str:
    """1 for the category that the cell holds, nothing but 0 for one that training did not see."""
    graph.prefix = f"{column.name}."
    words = [value or "" for value in column.values]
    each = graph("OneHotEncoder", x, domain="ai.onnx.ml", cats_strings=words, zeros=1)
    encoded = _column(graph, each)
    graph.prefix = ""
    return encoded


def _numeric_target(graph: Graph, net: Sequential, a: str, target: NumericTarget) -> None:
    """a · scale + mean"""
    scaled = graph("Mul", graph.cast(_column(graph, a), np.float64), graph.constant("scale", np.float64(target.scale)))
    graph.output("variable", graph("Add", scaled, graph.constant("mean", np.float64(target.mean))), np.float64)


def _class_target(graph: Graph, net: Sequential, a: str, target: ClassTarget) -> None:
    _classes(graph, net, a, target.labels)


# by the names that files give them
_INPUTS: dict[str, Callable[[Graph, Any], str]] = {
    "NumericColumn": _numeric_input,
    "CategoricalColumn": _categorical_input,
}
_PARTS: dict[str, Callable[[Graph, str, Any], str]] = {
    "NumericColumn": _numeric_column,
    "CategoricalColumn": _categorical_column,
}
_TARGETS: dict[str, Callable[[Graph, Sequential, str, Any], None]] = {
    "ClassTarget": _class_target,
    "NumericTarget": _numeric_target,
}


def _classes(graph: Graph, net: Sequential, a: str, labels: Any) -> None:
    """The labels and probabilities that follow from aᴸ."""
    meaning, are_logits = net._probability()
    n_out = net._net.n_out
    p = _activate(graph, a, activations.get(meaning)) if are_logits else a
    if labels is None or n_out == 1:
        yes = graph("Greater", p, 0.5)
        place = graph.cast(yes, np.int64)
    else:
        place = graph("ArgMax", p, axis=1, keepdims=0)
    if labels is None:
        graph.output("label", place, np.int64, n_out)
        graph.output("probabilities", p, net.dtype, n_out)
        return
    known = _onnx_labels(labels)
    if n_out == 1:
        if len(known) not in (1, 2):
            raise ValueError(f"labels must be two for a single output, got {len(known)}")
        known = known[[0, -1]]
        place = _column(graph, place)
        p = graph("Concat", graph("Sub", 1, p), p, axis=1)
    elif len(known) != n_out:
        raise ValueError(f"labels must be {n_out}, one for each output, got {len(known)}")
    graph.output("label", graph("Gather", graph.constant("labels", known), place, axis=0), known.dtype)
    graph.output("probabilities", p, net.dtype, len(known))


def _onnx_labels(labels: Any) -> np.ndarray:
    """Labels as a type that ONNX has: int64, float64, bool, or text (objects)."""
    array = np.asarray(labels)
    if array.dtype.kind == "O":
        typed = np.array(array.tolist())
        # text and numbers together would all become text
        array = typed if np.array_equal(typed.astype(object), array) else array
    if array.ndim != 1 or array.dtype.kind not in "biufU" or array.dtype == np.uint64:
        raise ValueError(f"labels must be whole numbers, text, truth values or floats, got {labels!r}")
    return array.astype({"i": np.int64, "u": np.int64, "f": np.float64, "b": np.bool_, "U": object}[array.dtype.kind])


def _column(graph: Graph, value: str) -> str:
    """The value without its second axis, which has length 1."""
    return graph("Squeeze", value, graph.constant("axes", np.array([1])))


# --- layers ---


def _forward(graph: Graph, net: Sequential, x: str) -> str:
    """aᴸ of a = x."""
    backend = net._net.backend
    tensors = {name: np.array(backend.to_host(view)) for name, view in named_arrays(net._net).items()}
    size = sum(a.nbytes for a in tensors.values())
    if size > LIMIT:
        raise ValueError(f"the network holds {size / 2**30:.1f} GiB of numbers, and an ONNX file at most 2 GiB")
    for k, layer in enumerate(net.layers):
        if type(layer) not in _LAYERS:
            known = ", ".join(each.__name__ for each in _LAYERS)
            raise ValueError(f"layers[{k}] is a layer of your own, {type(layer).__name__}: export knows only {known}")
        if type(layer.activation) not in _ACTIVATIONS:
            raise ValueError(
                f"layers[{k}] has an activation of your own, {type(layer.activation).__name__}: export knows only "
                f"{', '.join(each.names[0] for each in _ACTIVATIONS)}"
            )
        graph.prefix = f"layers.{k}."
        own = {name.removeprefix(graph.prefix): a for name, a in tensors.items() if name.startswith(graph.prefix)}
        x = _LAYERS[type(layer)](graph, x, layer, own)
    graph.prefix = ""
    return x


def _dense(graph: Graph, x: str, layer: layers.Dense, own: dict[str, np.ndarray]) -> str:
    """z = a_prev W + b (E1), a = f(z) (E2)"""
    z = graph("Gemm", x, *(graph.constant(name, array) for name, array in own.items()))
    return _activate(graph, z, layer.activation)


def _activation(graph: Graph, x: str, layer: layers.Activation, own: dict[str, np.ndarray]) -> str:
    """a = f(z) (E2)"""
    return _activate(graph, x, layer.activation)


def _dropout(graph: Graph, x: str, layer: layers.Dropout, own: dict[str, np.ndarray]) -> str:
    """a = a_prev, or (1 − p) a_prev in the text's form (E11)"""
    return x if layer.is_identity(training=False) else graph("Mul", x, 1 - layer.rate)


def _batch_normalization(graph: Graph, x: str, layer: layers.BatchNormalization, own: dict[str, np.ndarray]) -> str:
    """z = (x − μ) · γ/√(σ² + ε) + β. The operator BatchNormalization is x · s + (β − μs) to onnxruntime, which cancels
    where |μ| ≫ σ."""
    scale = own["gamma"] / np.sqrt(own["running_variance"] + own["gamma"].dtype.type(layer.epsilon))
    centred = graph("Sub", x, graph.constant("running_mean", own["running_mean"]))
    return graph("Add", graph("Mul", centred, graph.constant("scale", scale)), graph.constant("beta", own["beta"]))


def _layer_normalization(graph: Graph, x: str, layer: layers.LayerNormalization, own: dict[str, np.ndarray]) -> str:
    """z = γ(x − μ)/√(σ² + ε) + β, μ and σ² of the row"""
    gamma, beta = own["gamma"], own["beta"]
    centred = graph("Sub", x, graph("ReduceMean", x, axes=[1]))
    variance = graph("ReduceMean", graph("Mul", centred, centred), axes=[1])
    deviation = graph("Sqrt", graph("Add", variance, layer.epsilon))
    normal = graph("Div", centred, deviation)
    return graph("Add", graph("Mul", normal, graph.constant("gamma", gamma)), graph.constant("beta", beta))


_LAYERS: dict[type[Layer], Callable[[Graph, str, Any, dict[str, np.ndarray]], str]] = {
    layers.Dense: _dense,
    layers.Activation: _activation,
    layers.Dropout: _dropout,
    layers.BatchNormalization: _batch_normalization,
    layers.LayerNormalization: _layer_normalization,
}


# --- activations ---


def _activate(graph: Graph, z: str, activation: Activation) -> str:
    """a = f(z) (E2)"""
    return _ACTIVATIONS[type(activation)](graph, z, activation)


def _leaky_relu(graph: Graph, z: str, f: activations.LeakyReLU) -> str:
    """z for z > 0, αz else"""
    return graph("PRelu", z, graph.constant("alpha", np.array([f.alpha], graph.dtype)))


def _elu(graph: Graph, z: str, f: activations.ELU) -> str:
    """max(0, z) + α · 2t/(1 − t), t = tanh(min(0, z)/2): eᵐ − 1 = 2t/(1 − t) does not cancel near 0"""
    t = graph("Tanh", graph("Mul", graph("Min", z, 0), 0.5))
    below = graph("Div", graph("Mul", t, 2 * f.alpha), graph("Sub", 1, t))
    return graph("Add", graph("Relu", z), below)


def _gelu(graph: Graph, z: str, f: activations.GELU) -> str:
    """z/(1 + e^−2u), u = √(2/π)(z + 0.044715 z³): ½(1 + tanh u) = σ(2u)"""
    inner = graph("Mul", z, graph("Add", graph("Mul", graph("Mul", z, z), gelu.K), 1))
    return _divided_by_one_plus_exp(graph, z, graph("Mul", inner, -2 * gelu.C))


def _silu(graph: Graph, z: str, f: activations.SiLU) -> str:
    """z/(1 + e⁻ᶻ). The operator Sigmoid ends at −18 to onnxruntime, which a large z would multiply."""
    return _divided_by_one_plus_exp(graph, z, graph("Neg", z))


def _divided_by_one_plus_exp(graph: Graph, z: str, exponent: str) -> str:
    """z/(1 + e^exponent); an infinite power makes it 0"""
    return graph("Div", z, graph("Add", graph("Exp", exponent), 1))


def _softplus(graph: Graph, z: str, f: activations.Softplus) -> str:
    """max(0, z) + log(1 + e), e = e^−|z|: log(w) · e/(w − 1), w = 1 + e as it was rounded, loses nothing for small e"""
    e = graph("Exp", graph("Neg", graph("Abs", z)))
    w = graph("Add", e, 1)
    corrected = graph("Div", graph("Mul", graph("Log", w), e), graph("Sub", w, 1))
    return graph("Add", graph("Relu", z), graph("Where", graph("Equal", w, 1), e, corrected))


_ACTIVATIONS: dict[type[Activation], Callable[[Graph, str, Any], str]] = {
    activations.ReLU: lambda graph, z, f: graph("Relu", z),
    activations.LeakyReLU: _leaky_relu,
    activations.ELU: _elu,
    activations.GELU: _gelu,
    activations.SiLU: _silu,
    activations.Softplus: _softplus,
    activations.Exponential: lambda graph, z, f: graph("Exp", z),
    activations.Sigmoid: lambda graph, z, f: graph("Sigmoid", z),
    activations.Tanh: lambda graph, z, f: graph("Tanh", z),
    activations.Identity: lambda graph, z, f: z,
    activations.Softmax: lambda graph, z, f: graph("Softmax", z, axis=1),
}
