"""The compiled kernels of a CPU: from the user's cache, the installed package, GPUNN_PREBUILT, or the compiler.

GPUNN_COMPILE=0 makes the NumPy references run.
"""

from __future__ import annotations

import contextlib
import contextvars
import ctypes
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from ...user_warnings import warn_user
from . import compiler, library_cache, prebuilt
from .compiler import CompileError, Source
from .cpu_codegen import CompilationUnit, cpu_source, symbols_of, unit_of
from .definition import DEFINITIONS, KernelDefinition
from .library_cache import cache_folder

__all__ = ["CompileError", "KernelStatus", "SlowPathWarning", "cache_folder", "library", "load", "status"]

_lock = threading.RLock()
_notice_lock = threading.Lock()
_libraries: dict[CompilationUnit, ctypes.CDLL | None] = {}
_failure: str | None = None  # the last reason for which a source was not compiled
_warned = False
_use_numpy = contextvars.ContextVar("use_numpy", default=False)
_write_notice: Callable[[str], object] | None = None  # tells a user once that sources are compiled
NOTICE_SECONDS = 0.5


class SlowPathWarning(UserWarning):
    """Issued once per process if Python code runs where compiled kernels would. The message has reason and remedy."""


@dataclass(frozen=True)
class KernelStatus:
    """The implementation of the kernels that runs on the CPU ("compiled" or "numpy"), the reason, the cache folder."""

    implementation: str
    reason: str
    cache: str


# --- settings -------------------------------------------------------------------------------------------------------


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
    if _failure is not None:
        return KernelStatus("numpy", _failure, cache)
    for bundle in prebuilt.bundles():
        return KernelStatus("compiled", f"for {bundle.level}, from {bundle.origin}", cache)
    reasons = prebuilt.faults()
    command = compiler.find()
    if command is not None:
        unusable = library_cache.unusable()
        into = "into the cache" if unusable is None else f"in every process again, because {unusable}"
        reasons.append(f"{compiler.shown(command)} compiles each kernel once {into}")
        return KernelStatus("compiled", "; ".join(reasons), cache)
    if library_cache.find(_source(_probe())) is not None:
        return KernelStatus("compiled", "; ".join([*reasons, "from the cache; no compiler was found"]), cache)
    return KernelStatus("numpy", "; ".join([*reasons, compiler.missing()]), cache)


def _probe() -> CompilationUnit:
    return unit_of(DEFINITIONS["identity"], {"T": "float64"})


# --- libraries ------------------------------------------------------------------------------------------------------


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
            _libraries[unit] = load(_source(unit))
        return _libraries[unit]


def _source(unit: CompilationUnit) -> Source:
    kernels = " ".join([unit.module.rpartition(".")[2], *(name for _, name in unit.types)])
    return Source(kernels, cpu_source(unit), (), symbols_of(unit))


def load(source: Source) -> ctypes.CDLL | None:
    """The library of a source: from the cache, the package, GPUNN_PREBUILT, or compiled.

    None, with a SlowPathWarning, if there is none and it cannot be compiled.
    """
    global _failure
    try:
        return find(source) or _compile_and_load(source)
    except (OSError, CompileError) as error:
        _failure = str(error)
        warn_slow_path(
            f"NumPy code runs where compiled kernels would, up to 50 times slower for small networks: {error}"
        )
        return None


def find(source: Source) -> ctypes.CDLL | None:
    """The library of a source, if it need not be compiled."""
    cached = library_cache.find(source)
    if cached is not None:
        return cached
    found = (bundle.find(source) for bundle in prebuilt.bundles())
    return next((library for library in found if library is not None), None)


def _compile_and_load(source: Source) -> ctypes.CDLL:
    command = compiler.find()
    if command is None:
        raise CompileError("; ".join([*prebuilt.faults(), compiler.missing()]))
    unusable = library_cache.unusable()
    if unusable is not None:
        warn_slow_path(f"kernels are compiled again in every process, which takes seconds: {unusable}")
    for _ in range(2):
        with _announced([source]):
            path = library_cache.compile_source(source, command)
        try:
            return library_cache.load(path, source.symbols)
        except OSError as error:
            reason = str(error)
            library_cache.discard(path)
    raise CompileError(f"a library that was compiled cannot be loaded: {reason}")


def load_probe() -> None:
    """Load the library of one kernel, compiled if necessary. CompileError or OSError if that fails."""
    source = _source(_probe())
    if find(source) is None:
        _compile_and_load(source)


def warn_slow_path(message: str) -> None:
    """Issue a SlowPathWarning, unless this process has issued one."""
    global _warned
    with _lock:
        first, _warned = not _warned, True
    if first:
        warn_user(message, SlowPathWarning)


def invalidate(module: str | None = None) -> None:
    """Drop the loaded libraries of one module, or all libraries and the last failure."""
    global _failure
    with _lock:
        for unit in [u for u in _libraries if module in (None, u.module)]:
            del _libraries[unit]
        if module is None:
            _failure = None


# --- compilation in advance -----------------------------------------------------------------------------------------


def precompile(requests: Iterable[tuple[KernelDefinition, dict[str, str]]]) -> None:
    """Compile in parallel the units of these kernels and types that are not there yet."""
    units = {unit_of(kernel, types) for kernel, types in requests}
    missing = {unit for unit in units if unit not in _libraries}
    if len(missing) < 2 or not compilation_enabled() or compiler.find() is None:
        return
    sources = []
    for unit in missing:
        source = _source(unit)
        found = find(source)
        if found is None:
            sources.append(source)
        else:
            _libraries.setdefault(unit, found)
    # an error occurs again, and is reported, when the library is loaded
    with contextlib.suppress(CompileError, OSError):
        compile_all(sources)


def all_sources() -> list[Source]:
    """The sources of every registered kernel for all its types."""
    units = {unit_of(k, types) for k in DEFINITIONS.values() for types in k.signature.type_combinations()}
    return [_source(unit) for unit in sorted(units)]


def compile_all(sources: Iterable[Source], *, again: bool = False) -> None:
    """Compile sources in parallel into the cache, also those that are there if `again`. CompileError or OSError."""
    command = compiler.find()
    if command is None:
        raise CompileError(compiler.missing())
    # the longest source first, so that no thread ends with a long compilation while the others are idle
    ordered = sorted(sources, key=lambda source: len(source.text), reverse=True)
    with _announced(ordered), ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        list(pool.map(lambda source: library_cache.compile_source(source, command, again=again), ordered))


# --- notice ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def compilation_notice(write: Callable[[str], object]) -> Iterator[None]:
    """Call `write` once with a line of text if a compilation within this context takes longer than NOTICE_SECONDS."""
    global _write_notice
    before, _write_notice = _write_notice, write
    try:
        yield
    finally:
        _write_notice = before


@contextlib.contextmanager
def _announced(sources: Sequence[Source]) -> Iterator[None]:
    """Compile these sources within the context, with the notice."""

    def notify() -> None:
        global _write_notice
        with _notice_lock:
            write, _write_notice = _write_notice, None
        if write is not None:
            groups = "1 group" if len(sources) == 1 else f"{len(sources)} groups"
            write(f"compiling {groups} of kernels once, into {library_cache.writable_folder()} …")

    if _write_notice is None:
        yield
        return
    timer = threading.Timer(NOTICE_SECONDS, notify)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
