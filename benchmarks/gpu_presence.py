"""Whether there is a GPU, what it is, and what a command says where there is none."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

from gpunn import backend

NO_GPU = 3  # the exit status of a command that needs one


def why_no_gpu() -> str:
    """Why no GPU can be measured, in one line; "" where one can."""
    try:
        backend.get("cuda")
    except backend.DeviceError as error:
        return " ".join(str(error).partition(", but ")[2].partition(". Remedy")[0].split())
    return ""


def missing(command: str, would: str) -> bool:
    """Whether there is no GPU; says so in one line, and what the command would do. Nothing is written then."""
    why = why_no_gpu()
    if why:
        print(f"no GPU here ({why}): python -m benchmarks {command} would {would}", file=sys.stderr)
    return bool(why)


def facts() -> dict[str, Any]:
    """The GPU's name, its memory, the driver and what CuPy was built for."""
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
    try:
        asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        said = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=20).stdout.split()
    except (OSError, subprocess.SubprocessError):
        said = []
    return said[0] if said else "unknown"
