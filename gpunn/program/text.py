"""The text of a program: one numbered op per line, with shapes and storage types."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..kernels.state import StateEntry
from .op import SECTIONS, Op, is_state
from .tensor import Place, Tensor


def program_text(inputs: Sequence[Tensor], ops: Sequence[Op], outputs: Sequence[Tensor]) -> str:
    """The inputs, the ops by section, and the outputs."""
    names = _Names()
    lines = ["inputs: " + ", ".join(names.described(x) for x in inputs)]
    section = -1
    for k, op in enumerate(ops):
        if op.section != section:
            section = op.section
            lines.append(f"{SECTIONS[section]}:")
        lines.append(_line(k, op, names))
    lines.append("outputs: " + ", ".join(names.of(x.base) for x in outputs))
    return "\n".join(lines)


def _line(number: int, op: Op, names: _Names) -> str:
    """One op: number, results, name, operands, guard, and the reason for Python code."""
    operands = [f"{names.of(x.base)}{'ᵀ' * x.transposed}" for x in op.inputs]
    operands += [f"{name}={value:g}" for name, value in op.scalars.items()]
    results = [names.described(x) for x in op.outputs if not is_state(x)]
    guard = ""
    if op.kernel is not None:
        results += [StateEntry(entry).name for entry in sorted(op.kernel.state_writes)]
        guard = " if updating" if op.kernel.guard is not None else ""
    reason = f"  # {op.reason}" if op.reason else ""
    return f"{number:3}  {', '.join(results)} = {op.name}({', '.join(operands)}){guard}{reason}"


class _Names:
    """The names of tensors in a program's text. A part of a variable has the same name before and after an update."""

    def __init__(self) -> None:
        self._names: dict[Tensor, str] = {}
        self._used: set[str] = set()
        self._count = 0

    def of(self, x: Tensor) -> str:
        """The tensor's own name if no other has it, else a numbered one."""
        if x not in self._names:
            self._names[x] = _place_name(x, x.place) if x.place is not None else self._unique(x.name)
        return self._names[x]

    def described(self, x: Tensor) -> str:
        """The name, shape and storage type."""
        return f"{self.of(x)} {x.shape} {'bfloat16' if x.dtype == np.uint16 else x.dtype.name}"

    def _unique(self, name: str) -> str:
        if not name:
            self._count += 1
            name = f"t{self._count}"
        unique, number = name, 1
        while unique in self._used:
            number += 1
            unique = f"{name}.{number}"
        self._used.add(unique)
        return unique


def _place_name(x: Tensor, place: Place) -> str:
    variable, start, stop = place
    whole = stop - start == variable.size
    if variable.name == "state" and not whole:
        return StateEntry(start).name
    if x.name and x.name != variable.name:
        return x.name
    return variable.name if whole else f"{variable.name}[{start}:{stop}]"
