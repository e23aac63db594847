"""`python -m benchmarks draw`: pictures and reports out of the results' JSON, where a machine had no matplotlib."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import goals, gpu_check, report
from .command import FOLDER, draw, say, write_text

HELP = "draw the pictures of results that are there as JSON, and write their reports anew"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own arguments."""
    parser.description = f"{HELP[0].upper()}{HELP[1:]}."
    parser.add_argument("--out", type=Path, default=FOLDER, metavar="DIR", help="where results are, and go")


def run(arguments: argparse.Namespace) -> int:
    """Draw what is there; 1 where there is nothing."""
    kinds: dict[str, Callable[[dict[str, Any], list[str]], str]] = {
        "cpu": lambda result, names: report.markdown(result, goals.verdicts(result), names),
        "gpu": lambda result, names: report.markdown(result, goals.verdicts(result, goals.GPU_GOALS), names),
        "gpu-check": lambda state, names: gpu_check.markdown(state, gpu_check.owed_stages(arguments.out), names),
    }
    there = [kind for kind in kinds if (arguments.out / f"{kind}.json").exists()]
    for kind in there:
        result = json.loads((arguments.out / f"{kind}.json").read_text(encoding="utf-8"))
        names = draw(result, arguments.out, kind)
        write_text(kinds[kind](result, names), arguments.out / f"{kind}.md")
        say(f"{kind}: {', '.join(names) or 'no picture'}")
    if not there:
        print(f"no results in {arguments.out}", file=sys.stderr)
    return int(not there)
