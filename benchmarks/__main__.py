"""`python -m benchmarks COMMAND`. Each command is a module with HELP, `add_arguments` and `run`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from . import cpu, devices, draw, gpu, gpu_check, kernels, launches, many, out_of_core, readme, scale, since, tables

COMMANDS: dict[str, Any] = {
    "cpu": cpu,
    "gpu": gpu,
    "gpu-check": gpu_check,
    "launches": launches,
    "kernels": kernels,
    "devices": devices,
    "out-of-core": out_of_core,
    "many": many,
    "scale": scale,
    "tables": tables,
    "since": since,
    "draw": draw,
    "readme": readme,
}


def parser() -> argparse.ArgumentParser:
    """Build the parser of all commands."""
    found = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Compare gpunn with other libraries. Run from the root of the checkout; see benchmarks/README.md.",
    )
    commands = found.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, module in COMMANDS.items():
        module.add_arguments(commands.add_parser(name, help=module.HELP))
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status."""
    arguments = parser().parse_args(argv)
    status: int = COMMANDS[arguments.command].run(arguments)
    return status


if __name__ == "__main__":
    sys.exit(main())
