"""`python -m benchmarks out-of-core`: training on data in host memory, compared with data on the GPU."""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import gpunn
from gpunn import backend

from . import gpu_presence, ratios
from .command import write
from .peers.gpunn_resident import AfterFirstEpoch
from .peers.gpunn_resident import clock as clock_of
from .report import number, table
from .timing import ROUNDS, short
from .worker import reason

HELP = "measure training on data that does not fit on a GPU"
PURPOSE = "train on data in host memory, batch by batch, and on the same data on the GPU"
RESIDENT = "on the GPU"
BLOCKS = "in blocks"  # data that does not fit into the GPU's memory
WIDTHS, BATCH, BATCHES, EPOCHS = (1024, 1024, 1024, 10), 8192, 16, 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.description = f"{HELP[0].upper()}{HELP[1:]}: {PURPOSE}."
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the result to this file")


def run(arguments: argparse.Namespace) -> int:
    """Measure and print."""
    gpu_presence.require_gpu("out-of-core", PURPOSE)
    result = {"machine": gpu_presence.facts(), "out-of-core": measure(backend.get("cuda"))}
    if arguments.json is not None:
        write(result, arguments.json)
    print(markdown(result))
    return 0


def measure(
    device: Any,
    widths: tuple[int, ...] = WIDTHS,
    batch: int = BATCH,
    batches: int = BATCHES,
    rounds: int = ROUNDS,
) -> list[dict[str, Any]]:
    """One row for data on the GPU and one for each way to keep it on the host: µs per step, round by round."""
    draws, rows = np.random.default_rng(0), batch * batches
    with tempfile.TemporaryDirectory(prefix="gpunn-out-of-core-") as folder:
        X = np.lib.format.open_memmap(Path(folder) / "X.npy", "w+", "float32", (rows, widths[0]))
        for k in range(batches):
            X[k * batch : (k + 1) * batch] = draws.standard_normal((batch, widths[0]), dtype=np.float32)
        y = draws.integers(0, widths[-1], rows).astype(np.int32)

        def stream() -> Iterator[tuple[Any, Any]]:
            for k in range(batches):
                block = slice(k * batch, (k + 1) * batch)
                yield np.asarray(X[block]), y[block]

        inputs: dict[str, tuple[Any, ...]] = {
            RESIDENT: (device.asarray(X), device.asarray(y)),
            "memory-mapped": (X, y),
            BLOCKS: (X, y),
            "a stream": (stream,),
        }
        ways = [_Way(name, _model(device, widths), data) for name, data in inputs.items()]
        for _ in range(rounds):
            for way in ways:
                if not way.note:
                    _time(way, device, batch, batches)
    return [_row(way, ways[0].times) for way in ways]


@dataclass
class _Way:
    """A way to provide data: seconds per step in each round, allocations of pinned memory, or a note on the failure."""

    name: str
    net: gpunn.Sequential
    data: tuple[Any, ...]
    times: list[float] = field(default_factory=list)
    pinned: int = 0
    note: str = ""


def _time(way: _Way, device: Any, batch: int, batches: int) -> None:
    """Time the epochs after the first one of a fit."""
    callback = AfterFirstEpoch(clock_of(device), EPOCHS)
    options = {} if callable(way.data[0]) else {"batch_size": batch}
    memory = without_memory(device) if way.name == BLOCKS else contextlib.nullcontext()
    try:
        with memory, counted(device) as count:
            way.net.fit(*way.data, epochs=EPOCHS, verbose=0, callbacks=[callback], **options)
        assert callback.span is not None
        way.times.append(callback.span.host / ((EPOCHS - 1) * batches))
        way.pinned += count[0]
    except Exception as error:
        way.note = f"not measured ({reason(error)})"
        way.times = []


def _row(way: _Way, resident: list[float]) -> dict[str, Any]:
    if way.note:
        return {"set": way.name, "us_per_step": None, "note": way.note}
    q = ratios.quartiles(way.times)
    row: dict[str, Any] = {"set": way.name, "us_per_step": short(1e6 * q.median), "rounds": len(way.times)}
    if way.name != RESIDENT and resident:
        over = ratios.ratio(way.times, resident)
        row |= {"over_resident": short(over.median), "quartiles": [short(over.lower), short(over.upper)]}
    if way.name == BLOCKS:
        row["pinned"] = bool(way.pinned)
        if not row["pinned"]:
            row["remark"] = "pinned double buffers and a copy stream: not measured (no pinned memory was allocated)"
    return row


def _model(device: Any, widths: tuple[int, ...]) -> gpunn.Sequential:
    layers = [gpunn.Dense(w, "relu") for w in widths[1:-1]] + [gpunn.Dense(widths[-1], "softmax")]
    net = gpunn.Sequential(layers, input_shape=widths[0], seed=0)
    return net.compile(gpunn.Adam(1e-5), "sparse_categorical_crossentropy", device=device)


@contextlib.contextmanager
def without_memory(device: Any) -> Iterator[None]:
    """Make the device report that no data fits into its memory."""
    device.fits_in_memory = lambda size: False
    try:
        yield
    finally:
        del device.fits_in_memory


@contextlib.contextmanager
def counted(device: Any) -> Iterator[list[int]]:
    """Count the allocations of pinned memory: one per buffer."""
    count, cuda = [0], getattr(device.xp, "cuda", None)
    real = getattr(cuda, "alloc_pinned_memory", None)
    if real is None:
        yield count
        return

    def counting(*arguments: Any) -> Any:
        count[0] += 1
        return real(*arguments)

    assert cuda is not None
    cuda.alloc_pinned_memory = counting
    try:
        yield count
    finally:
        cuda.alloc_pinned_memory = real


def markdown(result: dict[str, Any]) -> str:
    """The result as a table."""
    lines = []
    for row in result["out-of-core"]:
        if row["us_per_step"] is None:
            lines.append((row["set"], "–", "–", row["note"]))
            continue
        over = "–"
        if "over_resident" in row:
            low, high = row["quartiles"]
            over = f"{number(row['over_resident'])} ({number(low)}–{number(high)})"
        lines.append((row["set"], number(row["us_per_step"]), over, row.get("remark", "")))
    return "## Data in host memory\n\n" + table(("data", "µs per step", "ratio to data on the GPU", ""), lines)
