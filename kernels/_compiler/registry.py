"""Kernels: declaration, registration, and the ways to run one.

A kernel is declared with one of three decorators around its NumPy reference:

`elementwise`  C++ source for one element
`by_row`       C++ source for one row, on pointers
`reduction`    C++ source for one term, which are combined over rows or over all elements

The declaration registers the kernel. The loop on a CPU, the launch on a GPU and the tests are generated from it.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from . import cpu_cache, cpu_launch, cuda_launch, numpy_launch
from .arguments import BoundArguments, allocate_outputs, check_arguments
from .definition import ADD, DEFINITIONS, Combine, Guard, KernelDefinition
from .signature import RESERVED_IN_REDUCTIONS, parse

Launch = Callable[[], None]
Declaration = Callable[[Callable[..., Any]], "Kernel"]

_REFUSED = re.compile(r"(?<![\w.])(abs|min|max)\s*\(")
# the kinds of operands that may be stored in bfloat16
_BF16_KINDS = {"elementwise": ("element", "row", "col"), "by_row": ("rows",), "reduction": ("element", "row")}


@dataclass(frozen=True)
class Kernel(KernelDefinition):
    """A registered kernel. Calling it computes immediately; `bind` returns a launch that can be repeated."""

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

    def bind_with_column_sums(self, *inputs: Any, out: Any, sums: Any, **scalars: float) -> Launch | None:
        """Bind out = kernel(inputs) and sums = Σ over the rows of `out` as a single pass over the arrays.

        Returns None if that is not possible: on a CPU, and on a GPU for other than contiguous, non-empty matrices.
        """
        bound = check_arguments(self, inputs, out, scalars, None)
        return None if bound.on_host else cuda_launch.bind_with_column_sums(self, bound, get("column_sum"), sums)

    def __call__(self, *inputs: Any, out: Any = None, count: int | None = None, **scalars: float) -> Any:
        """Compute immediately. Without `out`, the results are new arrays of the inputs' kind, type and shape."""
        if out is None:
            out = allocate_outputs(self, inputs)
        self.bind(*inputs, out=out, count=count, **scalars)()
        return out

    def bind_numpy(self, *inputs: Any, out: Any, count: int | None = None, **scalars: float) -> Launch:
        """Bind the NumPy reference, which defines the result."""
        return numpy_launch.bind(self, check_arguments(self, inputs, out, scalars, count))

    def bind_compiled(self, *inputs: Any, out: Any, count: int | None = None, **scalars: float) -> Launch:
        """Bind the compiled C++ source on the CPU. Raises RuntimeError if it cannot be compiled."""
        return cpu_launch.bind_compiled(self, check_arguments(self, inputs, out, scalars, count))


def _bind(kernel: Kernel, bound: BoundArguments) -> Launch:
    return cpu_launch.bind(kernel, bound) if bound.on_host else cuda_launch.bind(kernel, bound)


def bind_all(calls: Iterable[tuple[Kernel, tuple[Any, ...], Any, int | None, dict[str, float]]]) -> list[Launch]:
    """Bind calls (kernel, inputs, out, count, scalars). Sources that are not in the cache are compiled in parallel."""
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
    name, module : str, optional
        Default: those of the decorated function, which is the NumPy reference.
    ulp : int
        Allowed difference from the NumPy reference, in units in the last place of the largest term.
    """

    return _declaration("elementwise", signature, source, name, module, prologue=prologue, guard=guard, ulp=ulp)


def by_row(
    signature: str,
    source: str,
    *,
    guard: Guard | None = None,
    independent_rows: bool = False,
    name: str | None = None,
    module: str | None = None,
) -> Declaration:
    """Declare a kernel by its C++ source for one row. Operands `rows[m]` are pointers to this row of m columns.

    `independent_rows` states that row i writes only its own part of a raw output, so that threads may share the rows.
    """

    return _declaration("by_row", signature, source, name, module, guard=guard, independent_rows=independent_rows)


def reduction(
    signature: str,
    source: str,
    *,
    axis: str,
    combine: Combine = ADD,
    prologue: str = "",
    guard: Guard | None = None,
    name: str | None = None,
    module: str | None = None,
) -> Declaration:
    """Declare a kernel by its C++ source for one term, computed from one element.

    `axis="rows"` combines the terms of each column, in blocks of 64 consecutive rows. `axis="all"` combines all terms
    to one float64 result, in 32 interleaved lanes. The order is fixed, so the same input gives the same bits.
    """

    return _declaration(
        "reduction", signature, source, name, module, prologue=prologue, guard=guard, combine=combine, axis=axis
    )


def _declaration(
    form: str,
    signature: str,
    source: str,
    name: str | None,
    module: str | None,
    *,
    prologue: str = "",
    guard: Guard | None = None,
    combine: Combine | None = None,
    axis: str = "",
    independent_rows: bool = False,
    ulp: int = 4,
) -> Declaration:
    def declare(reference: Callable[..., Any]) -> Kernel:
        return _register(
            Kernel(
                name or reference.__name__,
                form,
                parse(signature),
                inspect.cleandoc(source),
                reference,
                module or reference.__module__,
                prologue,
                guard,
                combine,
                axis,
                independent_rows,
                ulp,
                inspect.getdoc(reference) or "",
            )
        )

    return declare


def _register(kernel: Kernel) -> Kernel:
    """Check a declaration and add it to the registry. A module may declare its own kernels again."""
    _check_calls(kernel)
    _check_operands(kernel)
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
