"""Networks, arrays and assertions for the tests of invalid input."""

import re

import numpy as np
import pytest

import gpunn

from .networks import build_network
from .snapshots import bits

NAN, INF = float("nan"), float("inf")
RNG = np.random.default_rng(8)
ROWS, COLUMNS = 12, 4
X = RNG.normal(size=(ROWS, COLUMNS))
LABELS = np.arange(ROWS) % 3
VALUES = RNG.normal(size=(ROWS, 1))


def make_net(loss="sparse_categorical_crossentropy", **options):
    """Return a compiled network for a loss. It is built unless input_shape is None."""
    last = {"binary_crossentropy": (1, "sigmoid"), "half_squared_error": (1, None), "poisson": (1, "softplus")}
    layers = gpunn.Dense(5, "relu"), gpunn.BatchNormalization(), gpunn.Dense(*last.get(loss, (3, "softmax")))
    options = {"input_shape": COLUMNS, "seed": 1, "optimizer": gpunn.Adam(0.01), "device": "auto"} | options
    return build_network(*layers, loss=loss, **options)


def targets_of(loss):
    """Return valid targets for a loss."""
    one_hot = np.eye(3)[LABELS]
    return {"sparse_categorical_crossentropy": LABELS, "categorical_crossentropy": one_hot}.get(loss, abs(VALUES) % 1)


def with_value(array, place, value):
    """Return a copy of an array with one entry changed."""
    changed = np.array(array, dtype=np.result_type(array, float))
    changed[place] = value
    return changed


def assert_rejected(call, error, message):
    """Check that the call raises the error with that message."""
    with pytest.raises((ValueError, TypeError)) as caught:
        call()
    assert type(caught.value) is error, caught.value
    assert re.search(message, str(caught.value)), caught.value


def array_bits(given):
    """Return the bits of all arrays among the values, so that a test can check that they did not change."""
    return {k: bits(v) for k, v in given.items() if isinstance(v, np.ndarray) and v.dtype != object}


def trained_classifier():
    """Return a classifier after two epochs."""
    net = make_net()
    net.fit(X, LABELS, epochs=2, batch_size=5, verbose=0)
    return net


def trained_regressor():
    """Return a regressor after two epochs."""
    net = make_net("half_squared_error")
    net.fit(X, VALUES, epochs=2, batch_size=5, verbose=0)
    return net
