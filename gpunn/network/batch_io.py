"""Launches between a plan and datasets: batches that it reads; outputs and metrics that it stores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..backend import Backend
from ..backend.launches import POLL_SECONDS, execute
from ..kernels import KernelCall, Launch, bind_all
from ..kernels import get as kernel
from ..kernels.state import StateEntry
from ..program import Array, Program
from ..program.bfloat16 import accumulator, store
from ..program.buffers import assign_buffers
from ..program.groups import SINGLE_PROCESS, BatchShard
from .executable import BoundProgram
from .state import CompiledState, RowBuffer
from .values import ArrayValues, ProgramValues


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


Table = Any  # an array (n, m), or CompressedRows


class BatchIO:
    """The launches of a plan that copy batches from datasets, and results into datasets."""

    if TYPE_CHECKING:
        n: int
        shard: BatchShard
        backend: Backend
        bytes: int
        state: Array
        x: Array
        y: Array
        sample_weight: Array
        w: Array
        output: Array
        batch_metrics: Array
        forward: list[Launch]
        block_program: Any

        @property
        def network(self) -> CompiledState: ...

        def new(self, shape: tuple[int, ...], dtype: Any = None) -> Array: ...

    # --- batches ---

    def load_batch(self, X: Table, y: Array, w: Array = None) -> None:
        """Copy one batch of device arrays into x, y and w."""
        self.state[StateEntry.OFFSET] = 0
        if isinstance(X, CompressedRows):
            execute(self.gather(X, y, w))
            return
        with np.errstate(all="ignore"):
            store(X, self.x)
            self.y[...] = y
            if w is not None:
                self.sample_weight[...] = w

    def gather(self, X: Table, y: Array = None, w: Array = None, order: Array = None) -> list[Launch]:
        """Launches that copy the batch at the state's offset from device arrays into x, y and w.

        With `order`, an int64 permutation, row i of the batch is row order[offset + i], otherwise row offset + i.
        """
        if order is not None:
            order = order[self.shard.offset :]
        calls = self._gather_table(X, self.x, order)
        if y is not None and self.network.loss.targets == "class_index":
            name, inputs = ("copy_labels", (y,)) if order is None else ("gather_labels", (y, order))
            calls.append((kernel(name), (*inputs, self.state), self.y, None, {}))
        elif y is not None:
            calls += self._gather_table(y, self.y, order)
        if w is not None:
            calls += self._gather_table(w[:, None], self.sample_weight[:, None], order)
        return bind_all(calls)

    def _gather_table(self, table: Table, into: Array, order: Array) -> list[KernelCall]:
        ordered = () if order is None else (order,)
        if not isinstance(table, CompressedRows):
            steps = {
                "row_step": table.strides[0] // table.itemsize,
                "column_step": table.strides[1] // table.itemsize,
            }
            name = "copy_rows" if order is None else "gather"
            return [(kernel(name), (table, *ordered, self.state), into, None, steps)]
        name = "copy_csr" if order is None else "gather_csr"
        stored = (table.values, table.columns, table.starts, *ordered, self.state)
        # entries of one column are added, so a row is rounded once, at the end
        sums, rounding = accumulator(into, self.new)
        return [(kernel(name), stored, sums, None, {}), *rounding]

    # --- results ---

    def advance_offset(self, kernel_name: str) -> list[Launch]:
        """The launch that advances the state's offset to the next batch: "accumulate_loss" or "advance_offset"."""
        return bind_all([(kernel(kernel_name), (), self.state, 1, {"rows": self.n})])

    def store_predictions(self, into: Array) -> list[Launch]:
        """The launch that stores aᴸ in `into`, from row offset on."""
        return bind_all([(kernel("store_rows"), (self.output, self.state), into, None, {})])

    def store_rows(self, buffer: RowBuffer | None) -> list[Launch]:
        """Launches that store outputs, targets and weights of the batch's rows in a buffer; none without a buffer."""
        if buffer is None:
            return []
        first = self.shard.offset
        store_y = "store_labels" if self.network.loss.targets == "class_index" else "store_rows"
        pairs = [("store_rows", self.output, buffer.a), (store_y, self.y, buffer.y)]
        if buffer.w is not None:
            pairs.append(("store_weights", self.sample_weight, buffer.w))
        return bind_all((kernel(name), (x, self.state), into[first:], None, {}) for name, x, into in pairs)

    def accumulate_metrics(self, sums: Array) -> list[Launch]:
        """Launches that add the batch's metrics to `sums`; for plans without update."""
        variables = {"state": self.state, "batch_metrics": self.batch_metrics, "metric_sums": sums}

        def record(values: Any) -> None:
            state = values.read("state", 0, self.state.shape[0])
            for metric, part in self.network.metric_slices():
                if part.stop > part.start:
                    batch, into = (values.read(v, part.start, part.stop) for v in ("batch_metrics", "metric_sums"))
                    values.assign("metric_sums", part.start, metric.accumulate(batch, values.y, into, state))

        if self.network.eager:
            return [lambda: record(ArrayValues({"y": self.y}, variables))]
        program = Program()
        layouts = {name: (array.shape, array.dtype) for name, array in variables.items()}
        values = ProgramValues(program, {"y": (self.y.shape, self.y.dtype)}, layouts)
        record(values)
        program.end_recording()
        inputs = {program.inputs[0]: self.y}
        bound = BoundProgram(program, assign_buffers(program), self.backend, SINGLE_PROCESS, inputs, variables)
        return bound.launches[0]

    def predict_in_place(self, X: Table, result: Array, start: int, stop: int) -> float | None:
        """Compute aᴸ of rows start … stop of X, whole blocks, into `result`; returns max |x|, or NaN if an x is NaN.

        X and `result` are used in place, block by block. Returns None, with nothing done, if X does not have the
        network's type and layout or the device does not support it.
        """
        supported = not isinstance(X, CompressedRows) and X.dtype == self.x.dtype == self.network.dtype
        supported = supported and X.flags.c_contiguous
        if self.block_program is None and supported:
            largest = self.new((1,), np.float64)
            max_launches = bind_all([(kernel("max_abs"), (self.x,), largest, None, {})])
            program = self.backend.bind_blocks([*max_launches, *self.forward], [self.x, self.output, largest])
            # an identity network writes nothing
            self.block_program = False if program is None or self.output is self.x else program
        if self.block_program is False or not supported:
            return None
        blocks = (stop - start) // self.n
        found = self.backend.empty((blocks,), np.float64)
        self.block_program.run_blocks((X[start:stop], result[start:stop], found), blocks, seconds=POLL_SECONDS)
        return float(found.max())
