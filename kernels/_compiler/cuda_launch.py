"""The kernels' C++ texts on a GPU: the same text as on the CPU, as a `cupy.ElementwiseKernel`.

Here it is decided, from the sizes and the layout, as which of its texts (`_device_texts`) a kernel is launched, and by
how many threads. Reductions go through scratch that is allocated when the launch is bound: nothing allocates when it
runs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..state import slots
from . import warp_lanes
from .arguments import BoundArguments, check_arguments, with_input_copies
from .cuda_codegen import (
    PARTIALS_PER_WARP,
    WARP,
    KernelSource,
    by_row_source,
    can_fuse_column_sums,
    column_sums_source,
    elementwise_source,
    flat_source,
    reduction_sources,
)

if TYPE_CHECKING:
    from .arguments import BoundArguments
    from .definition import KernelDefinition

MAX_THREADS = 2**18  # as many as a large GPU runs at a time
MIN_PER_THREAD = 16  # elements that a thread of a reduction combines at least
MAX_PER_THREAD_ONE_PASS = 64  # and at most, where the partial results can so be joined by one launch
MIN_ROWS_PER_THREAD_FUSED = 8  # rows that a thread takes at least where it also writes them
MAX_ELEMENTS_WARP_PER_COLUMN = 2**17  # elements up to which column sums take one launch, a warp a column
OPTIONS = ("-std=c++17",)


def _cupy() -> Any:
    import cupy

    return cupy


class DeviceLaunch:
    """Calls on a GPU, in order, that a stream may capture: they allocate nothing, read nothing back, and do the same
    work whenever they are run.

    reads, writes  the arrays that they read and write
    product        whether it is a matrix product, which needs memory of its stream's
    once           whether the first of several steps in a row leaves what it makes as the next ones need it
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
        self.calls, self.reads, self.writes, self.needs_workspace = (
            tuple(calls),
            tuple(reads),
            tuple(writes),
            needs_workspace,
        )
        self.first_step_only = False

    def __call__(self) -> None:
        for call in self.calls:
            call()


def bind(kernel: KernelDefinition, call: BoundArguments) -> DeviceLaunch:
    """The launch on the GPU that holds the arrays; without elements it is a launch of nothing."""
    calls = {"elementwise": _elementwise, "by_row": _by_row, "reduction": _reduction}[kernel.form](kernel, call)
    reads, writes = [], []
    text = "\n".join([kernel.source, kernel.prologue, kernel.guard.source if kernel.guard else ""])
    for o, a in zip(kernel.signature.arrays, call.arrays, strict=True):
        entries = slots(text) if o.name == "state" and o.kind == "raw" else None
        if entries is not None:
            # launches that have to do with other entries need not wait for one another
            reads += [a[k : k + 1] for k in sorted(entries[0])]
            writes += [a[k : k + 1] for k in sorted(entries[1])]
            continue
        reads += [a] if o.role != "out" else []
        writes += [a] if o.role != "in" else []
    return DeviceLaunch(calls, reads, writes)


Calls = list[Callable[[], Any]]


def _launch(function: Any, arguments: list[Any], size: int | None) -> Callable[[], None]:
    if size is None:
        return functools.partial(function, *arguments)
    return functools.partial(function, *arguments, size=size)


def _compiled(text: KernelSource, name: str) -> Any:
    # a kernel of the bare name tanh would clash with the function
    return _made(_cupy().ElementwiseKernel, text, f"gpunn_{name}")


@functools.cache
def _made(elementwise_kernel: Any, text: KernelSource, name: str) -> Any:
    inputs, outputs, operation, preamble = text
    return elementwise_kernel(inputs, outputs, operation, name, preamble=preamble, options=OPTIONS)


def _values(kernel: KernelDefinition, call: BoundArguments) -> list[Any]:
    kinds = {o.name: o.type for o in kernel.signature.scalars}
    return [
        np.dtype(call.types.get(kinds[o.name], kinds[o.name])).type(call.scalars[o.name])
        for o in kernel.signature.scalars
    ]


# --- elementwise ---------------------------------------------------------------------------------------------------


def _elementwise(kernel: KernelDefinition, call: BoundArguments) -> Calls:
    n, m = call.shape
    if n * m == 0:
        return []
    operands, arrays = kernel.signature.arrays, call.arrays
    split = len(kernel.signature.inputs)
    pack = _pack(kernel, call)
    if pack:
        index = "int" if n * m + pack < 2**31 else "long long"
        function = _compiled(flat_source(kernel, pack, index, call.bf16), kernel.name)
        values = [*_values(kernel, call), n * m, m]
        return [_launch(function, [*arrays[:split], *values, *arrays[split:]], -(-n * m // pack))]
    function = _compiled(elementwise_source(kernel, call.bf16), kernel.name)
    flat = any(o.kind == "element" and a.ndim == 1 for o, a in zip(operands, arrays, strict=True))
    arrays = [a[:, None] if o.kind == "col" and not flat else a for o, a in zip(operands, arrays, strict=True)]
    return [_launch(function, [*arrays[:split], *_values(kernel, call), *arrays[split:]], None)]


def _pack(kernel: KernelDefinition, call: BoundArguments) -> int:
    """The number of elements that a thread takes at once, 16 bytes of the narrowest array; 1 where they do not lie on
    multiples of 16 bytes or go over a row's end, and 0 where arrays are not contiguous."""
    pairs = [(o, a) for o, a in zip(kernel.signature.arrays, call.arrays, strict=True) if o.kind != "raw"]
    if not all(a.flags.c_contiguous for _, a in pairs):
        return 0
    side_by_side = [a for o, a in pairs if o.kind != "col"]
    pack = max(1, 16 // min(a.itemsize for a in side_by_side))
    within_rows = call.shape[1] % pack == 0 or all(o.kind == "element" for o, _ in pairs)
    aligned = all(a.data.ptr % min(16, pack * a.itemsize) == 0 for a in side_by_side)
    return pack if within_rows and aligned else 1


# --- by row --------------------------------------------------------------------------------------------------------


def _by_row(kernel: KernelDefinition, call: BoundArguments) -> Calls:
    n = call.shape[0]
    if n == 0:
        return []
    lanes = _lanes_of_a_row(kernel, call)
    function = _compiled(by_row_source(kernel, lanes, call.bf16), kernel.name)
    xp = _cupy()
    arrays, copies = [], []
    for o, a in zip(kernel.signature.arrays, call.arrays, strict=True):
        if o.kind in ("rows", "element") and a.shape[-1] > 1 and a.strides[-1] != a.itemsize:
            if o.role != "in":
                raise ValueError(f"kernel {kernel.name}: the rows of output {o.name} must be contiguous")
            copies.append((xp.empty(a.shape, a.dtype), a))
            a = copies[-1][0]
        arrays.append(a)
    numbers = [call.widths[w] for w in kernel.signature.widths]
    numbers += [
        a.strides[0] // a.itemsize for o, a in zip(kernel.signature.arrays, arrays, strict=True) if o.kind == "rows"
    ]
    split = len(kernel.signature.inputs)
    launch = _launch(function, [*arrays[:split], *_values(kernel, call), *numbers, *arrays[split:]], n * lanes)
    return [with_input_copies(copies, launch) if copies else launch]


def _lanes_of_a_row(kernel: KernelDefinition, call: BoundArguments) -> int:
    """As many threads as a row has columns, rounded down to a power of two, and at most a warp."""
    if not warp_lanes.uses_lanes(kernel.source):
        return 1
    width = max(call.widths.values(), default=WARP)
    return min(WARP, 1 << (width.bit_length() - 1))


# --- reductions ----------------------------------------------------------------------------------------------------


def _reduction(kernel: KernelDefinition, call: BoundArguments) -> Calls:
    *inputs, result = call.arrays
    xp, made = _cupy(), reduction_sources(kernel, call.bf16)
    n, m = call.shape
    results = result.size
    if results == 0:
        return []
    pairs = [(o, a) for o, a in zip(kernel.signature.inputs, inputs, strict=True) if o.kind != "raw"]
    if kernel.axis == "all" and all(o.kind == "element" and a.flags.c_contiguous for o, a in pairs):
        # one long row, whose columns are found without a division
        pairs, n, m = [(o, a.reshape(-1)) for o, a in pairs], 1, n * m
    steps: list[int] = []
    for o, a in pairs:
        strides = [stride // a.itemsize for stride in a.strides]
        steps += strides if o.kind == "row" or a.ndim == 2 else [0, *strides]
    calls: Calls = []

    def begin(suffix: str, size: int, n_parts: int, into: Any) -> None:
        function = _compiled(made[suffix], kernel.name + suffix)
        arguments = [*inputs, *_values(kernel, call), n, m, n_parts, *steps, into]
        calls.append(_launch(function, arguments, size))

    def scratch(n_parts: int) -> Any:
        return result if n_parts == 1 else xp.empty(results * n_parts, dtype=result.dtype)

    parts, n_parts = (xp.empty(1, dtype=result.dtype), 0) if n * m == 0 else (result, 1)
    if n * m and kernel.axis == "all":
        n_parts = min(MAX_THREADS, -(-n * m // MIN_PER_THREAD) + WARP - 1) // WARP
        if n_parts > PARTIALS_PER_WARP and n * m <= PARTIALS_PER_WARP * WARP * MAX_PER_THREAD_ONE_PASS:
            n_parts = PARTIALS_PER_WARP
        parts = scratch(n_parts)
        begin("_parts", n_parts * WARP, n_parts * WARP, parts)
    elif n * m and n > MIN_PER_THREAD and n * m <= MAX_ELEMENTS_WARP_PER_COLUMN:
        begin("_columns", m * WARP, 1, result)
    elif n * m:
        n_parts = max(1, min(MAX_THREADS // m, n // MIN_PER_THREAD))
        parts = scratch(n_parts)
        begin("_parts", m * n_parts, n_parts, parts)
    guarded = [a for o, a in zip(kernel.signature.inputs, inputs, strict=True) if o.name == "state" and kernel.guard]
    return calls + _joins(kernel, guarded, parts, n_parts, result)


def _joins(kernel: KernelDefinition, guarded: list[Any], parts: Any, n_parts: int, result: Any) -> Calls:
    """The launches that join `n_parts` partial results of every result, 1024 a warp, until one is left."""
    function = _compiled(reduction_sources(kernel)["_join"], f"{kernel.name}_join")
    calls: Calls = []
    while n_parts != 1:
        n_groups = max(1, -(-n_parts // PARTIALS_PER_WARP))
        into = result if n_groups == 1 else _cupy().empty(result.size * n_groups, dtype=result.dtype)
        calls.append(_launch(function, [*guarded, parts, n_parts, n_groups, into], result.size * n_groups * WARP))
        parts, n_parts = into, n_groups
    return calls


def bind_with_column_sums(
    kernel: KernelDefinition, call: BoundArguments, column_sum: KernelDefinition, sums: Any
) -> DeviceLaunch | None:
    """An elementwise kernel and the column sums of what it writes in one pass; None where that is not done: on other
    layouts than contiguous matrices, and on no elements."""
    n, m = call.shape
    *inputs, out = call.arrays
    if not can_fuse_column_sums(kernel) or out.ndim != 2 or n * m == 0:
        return None
    check_arguments(column_sum, (out,), sums, {}, None)
    if not (pack := _pack(kernel, call)):
        return None
    pack = pack if m % pack == 0 else 1
    n_parts = max(1, min(MAX_THREADS // (m // pack), n // MIN_ROWS_PER_THREAD_FUSED))
    parts = sums if n_parts == 1 else _cupy().empty(m * n_parts, dtype=sums.dtype)
    function = _compiled(column_sums_source(kernel, pack, call.bf16), f"{kernel.name}_summed")
    arguments = [*inputs, *_values(kernel, call), n, m, n_parts, out, parts]
    calls = [_launch(function, arguments, m // pack * n_parts)]
    return DeviceLaunch([*calls, *_joins(column_sum, [], parts, n_parts, sums)], inputs, [out, sums])
