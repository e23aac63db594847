"""Launches on a CPU: the compiled C++ source of a kernel if a compiler is available, otherwise its NumPy reference."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from . import cpu_cache, numpy_launch
from .arguments import BoundArguments, check_arguments
from .compiled_launch import CompiledLaunch, load_function
from .composition import in_order, split_summed, with_input_copies
from .cpu_codegen import symbol, unit_of
from .cpu_partition import Partitioner, partition_axis, strided_operands
from .definition import DEFINITIONS, KernelDefinition
from .signature import Operand

NS_PER_ELEMENT = 0.4


def bind(kernel: KernelDefinition, bound: BoundArguments) -> Callable[[], None]:
    """Bind the compiled source if there is one, otherwise the NumPy reference."""
    if kernel.form == "summed":
        return in_order(*(bind(*part) for part in split_summed(kernel, bound)))
    # no network trains in bfloat16 on a CPU, so the reference is sufficient
    library = None if bound.bf16 else cpu_cache.library(unit_of(kernel, bound.types))
    return numpy_launch.bind(kernel, bound) if library is None else _bind_library(kernel, bound, library)


def bind_compiled(kernel: KernelDefinition, bound: BoundArguments) -> Callable[[], None]:
    """Bind the compiled source. Raises RuntimeError if it cannot be compiled."""
    if kernel.form == "summed":
        return in_order(*(bind_compiled(*part) for part in split_summed(kernel, bound)))
    library = cpu_cache.library(unit_of(kernel, bound.types))
    if library is None or bound.bf16:
        reason = "bfloat16 is not supported on a CPU" if bound.bf16 else cpu_cache.status().reason
        raise RuntimeError(f"kernel {kernel.name}: the compiled source cannot run: {reason}")
    return _bind_library(kernel, bound, library)


def _bind_library(kernel: KernelDefinition, bound: BoundArguments, library: ctypes.CDLL) -> Callable[[], None]:
    arrays, copies = _with_contiguous_rows(kernel, bound.arrays)
    axis = partition_axis(kernel, arrays)
    launch = CompiledLaunch(
        load_function(library, symbol(kernel, bound.types)),
        arrays,
        _sizes(kernel, bound, arrays, axis),
        [bound.scalars[o.name] for o in kernel.signature.scalars],
        estimated_ns=NS_PER_ELEMENT * bound.shape[0] * max(bound.shape[1], *bound.widths.values(), 1),
        partitioner=Partitioner(kernel, axis, functools.partial(_bind_combine, kernel)),
    )
    return with_input_copies(copies, launch) if copies else launch


def _bind_combine(kernel: KernelDefinition, partial_results: Any, result: Any) -> CompiledLaunch:
    combine = DEFINITIONS[kernel.combine_kernel or ""]
    launch = bind_compiled(combine, check_arguments(combine, (partial_results,), result, {}, None))
    assert isinstance(launch, CompiledLaunch)
    return launch


def _with_contiguous_rows(kernel: KernelDefinition, arrays: list[Any]) -> tuple[list[Any], list[tuple[Any, Any]]]:
    """Replace inputs whose rows are not contiguous: the arrays to bind, and the copies (destination, source)."""
    if kernel.form != "by_row":
        return arrays, []
    bound, copies = list(arrays), []
    for k, (o, a) in enumerate(zip(kernel.signature.arrays, arrays, strict=True)):
        if o.kind == "rows" and a.size and a.shape[1] > 1 and a.strides[1] != a.itemsize:
            if o.role != "in":
                raise ValueError(f"kernel {kernel.name}: the rows of output {o.name} must be contiguous")
            bound[k] = np.empty(a.shape, a.dtype)
            copies.append((bound[k], a))
    return bound, copies


def _sizes(kernel: KernelDefinition, bound: BoundArguments, arrays: list[Any], axis: str) -> list[int]:
    """The sizes of a compiled function: ranges of rows and columns (or of rows, and widths), then strides."""
    n, m = bound.shape
    strided = strided_operands(kernel, arrays)
    if kernel.form == "by_row":
        widths = [bound.widths[w] for w in kernel.signature.widths]
        return [0, n, *widths, *(a.strides[0] // a.itemsize for _, a in strided)]
    if axis == "flat":
        # a single row of n·m elements, so that only the inner loop runs
        sizes = [0, 1, 0, n * m, *(0, 1) * len(strided)]
    else:
        sizes = [0, n, 0, m]
        for o, a in strided:
            sizes += _row_and_column_strides(o, a)
    if kernel.axis == "all":
        sizes.append(0)  # index of the result among the partial results of several tasks
    return sizes


def _row_and_column_strides(operand: Operand, array: Any) -> tuple[int, int]:
    """(row stride, column stride) in elements; 0 along an axis that the operand does not have."""
    strides = [stride // array.itemsize for stride in array.strides]
    if operand.kind == "row":
        return 0, strides[0]
    if operand.kind == "col":
        return strides[0], 0
    return (0, strides[0]) if len(strides) == 1 else (strides[0], strides[1])
