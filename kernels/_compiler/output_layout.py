"""Shapes and dtypes of the outputs of a functional call, derived once per kernel from its signature."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .signature import STORAGE_TO_COMPUTE, Operand

if TYPE_CHECKING:
    from .definition import KernelDefinition

Shape = tuple[int, ...]
# (operands, count) → shape and dtype of one output
Layout = Callable[[Sequence[Any], int | None], tuple[Shape, Any]]
ShapeRule = Callable[[Sequence[Any], int | None], Shape]

# the type of T if matrices are stored in another type
_COMPUTE = {np.dtype(stored): np.dtype(compute) for stored, compute in STORAGE_TO_COMPUTE.items()}


def output_layout(kernel: KernelDefinition, output: Operand) -> Layout:
    """The rule by which the layout of an output follows from the operands."""
    shape, dtype = _shape(kernel, output), _dtype(kernel, output)

    def layout(operands: Sequence[Any], count: int | None) -> tuple[Shape, Any]:
        return shape(operands, count), dtype(operands)

    return layout


def _positions(kernel: KernelDefinition, condition: Callable[[Operand], bool]) -> list[int]:
    return [k for k, o in enumerate(kernel.operands) if condition(o)]


def _undetermined(kernel: KernelDefinition, output: Operand) -> Callable[..., Any]:
    def refuse(*_: Any) -> Any:
        raise TypeError(f"kernel {kernel.name}: pass out=, no operand determines {output.name}")

    return refuse


# --- shapes ---------------------------------------------------------------------------------------------------------


def _shape(kernel: KernelDefinition, output: Operand) -> ShapeRule:
    if output.is_updated:
        return _same_shape(_positions(kernel, lambda o: o is output))
    if output.like is not None:
        return _same_shape(_positions(kernel, lambda o: o.name == output.like))
    if kernel.form == "by_row":
        return _rows(kernel, output)
    elements = _positions(kernel, lambda o: o.kind == "element")
    if not elements:
        return _undetermined(kernel, output)
    full = _same_shape(elements)
    if kernel.axis == "all":
        return lambda operands, count: (1,)
    if kernel.axis == "rows" or output.kind == "row":
        return lambda operands, count: full(operands, count)[1:]
    if output.kind == "col":
        return lambda operands, count: full(operands, count)[:1]
    return full


def _same_shape(positions: list[int]) -> ShapeRule:
    """The shape of these operands: of the one with most dimensions, if they differ."""
    first, *others = positions

    def shape(operands: Sequence[Any], count: int | None) -> Shape:
        found: Shape = operands[first].shape
        for k in others:
            other = operands[k].shape
            if len(other) > len(found):
                found = other
        return found

    return shape


def _rows(kernel: KernelDefinition, output: Operand) -> ShapeRule:
    """The shape of an output of a kernel by row: (n, m) for `rows[m]`, otherwise (n,)."""
    same_width = _positions(kernel, lambda o: output.width is not None and o.width == output.width)
    with_rows = [k for k in same_width if kernel.operands[k].kind == "rows"]
    with_rows += _positions(kernel, lambda o: o.kind in ("rows", "element"))

    def n_rows(operands: Sequence[Any], count: int | None) -> int:
        if count is not None:
            return count
        if not with_rows:
            raise TypeError(f"kernel {kernel.name}: pass count=, no operand determines the number of rows")
        n: int = operands[with_rows[0]].shape[0]
        return n

    if output.kind != "rows":
        return lambda operands, count: (n_rows(operands, count),)
    if not same_width:
        return _undetermined(kernel, output)
    return lambda operands, count: (n_rows(operands, count), operands[same_width[0]].shape[-1])


# --- dtypes ---------------------------------------------------------------------------------------------------------


def _dtype(kernel: KernelDefinition, output: Operand) -> Callable[[Sequence[Any]], Any]:
    if not output.type_variable:
        fixed = np.dtype(output.type)
        return lambda operands: fixed
    found = _positions(kernel, lambda o: o is output)
    found = found or _positions(kernel, lambda o: o.type == output.type)
    found = found or _positions(kernel, lambda o: o.kind in ("element", "rows"))
    if not found:
        return _undetermined(kernel, output)
    k = found[0]
    if output.type == "T" and kernel.signature.supports_bf16:
        return lambda operands: _COMPUTE.get(operands[k].dtype, operands[k].dtype)
    return lambda operands: operands[k].dtype
