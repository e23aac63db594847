"""Bundles: folders with the compiled libraries of all sources, for machines without a compiler.

A bundle has one library per instruction set, and a manifest with the keys of its sources and the digests of its
libraries. A platform wheel contains a bundle; GPUNN_PREBUILT names another. `build` makes one.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import json
import os
import platform
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from . import compiler
from .compiler import Source
from .library_cache import check_trusted, digest_of, load, replace

PACKAGED = Path(__file__).parents[1] / "_prebuilt"
MANIFEST = "manifest.json"
FORMAT = 1
# instruction sets by architecture, the smallest first, with NumPy's names of the features that the others need
LEVELS: dict[str, dict[str, tuple[tuple[str, ...], ...]]] = {
    "x86_64": {
        "x86-64": (),
        "x86-64-v3": (("X86_V3",), ("AVX2", "FMA3")),
        "x86-64-v4": (("X86_V4",), ("AVX512_SKX",)),
    },
    "aarch64": {"armv8-a": ()},
}
# compilers use half of AVX-512's registers for loops unless they know the processor
VECTOR_WIDTH = {"x86-64-v4": ("-mprefer-vector-width=512",)}


@dataclass(frozen=True)
class Target:
    """A platform for which a bundle is built.

    Attributes
    ----------
    system, machine : str
        As `sys.platform` and `architecture()` name them there.
    triple : str
        The target of ziglang, or "" for this machine's compiler.
    suffix : str
        Of a shared library.
    wheel_tag : str
        The platform tag of a wheel.
    """

    system: str
    machine: str
    triple: str = ""
    suffix: str = ".so"
    wheel_tag: str = ""


# ziglang links with the oldest supported C library
TARGETS = {
    "linux-x86_64": Target(
        "linux", "x86_64", "x86_64-linux-gnu.2.17", wheel_tag="manylinux_2_17_x86_64.manylinux2014_x86_64"
    ),
    "linux-aarch64": Target(
        "linux", "aarch64", "aarch64-linux-gnu.2.17", wheel_tag="manylinux_2_17_aarch64.manylinux2014_aarch64"
    ),
    "windows-x86_64": Target("win32", "x86_64", "x86_64-windows-gnu", ".dll", "win_amd64"),
    "macos-x86_64": Target("darwin", "x86_64", "x86_64-macos.11.0", ".dylib", "macosx_11_0_x86_64"),
    "macos-aarch64": Target("darwin", "aarch64", "aarch64-macos.11.0", ".dylib", "macosx_11_0_arm64"),
}


def architecture() -> str:
    """The name of this machine's instruction set."""
    name = platform.machine().lower()
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(name, name)


def supported_levels() -> list[str]:
    """The instruction sets that this processor executes, the largest first."""
    found = [
        level
        for level, alternatives in LEVELS.get(architecture(), {}).items()
        if not alternatives or any(all(_features().get(name) for name in names) for names in alternatives)
    ]
    return found[::-1]


@functools.cache
def _features() -> dict[str, bool]:
    """The processor's features, as NumPy finds them when it chooses its own loops."""
    module = importlib.import_module("numpy._core._multiarray_umath")
    found: dict[str, bool] = getattr(module, "__cpu_features__", {})
    return found


# --- use ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bundle:
    """A loaded bundle: its origin, the library of one instruction set, and the keys of the sources that are in it."""

    origin: str
    level: str
    library: ctypes.CDLL
    keys: frozenset[str]

    def find(self, source: Source) -> ctypes.CDLL | None:
        """The library, if it contains a source."""
        there = source.key in self.keys and all(hasattr(self.library, symbol) for symbol in source.symbols)
        return self.library if there else None


def bundles() -> list[Bundle]:
    """The usable bundles: that of the installed package, which only a platform wheel has, and GPUNN_PREBUILT's."""
    return [found for found in _found() if isinstance(found, Bundle)]


def faults() -> list[str]:
    """The reasons for which a bundle that is there cannot be used."""
    return [found for found in _found() if isinstance(found, str)]


def _found() -> list[Bundle | str]:
    folder = os.environ.get("GPUNN_PREBUILT")
    found = [_opened(PACKAGED, "the installed package")] if (PACKAGED / MANIFEST).exists() else []
    return found + ([_opened(Path(folder).expanduser(), "GPUNN_PREBUILT")] if folder else [])


@functools.cache
def _opened(folder: Path, origin: str) -> Bundle | str:
    """The bundle in a folder, or the reason for which it cannot be used."""
    try:
        return _open(folder, origin)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"the compiled kernels in {folder} cannot be used: {error}"


def _open(folder: Path, origin: str) -> Bundle:
    check = folder != PACKAGED  # the package is as trustworthy as its Python code
    if check:
        check_trusted(folder)
        check_trusted(folder / MANIFEST)
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    built = manifest["format"], manifest["system"], manifest["machine"]
    here = FORMAT, sys.platform, architecture()
    if built != here:
        raise ValueError(f"they were built for {built[1]} on {built[2]} (format {built[0]}), and this is {here[1:]}")
    files = {each["level"]: each for each in manifest["libraries"]}
    level = next((level for level in supported_levels() if level in files), None)
    if level is None:
        raise ValueError(f"they need one of {', '.join(files)}, which this processor lacks")
    path = folder / Path(files[level]["file"]).name
    if check:
        check_trusted(path)
    if digest_of(path) != files[level]["sha256"]:
        raise ValueError(f"{path.name} is damaged: install or build it again")
    return Bundle(origin, level, load(path, ()), frozenset(manifest["sources"]))


# --- build ----------------------------------------------------------------------------------------------------------


def here() -> Target:
    """This machine, as a target of its own compiler."""
    return Target(sys.platform, architecture())


def build(sources: Sequence[Source], folder: Path, target: Target) -> None:
    """Compile sources for every instruction set of a target into a bundle. CompileError or OSError if that fails."""
    command = list(compiler.ZIG) if target.triple else compiler.find()
    if command is None:
        raise compiler.CompileError(compiler.missing())
    folder.mkdir(parents=True, exist_ok=True)
    libraries = []
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        for level in LEVELS[target.machine]:
            path = folder / f"{level}{target.suffix}"
            replace(_compile_all(sources, command, target, level, Path(scratch)), path)
            libraries.append({"level": level, "file": path.name, "sha256": digest_of(path)})
        manifest = {
            "format": FORMAT,
            "system": target.system,
            "machine": target.machine,
            "libraries": libraries,
            "sources": sorted(source.key for source in sources),
        }
        written = Path(scratch) / MANIFEST
        written.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
        replace(written, folder / MANIFEST)


def _compile_all(sources: Sequence[Source], command: Sequence[str], target: Target, level: str, scratch: Path) -> Path:
    """Compile sources for one instruction set, and link them to one library."""
    zig = tuple(command) == compiler.ZIG
    triple = ("-target", target.triple) if target.triple else ()
    cpu = f"-mcpu={level.replace('-', '_') if target.machine == 'x86_64' else 'generic'}" if zig else f"-march={level}"
    flags = [flag for flag in compiler.FLAGS if flag != "-fPIC" or target.system != "win32"]
    width = VECTOR_WIDTH.get(level, ())
    objects = [scratch / f"{k}.o" for k in range(len(sources))]

    def compile_one(source: Source, built: Path) -> None:
        unit = built.with_suffix(".cpp")
        unit.write_text(source.text, encoding="utf-8")
        compiler.run([*command, *triple, cpu, *width, *flags, *source.flags, "-g0", "-c", str(unit), "-o", str(built)])

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        list(pool.map(compile_one, sources, objects))
    library = scratch / f"{level}{target.suffix}"
    options = ["-shared", "-pthread", *(["-nostdlib++"] if zig else []), *(["-s"] if target.system == "linux" else [])]
    if target.system == "linux":
        options += ["-Wl,--as-needed", "-Wl,-z,defs"]  # no source needs the C++ standard library
    compiler.run([*command, *triple, cpu, *options, *map(str, objects), "-o", str(library), "-lm"])
    return library
