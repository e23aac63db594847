"""What the commands share: progress, files, and parsers of what they are told."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

from . import goals, results

FOLDER = Path(__file__).resolve().parent / "results"
LARGEST_FILE = 300 * 1024
_begun = time.monotonic()


def say(line: str) -> None:
    """Progress, on stderr, with the seconds since the beginning."""
    print(f"{time.monotonic() - _begun:6.0f} s  {line}", file=sys.stderr, flush=True)


def earlier(path: Path, gpu: str) -> dict[str, Any] | None:
    """What earlier calls have written on such a GPU. What is of another is set aside under that one's name, and comes
    back there. None where there is nothing, or nothing that makes sense."""
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        whose = str(found["machine"]["gpu"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if whose == gpu:
        return found
    path.replace(_aside(path, whose))
    say(f"{path.name} was of {whose}: set aside as {_aside(path, whose).name}")
    if not _aside(path, gpu).exists():
        return None
    _aside(path, gpu).replace(path)
    return earlier(path, gpu)


def _aside(path: Path, gpu: str) -> Path:
    return path.with_name(f"{path.stem}-{re.sub('[^a-z0-9]+', '-', gpu.lower()).strip('-')}{path.suffix}")


def write(result: dict[str, Any], path: Path) -> None:
    """A result as JSON, whole or not at all."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    size = results.write(result, beside)
    beside.replace(path)
    _judge(path, size)


def write_text(text: str, path: Path) -> None:
    """A report, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)
    _judge(path, path.stat().st_size)


def _judge(path: Path, size: int) -> None:
    if size > LARGEST_FILE:
        say(f"{path.name} takes {size / 1024:.0f} KiB, more than the {LARGEST_FILE // 1024} that the repository keeps")


def draw(result: dict[str, Any], folder: Path, device: str = "cpu") -> list[str]:
    """Draw the result's pictures where matplotlib is there, and return their names."""
    try:
        from . import plots
    except ImportError as error:
        say(f'no pictures: {error}; pip install -e ".[plot]", then python -m benchmarks draw')
        return []
    return plots.draw(result, folder, device)


def as_data(v: goals.Verdict) -> dict[str, Any]:
    """A verdict as JSON."""
    under = {"threads": v.under} if isinstance(v.under, int) else {"precision": v.under}
    return {**vars(v.goal), **under, "said": v.said, "median": v.median, "upper": v.upper, "whom": v.whom}


def names(known: Any) -> Any:
    """A parser of names, separated by commas, that are all known."""

    def parse(text: str) -> tuple[str, ...]:
        given = tuple(dict.fromkeys(text.split(",")))
        for name in given:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is unknown; there are {', '.join(known)}")
        return given

    return parse


def positive(text: str) -> int:
    """A parser of numbers from 1 on."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value
