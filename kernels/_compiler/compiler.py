"""The C++ compiler of this machine, and the sources that it compiles.

CXX names the compiler. Otherwise it is the first of c++, g++ and clang++, or clang of the Python package ziglang.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import os
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

# -fno-trapping-math changes no result; without it, comparisons of possible NaNs are not vectorized
NUMERICS = ("-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off")
FLAGS = ("-O3", *NUMERICS, "-std=c++17", "-fno-exceptions", "-fPIC", "-w")
NATIVE = ("-march=native",)
ZIG = (sys.executable, "-m", "ziglang", "c++")
REMEDY = 'install g++ or clang++, or pip install "gpunn[compiler]"'


class CompileError(RuntimeError):
    """A source that does not compile. The message contains the compiler's output."""


@dataclass(frozen=True)
class Source:
    """A translation unit.

    Attributes
    ----------
    name : str
        For messages, such as "relu float32".
    text : str
        The C++ text.
    flags : tuple of str
        Flags in addition to FLAGS.
    symbols : tuple of str
        The functions that its library exports.
    """

    name: str
    text: str
    flags: tuple[str, ...] = ()
    symbols: tuple[str, ...] = ()

    @cached_property
    def key(self) -> str:
        """A hash of text and flags."""
        return hashlib.sha256("\0".join([self.text, *self.flags]).encode()).hexdigest()[:32]


def find() -> list[str] | None:
    """The compiler's command, or None if there is none."""
    try:
        named = shlex.split(os.environ.get("CXX", ""))
    except ValueError:
        return None
    if named:
        return named if shutil.which(named[0]) else None
    for name in ("c++", "g++", "clang++"):
        if shutil.which(name):
            return [name]
    return list(ZIG) if importlib.util.find_spec("ziglang") is not None else None


def user_flags() -> list[str]:
    """The arguments that CXX contains."""
    with contextlib.suppress(ValueError):
        return shlex.split(os.environ.get("CXX", ""))[1:]
    return []


def missing() -> str:
    """The reason for which `find` returns None, with a remedy."""
    named = os.environ.get("CXX", "").strip()
    try:
        shlex.split(named)
    except ValueError as error:
        return f"CXX={named!r} is not a command ({error}): correct or unset it"
    return f"CXX names {named}, which was not found" if named else f"no C++ compiler was found: {REMEDY}"


@functools.cache
def cpu() -> str:
    """The processor's model and features, on which NATIVE depends."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return "\n".join(sorted({x for x in lines if x.startswith(("model name", "flags", "Features"))}))
    except OSError:
        return f"{platform.machine()} {platform.processor()}"


def shown(command: Sequence[str]) -> str:
    """The command for messages."""
    return "ziglang" if tuple(command) == ZIG else shlex.join(command)


def compile_shared(source: Source, command: Sequence[str], scratch: Path) -> Path:
    """Compile a source for this processor into a shared library in the folder `scratch`. CompileError if it fails."""
    unit, library = scratch / "kernels.cpp", scratch / "kernels.so"
    unit.write_text(source.text, encoding="utf-8")
    if tuple(command) != ZIG:
        run([*command, *FLAGS, *NATIVE, *source.flags, "-shared", str(unit), "-o", str(library), "-lm"])
        return library
    # with the headers and stubs that ziglang contains, but without its C++ library, which it would compile first
    target = ["-target", f"{platform.machine()}-linux-gnu"] if sys.platform == "linux" else []
    compiled = str(scratch / "kernels.o")
    run([*command, *target, *FLAGS, "-mcpu=native", *source.flags, "-c", str(unit), "-o", compiled])
    run([*command, *target, "-shared", "-nostdlib++", compiled, "-o", str(library), "-lm"])
    return library


def run(command: Sequence[str]) -> None:
    """Run a compiler. CompileError with its output if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise CompileError(done.stderr.strip() or f"{command[0]} exited with {done.returncode}, without a message")
