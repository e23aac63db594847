"""One net, all contestants: losses first, then interleaved rounds."""

from __future__ import annotations

import dataclasses
import functools
import math
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from .contestants import Contestant
from .conventions import LOSS_LIMIT, LOSS_TOLERANCE, OUTPUT_TOLERANCE, PRODUCT_ERROR, TIMES_THE_BEST, disagreement
from .nets import Net
from .process import PATIENCE, Absent, Failed, Unsupported, Worker

REFERENCE = "benchmarks.peers.numpy_plain"
# what is measured together, round by round: `fit` beside `train`, so that both stand over the same floor
TOGETHER = (("train", "fit"), ("predict",), ("setup",))
PAUSE = 0.03  # seconds between windows, in which the threads of the one before stop spinning

Say = Callable[[str], None]


@dataclass(frozen=True)
class Settings:
    """How a run measures.

    seed       of the set, the initial weights, the batches' orders and the rounds' orders
    precision  "float32" or "float64"; on a GPU "tf32" and "bf16" too
    rounds     how often each contestant is asked
    seconds    the least length of a window
    fresh      whether every net gets new processes, so that peaks of memory are its own
    device     "cpu" or "cuda"
    together   whether contestants are prepared side by side, but for those that must be alone
    until      when to stop, by the monotonic clock: rounds that are left are not run
    patience   seconds for one answer, the compilation of a step included
    store      a folder for sets that many processes read
    """

    seed: int = 0
    precision: str = "float32"
    rounds: int = 9
    seconds: float = 0.1
    fresh: bool = True
    device: str = "cpu"
    together: bool = False
    until: float = math.inf
    patience: float = PATIENCE
    store: str | None = None

    @property
    def left(self) -> float:
        """Seconds until the time is over."""
        return self.until - time.monotonic()


@dataclass
class Entry:
    """What became of one contestant at one net.

    times   µs of a step, by mode, one a round; `by_events` the same by the device's events, where it has any
    notes   why there is no time, by mode; losses that disagree and absence hold for every mode
    first   (seconds, steps) from the preparation to the end of the first losses, the compilation included
    """

    contestant: Contestant
    threads: int
    times: dict[str, list[float]] = field(default_factory=dict)
    by_events: dict[str, list[float]] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    losses: list[float] | None = None
    wanted: list[float] | None = None
    disagreement: float | None = None
    first: tuple[float, int] | None = None
    memory: dict[str, int | None] | None = None
    product_error: float | None = None

    @property
    def computes(self) -> bool:
        """Whether it has losses, rather than being a floor."""
        return self.contestant.kind not in ("floor", "bytes")

    def refuse(self, why: str, modes: Iterable[str] | None = None) -> None:
        """No time for those modes, or for any."""
        for mode in self.contestant.modes if modes is None else modes:
            self.notes.setdefault(mode, why)
            self.times.pop(mode, None)


class Workers:
    """The processes of a run with so many threads; what cannot be imported is not tried twice."""

    def __init__(
        self, threads: int, absent: dict[str, str], versions: dict[str, str], say: Say, device: str = "cpu"
    ) -> None:
        self.threads, self.absent, self.versions, self.say, self.device = threads, absent, versions, say, device
        self._running: dict[str, Worker] = {}

    def start(self, contestant: Contestant) -> None:
        """Start the contestant's process, if need be, without waiting for it."""
        name = contestant.name
        if name not in self._running and name not in self.absent:
            self.say(f"  starting {name}")
            self._running[name] = Worker(contestant.module, self.threads, self.device, wait=False)

    def get(self, contestant: Contestant) -> Worker:
        """The contestant's process, started if need be. `Absent` or `Failed` where it cannot be had."""
        name = contestant.name
        if name in self.absent:
            raise Absent(self.absent[name])
        self.start(contestant)
        worker = self._running[name]
        if not worker.hello:
            try:
                worker.greet()
            except (Absent, Failed) as error:
                del self._running[name]
                if isinstance(error, Absent):
                    self.absent[name] = str(error)
                raise
            self.versions.update(worker.hello["versions"])
        return worker

    def drop(self, name: str, patience: float = 5.0) -> None:
        """End a process."""
        worker = self._running.pop(name, None)
        if worker is not None:
            worker.close(patience)

    def release(self) -> None:
        """Let all of them give back the device's memory."""
        for name, worker in list(self._running.items()):
            try:
                worker.request("release")
            except (Failed, Absent):
                self.drop(name)

    def close(self, patience: float = 5.0) -> None:
        """End all of them."""
        for worker in self._running.values():
            worker.farewell()
        for name in list(self._running):
            self.drop(name, patience)

    def side_by_side(self, calls: Sequence[Callable[[], None]]) -> None:
        """Make the calls at the same time. Whoever is interrupted meanwhile ends them and does not wait."""
        with ThreadPoolExecutor(max(1, len(calls))) as pool:
            asked = [pool.submit(call) for call in calls]
            try:
                for one in asked:
                    one.result()
            except BaseException:
                self.close(patience=0.0)
                raise


class References:
    """The losses of the first steps in float64, by plain NumPy, or on a GPU by CuPy, for either form of Adam."""

    def __init__(self, settings: Settings, threads: int) -> None:
        self.settings, self.threads = settings, threads
        self._found: dict[tuple[Net, str], list[float]] = {}

    def losses(self, net: Net, rule: str) -> list[float]:
        """The losses before each step."""
        if (net, rule) not in self._found:
            with Worker(REFERENCE, self.threads, self.settings.device) as worker:
                worker.request("prepare", **_question(net, self.settings), exactly=True, rule=rule)
                self._found[net, rule] = worker.request("losses")["losses"]
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
    rules: set[str] = {e.contestant.rule for e in entries if e.computes}
    wanted = {rule: references.losses(net, rule) for rule in sorted(rules)}
    begin_all(entries, net, wanted, workers, settings, say)
    hold_to_the_best(entries, settings)
    draws = random.Random(settings.seed)
    for together in TOGETHER:
        if settings.left <= 0:
            break
        members = [(e, m) for e in entries for m in e.contestant.modes if m in together and m not in e.notes]
        _warm_all(members, workers, settings)
        members = [(e, m) for e, m in members if m not in e.notes]
        if members:
            say(f"  {settings.rounds} rounds of {', '.join(dict.fromkeys(m for _, m in members))}")
        for _ in range(settings.rounds):
            if settings.left <= 0:
                say("  the time is over: the rounds that are left are not run")
                break
            draws.shuffle(members)
            for entry, mode in members:
                if mode in entry.notes:
                    continue
                with _guarded(entry, workers, mode):
                    time.sleep(PAUSE)
                    answer = workers.get(entry.contestant).request("window", mode=mode, seconds=settings.seconds)
                    entry.times.setdefault(mode, []).append(answer["us_per_step"])
                    if "device_us_per_step" in answer:
                        entry.by_events.setdefault(mode, []).append(answer["device_us_per_step"])
        if "train" in together and settings.fresh:
            for entry, mode in members:
                if mode in entry.times:
                    with _guarded(entry, workers, mode):
                        entry.memory = workers.get(entry.contestant).request("memory")
    return entries


def _question(net: Net, settings: Settings) -> dict[str, Any]:
    asked = {"net": dataclasses.asdict(net), "seed": settings.seed, "precision": settings.precision}
    return asked if settings.device == "cpu" else asked | {"device": settings.device, "store": settings.store}


def begin_all(
    entries: list[Entry], net: Net, wanted: dict[str, list[float]], workers: Workers, settings: Settings, say: Say
) -> None:
    """Begin with everybody: one after another, or side by side with those last that must be alone."""
    if not settings.together:
        for entry in entries:
            begin_one(entry, net, wanted, workers, settings, say)
        return
    for entry in entries:  # here, since a process ends with the thread that started it
        workers.start(entry.contestant)
    begin = functools.partial(begin_one, net=net, wanted=wanted, workers=workers, settings=settings, say=say)
    workers.side_by_side([functools.partial(begin, e) for e in entries if not e.contestant.alone])
    for entry in entries:
        if entry.contestant.alone:
            begin(entry)


def _warm_all(members: list[tuple[Entry, str]], workers: Workers, settings: Settings) -> None:
    """Hold predictions against float64, compile what is left to compile, and learn everybody's pace."""

    def warm(entry: Entry, mode: str) -> None:
        with _guarded(entry, workers, mode):
            worker = workers.get(entry.contestant)
            if mode == "predict" and entry.computes:
                _check_outputs(entry, worker.request("outputs")["disagreement"], settings)
            if mode not in entry.notes:
                worker.request("warm", mode=mode)

    if settings.together:
        workers.side_by_side([functools.partial(warm, e, m) for e, m in members if not e.contestant.alone])
    for entry, mode in members:  # once more where it was not alone, for the pace
        if mode not in entry.notes:
            warm(entry, mode)


def begin_one(
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
        say(f"  preparing {contestant.name}")
        worker.patience = max(1.0, min(settings.patience, settings.left))
        worker.request("prepare", **_question(net, settings), **dict(contestant.options))
        if not entry.computes:
            return
        if settings.device != "cpu":
            entry.product_error = worker.request("product")["error"]
            if (why := wrong_precision(entry.product_error, settings.precision)) is not None:
                entry.refuse(why)
                return
        answer = worker.request("losses")
        entry.first = answer["seconds"], answer["steps"]
        entry.losses, entry.wanted = answer["losses"], wanted[contestant.rule]
        entry.disagreement = disagreement(entry.losses, entry.wanted)
        allowed = {**LOSS_TOLERANCE, **LOSS_LIMIT}[settings.precision]
        if not entry.disagreement <= allowed:
            entry.refuse(f"disagrees (losses differ by {entry.disagreement:.1e} of the largest, {allowed:.0e} allowed)")
            say(f"  {contestant.name} disagrees")


def wrong_precision(error: float | None, precision: str) -> str | None:
    """Why a contestant whose product errs so much does not compute in that precision; None where it does."""
    least, most = PRODUCT_ERROR[precision]
    if error is not None and least <= error <= most:
        return None
    said = "is not finite" if error is None else f"errs by {error:.1e}"
    return f"disagrees (its product {said}, where {precision} means {least:.0e} to {most:.0e})"


def hold_to_the_best(entries: Iterable[Entry], settings: Settings) -> None:
    """Where numbers are short, nobody gets a time whose losses err more than thrice as much as the most accurate's."""
    if settings.precision not in LOSS_LIMIT:
        return
    agreeing = [e for e in entries if e.disagreement is not None and not e.notes]
    least = min((e.disagreement for e in agreeing if e.disagreement is not None), default=0.0)
    for entry in agreeing:
        assert entry.disagreement is not None
        if entry.disagreement > TIMES_THE_BEST * least:
            entry.refuse(
                f"disagrees (losses differ by {entry.disagreement:.1e} of the largest, "
                f"{TIMES_THE_BEST:.0f} times the most accurate one's {least:.1e} allowed)"
            )


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
    except Unsupported as error:
        entry.refuse(f"not measured ({error})", None if mode is None else [mode])
    except Failed as error:
        if mode is not None:
            entry.refuse(f"failed ({error})", [mode])
        entry.refuse(f"failed ({error})", [m for m in entry.contestant.modes if m not in entry.times])
        workers.drop(entry.contestant.name)
