"""Shared by the commands: progress output, result files, parsers of arguments."""

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
MAX_FILE_BYTES = 300 * 1024
_begun = time.monotonic()


def progress(line: str) -> None:
    """Print progress on stderr, with the seconds since the start."""
    print(f"{time.monotonic() - _begun:6.0f} s  {line}", file=sys.stderr, flush=True)


def load_previous(path: Path, gpu: str) -> dict[str, Any] | None:
    """The result that earlier calls stored for this GPU; None if there is none or the file is invalid.

    The result of another GPU is renamed after that GPU, and back when that GPU is used again.
    """
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        other = str(found["machine"]["gpu"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if other == gpu:
        return found
    path.replace(_path_for_gpu(path, other))
    progress(f"{path.name} was measured on {other}: renamed to {_path_for_gpu(path, other).name}")
    if not _path_for_gpu(path, gpu).exists():
        return None
    _path_for_gpu(path, gpu).replace(path)
    return load_previous(path, gpu)


def _path_for_gpu(path: Path, gpu: str) -> Path:
    return path.with_name(f"{path.stem}-{re.sub('[^a-z0-9]+', '-', gpu.lower()).strip('-')}{path.suffix}")


def write(result: dict[str, Any], path: Path) -> None:
    """Write a result as JSON, atomically."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    size = results.write(result, temporary)
    temporary.replace(path)
    _warn_if_large(path, size)


def write_text(text: str, path: Path) -> None:
    """Write a report, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
    _warn_if_large(path, path.stat().st_size)


def _warn_if_large(path: Path, size: int) -> None:
    if size > MAX_FILE_BYTES:
        progress(
            f"{path.name} has {size / 1024:.0f} KiB; files in the repository have at most {MAX_FILE_BYTES // 1024} KiB"
        )


def draw(result: dict[str, Any], folder: Path, device: str = "cpu") -> list[str]:
    """Draw the plots of a result if matplotlib is installed, and return their names."""
    try:
        from . import plots
    except ImportError as error:
        progress(f'no plots: {error}; pip install -e ".[plot]", then python -m benchmarks draw')
        return []
    return plots.draw(result, folder, device)


def to_json(v: goals.Verdict) -> dict[str, Any]:
    """A verdict as JSON data."""
    under = {"threads": v.under} if isinstance(v.under, int) else {"precision": v.under}
    return {**vars(v.goal), **under, "said": v.outcome, "median": v.median, "upper": v.upper, "whom": v.whom}


def names(known: Any) -> Any:
    """Make a parser of known names, separated by commas."""

    def parse(text: str) -> tuple[str, ...]:
        given = tuple(dict.fromkeys(text.split(",")))
        for name in given:
            if name not in known:
                raise argparse.ArgumentTypeError(f"must be among {', '.join(known)}, got {name!r}")
        return given

    return parse


def positive(text: str) -> int:
    """Parse a positive integer."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value
