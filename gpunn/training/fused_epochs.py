"""Whole epochs in compiled code, for `fit_many`, ensembles and the stochastic fits of the estimators.

Callbacks run after the epochs. `Sequential.fit` uses `loop` instead. A fit is a coroutine that yields epoch runners, so
that several fits can run concurrently.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import ExitStack

import numpy as np

from ..backend import Backend
from ..backend.concurrency import EpochCoroutine, run_coroutine
from ..backend.launches import POLL_SECONDS
from ..kernels import get as kernel
from ..kernels.state import StateEntry
from ..network import Network, Plan, RowBuffer
from .loop import (
    STEP,
    DeviceDataset,
    DivergenceError,
    FitContext,
    batches,
    defer_interrupt,
    full_step,
    logs_of,
    precompute_rates,
    raise_if_diverged,
    reset_epoch_state,
    schedule_granularity,
)
from .recording_cache import CompiledEpochs, acquire
from .recording_cache import reuse as reuse_recordings

MAX_EPOCHS_PER_CALL = 64
MAX_ORDERED_ROWS = 1 << 18  # of all epochs of a call, unless a single epoch has more
MAX_RATES = 1 << 16  # learning rates precomputed for a call, if a schedule changes them with every step


def epoch_coroutine(
    net: Network,
    data: DeviceDataset,
    context: FitContext,
    *,
    batch_size: int,
    epochs: int,
    order_of: Callable[[int], np.ndarray] | None,
    first_epoch: int = 0,
    rows: np.ndarray | None = None,
    epochs_until_callback: Callable[[], float] | None = None,
    draw_orders: Callable[[int], np.ndarray] | None = None,
) -> EpochCoroutine:
    """Train like `loop.fit`, and yield an epoch runner that the caller must run to its end.

    epochs_until_callback()  the number of epochs before a callback may read weights, stop the fit or change the
                             learning rate; by default, callbacks may run after the last epoch
    draw_orders(count)       the row orders of `count` epochs in one array, instead of `order_of`

    DivergenceError as in `loop.fit`. If an exception is thrown into the coroutine, the history keeps the epochs done.
    """
    row_indices = np.arange(data.n) if rows is None else np.array(rows)
    n, model = len(row_indices), context.model
    sizes = batches(n, batch_size)
    steps = sum(sizes.values())
    row_buffer = net.new_row_buffer(n, weighted=data.w is not None)
    per = schedule_granularity(net)
    epochs_per_call = min(epochs, MAX_EPOCHS_PER_CALL, max(1, MAX_ORDERED_ROWS // n))
    if per == "step":
        epochs_per_call = max(1, min(epochs_per_call, MAX_RATES // steps))
    if per == "epoch" or row_buffer is not None or context.validation is not None:
        epochs_per_call = 1
    shape_key = (tuple(sizes.items()), epochs_per_call) if row_buffer is None else None
    done = 0
    with context.session(), ExitStack() as recordings:
        version = 0
        while done < epochs and not model.stop_training:
            net.apply_attribute_changes()
            if version != net.version:
                version = net.version
                recordings.close()
                make = acquire(
                    net, data, shape_key, lambda: _record_epochs(net, data, sizes, epochs_per_call, row_buffer)
                )
                recorded = recordings.enter_context(make)
                runner, order, epoch_log = recorded.runner, recorded.order, recorded.epoch_log
            count = min(epochs - done, epochs_per_call)
            if epochs_until_callback is not None:
                count = int(min(count, max(1, epochs_until_callback())))
            first = first_epoch + done
            if draw_orders is not None:
                ordered = draw_orders(count)
            else:
                each = [row_indices if order_of is None else order_of(first + j) for j in range(count)]
                ordered = np.concatenate(each)
            order[: count * n] = net.backend.asarray(ordered)
            reset_epoch_state(net, first)
            runner.reset(count, *(precompute_rates(net, count * steps + 1) if per == "step" else ()))
            for j in range(count):
                context.callbacks("on_epoch_begin", done + j, {})
            try:
                yield runner
            finally:
                state = np.array(net.backend.to_host(net.state))
                ended = int(state[StateEntry.EPOCHS_DONE])
                for j, (loss, weight, *sums) in enumerate(net.backend.to_host(epoch_log)[:ended]):
                    found = logs_of(net, float(loss), float(weight), np.array(sums), row_buffer)
                    context.end_epoch(done + j, found)
                done += ended
            try:
                raise_if_diverged(net, state, done)
            except DivergenceError as error:
                context.diverged(error)
                break


def run(net: Network, coroutine: EpochCoroutine) -> None:
    """Run one coroutine to its end. Ctrl-C takes effect at the end of a step."""
    with net.backend.activate():
        try:
            with defer_interrupt() as poll_interrupt:
                run_coroutine(coroutine, POLL_SECONDS, poll_interrupt)
        finally:
            net.backend.release_memory()


def run_concurrently(backend: Backend, coroutines: Sequence[EpochCoroutine]) -> None:
    """Run several coroutines to their ends, as many at a time as the device supports. Ctrl-C as in `run`."""
    with backend.activate():
        try:
            with defer_interrupt() as poll_interrupt, reuse_recordings():
                backend.run_concurrently(coroutines, POLL_SECONDS, poll_interrupt)
        finally:
            backend.release_memory()


def _record_epochs(
    net: Network, data: DeviceDataset, sizes: dict[int, int], epochs_per_call: int, row_buffer: RowBuffer | None
) -> CompiledEpochs:
    """Record epochs with these batch sizes. No other fit uses these plans."""
    order = net.backend.empty((epochs_per_call * sum(size * times for size, times in sizes.items()),), np.int64)
    options = dataclasses.replace(STEP, weighted=data.w is not None)
    plans = {size: Plan(net, size, options) for size in sizes}
    parts = []
    for size, plan in plans.items():
        step = full_step(plan, plan.gather(data.X, data.y, data.w, order), plan.store_rows(row_buffer))
        parts.append((step, sizes[size]))
    sums = net.metric_sums
    epoch_log = net.backend.zeros((epochs_per_call, 2 + sums.shape[0]), np.float64)
    end = [kernel("end_epoch").bind(out=(epoch_log, sums, net.state), count=1, totals_n=sums.shape[0])]

    def set_l2(values: list[float]) -> None:
        for plan in plans.values():
            plan.set_l2(values)

    return CompiledEpochs(net.backend.epoch_runner([*parts, (end, 1)], net.state, flush=True), order, epoch_log, set_l2)
