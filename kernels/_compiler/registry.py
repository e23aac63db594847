"""Kernels: declaration, registration, and the ways to run one.

A kernel is declared with one of three decorators around its NumPy reference:

`elementwise`  C++ source for one element
`by_row`       C++ source for one row, on pointers
`reduction`    C++ source for one term, which are combined over rows or over all elements

The declaration registers the kernel. The loop on a CPU, the launch on a GPU and the tests are generated from it.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from . import cpu_cache, cpu_launch, cuda_launch, numpy_launch
from .arguments import BoundArguments, allocate_outputs, check_arguments, check_call
from .definition import ADD, DEFINITIONS, Combine, Guard, KernelDefinition
from .signature import RESERVED_IN_REDUCTIONS, parse

Launch = Callable[[], None]
Declaration = Callable[[Callable[..., Any]], "Kernel"]
Entries = Iterable[int] | None

_REFUSED = re.compile(r"(?<![\w.])(abs|min|max)\s*\(")
# the kinds of operands that may be stored in bfloat16
_BF16_KINDS = {
    "elementwise": ("element", "row", "col"),
    "by_row": ("rows",),
    "reduction": ("element", "row"),
    "summed": ("element",),
}


@dataclass(frozen=True)
class Kernel(KernelDefinition):
    """A registered kernel. Calling it computes immediately; `bind` returns a launch that can be repeated.

    A call without `out` is functional: `kernel(*operands, **scalars)` returns new arrays, see `_compiler/signature.py`.
    """

    def bind(self, *inputs: Any, out: Any, count: int | None = None, **scalars: float) -> Launch:
        """Bind the kernel to its buffers. Nothing is broadcast or cast.

        Parameters
        ----------
        *inputs : array
            The operands before the arrow of the signature, all NumPy or all CuPy arrays.
        out : array or tuple of arrays
            The operands after the arrow.
        count : int, optional
            The number of rows of a by-row kernel whose operands are all raw.
        **scalars : float
            The scalar operands by name.

        Returns
        -------
        callable
            A launch without arguments, which computes into `out`.

        Raises
        ------
        TypeError, ValueError
            With the name of the operand whose type, layout or shape is wrong.
        """
        return _bind(self, check_arguments(self, inputs, out, scalars, count))

    def __call__(self, *operands: Any, out: Any = None, count: int | None = None, **scalars: float) -> Any:
        """Compute immediately and return the outputs: one array or a tuple.

        Parameters
        ----------
        *operands : array
            The operands before the arrow, then each output that is updated. An `inout` operand is copied, and the copy
            is updated and returned; a `raw` operand is updated in place and returned. If an operand has a method
            `record_kernel`, the call is passed to it: record_kernel(kernel, operands, count, scalars).
        out : array or tuple of arrays, optional
            Arrays for all outputs. Then `operands` are those before the arrow only, as for `bind`.
        count : int, optional
            The number of rows of a by-row kernel that no operand determines.
        **scalars : float
            The scalar operands by name.

        Raises
        ------
        TypeError, ValueError
            With the name of the operand that is missing or wrong.
        """
        if out is None:
            check_call(self, operands, scalars)
            for operand in operands:
                if hasattr(operand, "record_kernel"):
                    return operand.record_kernel(self, operands, count, scalars)
            out = allocate_outputs(self, operands, count, scalars)
            operands = operands[: len(self.signature.inputs)]
        self.bind(*operands, out=out, count=count, **scalars)()
        return out

    def bind_numpy(self, *inputs: Any, out: Any, count: int | None = None, **scalars: float) -> Launch:
        """Bind the NumPy reference, which defines the result."""
        return numpy_launch.bind(self, check_arguments(self, inputs, out, scalars, count))

    def bind_compiled(self, *inputs: Any, out: Any, count: int | None = None, **scalars: float) -> Launch:
        """Bind the compiled C++ source on the CPU. Raises RuntimeError if it cannot be compiled."""
        return cpu_launch.bind_compiled(self, check_arguments(self, inputs, out, scalars, count))


def _bind(kernel: Kernel, bound: BoundArguments) -> Launch:
    return cpu_launch.bind(kernel, bound) if bound.on_host else cuda_launch.bind(kernel, bound)


KernelCall = tuple[Kernel, tuple[Any, ...], Any, int | None, dict[str, float]]  # kernel, inputs, out, count, scalars


def bind_all(calls: Iterable[KernelCall]) -> list[Launch]:
    """Bind calls of kernels. Sources that are not in the cache are compiled in parallel."""
    checked = [
        (kernel, check_arguments(kernel, inputs, out, scalars, count)) for kernel, inputs, out, count, scalars in calls
    ]
    cpu_cache.precompile((kernel, bound.types) for kernel, bound in checked if bound.on_host)
    return [_bind(kernel, bound) for kernel, bound in checked]


def get(name: str) -> Kernel:
    """The kernel with that name. Raises KeyError with all names if there is none."""
    try:
        kernel = DEFINITIONS[name]
    except KeyError:
        raise KeyError(f"no kernel has the name {name!r}; the kernels are {', '.join(sorted(DEFINITIONS))}") from None
    assert isinstance(kernel, Kernel)
    return kernel


def all_kernels() -> list[Kernel]:
    """All registered kernels, sorted by name."""
    return [get(name) for name in sorted(DEFINITIONS)]


# --- declaration ----------------------------------------------------------------------------------------------------


def elementwise(
    signature: str,
    source: str,
    *,
    prologue: str = "",
    guard: Guard | None = None,
    reads: Entries = None,
    name: str | None = None,
    module: str | None = None,
    ulp: int = 4,
) -> Declaration:
    """Declare a kernel by its C++ source for one element.

    Parameters
    ----------
    signature : str
        Operands, as described in `_compiler/signature.py`.
    source : str
        C++ statements that assign the outputs from the inputs of one element.
    prologue : str
        C++ statements before the loop.
    guard : Guard, optional
        The condition under which the kernel writes.
    reads : iterable of StateEntry, optional
        The entries of the operand `state` that source and prologue read. Required if there is one; the guard declares
        its own.
    name, module : str, optional
        Default: those of the decorated function, which is the NumPy reference.
    ulp : int
        Allowed difference from the NumPy reference, in units in the last place of the largest term.
    """
    make = functools.partial(
        Kernel,
        form="elementwise",
        signature=parse(signature),
        source=inspect.cleandoc(source),
        prologue=prologue,
        guard=guard,
        reads=_entries(reads),
        ulp=ulp,
    )
    return _declaration(make, name, module)


def by_row(
    signature: str,
    source: str,
    *,
    guard: Guard | None = None,
    reads: Entries = None,
    writes: Entries = None,
    in_place: Mapping[str, Iterable[str]] | None = None,
    independent_rows: bool = False,
    ranges: bool = False,
    name: str | None = None,
    module: str | None = None,
) -> Declaration:
    """Declare a kernel by its C++ source for one row. Operands `rows[m]` are pointers to this row of m columns.

    Parameters
    ----------
    signature, source, guard, name, module
        As for `elementwise`; the source is for one row.
    reads, writes : iterable of StateEntry, optional
        The entries of the operand `state` that the source reads, and those that it may write.
    in_place : mapping of str to iterable of str, optional
        For an output, the inputs whose memory it may share: {"a": ("z",)} if every lane has read z before it writes a.
    independent_rows : bool
        Row i writes only its own part of a raw output, so that threads may share the rows.
    ranges : bool
        The source is for all consecutive rows i … end − 1 that one thread computes. An operand x of kind `rows[m]` is a
        pointer to row i, and the next row begins x_step elements later.
    """
    make = functools.partial(
        Kernel,
        form="by_row",
        signature=parse(signature),
        source=inspect.cleandoc(source),
        guard=guard,
        reads=_entries(reads),
        writes=_entries(writes),
        shared=tuple((output, x) for output, given in (in_place or {}).items() for x in given),
        independent_rows=independent_rows,
        ranges=ranges,
    )
    return _declaration(make, name, module)


def reduction(
    signature: str,
    source: str,
    *,
    axis: str,
    combine: Combine = ADD,
    prologue: str = "",
    guard: Guard | None = None,
    reads: Entries = None,
    name: str | None = None,
    module: str | None = None,
) -> Declaration:
    """Declare a kernel by its C++ source for one term, computed from one element.

    `axis="rows"` combines the terms of each column, in blocks of 64 consecutive rows. `axis="all"` combines all terms
    to one float64 result, in 32 interleaved lanes. The order is fixed, so the same input gives the same bits.
    """
    make = functools.partial(
        Kernel,
        form="reduction",
        signature=parse(signature),
        source=inspect.cleandoc(source),
        prologue=prologue,
        guard=guard,
        reads=_entries(reads),
        combine=combine,
        axis=axis,
    )
    return _declaration(make, name, module)


def _entries(given: Entries) -> frozenset[int] | None:
    """Entries of the state array as numbers. None if they are not declared."""
    return None if given is None else frozenset(map(int, given))


def _declaration(make: Callable[..., Kernel], name: str | None, module: str | None) -> Declaration:
    """A decorator of the NumPy reference, which registers the kernel that `make` returns."""

    def declare(reference: Callable[..., Any]) -> Kernel:
        return register(
            make(
                name=name or reference.__name__,
                reference=reference,
                module=module or reference.__module__,
                doc=inspect.getdoc(reference) or "",
            )
        )

    return declare


def register(kernel: Kernel) -> Kernel:
    """Check a declaration and add it to the registry. A module may declare its own kernels again."""
    _check_calls(kernel)
    _check_operands(kernel)
    _check_state(kernel)
    _check_in_place(kernel)
    _check_reference(kernel)
    found = DEFINITIONS.get(kernel.name)
    if found is not None and found.module != kernel.module:
        raise ValueError(f"kernel {kernel.name} is registered already, in {found.module}")
    DEFINITIONS[kernel.name] = kernel
    cpu_cache.invalidate(kernel.module)
    return kernel


def _check_calls(kernel: Kernel) -> None:
    expressions = [part.source for part in (kernel.guard, kernel.combine) if part is not None]
    found = _REFUSED.search("\n".join([kernel.source, kernel.prologue, *expressions]))
    if found:
        raise ValueError(
            f"kernel {kernel.name}: {found[1]}() differs between C, C++ and CUDA; write fabs, fmin or a ternary"
        )


def _check_operands(kernel: Kernel) -> None:
    operands = (*kernel.signature.arrays, *kernel.signature.scalars)
    reserved = {o.name for o in operands} & (RESERVED_IN_REDUCTIONS if kernel.form == "reduction" else set())
    if reserved:
        raise ValueError(f"kernel {kernel.name}: the name {min(reserved)!r} is reserved for the loops of a reduction")
    for o in operands:
        if o.type == "H" and (o.kind not in _BF16_KINDS[kernel.form] or (kernel.axis and o.role != "in")):
            raise ValueError(f"kernel {kernel.name}: {o.name} cannot be stored in bfloat16: write T instead of H")


def _check_state(kernel: Kernel) -> None:
    """Check that a kernel with a state array, and no other, declares the entries that it accesses."""
    state = next((o for o in kernel.signature.arrays if o.name == "state" and o.kind == "raw"), None)
    if state is None and (kernel.reads is not None or kernel.writes is not None or kernel.guard is not None):
        raise ValueError(f"kernel {kernel.name}: entries of the state array need the operand 'raw float64 state'")
    if state is not None and kernel.reads is None and kernel.writes is None:
        raise ValueError(f"kernel {kernel.name}: declare reads= and writes=, the entries of state that it accesses")
    if state is not None and state.role == "in" and kernel.writes:
        raise ValueError(f"kernel {kernel.name}: state is an input, so writes= must be empty")


def _check_in_place(kernel: Kernel) -> None:
    outputs = {o.name: o for o in kernel.signature.outputs if not o.is_updated}
    inputs = {o.name: o for o in kernel.operands}
    for output, given in kernel.shared:
        o, x = outputs.get(output), inputs.get(given)
        if o is None or x is None or (o.kind, o.type, o.width) != (x.kind, x.type, x.width):
            raise ValueError(
                f"kernel {kernel.name}: in_place= must name an output and an input of equal kind and type, "
                f"got {output!r} and {given!r}"
            )


def _check_reference(kernel: Kernel) -> None:
    """Check that the parameters of the NumPy reference are those of the signature."""
    signature = kernel.signature
    expected = {o.name for o in (*signature.inputs, *signature.scalars)}
    expected |= {o.name for o in signature.outputs if o.role == "inout"}
    optional = {"i", *signature.widths, *(o.name for o in signature.outputs if o.kind == "raw")}
    found = set(inspect.signature(kernel.reference).parameters)
    if not expected <= found or found - expected - optional:
        raise ValueError(
            f"kernel {kernel.name}: the parameters of its NumPy reference must be {sorted(expected)}, "
            f"got {sorted(found)}"
        )
