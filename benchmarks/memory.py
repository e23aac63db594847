"""What a process holds, in bytes.

The peak is VmHWM, which begins with the program; `ru_maxrss` would begin with the process that started it, and is taken
only where there is no /proc.
"""

from __future__ import annotations

import sys
from pathlib import Path

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

_STATUS = Path("/proc/self/status")


def peak() -> int | None:
    """The most that was ever resident; None where the system does not tell."""
    found = _status("VmHWM")
    if found is None and resource is not None:
        usage = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return usage if sys.platform == "darwin" else usage * 1024
    return found


def now() -> int | None:
    """What is resident now; where only the peak is told, that."""
    found = _status("VmRSS")
    return peak() if found is None else found


def _status(name: str) -> int | None:
    try:
        lines = _STATUS.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return None
