"""Evaluation and prediction, and the executables that a fit borrows."""

from __future__ import annotations

import functools
import math
from collections.abc import Hashable
from contextlib import nullcontext
from dataclasses import dataclass
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from .. import input_checks as checks
from ..backend.executor import POLL_SECONDS
from ..kernels._compiler.compiled_launch import address_of
from ..kernels.state import StateEntry
from ..network import (
    Arrays,
    CompressedRows,
    Executable,
    ExecutableSpec,
    Loan,
    Network,
    RowBuffer,
    StepOptions,
    Table,
    compressed_batch,
    shared_key,
)
from ..program import Array, named_call
from ..program.groups import SINGLE_PROCESS, BatchShard, ProcessGroup
from . import collectives
from .datasets import EVALUATION_ROWS, DeviceDataset, batches, named_rows, row_chunks

PREDICTION = StepOptions(training=False)
MAX_BORROWED = 8
# predictions of many rows, in blocks that are smaller than the batches that the caller allows
BLOCK_BYTES = 52_000  # of the widest activation of a block: about the L1 cache, where the next layer reads it
MIN_BLOCK_ROWS, MIN_BLOCKS = 64, 8
MAX_BLOCK_PARAMETERS = 1 << 16  # bytes of the parameters, which every block reads again
MAX_COPIED_BYTES = 1 << 16  # of a batch, which are copied faster than addresses are exchanged


class BorrowedExecutables:
    """A context with the executables that a fit borrows, at most MAX_BORROWED.

    After an attribute change it borrows others.
    """

    def __init__(self, net: Network) -> None:
        self._net, self._version = net, 0
        self._borrowed: dict[Hashable, tuple[Loan, Executable, Arrays]] = {}
        self._last: tuple[ExecutableSpec, Arrays, Executable] | None = None

    def __enter__(self) -> BorrowedExecutables:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._return_all(kind, error, trace)

    def _return_all(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        trace: TracebackType | None = None,
    ) -> None:
        """Return all of them. After an error an executable may be in the middle of a step, so it is not used again."""
        for loan, *_ in self._borrowed.values():
            loan.__exit__(kind, error, trace)
        self._borrowed.clear()
        self._last = None

    def get(self, spec: ExecutableSpec, arrays: Arrays) -> Executable:
        """The executable for a spec and arrays, after the network has applied attribute changes."""
        if self._net.version != self._version:
            self._return_all()
            self._version = self._net.version
        if self._last is not None and self._last[0] is spec and self._last[1] is arrays:
            return self._last[2]
        addresses = tuple(id(a) if isinstance(a, CompressedRows) else address_of(a) for a in arrays.values())
        key = spec, tuple(arrays), addresses
        found = self._borrowed.pop(key, None)
        if found is None:
            while len(self._borrowed) >= MAX_BORROWED:
                least_recent, *_ = self._borrowed.pop(next(iter(self._borrowed)))
                least_recent.__exit__(None, None, None)
            loan = self._net.executable(spec, arrays)
            found = loan, loan.__enter__(), arrays
        self._borrowed[key] = found
        self._last = spec, arrays, found[1]
        return found[1]


def run_all(executable: Executable, steps: int) -> None:
    """Run steps, with regular returns to Python for interrupts."""
    while steps > 0:
        steps -= executable.run(steps, deadline=POLL_SECONDS)


# --- evaluation -------------------------------------------------------------------------------------------------------


def evaluate(
    net: Network,
    data: DeviceDataset,
    executables: BorrowedExecutables,
    batch_size: int = EVALUATION_ROWS,
    group: ProcessGroup = SINGLE_PROCESS,
) -> dict[str, float]:
    """Return the loss (with penalties) and metrics of a dataset, weighted means over its rows. Nothing is changed.

    With a group, each rank evaluates its shard, and all ranks get the result for all rows.
    """
    net.apply_attribute_changes()
    rows = data.n if data.total_rows is None else data.total_rows
    shard = BatchShard.of(rows, group)
    data.row_buffer = row_buffer = data.row_buffer or net.new_row_buffer(rows, weighted=data.w is not None)
    collectives.zero_rows(row_buffer, group)
    local_rows, local_start = collectives.rows_from(row_buffer, data.offset), shard.offset - data.offset
    sums = EvaluationSums(np.zeros(max(1, net.n_metric_sums)))
    for block_start, block in data.blocks(net.backend):
        low, high = max(block_start, local_start), min(block_start + block.n, local_start + shard.n)
        if low < high:
            stored = None if local_rows is None else local_rows.rows(block_start, block_start + block.n)
            arrays = block.named() | named_rows(stored)
            sizes = batches(high - low, batch_size)
            # the arrays of a copied block are not used again, so its executable is returned after it
            with nullcontext(executables) if block is data else BorrowedExecutables(net) as lender:
                _evaluate_block(net, arrays, low - block_start, sizes, lender, sums)
    (loss, weight), metrics = collectives.reduce_metrics(net, group, (sums.loss, sums.weight), sums.metrics)
    collectives.all_reduce_rows(row_buffer, group)
    penalty, last = group.allgather("the penalty of the dataset", (sums.penalty, sums.last))[0]
    logs = {"loss": loss / weight + net.loss_convention.mean_penalty(penalty, last, weight)}
    return logs | metric_values(net, metrics, weight, row_buffer)


@dataclass
class EvaluationSums:
    """Sums over the rows that were evaluated: Σ metric sums, Σ loss · weight and Σ weight; penalty and weight of the
    last batch."""

    metrics: NDArray[np.float64]
    loss: float = 0.0
    weight: float = 0.0
    penalty: float = 0.0
    last: float = 0.0


def _evaluate_block(
    net: Network,
    arrays: Arrays,
    start: int,
    sizes: dict[int, int],
    executables: BorrowedExecutables,
    sums: EvaluationSums,
) -> None:
    """Evaluate batches of these sizes, from row `start` of the arrays on, and add them to the sums."""
    options = StepOptions(training=False, loss=True, weighted="sample_weight" in arrays)
    executable = executables.get(ExecutableSpec(options, tuple(BatchShard.of(n) for n in sizes)), arrays)
    executable.state[StateEntry.OFFSET] = start
    for entry in (StateEntry.LOSS_SUM, StateEntry.WEIGHT_SUM):
        executable.state[entry] = 0
    executable.metric_sums[...] = net.backend.asarray(sums.metrics)
    executable.set_times(tuple(sizes.values()))
    run_all(executable, sum(sizes.values()))
    state = net.backend.to_host(executable.state)
    sums.metrics = np.array(net.backend.to_host(executable.metric_sums))
    sums.loss += float(state[StateEntry.LOSS_SUM])
    sums.weight += float(state[StateEntry.WEIGHT_SUM])
    sums.penalty, sums.last = float(state[StateEntry.PENALTY]), float(state[StateEntry.WEIGHT])


def logs_of(
    net: Network, loss: float, weight: float, sums: NDArray[np.float64], row_buffer: RowBuffer | None
) -> dict[str, float]:
    """Return loss and metrics from Σ loss · weight, Σ weight and metric sums over the batches of an epoch."""
    return {"loss": loss / weight if weight else float("nan")} | metric_values(net, sums, weight, row_buffer)


def metric_values(
    net: Network, sums: NDArray[np.float64], weight: float, row_buffer: RowBuffer | None
) -> dict[str, float]:
    """Return the value of each metric, from sums over rows with a total weight, or from the stored rows."""
    found: dict[str, float] = {}
    for metric, part in net.metric_slices() if net.metrics else ():
        if not metric.needs_all_rows:
            found[metric.name] = metric.value(sums[part], weight, net.n_out) if weight else float("nan")
        elif row_buffer is not None:
            arrays = (row_buffer.a, row_buffer.y, row_buffer.w)
            rows = (None if array is None else net.backend.to_host(array) for array in arrays)
            found[metric.name] = float(named_call(metric, "compute_from_rows", *rows))
    return found


# --- prediction -------------------------------------------------------------------------------------------------------


def predict(net: Network, X: Table, batch_size: int) -> Array:
    """Return aᴸ (n, n_out) for X, in chunks that fit in the device's memory: a new array, there if there is one chunk.

    ValueError if X has an invalid number.
    """
    chunks = row_chunks(net.backend, X)
    found = [_predict(net, chunk, batch_size) for chunk in chunks]
    return found[0] if len(found) == 1 else np.concatenate([net.backend.to_host(each) for each in found])


def _predict(net: Network, given: Table, batch_size: int) -> Array:
    """Return aᴸ on the device for rows that fit in its memory.

    The rows after the full batches are computed as the first of slightly more rows, so that few sizes occur. The
    further rows are 0, and a user's class does not get them.
    """
    X = checks.on_device(given, net.backend)
    n = X.shape[0]
    result = net.backend.empty((n, net.n_out), net.dtype)
    if n >= MIN_BLOCKS * MIN_BLOCK_ROWS:
        block = _block_rows(net)
        batch_size = int(min(batch_size, block)) if n >= MIN_BLOCKS * block else batch_size
    if compressed_batch(net, {"X": X}, PREDICTION) is not None:
        _predict_compressed(net, X, result, batch_size)
        checks.check_numbers(given, net.dtype)
        return result
    full, rest = divmod(n, batch_size)
    at = full * batch_size
    valid = not full or _predict_blocks(net, X, result, batch_size, full)
    if rest:
        rows = min(batch_size, _padded(rest))
        known = rows == rest or shared_key(net, _prediction(rows), {}) is not None
        valid = _predict_rest(net, X, result, at, rows if known else rest) and valid
    if not valid:
        checks.check_numbers(given, net.dtype)
    return result


def _block_rows(net: Network) -> float:
    """The number of rows whose activations stay in the L1 caches of all threads, if the parameters are few.

    Otherwise infinite.
    """
    if not net.backend.runs_blocks() or net.theta.nbytes > MAX_BLOCK_PARAMETERS:
        return math.inf
    widest = max(net.n_in, *(layer.n_out or 0 for layer in net.layers))
    rows = net.backend.max_concurrent_fits() * BLOCK_BYTES // (widest * net.dtype.itemsize)
    return max(MIN_BLOCK_ROWS, 1 << max(0, rows.bit_length() - 1))


def _padded(n: int) -> int:
    """The number of rows that are computed for n rows: few different numbers, at most an eighth more."""
    unit = 1 << max(0, min(n.bit_length() - 4, 5))
    return -(-n // unit) * unit


@functools.lru_cache(maxsize=1024)
def _prediction(rows: int) -> ExecutableSpec:
    return ExecutableSpec(PREDICTION, (BatchShard.of(rows),))


def _is_block(net: Network, X: Table) -> bool:
    """True if a step can read X in place of its own batch."""
    return not isinstance(X, CompressedRows) and X.dtype == net.dtype and bool(X.flags.c_contiguous)


def _predict_compressed(net: Network, X: CompressedRows, result: Array, batch_size: int) -> None:
    """Predict the rows of a CSR table in batches that are read from it."""
    sizes = batches(X.shape[0], batch_size)
    spec = ExecutableSpec(PREDICTION, tuple(map(BatchShard.of, sizes)))
    with net.executable(spec, {"X": X, "predictions": result}) as executable:
        executable.state[StateEntry.OFFSET] = 0
        executable.set_times(tuple(sizes.values()))
        run_all(executable, sum(sizes.values()))


def _predict_blocks(net: Network, X: Table, result: Array, rows: int, times: int) -> bool:
    """Predict `times` batches of `rows` rows. Return False if a number may be invalid."""
    if net.backend.runs_blocks() and _is_block(net, X):
        largest = net.backend.empty((times,), np.float64)
        with net.executable(_prediction(rows)) as executable:
            if executable.run_blocks(times, X, result, largest):
                return math.isfinite(largest.max())
    # the steps gather and store the rows themselves
    with net.executable(_prediction(rows), {"X": X, "predictions": result}) as executable:
        executable.state[StateEntry.OFFSET] = 0
        executable.set_times((times,))
        run_all(executable, times)
    return False


def _predict_rest(net: Network, X: Table, result: Array, start: int, rows: int) -> bool:
    """Predict the rows from `start` on, as the first of `rows` rows. Return False if a number may be invalid."""
    n = X.shape[0] - start
    with net.executable(_prediction(rows)) as executable:
        if n == rows and n * executable.x[:1].nbytes > MAX_COPIED_BYTES:
            largest = net.backend.empty((1,), np.float64)
            if _is_block(net, X) and executable.run_blocks(1, X[start:], result[start:], largest):
                return math.isfinite(largest[0])
        executable.load(X, start=start)
        executable.run()
        result[start:] = executable.output[:n]
        return executable.largest is not None and math.isfinite(executable.largest[0])
