"""`python -m benchmarks kernels`: the memory bandwidth of a step's kernels as a fraction of a copy's."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from gpunn import backend
from gpunn.kernels import get as kernel
from gpunn.kernels.adam import adam as rule
from gpunn.kernels.state import SIZE, StateEntry

from . import gpu_presence, ratios, timing
from .command import write
from .peers.gpunn_resident import clock as clock_of
from .report import number, table
from .timing import Timed, short
from .worker import reason

HELP = "measure the memory bandwidth of kernels on a GPU"
PURPOSE = (
    "time Adam over 10⁸ parameters, and bias with activation and derivative with column sum at 8192×4096 in float32 "
    "and bfloat16, compared with a copy"
)
PARAMETERS, SHAPE = 10**8, (8192, 4096)
STORED = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(np.uint16)}  # bit patterns of bfloat16
MIN_FRACTION = 0.85  # of the copy's bandwidth
TILE = 1 << 20  # random numbers, repeated to fill an array


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.description = f"{HELP[0].upper()}{HELP[1:]}: {PURPOSE}."
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the result to this file")


def run(arguments: argparse.Namespace) -> int:
    """Measure and print."""
    gpu_presence.require_gpu("kernels", PURPOSE)
    result = {"machine": gpu_presence.facts(), "kernels": measure(backend.get("cuda"))}
    if arguments.json is not None:
        write(result, arguments.json)
    print(markdown(result))
    return 0


def measure(
    device: Any, parameters: int = PARAMETERS, shape: tuple[int, int] = SHAPE, **settings: Any
) -> list[dict[str, Any]]:
    """One row per kernel and dtype, with its fraction of a copy's bandwidth, round by round."""
    rows: list[dict[str, Any]] = []
    with device.activate():
        for dtype in ("float32", "bfloat16"):
            for name, make in (("Adam", adam), ("bias + ReLU", bias), ("derivative + column sum", derivative)):
                rows.append(_row(device, name, dtype, make, parameters, shape, settings))
                device.release_memory()
    return rows


Launch = tuple[Callable[[], Any], int]  # a launch and the number of bytes that it must move


def _row(
    device: Any,
    name: str,
    dtype: str,
    make: Callable[[Any, str, int, tuple[int, int]], Launch],
    parameters: int,
    shape: tuple[int, int],
    settings: dict[str, Any],
) -> dict[str, Any]:
    row: dict[str, Any] = {"kernel": name, "dtype": dtype, "wanted": MIN_FRACTION}
    try:
        call, moved = make(device, dtype, parameters, shape)
        call()
        device.synchronize()
        # the copy moves the same number of bytes, half of them read, in the same rounds
        source, target = (random(device, (moved // 8,)) for _ in range(2))
    except Exception as error:
        return row | {"us": None, "outcome": "not measured", "note": f"not measured ({reason(error)})"}

    def copy() -> None:
        target[...] = source

    # small batches, because each launch takes a large part of a millisecond
    spans = timing.interleaved({"copy": Timed(copy, 8), name: Timed(call, 8)}, clock_of(device), **settings)
    seconds = {key: [s.host if s.device is None else s.device for s in found] for key, found in spans.items()}
    part = ratios.ratio(seconds["copy"], seconds[name])
    copied = ratios.quartiles([2 * source.nbytes / s for s in seconds["copy"]])
    return row | {
        **timing.microseconds(seconds[name]),
        "bytes": moved,
        "gb_per_s": short(moved / ratios.quartiles(seconds[name]).median / 1e9),
        "copy_gb_per_s": short(copied.median / 1e9),
        "of_copy": short(part.median),
        "of_copy_quartiles": [short(part.lower), short(part.upper)],
        "outcome": "met" if part.median >= MIN_FRACTION else "missed",
        "rounds": len(spans[name]),
    }


def random(device: Any, shape: tuple[int, ...], dtype: str = "float32") -> Any:
    """Random numbers on the device: a repeated tile. No zeros, on which a GPU may be faster."""
    made = device.empty(shape, STORED[dtype])
    flat = made.reshape(-1)
    tile = device.asarray(np.random.default_rng(0).standard_normal(min(TILE, flat.size), dtype=np.float32))
    tile = kernel("to_bfloat16")(tile) if dtype == "bfloat16" else tile
    for start in range(0, flat.size, tile.size):
        stop = min(start + tile.size, flat.size)
        flat[start:stop] = tile[: stop - start]
    return made


def adam(device: Any, dtype: str, parameters: int, shape: tuple[int, int]) -> Launch:
    """E8 over all parameters: reads g, θ, m, v and writes θ, m, v in float32; in bf16 also a bf16 copy of θ."""
    g, theta, m, v = (random(device, (parameters,)) for _ in range(4))
    v *= v  # v is a mean of squares
    state = np.zeros(SIZE)
    state[[StateEntry.LR, StateEntry.CORRECTED_LR, StateEntry.INV_SQRT_CORRECTION]] = 1e-3
    numbers = {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-7}
    if dtype == "float32":
        launch = rule.update.bind(g, device.asarray(state), out=(theta, m, v), **numbers)
        return launch, 7 * theta.nbytes
    bf16_theta = device.empty((parameters,), STORED[dtype])
    return rule.update_with_bf16_copy.bind(
        g, device.asarray(state), out=(theta, m, v, bf16_theta), **numbers
    ), 7 * theta.nbytes + bf16_theta.nbytes


def bias(device: Any, dtype: str, parameters: int, shape: tuple[int, int]) -> Launch:
    """E1, E2: a = f(s + b), in place of s; b is float32."""
    s, b = random(device, shape, dtype), random(device, shape[1:])
    return kernel("bias_relu").bind(s, b, out=s), 2 * s.nbytes


def derivative(device: Any, dtype: str, parameters: int, shape: tuple[int, int]) -> Launch:
    """E5, E7: δ = f′(z) ⊙ g and the float32 sum of δ over the rows: reads a and g, writes δ, fused if possible."""
    a, g = random(device, shape, dtype), random(device, shape, dtype)
    delta, sums = device.empty(shape, STORED[dtype]), device.empty(shape[1:], np.float32)
    return kernel("relu_backward_summed").bind(a, g, out=(delta, sums)), 3 * a.nbytes


def markdown(result: dict[str, Any]) -> str:
    """The result as a table."""
    lines = []
    for row in result["kernels"]:
        if row["us"] is None:
            lines.append((row["kernel"], row["dtype"], row["note"], "–", "–", "–", "not measured"))
            continue
        low, high = row["of_copy_quartiles"]
        part = f"{number(row['of_copy'], 2)} ({number(low, 2)}–{number(high, 2)})"
        speeds = (number(row["us"]), number(row["gb_per_s"]), number(row["copy_gb_per_s"]))
        lines.append((row["kernel"], row["dtype"], *speeds, part, "met" if row["outcome"] == "met" else "**missed**"))
    head = ("kernel", "dtype", "µs", "GB/s", "copy, GB/s", "fraction", f"at least {MIN_FRACTION}")
    return f"## Kernels compared with a copy\n\n{result['machine']['gpu']}.\n\n{table(head, lines)}"
