"""Compare all contestants on one net: check their losses, then time them in interleaved rounds."""

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
from .conventions import LOSS_TOLERANCE, MAX_ERROR_RATIO, MAX_LOSS_ERROR, OUTPUT_TOLERANCE, PRODUCT_ERROR, disagreement
from .nets import Net
from .process import TIMEOUT_SECONDS, Absent, Failed, Unsupported, Worker

REFERENCE = "benchmarks.peers.numpy_plain"
# modes timed in the same rounds: `fit` together with `train`, so that both have the same floor
MODE_GROUPS = (("train", "fit"), ("predict",), ("setup",))
PAUSE = 0.03  # seconds between windows, in which the previous contestant's threads stop spinning

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Settings:
    """Settings of a run.

    seed           of the data, the initial weights, and the orders of batches and rounds
    precision      "float32" or "float64"; on a GPU also "tf32" and "bf16"
    rounds         windows per contestant
    seconds        minimum length of a window
    new_processes  True if every net gets new processes, so that peaks of memory are measured per net
    device         "cpu" or "cuda"
    concurrent     True if contestants are prepared concurrently, except those that need the device exclusively
    until          the deadline on the monotonic clock; remaining rounds are not run
    timeout        seconds for one answer, including the compilation of a step
    store          a folder for data that several processes read
    """

    seed: int = 0
    precision: str = "float32"
    rounds: int = 9
    seconds: float = 0.1
    new_processes: bool = True
    device: str = "cpu"
    concurrent: bool = False
    until: float = math.inf
    timeout: float = TIMEOUT_SECONDS
    store: str | None = None

    @property
    def seconds_left(self) -> float:
        """Seconds until the deadline."""
        return self.until - time.monotonic()


@dataclass
class Entry:
    """The measurements of one contestant on one net.

    times        µs per step, by mode, one per round
    event_times  the same by the device's events, if it has any
    notes        the reason for a missing time, by mode
    first        (seconds, steps) from the preparation to the end of the first losses, including compilation
    """

    contestant: Contestant
    threads: int
    times: dict[str, list[float]] = field(default_factory=dict)
    event_times: dict[str, list[float]] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    losses: list[float] | None = None
    expected_losses: list[float] | None = None
    disagreement: float | None = None
    first: tuple[float, int] | None = None
    memory: dict[str, int | None] | None = None
    product_error: float | None = None

    @property
    def has_losses(self) -> bool:
        """True if it trains a network, False for a floor."""
        return self.contestant.kind not in ("floor", "bytes")

    def reject(self, reason: str, modes: Iterable[str] | None = None) -> None:
        """Record the reason for a missing time, in these modes or in all."""
        for mode in self.contestant.modes if modes is None else modes:
            self.notes.setdefault(mode, reason)
            self.times.pop(mode, None)


class Workers:
    """The contestants' processes in a run. A module that cannot be imported is not tried again."""

    def __init__(
        self, threads: int, absent: dict[str, str], versions: dict[str, str], progress: Progress, device: str = "cpu"
    ) -> None:
        self.threads = threads
        self.absent = absent
        self.versions = versions
        self.progress = progress
        self.device = device
        self._running: dict[str, Worker] = {}

    def start(self, contestant: Contestant) -> None:
        """Start the contestant's process if it does not run, without waiting for it."""
        name = contestant.name
        if name not in self._running and name not in self.absent:
            self.progress(f"  starting {name}")
            self._running[name] = Worker(contestant.module, self.threads, self.device, wait=False)

    def get(self, contestant: Contestant) -> Worker:
        """The contestant's process, started if it does not run. `Absent` or `Failed` if that is impossible."""
        name = contestant.name
        if name in self.absent:
            raise Absent(self.absent[name])
        self.start(contestant)
        worker = self._running[name]
        if not worker.info:
            try:
                worker.wait_ready()
            except (Absent, Failed) as error:
                del self._running[name]
                if isinstance(error, Absent):
                    self.absent[name] = str(error)
                raise
            self.versions.update(worker.info["versions"])
        return worker

    def drop(self, name: str, grace_seconds: float = 5.0) -> None:
        """End a process."""
        worker = self._running.pop(name, None)
        if worker is not None:
            worker.close(grace_seconds)

    def release(self) -> None:
        """Make all processes release the device's memory."""
        for name, worker in list(self._running.items()):
            try:
                worker.request("release")
            except (Failed, Absent):
                self.drop(name)

    def close(self, grace_seconds: float = 5.0) -> None:
        """End all processes."""
        for worker in self._running.values():
            worker.shutdown()
        for name in list(self._running):
            self.drop(name, grace_seconds)

    def run_concurrently(self, calls: Sequence[Callable[[], None]]) -> None:
        """Run the calls in threads. An interruption ends the processes without waiting for the calls."""
        with ThreadPoolExecutor(max(1, len(calls))) as pool:
            futures = [pool.submit(call) for call in calls]
            try:
                for future in futures:
                    future.result()
            except BaseException:
                self.close(grace_seconds=0.0)
                raise


class References:
    """The losses of the first steps in float64, for each form of Adam: by NumPy, or by CuPy on a GPU."""

    def __init__(self, settings: Settings, threads: int) -> None:
        self.settings, self.threads = settings, threads
        self._found: dict[tuple[Net, str], list[float]] = {}

    def losses(self, net: Net, rule: str) -> list[float]:
        """The loss before each step."""
        if (net, rule) not in self._found:
            with Worker(REFERENCE, self.threads, self.settings.device) as worker:
                worker.request("prepare", **_task_arguments(net, self.settings), exactly=True, rule=rule)
                self._found[net, rule] = worker.request("losses")["losses"]
        return self._found[net, rule]


def compare(
    net: Net,
    contestants: Iterable[Contestant],
    workers: Workers,
    references: References,
    settings: Settings,
    progress: Progress,
    modes: Iterable[str] = ("train", "fit", "predict", "setup"),
) -> list[Entry]:
    """Measure every contestant on a net. A contestant whose losses disagree with the reference has no times."""
    chosen = [c for c in contestants if not c.nets or net.name in c.nets]
    chosen = [dataclasses.replace(c, modes=tuple(m for m in c.modes if m in modes)) for c in chosen]
    entries = [Entry(c, workers.threads) for c in chosen if c.modes]
    rules: set[str] = {e.contestant.rule for e in entries if e.has_losses}
    expected = {rule: references.losses(net, rule) for rule in sorted(rules)}
    prepare_all(entries, net, expected, workers, settings, progress)
    reject_inaccurate(entries, settings)
    draws = random.Random(settings.seed)
    for group in MODE_GROUPS:
        if settings.seconds_left <= 0:
            break
        members = [(e, m) for e in entries for m in e.contestant.modes if m in group and m not in e.notes]
        _warm_all(members, workers, settings)
        members = [(e, m) for e, m in members if m not in e.notes]
        _time_rounds(members, workers, settings, progress, draws)
        if "train" in group and settings.new_processes:
            _measure_memory(members, workers)
    return entries


def _time_rounds(
    members: list[tuple[Entry, str]], workers: Workers, settings: Settings, progress: Progress, draws: random.Random
) -> None:
    """Time one window per contestant and mode in each round, in a shuffled order."""
    if members:
        progress(f"  {settings.rounds} rounds of {', '.join(dict.fromkeys(m for _, m in members))}")
    for _ in range(settings.rounds):
        if settings.seconds_left <= 0:
            progress("  out of time: the remaining rounds are not run")
            break
        draws.shuffle(members)
        for entry, mode in members:
            if mode in entry.notes:
                continue
            with _errors_as_notes(entry, workers, mode):
                time.sleep(PAUSE)
                answer = workers.get(entry.contestant).request("window", mode=mode, seconds=settings.seconds)
                entry.times.setdefault(mode, []).append(answer["us_per_step"])
                if "device_us_per_step" in answer:
                    entry.event_times.setdefault(mode, []).append(answer["device_us_per_step"])


def _measure_memory(members: list[tuple[Entry, str]], workers: Workers) -> None:
    """Record the peak memory of each contestant's process."""
    for entry, mode in members:
        if mode in entry.times:
            with _errors_as_notes(entry, workers, mode):
                entry.memory = workers.get(entry.contestant).request("memory")


def _task_arguments(net: Net, settings: Settings) -> dict[str, Any]:
    """The arguments of a worker's `prepare`."""
    task = {"net": dataclasses.asdict(net), "seed": settings.seed, "precision": settings.precision}
    return task if settings.device == "cpu" else task | {"device": settings.device, "store": settings.store}


def prepare_all(
    entries: list[Entry],
    net: Net,
    expected: dict[str, list[float]],
    workers: Workers,
    settings: Settings,
    progress: Progress,
) -> None:
    """Prepare all contestants: one after another, or concurrently with the exclusive ones last."""
    if not settings.concurrent:
        for entry in entries:
            prepare_one(entry, net, expected, workers, settings, progress)
        return
    for entry in entries:  # in this thread, because a process ends with the thread that started it
        workers.start(entry.contestant)
    prepare = functools.partial(
        prepare_one, net=net, expected=expected, workers=workers, settings=settings, progress=progress
    )
    workers.run_concurrently([functools.partial(prepare, e) for e in entries if not e.contestant.exclusive])
    for entry in entries:
        if entry.contestant.exclusive:
            prepare(entry)


def _warm_all(members: list[tuple[Entry, str]], workers: Workers, settings: Settings) -> None:
    """Check predictions against float64, finish compilation, and measure each contestant's pace."""

    def warm(entry: Entry, mode: str) -> None:
        with _errors_as_notes(entry, workers, mode):
            worker = workers.get(entry.contestant)
            if mode == "predict" and entry.has_losses:
                _check_outputs(entry, worker.request("outputs")["disagreement"], settings)
            if mode not in entry.notes:
                worker.request("warm", mode=mode)

    if settings.concurrent:
        workers.run_concurrently([functools.partial(warm, e, m) for e, m in members if not e.contestant.exclusive])
    for entry, mode in members:  # again if it ran concurrently, to measure the pace alone
        if mode not in entry.notes:
            warm(entry, mode)


def prepare_one(
    entry: Entry, net: Net, expected: dict[str, list[float]], workers: Workers, settings: Settings, progress: Progress
) -> None:
    """Prepare a contestant and compare its first losses with the reference."""
    contestant = entry.contestant
    try:
        worker = workers.get(contestant)
    except Absent as error:
        entry.reject(f"not run ({error})")
        return
    except Failed as error:
        entry.reject(f"failed ({error})")
        return
    with _errors_as_notes(entry, workers):
        progress(f"  preparing {contestant.name}")
        worker.timeout = max(1.0, min(settings.timeout, settings.seconds_left))
        worker.request("prepare", **_task_arguments(net, settings), **dict(contestant.options))
        if not entry.has_losses:
            return
        if settings.device != "cpu":
            entry.product_error = worker.request("product")["error"]
            if (why := precision_problem(entry.product_error, settings.precision)) is not None:
                entry.reject(why)
                return
        answer = worker.request("losses")
        entry.first = answer["seconds"], answer["steps"]
        entry.losses, entry.expected_losses = answer["losses"], expected[contestant.rule]
        entry.disagreement = disagreement(entry.losses, entry.expected_losses)
        allowed = {**LOSS_TOLERANCE, **MAX_LOSS_ERROR}[settings.precision]
        if not entry.disagreement <= allowed:
            entry.reject(f"disagrees (losses differ by {entry.disagreement:.1e} of the largest, {allowed:.0e} allowed)")
            progress(f"  {contestant.name} disagrees")


def precision_problem(error: float | None, precision: str) -> str | None:
    """The reason to reject a contestant whose product has this error; None if the error matches the precision."""
    least, most = PRODUCT_ERROR[precision]
    if error is not None and least <= error <= most:
        return None
    found = "is not finite" if error is None else f"has error {error:.1e}"
    return f"disagrees (its product {found}, {precision} means {least:.0e} to {most:.0e})"


def reject_inaccurate(entries: Iterable[Entry], settings: Settings) -> None:
    """In TF32 and bf16, reject losses with an error more than MAX_ERROR_RATIO times the most accurate one's."""
    if settings.precision not in MAX_LOSS_ERROR:
        return
    agreeing = [e for e in entries if e.disagreement is not None and not e.notes]
    least = min((e.disagreement for e in agreeing if e.disagreement is not None), default=0.0)
    for entry in agreeing:
        assert entry.disagreement is not None
        if entry.disagreement > MAX_ERROR_RATIO * least:
            entry.reject(
                f"disagrees (losses differ by {entry.disagreement:.1e} of the largest, "
                f"{MAX_ERROR_RATIO:.0f} times the most accurate one's {least:.1e} allowed)"
            )


def _check_outputs(entry: Entry, difference: float | None, settings: Settings) -> None:
    """Reject predictions that differ from float64 by more than the tolerance."""
    allowed = OUTPUT_TOLERANCE[settings.precision]
    if difference is None:
        entry.reject("disagrees (predictions are not finite)", ["predict"])
    elif not difference <= allowed:
        entry.reject(
            f"disagrees (predictions differ by {difference:.1e} of the largest, {allowed:.0e} allowed)", ["predict"]
        )


@contextmanager
def _errors_as_notes(entry: Entry, workers: Workers, mode: str | None = None) -> Iterator[None]:
    """Turn a worker's error into a note for this mode and the modes without a time.

    A failed worker is started again for the next net.
    """
    try:
        yield
    except Unsupported as error:
        entry.reject(f"not measured ({error})", None if mode is None else [mode])
    except Failed as error:
        if mode is not None:
            entry.reject(f"failed ({error})", [mode])
        entry.reject(f"failed ({error})", [m for m in entry.contestant.modes if m not in entry.times])
        workers.drop(entry.contestant.name)
