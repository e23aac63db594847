"""`python -m benchmarks draw`: make plots and reports from JSON results, e.g. of a machine without matplotlib."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import goals, gpu_check, report
from .command import FOLDER, draw, progress, write_text

HELP = "make plots and reports from existing JSON results"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.description = f"{HELP[0].upper()}{HELP[1:]}."
    parser.add_argument(
        "--out", type=Path, default=FOLDER, metavar="DIR", help="the folder of the results, also for output"
    )


def run(arguments: argparse.Namespace) -> int:
    """Draw all results in the folder; 1 if there is none, else 0."""
    kinds: dict[str, Callable[[dict[str, Any], list[str]], str]] = {
        "cpu": lambda result, names: report.markdown(result, goals.verdicts(result), names),
        "gpu": lambda result, names: report.markdown(result, goals.verdicts(result, goals.GPU_GOALS), names),
        "gpu-check": lambda state, names: gpu_check.markdown(state, gpu_check.all_stages(arguments.out), names),
    }
    existing = [kind for kind in kinds if (arguments.out / f"{kind}.json").exists()]
    for kind in existing:
        result = json.loads((arguments.out / f"{kind}.json").read_text(encoding="utf-8"))
        names = draw(result, arguments.out, kind)
        write_text(kinds[kind](result, names), arguments.out / f"{kind}.md")
        progress(f"{kind}: {', '.join(names) or 'no plot'}")
    if not existing:
        print(f"no results in {arguments.out}", file=sys.stderr)
    return int(not existing)
