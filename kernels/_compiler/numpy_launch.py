"""Launches of a kernel's NumPy reference, in blocks, so that the temporaries of a readable expression fit the cache.

The reference returns new arrays. Evaluated block by block into the caller's buffers, it allocates nothing that grows
with the batch, and it is faster than one pass over all elements.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from .arguments import BoundArguments
from .bfloat16 import on_bits
from .composition import in_order, split_summed
from .definition import KernelDefinition

BLOCK = 8192  # elements per block: 64 KiB of float64


def bind(kernel: KernelDefinition, bound: BoundArguments) -> Callable[[], None]:
    """Bind the NumPy reference to buffers."""
    if kernel.form == "summed":
        return in_order(*(bind(*part) for part in split_summed(kernel, bound)))
    run = {"elementwise": _elementwise, "by_row": _by_row, "reduction": _reduction}[kernel.form]
    kernel = on_bits(kernel) if bound.bf16 else kernel
    guard = kernel.guard
    by_name = dict(zip((o.name for o in kernel.signature.arrays), bound.arrays, strict=True))

    def launch() -> None:
        if guard is not None and not guard.reference(by_name["state"]):
            return
        with np.errstate(all="ignore"):
            run(kernel, bound)

    return launch


def _blocks(n: int, m: int) -> Iterator[tuple[slice, slice]]:
    """Blocks of at most BLOCK elements, divided by rows first. An empty array has none."""
    if n == 0 or m == 0:
        return
    rows = max(1, BLOCK // m)
    for top in range(0, n, rows):
        for left in range(0, m, BLOCK):
            yield slice(top, min(top + rows, n)), slice(left, min(left + BLOCK, m))


def _row_blocks(n: int, width: int) -> Iterator[slice]:
    """Blocks of complete rows: of at most BLOCK elements, or of one longer row."""
    rows = max(1, BLOCK // max(width, 1))
    for top in range(0, n, rows):
        yield slice(top, min(top + rows, n))


def _as_matrix(array: Any) -> Any:
    return array if array.ndim == 2 else array[None, :]


def _elementwise(kernel: KernelDefinition, bound: BoundArguments) -> None:
    operands = kernel.signature.arrays
    views = [
        {"element": _as_matrix, "row": lambda a: a[None, :], "col": lambda a: a[:, None], "raw": lambda a: a}[o.kind](a)
        for o, a in zip(operands, bound.arrays, strict=True)
    ]
    n_inputs = len(kernel.signature.inputs)
    for rows, columns in _blocks(*bound.shape):
        part = {"element": (rows, columns), "row": (slice(None), columns), "col": (rows, slice(None)), "raw": ...}
        blocks = [v[part[o.kind]] for o, v in zip(operands, views, strict=True)]
        arguments = {o.name: b for o, b in zip(operands, blocks, strict=True) if o.role != "out"}
        _store(kernel.reference(**arguments, **bound.scalars), blocks[n_inputs:])


def _by_row(kernel: KernelDefinition, bound: BoundArguments) -> None:
    operands = kernel.signature.arrays
    parameters = inspect.signature(kernel.reference).parameters
    n_inputs = len(kernel.signature.inputs)
    for rows in _row_blocks(bound.shape[0], max(bound.widths.values(), default=1)):
        blocks = [a if o.kind == "raw" else a[rows] for o, a in zip(operands, bound.arrays, strict=True)]
        arguments = {o.name: b for o, b in zip(operands, blocks, strict=True) if o.name in parameters}
        if "i" in parameters:
            arguments["i"] = np.arange(rows.start, rows.stop)
        arguments |= {name: w for name, w in bound.widths.items() if name in parameters}
        result = kernel.reference(**arguments, **bound.scalars)
        if result is not None:
            _store(result, blocks[n_inputs:])


def _reduction(kernel: KernelDefinition, bound: BoundArguments) -> None:
    operands = kernel.signature.arrays
    combine = kernel.combine
    assert combine is not None
    (out,) = (a for o, a in zip(operands, bound.arrays, strict=True) if o.role == "out")
    out[...] = combine.identity
    inputs = [
        (o, _as_matrix(a) if o.kind == "element" else a)
        for o, a in zip(operands, bound.arrays, strict=True)
        if o.role != "out"
    ]
    for rows, columns in _blocks(*bound.shape):
        part = {"element": (rows, columns), "row": columns, "raw": ...}
        terms = kernel.reference(**{o.name: a[part[o.kind]] for o, a in inputs}, **bound.scalars)
        if kernel.axis == "rows":
            into = out[columns]
            combine.ufunc(into, combine.ufunc.reduce(terms, axis=0), out=into)
        else:
            into = out[:1]
            combine.ufunc(into, combine.ufunc.reduce(terms, axis=None, dtype=np.float64), out=into)


def _store(result: Any, outputs: list[Any]) -> None:
    results = result if isinstance(result, tuple) else (result,)
    # all results exist before the first is written, since an output may be an input of the same launch
    for value, output in zip(results, outputs, strict=True):
        np.copyto(output, value, casting="unsafe")
