"""Find out whether a GPU is available, and describe it."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

from gpunn import backend

NO_GPU = 3  # exit status of a command that needs a GPU


def why_no_gpu() -> str:
    """The reason why no GPU can be measured, in one line; "" if one can."""
    try:
        backend.get("cuda")
    except backend.DeviceError as error:
        return " ".join(str(error).partition(", but ")[2].partition(". Remedy")[0].split())
    return ""


def require_gpu(command: str, purpose: str) -> None:
    """Exit with status NO_GPU and one line on stderr if there is no GPU."""
    reason = why_no_gpu()
    if reason:
        print(f"no GPU here ({reason}): python -m benchmarks {command} would {purpose}", file=sys.stderr)
        raise SystemExit(NO_GPU)


def facts() -> dict[str, Any]:
    """The GPU's name and memory, and the versions of driver, CUDA and CuPy."""
    xp = backend.get("cuda").xp
    runtime = xp.cuda.runtime
    name = runtime.getDeviceProperties(0)["name"]
    cuda = runtime.runtimeGetVersion()
    return {
        "gpu": name.decode() if isinstance(name, bytes) else str(name),
        "gpu_memory_gib": round(runtime.memGetInfo()[1] / 2**30, 1),
        "driver": driver_version(),
        "cuda": f"{cuda // 1000}.{cuda % 1000 // 10}",
        "cupy": str(xp.__version__),
    }


def driver_version() -> str:
    """The version of the NVIDIA driver, "unknown" if nvidia-smi does not report it."""
    try:
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        words = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.split()
    except (OSError, subprocess.SubprocessError):
        words = []
    return words[0] if words else "unknown"
