"""Where a result comes from: machine, versions, commit, date. No name of a host or a user, and no path."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import numpy as np

from gpunn.kernels._compiler import host

from .process import ROOT, available_cores


def record(versions: dict[str, str], **settings: Any) -> dict[str, Any]:
    """The machine, `versions` of what took part, and `settings` of the run."""
    return {
        "cpu": cpu_model(),
        "cores": len(available_cores()),
        "architecture": platform.machine(),
        "system": platform.system(),
        "python": platform.python_version(),
        "versions": {"numpy": np.__version__, **dict(sorted(versions.items()))},
        "blas": blas(),
        "compiler": compiler(),
        "commit": commit(),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        **settings,
    }


def cpu_model() -> str:
    """The processor's name as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def blas() -> str:
    """The BLAS that NumPy was built with."""
    found = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    return f"{found.get('name', 'unknown')} {found.get('version', '')}".strip()


def compiler() -> str:
    """The compiler of gpunn's kernels in its own words, or that their NumPy bodies run."""
    command = host.compiler()
    if host.status().implementation != "compiled" or command is None:
        return "none: gpunn's NumPy bodies run"
    try:
        said = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True, timeout=20).stdout
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return said.splitlines()[0].strip() if said else "unknown"


def commit() -> str:
    """The checkout's commit, with a + where files differ from it; "unknown" without git."""
    try:
        head = _git("rev-parse", "--short=12", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        # a copy of the checkout without its history may be told
        return os.environ.get("GPUNN_COMMIT", "unknown")
    return head + ("+" if changed else "")


def _git(*words: str) -> str:
    command = ["git", "--no-optional-locks", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=20)
    return done.stdout.strip()
