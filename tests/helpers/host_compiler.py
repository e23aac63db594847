"""Compile C++ sources for the host and load them. Libraries are named by content and shared by processes and runs."""

import ctypes
import hashlib
import os
import pathlib
import shutil
import subprocess

COMPILER = shutil.which("c++") or shutil.which("g++") or "clang++"
FLAGS = ["-std=c++17", "-O1", "-w", "-fPIC", "-shared", "-ffp-contract=off", "-x", "c++", "-"]


def is_installed():
    """True if a C++ compiler is installed."""
    return shutil.which(COMPILER) is not None


def load_function(source, name, *, error):
    """Return the function `name` of a C++ source as a ctypes function; raise `error` with the compiler's output."""
    folder = pathlib.Path(os.environ["GPUNN_CACHE"]) / "simulated"  # conftest.py sets it
    digest = hashlib.sha256("\0".join([COMPILER, *FLAGS, source]).encode()).hexdigest()
    library = folder / f"{digest}.so"
    if not library.exists():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        unfinished = library.with_suffix(f".{os.getpid()}")
        run = subprocess.run([COMPILER, *FLAGS, "-o", unfinished], input=source, text=True, capture_output=True)
        if run.returncode:
            raise error(run.stderr)
        unfinished.replace(library)
    return getattr(ctypes.CDLL(str(library)), name)
