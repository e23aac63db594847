"""Ops: the operations of a step, and the memory that they read and write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..kernels import Kernel
from .ranges import Access
from .tensor import ArrayFunction, Tensor, Variable, View

COLLECTIVES = ("all_reduce", "start_all_reduce", "wait_all_reduce")
COMMUNICATION = Variable("communication", 1, np.float64)  # all processes run the collectives in one order
CSR_ROWS = "csr_rows"  # see csr.py
STATE = "state"  # the variable whose entries kernels access by name
SECTIONS = ("weights", "forward", "loss", "backward", "update")


class Op:
    """One operation of a step.

    Attributes
    ----------
    name : str
        "matmul", the name of a kernel, "python", or an operation of a backend.
    inputs, outputs : tuple of tensors
        The inputs of a kernel are all its operands, those that it updates too.
    scalars : dict of str to float
        Scalar operands by name.
    kernel : Kernel or None
    count : int or None
        The number of rows of a kernel whose operands do not determine it.
    section : int
        The part of the step, an index of `SECTIONS`.
    partial : bool
        True if the outputs that have no batch axis are sums over the rows of this process only.
    local : bool
        True if the program's ops read partial sums as they are: batch statistics that are not synchronized.
    function, reason
        Of Python code: what is called, and why it is no kernel.
    first_step_only : bool
        True if only the first of several consecutive steps must run it.
    """

    __slots__ = (
        "_accesses",
        "count",
        "first_step_only",
        "function",
        "inputs",
        "kernel",
        "local",
        "name",
        "outputs",
        "partial",
        "reason",
        "scalars",
        "section",
    )

    def __init__(
        self,
        name: str,
        inputs: Sequence[View],
        outputs: Sequence[Tensor],
        scalars: dict[str, float] | None = None,
        *,
        kernel: Kernel | None = None,
        count: int | None = None,
        section: int = 0,
        partial: bool = False,
        local: bool = False,
        function: ArrayFunction | None = None,
        reason: str = "",
    ) -> None:
        self.name = name
        self.inputs = tuple(inputs)
        self.outputs = tuple(outputs)
        self.scalars = scalars or {}
        self.kernel = kernel
        self.count = count
        self.section = section
        self.partial = partial
        self.local = local
        self.function = function
        self.reason = reason
        self.first_step_only = False
        self._accesses: tuple[list[Access], list[Access]] | None = None

    def accesses(self) -> tuple[list[Access], list[Access]]:
        """The memory that the op reads, and that it writes. The state array is accessed entry by entry."""
        if self._accesses is None:
            reads = [_access(x.base) for x in self.inputs if not is_state(x)]
            writes = [_access(x) for x in self.outputs if not is_state(x)]
            state = next((x.base for x in (*self.inputs, *self.outputs) if is_state(x)), None)
            if state is not None:
                variable = state.place.variable  # type: ignore[union-attr]
                if self.kernel is None:
                    reads.append((variable, 0, variable.size))
                else:
                    reads += [(variable, k, k + 1) for k in self.kernel.state_reads]
                    writes += [(variable, k, k + 1) for k in self.kernel.state_writes]
            if self.name in COLLECTIVES:
                writes.append((COMMUNICATION, 0, 1))
            self._accesses = reads, writes
        return self._accesses

    def effects(self) -> tuple[list[Access], list[Access]]:
        """The parts of variables that the op reads, and that it writes."""
        reads, writes = self.accesses()
        return [a for a in reads if isinstance(a[0], Variable)], [a for a in writes if isinstance(a[0], Variable)]

    def replace_inputs(self, tensors: Mapping[Tensor, Tensor]) -> None:
        """Read other tensors, given by those that they replace."""
        if any(x.base in tensors for x in self.inputs):
            found = [(x, tensors.get(x.base, x.base)) for x in self.inputs]
            self.inputs = tuple(new.T if x.transposed else new for x, new in found)
            self._accesses = None

    def __repr__(self) -> str:
        return f"<Op {self.name}>"


def is_state(x: View) -> bool:
    """True for the whole state array, of which a kernel accesses the entries that it declares."""
    place = x.base.place
    return place is not None and place.variable.name == STATE and place.stop - place.start == place.variable.size


def _access(x: Tensor) -> Access:
    return (x, 0, 1) if x.place is None else x.place
