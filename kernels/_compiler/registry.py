"""The registry: a kernel is a name, a signature, a NumPy body that defines it, and a C++ text.

Declaring a kernel registers it, and the registered form generates its loop on a CPU, its launch on a GPU and its
tests. There are three forms: `elementwise` (text for one element), `by_row` (text for one row over raw pointers) and
`reduction` (text for one element, combined over rows or over everything).
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..state import SIZE
from . import cuda_launch, host, numpy_launch
from .signature import RESERVED_IN_REDUCTIONS, STORAGE_TO_COMPUTE, Operand, Signature, parse, type_name

Launch = Callable[[], None]

_REGISTRY: dict[str, Kernel] = {}
_REFUSED = re.compile(r"(?<![\w.])(abs|min|max)\s*\(")


@dataclass(frozen=True)
class Guard:
    """A condition on the state array, asked once a launch: a kernel under a false guard writes nothing."""

    source: str
    reference: Callable[[Any], bool]


@dataclass(frozen=True)
class Combine:
    """How a reduction joins two partial results: C++ text over a and b, NumPy ufunc, and the neutral element.

    `picks` says that the result is one of the two, so that partial results need no wider type than the elements'.
    `joined_by` names the kernel that joins the partial results (float64) of several threads.
    """

    source: str
    ufunc: np.ufunc
    identity: float
    is_selection: bool = False
    combine_kernel: str | None = None


ADD = Combine("a + b", np.add, 0.0, combine_kernel="sum_all")
# NaN wins on either side: a NaN a is kept by a != a, and a NaN b fails both comparisons
MAX_OF_MAGNITUDES = Combine("(a > b || a != a) ? a : b", np.maximum, 0.0, is_selection=True, combine_kernel="max_abs")


@dataclass(frozen=True)
class Kernel:
    """One registered kernel. Calling it computes at once; `bind` fixes the buffers and returns the launch.

    `apart` says that row i writes a place of its own in a raw output, so that rows may run beside one another.
    """

    name: str
    form: str
    signature: Signature
    source: str
    reference: Callable[..., Any]
    module: str
    prologue: str = ""
    guard: Guard | None = None
    combine: Combine | None = None
    axis: str = ""
    independent_rows: bool = False
    ulp: int = 4
    doc: str = field(default="", repr=False)

    @property
    def combine_kernel(self) -> str | None:
        """The kernel that joins partial results, where that may be done whatever a guard says."""
        return self.combine.combine_kernel if self.combine is not None and self.guard is None else None

    def bind(self, *inputs: Any, out: Any, count: int | None = None, **scalars: float) -> Launch:
        """Fix the buffers and return a launch: a callable without arguments that computes into `out`.

        `inputs` are the operands before the arrow, `out` those behind it (a tuple if several), `scalars` by name.
        `count` is the number of rows of a by-row kernel that has raw operands only.
        Raises ValueError or TypeError naming the operand where shapes or types do not fit; nothing is broadcast.
        """
        call = self._check(inputs, out, scalars, count)
        return host.bind(self, call) if call.on_host else cuda_launch.bind(self, call)

    def bind_with_column_sums(self, *inputs: Any, out: Any, sums: Any, **scalars: float) -> Launch | None:
        """The launch of out = kernel(inputs) and sums = Σ over the rows of `out` in one pass over the arrays, which a
        GPU takes for a kernel of one matrix from several; None where they are two launches."""
        call = self._check(inputs, out, scalars, None)
        return None if call.on_host else cuda_launch.bind_with_column_sums(self, call, get("column_sum"), sums)

    def __call__(self, *inputs: Any, out: Any = None, count: int | None = None, **scalars: float) -> Any:
        """Compute at once; without `out` the results are new arrays of the inputs' kind, type and shape."""
        if out is None:
            out = self._allocate(inputs)
        self.bind(*inputs, out=out, count=count, **scalars)()
        return out

    def bind_numpy(self, *inputs: Any, out: Any, count: int | None = None, **scalars: float) -> Launch:
        """The launch of the NumPy body, whatever else could run: the definition that the text is held to."""
        return numpy_launch.bind(self, self._check(inputs, out, scalars, count))

    def bind_compiled(self, *inputs: Any, out: Any, count: int | None = None, **scalars: float) -> Launch:
        """The launch of the C++ text on the host; RuntimeError where there is no compiler."""
        return host.bind_compiled(self, self._check(inputs, out, scalars, count))

    def _allocate(self, inputs: tuple[Any, ...]) -> Any:
        if any(o.kind == "raw" or o.role == "inout" for o in self.signature.outputs):
            raise TypeError(f"kernel {self.name}: pass out=, some outputs are also read or are raw arrays")
        by_name = dict(zip((o.name for o in self.signature.inputs), inputs, strict=False))
        for o in self.signature.inputs:
            # whoever holds bfloat16 says where the result goes; other integers are a mistake
            if o.type == "H" and getattr(by_name.get(o.name), "dtype", None) == np.uint16:
                raise TypeError(f"kernel {self.name}: {o.name} is uint16, not numbers; of bfloat16's bits, pass out=")
        full = [by_name[o.name] for o in self.signature.inputs if o.kind in ("element", "rows")]
        if not full:
            raise TypeError(f"kernel {self.name}: pass out=, no input tells the shape")
        like = max(full, key=lambda a: a.ndim)
        made = []
        for o in self.signature.outputs:
            source = next((by_name[q.name] for q in self.signature.inputs if q.type == o.type and q.is_array), like)
            dtype = source.dtype if o.type_variable else np.dtype(o.type)
            dtype = (
                np.dtype(STORAGE_TO_COMPUTE.get(dtype.name, dtype))
                if o.type == "T" and self.signature.supports_bf16
                else dtype
            )
            shape = like.shape
            if self.axis == "rows":
                shape = like.shape[1:]
            elif self.axis == "all":
                shape = (1,)
            elif self.form == "by_row" and o.kind == "element":
                shape = like.shape[:1]
            made.append(cuda_launch.empty_like(like, shape, dtype))
        return made[0] if len(made) == 1 else tuple(made)

    def _check(self, inputs: Any, out: Any, scalars: dict[str, float], count: int | None) -> BoundArguments:
        outputs = out if isinstance(out, tuple) else (out,)
        operands = self.signature.arrays
        if len(inputs) != len(self.signature.inputs) or len(outputs) != len(self.signature.outputs):
            wanted = ", ".join(o.name for o in self.signature.inputs)
            raise TypeError(f"kernel {self.name} takes ({wanted}) and {len(self.signature.outputs)} output(s)")
        names = {o.name for o in self.signature.scalars}
        if set(scalars) != names:
            raise TypeError(f"kernel {self.name} takes the scalars {sorted(names)}, got {sorted(scalars)}")
        arrays = [*inputs, *outputs]
        types: dict[str, str] = {}
        for operand, array in zip(operands, arrays, strict=True):
            self._check_type(operand, array, types)
        on_host = isinstance(arrays[0], np.ndarray)
        if any(isinstance(a, np.ndarray) != on_host for a in arrays):
            raise TypeError(f"kernel {self.name}: NumPy arrays and arrays of the device are mixed")
        shape, widths = self._shape(operands, arrays, count)
        return BoundArguments(arrays, {k: float(v) for k, v in scalars.items()}, types, shape, widths, on_host)

    def _check_type(self, operand: Operand, array: Any, types: dict[str, str]) -> None:
        if not hasattr(array, "dtype") or not hasattr(array, "strides") or isinstance(array, np.generic):
            raise TypeError(f"kernel {self.name}: {operand.name} must be an array, got {type(array).__name__}")
        got = type_name(array.dtype)
        if not array.dtype.isnative:
            raise TypeError(f"kernel {self.name}: {operand.name} is not in the machine's byte order")
        wanted = operand.type
        if operand.type_variable:
            allowed = tuple(STORAGE_TO_COMPUTE) if operand.type == "H" else host.variable_types(operand.type)
            if got not in allowed:
                raise TypeError(f"kernel {self.name}: {operand.name} must be one of {allowed}, got {got}")
            wanted = types.setdefault(operand.type, got)
        if got != wanted:
            raise TypeError(f"kernel {self.name}: {operand.name} must be {wanted}, got {got}")
        if operand.type == "H" and types.setdefault("T", STORAGE_TO_COMPUTE[got]) != STORAGE_TO_COMPUTE[got]:
            raise TypeError(f"kernel {self.name}: {operand.name} must be {types['T']}, got {STORAGE_TO_COMPUTE[got]}")
        if operand.role != "in" and isinstance(array, np.ndarray) and not array.flags.writeable:
            raise ValueError(f"kernel {self.name}: output {operand.name} is read-only")
        if isinstance(array, np.ndarray) and not array.flags.aligned:
            raise ValueError(f"kernel {self.name}: {operand.name} is not aligned in memory: pass a copy")
        # raw tables (type S) come with their steps
        whole = operand.kind == "raw" and operand.type != "S"
        whole = whole or (self.form == "reduction" and operand.role != "in")
        if whole and not array.flags.c_contiguous:
            raise ValueError(f"kernel {self.name}: {operand.name} must be contiguous, got strides {array.strides}")

    def _shape(
        self, operands: tuple[Operand, ...], arrays: list[Any], count: int | None
    ) -> tuple[tuple[int, int], dict[str, int]]:
        """(n, m) of the launch and the row widths; every operand's shape is checked against them."""
        widths: dict[str, int] = {}
        n: int | None = count
        m: int | None = None
        flat = False
        for o, a in zip(operands, arrays, strict=True):
            if o.kind == "rows":
                if a.ndim != 2:
                    raise ValueError(f"kernel {self.name}: {o.name} must have two dimensions, got shape {a.shape}")
                n = a.shape[0] if n is None else n
                if widths.setdefault(o.width or "", a.shape[1]) == 0:
                    raise ValueError(f"kernel {self.name}: {o.name} must have at least one column, got {a.shape}")
            elif o.kind == "element" and self.form == "by_row":
                n = a.shape[0] if n is None and a.ndim == 1 else n
            elif o.kind == "element" and not (self.form == "reduction" and o.role == "out") and m is None:
                if a.ndim not in (1, 2):
                    raise ValueError(f"kernel {self.name}: {o.name} must have one or two dimensions, got {a.shape}")
                flat = a.ndim == 1
                n, m = (1, a.shape[0]) if flat else a.shape
        if n is None:
            raise TypeError(f"kernel {self.name}: pass count=, no operand tells the number of rows")
        m = 1 if m is None else m
        if self.axis == "rows" and flat:
            raise ValueError(f"kernel {self.name} sums over rows: its input must have two dimensions")
        for o, a in zip(operands, arrays, strict=True):
            if o.kind == "rows":
                wanted: tuple[int, ...] = (n, widths[o.width or ""])
            elif o.kind == "raw":
                if o.width is None and o.name != "state":
                    continue
                wanted = (SIZE,) if o.width is None else (widths[o.width],)
            elif o.kind == "row":
                wanted = (m,)
            elif o.kind == "col" or self.form == "by_row":
                wanted = (n,)
            elif self.form == "reduction" and o.role == "out":
                wanted = (m,) if self.axis == "rows" else (1,)
            else:
                wanted = (m,) if flat else (n, m)
            if tuple(a.shape) != wanted:
                raise ValueError(f"kernel {self.name}: {o.name} must have shape {wanted}, got {tuple(a.shape)}")
        return (n, m), widths


@dataclass(frozen=True)
class BoundArguments:
    """The checked arguments of one launch."""

    arrays: list[Any]
    scalars: dict[str, float]
    types: dict[str, str]
    shape: tuple[int, int]
    widths: dict[str, int]
    on_host: bool

    @property
    def bf16(self) -> bool:
        """Whether matrices of type H are held in bfloat16."""
        return self.types.get("H") == "uint16"


def _register(kernel: Kernel) -> Kernel:
    shared = [part.source for part in (kernel.guard, kernel.combine) if part is not None]
    found = _REFUSED.search("\n".join([kernel.source, kernel.prologue, *shared]))
    if found:
        raise ValueError(
            f"kernel {kernel.name}: {found[1]}() differs between C, C++ and CUDA; write fabs, fmin or a ternary"
        )
    operands = (*kernel.signature.arrays, *kernel.signature.scalars)
    taken = {o.name for o in operands} & (RESERVED_IN_REDUCTIONS if kernel.form == "reduction" else set())
    if taken:
        raise ValueError(f"kernel {kernel.name}: the name {min(taken)!r} is taken by the loops of a reduction")
    of_matrices = {"elementwise": ("element", "row", "col"), "by_row": ("rows",), "reduction": ("element", "row")}
    for o in operands:
        if o.type == "H" and (o.kind not in of_matrices[kernel.form] or (kernel.axis and o.role != "in")):
            raise ValueError(f"kernel {kernel.name}: {o.name} cannot be held in bfloat16 there: write T in place of H")
    expected = {o.name for o in (*kernel.signature.inputs, *kernel.signature.scalars)}
    expected |= {o.name for o in kernel.signature.outputs if o.role == "inout"}
    optional = {"i", *kernel.signature.widths, *(o.name for o in kernel.signature.outputs if o.kind == "raw")}
    got = set(inspect.signature(kernel.reference).parameters)
    if not expected <= got or got - expected - optional:
        raise ValueError(
            f"kernel {kernel.name}: its NumPy body takes {sorted(got)}, the signature says {sorted(expected)}"
        )
    if kernel.name in _REGISTRY and _REGISTRY[kernel.name].module != kernel.module:
        raise ValueError(f"kernel {kernel.name} is registered already, in {_REGISTRY[kernel.name].module}")
    _REGISTRY[kernel.name] = kernel
    host.invalidate(kernel.module)
    return kernel


def _declare(form: str, signature: str, source: str, **options: Any) -> Callable[[Callable[..., Any]], Kernel]:
    def declare(reference: Callable[..., Any]) -> Kernel:
        name = options.pop("name", None) or reference.__name__
        doc = inspect.getdoc(reference) or ""
        module = options.pop("module", None) or reference.__module__
        return _register(
            Kernel(name, form, parse(signature), inspect.cleandoc(source), reference, module, doc=doc, **options)
        )

    return declare


def elementwise(
    signature: str, source: str, *, prologue: str = "", guard: Guard | None = None, **options: Any
) -> Callable[[Callable[..., Any]], Kernel]:
    """Declare a kernel by its text for one element; `setup` is text hoisted before the loop, `when` its guard."""
    return _declare("elementwise", signature, source, prologue=prologue, guard=guard, **options)


def by_row(
    signature: str, source: str, *, guard: Guard | None = None, **options: Any
) -> Callable[[Callable[..., Any]], Kernel]:
    """Declare a kernel by its text for one row; operands `rows[m]` are pointers to the row, m columns wide."""
    return _declare("by_row", signature, source, guard=guard, **options)


def reduction(
    signature: str, source: str, *, axis: str, combine: Combine = ADD, guard: Guard | None = None, **options: Any
) -> Callable[[Callable[..., Any]], Kernel]:
    """Declare a kernel whose text maps one element to a term and whose terms are combined.

    `over="rows"` gives one result a column, terms in blocks of 64 rows taken in order; `over="all"` gives one
    float64 result, terms in 16 interleaved lanes. The order is fixed, so the same input gives the same bits.
    """
    return _declare("reduction", signature, source, axis=axis, combine=combine, guard=guard, **options)


def bind_all(calls: Iterable[tuple[Kernel, tuple[Any, ...], Any, int | None, dict[str, float]]]) -> list[Launch]:
    """Bind many calls (kernel, inputs, out, count, scalars); texts not compiled yet are compiled side by side."""
    checked = [(k, k._check(inputs, out, scalars, count)) for k, inputs, out, count, scalars in calls]
    host.precompile(host.unit_of(k, call.types) for k, call in checked if call.on_host)
    return [host.bind(k, call) if call.on_host else cuda_launch.bind(k, call) for k, call in checked]


def get(name: str) -> Kernel:
    """The kernel registered under `name`; KeyError lists the names there are."""
    try:
        return _REGISTRY[name]
    except KeyError:
        raise KeyError(f"no kernel is called {name!r}; there are {', '.join(sorted(_REGISTRY))}") from None


def all_kernels() -> list[Kernel]:
    """Every registered kernel, by name."""
    return [_REGISTRY[name] for name in sorted(_REGISTRY)]
