"""Running a kernel's NumPy body: in blocks, so that the temporaries of a readable expression stay in the cache.

The body is an expression that returns new arrays. Evaluated block by block into the caller's buffers it allocates
nothing that grows with the batch, and a block that fits the cache is also faster than one pass over everything.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from .bfloat16 import narrowed

if TYPE_CHECKING:
    from .arguments import BoundArguments
    from .definition import KernelDefinition

BLOCK = 8192  # elements: 64 KiB of float64


def bind(kernel: KernelDefinition, call: BoundArguments) -> Callable[[], None]:
    """The launch of the NumPy body on the buffers of `call`."""
    run = {"elementwise": _elementwise, "by_row": _by_row, "reduction": _reduction}[kernel.form]
    kernel = narrowed(kernel) if call.bf16 else kernel
    guard = kernel.guard
    by_name = dict(zip((o.name for o in kernel.signature.arrays), call.arrays, strict=True))

    def launch() -> None:
        if guard is not None and not guard.reference(by_name["state"]):
            return
        with np.errstate(all="ignore"):
            run(kernel, call)

    return launch


def _blocks(n: int, m: int) -> Iterator[tuple[slice, slice]]:
    """Blocks of at most BLOCK elements, rows first; an array of no elements has none."""
    if n == 0 or m == 0:
        return
    rows = max(1, BLOCK // m)
    for top in range(0, n, rows):
        for left in range(0, m, BLOCK):
            yield slice(top, min(top + rows, n)), slice(left, min(left + BLOCK, m))


def _as_matrix(array: Any) -> Any:
    return array if array.ndim == 2 else array[None, :]


def _elementwise(kernel: KernelDefinition, call: BoundArguments) -> None:
    operands = kernel.signature.arrays
    views = [
        {"element": _as_matrix, "row": lambda a: a[None, :], "col": lambda a: a[:, None], "raw": lambda a: a}[o.kind](a)
        for o, a in zip(operands, call.arrays, strict=True)
    ]
    first = len(kernel.signature.inputs)
    for rows, columns in _blocks(*call.shape):
        part = {"element": (rows, columns), "row": (slice(None), columns), "col": (rows, slice(None)), "raw": ...}
        blocks = [v[part[o.kind]] for o, v in zip(operands, views, strict=True)]
        arguments = {o.name: b for o, b in zip(operands, blocks, strict=True) if o.role != "out"}
        _store(kernel.reference(**arguments, **call.scalars), blocks[first:])


def _by_row(kernel: KernelDefinition, call: BoundArguments) -> None:
    operands = kernel.signature.arrays
    n = call.shape[0]
    width = max(call.widths.values(), default=1)
    takes = inspect.signature(kernel.reference).parameters
    first = len(kernel.signature.inputs)
    for rows, _ in _blocks(n, max(width, 1)) if width <= BLOCK else ((slice(i, i + 1), None) for i in range(n)):
        blocks = [a if o.kind == "raw" else a[rows] for o, a in zip(operands, call.arrays, strict=True)]
        arguments = {o.name: b for o, b in zip(operands, blocks, strict=True) if o.name in takes}
        if "i" in takes:
            arguments["i"] = np.arange(rows.start, rows.stop)
        arguments |= {name: w for name, w in call.widths.items() if name in takes}
        result = kernel.reference(**arguments, **call.scalars)
        if result is not None:
            _store(result, blocks[first:])


def _reduction(kernel: KernelDefinition, call: BoundArguments) -> None:
    operands = kernel.signature.arrays
    combine = kernel.combine
    assert combine is not None
    (out,) = (a for o, a in zip(operands, call.arrays, strict=True) if o.role == "out")
    out[...] = combine.identity
    views = {o.name: _as_matrix(a) if o.kind == "element" else a for o, a in zip(operands, call.arrays, strict=True)}
    for rows, columns in _blocks(*call.shape):
        arguments = {}
        for o in operands:
            if o.role == "out":
                continue
            whole = views[o.name]
            arguments[o.name] = (
                whole[rows, columns] if o.kind == "element" else whole[columns] if o.kind == "row" else whole
            )
        terms = kernel.reference(**arguments, **call.scalars)
        if kernel.axis == "rows":
            into = out[columns]
            combine.ufunc(into, combine.ufunc.reduce(terms, axis=0), out=into)
        else:
            into = out[:1]
            combine.ufunc(into, combine.ufunc.reduce(terms, axis=None, dtype=np.float64), out=into)


def _store(result: Any, outputs: list[Any]) -> None:
    results = result if isinstance(result, tuple) else (result,)
    # compute all before writing any: an output may be an input of the same call
    for value, output in zip(results, outputs, strict=True):
        np.copyto(output, value, casting="unsafe")
