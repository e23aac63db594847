"""Batches from a table in CSR format, and the pass that multiplies its stored values in place of dense rows.

A step that reads such a table begins with the op `csr_rows`, which computes x, the batch as a dense matrix. If only the
products of a first layer read x, the pass replaces them by kernels that read the table, and x is never computed:

    z = matmul(x, W)    →    z = gather_csr_product(values, columns, starts, order, state, W)     (E1)
    dW = matmul(xᵀ, δ)  →    dW = gather_csr_gradient(values, columns, starts, order, state, δ)   (E6)

They leave out the terms 0 · W and 0 · δ, so a weight or a δ that is not finite stays in the columns that the batch
stores. Parameters are finite, and a step whose δ is not finite changes nothing: its bias gradient or loss reports it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..kernels import Launch
from ..kernels import get as kernel
from .op import CSR_ROWS, Op
from .program import Program
from .tensor import Array, DType, Tensor

TABLE = ("X.values", "X.columns", "X.starts")
ORDER = "order"


@dataclass(frozen=True)
class CompressedBatch:
    """A batch that the step reads from a table in CSR format, from the row at the state's offset on.

    values   type of the stored values
    ordered  True if row i of the batch is row order[offset + i] of the table, False if it is row offset + i
    """

    values: DType
    ordered: bool


def record_rows(
    program: Program, batch: CompressedBatch, shape: tuple[int, ...], dtype: DType, state: Tensor
) -> Tensor:
    """Record the batch as a dense matrix x. The arrays of the table are inputs of unknown size, recorded as 0."""
    int32, int64 = np.dtype(np.int32), np.dtype(np.int64)
    types: dict[str, DType] = dict(zip(TABLE, (batch.values, int32, int64), strict=True))
    if batch.ordered:
        types[ORDER] = int64
    inputs = [program.input(name, (0,), each, batch=False) for name, each in types.items()]
    x = program.new_tensor(shape, dtype, batch=True, name="x")
    program.append(CSR_ROWS, (*inputs, state), (x,))
    return x


def bind_rows(inputs: Sequence[Array], x: Array) -> Launch:
    """The launch of the op `csr_rows`."""
    return kernel(f"{_prefix(inputs)}_csr").bind(*inputs, out=x)


def multiply_stored_values(program: Program) -> None:
    """Compute the products that read a batch of compressed rows from the stored values, if nothing else reads it."""
    for rows in [op for op in program.ops if op.name == CSR_ROWS]:
        (x,) = rows.outputs
        readers = [op for op in program.ops if any(view.base is x for view in op.inputs)]
        if x not in program.outputs and all(_is_factor(op, x) for op in readers):
            products = {op: _product(rows, op) for op in readers}
            program.ops = [products.get(op, op) for op in program.ops if op is not rows]


def _is_factor(op: Op, x: Tensor) -> bool:
    """True for the products x W and xᵀ δ."""
    if op.name != "matmul":
        return False
    first, second = op.inputs
    return first.base is x and second.base is not x and not second.transposed


def _product(rows: Op, op: Op) -> Op:
    """The product of the stored values that replaces a product of x."""
    x, factor = op.inputs
    made = kernel(f"{_prefix(rows.inputs)}_csr_{'gradient' if x.transposed else 'product'}")
    return Op(
        made.name,
        (*rows.inputs, factor),
        op.outputs,
        {"rows": x.base.shape[0]} if x.transposed else {},
        kernel=made,
        count=op.outputs[0].shape[0],
        section=op.section,
        partial=op.partial,
        local=op.local,
    )


def _prefix(inputs: Sequence[object]) -> str:
    """The prefix of the kernels for rows in an order, which is an operand, or in that of the table."""
    return "gather" if len(inputs) == len(TABLE) + 2 else "copy"
