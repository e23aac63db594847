"""`python -m benchmarks cpu`: every net, every contestant, one thread and all cores."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from . import goals, machine, report, results
from .command import FOLDER, as_data, draw, names, positive, say, write, write_text
from .comparison import References, Settings, Workers, compare
from .contestants import CPU, Contestant
from .nets import NETS, SWEEPS
from .process import available_cores

HELP = "compare training and prediction on the CPU"
EPILOG = """
A full run, without --quick or anything that narrows it, writes cpu.json, cpu.md
and the pictures to benchmarks/results. Any other run prints its tables and
writes only where --out or --json says. Progress goes to stderr.

--quick looks at seed, tabular and digits with one thread, in 3 rounds, without
sweeps, memory and torch-compiled (which compiles for long): within a minute on
two cores. --nets, --peers, --threads, --rounds and --sweep bring back what they
name. Exit status 1 says that a contestant disagreed or failed.
"""
QUICK_NETS = ("seed", "tabular", "digits")
QUICK_ROUNDS, FULL_ROUNDS, SWEEP_ROUNDS = 3, 9, 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own arguments."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description, parser.epilog = f"{HELP[0].upper()}{HELP[1:]}.", EPILOG
    parser.add_argument("--quick", action="store_true", help="a look within a minute, see below")
    parser.add_argument("--nets", type=names(NETS), metavar="A,B", help=f"of {', '.join(NETS)}")
    peers = [name for name, c in CPU.items() if c.kind == "peer"]
    parser.add_argument(
        "--peers",
        type=names(dict.fromkeys(peers)),
        metavar="A,B",
        help=f"of {', '.join(peers)}; gpunn and the floor always take part",
    )
    parser.add_argument(
        "--threads", type=_threads, metavar="1,all", help="one thread pinned to a core, all cores; both unless --quick"
    )
    parser.add_argument("--precision", choices=("float32", "float64"), default="float32")
    parser.add_argument("--rounds", type=positive, metavar="N", help=f"{FULL_ROUNDS}; with --quick {QUICK_ROUNDS}")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of sets, weights and orders")
    parser.add_argument(
        "--sweep", action=argparse.BooleanOptionalAction, help="cost as batch and width grow; part of a full run"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result there, and nothing else")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write JSON, Markdown and pictures there")


def run(arguments: argparse.Namespace) -> int:
    """Measure, print, write; 1 where a contestant disagreed or failed, else 0."""
    result = measure(arguments)
    verdicts = goals.verdicts(result)
    result["goals"] = [as_data(v) for v in verdicts]
    if arguments.json is not None:
        write(result, arguments.json)
    folder = arguments.out
    if folder is None and arguments.json is None and is_full(arguments):
        folder = FOLDER
    if folder is not None:
        write(result, folder / "cpu.json")
        pictures = draw(result, folder)
        write_text(report.markdown(result, verdicts, pictures), folder / "cpu.md")
    print(report.markdown(result, verdicts))
    notes = [row["note"] for row in [*result["rows"], *result.get("sweeps", [])] if row["us_per_step"] is None]
    return int(any(note.startswith(("disagrees", "failed")) for note in notes))


def is_full(arguments: argparse.Namespace) -> bool:
    """Whether nothing was left out."""
    narrowed = (arguments.nets, arguments.peers, arguments.threads, arguments.rounds)
    plain = arguments.precision == "float32" and arguments.seed == 0 and arguments.sweep is not False
    return not arguments.quick and plain and all(given is None for given in narrowed)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """The result of a run, without its goals."""
    quick = arguments.quick
    nets = arguments.nets or (QUICK_NETS if quick else tuple(NETS))
    settings = Settings(
        seed=arguments.seed,
        precision=arguments.precision,
        rounds=arguments.rounds or (QUICK_ROUNDS if quick else FULL_ROUNDS),
        fresh=not quick,
    )
    cores = len(available_cores())
    threads = arguments.threads or (("1",) if quick else ("1", "all"))
    counts = sorted({cores if n == "all" else 1 for n in threads})
    everyone = [c for c in CPU.values() if c.kind != "peer" or _takes_part(c, arguments)]
    absent: dict[str, str] = {}
    versions: dict[str, str] = {}
    references = References(settings, cores)
    rows: list[results.Row] = []
    for n in counts:
        workers = Workers(n, absent, versions, say)
        try:
            for name in nets:
                say(f"{name}, {n} thread{'s' * (n > 1)}")
                entries = compare(NETS[name], everyone, workers, references, settings, say)
                rows += results.rows(NETS[name], entries, settings.precision)
                if settings.fresh:
                    workers.close()
        finally:
            workers.close()
    for contestant in CPU.values():
        if contestant not in everyone:
            rows += _left_out(contestant, nets, counts, arguments)
    result: dict[str, Any] = {"machine": {}, "rows": rows}
    if arguments.sweep or (arguments.sweep is None and not quick and arguments.nets is None):
        sweepers = [c for c in everyone if c.sweeps]
        result["sweeps"] = _sweep(sweepers, Workers(counts[0], absent, versions, say), references, settings)
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


def _takes_part(contestant: Contestant, arguments: argparse.Namespace) -> bool:
    if arguments.peers is not None:
        return contestant.name in arguments.peers
    return contestant.quick or not arguments.quick


def _left_out(
    contestant: Contestant, nets: tuple[str, ...], counts: list[int], arguments: argparse.Namespace
) -> list[results.Row]:
    """Rows that say who was not asked."""
    why = "not run (not among --peers)" if arguments.peers is not None else "not run (left out by --quick)"
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
    """A training step's cost along each sweep, in fewer rounds; processes go on from point to point."""
    fewer = Settings(settings.seed, settings.precision, min(settings.rounds, SWEEP_ROUNDS), settings.seconds, False)
    rows = []
    try:
        for sweep, points in SWEEPS.items():
            for at, net in points.items():
                say(f"{sweep} {at}, {workers.threads} thread{'s' * (workers.threads > 1)}")
                entries = compare(net, contestants, workers, references, fewer, say, ("train",))
                rows += [{"sweep": sweep, "at": at, **row} for row in results.rows(net, entries, fewer.precision)]
    finally:
        workers.close()
    return rows


def _command(arguments: argparse.Namespace) -> str:
    """What was asked for, without where it was written."""
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
