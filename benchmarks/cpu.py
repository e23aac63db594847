"""`python -m benchmarks cpu`: all nets and contestants, with one thread and with all cores."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from . import goals, machine, report, results
from .command import FOLDER, draw, names, positive, progress, to_json, write, write_text
from .comparison import References, Settings, Workers, compare
from .contestants import CPU, Contestant
from .nets import NETS, SWEEPS
from .process import available_cores

HELP = "compare training and prediction on the CPU"
EPILOG = """
A full run (no --quick and no option that restricts it) writes cpu.json, cpu.md
and the plots to benchmarks/results. Any other run prints its tables and writes
files only with --out or --json. Progress is printed on stderr.

--quick measures seed, tabular and digits with one thread, in 3 rounds, without
sweeps, memory and torch-compiled (which compiles slowly): less than a minute on
two cores. --nets, --peers, --threads, --rounds and --sweep override it. Exit
status 1 means that a contestant disagreed or failed.
"""
QUICK_NETS = ("seed", "tabular", "digits")
QUICK_ROUNDS, FULL_ROUNDS, SWEEP_ROUNDS = 3, 9, 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description, parser.epilog = f"{HELP[0].upper()}{HELP[1:]}.", EPILOG
    parser.add_argument("--quick", action="store_true", help="a short run of less than a minute, see below")
    parser.add_argument("--nets", type=names(NETS), metavar="A,B", help=f"of {', '.join(NETS)}")
    peers = [name for name, c in CPU.items() if c.kind == "peer"]
    parser.add_argument(
        "--peers",
        type=names(dict.fromkeys(peers)),
        metavar="A,B",
        help=f"of {', '.join(peers)}; gpunn and the floor are always included",
    )
    parser.add_argument(
        "--threads",
        type=_threads,
        metavar="1,all",
        help="one thread pinned to a core, all cores (default: both, with --quick 1)",
    )
    parser.add_argument("--precision", choices=("float32", "float64"), default="float32")
    parser.add_argument("--rounds", type=positive, metavar="N", help=f"{FULL_ROUNDS}; with --quick {QUICK_ROUNDS}")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of data, weights and orders")
    parser.add_argument(
        "--sweep", action=argparse.BooleanOptionalAction, help="cost by batch and by width; part of a full run"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result to this file, and no other file")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write JSON, Markdown and plots to this folder")


def run(arguments: argparse.Namespace) -> int:
    """Measure, print and write; 1 if a contestant disagreed or failed, else 0."""
    result = measure(arguments)
    verdicts = goals.verdicts(result)
    result["goals"] = [to_json(v) for v in verdicts]
    if arguments.json is not None:
        write(result, arguments.json)
    folder = arguments.out
    if folder is None and arguments.json is None and is_full(arguments):
        folder = FOLDER
    if folder is not None:
        write(result, folder / "cpu.json")
        plots = draw(result, folder)
        write_text(report.markdown(result, verdicts, plots), folder / "cpu.md")
    print(report.markdown(result, verdicts))
    notes = [row["note"] for row in [*result["rows"], *result.get("sweeps", [])] if row["us_per_step"] is None]
    return int(any(note.startswith(("disagrees", "failed")) for note in notes))


def is_full(arguments: argparse.Namespace) -> bool:
    """True if nothing is left out."""
    restrictions = (arguments.nets, arguments.peers, arguments.threads, arguments.rounds)
    plain = arguments.precision == "float32" and arguments.seed == 0 and arguments.sweep is not False
    return not arguments.quick and plain and all(given is None for given in restrictions)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure, and return the result without its goals."""
    quick = arguments.quick
    nets = arguments.nets or (QUICK_NETS if quick else tuple(NETS))
    settings = Settings(
        seed=arguments.seed,
        precision=arguments.precision,
        rounds=arguments.rounds or (QUICK_ROUNDS if quick else FULL_ROUNDS),
        new_processes=not quick,
    )
    cores = len(available_cores())
    threads = arguments.threads or (("1",) if quick else ("1", "all"))
    counts = sorted({cores if n == "all" else 1 for n in threads})
    contestants = [c for c in CPU.values() if c.kind != "peer" or _takes_part(c, arguments)]
    absent: dict[str, str] = {}
    versions: dict[str, str] = {}
    references = References(settings, cores)
    rows: list[results.Row] = []
    for n in counts:
        rows += _compare_all(nets, contestants, Workers(n, absent, versions, progress), references, settings)
    for contestant in CPU.values():
        if contestant not in contestants:
            rows += _left_out(contestant, nets, counts, arguments)
    result: dict[str, Any] = {"machine": {}, "rows": rows}
    if arguments.sweep or (arguments.sweep is None and not quick and arguments.nets is None):
        sweepers = [c for c in contestants if c.sweeps]
        result["sweeps"] = _sweep(sweepers, Workers(counts[0], absent, versions, progress), references, settings)
    result["machine"] = machine.record(
        versions,
        threads=counts,
        precision=settings.precision,
        seed=settings.seed,
        rounds=settings.rounds,
        seconds=settings.seconds,
        command=_command(arguments),
    )
    return result


def _compare_all(
    nets: tuple[str, ...], contestants: list[Contestant], workers: Workers, references: References, settings: Settings
) -> list[results.Row]:
    """The rows of all nets with one number of threads."""
    rows: list[results.Row] = []
    try:
        for name in nets:
            progress(f"{name}, {workers.threads} thread{'s' * (workers.threads > 1)}")
            entries = compare(NETS[name], contestants, workers, references, settings, progress)
            rows += results.rows(NETS[name], entries, settings.precision)
            if settings.new_processes:
                workers.close()
    finally:
        workers.close()
    return rows


def _takes_part(contestant: Contestant, arguments: argparse.Namespace) -> bool:
    if arguments.peers is not None:
        return contestant.name in arguments.peers
    return contestant.quick or not arguments.quick


def _left_out(
    contestant: Contestant, nets: tuple[str, ...], counts: list[int], arguments: argparse.Namespace
) -> list[results.Row]:
    """Rows that report a contestant as not run."""
    why = "not run (not in --peers)" if arguments.peers is not None else "not run (left out by --quick)"
    row = {"contestant": contestant.name, "device": "cpu", "precision": arguments.precision}
    return [
        {"net": name, "mode": mode, **row, "threads": n, "us_per_step": None, "note": why}
        for n in counts
        for name in nets
        for mode in contestant.modes
    ]


def _sweep(
    contestants: list[Contestant], workers: Workers, references: References, settings: Settings
) -> list[results.Row]:
    """The time of a training step along each sweep, in fewer rounds, with the same processes for all points."""
    fewer = Settings(settings.seed, settings.precision, min(settings.rounds, SWEEP_ROUNDS), settings.seconds, False)
    rows = []
    try:
        for sweep, points in SWEEPS.items():
            for at, net in points.items():
                progress(f"{sweep} {at}, {workers.threads} thread{'s' * (workers.threads > 1)}")
                entries = compare(net, contestants, workers, references, fewer, progress, ("train",))
                rows += [{"sweep": sweep, "at": at, **row} for row in results.rows(net, entries, fewer.precision)]
    finally:
        workers.close()
    return rows


def _command(arguments: argparse.Namespace) -> str:
    """The command line, without the options for output files."""
    words = ["python -m benchmarks cpu"] + ["--quick"] * arguments.quick
    for name in ("nets", "peers", "threads"):
        given = getattr(arguments, name)
        words += [f"--{name} {','.join(given)}"] if given is not None else []
    words += [f"--precision {arguments.precision}"] if arguments.precision != "float32" else []
    words += [f"--rounds {arguments.rounds}"] if arguments.rounds is not None else []
    words += [f"--seed {arguments.seed}"] if arguments.seed else []
    words += [] if arguments.sweep is None else ["--sweep" if arguments.sweep else "--no-sweep"]
    return " ".join(words)


def _threads(text: str) -> tuple[str, ...]:
    return tuple(names(dict.fromkeys(("1", "all")))(text))
