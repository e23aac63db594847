"""The origin of a result: machine, versions, commit and date, without host names, user names or paths."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import numpy as np

from gpunn.kernels._compiler import compiler as compiler_command
from gpunn.kernels._compiler import cpu_cache

from .process import ROOT, available_cores


def record(versions: dict[str, str], **settings: Any) -> dict[str, Any]:
    """Describe the machine, the `versions` of the contestants and the `settings` of the run."""
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
    """The processor's name, as reported by the system."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def blas() -> str:
    """The BLAS that NumPy was built with, and the kernels to which the environment limits it."""
    found = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    name = f"{found.get('name', 'unknown')} {found.get('version', '')}".strip()
    limit = os.environ.get("OPENBLAS_CORETYPE")
    return f"{name} with the kernels of OPENBLAS_CORETYPE={limit}" if limit else name


def compiler() -> str:
    """The version line of the compiler of gpunn's kernels, or a note that their NumPy references run."""
    command = compiler_command.find()
    if cpu_cache.status().implementation != "compiled" or command is None:
        return "none: gpunn's NumPy references run"
    try:
        output = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True, timeout=20).stdout
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return output.splitlines()[0].strip() if output else "unknown"


def commit() -> str:
    """The checkout's commit, with a + if files differ from it; "unknown" without git."""
    try:
        head = _git("rev-parse", "--short=12", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        # a copy of the checkout without its history takes the commit from the environment
        return os.environ.get("GPUNN_COMMIT", "unknown")
    return head + ("+" if changed else "")


def _git(*words: str) -> str:
    command = ["git", "--no-optional-locks", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=20)
    return done.stdout.strip()
