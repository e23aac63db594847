"""Verification of a program: what every pass must preserve."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from .op import Op, is_state
from .tensor import Place, ShapeAndType, Tensor, Variable


def verify(ops: Sequence[Op], inputs: Sequence[Tensor], outputs: Sequence[Tensor], read: Collection[Tensor]) -> None:
    """Check single assignment, definition before use, shapes, types, and the order of sections and effects.

    Parameters
    ----------
    ops, inputs, outputs : sequence
        Those of the program.
    read : collection of Tensor
        The parts of variables that the program reads.

    Raises
    ------
    AssertionError
        With the op that breaks a rule.
    """
    defined = {*inputs, *read}
    current: dict[Variable, list[tuple[Place, Tensor]]] = {}  # the tensors in each variable, as they were written last
    section = 0
    for k, op in enumerate(ops):
        where = f"op {k} ({op.name})"
        assert op.section >= section, f"{where} belongs to an earlier section"
        section = op.section
        for x in op.inputs:
            assert x.base in defined, f"{where} reads {x.base!r} before it is written"
            if x.base not in read:
                _verify_current(where, x.base, current)
        for x in op.outputs:
            assert x not in defined, f"{where} writes {x!r} again"
            defined.add(x)
            if x.place is not None:
                assert x.size == x.place.stop - x.place.start, f"{where} writes {x!r} of another size"
                _write(x, x.place, current)
        _verify_layouts(where, op)
    for x in outputs:
        assert x.base in defined, f"the output {x!r} is never written"


def _write(x: Tensor, place: Place, current: dict[Variable, list[tuple[Place, Tensor]]]) -> None:
    if not is_state(x):
        stored = current.setdefault(place.variable, [])
        stored[:] = [entry for entry in stored if not overlap(entry[0], place)] + [(place, x)]


def _verify_current(where: str, x: Tensor, current: dict[Variable, list[tuple[Place, Tensor]]]) -> None:
    """Check that a tensor stored in a variable has not been overwritten."""
    if x.place is not None and x.size and not is_state(x):
        place = x.place
        found = [tensor for other, tensor in current.get(place.variable, ()) if overlap(other, place)]
        assert found == [x], f"{where} reads {x!r}, which was overwritten"


def _verify_layouts(where: str, op: Op) -> None:
    """Check the shapes and types of the outputs of a product or a kernel. Storage in bfloat16 is not checked."""
    if any(x.dtype == np.uint16 for x in (*op.inputs, *op.outputs)):
        return
    if op.name == "matmul":
        a, b = op.inputs
        assert a.shape[1] == b.shape[0], f"{where} has factors of shapes {a.shape} and {b.shape}"
        assert a.dtype == b.dtype, f"{where} has factors of types {a.dtype} and {b.dtype}"
        expected: list[ShapeAndType] = [((a.shape[0], b.shape[1]), a.dtype)]
    elif op.kernel is not None:
        layouts = op.kernel.output_layouts(op.inputs, op.count, op.scalars)
        expected = [(tuple(shape), dtype) for shape, dtype in layouts]
    else:
        return
    found = [(x.shape, x.dtype) for x in op.outputs]
    assert found == expected, f"{where} has outputs {found} instead of {expected}"


def overlap(a: Place, b: Place) -> bool:
    """True if two places share elements of a variable."""
    return a.variable is b.variable and a.start < b.stop and b.start < a.stop
