"""`python -m benchmarks larger`: a set on the host, as one larger than the GPU must be, beside one on the GPU."""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from collections.abc import Iterator
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

HELP = "measure training on a set that does not fit a GPU"
PURPOSE = "train on a set on the host, batch by batch, beside the same set on the GPU"
BLOCKS = "in blocks"  # of a set for which the GPU has no room
WIDTHS, BATCH, BATCHES, EPOCHS = (1024, 1024, 1024, 10), 8192, 16, 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own arguments."""
    parser.description = f"{HELP[0].upper()}{HELP[1:]}: {PURPOSE}."
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result there too")


def run(arguments: argparse.Namespace) -> int:
    """Measure and print."""
    gpu_presence.require_gpu("larger", PURPOSE)
    result = {"machine": gpu_presence.facts(), "larger": measure(backend.get("cuda"))}
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
    """A row for the set on the GPU, and one for each way to leave it on the host: µs of a step, round by round."""
    draws, rows = np.random.default_rng(0), batch * batches
    times: dict[str, list[float]] = {}
    notes: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="gpunn-larger-") as folder:
        X = np.lib.format.open_memmap(Path(folder) / "X.npy", "w+", "float32", (rows, widths[0]))
        for k in range(batches):
            X[k * batch : (k + 1) * batch] = draws.standard_normal((batch, widths[0]), dtype=np.float32)
        y = draws.integers(0, widths[-1], rows).astype(np.int32)

        def stream() -> Iterator[tuple[Any, Any]]:
            for k in range(batches):
                rows_of = slice(k * batch, (k + 1) * batch)
                yield np.asarray(X[rows_of]), y[rows_of]

        sets: dict[str, tuple[Any, ...]] = {
            "on the GPU": (device.asarray(X), device.asarray(y)),
            "memory-mapped": (X, y),
            BLOCKS: (X, y),
            "a stream": (stream,),
        }
        ways = {}
        for name, given in sets.items():
            ways[name] = (_model(device, widths), given)
        pinned: dict[str, int] = {}
        for _ in range(rounds):
            for name, (net, given) in ways.items():
                if name in notes:
                    continue
                callback = AfterFirstEpoch(clock_of(device), EPOCHS)
                options = {} if callable(given[0]) else {"batch_size": batch}
                try:
                    without = without_memory(device) if name == BLOCKS else contextlib.nullcontext()
                    with without, counted(device) as count:
                        net.fit(*given, epochs=EPOCHS, verbose=0, callbacks=[callback], **options)
                    assert callback.span is not None
                    times.setdefault(name, []).append(callback.span.host / ((EPOCHS - 1) * batches))
                    pinned[name] = pinned.get(name, 0) + count[0]
                except Exception as error:
                    notes[name] = f"not measured ({reason(error)})"
                    times.pop(name, None)
    return [_row(name, times, notes, pinned) for name in ("on the GPU", "memory-mapped", BLOCKS, "a stream")]


def _row(name: str, times: dict[str, list[float]], notes: dict[str, str], pinned: dict[str, int]) -> dict[str, Any]:
    if name not in times:
        return {"set": name, "us_per_step": None, "note": notes[name]}
    q = ratios.quartiles(times[name])
    row: dict[str, Any] = {"set": name, "us_per_step": short(1e6 * q.median), "rounds": len(times[name])}
    if name != "on the GPU" and "on the GPU" in times:
        over = ratios.ratio(times[name], times["on the GPU"])
        row |= {"over_resident": short(over.median), "quartiles": [short(over.lower), short(over.upper)]}
    if name == BLOCKS:
        # what gpunn was seen to do while it trained
        row["pinned"] = bool(pinned[name])
        if not row["pinned"]:
            row["remark"] = "pinned double buffers and a copy stream: not measured (no pinned memory was asked for)"
    return row


def _model(device: Any, widths: tuple[int, ...]) -> gpunn.Sequential:
    layers = [gpunn.Dense(w, "relu") for w in widths[1:-1]] + [gpunn.Dense(widths[-1], "softmax")]
    net = gpunn.Sequential(layers, input_shape=widths[0], seed=0)
    return net.compile(gpunn.Adam(1e-5), "sparse_categorical_crossentropy", device=device)


@contextlib.contextmanager
def without_memory(device: Any) -> Iterator[None]:
    """While it lasts, the device has no room for a set."""
    device.fits_in_memory = lambda size: False
    try:
        yield
    finally:
        del device.fits_in_memory


@contextlib.contextmanager
def counted(device: Any) -> Iterator[list[int]]:
    """How often pinned memory is asked for by name while it lasts: once a buffer."""
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
    for row in result["larger"]:
        if row["us_per_step"] is None:
            lines.append((row["set"], "–", "–", row["note"]))
            continue
        over = "–"
        if "over_resident" in row:
            low, high = row["quartiles"]
            over = f"{number(row['over_resident'])} ({number(low)}–{number(high)})"
        lines.append((row["set"], number(row["us_per_step"]), over, row.get("remark", "")))
    return "## A set that stays on the host\n\n" + table(("set", "µs a step", "over the resident one", ""), lines)
