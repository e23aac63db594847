"""Layers and activations as nodes of an ONNX graph.

The operators also run in float64. Where onnxruntime has an operator for float32 only (Elu, Softplus), or stores a
constant as float32 (an ε, a slope), plain arithmetic replaces it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .. import activations, layers
from ..activations import Activation
from ..kernels import gelu, selu
from ..layers import Layer
from .onnx_graph import Graph

Arrays = dict[str, np.ndarray]


def forward(graph: Graph, sequence: Sequence[Layer], arrays: Arrays, x: str) -> str:
    """Add the forward pass from a = x; return aᴸ.

    `arrays` are parameters and running statistics as "layers.0.W". Raise ValueError for user-defined layers and
    activations.
    """
    for k, layer in enumerate(sequence):
        if type(layer) not in LAYERS:
            known = ", ".join(cls.__name__ for cls in LAYERS)
            raise ValueError(f"layers[{k}] must be one of {known} for export, got {type(layer).__name__}")
        if type(layer.activation) not in ACTIVATIONS:
            known = ", ".join(cls.names[0] for cls in ACTIVATIONS)
            raise ValueError(
                f"the activation of layers[{k}] must be one of {known} for export, got "
                f"{type(layer.activation).__name__}"
            )
        graph.prefix = f"layers.{k}."
        own = {name.removeprefix(graph.prefix): a for name, a in arrays.items() if name.startswith(graph.prefix)}
        x = LAYERS[type(layer)](graph, x, layer, own)
    graph.prefix = ""
    return x


def activate(graph: Graph, z: str, activation: Activation) -> str:
    """a = f(z) (E2)"""
    return ACTIVATIONS[type(activation)](graph, z, activation)


# --- layers ---


def _dense(graph: Graph, x: str, layer: layers.Dense, arrays: Arrays) -> str:
    """z = a_prev W + b (E1), a = f(z) (E2)"""
    z = graph("Gemm", x, *(graph.constant(name, array) for name, array in arrays.items()))
    return activate(graph, z, layer.activation)


def _activation(graph: Graph, x: str, layer: layers.Activation, arrays: Arrays) -> str:
    """a = f(z) (E2)"""
    return activate(graph, x, layer.activation)


def _dropout(graph: Graph, x: str, layer: layers.Dropout, arrays: Arrays) -> str:
    """a = a_prev, or (1 − p) a_prev in the form of the text (E11)"""
    return graph("Mul", x, 1 - layer.rate) if layer.form == "textbook" and layer.rate > 0 else x


def _embedding(graph: Graph, x: str, layer: layers.Embedding, arrays: Arrays) -> str:
    """The other columns, then V[c] for each column of codes c, NaN for codes that V has no row for (E1)"""
    kept = layer.kept_columns()
    parts = [graph("Gather", x, graph.constant("kept", np.array(kept)), axis=1)] if kept else []
    for k, (column, levels) in enumerate(zip(layer.columns, layer.n_levels, strict=True)):
        code = graph("Gather", x, graph.constant("column", np.array([column])), axis=1)
        code = graph("Floor", graph("Add", code, 0.5))
        known = graph("And", graph("GreaterOrEqual", code, 0), graph("Less", code, levels))
        row = graph.squeeze(graph.cast(graph("Where", known, code, 0), np.int64))
        V = graph.constant(f"V{k + 1}", arrays[f"V{k + 1}"])
        parts.append(graph("Where", known, graph("Gather", V, row, axis=0), np.nan))
    return graph("Concat", *parts, axis=1)


def _batch_normalization(graph: Graph, x: str, layer: layers.BatchNormalization, arrays: Arrays) -> str:
    """z = (x − μ) · γ/√(σ² + ε) + β. onnxruntime computes its operator BatchNormalization as x · s + (β − μs), which
    cancels where |μ| ≫ σ."""
    epsilon = arrays["gamma"].dtype.type(layer.epsilon)
    scale = arrays["gamma"] / np.sqrt(arrays["running_variance"] + epsilon)
    centered = graph("Sub", x, graph.constant("running_mean", arrays["running_mean"]))
    return graph("Add", graph("Mul", centered, graph.constant("scale", scale)), graph.constant("beta", arrays["beta"]))


def _layer_normalization(graph: Graph, x: str, layer: layers.LayerNormalization, arrays: Arrays) -> str:
    """z = γ(x − μ)/√(σ² + ε) + β, μ and σ² of the row"""
    centered = graph("Sub", x, graph("ReduceMean", x, axes=[1]))
    variance = graph("ReduceMean", graph("Mul", centered, centered), axes=[1])
    deviation = graph("Sqrt", graph("Add", variance, layer.epsilon))
    x_hat = graph("Div", centered, deviation)
    scaled = graph("Mul", x_hat, graph.constant("gamma", arrays["gamma"]))
    return graph("Add", scaled, graph.constant("beta", arrays["beta"]))


def _periodic_embedding(graph: Graph, x: str, layer: layers.PeriodicEmbedding, arrays: Arrays) -> str:
    """a = [a_prev, cos 2πu], u the difference of t = wx + b and the nearest integer (E2)"""
    columns = graph("Gather", x, graph.constant("columns", np.array(layer.columns)), axis=1)
    unsqueezed = graph("Unsqueeze", columns, graph.constant("axes", np.array([2])))
    product = graph("Mul", unsqueezed, graph.constant("w", arrays["w"]))
    t = graph("Add", product, graph.constant("b", arrays["b"]))
    u = graph("Sub", t, graph("Round", t))
    cosines = graph("Cos", graph("Mul", u, 2 * np.pi))
    return graph("Concat", x, graph("Flatten", cosines, axis=1), axis=1)


LAYERS: dict[type[Layer], Callable[[Graph, str, Any, Arrays], str]] = {
    layers.Dense: _dense,
    layers.Activation: _activation,
    layers.Dropout: _dropout,
    layers.Embedding: _embedding,
    layers.BatchNormalization: _batch_normalization,
    layers.LayerNormalization: _layer_normalization,
    layers.PeriodicEmbedding: _periodic_embedding,
}


# --- activations ---


def _leaky_relu(graph: Graph, z: str, f: activations.LeakyReLU) -> str:
    """z for z > 0, αz else"""
    return graph("PRelu", z, graph.constant("alpha", np.array([f.alpha], graph.dtype)))


def _elu(graph: Graph, z: str, f: activations.ELU) -> str:
    """max(0, z) + α(eᵐ − 1), m = min(0, z)"""
    return graph("Add", graph("Relu", z), _scaled_expm1(graph, z, f.alpha))


def _selu(graph: Graph, z: str, f: activations.SELU) -> str:
    """λ max(0, z) + λα(eᵐ − 1), m = min(0, z)"""
    positive = graph("Mul", graph("Relu", z), selu.SCALE)
    return graph("Add", positive, _scaled_expm1(graph, z, selu.LIMIT))


def _scaled_expm1(graph: Graph, z: str, factor: float) -> str:
    """factor · (eᵐ − 1), m = min(0, z), as factor · 2t/(1 − t), t = tanh(m/2), which does not cancel near 0"""
    t = graph("Tanh", graph("Mul", graph("Min", z, 0), 0.5))
    return graph("Div", graph("Mul", t, 2 * factor), graph("Sub", 1, t))


def _gelu(graph: Graph, z: str, f: activations.GELU) -> str:
    """z/(1 + e^−2u), u = √(2/π)(z + 0.044715 z³): ½(1 + tanh u) = σ(2u)"""
    inner = graph("Mul", z, graph("Add", graph("Mul", graph("Mul", z, z), gelu.K), 1))
    return _divided_by_one_plus_exp(graph, z, graph("Mul", inner, -2 * gelu.C))


def _silu(graph: Graph, z: str, f: activations.SiLU) -> str:
    """z/(1 + e⁻ᶻ). onnxruntime's operator Sigmoid is constant below −18, an error that a large z would multiply."""
    return _divided_by_one_plus_exp(graph, z, graph("Neg", z))


def _divided_by_one_plus_exp(graph: Graph, z: str, exponent: str) -> str:
    """z/(1 + e^exponent), 0 if the power is infinite"""
    return graph("Div", z, graph("Add", graph("Exp", exponent), 1))


def _mish(graph: Graph, z: str, f: activations.Mish) -> str:
    """z p/(p + q), e = e^−|z|: p = 1 + 2e and q = 2e² for z ≥ 0, p = e(e + 2) and q = 2 for z < 0"""
    e = graph("Exp", graph("Neg", graph("Abs", z)))
    twice = graph("Mul", e, 2)
    positive = graph("Greater", z, 0)
    p = graph("Where", positive, graph("Add", twice, 1), graph("Mul", e, graph("Add", e, 2)))
    q = graph("Where", positive, graph("Mul", twice, e), 2)
    return graph("Mul", z, graph("Div", p, graph("Add", p, q)))


def _softplus(graph: Graph, z: str, f: activations.Softplus) -> str:
    """max(0, z) + log(1 + e), e = e^−|z|: log(w) · e/(w − 1), w = 1 + e after rounding, is accurate for small e"""
    e = graph("Exp", graph("Neg", graph("Abs", z)))
    w = graph("Add", e, 1)
    corrected = graph("Div", graph("Mul", graph("Log", w), e), graph("Sub", w, 1))
    return graph("Add", graph("Relu", z), graph("Where", graph("Equal", w, 1), e, corrected))


ACTIVATIONS: dict[type[Activation], Callable[[Graph, str, Any], str]] = {
    activations.ReLU: lambda graph, z, f: graph("Relu", z),
    activations.LeakyReLU: _leaky_relu,
    activations.ELU: _elu,
    activations.GELU: _gelu,
    activations.SiLU: _silu,
    activations.SELU: _selu,
    activations.Mish: _mish,
    activations.Softplus: _softplus,
    activations.Exponential: lambda graph, z, f: graph("Exp", z),
    activations.Sigmoid: lambda graph, z, f: graph("Sigmoid", z),
    activations.Tanh: lambda graph, z, f: graph("Tanh", z),
    activations.Identity: lambda graph, z, f: z,
    activations.Softmax: lambda graph, z, f: graph("Softmax", z, axis=1),
}
