"""Contents of checkpoint files, and a network to save."""

import os

import numpy as np
import pytest

import gpunn

from .networks import network_builder

TENSORS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": np.array([1.5, -0.0, np.inf, np.nan]),
    "ü, spaces": np.array([[1, 2]], np.int32),
    "empty": np.zeros((0, 3), np.float32),
    "scalar": np.array(2.5),
}
METADATA = {"kind": "test", "text": 'ü "quoted" \\ \n', "numbers": [1, 2.5, 1e-300, 2**70], "none": None, "yes": True}
posix = pytest.mark.skipif(os.name != "posix", reason="POSIX files")
LAYERS = gpunn.Dense(3, "relu"), gpunn.BatchNormalization(), gpunn.Dense(2)
saved_net = network_builder(*LAYERS, input_shape=4, seed=1, loss="mse", metrics=["mae"])
