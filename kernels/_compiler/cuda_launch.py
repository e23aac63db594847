"""Launches on a GPU: the source of a kernel as a `cupy.ElementwiseKernel`.

This module selects a source of `cuda_codegen` and the number of threads from the sizes and the layout. Scratch memory
of reductions is allocated when the launch is bound: nothing is allocated when it runs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .arguments import BoundArguments
from .composition import split_summed, with_input_copies
from .cuda_codegen import (
    PARTIALS_PER_WARP,
    KernelSource,
    by_row_source,
    column_sums_source,
    combine_source,
    elementwise_source,
    flat_source,
    reduction_sources,
)
from .definition import KernelDefinition
from .warp_lanes import WARP, uses_lanes

MAX_THREADS = 2**18  # the number that a large GPU executes concurrently
MIN_PER_THREAD = 16  # elements that a thread of a reduction combines at least
MAX_PER_THREAD_ONE_PASS = 64  # and at most, if a single launch can then combine the partial results
MIN_ROWS_PER_THREAD_FUSED = 8  # rows that a thread processes at least if it also writes them
MAX_ELEMENTS_WARP_PER_COLUMN = 2**17  # elements up to which column sums take one launch, with one warp per column
OPTIONS = ("-std=c++17",)

Calls = list[Callable[[], Any]]


def _cupy() -> Any:
    import cupy

    return cupy


class DeviceLaunch:
    """Calls on a GPU, in order, that can be captured in a CUDA graph.

    They allocate nothing, read nothing back to the host, and do the same work in every run.

    reads, writes    the arrays that they read and write
    needs_workspace  True for a matrix product, which uses the workspace of its stream
    first_step_only  True if only the first of several consecutive steps must run it
    """

    __slots__ = ("calls", "first_step_only", "needs_workspace", "reads", "writes")

    def __init__(
        self,
        calls: Sequence[Callable[[], Any]],
        reads: Sequence[Any],
        writes: Sequence[Any],
        *,
        needs_workspace: bool = False,
    ) -> None:
        self.calls = tuple(calls)
        self.reads = tuple(reads)
        self.writes = tuple(writes)
        self.needs_workspace = needs_workspace
        self.first_step_only = False

    def __call__(self) -> None:
        for call in self.calls:
            call()


def bind(kernel: KernelDefinition, bound: BoundArguments) -> DeviceLaunch:
    """Bind a kernel on the GPU that owns the arrays. Without elements, the launch contains no call."""
    of_form = {"elementwise": _elementwise, "by_row": _by_row, "reduction": _reduction, "summed": _summed}
    calls = of_form[kernel.form](kernel, bound)
    reads, writes = [], []
    for o, a in zip(kernel.signature.arrays, bound.arrays, strict=True):
        if o.name == "state" and o.kind == "raw":
            # launches that access different entries are independent
            reads += [a[k : k + 1] for k in sorted(kernel.state_reads)]
            writes += [a[k : k + 1] for k in sorted(kernel.state_writes)]
            continue
        reads += [a] if o.role != "out" else []
        writes += [a] if o.role != "in" else []
    return DeviceLaunch(calls, reads, writes)


def _launch(function: Any, arguments: list[Any], size: int | None) -> Callable[[], None]:
    if size is None:
        return functools.partial(function, *arguments)
    return functools.partial(function, *arguments, size=size)


def _compiled(source: KernelSource, name: str) -> Any:
    # the prefix avoids clashes with functions, for example of a kernel with the name tanh
    return _elementwise_kernel(_cupy().ElementwiseKernel, source, f"gpunn_{name}")


@functools.cache
def _elementwise_kernel(constructor: Any, source: KernelSource, name: str) -> Any:
    inputs, outputs, operation, preamble = source
    return constructor(inputs, outputs, operation, name, preamble=preamble, options=OPTIONS)


def _scalar_values(kernel: KernelDefinition, bound: BoundArguments) -> list[Any]:
    return [np.dtype(bound.types.get(o.type, o.type)).type(bound.scalars[o.name]) for o in kernel.signature.scalars]


# --- elementwise ----------------------------------------------------------------------------------------------------


def _elementwise(kernel: KernelDefinition, bound: BoundArguments) -> Calls:
    n, m = bound.shape
    if n * m == 0:
        return []
    operands, arrays = kernel.signature.arrays, bound.arrays
    n_inputs = len(kernel.signature.inputs)
    scalars = _scalar_values(kernel, bound)
    pack = _pack(kernel, bound)
    if pack:
        index = "int" if n * m + pack < 2**31 else "long long"
        function = _compiled(flat_source(kernel, pack, index, bf16=bound.bf16), kernel.name)
        arguments = [*arrays[:n_inputs], *scalars, n * m, m, *arrays[n_inputs:]]
        return [_launch(function, arguments, -(-n * m // pack))]
    function = _compiled(elementwise_source(kernel, bf16=bound.bf16), kernel.name)
    flat = any(o.kind == "element" and a.ndim == 1 for o, a in zip(operands, arrays, strict=True))
    arrays = [a[:, None] if o.kind == "col" and not flat else a for o, a in zip(operands, arrays, strict=True)]
    return [_launch(function, [*arrays[:n_inputs], *scalars, *arrays[n_inputs:]], None)]


def _pack(kernel: KernelDefinition, bound: BoundArguments) -> int:
    """The number of elements per thread: 16 bytes of the narrowest array.

    1 if arrays are not aligned to 16 bytes or a pack would cross the end of a row, 0 if arrays are not contiguous.
    """
    pairs = [(o, a) for o, a in zip(kernel.signature.arrays, bound.arrays, strict=True) if o.kind != "raw"]
    if not all(a.flags.c_contiguous for _, a in pairs):
        return 0
    packed = [a for o, a in pairs if o.kind != "col"]
    pack = max(1, 16 // min(a.itemsize for a in packed))
    within_rows = bound.shape[1] % pack == 0 or all(o.kind == "element" for o, _ in pairs)
    aligned = all(a.data.ptr % min(16, pack * a.itemsize) == 0 for a in packed)
    return pack if within_rows and aligned else 1


# --- column sums ----------------------------------------------------------------------------------------------------


def _summed(kernel: KernelDefinition, bound: BoundArguments) -> Calls:
    """One pass if the operands are contiguous and have elements, otherwise two launches."""
    (base, elements), (column_sum, columns) = split_summed(kernel, bound)
    n, m = bound.shape
    pack = _pack(base, elements) if n * m else 0
    if not pack:
        return [*_elementwise(base, elements), *_reduction(column_sum, columns)]
    *inputs, out, sums = bound.arrays
    pack = pack if m % pack == 0 else 1
    n_parts = max(1, min(MAX_THREADS // (m // pack), n // MIN_ROWS_PER_THREAD_FUSED))
    parts = sums if n_parts == 1 else _cupy().empty(m * n_parts, dtype=sums.dtype)
    function = _compiled(column_sums_source(base, pack, bf16=bound.bf16), kernel.name)
    arguments = [*inputs, *_scalar_values(kernel, bound), n, m, n_parts, out, parts]
    calls = [_launch(function, arguments, m // pack * n_parts)]
    return calls + _combine_parts(column_sum, [], parts, n_parts, sums)


# --- by row ---------------------------------------------------------------------------------------------------------


def _by_row(kernel: KernelDefinition, bound: BoundArguments) -> Calls:
    n = bound.shape[0]
    if n == 0:
        return []
    lanes = _lanes_per_row(kernel, bound)
    function = _compiled(by_row_source(kernel, lanes, bf16=bound.bf16), kernel.name)
    xp = _cupy()
    arrays, copies = [], []
    for o, a in zip(kernel.signature.arrays, bound.arrays, strict=True):
        if o.kind in ("rows", "element") and a.shape[-1] > 1 and a.strides[-1] != a.itemsize:
            if o.role != "in":
                raise ValueError(f"kernel {kernel.name}: the rows of output {o.name} must be contiguous")
            copies.append((xp.empty(a.shape, a.dtype), a))
            a = copies[-1][0]
        arrays.append(a)
    numbers = [bound.widths[w] for w in kernel.signature.widths]
    numbers += [
        a.strides[0] // a.itemsize for o, a in zip(kernel.signature.arrays, arrays, strict=True) if o.kind == "rows"
    ]
    n_inputs = len(kernel.signature.inputs)
    arguments = [*arrays[:n_inputs], *_scalar_values(kernel, bound), *numbers, *arrays[n_inputs:]]
    launch = _launch(function, arguments, n * lanes)
    return [with_input_copies(copies, launch) if copies else launch]


def _lanes_per_row(kernel: KernelDefinition, bound: BoundArguments) -> int:
    """The number of columns, rounded down to a power of two, and at most a warp."""
    if not uses_lanes(kernel.source):
        return 1
    width = max(bound.widths.values(), default=WARP)
    return min(WARP, 1 << (width.bit_length() - 1))


# --- reductions -----------------------------------------------------------------------------------------------------


def _reduction(kernel: KernelDefinition, bound: BoundArguments) -> Calls:
    *inputs, result = bound.arrays
    if result.size == 0:
        return []
    n, m, strides = _reduced_shape(kernel, bound)
    found = reduction_sources(kernel, bf16=bound.bf16)
    suffix, threads, n_parts = _reduction_size(kernel, n, m)
    if n_parts == 0:
        calls, parts = [], _cupy().empty(1, dtype=result.dtype)
    else:
        parts = result if n_parts == 1 else _cupy().empty(result.size * n_parts, dtype=result.dtype)
        # a warp of a full reduction writes one partial result for its 32 threads
        step = n_parts * WARP if kernel.axis == "all" else n_parts
        arguments = [*inputs, *_scalar_values(kernel, bound), n, m, step, *strides, parts]
        calls = [_launch(_compiled(found[suffix], kernel.name + suffix), arguments, threads)]
    guarded = [a for o, a in zip(kernel.signature.inputs, inputs, strict=True) if o.name == "state" and kernel.guard]
    return calls + _combine_parts(kernel, guarded, parts, n_parts, result)


def _reduced_shape(kernel: KernelDefinition, bound: BoundArguments) -> tuple[int, int, list[int]]:
    """Rows, columns and the operands' strides in elements. Contiguous operands of a full reduction are one long row."""
    n, m = bound.shape
    pairs = [(o, a) for o, a in zip(kernel.signature.inputs, bound.arrays[:-1], strict=True) if o.kind != "raw"]
    if kernel.axis == "all" and all(o.kind == "element" and a.flags.c_contiguous for o, a in pairs):
        # with one row, the kernel finds the column without a division
        pairs, n, m = [(o, a.reshape(-1)) for o, a in pairs], 1, n * m
    strides: list[int] = []
    for o, a in pairs:
        steps = [stride // a.itemsize for stride in a.strides]
        strides += steps if o.kind == "row" or a.ndim == 2 else [0, *steps]
    return n, m, strides


def _reduction_size(kernel: KernelDefinition, n: int, m: int) -> tuple[str, int, int]:
    """The suffix of the first source, its number of threads, and the partial results per result; 0 without elements."""
    if n * m == 0:
        return "", 0, 0
    if kernel.axis == "all":
        n_parts = min(MAX_THREADS, -(-n * m // MIN_PER_THREAD) + WARP - 1) // WARP
        if n_parts > PARTIALS_PER_WARP and n * m <= PARTIALS_PER_WARP * WARP * MAX_PER_THREAD_ONE_PASS:
            n_parts = PARTIALS_PER_WARP
        return "_partial", n_parts * WARP, n_parts
    if n > MIN_PER_THREAD and n * m <= MAX_ELEMENTS_WARP_PER_COLUMN:
        return "_columns", m * WARP, 1
    n_parts = max(1, min(MAX_THREADS // m, n // MIN_PER_THREAD))
    return "_partial", m * n_parts, n_parts


def _combine_parts(kernel: KernelDefinition, guarded: list[Any], parts: Any, n_parts: int, result: Any) -> Calls:
    """The launches that combine `n_parts` partial results of every result, 1024 per warp, until one is left."""
    function = _compiled(combine_source(kernel), f"{kernel.name}_combine")
    calls: Calls = []
    while n_parts != 1:
        n_groups = max(1, -(-n_parts // PARTIALS_PER_WARP))
        into = result if n_groups == 1 else _cupy().empty(result.size * n_groups, dtype=result.dtype)
        size = result.size * n_groups * WARP
        calls.append(_launch(function, [*guarded, parts, n_parts, n_groups, into], size))
        parts, n_parts = into, n_groups
    return calls
