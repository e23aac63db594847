"""A call of a compiled C++ function on the CPU, and its division into tasks of several threads.

Every compiled function has the form ``(void* const* pointers, const long long* sizes, const double* scalars)``: the
addresses of its arrays, sizes and strides, and numbers. An executable is therefore a list of such calls.
"""

from __future__ import annotations

import copy
import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class ThreadTask:
    """The part of a launch that one thread executes, and the byte ranges (start, end) that it reads and writes."""

    launch: CompiledLaunch
    reads: list[tuple[int, int]]
    writes: list[tuple[int, int]]


@dataclass(frozen=True)
class Partition:
    """The tasks of a launch, at most one per thread, and the launch that combines their results."""

    tasks: list[ThreadTask]
    combine: CompiledLaunch | None = None


class CompiledLaunch:
    """A compiled function with its arguments. Calling it executes all of it on the calling thread.

    estimated_ns  approximate duration in nanoseconds
    partitioner   (launch, maximum number of tasks) → Partition; without one, the launch is a single task
    """

    __slots__ = (
        "_arguments",
        "_size_block",
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
        scalars: Sequence[float] | ctypes.Array[ctypes.c_double] = (),
        *,
        addresses: tuple[int, ...] = (),
        estimated_ns: float,
        partitioner: Callable[[CompiledLaunch, int], Partition] | None = None,
    ) -> None:
        self.function = function
        self.arrays = arrays
        self.estimated_ns = estimated_ns
        self.partitioner = partitioner
        self.pointers = (ctypes.c_void_p * (len(arrays) + len(addresses)))(*map(address_of, arrays), *addresses)
        self.scalars: Any = scalars  # a block of another launch is shared, so that a change reaches both
        if not isinstance(scalars, ctypes.Array):
            self.scalars = (ctypes.c_double * max(1, len(scalars)))(*scalars)
        self._sizes = sizes
        self._size_block = (ctypes.c_longlong * len(sizes))(*sizes)
        blocks = (self.pointers, self._size_block, self.scalars)
        self._arguments = tuple(ctypes.addressof(block) for block in blocks)

    def __call__(self) -> None:
        self.function(*self._arguments)

    @property
    def sizes(self) -> list[int]:
        """The sizes with which the launch was created."""
        return self._sizes

    @property
    def node(self) -> tuple[int, int, int, int]:
        """(function, pointers, sizes, scalars) as addresses."""
        return (self.function.address, *self._arguments)

    def clone(self) -> CompiledLaunch:
        """Copy the launch with its own block of pointers, so that they can be changed independently."""
        made = copy.copy(self)
        made.pointers = type(self.pointers)(*self.pointers)
        made._arguments = (ctypes.addressof(made.pointers), *self._arguments[1:])
        return made

    def with_sizes(self, sizes: list[int]) -> CompiledLaunch:
        """Copy the launch with other sizes."""
        made = copy.copy(self)
        made._sizes = sizes
        made._size_block = (ctypes.c_longlong * len(sizes))(*sizes)
        made._arguments = (self._arguments[0], ctypes.addressof(made._size_block), self._arguments[2])
        return made

    def partition(self, parts: int) -> Partition:
        """Divide the launch into at most `parts` tasks."""
        if self.partitioner is not None:
            return self.partitioner(self, parts)
        everything = [byte_range(a) for a in self.arrays]
        return Partition([ThreadTask(self, everything, everything)])


def load_function(library: ctypes.CDLL, name: str) -> Any:
    """A compiled function by name, with its address as the attribute `address`."""
    found = getattr(library, name)
    if not hasattr(found, "address"):
        found.argtypes, found.restype = (ctypes.c_void_p,) * 3, None
        found.address = ctypes.cast(found, ctypes.c_void_p).value
    return found


def address_of(array: Any) -> int:
    """The address of the first element of a NumPy or CuPy array."""
    if isinstance(array, np.ndarray):
        return int(array.__array_interface__["data"][0])
    return int(array.data.ptr)


def byte_range(array: Any) -> tuple[int, int]:
    """The address range (start, end) of an array's elements; (0, 0) for an empty array."""
    if array.size == 0:
        return 0, 0
    first = last = address_of(array)
    for size, stride in zip(array.shape, array.strides, strict=True):
        if stride < 0:
            first += stride * (size - 1)
        else:
            last += stride * (size - 1)
    return first, last + int(array.itemsize)
