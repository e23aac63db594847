"""The resident memory of this process, in bytes.

The peak is VmHWM, which starts with the program. `ru_maxrss` starts with the parent's peak, so
it is used only where there is no /proc.
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
    """The peak resident memory; None if the system does not report it."""
    found = _status("VmHWM")
    if found is None and resource is not None:
        usage = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return usage if sys.platform == "darwin" else usage * 1024
    return found


def now() -> int | None:
    """The current resident memory, or the peak if the system reports only that."""
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
