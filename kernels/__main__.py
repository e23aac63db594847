"""`python -m gpunn.kernels build` compiles all kernels; `wheel` adds them to a wheel; `status` reports which run."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

from . import all_kernels
from ._compiler import cpu_cache, prebuilt
from ._compiler.compiler import CompileError, Source

EPILOG = """
build
  Without --into, compiles for this processor into the cache folder. With --into,
  makes a bundle for every processor of this architecture, which GPUNN_PREBUILT
  names on machines without a compiler.

wheel
  Adds the libraries for a platform to a pure wheel (default: a new wheel of the
  project in the current folder). Needs `pip install build wheel ziglang`.
"""


def all_sources() -> list[Source]:
    """Every source that a network can need: those of the kernels and of the CPU backend."""
    native = importlib.import_module("gpunn.backend.cpu.native")
    return [*cpu_cache.all_sources(), *native.sources()]


def main() -> int:
    """Run the command. The exit status is 1 if the kernels cannot be compiled."""
    options = _parser().parse_args()
    if options.command == "status":
        found = cpu_cache.status()
        print(f"implementation on this CPU: {found.implementation} ({found.reason})\ncache: {found.cache}")
        return 0
    try:
        return _wheel(options) if options.command == "wheel" else _build(options)
    except (CompileError, OSError) as error:
        print(f"the kernels were not compiled: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m gpunn.kernels",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    build = commands.add_parser("build", help="compile all kernels")
    build.add_argument("--into", type=Path, metavar="DIR", help="make a bundle in this folder")
    build.add_argument("--force", action="store_true", help="compile again what the cache contains")
    wheel = commands.add_parser("wheel", help="add compiled kernels to a wheel")
    wheel.add_argument("pure", nargs="?", type=Path, metavar="WHEEL", help="the pure wheel")
    wheel.add_argument("--target", choices=[*prebuilt.TARGETS], default="linux-x86_64", help="the platform")
    wheel.add_argument("--into", type=Path, default=Path("dist"), metavar="DIR", help="for the new wheel (dist)")
    commands.add_parser("status", help="report which implementation runs, and why")
    return parser


def _build(options: argparse.Namespace) -> int:
    sources = all_sources()
    if options.into is None:
        cpu_cache.compile_all(sources, again=options.force)
        into = cpu_cache.cache_folder()
    else:
        into = options.into
        prebuilt.build(sources, into, prebuilt.here())
    print(f"compiled {len(all_kernels())} kernels, {len(sources)} sources, into {into}")
    return 0


def _wheel(options: argparse.Namespace) -> int:
    from ._compiler.wheel import add_libraries

    print(add_libraries(all_sources(), prebuilt.TARGETS[options.target], options.into, options.pure))
    return 0


if __name__ == "__main__":
    sys.exit(main())
