"""`python -m benchmarks gpu`: all nets, precisions and contestants on one GPU. An interrupted run resumes."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import math
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import child, goals, gpu_presence, machine, report, results
from .command import FOLDER, draw, load_previous, names, positive, progress, to_json, write, write_text
from .comparison import Entry, References, Settings, Workers, compare
from .contestants import GPU
from .nets import GPU_NETS
from .process import available_cores

HELP = "compare training and prediction on a GPU"
DEVICE = "cuda"
PRECISIONS = ("float32", "tf32", "bf16")
EPILOG = """
A run without options that restrict it, or with --out, writes gpu.json, gpu.md
and the plots after every net and precision, to benchmarks/results or to --out.
The next call resumes with the nets and precisions that gpu.json lacks; --fresh
discards gpu.json. --budget stops in time: an incomplete measurement is saved
with its rounds and repeated by the next call.

--quick takes 3 rounds and leaves out torch-max-autotune. Exit status 1 means
that a contestant disagreed or failed, 2 that the run is incomplete, 3 that
there is no GPU.
"""
QUICK_ROUNDS, FULL_ROUNDS = 3, 9
MIN_SECONDS = 60.0  # a net is not started with less time left
TIMEOUT_SECONDS = 150.0  # seconds for one answer of a contestant
DISAGREED, INCOMPLETE = 1, 2
# the nets and precisions of the goals are measured first
PRIORITY = (("small", "float32"), ("mid", "bf16"), ("large", "bf16"), ("narrow", "bf16"))
PURPOSE = "compare gpunn with PyTorch and JAX on small, mid, large and narrow nets in float32, TF32 and bfloat16"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description, parser.epilog = f"{HELP[0].upper()}{HELP[1:]}.", EPILOG
    peers = [name for name, c in GPU.items() if c.kind == "peer"]
    parser.add_argument("--quick", action="store_true", help="a short run, see below")
    parser.add_argument("--nets", type=names(GPU_NETS), metavar="A,B", help=f"of {', '.join(GPU_NETS)}")
    parser.add_argument(
        "--peers",
        type=names(dict.fromkeys(peers)),
        metavar="A,B",
        help=f"of {', '.join(peers)}; gpunn and the floors are always included",
    )
    parser.add_argument(
        "--precision", type=names(dict.fromkeys(PRECISIONS)), metavar="A,B", help=f"of {', '.join(PRECISIONS)}"
    )
    parser.add_argument("--goals", action="store_true", help="only the nets and precisions of the goals")
    parser.add_argument("--rounds", type=positive, metavar="N", help=f"{FULL_ROUNDS}; with --quick {QUICK_ROUNDS}")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of data, weights and orders")
    parser.add_argument("--budget", type=float, metavar="SECONDS", help="stop after this number of seconds")
    parser.add_argument("--fresh", action="store_true", help="repeat measurements that gpu.json already has")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result to this file, and no other file")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write JSON, Markdown and plots to this folder")


def run(arguments: argparse.Namespace) -> int:
    """Measure, write after every net and precision, and print."""
    gpu_presence.require_gpu("gpu", PURPOSE)
    child.exit_on_sigterm()
    until = time.monotonic() + (math.inf if arguments.budget is None else arguments.budget)
    path = target(arguments)
    settings = Settings(
        seed=arguments.seed,
        rounds=arguments.rounds or (QUICK_ROUNDS if arguments.quick else FULL_ROUNDS),
        new_processes=False,
        device=DEVICE,
        concurrent=True,
        until=until,
        timeout=TIMEOUT_SECONDS,
    )
    result = load_or_start(path, settings, arguments)
    remaining = pending(result, arguments)
    for net, precision in remaining:
        progress(f"to measure: {net}, {precision}")
    with data_folder() as store:
        measure(result, remaining, settings, arguments, path, store)
    finish(result, path, arguments)
    return status(result, arguments)


def target(arguments: argparse.Namespace) -> Path | None:
    """The result's file by --json or --out; the folder of results for a full run; None otherwise."""
    if arguments.json is not None:
        found: Path = arguments.json
        return found
    restrictions = (arguments.nets, arguments.peers, arguments.precision, arguments.rounds)
    if arguments.out is None and (arguments.quick or arguments.seed or any(n is not None for n in restrictions)):
        return None
    return (arguments.out or FOLDER) / "gpu.json"


def combinations(arguments: argparse.Namespace) -> list[tuple[str, str]]:
    """The chosen nets and precisions, those of the goals first."""
    nets, precisions = arguments.nets or tuple(GPU_NETS), arguments.precision or PRECISIONS
    chosen = [(net, precision) for precision in precisions for net in nets]
    return [c for c in PRIORITY if c in chosen] + [c for c in chosen if c not in PRIORITY and not arguments.goals]


def load_or_start(path: Path | None, settings: Settings, arguments: argparse.Namespace) -> dict[str, Any]:
    """The result of an earlier call on this GPU with these settings, or an empty result."""
    found = None if path is None or arguments.fresh else load_previous(path, gpu_presence.facts()["gpu"])
    if found is not None and path is not None:
        current = {"seed": settings.seed, "rounds": settings.rounds}
        differs = [name for name, value in current.items() if found["machine"].get(name) != value]
        if not differs and isinstance(found.get("done"), list):
            return found
        progress(f"{path.name} has other {' and '.join(differs) or 'contents'}: starting again")
    return {"machine": {}, "done": [], "rows": []}


def pending(result: dict[str, Any], arguments: argparse.Namespace) -> list[tuple[str, str]]:
    """The nets and precisions that are not completely measured."""
    return [(net, p) for net, p in combinations(arguments) if f"{net}/{p}" not in result["done"]]


def measure(
    result: dict[str, Any],
    remaining: list[tuple[str, str]],
    settings: Settings,
    arguments: argparse.Namespace,
    path: Path | None,
    store: str,
) -> None:
    """Measure the remaining nets and precisions until the deadline, adding them to `result`."""
    absent: dict[str, str] = {}
    versions: dict[str, str] = dict(result["machine"].get("versions", {}))
    cores = len(available_cores())
    references = References(dataclasses.replace(settings, store=store), cores)
    contestants = [c for c in GPU.values() if c.kind != "peer" or takes_part(c.name, arguments)]
    workers = Workers(cores, absent, versions, progress, settings.device)
    try:
        for net, precision in remaining:
            if settings.seconds_left < MIN_SECONDS:
                progress(f"out of time: {net}, {precision} and the following ones remain")
                break
            progress(f"{net}, {precision}")
            own = dataclasses.replace(settings, precision=precision, store=store)
            entries = compare(GPU_NETS[net], contestants, workers, references, own, progress)
            add(result, net, precision, entries, settings)
            result["machine"] = machine.record(
                versions,
                **gpu_presence.facts(),
                threads=cores,
                precision=", ".join(dict.fromkeys(row["precision"] for row in result["rows"])),
                seed=settings.seed,
                rounds=settings.rounds,
                seconds=settings.seconds,
                command=command(arguments),
            )
            save(result, path)
            workers.release()
    finally:
        workers.close()


def takes_part(name: str, arguments: argparse.Namespace) -> bool:
    """True if a peer is included."""
    if arguments.peers is not None:
        return name in arguments.peers
    return GPU[name].quick or not arguments.quick


def add(result: dict[str, Any], net: str, precision: str, entries: list[Entry], settings: Settings) -> None:
    """Replace the rows of a net and precision. They are complete if the comparison ended before the deadline."""
    result["rows"] = [r for r in result["rows"] if (r["net"], r["precision"]) != (net, precision)]
    result["rows"] += results.rows(GPU_NETS[net], entries, precision, "cuda")
    complete = all(len(t) == settings.rounds for e in entries for t in e.times.values())
    if complete and settings.seconds_left > 0:
        result["done"].append(f"{net}/{precision}")


def save(result: dict[str, Any], path: Path | None) -> None:
    """Evaluate the goals and write the result."""
    result["goals"] = [to_json(v) for v in goals.verdicts(result, goals.GPU_GOALS)]
    if path is not None:
        write(result, path)


def finish(result: dict[str, Any], path: Path | None, arguments: argparse.Namespace) -> None:
    """Write report and plots, and print the report."""
    if not result["rows"]:
        progress("nothing was measured")
        return
    verdicts = goals.verdicts(result, goals.GPU_GOALS)
    if path is not None and arguments.json is None:
        plots = draw(result, path.parent, "gpu")
        write_text(report.markdown(result, verdicts, plots), path.parent / "gpu.md")
    print(report.markdown(result, verdicts))


def status(result: dict[str, Any], arguments: argparse.Namespace) -> int:
    """The exit status."""
    if pending(result, arguments):
        return INCOMPLETE
    notes = [row["note"] for row in result["rows"] if row["us_per_step"] is None]
    return DISAGREED if any(note.startswith(("disagrees", "failed")) for note in notes) else 0


@contextlib.contextmanager
def data_folder() -> Iterator[str]:
    """A temporary folder for the data, in memory if there is enough."""
    shared_memory = Path("/dev/shm")
    is_large = shared_memory.is_dir() and shutil.disk_usage(shared_memory).free > 8 << 30
    with tempfile.TemporaryDirectory(prefix="gpunn-data-", dir=shared_memory if is_large else None) as folder:
        yield folder


def command(arguments: argparse.Namespace) -> str:
    """The command line, without the options for output files and time."""
    words = ["python -m benchmarks gpu"] + ["--quick"] * arguments.quick + ["--goals"] * arguments.goals
    for name in ("nets", "peers", "precision"):
        given = getattr(arguments, name)
        words += [f"--{name} {','.join(given)}"] if given is not None else []
    words += [f"--rounds {arguments.rounds}"] if arguments.rounds is not None else []
    words += [f"--seed {arguments.seed}"] if arguments.seed else []
    return " ".join(words)
