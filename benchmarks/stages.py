"""Stages of a long check: each a process that may be stopped; its outcome is kept in a file, and the next call goes on.

A stage that is cut off is tried again behind those that were never tried, so that one which takes too long holds
nobody up.
"""

from __future__ import annotations

import math
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from . import child
from .process import ROOT

MAX_TRIES = 3  # of a stage that crashes or is cut off; then it counts as failed
TAIL = 1500  # characters of what a failed stage said last
GRACE_SECONDS = 5.0  # seconds that what is cut off has for its report
RESERVE = 3.0 + GRACE_SECONDS  # seconds that are kept for saving


@dataclass(frozen=True)
class Stage:
    """What is to be run.

    name     as it is called
    command  module and arguments, from the seconds that it may take and a folder for what it leaves
    least    seconds without which it is not begun
    most     seconds after which it is stopped
    ended    what its exit status means: "done", "left" (more of it is owed) or "failed"
    read     what it left in the folder, as part of the state
    """

    name: str
    command: Callable[[float, Path], Sequence[str]]
    min_seconds: float
    max_seconds: float
    outcome_of: Callable[[int], str]
    read: Callable[[Path], dict[str, Any]]
    environment: dict[str, str] | None = None


@dataclass(frozen=True)
class Outcome:
    """How a stage's process ended: its exit status, None where it was stopped, and the end of what it printed."""

    status: int | None
    printed: str
    seconds: float


State = dict[str, Any]
Run = Callable[[Stage, float, Path], Outcome]


def process(stage: Stage, seconds: float, folder: Path, environment: dict[str, str]) -> Outcome:
    """Run a stage's process for so many seconds at most; whatever happens, nothing of it is left running."""
    begun = time.monotonic()
    with tempfile.TemporaryFile() as printed:
        command = list(stage.command(seconds, folder))
        running = child.start(
            command,
            stdin=subprocess.DEVNULL,
            stdout=printed,
            cwd=ROOT,
            env={**environment, **(stage.environment or {})},
        )
        try:
            status: int | None = running.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            status = None
            child.end(running, grace_seconds=GRACE_SECONDS)
        finally:
            child.end(running)
        return Outcome(status, _tail(printed), time.monotonic() - begun)


def _tail(printed: IO[bytes]) -> str:
    printed.seek(0)
    text = printed.read().decode("utf-8", "replace")
    # without the folders of this machine
    return re.sub(r"(?:[A-Za-z]:)?[/\\](?:[^\s/\\'\"()\[\]]+[/\\])+", "", text)[-TAIL:].strip()


def pending(stages: Iterable[Stage], state: State) -> list[Stage]:
    """The stages that are owed: those never tried, then those that were cut off, crashed or left something."""
    found = [s for s in stages if state["stages"].get(s.name, {}).get("state") not in ("done", "failed")]
    return sorted(found, key=lambda s: state["stages"].get(s.name, {}).get("tries", 0))


def run_pending(
    stages: Sequence[Stage],
    state: State,
    seconds_left: Callable[[], float],
    save: Callable[[], None],
    run: Run,
    progress: Callable[[str], None],
    about: dict[str, Any],
) -> None:
    """Run what is owed as long as there is time; `state` grows and is saved after every stage, `about` kept with each.

    An interruption is saved as a stage that was cut off, and goes on up.
    """
    for stage in pending(stages, state):
        seconds = min(stage.max_seconds, seconds_left() - RESERVE)
        if seconds < stage.min_seconds:
            progress(f"{stage.name}: left, it needs {stage.min_seconds:.0f} s and has {max(0.0, seconds):.0f}")
            continue
        progress(f"{stage.name}: {seconds:.0f} s at most")
        before = state["stages"].get(stage.name, {})
        record = {"state": "cut off", "said": "stopped from outside", "tries": before.get("tries", 0) + 1, **about}
        state["stages"][stage.name] = record
        with tempfile.TemporaryDirectory(prefix="gpunn-stage-") as name:
            folder = Path(name)
            try:
                outcome = run(stage, seconds, folder)
                record |= stage_record(stage, outcome, record["tries"])
                state.update(read_output(stage, folder, record))
            finally:
                save()
        progress(f"{stage.name}: {record['state']}, {record['said']}")


def stage_record(stage: Stage, outcome: Outcome, tries: int) -> dict[str, Any]:
    """What an outcome means."""
    last = outcome.printed.splitlines()[-1:] or [""]
    record: dict[str, Any] = {"seconds": round(outcome.seconds, 1), "said": last[0][:200]}
    if outcome.status is None:
        record |= {"state": "cut off", "said": f"stopped after {outcome.seconds:.0f} s"}
    else:
        record["state"] = stage.outcome_of(outcome.status)
        if record["state"] == "failed":
            record |= {"exit": outcome.status, "printed": outcome.printed}
            # what crashed may have met with bad luck; it is tried again
            record["state"] = "failed" if tries >= MAX_TRIES else "crashed"
    if record["state"] == "cut off" and tries >= MAX_TRIES:
        record |= {"state": "failed", "said": f"stopped {tries} times, after {outcome.seconds:.0f} s at last"}
    return record


def read_output(stage: Stage, folder: Path, record: dict[str, Any]) -> dict[str, Any]:
    """What a stage left; a file that makes no sense is said and changes nothing."""
    try:
        return stage.read(folder)
    except (OSError, ValueError, KeyError) as error:
        if record["state"] == "done":
            record |= {"state": "crashed", "said": f"left nothing that can be read: {type(error).__name__}"}
        return {}


def time_left(budget: float | None) -> Callable[[], float]:
    """Seconds of a budget that begins now."""
    until = math.inf if budget is None else time.monotonic() + budget
    return lambda: until - time.monotonic()
