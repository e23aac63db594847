"""`gpunn doctor`: report which devices and kernels work, and compare devices."""

from __future__ import annotations

import argparse

import numpy as np

from .. import backend
from ..device_comparison import DeviceReport, compare_devices
from ..layers import Dense, Dropout
from ..model import Sequential

HELP = "report what works on this machine"
DESCRIPTION = "Report what works on this machine, and how to repair what does not."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument(
        "--compare",
        action="store_true",
        help="also train a small network on two devices and compare them: the GPU and the CPU if a GPU works, else "
        "the compiled kernels and their NumPy references",
    )


def run(options: argparse.Namespace) -> int:
    """Print the report; 1 if something does not work, else 0."""
    report = backend.doctor()
    print(report)
    if not options.compare:
        return 0 if report.ok else 1
    try:
        comparison = _compare_devices()
    except (backend.DeviceError, ValueError) as error:
        print(f"\nno devices to compare: {error}")
        return 1
    print(f"\n{comparison}")
    return 0 if report.ok and comparison.ok else 1


def _compare_devices() -> DeviceReport:
    """Train a network with ReLU, dropout, tanh and softmax on random data."""
    draws = np.random.default_rng(0)
    layers = [Dense(64, "relu"), Dropout(0.2), Dense(32, "tanh"), Dense(5, "softmax")]
    net = Sequential(layers, seed=0).compile("adam", "sparse_categorical_crossentropy")
    return compare_devices(net, draws.standard_normal((256, 20), dtype=np.float32), draws.integers(0, 5, 256))
