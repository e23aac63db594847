"""Buffers: the memory of a program's tensors, in one arena.

A tensor that is stored in a variable, or written from outside, has its memory already. An op that may work in place
takes over the memory of an operand that is read for the last time. Free memory serves a later tensor of the same size.
Both need a writer that depends on all ops that used the memory before, so reuse adds no dependency between ops.
Dependencies through variables are not counted, which only costs memory.
"""

from __future__ import annotations

from .op import Op
from .program import Program
from .tensor import Tensor

ALIGNMENT = 256  # bytes; cuBLASLt's fastest algorithms and vectors of 512 bits need aligned buffers


class Arena:
    """The offsets of tensors in one block of `size` bytes."""

    def __init__(self) -> None:
        self.offsets: dict[Tensor, int] = {}
        self.size = 0

    def allocate(self, nbytes: int) -> int:
        """The offset of new memory."""
        offset = self.size
        self.size += -(-nbytes // ALIGNMENT) * ALIGNMENT
        return offset


def assign_buffers(program: Program) -> Arena:
    """Assign memory to every tensor that has none."""
    arena = Arena()
    offsets = arena.offsets
    last: dict[Tensor, int] = {}
    for k, op in enumerate(program.ops):
        for view in op.inputs:
            last[view.base] = k
    lasting = {x.base for x in program.outputs}.union(program.inputs)
    # sets of ops are integers: bit k is op k
    users: dict[Tensor, int] = {}  # the ops that used a tensor's memory
    after: dict[Tensor, int] = {}  # the op that writes a tensor, and all that it depends on
    free: dict[int, list[tuple[int, int]]] = {}  # by size: offset, the ops that used it
    for k, op in enumerate(program.ops):
        ancestors = 0
        dying = []
        for view in op.inputs:
            x = view.base
            if x in users:
                ancestors |= after[x]
                users[x] |= 1 << k
                if last[x] == k and x not in lasting and x not in dying:
                    dying.append(x)
        for number, x in enumerate(op.outputs):
            if x.place is not None:
                continue
            after[x] = ancestors | 1 << k
            source = None
            if dying:
                source = _in_place_source(op, number, x, [d for d in dying if users[d] & ~after[x] == 0])
            if source is not None:
                dying.remove(source)
                offsets[x], users[x] = offsets[source], users[source]
                continue
            size = x.nbytes
            found = _reuse(free[size], ancestors) if size in free else None
            offsets[x] = arena.allocate(size) if found is None else found
            users[x] = 1 << k
        dying += [x for x in op.outputs if x not in last and x.place is None and x not in lasting]
        for x in dying:
            free.setdefault(x.nbytes, []).append((offsets[x], users[x]))
    return arena


def _in_place_source(op: Op, number: int, x: Tensor, dying: list[Tensor]) -> Tensor | None:
    """The operand whose memory the output may take over, None if there is none."""
    if op.kernel is None or not dying:
        return None
    updated = op.kernel.updated[number]
    allowed = op.kernel.in_place[number] if updated is None else (updated,)
    found = None
    for index in allowed:
        operand = op.inputs[index].base
        same = (operand.shape, operand.dtype, operand.row_stride) == (x.shape, x.dtype, x.row_stride)
        # no other operand may be a view of the same memory: a transposed one, or one that is read after the output's
        views = [k for k, view in enumerate(op.inputs) if view.base is operand]
        alone = all(k in allowed and not op.inputs[k].transposed for k in views)
        if operand in dying and same and alone:
            found = operand
    return found


def _reuse(candidates: list[tuple[int, int]], ancestors: int) -> int | None:
    """Take memory whose users all precede the op along dependencies."""
    for index in range(len(candidates) - 1, -1, -1):
        if candidates[index][1] & ~ancestors == 0:
            return candidates.pop(index)[0]
    return None
