"""Storage in bfloat16, for matrix products with precision="bf16".

A matrix that only products and suitable kernels access is stored in bfloat16: the op that writes it rounds it, and it
never exists in float32. Every other float32 operand of a product is read from a copy, which is made before the first
product that reads it, and again after its variable was written. The parameters share one copy of the flat vector. The
update writes that copy together with the parameters, so that of several consecutive steps only the first one makes it.

NumPy has no bfloat16. Its bits are stored as uint16.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from ..kernels import KernelCall
from ..kernels import get as kernel
from ..kernels._compiler.definition import DEFINITIONS
from .op import COLLECTIVES, CSR_ROWS, Op
from .program import Program
from .tensor import Array, DType, Place, Tensor, Variable, View

BFLOAT16 = np.dtype(np.uint16)
FLOAT32 = np.dtype(np.float32)
MULTIPLE = 8  # elements: rows start at multiples of 16 bytes, as fast products require
PARAMETERS = "theta"


def store_in_bfloat16(program: Program) -> None:
    """Store what products read and write in bfloat16, where that is possible, and add copies of the rest."""
    for x in _storable(program):
        x.dtype = BFLOAT16
    _Copies(program).insert()


def is_stored_in_bfloat16(program: Program, x: Tensor) -> bool:
    """True if the result x of a product is stored in bfloat16, provided that all its readers can read that."""
    return program.precision == "bf16" and _has_layout(x) and x not in program.outputs


def _has_layout(x: Tensor) -> bool:
    return x.ndim == 2 and x.dtype == FLOAT32 and x.shape[1] % MULTIPLE == 0 and x.place is None


def store(x: Array, into: Array) -> None:
    """Copy x to an array of a tensor that may be stored in bfloat16."""
    if into.dtype == BFLOAT16:
        kernel("to_bfloat16")(x.astype(FLOAT32, copy=False), out=into)
    else:
        into[...] = x


def accumulator(into: Array, new: Callable[[tuple[int, ...], DType], Array]) -> tuple[Array, list[KernelCall]]:
    """The array in which a sum for `into` is computed, and the kernel calls that round it to `into` afterwards.

    A call is (kernel, inputs, output, count, scalars). ``new(shape, dtype)`` allocates an array.
    """
    if into.dtype != BFLOAT16:
        return into, []
    sums = new(into.shape, FLOAT32)
    return sums, [(kernel("to_bfloat16"), (sums,), into, None, {})]


def is_product(op: Op) -> bool:
    """True for a matrix product, with or without an epilogue: its first two operands are the factors."""
    others = (*COLLECTIVES, CSR_ROWS)
    return op.kernel is None and op.function is None and len(op.inputs) > 1 and op.name not in others


# --- storage ----------------------------------------------------------------------------------------------------------


def _storable(program: Program) -> set[Tensor]:
    """The matrices that every op which accesses them can read and write in bfloat16."""
    products = [op for op in program.ops if is_product(op)]
    factors = {x.base for op in products for x in op.inputs[:2]}
    # the launch that gathers the batch writes x. It has no reason to round what no product reads
    found = {x for x in program.inputs if x in factors and _has_layout(x)}
    found |= {x for op in program.ops for x in op.outputs if _has_layout(x)}
    found -= {x.base for x in program.outputs}
    groups = [group for op in program.ops for group in _groups(op)]
    changed = True
    while changed:
        refused = {x for group in groups if not all(x in found for x in group) for x in group if x in found}
        refused |= {x for op in program.ops for x in _float32_only(op) if x in found}
        found -= refused
        changed = bool(refused)
    return found


def _groups(op: Op) -> Iterator[list[Tensor]]:
    """Yield the operands that the op can access in bfloat16 only together."""
    if is_product(op):
        yield [op.outputs[0], *_aux(op)]
    elif op.kernel is not None:
        yield [x for x, stored in _operands(op) if stored == "H"]


def _float32_only(op: Op) -> Iterator[Tensor]:
    """Yield the operands that the op cannot access in bfloat16."""
    if is_product(op):
        # column sums have the type of the product
        if any(x.ndim == 1 for x in op.outputs):
            yield op.outputs[0]
    elif op.kernel is not None:
        yield from (x for x, stored in _operands(op) if stored != "H")
    else:
        yield from (x.base for x in (*op.inputs, *op.outputs))


def _operands(op: Op) -> list[tuple[Tensor, str]]:
    """The operands and results of a kernel, each with its type in the signature."""
    assert op.kernel is not None
    signature = op.kernel.signature
    pairs = [*zip(op.inputs, op.kernel.operands, strict=True), *zip(op.outputs, signature.outputs, strict=True)]
    return [(x.base, o.type) for x, o in pairs]


def _aux(op: Op) -> list[Tensor]:
    """The matrices that an epilogue reads and writes in addition to the product, but for masks of bits."""
    return [x.base for x in (*op.inputs[2:], *op.outputs[1:]) if len(x.shape) == 2 and x.dtype.kind == "f"]


# --- copies -----------------------------------------------------------------------------------------------------------


class _Copies:
    """The conversions of operands, inserted where products read them."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.ops: list[Op] = []
        self.copies: dict[object, Tensor] = {}  # by what they are copies of, while they are current
        self.flat: Variable | None = None  # the copy of all parameters
        self.flat_is_current = False
        self.flat_conversions: list[Op] = []

    def insert(self) -> None:
        """Insert the conversions, and let the update write the copy of the parameters."""
        for op in self.program.ops:
            if is_product(op):
                self._convert_operands(op)
            elif self._updates_parameters(op):
                op = self._write_copy_too(op)
            self.ops.append(op)
            for x in op.outputs:
                self._invalidate(x, keep_flat=any(y.dtype == BFLOAT16 for y in op.outputs))
        self.program.ops = self.ops
        if len(self.flat_conversions) == 1 and self.flat_is_current:
            self.flat_conversions[0].first_step_only = True

    def _convert_operands(self, op: Op) -> None:
        """Let a product read bfloat16 factors, and a bias of the type of its result."""
        inputs = [self._bits(x, op.section) for x in op.inputs[:2]]
        for x in op.inputs[2:]:
            of_result = op.outputs[0].dtype == BFLOAT16 and x.base.ndim == 1
            inputs.append(self._bits(x, op.section) if of_result else x)
        op.inputs = tuple(inputs)
        op._accesses = None

    def _bits(self, x: View, section: int) -> View:
        """The operand in bfloat16: itself, or a current copy."""
        base = x.base
        if base.dtype != FLOAT32:
            return x
        found = self._slice_of_flat(base, section) if self._is_in_flat(base) else self._copy(base, section)
        return found.T if x.transposed else found

    def _copy(self, x: Tensor, section: int) -> Tensor:
        """A copy of one tensor, whose rows start at multiples of 16 bytes."""
        key = (x.place, x.shape) if x.place is not None else x
        if key not in self.copies:
            made = Tensor(x.program, x.shape, BFLOAT16, batch=x.batch, name=x.name)
            if x.ndim == 2 and x.shape[1] % MULTIPLE:
                made.row_stride = -(-x.shape[1] // MULTIPLE) * MULTIPLE
            self._append(x, made, section)
            self.copies[key] = made
        return self.copies[key]

    def _append(self, x: Tensor, copy: Tensor, section: int) -> Op:
        rounding = kernel("to_bfloat16")
        self.ops.append(Op(rounding.name, (x,), (copy,), kernel=rounding, section=section))
        return self.ops[-1]

    # --- the flat vector ---

    @staticmethod
    def _is_in_flat(x: Tensor) -> bool:
        """True for a slice of the parameters that products can read from the copy of all."""
        place = x.place
        if place is None or place.variable.name != PARAMETERS or place.start % MULTIPLE:
            return False
        return x.ndim == 1 or x.shape[1] % MULTIPLE == 0

    def _slice_of_flat(self, x: Tensor, section: int) -> Tensor:
        """The copy of a slice, after a conversion of the whole vector if the copy is not current."""
        assert x.place is not None
        program, size = self.program, x.place.variable.size
        if self.flat is None:
            self.flat = program.variable(f"{PARAMETERS}_bfloat16", size, BFLOAT16)
        if not self.flat_is_current:
            whole = program.read(PARAMETERS, 0, size, (size,))
            copy = Tensor(x.program, (size,), BFLOAT16, place=Place(self.flat, 0, size), name=self.flat.name)
            self.flat_conversions.append(self._append(whole, copy, section))
            self.flat_is_current = True
        return program.read(self.flat.name, x.place.start, x.place.stop, x.shape, x.name)

    def _updates_parameters(self, op: Op) -> bool:
        """True for an update whose kernel has a form that also writes the copy, if that is current."""
        if not self.flat_is_current or f"{op.name}_with_bf16_copy" not in DEFINITIONS:
            return False
        place = op.outputs[0].place
        return place is not None and place.variable.name == PARAMETERS and place.start % MULTIPLE == 0

    def _write_copy_too(self, op: Op) -> Op:
        both = kernel(f"{op.name}_with_bf16_copy")
        theta = op.outputs[0]
        assert theta.place is not None and self.flat is not None
        place = Place(self.flat, theta.place.start, theta.place.stop)
        copy = Tensor(theta.program, theta.shape, BFLOAT16, place=place, name=self.flat.name)
        outputs = (*op.outputs, copy)
        return Op(both.name, op.inputs, outputs, op.scalars, kernel=both, count=op.count, section=op.section)

    def _invalidate(self, x: Tensor, *, keep_flat: bool) -> None:
        """Forget the copies of what an op overwrites. An update that writes the copy too keeps that current."""
        place = x.place
        if place is None:
            return
        for key in [k for k in self.copies if isinstance(k, tuple)]:
            source: Place = key[0]
            if source.variable is place.variable and source.start < place.stop and place.start < source.stop:
                del self.copies[key]
        if place.variable.name == PARAMETERS and not keep_flat:
            self.flat_is_current = False
