"""Stages of a long check: processes that may be stopped. Outcomes are stored, so that the next call resumes.

A stopped stage is tried again after the stages that were never tried, so that a slow one does not block others.
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

MAX_TRIES = 3  # of a stage that crashes or is stopped; then it counts as failed
TAIL = 1500  # last characters of a failed stage's output
GRACE_SECONDS = 5.0  # a stopped process has this long for its report
RESERVE = 3.0 + GRACE_SECONDS  # seconds reserved for saving


@dataclass(frozen=True)
class Stage:
    """A process to run.

    name         the name of the stage
    command      module and arguments, given its seconds and a folder for its output
    min_seconds  it is not started with less time left
    max_seconds  it is stopped after this time
    outcome_of   the outcome of an exit status: "done", "incomplete" or "failed"
    read         read its output from the folder, as part of the state
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
    """The end of a stage's process: its exit status, None if it was stopped, and its last output."""

    status: int | None
    printed: str
    seconds: float


State = dict[str, Any]
Run = Callable[[Stage, float, Path], Outcome]


def process(stage: Stage, seconds: float, folder: Path, environment: dict[str, str]) -> Outcome:
    """Run a stage's process for at most `seconds`. No process remains, even after an exception."""
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
    # without the names of folders on this machine
    return re.sub(r"(?:[A-Za-z]:)?[/\\](?:[^\s/\\'\"()\[\]]+[/\\])+", "", text)[-TAIL:].strip()


def pending(stages: Iterable[Stage], state: State) -> list[Stage]:
    """The stages to run: those never tried, then those that were stopped, crashed or are incomplete."""
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
    """Run the pending stages until the deadline. `state` is updated and saved after every stage, with `about`.

    An interruption is saved as a stopped stage and raised again.
    """
    for stage in pending(stages, state):
        seconds = min(stage.max_seconds, seconds_left() - RESERVE)
        if seconds < stage.min_seconds:
            progress(f"{stage.name}: not started, it needs {stage.min_seconds:.0f} s and has {max(0.0, seconds):.0f}")
            continue
        progress(f"{stage.name}: at most {seconds:.0f} s")
        before = state["stages"].get(stage.name, {})
        record = {"state": "stopped", "message": "interrupted", "tries": before.get("tries", 0) + 1, **about}
        state["stages"][stage.name] = record
        with tempfile.TemporaryDirectory(prefix="gpunn-stage-") as name:
            folder = Path(name)
            try:
                outcome = run(stage, seconds, folder)
                record |= stage_record(stage, outcome, record["tries"])
                state.update(read_output(stage, folder, record))
            finally:
                save()
        progress(f"{stage.name}: {record['state']}, {record['message']}")


def stage_record(stage: Stage, outcome: Outcome, tries: int) -> dict[str, Any]:
    """The record of a stage's outcome."""
    last = outcome.printed.splitlines()[-1:] or [""]
    record: dict[str, Any] = {"seconds": round(outcome.seconds, 1), "message": last[0][:200]}
    if outcome.status is None:
        record |= {"state": "stopped", "message": f"stopped after {outcome.seconds:.0f} s"}
    else:
        record["state"] = stage.outcome_of(outcome.status)
        if record["state"] == "failed":
            record |= {"exit": outcome.status, "printed": outcome.printed}
            # a crash may be accidental, so the stage is tried again
            record["state"] = "failed" if tries >= MAX_TRIES else "crashed"
    if record["state"] == "stopped" and tries >= MAX_TRIES:
        record |= {"state": "failed", "message": f"stopped {tries} times, the last time after {outcome.seconds:.0f} s"}
    return record


def read_output(stage: Stage, folder: Path, record: dict[str, Any]) -> dict[str, Any]:
    """Read a stage's output. An invalid file is recorded and changes nothing else."""
    try:
        return stage.read(folder)
    except (OSError, ValueError, KeyError) as error:
        if record["state"] == "done":
            record |= {"state": "crashed", "message": f"its output is not readable: {type(error).__name__}"}
        return {}


def time_left(budget: float | None) -> Callable[[], float]:
    """A function that returns the rest of a budget, counted from now."""
    until = math.inf if budget is None else time.monotonic() + budget
    return lambda: until - time.monotonic()
