"""One net, all contestants: losses first, then interleaved rounds."""

from __future__ import annotations

import dataclasses
import random
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from .contestants import Contestant
from .nets import Net
from .process import Absent, Failed, Worker
from .translator import LOSS_TOLERANCE, OUTPUT_TOLERANCE, disagreement

REFERENCE = "benchmarks.peers.numpy_plain"
# what is measured together, round by round: `fit` beside `train`, so that both stand over the same floor
TOGETHER = (("train", "fit"), ("predict",), ("setup",))
PAUSE = 0.03  # seconds between windows, in which the threads of the one before stop spinning

Say = Callable[[str], None]


@dataclass(frozen=True)
class Settings:
    """How a run measures.

    seed       of the set, the initial weights, the batches' orders and the rounds' orders
    precision  "float32" or "float64"
    rounds     how often each contestant is asked
    seconds    the least length of a window
    fresh      whether every net gets new processes, so that peaks of memory are its own
    """

    seed: int = 0
    precision: str = "float32"
    rounds: int = 9
    seconds: float = 0.1
    fresh: bool = True


@dataclass
class Entry:
    """What became of one contestant at one net.

    times   µs of a step, by mode, one a round
    notes   why there is no time, by mode; losses that disagree and absence hold for every mode
    first   (seconds, steps) from the preparation to the end of the first losses, the compilation included
    """

    contestant: Contestant
    threads: int
    times: dict[str, list[float]] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    losses: list[float] | None = None
    wanted: list[float] | None = None
    disagreement: float | None = None
    first: tuple[float, int] | None = None
    memory: dict[str, int | None] | None = None

    def refuse(self, why: str, modes: Iterable[str] | None = None) -> None:
        """No time for those modes, or for any."""
        for mode in self.contestant.modes if modes is None else modes:
            self.notes.setdefault(mode, why)
            self.times.pop(mode, None)


class Workers:
    """The processes of a run with so many threads; what cannot be imported is not tried twice."""

    def __init__(self, threads: int, absent: dict[str, str], versions: dict[str, str], say: Say) -> None:
        self.threads, self.absent, self.versions, self.say = threads, absent, versions, say
        self._running: dict[str, Worker] = {}

    def get(self, contestant: Contestant) -> Worker:
        """The contestant's process, started if need be. `Absent` or `Failed` where it cannot be had."""
        name = contestant.name
        if name in self.absent:
            raise Absent(self.absent[name])
        if name not in self._running:
            self.say(f"  starting {name}")
            try:
                worker = Worker(contestant.module, self.threads)
            except Absent as error:
                self.absent[name] = str(error)
                raise
            self._running[name] = worker
            self.versions.update(worker.hello["versions"])
        return self._running[name]

    def drop(self, name: str) -> None:
        """End a process."""
        worker = self._running.pop(name, None)
        if worker is not None:
            worker.close()

    def close(self) -> None:
        """End all of them."""
        for name in list(self._running):
            self.drop(name)


class References:
    """The losses of the first steps in float64, by plain NumPy, for either form of Adam."""

    def __init__(self, settings: Settings, threads: int) -> None:
        self.settings, self.threads = settings, threads
        self._found: dict[tuple[Net, str], list[float]] = {}

    def losses(self, net: Net, rule: str) -> list[float]:
        """The losses before each step."""
        if (net, rule) not in self._found:
            with Worker(REFERENCE, self.threads) as worker:
                worker.ask("prepare", **_question(net, self.settings), exactly=True, rule=rule)
                self._found[net, rule] = worker.ask("losses")["losses"]
        return self._found[net, rule]


def compare(
    net: Net,
    contestants: Iterable[Contestant],
    workers: Workers,
    references: References,
    settings: Settings,
    say: Say,
    modes: Iterable[str] = ("train", "fit", "predict", "setup"),
) -> list[Entry]:
    """Every contestant's entry at a net. Nobody gets a time whose losses disagree with the reference."""
    asked = [c for c in contestants if not c.nets or net.name in c.nets]
    asked = [dataclasses.replace(c, modes=tuple(m for m in c.modes if m in modes)) for c in asked]
    entries = [Entry(c, workers.threads) for c in asked if c.modes]
    rules: set[str] = {e.contestant.rule for e in entries if e.contestant.kind != "floor"}
    wanted = {rule: references.losses(net, rule) for rule in sorted(rules)}
    for entry in entries:
        _begin(entry, net, wanted, workers, settings, say)
    draws = random.Random(settings.seed)
    for together in TOGETHER:
        members = [(e, m) for e in entries for m in e.contestant.modes if m in together and m not in e.notes]
        for entry, mode in members:
            with _guarded(entry, workers, mode):
                worker = workers.get(entry.contestant)
                if mode == "predict" and entry.contestant.kind != "floor":
                    _check_outputs(entry, worker.ask("outputs")["disagreement"], settings)
                if mode not in entry.notes:
                    worker.ask("warm", mode=mode)
        members = [(e, m) for e, m in members if m not in e.notes]
        if members:
            say(f"  {settings.rounds} rounds of {', '.join(dict.fromkeys(m for _, m in members))}")
        for _ in range(settings.rounds):
            draws.shuffle(members)
            for entry, mode in members:
                if mode in entry.notes:
                    continue
                with _guarded(entry, workers, mode):
                    time.sleep(PAUSE)
                    answer = workers.get(entry.contestant).ask("window", mode=mode, seconds=settings.seconds)
                    entry.times.setdefault(mode, []).append(answer["us_per_step"])
        if "train" in together and settings.fresh:
            for entry, mode in members:
                if mode in entry.times:
                    with _guarded(entry, workers, mode):
                        entry.memory = workers.get(entry.contestant).ask("memory")
    return entries


def _question(net: Net, settings: Settings) -> dict[str, Any]:
    return {"net": dataclasses.asdict(net), "seed": settings.seed, "precision": settings.precision}


def _begin(
    entry: Entry, net: Net, wanted: dict[str, list[float]], workers: Workers, settings: Settings, say: Say
) -> None:
    """Prepare a contestant and hold its first losses against the reference."""
    contestant = entry.contestant
    try:
        worker = workers.get(contestant)
    except Absent as error:
        entry.refuse(f"not run ({error})")
        return
    except Failed as error:
        entry.refuse(f"failed ({error})")
        return
    with _guarded(entry, workers):
        worker.ask("prepare", **_question(net, settings))
        if contestant.kind == "floor":
            return
        answer = worker.ask("losses")
        entry.first = answer["seconds"], answer["steps"]
        entry.losses, entry.wanted = answer["losses"], wanted[contestant.rule]
        entry.disagreement = disagreement(entry.losses, entry.wanted)
        allowed = LOSS_TOLERANCE[settings.precision]
        if not entry.disagreement <= allowed:
            entry.refuse(f"disagrees (losses differ by {entry.disagreement:.1e} of the largest, {allowed:.0e} allowed)")
            say(f"  {contestant.name} disagrees")


def _check_outputs(entry: Entry, far: float | None, settings: Settings) -> None:
    allowed = OUTPUT_TOLERANCE[settings.precision]
    if far is None or not far <= allowed:
        said = "are not finite" if far is None else f"differ by {far:.1e} of the largest, {allowed:.0e} allowed"
        entry.refuse(f"disagrees (predictions {said})", ["predict"])


@contextmanager
def _guarded(entry: Entry, workers: Workers, mode: str | None = None) -> Iterator[None]:
    """What a worker cannot do becomes a note, in that mode and those without a time yet; the others go on.

    A worker that failed is started anew for the next net.
    """
    try:
        yield
    except Failed as error:
        if mode is not None:
            entry.refuse(f"failed ({error})", [mode])
        entry.refuse(f"failed ({error})", [m for m in entry.contestant.modes if m not in entry.times])
        workers.drop(entry.contestant.name)
