"""Compilation of C++ on a CPU, with a private cache of shared libraries.

GPUNN_CACHE names the cache folder (default: the user's cache folder), GPUNN_COMPILE=0 disables compilation, CXX names
the compiler.
"""

from __future__ import annotations

import contextlib
import contextvars
import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from .cpu_codegen import CompilationUnit, cpu_source, unit_of
from .definition import DEFINITIONS, KernelDefinition

# -fno-trapping-math changes no result; without it, comparisons of possible NaNs are not vectorized
NUMERICS = ("-march=native", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off")
FLAGS = ("-O3", *NUMERICS, "-std=c++17", "-fPIC", "-shared", "-w")

_lock = threading.RLock()
_libraries: dict[CompilationUnit, ctypes.CDLL | None] = {}
_compile_error: str | None = None
_use_numpy = contextvars.ContextVar("use_numpy", default=False)


@dataclass(frozen=True)
class KernelStatus:
    """The implementation of the kernels that runs on the CPU ("compiled" or "numpy"), the reason, the cache folder."""

    implementation: str
    reason: str
    cache: str


class CompileError(RuntimeError):
    """A source that does not compile. The message contains the compiler's output."""


# --- settings -------------------------------------------------------------------------------------------------------


def cache_folder() -> Path:
    """The cache folder: GPUNN_CACHE, or `gpunn` in the user's cache folder."""
    named = os.environ.get("GPUNN_CACHE")
    if named:
        return Path(named).expanduser()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "gpunn"


def compiler() -> list[str] | None:
    """The C++ compiler's command: CXX, or the first of c++, g++ and clang++ on the PATH. None if there is none."""
    try:
        named = shlex.split(os.environ.get("CXX", ""))
    except ValueError:
        return None
    if named:
        return named if shutil.which(named[0]) else None
    for name in ("c++", "g++", "clang++"):
        if shutil.which(name):
            return [name]
    return None


def _no_compiler() -> str:
    named = os.environ.get("CXX", "").strip()
    try:
        shlex.split(named)
    except ValueError as error:
        return f"CXX={named!r} is not a command ({error}): correct or unset it"
    return f"CXX names {named}, which was not found" if named else "no C++ compiler was found: install g++ or clang++"


@contextlib.contextmanager
def use_numpy() -> Iterator[None]:
    """Bind NumPy references within this context and thread, as with GPUNN_COMPILE=0."""
    token = _use_numpy.set(True)
    try:
        yield
    finally:
        _use_numpy.reset(token)


def compilation_enabled() -> bool:
    """False with GPUNN_COMPILE=0 and within `use_numpy()`."""
    return os.environ.get("GPUNN_COMPILE") != "0" and not _use_numpy.get()


def status() -> KernelStatus:
    """Report which implementation runs on this CPU, and why. Compiles nothing."""
    cache = str(cache_folder())
    if not compilation_enabled():
        return KernelStatus("numpy", "GPUNN_COMPILE=0", cache)
    command = compiler()
    if command is None:
        return KernelStatus("numpy", _no_compiler(), cache)
    if _compile_error is not None:
        return KernelStatus("numpy", _compile_error, cache)
    try:
        _private_folder()
    except OSError as error:
        return KernelStatus("numpy", f"the cache folder cannot be used: {error}", cache)
    return KernelStatus("compiled", f"{shlex.join(command)} compiles each kernel once into the cache", cache)


# --- the cache of compiled sources ----------------------------------------------------------------------------------


def _private_folder() -> Path:
    """The cache folder, created with mode 0700.

    Raises OSError if it belongs to another user, if others may write to it, or if it is not writable.
    """
    folder = cache_folder()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if hasattr(os, "getuid"):
        about = folder.stat()
        if about.st_uid != os.getuid():
            raise PermissionError(f"{folder} belongs to another user")
        if stat.S_IMODE(about.st_mode) & 0o022:
            # the mode is not changed, because the user may share the folder on purpose
            raise PermissionError(f"{folder} can be written by others: chmod 700, or name another in GPUNN_CACHE")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"{folder} is not writable")
    return folder


@functools.cache
def _cpu() -> str:
    """The processor's model and features, on which -march=native depends."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return "\n".join(sorted({x for x in lines if x.startswith(("model name", "flags", "Features"))}))
    except OSError:
        return f"{platform.machine()} {platform.processor()}"


@functools.cache
def _compiler_version(command: tuple[str, ...]) -> str:
    return subprocess.run([*command, "--version"], capture_output=True, text=True, check=False).stdout


def compile_source(source: str, command: list[str], flags: tuple[str, ...] = ()) -> Path:
    """Compile a translation unit into the cache, unless it is there, and return the path of the library.

    The file name is a hash of source, compiler, flags and processor. The library is written to a temporary folder and
    renamed, so that several processes may compile concurrently.

    Parameters
    ----------
    source : str
        C++ source.
    command : list of str
        The compiler and its arguments.
    flags : tuple of str
        Flags in addition to FLAGS.

    Raises
    ------
    CompileError
        With the compiler's output, if the source does not compile.
    OSError
        If the cache folder cannot be used.
    """
    folder = _private_folder()
    key = "\0".join([source, *command, _compiler_version(tuple(command)), *FLAGS, *flags, _cpu()])
    target = folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.so"
    if not target.exists():
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            unit, built = Path(scratch) / "kernels.cpp", Path(scratch) / "kernels.so"
            unit.write_text(source, encoding="utf-8")
            done = subprocess.run(
                [*command, *FLAGS, *flags, str(unit), "-o", str(built), "-lm"],
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode != 0:
                raise CompileError(done.stderr.strip() or f"{shlex.join(command)} exited with {done.returncode}")
            os.replace(built, target)
    if hasattr(os, "getuid") and target.stat().st_uid != os.getuid():
        raise PermissionError(f"{target} belongs to another user")
    return target


# --- the kernels' libraries -----------------------------------------------------------------------------------------


def library(unit: CompilationUnit) -> ctypes.CDLL | None:
    """The compiled library of a unit, or None if the NumPy references must be used."""
    if not compilation_enabled():
        return None
    try:
        return _libraries[unit]
    except KeyError:
        pass
    with _lock:
        if unit not in _libraries:
            _libraries[unit] = _load_or_compile(unit)
        return _libraries[unit]


def _load_or_compile(unit: CompilationUnit) -> ctypes.CDLL | None:
    global _compile_error
    command = compiler()
    if command is None:
        return None
    try:
        return ctypes.CDLL(str(compile_source(cpu_source(unit), command)))
    except (OSError, CompileError) as error:
        _compile_error = f"compiling the kernels of {unit.module} failed: {error}"
        return None


def invalidate(module: str | None = None) -> None:
    """Drop the loaded libraries of one module, or all libraries and the last compile error."""
    global _compile_error
    with _lock:
        for unit in [u for u in _libraries if module in (None, u.module)]:
            del _libraries[unit]
        if module is None:
            _compile_error = None


def precompile(requests: Iterable[tuple[KernelDefinition, dict[str, str]]]) -> None:
    """Compile in parallel the units of these kernels and types that are not in the cache."""
    missing = {unit for unit in (unit_of(kernel, types) for kernel, types in requests) if unit not in _libraries}
    if len(missing) < 2 or not compilation_enabled() or compiler() is None:
        return
    # an error occurs again, and is reported, when the library is loaded
    with contextlib.suppress(CompileError, OSError):
        _compile_in_parallel(missing)


def build() -> set[CompilationUnit]:
    """Compile every registered kernel for all its types and return the units. Raises CompileError or OSError."""
    if compiler() is None:
        raise CompileError(_no_compiler())
    units = {unit_of(k, types) for k in DEFINITIONS.values() for types in k.signature.type_combinations()}
    _compile_in_parallel(units)
    return units


def _compile_in_parallel(units: set[CompilationUnit]) -> None:
    command = compiler()
    assert command is not None
    # the longest source first, so that no thread ends with a long compilation while the others are idle
    sources = sorted(map(cpu_source, units), key=len, reverse=True)
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        list(pool.map(lambda source: compile_source(source, command), sources))
