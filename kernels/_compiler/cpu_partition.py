"""Partition of a kernel's launch among the threads of a CPU: along rows, along columns, or over flat elements."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

from .compiled_launch import CompiledLaunch, Partition, ThreadTask, byte_range
from .definition import KernelDefinition
from .signature import Operand

ROW_GRAIN = 4
ELEMENT_GRAIN = 64
MIN_NS_TO_SPLIT_REDUCTION = 4000.0  # below this duration, partial results and their combination do not pay


def chunk_bounds(n: int, parts: int, grain: int) -> list[tuple[int, int]]:
    """Divide 0 … n into at most `parts` chunks (start, end) whose inner bounds are multiples of `grain`.

    The bounds depend on these arguments only, so a thread works on the same rows in consecutive launches and finds them
    in its cache.
    """
    ends = [min(n, round(n * k / parts / grain) * grain) for k in range(parts)] + [n]
    return [(a, b) for a, b in itertools.pairwise(ends) if a < b]


def strided_operands(kernel: KernelDefinition, arrays: list[Any]) -> list[tuple[Operand, Any]]:
    """The operands whose strides are passed to the generated loop. The result of a reduction is contiguous."""
    return [
        (o, a)
        for o, a in zip(kernel.signature.arrays, arrays, strict=True)
        if o.kind != "raw" and not (kernel.form == "reduction" and o.role == "out")
    ]


def partition_axis(kernel: KernelDefinition, arrays: list[Any]) -> str:
    """The axis along which a launch can be divided: "rows", "columns", "flat" (contiguous elements) or "none"."""
    if kernel.form == "by_row":
        writes_raw = any(o.kind == "raw" and o.role != "in" for o in kernel.signature.arrays)
        return "none" if writes_raw and not kernel.independent_rows else "rows"
    if kernel.axis == "rows":
        return "columns"
    flat = all(o.kind == "element" and a.flags.c_contiguous for o, a in strided_operands(kernel, arrays))
    return "flat" if flat else "rows"


class Partitioner:
    """Divide the launches of one kernel among threads.

    bind_combine  (partial results, result) → launch of the kernel that combines partial results
    """

    def __init__(self, kernel: KernelDefinition, axis: str, bind_combine: Callable[[Any, Any], CompiledLaunch]) -> None:
        self.kernel = kernel
        self.axis = axis
        self.bind_combine = bind_combine

    def __call__(self, launch: CompiledLaunch, parts: int) -> Partition:
        chunks: list[tuple[int, int]] = []
        if self.axis != "none":
            grain = ROW_GRAIN if self.axis == "rows" else ELEMENT_GRAIN
            chunks = chunk_bounds(launch.sizes[self._first_size + 1], parts, grain)
        if len(chunks) < 2:
            return Partition([self._task(launch, None)])
        if self.kernel.axis != "all":
            return Partition([self._task(launch, chunk) for chunk in chunks])
        if launch.estimated_ns > MIN_NS_TO_SPLIT_REDUCTION and self.kernel.combine_kernel is not None:
            return self._partial_reductions(launch, chunks)
        return Partition([self._task(launch, None)])

    @property
    def _first_size(self) -> int:
        """The index of the range (start, end) of the axis in the launch's sizes."""
        return 0 if self.axis == "rows" else 2

    def _task(self, launch: CompiledLaunch, chunk: tuple[int, int] | None) -> ThreadTask:
        """The task for one chunk of the axis, or for the whole launch."""
        sizes = list(launch.sizes)
        if chunk is not None:
            sizes[self._first_size : self._first_size + 2] = chunk
        reads, writes = [], []
        for o, a in zip(self.kernel.signature.arrays, launch.arrays, strict=True):
            accessed = byte_range(a if chunk is None else self._slice(o, a, *chunk))
            if o.role != "out":
                reads.append(accessed)
            if o.role != "in":
                writes.append(accessed)
        return ThreadTask(launch.with_sizes(sizes), reads, writes)

    def _slice(self, operand: Operand, array: Any, start: int, end: int) -> Any:
        """The part of an operand that a chunk reads or writes."""
        if operand.kind == "raw":
            return array
        if self.axis == "rows":
            return array if operand.kind == "row" else array[start:end]
        if self.axis == "flat":
            return array.reshape(-1)[start:end]
        return array if operand.kind == "col" else array[..., start:end]

    def _partial_reductions(self, launch: CompiledLaunch, chunks: list[tuple[int, int]]) -> Partition:
        """Divide a reduction over all elements: each task writes one partial result, a final launch combines them."""
        partial_results = np.zeros(len(chunks))
        index = next(k for k, o in enumerate(self.kernel.signature.arrays) if o.role == "out")
        arrays = [*launch.arrays[:index], partial_results, *launch.arrays[index + 1 :]]
        partial = CompiledLaunch(
            launch.function, arrays, launch.sizes, launch.scalars, estimated_ns=launch.estimated_ns
        )
        tasks = []
        for k, chunk in enumerate(chunks):
            task = self._task(partial, chunk)
            # the last size is the index of the result
            own = task.launch.with_sizes([*task.launch.sizes[:-1], k])
            tasks.append(ThreadTask(own, task.reads, [byte_range(partial_results[k : k + 1])]))
        return Partition(tasks, self.bind_combine(partial_results, launch.arrays[index]))
