"""Shapes and dtypes of the outputs of a functional call, derived once per kernel from its signature."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from .signature import STORAGE_TO_COMPUTE, Operand

Shape = tuple[int, ...]
# (operands, count, scalars) → shape and dtype of one output
Layout = Callable[[Sequence[Any], int | None, Mapping[str, float]], tuple[Shape, Any]]
ShapeRule = Callable[[Sequence[Any], int | None], Shape]

# the type of T if matrices are stored in another type
_COMPUTE = {np.dtype(stored): np.dtype(compute) for stored, compute in STORAGE_TO_COMPUTE.items()}


class CallForm(NamedTuple):
    """The functional form of a kernel: its operands, and what else determines the layouts of its outputs."""

    name: str
    form: str
    axis: str
    operands: tuple[Operand, ...]
    scalars: tuple[str, ...]
    supports_bf16: bool


def output_layout(call: CallForm, output: Operand) -> Layout:
    """The rule by which the layout of an output follows from the operands."""
    shape, dtype, width = _shape(call, output), _dtype(call, output), _width_scalar(call, output)

    def layout(operands: Sequence[Any], count: int | None, scalars: Mapping[str, float]) -> tuple[Shape, Any]:
        found = shape(operands, count)
        return (found if width is None else (*found, int(scalars[width]))), dtype(operands)

    return layout


def _width_scalar(call: CallForm, output: Operand) -> str | None:
    """The scalar that determines the width of an output ``rows[m]``. None if an operand does."""
    scalar = f"width_{output.width}"
    given = output.is_updated or any(o.width == output.width for o in call.operands)
    return scalar if scalar in call.scalars and not given else None


def _positions(call: CallForm, condition: Callable[[Operand], bool]) -> list[int]:
    return [k for k, o in enumerate(call.operands) if condition(o)]


def _undetermined(call: CallForm, output: Operand) -> Callable[..., Any]:
    def refuse(*_: Any) -> Any:
        raise TypeError(f"kernel {call.name}: pass out=, no operand determines {output.name}")

    return refuse


# --- shapes ---------------------------------------------------------------------------------------------------------


def _shape(call: CallForm, output: Operand) -> ShapeRule:
    if output.is_updated:
        return _same_shape(_positions(call, lambda o: o is output))
    if output.like is not None:
        return _same_shape(_positions(call, lambda o: o.name == output.like))
    if call.form == "by_row":
        return _rows(call, output)
    elements = _positions(call, lambda o: o.kind == "element")
    if not elements:
        return _undetermined(call, output)
    full = _same_shape(elements)
    if call.axis == "all":
        return lambda operands, count: (1,)
    if call.axis == "rows" or output.kind == "row":
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


def _rows(call: CallForm, output: Operand) -> ShapeRule:
    """The shape of an output of a kernel by row: (n, m) for `rows[m]`, otherwise (n,)."""
    same_width = _positions(call, lambda o: output.width is not None and o.width == output.width)
    with_rows = [k for k in same_width if call.operands[k].kind == "rows"]
    with_rows += _positions(call, lambda o: o.kind in ("rows", "element"))

    def n_rows(operands: Sequence[Any], count: int | None) -> int:
        if count is not None:
            return count
        if not with_rows:
            raise TypeError(f"kernel {call.name}: pass count=, no operand determines the number of rows")
        n: int = operands[with_rows[0]].shape[0]
        return n

    if output.kind != "rows" or _width_scalar(call, output) is not None:
        return lambda operands, count: (n_rows(operands, count),)
    if not same_width:
        return _undetermined(call, output)
    return lambda operands, count: (n_rows(operands, count), operands[same_width[0]].shape[-1])


# --- dtypes ---------------------------------------------------------------------------------------------------------


def _dtype(call: CallForm, output: Operand) -> Callable[[Sequence[Any]], Any]:
    if not output.type_variable:
        fixed = np.dtype(output.type)
        return lambda operands: fixed
    found = _positions(call, lambda o: o is output)
    found = found or _positions(call, lambda o: o.type == output.type)
    found = found or _positions(call, lambda o: o.kind in ("element", "rows"))
    if not found:
        return _undetermined(call, output)
    k = found[0]
    if output.type == "T" and call.supports_bf16:
        return lambda operands: _COMPUTE.get(operands[k].dtype, operands[k].dtype)
    return lambda operands: operands[k].dtype
