"""The command line: `gpunn train`, `gpunn predict`, `gpunn evaluate`, `gpunn doctor`. `python -m gpunn` is the same."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
from collections.abc import Sequence
from types import ModuleType

from .. import __version__, backend
from ..kernels._compiler.cpu_cache import compilation_notice
from ..parallel import DataParallel
from ..training import DivergenceError
from . import doctor, evaluate, predict, train
from .arguments import CommandParser, n_processes, process_rank

COMMANDS: dict[str, ModuleType] = {"train": train, "predict": predict, "evaluate": evaluate, "doctor": doctor}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Parameters
    ----------
    arguments : sequence of str, optional
        The words of the command line, by default those of this process.

    Returns
    -------
    int
        The exit status: 0, 1 if `gpunn doctor` found a problem, 2 for an error that the user can correct (one line on
        stderr), 130 after Ctrl-C.
    """
    with contextlib.ExitStack() as stack:
        # under mpiexec only rank 0 prints; any failure of another rank stops the job with a message
        silent = bool(process_rank())
        for name, redirect in (("stdout", contextlib.redirect_stdout), ("stderr", contextlib.redirect_stderr)):
            stream = getattr(sys, name)
            if silent or stream is None:  # Python has no stream for a closed descriptor
                devnull = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
                stack.enter_context(redirect(devnull))
            elif isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="replace")  # not every terminal can show R²
        options = _parser().parse_args(arguments)
        stack.enter_context(compilation_notice(lambda line: print(line, file=sys.stderr, flush=True)))
        return _run(options)


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(prog="gpunn", description="Train multi-layer perceptrons on tables with NumPy or CuPy.")
    parser.add_argument("--version", action="version", version=f"gpunn {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, module in COMMANDS.items():
        command = commands.add_parser(
            name,
            help=module.HELP,
            description=module.DESCRIPTION,
            epilog=getattr(module, "EXAMPLES", None),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.set_defaults(run=module.run)
        module.add_arguments(command)
    return parser


def _run(options: argparse.Namespace) -> int:
    """Run the chosen command and turn errors into one line and an exit status."""
    if process_rank() and options.command != "train":
        return 0  # only training is distributed; rank 0 does the rest
    try:
        options.strategy = _strategy(options)
        with options.strategy.start().collective() if options.strategy is not None else contextlib.nullcontext():
            return int(options.run(options))
    except BrokenPipeError:
        # the reader of the pipe has closed it; without this Python would report the error again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ValueError, OSError, ImportError, MemoryError, backend.DeviceError, DivergenceError) as error:
        print(f"gpunn {options.command}: error: {_one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        saved = getattr(options, "checkpoint", None)
        resumable = saved is not None and saved.exists()
        consequence = f"the same command with --resume continues from {saved}" if resumable else "nothing was written"
        print(f"gpunn {options.command}: interrupted, {consequence}", file=sys.stderr)
        return 130


def _strategy(options: argparse.Namespace) -> DataParallel | None:
    """The strategy of a training that mpiexec started with several processes, otherwise None."""
    return DataParallel() if options.command == "train" and n_processes() > 1 else None


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__
