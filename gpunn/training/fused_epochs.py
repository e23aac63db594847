"""A fit that nobody watches from step to step, as a course: it asks for whole epochs, and looks at them afterwards.

Several such courses may go side by side, and a device takes the epochs of one without Python in between.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack

import numpy as np

from ..backend import Backend
from ..backend.concurrency import EpochCoroutine, run_coroutine
from ..kernels import get as kernel
from ..kernels.state import Slot
from ..network import Network, Plan, RowBuffer
from ..recording import POLL_SECONDS, Recorder
from .loop import (
    STEP,
    Audience,
    Data,
    DivergenceError,
    batches,
    begin,
    changes,
    logs_of,
    look,
    rates_ahead,
    whole_step,
    whole_steps,
)
from .recording_cache import Recording, recording
from .recording_cache import kept as recordings_kept

AT_ONCE = 64  # epochs that are taken at once at most
ORDERED = 1 << 18  # rows whose order is kept for epochs ahead at most, a single epoch's apart
RATES = 1 << 16  # learning rates that are made at once at most, where a schedule changes them from step to step

Ahead = Callable[[], float]


def course(
    net: Network,
    data: Data,
    audience: Audience,
    *,
    batch_size: int,
    epochs: int,
    order_of: Callable[[int], np.ndarray] | None,
    first_epoch: int = 0,
    rows: np.ndarray | None = None,
    ahead: Ahead | None = None,
    orders: Callable[[int], np.ndarray] | None = None,
) -> EpochCoroutine:
    """Train as `loop.fit` does, epochs in the place of steps: what is given is to be taken, and was so afterwards.

    `ahead()` is for how many epochs from now on no callback need be asked: none of them looks at weights, stops the
    fit or changes the learning rate before. None: they may be asked after the last epoch. `orders(count)` are the
    orders of so many epochs in one array, in the place of `order_of`. DivergenceError as there; an error raised here,
    where a course is ended early, leaves the epochs that were done in the history.
    """
    which = np.arange(data.n) if rows is None else np.array(rows)
    n, model = len(which), audience.model
    sizes = batches(n, batch_size)
    steps = sum(sizes.values())
    kept = net.new_row_buffer(n, weighted=data.w is not None)
    per = changes(net)
    at_once = min(epochs, AT_ONCE, max(1, ORDERED // n))
    if per == "step":
        at_once = max(1, min(at_once, RATES // steps))
    if per == "epoch" or kept is not None or audience.validation is not None:
        at_once = 1
    extent = (tuple(sizes.items()), at_once) if kept is None else None
    done = 0
    with audience.hearing(), ExitStack() as recordings:
        version = 0
        while done < epochs and not model.stop_training:
            net.apply_attribute_changes()
            if version != net.version:
                version = net.version
                recordings.close()
                make = recording(net, data, extent, lambda: _record(net, data, sizes, at_once, kept))
                recorded = recordings.enter_context(make)
                taking, order, record = recorded.taking, recorded.order, recorded.record
            count = int(min(epochs - done, at_once, max(1, ahead() if ahead is not None else at_once)))
            first = first_epoch + done
            if orders is not None:
                ordered = orders(count)
            else:
                each = [which if order_of is None else order_of(first + j) for j in range(count)]
                ordered = np.concatenate(each)
            order[: count * n] = net.backend.asarray(ordered)
            begin(net, first)
            taking.reset(count, *(rates_ahead(net, count * steps + 1) if per == "step" else ()))
            for j in range(count):
                audience.callbacks("on_epoch_begin", done + j, {})
            try:
                yield taking
            finally:
                state = np.array(net.backend.to_host(net.state))
                ended = int(state[Slot.EPOCHS_DONE])
                for j, (loss, weight, *sums) in enumerate(net.backend.to_host(record)[:ended]):
                    found = logs_of(net, float(loss), float(weight), np.array(sums), kept)
                    audience.epoch_ends(done + j, found)
                done += ended
            try:
                look(net, state, done)
            except DivergenceError as error:
                audience.diverged(error)
                break


def alone(net: Network, taken: EpochCoroutine) -> None:
    """Take one course to its end; Ctrl-C waits for the end of a step."""
    with net.backend.activate():
        try:
            with whole_steps() as look:
                run_coroutine(taken, POLL_SECONDS, look)
        finally:
            net.backend.release_memory()


def side_by_side(backend: Backend, courses: Sequence[EpochCoroutine]) -> None:
    """Take many courses to their ends, as many at a time as the device does; Ctrl-C as in `alone`."""
    with backend.activate():
        try:
            with whole_steps() as look, recordings_kept():
                backend.run_concurrently(courses, POLL_SECONDS, look)
        finally:
            backend.release_memory()


def _record(net: Network, data: Data, sizes: dict[int, int], at_once: int, kept: RowBuffer | None) -> Recording:
    """Epochs of batches of those sizes, of which so many are taken at once; no other fit uses these plans."""
    order = net.backend.empty((at_once * sum(size * times for size, times in sizes.items()),), np.int64)
    plans = {size: Plan(net, size, weighted=data.w is not None, **STEP) for size in sizes}
    parts = []
    for size, plan in plans.items():
        step = whole_step(plan, plan.gather(data.X, data.y, data.w, order), plan.store_rows(kept))
        parts.append((step, sizes[size]))
    sums = net.metric_sums
    record = net.backend.zeros((at_once, 2 + sums.shape[0]), np.float64)
    ops = Recorder(net.backend)
    ops(kernel("end_epoch"), out=(record, sums, net.state), count=1, totals_n=sums.shape[0])
    end = ops.end_section()
    ops.bind()

    def set_l2(values: list[float]) -> None:
        for plan in plans.values():
            plan.set_l2(values)

    return Recording(net.backend.epoch_runner([*parts, (end, 1)], net.state, flush=True), order, record, set_l2)
