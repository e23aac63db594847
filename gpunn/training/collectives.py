"""Collectives between the steps of distributed training. With a single process they do nothing.

Within a step, ranks all-reduce sums over rows. At the end of an epoch they agree on stopping, and check that their
parameters and settings are still equal.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..backend.executor import execute
from ..kernels.state import StateEntry
from ..network import Network, RowBuffer
from ..program import Array
from ..program.groups import ProcessGroup
from .callbacks.base import CallbackModel


def zero_rows(row_buffer: RowBuffer | None, group: ProcessGroup) -> None:
    """Fill the buffer with zeros, so that the rows of all ranks can be summed."""
    if group.size > 1:
        for array in _arrays(row_buffer):
            array.fill(0)


def all_reduce_rows(row_buffer: RowBuffer | None, group: ProcessGroup) -> None:
    """Sum the buffers of all ranks: each row was stored by one rank, at its position in the dataset."""
    if row_buffer is not None:
        execute(group.bind_all_reduce(_arrays(row_buffer)))


def rows_from(row_buffer: RowBuffer | None, row: int) -> RowBuffer | None:
    """Return a view of the buffer that begins with row `row`."""
    if row_buffer is None:
        return None
    w = None if row_buffer.w is None else row_buffer.w[row:]
    return RowBuffer(row_buffer.a[row:], row_buffer.y[row:], w)


def _arrays(row_buffer: RowBuffer | None) -> list[Array]:
    if row_buffer is None:
        return []
    return [array for array in (row_buffer.a, row_buffer.y, row_buffer.w) if array is not None]


def average_running_stats(net: Network) -> None:
    """Average the running statistics over ranks, if each rank computed them from its own rows."""
    group = net.group
    if group.size > 1 and net.running.shape[0] and not group.synchronized_batch_norm:
        net.running[...] = net.running / group.size
        execute(group.bind_all_reduce([net.running]))


def reduce_metrics(
    net: Network, group: ProcessGroup, numbers: tuple[float, ...], sums: NDArray[np.float64]
) -> tuple[tuple[float, ...], NDArray[np.float64]]:
    """Combine numbers and metric sums of all ranks, in the order of ranks."""
    shards = group.allgather("the sums of the dataset", (numbers, sums))
    merged = np.array(sums)
    for metric, where in net.metric_slices():
        if where.stop > where.start:
            merged[where] = metric.merge([each[where] for _, each in shards])
    return tuple(float(sum(each)) for each in zip(*(of_rank for of_rank, _ in shards), strict=True)), merged


def check_in_sync(net: Network, model: CallbackModel, when: str) -> None:
    """Stop if one rank stops. RuntimeError, on all ranks, if their settings or parameters differ."""
    group = net.group
    if group.size == 1:
        return
    host = net.backend.to_host
    facts = {
        "the settings of layers, optimizer, loss and metrics": repr(net.step_key()),
        "the learning rate": net.learning_rate_override,
        "the step": float(host(net.state)[StateEntry.STEP]),
        "the weights": net.weights_checksum(),
    }
    ranks = group.allgather(when, (bool(model.stop_training), facts))
    model.stop_training = any(stop for stop, _ in ranks)
    for name in facts:
        others = [rank for rank, (_, found) in enumerate(ranks) if found[name] != ranks[0][1][name]]
        if others:
            raise RuntimeError(
                f"{when}: process {others[0]} and process 0 differ in {name}. A callback must change them identically "
                "on every process, based on its logs"
            )
