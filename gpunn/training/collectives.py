"""What the processes of a group do together between steps; alone, nothing of it costs anything.

Within a step they add up what is summed over rows, and go the same way since they hold the same numbers. Here they
make sure of it: an epoch's end is where one may stop for all, and where two that went apart are found out.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..kernels.state import Slot
from ..network import Network, RowBuffer
from ..recording import Array, Group, execute


def zero_rows(kept: RowBuffer | None, group: Group) -> None:
    """Room for rows without rows in it, so that what the processes put there may be added."""
    if group.size > 1:
        for array in _arrays(kept):
            array.fill(0)


def all_reduce_rows(kept: RowBuffer | None, group: Group) -> None:
    """The rows that all processes kept, each where it stands in the set."""
    execute(group.bind_all_reduce(_arrays(kept)))


def rows_from(kept: RowBuffer | None, row: int) -> RowBuffer | None:
    """The same room from a row of the set on."""
    return kept if kept is None else RowBuffer(kept.a[row:], kept.y[row:], None if kept.w is None else kept.w[row:])


def _arrays(kept: RowBuffer | None) -> list[Array]:
    return [] if kept is None else [array for array in (kept.a, kept.y, kept.w) if array is not None]


def average_running_stats(net: Network) -> None:
    """Running statistics become the mean of the processes', where each has seen rows of its own."""
    group = net.group
    if group.size > 1 and net.running.shape[0] and not group.synchronized_batch_norm:
        net.running[...] = net.running / group.size
        execute(group.bind_all_reduce([net.running]))


def reduce_metrics(
    net: Network, group: Group, numbers: tuple[float, ...], sums: np.ndarray
) -> tuple[tuple[float, ...], np.ndarray]:
    """Numbers and metrics' sums over a set from those over the processes' parts of it, added in their order."""
    parts = group.allgather("the sums of a set", (numbers, sums))
    joined = np.array(sums)
    for metric, place in net.metric_slices():
        if place.stop > place.start:
            joined[place] = metric.merge([theirs[place] for _, theirs in parts])
    return tuple(float(sum(each)) for each in zip(*(mine for mine, _ in parts), strict=True)), joined


def check_in_sync(net: Network, model: Any, when: str) -> None:
    """Stop where one process stops. RuntimeError, on all, where they no longer hold the same."""
    group = net.group
    if group.size == 1:
        return
    host = net.backend.to_host
    mine = {
        "the settings of layers, optimizer, loss and metrics": repr(net.plan_key()),
        "the learning rate": net.learning_rate_override,
        "the step": float(host(net.state)[Slot.STEP]),
        "the weights": net.weights_checksum(),
    }
    all_of_them = group.allgather(when, (bool(model.stop_training), mine))
    model.stop_training = any(stop for stop, _ in all_of_them)
    for name in mine:
        first = all_of_them[0][1][name]
        others = [rank for rank, (_, theirs) in enumerate(all_of_them) if theirs[name] != first]
        if others:
            raise RuntimeError(
                f"{when} process {others[0]} has not what process 0 has: {name} differ. A callback that changes them "
                "must do so alike on every process, by the numbers it is given"
            )
