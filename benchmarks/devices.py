"""`python -m benchmarks devices`: compare the results of the CPU and a GPU on six nets, layer by layer."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import gpunn

from . import gpu_presence
from .command import write
from .report import table
from .worker import reason

HELP = "compare the results of the CPU and a GPU on six nets"
PURPOSE = "compare a GPU with the CPU on six nets"
ROWS, INPUTS, STEPS = 256, 20, 20

NetParts = tuple[gpunn.Sequential, Any, str]  # layers, optimizer, loss


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.description = f"{HELP[0].upper()}{HELP[1:]}."
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the result to this file")


def run(arguments: argparse.Namespace) -> int:
    """Compare and print; 1 if a net differs by more than rounding, else 0."""
    gpu_presence.require_gpu("devices", PURPOSE)
    result = {"machine": gpu_presence.facts(), "devices": measure(("cpu", "cuda"))}
    if arguments.json is not None:
        write(result, arguments.json)
    print(markdown(result))
    return int(not all(row["same"] for row in result["devices"]))


def nets() -> dict[str, Callable[[], NetParts]]:
    """Nets that cover every kind of layer, several activations, losses and optimizers, and both dtypes."""

    def net(*layers: gpunn.Layer, dtype: str = "float32") -> gpunn.Sequential:
        return gpunn.Sequential(list(layers), input_shape=INPUTS, seed=0, dtype=dtype)

    dense, labels = gpunn.Dense, "sparse_categorical_crossentropy"
    return {
        "relu": lambda: (net(dense(64, "relu"), dense(64, "relu"), dense(5, "softmax")), gpunn.Adam(1e-4), labels),
        "sigmoid": lambda: (
            net(dense(48, "sigmoid"), dense(3, "sigmoid")), gpunn.SGD(0.1), "binary_crossentropy"
        ),
        "regression": lambda: (
            net(dense(64, "tanh", l2=1e-3), dense(3)), gpunn.Momentum(0.01), "half_squared_error"
        ),
        "dropout": lambda: (
            net(dense(64, "gelu"), gpunn.Dropout(0.5), dense(5)), gpunn.AdamW(1e-3), labels
        ),
        "normalization": lambda: (
            net(
                dense(64, use_bias=False), gpunn.BatchNormalization(), gpunn.Activation("silu"), dense(32, "tanh"),
                gpunn.LayerNormalization(), dense(5),
            ),
            gpunn.RMSprop(1e-4),
            labels,
        ),
        "float64": lambda: (
            net(dense(64, "softplus"), dense(3), dtype="float64"), gpunn.Nesterov(0.01), "mean_squared_error"
        ),
    }  # fmt: skip


def measure(devices: tuple[str, str]) -> list[dict[str, Any]]:
    """One row per net: whether the devices agree, and their largest difference."""
    draws = np.random.default_rng(0)
    X = draws.standard_normal((ROWS, INPUTS))
    values, labels = draws.standard_normal((ROWS, 3)), draws.integers(0, 5, ROWS)
    targets = {"binary_crossentropy": (values > 0).astype(float), "sparse_categorical_crossentropy": labels}
    rows = []
    for name, make in nets().items():
        row: dict[str, Any] = {"net": name, "devices": list(devices)}
        try:
            net, rule, loss = make()
            net.compile(rule, loss, device="cpu")
            found = gpunn.compare_devices(
                net, X.astype(net.dtype), targets.get(loss, values), STEPS, batch_size=64, devices=devices
            )
        except Exception as error:
            rows.append(row | {"same": False, "note": f"failed ({reason(error)})"})
            continue
        differences = [d for _, each in found.layers for d in each.values() if d is not None]
        rows.append(
            row
            | {
                "same": found.ok,
                "largest": _number(max(d.relative for d in differences)),
                "allowed": _number(max(d.allowed for d in differences)),
                "losses_differ": _number(found.max_loss_difference),
                "losses_allowed": _number(found.allowed),
                "first_divergent_step": found.first_divergent_step,
            }
        )
    return rows


def _number(value: float) -> float | None:
    return float(f"{value:.3g}") if math.isfinite(value) else None


def markdown(result: dict[str, Any]) -> str:
    """The result as a table."""
    lines = []
    for row in result["devices"]:
        verdict = "equal up to rounding" if row["same"] else row.get("note", "**different**")
        numbers = (row.get(name) for name in ("largest", "allowed", "losses_differ", "losses_allowed"))
        lines.append((row["net"], *("–" if n is None else f"{n:.1e}" for n in numbers), verdict))
    head = ("net", "one step differs by", "allowed", f"losses of {STEPS} steps differ by", "allowed", "")
    return f"## GPU and CPU\n\n{table(head, lines)}"
