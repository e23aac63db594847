"""The arguments of a call: their number, types, memory layout and shapes, and the outputs of a functional call.

Nothing is broadcast or cast.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..state import SIZE
from .definition import KernelDefinition
from .signature import STORAGE_TO_COMPUTE, VARIABLES, Operand, type_name


@dataclass(frozen=True)
class BoundArguments:
    """The validated arguments of one launch.

    arrays   inputs, then outputs, in the order of the signature
    scalars  numbers by name
    types    the meaning of the type variables, for example {"T": "float32"}
    shape    (n, m): rows and columns of the launch
    widths   row widths by name
    """

    arrays: list[Any]
    scalars: dict[str, float]
    types: dict[str, str]
    shape: tuple[int, int]
    widths: dict[str, int]
    on_host: bool

    @property
    def bf16(self) -> bool:
        """True if matrices of type H are stored in bfloat16."""
        return self.types.get("H") == "uint16"


def check_arguments(
    kernel: KernelDefinition, inputs: Sequence[Any], out: Any, scalars: dict[str, float], count: int | None
) -> BoundArguments:
    """Validate the arguments of a launch. Raises TypeError or ValueError with the name of the operand."""
    signature = kernel.signature
    outputs = out if isinstance(out, tuple) else (out,)
    if len(inputs) != len(signature.inputs) or len(outputs) != len(signature.outputs):
        expected = ", ".join(o.name for o in signature.inputs)
        raise TypeError(
            f"kernel {kernel.name} takes ({expected}) and {len(signature.outputs)} output(s), "
            f"got {len(inputs)} input(s) and {len(outputs)} output(s)"
        )
    _check_scalars(kernel, scalars)
    arrays = [*inputs, *outputs]
    types: dict[str, str] = {}
    for operand, array in zip(signature.arrays, arrays, strict=True):
        _check_type(kernel, operand, array, types)
        _check_memory(kernel, operand, array)
    on_host = isinstance(arrays[0], np.ndarray)
    if any(isinstance(a, np.ndarray) != on_host for a in arrays):
        raise TypeError(f"kernel {kernel.name}: operands must be all NumPy arrays or all device arrays, got a mixture")
    launch = _launch_shape(kernel, arrays, count)
    _check_shapes(kernel, arrays, launch)
    numbers = {k: float(v) for k, v in scalars.items()}
    return BoundArguments(arrays, numbers, types, (launch.n, launch.m), launch.widths, on_host)


def _check_type(kernel: KernelDefinition, operand: Operand, array: Any, types: dict[str, str]) -> None:
    """Check the type of one operand; the first operand of a type variable determines its meaning in `types`."""
    if not hasattr(array, "dtype") or not hasattr(array, "strides") or isinstance(array, np.generic):
        raise TypeError(f"kernel {kernel.name}: {operand.name} must be an array, got {type(array).__name__}")
    found = type_name(array.dtype)
    if not array.dtype.isnative:
        raise TypeError(f"kernel {kernel.name}: {operand.name} must be in native byte order, got {array.dtype.str}")
    expected = operand.type
    if operand.type_variable:
        allowed = tuple(STORAGE_TO_COMPUTE) if operand.type == "H" else VARIABLES[operand.type]
        if found not in allowed:
            raise TypeError(f"kernel {kernel.name}: {operand.name} must be one of {allowed}, got {found}")
        expected = types.setdefault(operand.type, found)
    if found != expected:
        raise TypeError(f"kernel {kernel.name}: {operand.name} must be {expected}, got {found}")
    if operand.type == "H":
        compute = STORAGE_TO_COMPUTE[found]
        if types.setdefault("T", compute) != compute:
            raise TypeError(f"kernel {kernel.name}: {operand.name} must be {types['T']}, got {compute}")


def _check_memory(kernel: KernelDefinition, operand: Operand, array: Any) -> None:
    if isinstance(array, np.ndarray):
        if operand.role != "in" and not array.flags.writeable:
            raise ValueError(f"kernel {kernel.name}: output {operand.name} must be writable, got a read-only array")
        if not array.flags.aligned:
            raise ValueError(f"kernel {kernel.name}: {operand.name} must be aligned in memory: pass a copy")
    # raw tables (type S) are passed with their strides
    needs_contiguous = operand.kind == "raw" and operand.type != "S"
    if operand.role != "in":
        needs_contiguous = needs_contiguous or kernel.form == "reduction" or operand.kind == "row"
    if needs_contiguous and not array.flags.c_contiguous:
        raise ValueError(f"kernel {kernel.name}: {operand.name} must be contiguous, got strides {array.strides}")


@dataclass
class _LaunchShape:
    """Rows n, columns m and row widths of a launch. `flat`: the elements are one-dimensional."""

    n: int
    m: int
    flat: bool
    widths: dict[str, int]


def _launch_shape(kernel: KernelDefinition, arrays: list[Any], count: int | None) -> _LaunchShape:
    """Derive the shape of the launch from the operands; `count` is the number of rows if no operand has them."""
    widths: dict[str, int] = {}
    n: int | None = count
    m: int | None = None
    flat = False
    for o, a in zip(kernel.signature.arrays, arrays, strict=True):
        if o.kind == "rows":
            if a.ndim != 2:
                raise ValueError(f"kernel {kernel.name}: {o.name} must have two dimensions, got shape {a.shape}")
            n = a.shape[0] if n is None else n
            if widths.setdefault(o.width or "", a.shape[1]) == 0:
                raise ValueError(f"kernel {kernel.name}: {o.name} must have at least one column, got {a.shape}")
        elif o.kind == "element" and kernel.form == "by_row":
            n = a.shape[0] if n is None and a.ndim == 1 else n
        elif o.kind == "element" and m is None and not _is_result(kernel, o):
            if a.ndim not in (1, 2):
                raise ValueError(f"kernel {kernel.name}: {o.name} must have one or two dimensions, got {a.shape}")
            flat = a.ndim == 1
            n, m = (1, a.shape[0]) if flat else a.shape
    for o, a in zip(kernel.signature.arrays, arrays, strict=True):
        if o.is_matrix and o.width is not None and o.width not in widths:
            if a.ndim != 2:
                raise ValueError(f"kernel {kernel.name}: {o.name} must have two dimensions, got shape {a.shape}")
            widths[o.width] = a.shape[1]
    if n is None:
        raise TypeError(f"kernel {kernel.name}: pass count=, no operand determines the number of rows")
    if flat and (kernel.axis == "rows" or kernel.form == "summed"):
        raise ValueError(f"kernel {kernel.name} sums over rows: its input must have two dimensions")
    return _LaunchShape(n, 1 if m is None else m, flat, widths)


def _is_result(kernel: KernelDefinition, operand: Operand) -> bool:
    return kernel.form == "reduction" and operand.role == "out"


def _check_shapes(kernel: KernelDefinition, arrays: list[Any], launch: _LaunchShape) -> None:
    pairs = list(zip(kernel.signature.arrays, arrays, strict=True))
    for operand, array in pairs:
        expected = _expected_shape(kernel, operand, launch)
        if operand.is_matrix:
            expected = (*array.shape[:1], launch.widths[operand.width or ""])
        if operand.like is not None:
            expected = next(tuple(a.shape) for o, a in pairs if o.name == operand.like)
        if expected is not None and tuple(array.shape) != expected:
            raise ValueError(
                f"kernel {kernel.name}: {operand.name} must have shape {expected}, got {tuple(array.shape)}"
            )


def _expected_shape(kernel: KernelDefinition, operand: Operand, launch: _LaunchShape) -> tuple[int, ...] | None:
    """The shape that an operand must have. None for a raw array of any shape."""
    n, m = launch.n, launch.m
    if operand.kind == "rows":
        return n, launch.widths[operand.width or ""]
    if operand.kind == "raw":
        if operand.width is not None:
            return (launch.widths[operand.width],)
        return (SIZE,) if operand.name == "state" else None
    if operand.kind == "row":
        return (m,)
    if operand.kind == "col" or kernel.form == "by_row":
        return (n,)
    if _is_result(kernel, operand):
        return (m,) if kernel.axis == "rows" else (1,)
    return (m,) if launch.flat else (n, m)


def check_call(kernel: KernelDefinition, operands: Sequence[Any], scalars: dict[str, Any]) -> None:
    """Raise TypeError unless a functional call has the kernel's operands and scalars."""
    if len(operands) != len(kernel.operands):
        expected = ", ".join(o.name for o in kernel.operands)
        raise TypeError(
            f"kernel {kernel.name} takes the operands ({expected}), got {len(operands)}. With out=, pass only those "
            f"before the arrow of its signature"
        )
    _check_scalars(kernel, scalars)


def _check_scalars(kernel: KernelDefinition, scalars: dict[str, Any]) -> None:
    names = {o.name for o in kernel.signature.scalars}
    if scalars.keys() != names:
        raise TypeError(f"kernel {kernel.name} takes the scalars {sorted(names)}, got {sorted(scalars)}")


def allocate_outputs(
    kernel: KernelDefinition, operands: Sequence[Any], count: int | None, scalars: dict[str, float]
) -> Any:
    """The outputs of a functional call: new arrays, copies of `inout` operands, and the raw operands themselves."""
    for o, a in zip(kernel.operands, operands, strict=True):
        if not hasattr(a, "dtype") or not hasattr(a, "strides"):
            raise TypeError(f"kernel {kernel.name}: {o.name} must be an array, got {type(a).__name__}")
        # bfloat16 values need out=; any other array of integers is a mistake
        if o.type == "H" and a.dtype == np.uint16:
            raise TypeError(
                f"kernel {kernel.name}: {o.name} must be floating point, got uint16; for bfloat16 pass out="
            )
    made = []
    layouts = kernel.output_layouts(operands, count, scalars)
    for o, k, (shape, dtype) in zip(kernel.signature.outputs, kernel.updated, layouts, strict=True):
        if k is None:
            made.append(_empty_like(operands[0], shape, dtype))
        else:
            made.append(operands[k].copy() if o.role == "inout" else operands[k])
    return made[0] if len(made) == 1 else tuple(made)


def _empty_like(like: Any, shape: tuple[int, ...], dtype: np.dtype) -> Any:
    """An uninitialized array of the same kind (NumPy or CuPy) as `like`."""
    xp = np if isinstance(like, np.ndarray) else sys.modules[type(like).__module__.partition(".")[0]]
    return xp.empty(shape, dtype=dtype)
