"""The definition of a kernel as data, and the table of all definitions. Nothing here runs a kernel."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from .output_layout import CallForm, Layout, output_layout
from .signature import Operand, Signature


@dataclass(frozen=True)
class Guard:
    """A condition on the state array, evaluated once per launch. If it is false, the kernel writes nothing.

    source     C++ expression over `state`
    reference  the same condition in Python
    reads      the entries of the state array that it reads
    """

    source: str
    reference: Callable[[Any], bool]
    reads: tuple[int, ...]


@dataclass(frozen=True)
class Combine:
    """The operation with which a reduction combines two partial results.

    source          C++ expression over a and b
    ufunc           the NumPy equivalent
    identity        neutral element
    is_selection    the result is a or b, so partial results need no wider type than the elements
    combine_kernel  name of the kernel that combines the partial results (float64) of several threads
    """

    source: str
    ufunc: np.ufunc
    identity: float
    is_selection: bool = False
    combine_kernel: str | None = None


ADD = Combine("a + b", np.add, 0.0, combine_kernel="sum_all")
# NaN wins on either side: a NaN in a is kept by a != a, and a NaN in b fails both comparisons
MAX_OF_MAGNITUDES = Combine("(a > b || a != a) ? a : b", np.maximum, 0.0, is_selection=True, combine_kernel="max_abs")


@dataclass(frozen=True)
class KernelDefinition:
    """Everything that is declared about a kernel.

    form              "elementwise", "by_row", "reduction" or "summed"
    source            C++ code for one element or one row
    reference         NumPy function that defines the result
    module            module that declares the kernel; its kernels are compiled together
    prologue          C++ code before the loop, executed once per launch
    guard             condition under which the kernel writes
    combine, axis     of a reduction: the operation, and "rows" (one result per column) or "all" (one result)
    independent_rows  row i writes only its own part of a raw output, so threads may share the rows
    ranges            of a kernel by row: the source is for consecutive rows i … end − 1
    ulp               allowed difference between source and reference in an elementwise kernel
    reads, writes     entries of the state array that source and prologue access. None without a state array
    shared            pairs (output, input) of a kernel by row that may share memory
    base              of "summed": the elementwise kernel whose output is summed over rows
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
    ranges: bool = False
    ulp: int = 4
    doc: str = field(default="", repr=False)
    reads: frozenset[int] | None = None
    writes: frozenset[int] | None = None
    shared: tuple[tuple[str, str], ...] = ()
    base: KernelDefinition | None = None

    @property
    def combine_kernel(self) -> str | None:
        """The kernel that combines partial results. None if the reduction has a guard or cannot be divided."""
        return self.combine.combine_kernel if self.combine is not None and self.guard is None else None

    # --- effects ---

    @cached_property
    def state_reads(self) -> frozenset[int]:
        """The entries of the state array that a launch reads, the guard included."""
        guarded = self.guard.reads if self.guard is not None else ()
        return frozenset(map(int, (*(self.reads or ()), *guarded)))

    @cached_property
    def state_writes(self) -> frozenset[int]:
        """The entries of the state array that a launch may write."""
        return frozenset(self.writes or ())

    # --- the functional form ---

    @cached_property
    def operands(self) -> tuple[Operand, ...]:
        """The operands of a functional call: the inputs, then the outputs that are updated."""
        return self.signature.inputs + tuple(o for o in self.signature.outputs if o.is_updated)

    @cached_property
    def updated(self) -> tuple[int | None, ...]:
        """For each output, the index of the operand that it updates. None for a new array."""
        return tuple(self.operands.index(o) if o.is_updated else None for o in self.signature.outputs)

    @cached_property
    def in_place(self) -> tuple[tuple[int, ...], ...]:
        """For each output, the indices of the operands of the same type whose memory it may share, one at a time.

        Two outputs never share memory. An updated output shares that of its own operand only.
        """
        return tuple(self._may_share(o) for o in self.signature.outputs)

    def _may_share(self, output: Operand) -> tuple[int, ...]:
        if output.is_updated:
            return (self.operands.index(output),)
        if self.form == "by_row":
            return tuple(k for k, x in enumerate(self.operands) if (output.name, x.name) in self.shared)
        if self.form == "reduction" or output.kind != "element":
            return ()
        # the generated loops load the inputs of an element before they write its outputs
        return tuple(k for k, x in enumerate(self.operands) if (x.kind, x.type) == (output.kind, output.type))

    @cached_property
    def _layouts(self) -> tuple[Layout, ...]:
        signature = self.signature
        scalars = tuple(o.name for o in signature.scalars)
        call = CallForm(self.name, self.form, self.axis, self.operands, scalars, signature.supports_bf16)
        return tuple(output_layout(call, o) for o in signature.outputs)

    def output_layouts(
        self, operands: Sequence[Any], count: int | None = None, scalars: Mapping[str, float] | None = None
    ) -> list[tuple[tuple[int, ...], Any]]:
        """(shape, dtype) of each output, for operands with a shape and a dtype. `count` and `scalars` as in a call."""
        return [layout(operands, count, scalars or {}) for layout in self._layouts]


DEFINITIONS: dict[str, KernelDefinition] = {}
