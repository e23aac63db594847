"""Random networks in float64, with data for their losses, for comparisons of back-propagation.

A case is a function of its number, so that failures can be reproduced. Every parameter and running value is random,
so no intercept, β or running mean is 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

import gpunn
from gpunn import activations, losses

from .user_classes import UserSigmoid, UserSoftmax, quartic

# every built-in activation, some with other constants
HIDDEN = [
    "relu",
    "leaky_relu",
    activations.LeakyReLU(0.2),
    "elu",
    activations.ELU(0.7),
    "gelu",
    "silu",
    "selu",
    "mish",
    "softplus",
    "sigmoid",
    "tanh",
    "identity",
    "softmax",
]
# the exponential is used for outputs only: before a saturating layer it would amplify rounding errors
OUTPUTS = [*HIDDEN, "exponential"]


def _crossentropies():
    for loss, fused, other, user_defined in (
        (losses.BinaryCrossentropy, "sigmoid", "softmax", UserSigmoid()),
        (losses.CategoricalCrossentropy, "softmax", "sigmoid", UserSoftmax()),
        (losses.SparseCategoricalCrossentropy, "softmax", "sigmoid", UserSoftmax()),
    ):
        yield loss(), [fused], "merged"
        yield loss(), ["identity"], "logits"
        yield loss(from_logits=True), ["tanh", "elu", "relu"], "logits"
        yield loss(from_logits=False), [other, user_defined], "probabilities"
        if fused == "softmax":
            yield loss(label_smoothing=0.3), [fused], "merged"
            yield loss(False, label_smoothing=0.3), [other, user_defined], "probabilities"


# a loss, the last activations that fit it, and its interpretation of the outputs
LOSSES = [
    ("half_squared_error", OUTPUTS, "values"),
    ("mean_squared_error", OUTPUTS, "values"),
    ("mean_absolute_error", OUTPUTS, "values"),
    (losses.Huber(0.3), OUTPUTS, "values"),
    (losses.Huber(), OUTPUTS, "values"),
    (losses.Huber(2.5), OUTPUTS, "values"),
    ("log_cosh", OUTPUTS, "values"),
    (quartic, OUTPUTS, "values"),
    ("poisson", ["softplus", "exponential", "sigmoid", "softmax", UserSigmoid()], "values"),
    *_crossentropies(),
]


@dataclass
class Case:
    """A compiled network in float64, a batch for it, and its loss's interpretation of the outputs."""

    net: gpunn.Sequential
    x: np.ndarray
    y: np.ndarray
    w: np.ndarray | None
    training: bool
    meaning: str


def random_case(number: int, rows: int = 17) -> Case:
    """Case `number`: up to `rows` rows, widths 1 … 9, one to four blocks of layers."""
    rng = np.random.default_rng([number, 2])
    loss, last, meaning = LOSSES[number % len(LOSSES)]
    n, n_in, n_out = (int(rng.integers(1, top + 1)) for top in (rows, 9, 9))
    layers: list[Any] = []
    for _ in range(rng.integers(0, 4)):
        _block(rng, layers, HIDDEN[rng.integers(len(HIDDEN))], int(rng.integers(1, 10)))
    if not layers and rng.random() < 0.3:
        layers.append(gpunn.BatchNormalization())
    _last(rng, layers, last[rng.integers(len(last))], n_out)
    _periodic_embedding(np.random.default_rng([number, 4]), layers, n_in)
    own = np.random.default_rng([number, 3])
    embedding = _embedding(own, n_in) if number % 9 == 4 else None
    if embedding is not None:
        layers.insert(0, embedding)
    net = _with_drawn_values(rng, layers, n_in, seed=number)
    net.compile(gpunn.SGD(0.1), loss, device="cpu")
    w = None
    if rng.random() < 0.5:
        w = rng.uniform(0.1, 3, size=n) * (rng.random(n) < 0.8)
        w[rng.integers(n)] = 1.5
    x = rng.normal(size=(n, n_in))
    if embedding is not None:
        x[:, embedding.columns] = own.integers(0, embedding.n_levels, size=(n, len(embedding.columns)))
    return Case(net, x, _targets(rng, net.loss, n, n_out), w, bool(rng.random() < 0.7), meaning)


def _embedding(rng, n_in):
    """An embedding of one to all columns, with a penalty or without."""
    columns = rng.permutation(n_in)[: rng.integers(1, n_in + 1)].tolist()
    levels, dims = (rng.integers(1, top + 1, size=len(columns)).tolist() for top in (5, 3))
    return gpunn.Embedding(columns, levels, dims, l2=float(rng.choice([0, 0.1])))


def _block(rng, layers, activation, width):
    """A hidden Dense layer, with or without a separate activation, normalization and dropout."""
    apart = rng.random() < 0.3
    layers.append(_dense(rng, width, None if apart else activation))
    around = [
        lambda: gpunn.BatchNormalization(momentum=0.3, epsilon=1e-3),
        lambda: gpunn.LayerNormalization(),
        lambda: gpunn.Dropout(0.4),
        lambda: gpunn.Dropout(0.25, form="textbook"),
    ]
    if rng.random() < 0.6:
        layers.append(around[rng.integers(len(around))]())
    if apart:
        layers.append(gpunn.Activation(activation))
    for layer in layers[-2:]:
        layer.trainable = bool(rng.random() < 0.9)


def _periodic_embedding(rng, layers, n_in):
    """In some cases, a periodic embedding of one to all columns of the input or of a hidden layer."""
    if rng.random() < 0.2:
        last = max(k for k, layer in enumerate(layers) if isinstance(layer, gpunn.Dense))
        position = rng.integers(last + 1)
        widths = [n_in, *(layer.units for layer in layers[:position] if isinstance(layer, gpunn.Dense))]
        columns = rng.permutation(widths[-1])[: rng.integers(1, widths[-1] + 1)].tolist()
        layers.insert(position, gpunn.PeriodicEmbedding(columns, int(rng.integers(1, 4))))


def _last(rng, layers, activation, n_out):
    kind = rng.integers(4)
    if kind == 0:
        layers += [_dense(rng, n_out, None), gpunn.Activation(activation)]
    elif kind == 1:
        layers += [_dense(rng, n_out, None), gpunn.LayerNormalization(), gpunn.Activation(activation)]
    else:
        layers.append(_dense(rng, n_out, activation))


def _dense(rng, width, activation):
    numbers = {"l2": rng.choice([0, 0, 0.01, 0.1]), "l1": rng.choice([0, 0, 0.02])}
    return gpunn.Dense(
        width, activation, use_bias=bool(rng.random() < 0.7), **{k: float(v) for k, v in numbers.items()}
    )


def _with_drawn_values(rng, layers, n_in, seed):
    net = gpunn.Sequential(layers, input_shape=n_in, seed=seed, dtype="float64")
    tensors, metadata = net.to_tensors()
    draw = {
        "W": lambda shape: rng.normal(size=shape) * shape[0] ** -0.5,
        "gamma": lambda shape: rng.uniform(0.5, 1.5, size=shape),
        "running_variance": lambda shape: rng.uniform(0.5, 2, size=shape),
    }
    drawn = {
        name: draw.get(name.split(".")[-1], lambda shape: rng.normal(size=shape) / 2)(values.shape)
        for name, values in tensors.items()
    }
    custom = {"UserSigmoid": UserSigmoid(), "UserSoftmax": UserSoftmax()}
    return gpunn.Sequential.from_tensors(drawn, metadata, custom=custom)


def _targets(rng, loss, n, n_out):
    if loss.targets == "class_index":
        return rng.integers(0, n_out, size=n)
    if loss.name == "poisson":
        return rng.integers(0, 5, size=(n, n_out)).astype(float)
    if loss.name == "binary_crossentropy":
        # labels and probabilities
        return rng.integers(0, 2, size=(n, n_out)) * rng.choice([1.0, 0.75], size=(n, n_out))
    if loss.name == "categorical_crossentropy":
        one_hot = np.eye(n_out)[rng.integers(0, n_out, size=n)]
        return np.where(rng.random((n, 1)) < 0.5, one_hot, rng.dirichlet(np.ones(n_out), size=n))
    return rng.normal(size=(n, n_out))
