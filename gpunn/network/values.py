"""The values that a step computes with: tensors of a program, or arrays in eager mode."""

from __future__ import annotations

from collections.abc import Mapping

from ..kernels.state import SIZE
from ..program import Array, Program, Tensor
from ..program.csr import CompressedBatch, record_rows
from ..program.op import STATE
from ..program.tensor import ShapeAndType, View


class Values:
    """The batch and the variables of a step. x, y and the weights are attributes."""

    x: Array
    y: Array
    sample_weight: Array
    w: Array

    def rows(self) -> Array:
        """a⁰ = x, the rows of the batch."""
        return self.x

    def read(self, variable: str, start: int, stop: int, shape: tuple[int, ...] | None = None, name: str = "") -> Array:
        """A part of a variable."""
        raise NotImplementedError

    def assign(self, variable: str, start: int, value: Array) -> None:
        """Store a value in a variable, from element `start` on."""
        raise NotImplementedError

    def is_stored(self, variable: str, start: int, value: Array) -> bool:
        """True if a kernel has written the value into the variable, so that `assign` has nothing to do."""
        return False

    def holds(self, value: object) -> bool:
        """True if the step can compute with the value: a recorded step cannot with an array."""
        return True

    def stored(self, value: Array, *, batch: bool) -> Array:
        """The value, copied if it is a transposed tensor. `batch`: its rows are those of the batch."""
        return value

    def detached(self, value: Array) -> Array:
        """The value, which later assignments do not change."""
        return value

    def set_local_sums(self, *, local: bool) -> None:
        """Declare whether the sums over rows that follow are sums over the rows of this process."""


class ProgramValues(Values):
    """The batch and the variables as tensors: a step that uses them is recorded."""

    def __init__(
        self,
        program: Program,
        batch: Mapping[str, ShapeAndType],
        variables: Mapping[str, ShapeAndType],
        compressed: CompressedBatch | None = None,
    ) -> None:
        self.program = program
        self._x = batch["x"]
        self._compressed = compressed
        for name, (shape, dtype) in variables.items():
            program.variable(name, shape[0], dtype)
        for name, (shape, dtype) in batch.items():
            if name != "x" or compressed is None:
                setattr(self, name, program.input(name, shape, dtype))

    def rows(self) -> Tensor:
        if self._compressed is None:
            found: Tensor = self.x
            return found
        return record_rows(self.program, self._compressed, *self._x, self.read(STATE, 0, SIZE, name=STATE))

    def read(
        self, variable: str, start: int, stop: int, shape: tuple[int, ...] | None = None, name: str = ""
    ) -> Tensor:
        return self.program.read(variable, start, stop, (stop - start,) if shape is None else shape, name)

    def assign(self, variable: str, start: int, value: Tensor) -> None:
        self.program.assign(variable, start, value)

    def is_stored(self, variable: str, start: int, value: Tensor) -> bool:
        return self.program.is_stored(variable, start, value)

    def holds(self, value: object) -> bool:
        return isinstance(value, View)

    def stored(self, value: View, *, batch: bool) -> Tensor:
        if isinstance(value, Tensor):
            return value
        made = self.program.copy(value)
        made.batch = batch
        return made

    def set_local_sums(self, *, local: bool) -> None:
        self.program.local_sums = local


class ArrayValues(Values):
    """The batch and the variables as arrays: a step that uses them computes immediately."""

    def __init__(self, batch: Mapping[str, Array], variables: Mapping[str, Array]) -> None:
        vars(self).update(batch)
        self._variables = variables

    def read(self, variable: str, start: int, stop: int, shape: tuple[int, ...] | None = None, name: str = "") -> Array:
        part = self._variables[variable][start:stop]
        return part if shape is None else part.reshape(shape)

    def assign(self, variable: str, start: int, value: Array) -> None:
        part = self._variables[variable][start : start + value.size]
        part[...] = value.reshape(-1)

    def detached(self, value: Array) -> Array:
        return value.copy()
