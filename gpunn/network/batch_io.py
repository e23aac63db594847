"""Launches between a bound step and a caller's arrays: batches that it reads, outputs and rows that it stores.

The arrays have names: "X", "y" and "sample_weight" hold a data set, "order" the order of its rows, "predictions"
outputs, and "rows.a", "rows.y", "rows.w" what metrics of all rows need. A batch begins at the state's offset.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..backend.executor import Launch, execute
from ..kernels import KernelCall, bind_all
from ..kernels import get as kernel
from ..kernels.state import StateEntry
from ..program import Array
from ..program.bfloat16 import accumulator, store
from ..program.csr import ORDER, TABLE, CompressedBatch
from ..program.groups import BatchShard
from .bound_step import BoundStep
from .state import CompiledState
from .step import StepOptions


@dataclass(frozen=True)
class CompressedRows:
    """A matrix (n, m) on the device in CSR format.

    Row r has values[k] in column columns[k] for k = starts[r] … starts[r + 1] − 1. `values` has any real type,
    `columns` is int32, `starts` (n + 1,) int64.
    """

    values: Array
    columns: Array
    starts: Array
    shape: tuple[int, int]


Table = Array  # (n, m), or CompressedRows
Arrays = Mapping[str, Table]


def by_address(arrays: Arrays) -> dict[str, Array]:
    """The arrays by name, those of compressed rows one by one."""
    found: dict[str, Array] = {}
    for name, table in arrays.items():
        if isinstance(table, CompressedRows):
            found |= {f"{name}.{part}": getattr(table, part) for part in ("values", "columns", "starts")}
        else:
            found[name] = table
    return found


def compressed_batch(net: CompiledState, arrays: Arrays, options: StepOptions) -> CompressedBatch | None:
    """The batches of X as steps read them from compressed rows. None if X is dense, or dense products are faster."""
    X = arrays.get("X")
    if not isinstance(X, CompressedRows) or net.eager:
        return None
    n, columns = X.shape
    width = net.layers[0].n_out or columns
    stored = X.values.shape[0] / n
    if not net.backend.uses_csr_products(stored, columns, width, gradient=options.backward):
        return None
    return CompressedBatch(X.values.dtype, ORDER in arrays)


def compressed_table(options: StepOptions, shard: BatchShard, arrays: Arrays) -> dict[str, Array]:
    """The arrays from which a step reads its batch of compressed rows, by name. Empty for a dense batch."""
    if options.compressed is None:
        return {}
    found = {name: array for name, array in by_address(arrays).items() if name in (*TABLE, ORDER)}
    if ORDER in found:
        found[ORDER] = found[ORDER][shard.offset :]
    return found


def load(step: BoundStep, X: Table, y: Array = None, w: Array = None, start: int = 0) -> None:
    """Copy the rows of X from `start` on into the first rows of x; y and w into the targets and sample weights.

    Further rows of x become 0.
    """
    step.state[StateEntry.OFFSET] = start
    rows = X.shape[0] - start
    if rows < step.n:
        step.x[rows:] = 0
    if isinstance(X, CompressedRows):
        execute(bind_all(_gather_table(step, X, step.x[:rows], None)))
    else:
        store(X[start:], step.x[:rows])
    if y is not None:
        step.y[...] = y
    if w is not None:
        step.sample_weight[...] = w


def gather(step: BoundStep, arrays: Arrays) -> list[Launch]:
    """Launches that copy the batch at the state's offset from the arrays.

    With an order, an int64 permutation, row i of the batch is row order[offset + i], otherwise row offset + i.
    """
    order = arrays.get("order")
    if order is not None:
        order = order[step.shard.offset :]
    calls = [] if step.options.compressed is not None else _gather_table(step, arrays["X"], step.x, order)
    y, w = arrays.get("y"), arrays.get("sample_weight")
    if y is not None and step.class_labels:
        name, inputs = ("copy_labels", (y,)) if order is None else ("gather_labels", (y, order))
        calls.append((kernel(name), (*inputs, step.state), step.y, None, {}))
    elif y is not None:
        calls += _gather_table(step, y, step.y, order)
    if w is not None:
        calls += _gather_table(step, w[:, None], step.sample_weight[:, None], order)
    return bind_all(calls)


def _gather_table(step: BoundStep, table: Table, into: Array, order: Array) -> list[KernelCall]:
    ordered = () if order is None else (order,)
    if not isinstance(table, CompressedRows):
        steps = {"row_step": table.strides[0] // table.itemsize, "column_step": table.strides[1] // table.itemsize}
        name = "copy_rows" if order is None else "gather"
        return [(kernel(name), (table, *ordered, step.state), into, None, steps)]
    name = "copy_csr" if order is None else "gather_csr"
    stored = (table.values, table.columns, table.starts, *ordered, step.state)
    # entries of one column are added, so a row is rounded once, at the end
    sums, rounding = accumulator(into, step.new)
    return [(kernel(name), stored, sums, None, {}), *rounding]


def store_rows(step: BoundStep, arrays: Arrays) -> list[Launch]:
    """Launches that store outputs, targets and weights of the batch's rows in those of the arrays that are given."""
    first = step.shard.offset
    store_y = "store_labels" if step.class_labels else "store_rows"
    pairs = [("store_rows", step.output, "predictions"), ("store_rows", step.output, "rows.a")]
    if step.options.loss:
        pairs += [(store_y, step.y, "rows.y"), ("store_weights", step.sample_weight, "rows.w")]
    return bind_all(
        (kernel(name), (x, step.state), arrays[key][first:], None, {}) for name, x, key in pairs if key in arrays
    )


def advance(step: BoundStep) -> list[Launch]:
    """The launch after a batch: it counts the loss, if there is one, and advances the offset to the next batch."""
    if step.options.update:
        return []  # the update does it
    name = "accumulate_loss" if step.options.loss else "advance_offset"
    return bind_all([(kernel(name), (), step.state, 1, {"rows": step.n})])
