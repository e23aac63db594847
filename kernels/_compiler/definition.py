"""The definition of a kernel as data, and the table of all definitions. Nothing here runs a kernel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .signature import Signature


@dataclass(frozen=True)
class Guard:
    """A condition on the state array, evaluated once per launch. If it is false, the kernel writes nothing.

    source     C++ expression over `state`
    reference  the same condition in Python
    """

    source: str
    reference: Callable[[Any], bool]


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

    form              "elementwise", "by_row" or "reduction"
    source            C++ code for one element or one row
    reference         NumPy function that defines the result
    module            module that declares the kernel; its kernels are compiled together
    prologue          C++ code before the loop, executed once per launch
    guard             condition under which the kernel writes
    combine, axis     of a reduction: the operation, and "rows" (one result per column) or "all" (one result)
    independent_rows  row i writes only its own part of a raw output, so threads may share the rows
    ulp               allowed difference between source and reference in an elementwise kernel
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
        """The kernel that combines partial results. None if the reduction has a guard or cannot be divided."""
        return self.combine.combine_kernel if self.combine is not None and self.guard is None else None


DEFINITIONS: dict[str, KernelDefinition] = {}
