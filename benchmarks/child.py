"""Child processes that end with their parent: `python -m benchmarks.child MODULE ARGUMENT …`.

The parent starts a child in a new session and ends all processes of that session together. If the parent dies first,
Linux ends the child; elsewhere the child notices that its pipe is closed.
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
    """Make Linux end this process when its parent ends; a no-op on other systems.

    The signal is sent when the parent's *thread* ends, so processes must be started from the main thread.
    """
    if not sys.platform.startswith("linux"):
        return
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # the parent ended before the call
        os._exit(1)


def start(arguments: list[str], **options: Any) -> subprocess.Popen[Any]:
    """Start a Python process that runs a module, in a new session."""
    command = [sys.executable, "-m", "benchmarks.child", str(os.getpid()), *arguments]
    return subprocess.Popen(command, start_new_session=True, **options)


def end(process: subprocess.Popen[Any], grace_seconds: float = 0.0) -> None:
    """End a process and all that it started: by SIGTERM if there are grace seconds, then by SIGKILL."""
    if grace_seconds > 0:
        _signal(process, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=grace_seconds)
    _signal(process, getattr(signal, "SIGKILL", signal.SIGTERM))
    process.wait()


def _signal(process: subprocess.Popen[Any], number: int) -> None:
    # the group may outlive its first process, whose id is not reused before it is waited for
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, number)
        elif process.poll() is None:
            process.send_signal(number)


def exit_on_sigterm() -> None:
    """Exit on SIGTERM as on Ctrl-C, so that child processes are ended."""

    def handle(number: int, frame: Any) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, handle)


def main() -> None:
    """Run the module. SIGTERM interrupts it as Ctrl-C does, so that an interrupted test run still reports."""
    parent, module, *rest = sys.argv[1:]
    die_with_parent(int(parent))
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.argv = [module, *rest]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
