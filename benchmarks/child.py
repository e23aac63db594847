"""Processes that do not outlive the one that started them: `python -m benchmarks.child MODULE ARGUMENT …`.

Whoever starts one gives it a session of its own, ends all of that session's processes at once, and where it dies itself
before it can, the system ends the child (Linux) or the child sees its pipe closed.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import runpy
import signal
import subprocess
import sys
from typing import Any

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> None:
    """Ask the system to end this process when the one that started it ends. Only Linux can; elsewhere nothing happens.

    It is the thread that started it whose end counts: start processes from a program's main thread."""
    if not sys.platform.startswith("linux"):
        return
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before it could be asked
        os._exit(1)


def start(arguments: list[str], **options: Any) -> subprocess.Popen[Any]:
    """A Python process that runs a module as a program, in a session of its own."""
    command = [sys.executable, "-m", "benchmarks.child", str(os.getpid()), *arguments]
    return subprocess.Popen(command, start_new_session=True, **options)


def end(process: subprocess.Popen[Any], patience: float = 0.0) -> None:
    """End a process with all that it started: asked first where there is patience, then by force."""
    if patience > 0:
        _signal(process, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=patience)
    _signal(process, getattr(signal, "SIGKILL", signal.SIGTERM))
    process.wait()


def _signal(process: subprocess.Popen[Any], number: int) -> None:
    # the group may outlive its first process, whose number nobody else gets until it was waited for
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, number)
        elif process.poll() is None:
            process.send_signal(number)


def exit_on_sigterm() -> None:
    """Let a request to end unwind the program as Ctrl-C does, so that its children are ended."""

    def handle(number: int, frame: Any) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, handle)


def main() -> None:
    """Run the module. Asked to end, it is interrupted as by Ctrl-C: tests that are cut off write their report."""
    parent, module, *rest = sys.argv[1:]
    die_with_parent(int(parent))
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.argv = [module, *rest]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
