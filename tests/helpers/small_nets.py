"""A small classifier with every kind of layer, its data, and the hand-worked network."""

import numpy as np

import gpunn

from . import hand_worked as hand
from .networks import build_network


def small_layers(last="softmax"):
    return [
        gpunn.Dense(6, "relu", l2=0.01),
        gpunn.BatchNormalization(),
        gpunn.Dropout(0.4),
        gpunn.Dense(3, last),
    ]


def classifier(optimizer=None, **options):
    options = {"input_shape": 4, "metrics": ["accuracy"], "device": "auto"} | options
    return build_network(*small_layers(), optimizer=optimizer or gpunn.Adam(0.01), **options)


def data(n=20, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 4)).astype(np.float32), rng.integers(0, 3, size=n)


def hand_worked_net(dtype="float32"):
    """The network of hand_worked, whose numbers are exact."""
    net = gpunn.Sequential([gpunn.Dense(2, "relu"), gpunn.Dense(1)], input_shape=2, dtype=dtype)
    net.set_weights(hand.PARAMETERS)
    return net.compile(gpunn.SGD(hand.LR), "half_squared_error")
