"""The kernels' C++ texts on a CPU: generated loops, compiled once into a private cache, called through ctypes.

A compiled kernel takes ``(void* const* at, const long long* sizes, const double* numbers)``: where its arrays are, the
sizes and strides, the scalars. All kernels share this form, so that a plan is a list of (function, at, sizes, numbers).

GPUNN_CACHE names the cache folder (else the user's), GPUNN_COMPILE=0 turns compiling off, CXX names the compiler.
"""

from __future__ import annotations

import contextlib
import contextvars
import copy
import ctypes
import functools
import hashlib
import itertools
import os
import platform
import re
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..state import PREAMBLE
from . import bfloat16, numpy_launch, warp_lanes
from .signature import VARIABLES, Operand
from .vector_math import TEXT as VECTOR_MATH
from .vector_math import ULP as VECTOR_MATH_ULP

if TYPE_CHECKING:
    from .registry import BoundArguments, Kernel

# -fno-trapping-math changes no result: without it comparisons that might meet NaN are not vectorised
NUMERICS = ("-march=native", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off")
FLAGS = ("-O3", *NUMERICS, "-std=c++17", "-fPIC", "-shared", "-w")
LANES = 32
BLOCK_ROWS = 64
TILE = 256

_MATH = re.compile(rf"\b({'|'.join(VECTOR_MATH_ULP)})\s*\(")


class CompilationUnit(NamedTuple):
    """What is compiled together: a family's kernels for one meaning of their type variables."""

    module: str
    types: tuple[tuple[str, str], ...]


def unit_of(kernel: Kernel, types: dict[str, str]) -> CompilationUnit:
    """The unit that holds a kernel for these types."""
    return CompilationUnit(kernel.module, tuple((v, types[v]) for v in kernel.signature.type_variables))


_lock = threading.RLock()
_libraries: dict[CompilationUnit, ctypes.CDLL | None] = {}
_compile_error: str | None = None


@dataclass(frozen=True)
class HostStatus:
    """Which body of the kernels runs on the CPU ("compiled" or "numpy"), why, and where its cache lies."""

    implementation: str
    reason: str
    cache: str


class CompileError(RuntimeError):
    """A kernel's text does not compile; the message holds what the compiler said."""


def variable_types(variable: str) -> tuple[str, ...]:
    """The types that a type variable of a signature may stand for."""
    return VARIABLES[variable]


def cache_folder() -> Path:
    """GPUNN_CACHE, else `gpunn` in the user's cache folder."""
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
    """The C++ compiler's command: CXX, else the first of c++, g++, clang++ on the PATH; None where there is none."""
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


_use_numpy = contextvars.ContextVar("use_numpy", default=False)


@contextlib.contextmanager
def use_numpy() -> Iterator[None]:
    """What is bound meanwhile, in this thread, runs the NumPy bodies, as with GPUNN_COMPILE=0."""
    token = _use_numpy.set(True)
    try:
        yield
    finally:
        _use_numpy.reset(token)


def compilation_enabled() -> bool:
    """Whether texts are to be compiled at all."""
    return os.environ.get("GPUNN_COMPILE") != "0" and not _use_numpy.get()


def status() -> HostStatus:
    """Which body runs on this CPU and why. Compiles nothing."""
    cache = str(cache_folder())
    if not compilation_enabled():
        return HostStatus("numpy", "GPUNN_COMPILE=0", cache)
    command = compiler()
    if command is None:
        return HostStatus("numpy", _no_compiler(), cache)
    if _compile_error is not None:
        return HostStatus("numpy", _compile_error, cache)
    try:
        _private_folder()
    except OSError as error:
        return HostStatus("numpy", f"the cache folder cannot be used: {error}", cache)
    return HostStatus("compiled", f"{shlex.join(command)} compiles the kernels' texts once into the cache", cache)


def bind(kernel: Kernel, call: BoundArguments) -> Callable[[], None]:
    """The launch on the CPU: the compiled text where there is one, else the NumPy body."""
    # a CPU trains in no bfloat16: the definition will do
    if call.bf16 or _library(unit_of(kernel, call.types)) is None:
        return numpy_launch.bind(kernel, call)
    return bind_compiled(kernel, call)


def bind_compiled(kernel: Kernel, call: BoundArguments) -> Callable[[], None]:
    """The launch of the compiled text; RuntimeError where it cannot be compiled."""
    library = _library(unit_of(kernel, call.types))
    if library is None or call.bf16:
        reason = "not for bfloat16 on a CPU" if call.bf16 else status().reason
        raise RuntimeError(f"kernel {kernel.name}: the compiled text cannot run: {reason}")
    operands = kernel.signature.arrays
    arrays, copies = call.arrays, []
    if kernel.form == "by_row":
        arrays = list(arrays)
        for k, (o, a) in enumerate(zip(operands, arrays, strict=True)):
            # a by-row text walks a row with stride one
            if o.kind == "rows" and a.size and a.shape[1] > 1 and a.strides[1] != a.itemsize:
                if o.role != "in":
                    raise ValueError(f"kernel {kernel.name}: the rows of output {o.name} must be contiguous")
                arrays[k] = np.empty(a.shape, a.dtype)
                copies.append((arrays[k], a))
    n, m = call.shape
    ways = _ways(kernel, arrays)
    if kernel.form == "by_row":
        sizes = [0, n, *(call.widths[w] for w in kernel.signature.widths)]
        sizes += [a.strides[0] // a.itemsize for o, a in _strided(kernel, arrays)]
    elif ways == "flat":
        # one long row: the inner loop alone
        sizes = [0, 1, 0, n * m, *(0, 1) * len(_strided(kernel, arrays))]
    else:
        sizes = [0, n, 0, m]
        for o, a in _strided(kernel, arrays):
            sizes += _row_and_column_strides(o, a)
    if kernel.axis == "all":
        sizes.append(0)  # where the result goes, of those of several shares
    values = [call.scalars[o.name] for o in kernel.signature.scalars]
    launch = CompiledLaunch(
        load_function(library, symbol(kernel, call.types)),
        arrays,
        sizes,
        values,
        estimated_ns=0.4 * n * max(m, *call.widths.values(), 1),
        partitioner=_Partitioner(kernel, ways),
    )
    return with_input_copies(copies, launch) if copies else launch


def load_function(library: ctypes.CDLL, name: str) -> Any:
    """A compiled launch's function by name, its address as `address`."""
    found = getattr(library, name)
    if not hasattr(found, "address"):
        found.argtypes, found.restype = (ctypes.c_void_p,) * 3, None
        found.address = ctypes.cast(found, ctypes.c_void_p).value
    return found


@dataclass(frozen=True)
class ThreadTask:
    """One thread's part of a launch, and the bytes (from, to) that it reads and writes."""

    launch: CompiledLaunch
    reads: list[tuple[int, int]]
    writes: list[tuple[int, int]]


class CompiledLaunch:
    """A launch in compiled code: (function, at, sizes, numbers). Called, it runs all of it.

    work       about how many nanoseconds it takes
    splitting  what tells the shares of several threads: (launch, parts) → `Split`
    """

    __slots__ = (
        "_arguments",
        "_block",
        "_sizes",
        "arrays",
        "estimated_ns",
        "function",
        "partitioner",
        "pointers",
        "scalars",
    )

    def __init__(
        self,
        function: Any,
        arrays: list[Any],
        sizes: list[int],
        scalars: Sequence[float] = (),
        *,
        addresses: tuple[int, ...] = (),
        estimated_ns: float,
        partitioner: Callable[[CompiledLaunch, int], Partition] | None = None,
    ) -> None:
        self.function, self.arrays, self.estimated_ns, self.partitioner = function, arrays, estimated_ns, partitioner
        self.pointers = (ctypes.c_void_p * (len(arrays) + len(addresses)))(*map(address_of, arrays), *addresses)
        self.scalars = (ctypes.c_double * max(1, len(scalars)))(*scalars)
        self._sizes = sizes
        self._block = (ctypes.c_longlong * len(sizes))(*sizes)
        self._arguments = tuple(map(ctypes.addressof, (self.pointers, self._block, self.scalars)))

    def __call__(self) -> None:
        self.function(*self._arguments)

    @property
    def sizes(self) -> list[int]:
        """The sizes that it was made with."""
        return self._sizes

    def clone(self) -> CompiledLaunch:
        """The same launch with places of its own for its arrays' addresses."""
        made = copy.copy(self)
        made.pointers = type(self.pointers)(*self.pointers)
        made._arguments = (ctypes.addressof(made.pointers), *self._arguments[1:])
        return made

    def with_sizes(self, sizes: list[int]) -> CompiledLaunch:
        """The same launch with other sizes."""
        made = copy.copy(self)
        made._sizes, made._block = sizes, (ctypes.c_longlong * len(sizes))(*sizes)
        made._arguments = (self._arguments[0], ctypes.addressof(made._block), self._arguments[2])
        return made

    @property
    def node(self) -> tuple[int, int, int, int]:
        """(function, at, sizes, numbers) as addresses."""
        return (self.function.address, *self._arguments)

    def partition(self, parts: int) -> Partition:
        """What `parts` threads do of it, at most one share each, and what must follow."""
        if self.partitioner is not None:
            return self.partitioner(self, parts)
        everything = [byte_range(a) for a in self.arrays]
        return Partition([ThreadTask(self, everything, everything)])


@dataclass(frozen=True)
class Partition:
    """A launch's shares, at most one for each thread, and a launch that joins what they leave."""

    tasks: list[ThreadTask]
    combine: CompiledLaunch | None = None


def chunk_bounds(n: int, parts: int, grain: int) -> list[tuple[int, int]]:
    """0 … n in at most so many stretches (from, to), the inner ends multiples of `grain`. The same for all launches,
    so that a thread goes on with the rows that it has in its cache."""
    ends = [min(n, round(n * k / parts / grain) * grain) for k in range(parts)] + [n]
    return [(a, b) for a, b in itertools.pairwise(ends) if a < b]


ROW_GRAIN, ELEMENT_GRAIN = 4, 64
MIN_NS_TO_SPLIT_REDUCTION = 4000.0  # nanoseconds of a reduction from which on several results and their join pay


def address_of(array: Any) -> int:
    """Where an array's first element lies."""
    found: int = array.__array_interface__["data"][0]
    return found


def byte_range(array: Any) -> tuple[int, int]:
    """The bytes (from, to) that an array's elements lie in; (0, 0) for none."""
    if array.size == 0:
        return 0, 0
    first = last = address_of(array)
    for size, stride in zip(array.shape, array.strides, strict=True):
        if stride < 0:
            first += stride * (size - 1)
        else:
            last += stride * (size - 1)
    return first, last + array.itemsize


def _ways(kernel: Kernel, arrays: list[Any]) -> str:
    """How a launch may be shared: by "rows", by "columns", "flat" (one long row), or "whole"."""
    if kernel.form == "by_row":
        # a row's own place in a raw output is its own
        whole = any(o.kind == "raw" and o.role != "in" for o in kernel.signature.arrays) and not kernel.independent_rows
        return "whole" if whole else "rows"
    if kernel.axis == "rows":
        return "columns"
    flat = all(o.kind == "element" and a.flags.c_contiguous for o, a in _strided(kernel, arrays))
    return "flat" if flat else "rows"


class _Partitioner:
    """The shares of a kernel's launch."""

    def __init__(self, kernel: Kernel, ways: str) -> None:
        self.kernel, self.ways = kernel, ways

    def __call__(self, launch: CompiledLaunch, parts: int) -> Partition:
        kernel, ways, sizes = self.kernel, self.ways, launch.sizes
        low, grain = (0, ROW_GRAIN) if ways == "rows" else (2, ELEMENT_GRAIN)
        stretches = [] if ways == "whole" else chunk_bounds(sizes[low + 1], parts, grain)
        if kernel.axis == "all":
            if (
                len(stretches) > 1
                and launch.estimated_ns > MIN_NS_TO_SPLIT_REDUCTION
                and kernel.combine_kernel is not None
            ):
                return self._partial(launch, stretches)
            stretches = []
        if len(stretches) < 2:
            return Partition([self._share(launch, None)])
        return Partition([self._share(launch, stretch, low) for stretch in stretches])

    def _share(self, launch: CompiledLaunch, stretch: tuple[int, int] | None, low: int = 0) -> ThreadTask:
        sizes = list(launch.sizes)
        if stretch is not None:
            sizes[low : low + 2] = stretch
        reads, writes = [], []
        for o, a in zip(self.kernel.signature.arrays, launch.arrays, strict=True):
            place = byte_range(a if stretch is None else self._part(o, a, *stretch))
            if o.role != "out":
                reads.append(place)
            if o.role != "in":
                writes.append(place)
        return ThreadTask(launch.with_sizes(sizes), reads, writes)

    def _part(self, operand: Operand, array: Any, low: int, high: int) -> Any:
        if operand.kind == "raw":
            return array
        if self.ways == "rows":
            return array if operand.kind == "row" else array[low:high]
        if self.ways == "flat":
            return array.reshape(-1)[low:high]
        return array if operand.kind == "col" else array[..., low:high]

    def _partial(self, launch: CompiledLaunch, stretches: list[tuple[int, int]]) -> Partition:
        """A reduction over everything: every share writes a result of its own, and a last launch joins them."""
        from .registry import get

        kernel, low = self.kernel, 0 if self.ways == "rows" else 2
        parts = np.zeros(len(stretches))
        where = next(k for k, o in enumerate(kernel.signature.arrays) if o.role == "out")
        arrays = [*launch.arrays[:where], parts, *launch.arrays[where + 1 :]]
        partial = CompiledLaunch(
            launch.function, arrays, launch.sizes, list(launch.scalars), estimated_ns=launch.estimated_ns
        )
        shares = []
        for k, stretch in enumerate(stretches):
            share = self._share(partial, stretch, low)
            mine = share.launch.with_sizes([*share.launch.sizes[:-1], k])
            shares.append(ThreadTask(mine, share.reads, [byte_range(parts[k : k + 1])]))
        then = get(kernel.combine_kernel or "").bind_compiled(parts, out=launch.arrays[where])
        assert isinstance(then, CompiledLaunch)
        return Partition(shares, then)


def with_input_copies(copies: list[tuple[Any, Any]], launch: Callable[[], None]) -> Callable[[], None]:
    """The launch preceded by its copies, (into, source): what was bound is read when it runs, not when it was bound."""

    def copy_and_launch() -> None:
        for into, source in copies:
            into[...] = source
        launch()

    return copy_and_launch


def _strided(kernel: Kernel, arrays: list[Any]) -> list[tuple[Operand, Any]]:
    """The operands whose strides the generated loop is told; the result of a reduction is contiguous."""
    return [
        (o, a)
        for o, a in zip(kernel.signature.arrays, arrays, strict=True)
        if o.kind != "raw" and not (kernel.form == "reduction" and o.role == "out")
    ]


def _row_and_column_strides(operand: Operand, array: Any) -> tuple[int, int]:
    steps = [stride // array.itemsize for stride in array.strides]
    if operand.kind == "row":
        return 0, steps[0]
    if operand.kind == "col":
        return steps[0], 0
    return (0, steps[0]) if len(steps) == 1 else (steps[0], steps[1])


# --- the generated C++ ---


def symbol(kernel: Kernel, types: dict[str, str]) -> str:
    """The name of the compiled function for given types: relu__float32."""
    return "__".join([kernel.name, *(types[v] for v in kernel.signature.type_variables)])


def cpu_source(unit: CompilationUnit) -> str:
    """The text of a unit: one template a kernel, and its instance."""
    from .registry import all_kernels

    types = dict(unit.types)
    kernels = [k for k in all_kernels() if k.module == unit.module and k.signature.type_variables == tuple(types)]
    # libstdc++'s special functions take as long to read as all the rest, and no text calls one
    parts = [
        "#include <cstddef>",
        "#undef _GLIBCXX_USE_STD_SPEC_FUNCS",
        "#include <math.h>",
        "#include <cmath>",
        PREAMBLE,
        bfloat16.ON_HOST,
        warp_lanes.ON_HOST,
    ]
    if any(_MATH.search(f"{kernel.source}\n{kernel.prologue}") for kernel in kernels):
        # only there: compiling it takes as long as a family of kernels does
        parts.append(VECTOR_MATH)
    for kernel in kernels:
        parts += [_template(kernel), _instance(kernel, types)]
    return "\n".join(parts) + "\n"


def _instance(kernel: Kernel, types: dict[str, str]) -> str:
    arguments = ", ".join(Operand("", v, "element", "in").c_type(types) for v in kernel.signature.type_variables)
    call = f"{kernel.name}_<{arguments}>" if arguments else f"{kernel.name}_"
    return (
        f'extern "C" void {symbol(kernel, types)}(void* const* at, const long long* sizes, const double* numbers) '
        f"{{ {call}(at, sizes, numbers); }}"
    )


def _ctype(operand: Operand) -> str:
    return operand.type_variable or operand.c_type({})


def _template(kernel: Kernel) -> str:
    body = {"elementwise": _elementwise, "by_row": _by_row, "reduction": _reduction}[kernel.form](kernel)
    head = "template <" + ", ".join(f"typename {v}" for v in kernel.signature.type_variables) + "> "
    head = head if kernel.signature.type_variables else ""
    return (
        f"{head}static inline void {kernel.name}_(void* const* at, const long long* sizes, const double* numbers) {{\n"
        f"  (void)at; (void)sizes; (void)numbers;\n{body}}}\n"
    )


def _prologue(kernel: Kernel) -> str:
    """Pointers to all arrays, scalars by name, then the setup and the guard: once a launch."""
    lines = []
    for k, o in enumerate(kernel.signature.arrays):
        const = "const " if o.role == "in" else ""
        name = o.name if o.kind == "raw" else f"p_{o.name}"
        lines.append(f"  {const}{_ctype(o)}* {name} = ({const}{_ctype(o)}*)at[{k}];")
    for k, o in enumerate(kernel.signature.scalars):
        lines.append(f"  const {_ctype(o)} {o.name} = ({_ctype(o)})numbers[{k}];")
    if kernel.guard is not None:
        lines.append(f"  if (!({kernel.guard.source})) return;")
    if kernel.prologue:
        lines.append(f"  {kernel.prologue}")
    return "\n".join(lines) + "\n"


def _load(operand: Operand, at: str) -> str:
    """Bring one operand's element into a local of its name."""
    const = "const " if operand.role == "in" else ""
    if operand.role == "out":
        return f"{_ctype(operand)} {operand.name};"
    return f"{const}{_ctype(operand)} {operand.name} = {at};"


def _elementwise(kernel: Kernel) -> str:
    operands = [o for o in kernel.signature.arrays if o.kind != "raw"]
    lines = [_prologue(kernel), "  const long long n = sizes[1], j0 = sizes[2], m = sizes[3];"]
    for k, o in enumerate(operands):
        lines.append(f"  const long long rs_{o.name} = sizes[{4 + 2 * k}], cs_{o.name} = sizes[{5 + 2 * k}];")
    walking = [o for o in operands if o.kind != "col"]
    unit = " && ".join(f"cs_{o.name} == 1" for o in walking) or "true"
    lines.append("  for (long long i = sizes[0]; i < n; ++i) {")
    for o in operands:
        lines.append(f"    auto* q_{o.name} = p_{o.name} + i * rs_{o.name};")
        if o.kind == "col":
            lines.append("    " + _load(o, f"*q_{o.name}"))

    def loop(index: Callable[[Operand], str]) -> list[str]:
        loads = " ".join(_load(o, f"q_{o.name}[{index(o)}]") for o in walking)
        stores = " ".join(f"q_{o.name}[{index(o)}] = {o.name};" for o in walking if o.role != "in")
        return ["for (long long j = j0; j < m; ++j) {", f"  {loads}", f"  {kernel.source}", f"  {stores}", "}"]

    lines += [f"    if ({unit}) {{", "#pragma GCC ivdep", *loop(lambda o: "j"), "    } else {"]
    lines += [*loop(lambda o: f"j * cs_{o.name}"), "    }", "  }"]
    return "\n".join(lines) + "\n"


def _by_row(kernel: Kernel) -> str:
    operands = [o for o in kernel.signature.arrays if o.kind != "raw"]
    widths = kernel.signature.widths
    steps = {o.name: f"sizes[{2 + len(widths) + k}]" for k, o in enumerate(operands)}

    def rows(step: Callable[[Operand], str]) -> list[str]:
        made = ["  for (long long i = sizes[0]; i < n; ++i) {"]
        for o in operands:
            at = f"p_{o.name} + i * {step(o)}"
            const = "const " if o.role == "in" else ""
            pointer = f"{const}{_ctype(o)}* {o.name} = {at};"
            made.append("    " + (pointer if o.kind == "rows" else _load(o, f"*({at})")))
        made.append(f"    {kernel.source}")
        made += [
            f"    p_{o.name}[i * {step(o)}] = {o.name};" for o in operands if o.kind == "element" and o.role != "in"
        ]
        return [*made, "  }"]

    lines = [_prologue(kernel), "  const long long n = sizes[1];"]
    if widths and not any(o.kind == "raw" and o.role != "in" for o in kernel.signature.arrays):
        # rows of one column are one long row: with the width known, the loop over rows is the one that is vectorised
        one = " && ".join(f"{x} == 1" for x in [*(f"sizes[{2 + k}]" for k in range(len(widths))), *steps.values()])
        lines += [f"  if ({one}) {{", *(f"  const long long {w} = 1;" for w in widths), "#pragma GCC ivdep"]
        lines += [*rows(lambda o: "1"), "  return; }"]
    lines += [f"  const long long {w} = sizes[{2 + k}];" for k, w in enumerate(widths)]
    lines += rows(lambda o: steps[o.name])
    return "\n".join(lines) + "\n"


def _reduction(kernel: Kernel) -> str:
    combine = kernel.combine
    assert combine is not None
    operands = [o for o in kernel.signature.inputs if o.kind != "raw"]
    (out,) = kernel.signature.outputs
    accumulator = "T" if combine.is_selection and "T" in kernel.signature.type_variables else _ctype(out)
    lines = [_prologue(kernel), "  const long long i0 = sizes[0], n = sizes[1], j0 = sizes[2], m = sizes[3];"]
    for k, o in enumerate(operands):
        lines.append(f"  const long long rs_{o.name} = sizes[{4 + 2 * k}], cs_{o.name} = sizes[{5 + 2 * k}];")
    lines.append(f"  typedef {accumulator} A; const A identity = (A){combine.identity!r};")
    lines.append(f"  auto combine = [](A a, A b) -> A {{ return {combine.source}; }};")
    unit = " && ".join(f"cs_{o.name} == 1" for o in operands) or "true"

    def term(index: Callable[[Operand], str]) -> str:
        loads = " ".join(_load(o, f"q_{o.name}[{index(o)}]") for o in operands)
        return f"{loads} {_ctype(out)} {out.name}; {kernel.source}"

    rows = [f"auto* q_{o.name} = p_{o.name} + i * rs_{o.name};" for o in operands]
    if kernel.axis == "rows":
        lines += [
            f"  A part[{TILE}], total[{TILE}];",
            f"  for (long long left = j0; left < m; left += {TILE}) {{",
            f"    const long long w = m - left < {TILE} ? m - left : {TILE};",
            "    for (long long j = 0; j < w; ++j) total[j] = identity;",
            f"    for (long long top = i0; top < n; top += {BLOCK_ROWS}) {{",
            f"      const long long end = top + {BLOCK_ROWS} < n ? top + {BLOCK_ROWS} : n;",
            "      for (long long j = 0; j < w; ++j) part[j] = identity;",
            "      for (long long i = top; i < end; ++i) {",
            *rows,
            f"        if ({unit}) {{",
            "#pragma GCC ivdep",
            f"          for (long long j = 0; j < w; ++j) {{ {term(lambda o: 'left + j')} "
            f"part[j] = combine(part[j], {out.name}); }}",
            f"        }} else for (long long j = 0; j < w; ++j) {{ {term(lambda o: f'(left + j) * cs_{o.name}')} "
            f"part[j] = combine(part[j], {out.name}); }}",
            "      }",
            "      for (long long j = 0; j < w; ++j) total[j] = combine(total[j], part[j]);",
            "    }",
            f"    for (long long j = 0; j < w; ++j) p_{out.name}[left + j] = total[j];",
            "  }",
        ]
    else:
        lines += [
            f"  A lane[{LANES}]; for (int l = 0; l < {LANES}; ++l) lane[l] = identity;",
            "  for (long long i = i0; i < n; ++i) {",
            *rows,
            "    long long j = j0;",
            f"    if ({unit}) for (; j + {LANES} <= m; j += {LANES}) {{",
            "#pragma GCC ivdep",
            f"      for (int l = 0; l < {LANES}; ++l) {{ {term(lambda o: 'j + l')} "
            f"lane[l] = combine(lane[l], {out.name}); }}",
            "    }",
            f"    for (int l = 0; j < m; ++j, l = (l + 1) % {LANES}) {{ {term(lambda o: f'j * cs_{o.name}')} "
            f"lane[l] = combine(lane[l], {out.name}); }}",
            "  }",
            f"  for (int half = {LANES // 2}; half > 0; half /= 2)",
            "    for (int l = 0; l < half; ++l) lane[l] = combine(lane[l], lane[l + half]);",
            f"  p_{out.name}[sizes[{4 + 2 * len(operands)}]] = lane[0];",
        ]
    return "\n".join(lines) + "\n"


# --- the compiler and its cache ---


def _private_folder() -> Path:
    """The cache folder, made with mode 0700; OSError where others own it or may write to it, or the user may not."""
    folder = cache_folder()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if hasattr(os, "getuid"):
        about = folder.stat()
        if about.st_uid != os.getuid():
            raise PermissionError(f"{folder} belongs to another user")
        if stat.S_IMODE(about.st_mode) & 0o022:
            # not changed here: it may be a folder that the user shares on purpose
            raise PermissionError(f"{folder} can be written by others: chmod 700, or name another in GPUNN_CACHE")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"{folder} is not writable")
    return folder


@functools.cache
def _cpu() -> str:
    """What -march=native depends on: the processor's model and features."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return "\n".join(sorted({x for x in lines if x.startswith(("model name", "flags", "Features"))}))
    except OSError:
        return f"{platform.machine()} {platform.processor()}"


@functools.cache
def _compiler_version(command: tuple[str, ...]) -> str:
    return subprocess.run([*command, "--version"], capture_output=True, text=True, check=False).stdout


def _library(unit: CompilationUnit) -> ctypes.CDLL | None:
    """The compiled library of a unit, or None where the NumPy bodies must do."""
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


def compile_source(text: str, command: list[str], more: tuple[str, ...] = ()) -> Path:
    """Compile a translation unit into the cache and return its path; found there, it is not compiled again. `more` are
    flags after the usual ones.

    The name is the hash of source, compiler, flags and processor. The file is written beside and renamed, so that
    two processes may compile at once. Raises CompileError with what the compiler said, OSError for the folder.
    """
    folder = _private_folder()
    key = "\0".join([text, *command, _compiler_version(tuple(command)), *FLAGS, *more, _cpu()])
    target = folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.so"
    if not target.exists():
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            unit, built = Path(scratch) / "kernels.cpp", Path(scratch) / "kernels.so"
            unit.write_text(text)
            done = subprocess.run(
                [*command, *FLAGS, *more, str(unit), "-o", str(built), "-lm"],
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


def invalidate(module: str | None = None) -> None:
    """Forget one family's loaded libraries, or all and past trouble: what was declared or set since is seen."""
    global _compile_error
    with _lock:
        for unit in [u for u in _libraries if module in (None, u.module)]:
            del _libraries[unit]
        if module is None:
            _compile_error = None


def precompile(units: Iterable[CompilationUnit]) -> None:
    """Have the libraries of these units at hand, compiling side by side the texts that the cache lacks."""
    missing = {u for u in units if u not in _libraries}
    if len(missing) < 2 or not compilation_enabled() or compiler() is None:
        return
    # what goes wrong here goes wrong again, and is dealt with, when the library is loaded
    with contextlib.suppress(CompileError, OSError):
        _compile_together(missing)


def build() -> set[CompilationUnit]:
    """Compile every registered kernel for all its types; returns the units. Raises CompileError or OSError."""
    from .registry import all_kernels

    if compiler() is None:
        raise CompileError(_no_compiler())
    units = {unit_of(k, types) for k in all_kernels() for types in k.signature.type_combinations()}
    _compile_together(units)
    return units


def _compile_together(units: set[CompilationUnit]) -> None:
    command = compiler()
    assert command is not None
    # the longest first, so that none of them is waited for alone
    texts = sorted(map(cpu_source, units), key=len, reverse=True)
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        list(pool.map(lambda text: compile_source(text, command), texts))
