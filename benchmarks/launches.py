"""`python -m benchmarks launches`: the overhead of launches on a GPU."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from gpunn import backend
from gpunn.backend.cuda.cublaslt import open_cublaslt
from gpunn.backend.errors import Fault

from . import gpu_presence, timing
from .command import write
from .peers.gpunn_resident import clock as clock_of
from .report import number, table
from .timing import Timed
from .worker import reason

HELP = "measure the overhead of launches on a GPU"
PURPOSE = "time an ElementwiseKernel, a RawKernel, matmul with out, cuBLASLt, and graphs of 1, 20 and 640 nodes"
NODES = (1, 20, 640)
SIZE = 1024  # elements that the kernels write, few enough to take no time
SIDE = 64  # rows and columns of the matrix products
RAW = """extern "C" __global__ void benchmark_next(float* x, int n) {
  const int i = blockDim.x * blockIdx.x + threadIdx.x;
  if (i < n) x[i] = x[i] + 1.0f;
}"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.description = f"{HELP[0].upper()}{HELP[1:]}: {PURPOSE}."
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the result to this file")


def run(arguments: argparse.Namespace) -> int:
    """Measure and print."""
    gpu_presence.require_gpu("launches", PURPOSE)
    result = {"machine": gpu_presence.facts(), "launches": measure(backend.get("cuda"))}
    if arguments.json is not None:
        write(result, arguments.json)
    print(markdown(result))
    return int(any("note" in row for row in result["launches"]))


def measure(device: Any, **settings: Any) -> list[dict[str, Any]]:
    """One row per kind of launch: µs of the launch call, and µs per launch until all of a batch are finished."""
    rows: list[dict[str, Any]] = []
    made: dict[str, Timed] = {}
    with device.activate():
        for name, make in kinds(device).items():
            try:
                made[name] = make()
                made[name].call()
                device.synchronize()
            except Exception as error:
                made.pop(name, None)
                rows.append({"what": name, "us": None, "note": f"not measured ({reason(error)})"})
        clock = clock_of(device)
        spans = timing.interleaved(made, clock, **settings)
        for name, timed in made.items():
            launch_times = [timed.launch_seconds(clock, time.perf_counter) for _ in spans[name]]
            row = {"what": name, **timing.microseconds([span.host for span in spans[name]])}
            row["us_launching"] = timing.microseconds(launch_times)["us"]
            event_times = [span.device for span in spans[name] if span.device is not None]
            if event_times:
                row["us_by_events"] = timing.microseconds(event_times)["us"]
            if name.startswith("graph"):
                row["us_per_node"] = timing.short(row["us"] / int(name.split()[2]))
            rows.append(row | {"rounds": len(spans[name])})
    return rows


def kinds(device: Any) -> dict[str, Callable[[], Timed]]:
    """Functions that prepare each kind of launch, by name."""
    xp = device.xp
    x = device.zeros((SIZE,), np.float32)
    a, b, out = (device.zeros((SIDE, SIDE), np.float32) for _ in range(3))

    def elementwise() -> Callable[[], Any]:
        kernel = xp.ElementwiseKernel("", "float32 y", "y = y + 1.0f", "benchmark_next")
        return lambda: kernel(x)

    def raw() -> Callable[[], Any]:
        kernel, n = xp.RawKernel(RAW, "benchmark_next"), np.int32(SIZE)
        return lambda: kernel((SIZE // 256,), (256,), (x, n))

    def product() -> Callable[[], Any]:
        return lambda: xp.matmul(a, b, out=out)

    def cublaslt() -> Callable[[], Any]:
        xp.matmul(a, b, out=out)  # loads the library
        library = open_cublaslt(xp)
        if isinstance(library, Fault):
            raise RuntimeError(str(library))
        return library.bind(a, b, out)

    def graph(nodes: int) -> Timed:
        call = elementwise()
        call()
        device.synchronize()
        stream = xp.cuda.Stream(non_blocking=True)
        with stream:
            stream.begin_capture()
            for _ in range(nodes):
                call()
            captured = stream.end_capture()
        return Timed(captured.launch, max(1, 256 // nodes))

    return {
        "ElementwiseKernel": lambda: Timed(elementwise()),
        "RawKernel": lambda: Timed(raw()),
        f"matmul with out, {SIDE}×{SIDE}": lambda: Timed(product()),
        f"cuBLASLt, {SIDE}×{SIDE}": lambda: Timed(cublaslt()),
        **{f"graph of {n} node{'s' * (n > 1)}": lambda n=n: graph(n) for n in NODES},  # type: ignore[misc]
    }


def markdown(result: dict[str, Any]) -> str:
    """The result as a table."""
    lines = []
    for row in result["launches"]:
        if row["us"] is None:
            lines.append((row["what"], row["note"], "–", "–", "–"))
            continue
        low, high = row["us_quartiles"]
        cells = (row["us_launching"], row.get("us_by_events"), row.get("us_per_node"))
        lines.append((row["what"], f"{number(row['us'])} ({number(low)}–{number(high)})", *map(number, cells)))
    head = ("launch", "µs per launch, in sequence", "µs of the call", "µs by events", "µs per node")
    return f"## Launch overhead\n\n{result['machine']['gpu']}.\n\n{table(head, lines)}"
