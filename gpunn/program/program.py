"""A step as a program: a straight-line list of ops on tensors with static shapes and types.

Tensors are assigned once. Variables are written by the ops whose outputs are placed in them, and by kernels that update
an operand. The order of ops is the order of their effects. A tensor keeps its value while a step is recorded: if its
part of a variable is overwritten and the tensor is read later, a copy is made before.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import TypedDict, Unpack

import numpy as np
from numpy.typing import DTypeLike

from ..kernels import Kernel
from ..kernels import get as kernel
from .op import STATE, Op, is_state
from .ranges import Tracker
from .tensor import (
    Array,
    ArrayFunction,
    Place,
    Tensor,
    TensorSpec,
    Transposed,
    Variable,
    View,
    described,
    refuse,
    unpacked,
)
from .text import program_text
from .verify import overlap, verify


class OpOptions(TypedDict, total=False):
    """The optional arguments of `Op` that `Program.append` takes."""

    scalars: dict[str, float]
    kernel: Kernel
    count: int | None
    partial: bool
    function: ArrayFunction
    reason: str


class Program:
    """The ops of a step, in order.

    Attributes
    ----------
    ops : list of Op
    outputs : list of Tensor
        The tensors that are read after the last op, and so are neither removed nor overwritten.
    inputs : list of Tensor
        The tensors that are written before the first op.
    nan_checked : bool
        True if a value that is not finite is found before it changes a parameter.
    precision : str or None
        The precision of matrix products, "tf32" or "bf16"; None for the tensors' type.
    """

    def __init__(self, *, nan_checked: bool = False, precision: str | None = None) -> None:
        self.ops: list[Op] = []
        self.inputs: list[Tensor] = []
        self.outputs: list[Tensor] = []
        self.variables: dict[str, Variable] = {}
        self.nan_checked = nan_checked
        self.precision = precision
        self.section = 0
        self.local_sums = False  # see Op.local
        self._proxy = weakref.proxy(self)  # a strong reference in every tensor would delay the release of the program
        self._slices: dict[tuple[str, int, int, tuple[int, ...]], Tensor] = {}  # from `read`, while they are current
        self._read: set[Tensor] = set()
        self._stored: dict[Variable, list[Tensor]] = {}  # the tensors in each variable that are current
        self._overwritten: dict[Tensor, Op] = {}  # the others, with the op that overwrites them
        self._copies: dict[Tensor, Tensor] = {}  # of tensors that are read after they were overwritten
        self._unassigned: set[Tensor] = set()  # kernels' updates of variables that no assignment stores

    # --- recording ---

    def new_tensor(
        self,
        shape: tuple[int, ...],
        dtype: DTypeLike,
        *,
        batch: bool = False,
        place: Place | None = None,
        name: str = "",
    ) -> Tensor:
        """A tensor of this program that no op writes yet."""
        return Tensor(self._proxy, shape, np.dtype(dtype), batch=batch, place=place, name=name)

    def input(self, name: str, shape: tuple[int, ...], dtype: DTypeLike, *, batch: bool = True) -> Tensor:
        """A tensor that is written before the step, such as the rows of the batch."""
        made = self.new_tensor(shape, dtype, batch=batch, name=name)
        self.inputs.append(made)
        return made

    def variable(self, name: str, size: int, dtype: DTypeLike) -> Variable:
        """Declare a variable, once."""
        found = self.variables.get(name)
        if found is None:
            found = self.variables[name] = Variable(name, size, dtype)
        return found

    def read(self, name: str, start: int, stop: int, shape: tuple[int, ...], label: str = "") -> Tensor:
        """A part of a variable as a tensor: its value at the op that reads it."""
        key = (name, start, stop, shape)
        found = self._slices.get(key)
        if found is None:
            variable = self.variables[name]
            place = Place(variable, start, stop)
            found = self._slices[key] = self.new_tensor(shape, variable.dtype, place=place, name=label or name)
            self._read.add(found)
            self._stored.setdefault(variable, []).append(found)
        return found

    def copy(self, x: View) -> Tensor:
        """Record the copy of a matrix, which may be transposed."""
        made = self.new_tensor(x.shape, x.dtype, batch=x.base.batch and not x.transposed)
        self.append("identity", (x,), (made,), kernel=kernel("identity"))
        return made

    def assign(self, name: str, start: int, value: View) -> Tensor:
        """Store a tensor in a variable, from element `start` on. Its op then writes there."""
        if isinstance(value, Transposed):
            value = self.copy(value)
        variable = self.variables[name]
        place = Place(variable, start, start + value.size)
        if value.dtype != variable.dtype:
            raise TypeError(f"a value assigned to {name} must be {variable.dtype}, got {value.dtype}")
        if self.is_stored(name, start, value):
            self._unassigned.discard(value)
            return value
        writer = self._early_writer(value, place) if value.place is None else None
        if writer is not None:
            value.place = place
            self._overwrite(value, writer)
            return value
        made = self.new_tensor(value.shape, variable.dtype, place=place, name=value.name)
        self.append("identity", (value,), (made,), kernel=kernel("identity"))
        return made

    def is_stored(self, name: str, start: int, value: Tensor) -> bool:
        """True if the variable has the value from element `start` on."""
        place = value.place
        return (
            place is not None and (place.variable.name, place.start) == (name, start) and value not in self._overwritten
        )

    def append(self, name: str, inputs: Sequence[View], outputs: Sequence[Tensor], **options: Unpack[OpOptions]) -> Op:
        """Record an op at the end."""
        if self._overwritten:
            inputs = [self._preserved(x) for x in inputs]
        op = Op(name, inputs, outputs, section=self.section, local=self.local_sums, **options)
        self.ops.append(op)
        for x in outputs:
            if x.place is not None:
                self._overwrite(x, op)
        return op

    def end_recording(self) -> None:
        """Give updates by kernels that no assignment stores memory of their own, so that the variable is unchanged."""
        for x in self._unassigned:
            x.place = None

    # --- overwritten tensors ---

    def _early_writer(self, value: Tensor, place: Place) -> Op | None:
        """The op that computed the value, if it can write it to the place. None if a later op accesses the place."""
        for op in reversed(self.ops):
            written = value in op.outputs
            accessed = [x.base.place for x in (*op.inputs, *op.outputs) if not is_state(x)]
            elementwise = op.kernel is not None and op.kernel.form == "elementwise"
            for other in accessed:
                if other is not None and overlap(other, place) and not (written and elementwise and other == place):
                    return None
            if written:
                return op
        return None

    def _overwrite(self, x: Tensor, op: Op) -> None:
        """Mark the tensors that are overwritten because an op stores x in its place."""
        place = x.place
        assert place is not None
        if place.variable.name == STATE:
            return  # kernels read its present entries
        stored = self._stored.setdefault(place.variable, [])
        for old in stored:
            if old.place is not None and overlap(old.place, place):
                self._overwritten[old] = op
                self._slices.pop((place.variable.name, old.place.start, old.place.stop, old.shape), None)
        stored[:] = [old for old in stored if old not in self._overwritten] + [x]

    def _preserved(self, view: View) -> View:
        """The operand, or a copy from before it was overwritten."""
        x = view.base
        if x not in self._overwritten:
            return view
        if x not in self._copies:
            writer = self._overwritten[x]
            made = self._copies[x] = self.new_tensor(x.shape, x.dtype, batch=x.batch, name=x.name)
            copy = Op("identity", (x,), (made,), kernel=kernel("identity"), section=writer.section)
            self.ops.insert(self.ops.index(writer), copy)
        return self._copies[x].T if view.transposed else self._copies[x]

    def matmul(self, a: object, b: object) -> Tensor:
        """Record a b. (E1, E5, E6)"""
        if not isinstance(a, (Tensor, Transposed)) or not isinstance(b, (Tensor, Transposed)):
            refuse(f"@ of {described(a)} and {described(b)}")
        if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[1] != b.shape[0]:
            raise ValueError(f"@: shapes must be (n, k) and (k, m), got {a.shape} and {b.shape}")
        summed = a.transposed and a.base.batch
        batch = not a.transposed and a.base.batch
        out = self.new_tensor((a.shape[0], b.shape[1]), a.dtype, batch=batch)
        self.append("matmul", (a, b), (out,), partial=summed)
        return out

    def record_kernel(
        self, called: Kernel, operands: Sequence[Array], count: int | None, scalars: dict[str, float]
    ) -> Array:
        """Record a call of a kernel. Return its output, or a tuple of them."""
        operands = [self.copy(x) if isinstance(x, Transposed) else x for x in operands]
        for x in operands:
            if not isinstance(x, Tensor):
                refuse(f"kernel {called.name} of {described(x)}")
        # each row of a kernel by row reads all of a matrix `raw[:m]`: that of the batch is summed over its rows
        summed = [x.batch for x, o in zip(operands, called.operands, strict=True) if o.is_matrix]
        reduces = called.form == "reduction" or any(summed)
        batch = any(x.batch for x in operands)
        outputs = []
        layouts = called.output_layouts(operands, count, scalars)
        for (shape, dtype), updated in zip(layouts, called.updated, strict=True):
            if updated is None:
                outputs.append(self.new_tensor(shape, dtype, batch=batch and not reduces and bool(shape)))
            else:
                old = operands[updated]
                outputs.append(self.new_tensor(old.shape, old.dtype, batch=old.batch, place=old.place, name=old.name))
        partial = reduces and batch
        self.append(called.name, operands, outputs, scalars=scalars, kernel=called, count=count, partial=partial)
        self._unassigned.update(x for x in outputs if x.place is not None and x.place.variable.name != STATE)
        return unpacked(outputs)

    def record_python(
        self, function: ArrayFunction, inputs: Sequence[Array], like: Sequence[TensorSpec | Array], reason: str
    ) -> Array:
        """Record a call of Python code, as `python_call` describes it."""
        outputs = [self.new_tensor(tuple(x.shape), x.dtype, batch=x.batch) for x in like]
        partial = any(x.batch for x in inputs) and not all(x.batch for x in outputs)
        self.append("python", inputs, outputs, function=function, reason=reason, partial=partial)
        return unpacked(outputs)

    def first_row(self, x: Tensor) -> Tensor:
        """Record the copy of row 0 of the batch."""
        out = self.new_tensor(x.shape[1:], x.dtype)
        self.append("first_row", (x,), (out,))
        return out

    # --- queries ---

    def dependencies(self) -> list[set[int]]:
        """For each op, the indices of earlier ops that it must follow."""
        tracker = Tracker()
        return [tracker.add(k, *op.accesses()) for k, op in enumerate(self.ops)]

    # --- passes ---

    def eliminate_dead_code(self) -> None:
        """Remove the ops whose results no other op, no output and no variable needs."""
        needed = {x.base for x in self.outputs}
        kept = []
        for op in reversed(self.ops):
            live = not op.outputs or any(x.place is not None or x in needed for x in op.outputs)
            if live:
                kept.append(op)
                needed.update(x.base for x in op.inputs)
        self.ops = kept[::-1]

    def sort(self) -> None:
        """Put the ops in an order that their dependencies allow, as near as possible to the present one.

        The present order of conflicting accesses to variables is kept. Tensors order the rest.
        """
        producer = {x: k for k, op in enumerate(self.ops) for x in op.outputs if x.place is None}
        tracker = Tracker()
        before = []
        for k, op in enumerate(self.ops):
            found = tracker.add(k, *op.effects())
            found |= {producer[x.base] for x in op.inputs if x.base in producer}
            before.append(found)
        done: set[int] = set()
        ordered: list[Op] = []
        left = list(range(len(self.ops)))
        while left:
            ready = next((k for k in left if before[k] <= done), None)
            if ready is None:
                raise AssertionError("the dependencies of a program's ops have a cycle")
            left.remove(ready)
            done.add(ready)
            ordered.append(self.ops[ready])
        self.ops = ordered

    def verify(self) -> None:
        """Check the program after a pass: see `gpunn.program.verify.verify`. AssertionError with the op at fault."""
        verify(self.ops, self.inputs, self.outputs, self._read)

    def __str__(self) -> str:
        return program_text(self.inputs, self.ops, self.outputs)
