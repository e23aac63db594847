"""`python -m benchmarks since COMMIT`: the working tree's speed as a multiple of an earlier commit's."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import random
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from . import child, machine, ratios
from .command import names, progress, write
from .commits import Commit, checkout, describe
from .comparison import PAUSE
from .conventions import task
from .nets import NETS, Net
from .process import ROOT, Absent, Failed, Unsupported, available_cores
from .ratios import Quartiles

HELP = "time the working tree against an earlier commit on the CPU"
EPILOG = """
fit: epochs of one network. predict: all rows. setup: a new network, built,
compiled and fitted for one step. estimator: an estimator's fit for one epoch.

Both commits run in separate processes. Each round times both commits in every
mode once, in a shuffled order, in windows of at least 0.1 s; the result is the
median of the per-round ratios with quartiles. A ratio above 1.02 is measured
again in 25 rounds, spread over 5 pairs of new processes. The mode counts as
slower if the lower quartile of the second measurement is above 1.02.

Prints a Markdown table for a commit message; only --json writes a file. --quick
times seed, tabular and digits with one thread. Exit status 1 means that a mode
is slower, or that a process failed.
"""
MODES = ("fit", "predict", "setup", "estimator")
QUICK_NETS = ("seed", "tabular", "digits")
ROUNDS, REPEATED_ROUNDS, REPEATED_PAIRS = 9, 25, 5
SECONDS = 0.1
LIMIT = 1.02
SEED = 0
CURRENT, BASELINE = "current", "baseline"


class SideProcess(Protocol):
    """The process of one commit."""

    def request(self, method: str, **arguments: Any) -> dict[str, Any]:
        """Send a request and return the answer."""

    def close(self) -> None:
        """End the process."""


# starts the process of a commit with a number of threads
Start = Callable[[str, int], SideProcess]


@dataclass
class Row:
    """One mode at one network.

    us        microseconds per unit by commit, one per round
    repeated  the same of the second measurement, empty if there was none
    """

    net: str
    threads: int
    mode: str
    us: dict[str, list[float]] = field(default_factory=dict)
    repeated: dict[str, list[float]] = field(default_factory=dict)

    @property
    def first(self) -> Quartiles:
        """The ratios of the first measurement."""
        return ratios.ratio(self.us[CURRENT], self.us[BASELINE])

    @property
    def ratio(self) -> Quartiles:
        """The ratios of the last measurement."""
        return ratios.ratio(self.repeated[CURRENT], self.repeated[BASELINE]) if self.repeated else self.first

    @property
    def is_suspect(self) -> bool:
        """True if a second measurement is needed."""
        return self.first.median > LIMIT

    @property
    def is_slower(self) -> bool:
        """True if both measurements exceed the limit, the second one with its lower quartile."""
        return self.is_suspect and bool(self.repeated) and self.ratio.lower > LIMIT


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description, parser.epilog = f"{HELP[0].upper()}{HELP[1:]}.", EPILOG
    parser.add_argument("commit", metavar="COMMIT", help="a commit, as git names it")
    parser.add_argument("--quick", action="store_true", help="three networks and one thread, see below")
    parser.add_argument("--nets", type=names(NETS), metavar="A,B", help=f"of {', '.join(NETS)}")
    parser.add_argument("--threads", type=_threads, metavar="1,all", help="both unless --quick")
    parser.add_argument(
        "--rounds", type=_rounds, default=ROUNDS, metavar="N", help=f"at least {ROUNDS}, which is the default"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result there")


def run(arguments: argparse.Namespace) -> int:
    """Measure and print; 1 if a mode is slower, else 0."""
    child.exit_on_sigterm()
    nets = [NETS[name] for name in arguments.nets or (QUICK_NETS if arguments.quick else NETS)]
    threads = arguments.threads or (("1",) if arguments.quick else ("1", "all"))
    counts = sorted({len(available_cores()) if n == "all" else 1 for n in threads})
    try:
        with checkout(arguments.commit) as other:
            commit = describe(ROOT, arguments.commit)
            roots = {CURRENT: ROOT, BASELINE: other}
            rows = measure(nets, counts, arguments.rounds, lambda name, n: Commit(roots[name], n, pinned=True))
    except (Absent, Unsupported, Failed) as error:
        progress(f"error: {error}")
        return 1
    about = machine.record({}, threads=counts, rounds=arguments.rounds, seconds=SECONDS, since=commit, seed=SEED)
    if arguments.json is not None:
        write({"machine": about, "rows": [to_json(row) for row in rows]}, arguments.json)
    print(markdown(rows, about))
    return int(any(row.is_slower for row in rows))


def measure(
    nets: Iterable[Net],
    counts: Iterable[int],
    rounds: int,
    start: Start,
    *,
    modes: Sequence[str] = MODES,
    seconds: float = SECONDS,
) -> list[Row]:
    """Measure every mode, network and number of threads; a second time where the first ratio is above the limit."""
    draws = random.Random(SEED)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for threads in counts:
            for net in nets:
                progress(f"{net.name}, {threads} thread{'s' * (threads > 1)}")
                new = {mode: Row(net.name, threads, mode) for mode in modes}
                time_rounds = functools.partial(_rounds_of, net, threads, start, Path(folder), draws, seconds)
                for mode, times in time_rounds(modes, rounds).items():
                    new[mode].us = times
                suspects = [mode for mode, row in new.items() if row.is_suspect]
                if suspects:
                    progress(f"  again: {', '.join(f'{mode} {new[mode].first.median:.3f}' for mode in suspects)}")
                    # the memory layout differs between processes and changes the time
                    for _ in range(REPEATED_PAIRS):
                        for mode, times in time_rounds(suspects, REPEATED_ROUNDS // REPEATED_PAIRS).items():
                            for name, values in times.items():
                                new[mode].repeated.setdefault(name, []).extend(values)
                rows += new.values()
    return rows


def _rounds_of(
    net: Net,
    threads: int,
    start: Start,
    folder: Path,
    draws: random.Random,
    seconds: float,
    modes: Sequence[str],
    rounds: int,
) -> dict[str, dict[str, list[float]]]:
    """{mode: {commit: µs per round}} of a pair of new processes."""
    times: dict[str, dict[str, list[float]]] = {mode: {CURRENT: [], BASELINE: []} for mode in modes}
    with _pair(start, threads, draws) as processes:
        for process in processes.values():
            process.request("prepare", net=dataclasses.asdict(net), seed=SEED, arrays=str(_stored(net, folder)))
            for mode in modes:
                process.request("warm", mode=mode)
        order = list(modes)
        for _ in range(rounds):
            draws.shuffle(order)
            for mode in order:
                # the two windows of a ratio are adjacent in time
                for name in draws.sample(sorted(processes), len(processes)):
                    time.sleep(PAUSE)
                    times[mode][name].append(processes[name].request("window", mode=mode, seconds=seconds)["us"])
    return times


@contextmanager
def _pair(start: Start, threads: int, draws: random.Random) -> Iterator[dict[str, SideProcess]]:
    """Start the processes of both commits in a shuffled order."""
    with ExitStack() as stack:
        processes = {}
        for name in draws.sample((CURRENT, BASELINE), 2):
            processes[name] = start(name, threads)
            stack.callback(processes[name].close)
        yield processes


def _stored(net: Net, folder: Path) -> Path:
    """A file with the data and the initial weights of a network, for both commits."""
    path = folder / f"{net.name}.npz"
    if not path.exists():
        inputs = task(net, SEED, "float32")
        arrays: dict[str, Any] = {f"weights{k}": w for k, w in enumerate(inputs.weights)}
        np.savez(path, X=inputs.X, y=inputs.y, **arrays)
    return path


# --- the result ---


def to_json(row: Row) -> dict[str, Any]:
    """A row as JSON: medians of the times in µs, ratios as [lower quartile, median, upper quartile]."""
    result: dict[str, Any] = {"net": row.net, "mode": row.mode, "threads": row.threads, "precision": "float32"}
    medians = {name: _short(ratios.quartiles(values).median) for name, values in row.us.items()}
    result |= {"us": medians[CURRENT], "us_since": medians[BASELINE], "rounds": len(row.us[CURRENT])}
    result["ratio"] = [_short(r) for r in row.first]
    if row.repeated:
        result |= {"ratio_again": [_short(r) for r in row.ratio], "rounds_again": len(row.repeated[CURRENT])}
    return result | {"counts": row.is_slower}


def markdown(rows: Sequence[Row], about: dict[str, Any]) -> str:
    """The ratios as a table, with a list of repeated measurements and of slower modes."""
    modes = [mode for mode in MODES if any(row.mode == mode for row in rows)]
    lines = [
        f"Times of {about['commit']} divided by those of {about['since']}: medians and quartiles of {about['rounds']}",
        f"rounds, float32, {about['cpu']}.",
        "",
        f"| net | threads | {' | '.join(modes)} |",
        f"| --- | ---: | {' | '.join('---:' for _ in modes)} |",
    ]
    for net, threads in dict.fromkeys((row.net, row.threads) for row in rows):
        cells = {row.mode: _cell(row) for row in rows if (row.net, row.threads) == (net, threads)}
        lines.append(f"| {net} | {threads} | {' | '.join(cells.get(mode, '') for mode in modes)} |")
    lines.append("")
    again = [row for row in rows if row.repeated]
    if again:
        lines += [f"\\* Measured again in {len(again[0].repeated[CURRENT])} rounds. The first measurements were:", ""]
        lines += [f"- {_label(row)}: {_shown(row.first)}" for row in again]
        lines.append("")
    slower = [_label(row) for row in rows if row.is_slower]
    lines.append(
        f"Slower: {'; '.join(slower)}." if slower else f"No mode is slower (ratio above {LIMIT} in both measurements)."
    )
    return "\n".join(lines)


def _label(row: Row) -> str:
    return f"{row.net}, {row.mode}, {row.threads} thread{'s' * (row.threads > 1)}"


def _cell(row: Row) -> str:
    return _shown(row.ratio) + " \\*" * bool(row.repeated)


def _shown(q: Quartiles) -> str:
    return f"{q.median:.3f} ({q.lower:.3f}–{q.upper:.3f})"


def _short(value: float) -> float:
    """To five significant digits."""
    return float(f"{value:.5g}")


# --- parsers ---


def _rounds(text: str) -> int:
    value = int(text)
    if value < ROUNDS:
        raise argparse.ArgumentTypeError(f"must be at least {ROUNDS}, got {value}")
    return value


def _threads(text: str) -> tuple[str, ...]:
    found: tuple[str, ...] = names(("1", "all"))(text)
    return found
