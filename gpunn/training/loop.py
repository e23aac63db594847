"""The loops over epochs and batches for training, evaluation and prediction. They run recorded launches."""

from __future__ import annotations

import dataclasses
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import numpy as np

from ..backend.launches import POLL_SECONDS, execute, is_executable, run_all, run_steps
from ..kernels import Launch
from ..kernels.state import StateEntry
from ..network import Network, Plan, RowBuffer, StepOptions
from ..program import Array
from ..program.groups import SINGLE_PROCESS, BatchShard, ProcessGroup
from . import collectives
from .history import History

EVALUATION_ROWS = 1024
STEP = StepOptions(training=True, loss=True, backward=True, update=True)
PREDICTION = StepOptions(training=False)
MAX_PRECOMPUTED_RATES = 4096  # learning rates of a schedule that changes them with every step


class DivergenceError(ArithmeticError):
    """A non-finite loss, gradient or update. The weights are those before that step."""


class CallbackCaller(Protocol):
    """Calls a hook on all callbacks."""

    has_batch_hooks: bool

    def __call__(self, hook: str, *arguments: Any) -> None:
        """Call one hook."""


@dataclass
class DeviceDataset:
    """A dataset on the network's device: X (n, d), y for the loss, and weights (n,) or None.

    If a process has only its own rows of `total_rows`, they begin with row `offset`. Launches that read the dataset are
    compiled once per plan and stored here, so that no plan keeps references to a caller's arrays.
    """

    X: Array
    y: Array
    w: Array | None = None
    offset: int = 0
    total_rows: int | None = None
    metric_buffers: tuple[Array, RowBuffer | None] | None = field(default=None, init=False)  # of `evaluate`
    _compiled: WeakKeyDictionary[Plan, list[Launch]] = field(default_factory=WeakKeyDictionary, init=False)

    @property
    def n(self) -> int:
        return int(self.X.shape[0])

    def blocks(self, backend: Any) -> Iterator[tuple[int, DeviceDataset]]:
        """Yield the blocks of the dataset, each with the index of its first row: one block with all rows."""
        yield 0, self

    def compiled(self, plan: Plan, record: Callable[[], list[Launch]]) -> list[Launch]:
        """Return compiled launches that gather a batch for the plan, followed by those of `record`."""
        found = self._compiled.get(plan)
        if found is None:
            found = self._compiled[plan] = plan.backend.compile([*plan.gather(self.X, self.y, self.w), *record()])
        return found


@dataclass(frozen=True)
class RepeatedStep:
    """The same step `times` times, each on the batch at the state's offset.

    `step()` returns the launches for the current settings. It is called before the first step, and again when an
    attribute may have changed.
    """

    step: Callable[[], list[Launch]]
    times: int = 1


OVERFLOW = 3
CAUSES = {
    1: "the loss is not finite",
    2: "a gradient or a parameter is not finite",
    OVERFLOW: "an update would overflow",
}


def raise_if_diverged(net: Network, state: np.ndarray, epoch: int | None = None) -> None:
    """Raise DivergenceError if the non-finite flag is set in a state on the host.

    The flag is cleared, so that training can continue with other settings.
    """
    if not state[StateEntry.NONFINITE_STEP]:
        return
    update, lr = int(state[StateEntry.NONFINITE_STEP]) - 1, state[StateEntry.NONFINITE_LR]
    cause, step = int(state[StateEntry.NONFINITE_CAUSE]), int(state[StateEntry.NONFINITE_BATCH]) + 1
    where = "" if epoch is None else f" in epoch {epoch + 1}, step {step}"
    net.state[StateEntry.NONFINITE_STEP] = 0
    net.state[StateEntry.NONFINITE_CAUSE] = 0
    raise DivergenceError(
        f"training diverged{where} (update {update}, learning rate {lr:.3g}): {CAUSES[cause]}. "
        f"{_advice(update, cause)} The weights are those before that step."
    )


def _advice(update: int, cause: int) -> str:
    """Return a remedy. The first loss and gradient do not depend on the learning rate; the first update does."""
    if update == 0 and cause != OVERFLOW:
        return (
            "No update was taken yet, so the likely cause is in the first outputs: inputs or targets that are not "
            "scaled, or outputs that the loss is not defined for (for example a ≤ 0 for poisson)."
        )
    return (
        "The likely cause is a learning rate that is too large, or inputs that are not scaled: try a tenth of the "
        "rate, clipnorm=1.0, or standardized inputs."
    )


@dataclass
class FitContext:
    """Callbacks, history and validation data of a running fit."""

    net: Network
    validation: Any
    callbacks: CallbackCaller
    model: Any
    history: History

    @contextmanager
    def session(self) -> Iterator[None]:
        """Run the hooks at the beginning and the end of the fit."""
        self.model.stop_training = False
        self.callbacks("on_train_begin", {})
        collectives.check_in_sync(self.net, self.model, "before the first epoch")
        self.logs = {name: values[-1] for name, values in self.history.history.items()}
        try:
            yield
            self.callbacks("on_train_complete", self.logs)
        finally:
            self.callbacks("on_train_end", self.logs)

    def end_epoch(self, k: int, logs: dict[str, float]) -> None:
        """Validate, run the hooks at the end of epoch k, and add its logs to the history."""
        if self.validation is not None:
            found = evaluate(self.net, self.validation, group=self.net.group)
            logs |= {f"val_{name}": value for name, value in found.items()}
        self.callbacks("on_epoch_logs", k, logs)
        self.history.add(k, logs)
        self.callbacks("on_epoch_end", k, logs)
        self.callbacks("on_epoch_complete", k, logs)
        self.logs = logs

    def diverged(self, error: DivergenceError) -> None:
        """Raise the error of a non-finite step, unless a callback ends the fit."""
        self.model.stop_training = False
        self.callbacks("on_divergence", error)
        if not self.model.stop_training:
            raise error


def batches(n: int, batch_size: int) -> dict[int, int]:
    """Return {rows per batch: number of batches} for n rows: the full batches, then a shorter last one."""
    found = {batch_size: n // batch_size, n % batch_size: 1}
    return {rows: times for rows, times in found.items() if rows and times}


def fit(
    net: Network,
    data: DeviceDataset,
    context: FitContext,
    *,
    batch_size: int,
    order_of: Callable[[int], np.ndarray] | None,
    rows: np.ndarray | None = None,
    **run: Any,
) -> History:
    """Train on a device dataset. A shorter last batch has a separate plan.

    order_of(epoch)  the order (n,) of the rows in an epoch, counted from `first_epoch`; None keeps their order
    rows             indices of the training rows, all by default
    run              epochs, first_epoch and done, as in `train`
    """
    order = net.backend.asarray(np.arange(data.n) if rows is None else np.array(rows))
    n = int(order.shape[0])
    sizes = batches(n, batch_size)
    row_buffer = net.new_row_buffer(n, weighted=data.w is not None)
    with Steps(net, weighted=data.w is not None) as steps:

        def step(size: int) -> list[Launch]:
            return steps.of(size, lambda plan: plan.gather(data.X, data.y, data.w, order), row_buffer)

        def steps_of(epoch: int) -> Iterator[RepeatedStep]:
            # record all sizes before the first step, so that an out-of-memory error occurs here
            for size in sizes:
                step(size)
            if order_of is not None:
                order[...] = net.backend.asarray(order_of(epoch))
            return (RepeatedStep(partial(step, size), times) for size, times in sizes.items())

        return train(net, steps_of, context, row_buffer=row_buffer, **run)


def train(
    net: Network,
    steps_of: Callable[[int], Iterator[RepeatedStep]],
    context: FitContext,
    *,
    epochs: int,
    first_epoch: int,
    done: int,
    row_buffer: RowBuffer | None = None,
) -> History:
    """Train until `epochs` epochs are done, of which `done` were done before a resume.

    `steps_of(epoch)` yields the steps of an epoch, counted from `first_epoch`. The history gains one entry per epoch. A
    restored callback may already have stopped the fit.
    """
    model = context.model
    with context.session(), defer_interrupt() as between_steps:
        for k in range(done, done if done and model.stop_training else epochs):
            epoch = first_epoch + k
            context.callbacks("on_epoch_begin", k, {})
            collectives.zero_rows(row_buffer, net.group)
            try:
                _epoch(net, steps_of(epoch), epoch, k, context.callbacks, between_steps)
            except DivergenceError as error:
                context.diverged(error)
                break
            collectives.average_running_stats(net)
            collectives.all_reduce_rows(row_buffer, net.group)
            context.end_epoch(k, _epoch_logs(net, row_buffer))
            collectives.check_in_sync(net, model, f"after epoch {k + 1}")
            if model.stop_training:
                break
    return context.history


class Steps(ExitStack):
    """The recorded steps of a fit. They are recorded again after an attribute change."""

    def __init__(self, net: Network, *, weighted: bool) -> None:
        super().__init__()
        self._net, self._weighted, self._version = net, weighted, 0
        self._plans: dict[int, Plan] = {}
        self._steps: dict[Any, list[Launch]] = {}

    def of(
        self, n: int, source: Callable[[Plan], list[Launch]], row_buffer: RowBuffer | None = None, key: Any = None
    ) -> list[Launch]:
        """Return the step on n rows, gathered by `source`. `key` distinguishes sources of the same size."""
        net = self._net
        net.apply_attribute_changes()
        if net.version != self._version:
            self.close()
            self._plans.clear()
            self._steps.clear()
            self._version = net.version
        if n not in self._plans:
            self._plans[n] = self.enter_context(training_plan(net, n, weighted=self._weighted))
        if (n, key) not in self._steps:
            plan = self._plans[n]
            self._steps[n, key] = full_step(plan, source(plan), plan.store_rows(row_buffer))
        return self._steps[n, key]


def training_plan(net: Network, n: int, *, weighted: bool) -> Any:
    """Return a plan for training steps on batches of n rows, or on this rank's shard of them."""
    shard = BatchShard.of(n, net.group)
    return net.plan(shard.n, dataclasses.replace(STEP, weighted=weighted), shard)


def full_step(plan: Plan, source: list[Launch], keep: list[Launch] | None = None) -> list[Launch]:
    """Compile the six steps of the procedure into one list. `keep` stores the rows' outputs before the update.

    Subnormal numbers may be flushed to 0: as optimizer slots and gradients they change nothing, but are slow on a CPU.
    """
    # no step writes the gradient of a frozen layer, but clipping and the non-finite check read it
    plan.gradient.fill(0)
    launches = [
        *source,
        *plan.normalize_weights,
        *plan.forward,
        *plan.loss,
        *(keep or []),
        *plan.backward,
        *plan.update,
    ]
    return plan.backend.compile(launches, flush=True, on_fallback=plan.network.capture_errors.setdefault)


def batch_step(plan: Plan, data: DeviceDataset) -> list[Launch]:
    """Copy a batch to the plan's buffers. Return the step on them, which is compiled once for all batches."""
    plan.load_batch(data.X, data.y, data.w)
    if plan.batch_step is None:
        plan.batch_step = full_step(plan, [])
    return plan.batch_step


def learning_rate(net: Network, epoch: int) -> float:
    """Return η of the next step: the override if there is one, else by the schedule."""
    if net.learning_rate_override is not None:
        return net.learning_rate_override
    schedule = net.optimizer.schedule
    if schedule.per == "epoch":
        return float(schedule(epoch))
    # reading the step count from the device would block
    return float(schedule(0 if schedule.is_constant or not net.is_built else int(net.state[StateEntry.STEP])))


def schedule_granularity(net: Network) -> str | None:
    """Return "step" or "epoch" if the schedule changes η with every step or epoch. None if η is constant."""
    schedule = net.optimizer.schedule
    return None if schedule.is_constant or net.learning_rate_override is not None else schedule.per


def precompute_rates(net: Network, steps: int) -> tuple[np.ndarray, int]:
    """Return η of the next `steps` steps by the schedule, and the index of the first step."""
    first = int(net.backend.to_host(net.state)[StateEntry.STEP])
    return np.array([float(net.optimizer.schedule(first + t)) for t in range(steps)]), first


def set_learning_rate(net: Network, epoch: int) -> None:
    """Write η of the next step to the state array."""
    net.state[StateEntry.LR] = learning_rate(net, epoch)


@contextmanager
def defer_interrupt() -> Iterator[Callable[[], None]]:
    """Defer Ctrl-C to the end of a step. Yield a function that, called between steps, raises KeyboardInterrupt.

    A second Ctrl-C is raised immediately. With another signal handler, or in another thread, nothing changes.
    """
    received: list[int] = []

    def handle(number: int, frame: Any) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    def between_steps() -> None:
        if received:
            raise KeyboardInterrupt

    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield between_steps
        return
    signal.signal(signal.SIGINT, handle)
    try:
        yield between_steps
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    between_steps()


def reset_epoch_state(net: Network, epoch: int) -> None:
    """Reset the state array for the first step of an epoch."""
    for entry in (
        StateEntry.OFFSET,
        StateEntry.BATCH_INDEX,
        StateEntry.LOSS_SUM,
        StateEntry.WEIGHT_SUM,
        StateEntry.EPOCHS_DONE,
    ):
        net.state[entry] = 0
    net.metric_sums.fill(0)
    set_learning_rate(net, epoch)


def _epoch(
    net: Network,
    steps: Iterator[RepeatedStep],
    epoch: int,
    display_epoch: int,
    callbacks: CallbackCaller,
    between_steps: Callable[[], None],
) -> None:
    reset_epoch_state(net, epoch)
    checked_at, number = time.monotonic(), 0
    # Ranks must apply an attribute change at the same step. Without batch hooks they return here at different times.
    follows = callbacks.has_batch_hooks or net.group.size == 1
    for repeated in steps:
        left, launches = repeated.times, None
        while left:
            if callbacks.has_batch_hooks:
                callbacks("on_train_batch_begin", number, {})
            if follows or launches is None:
                launches = repeated.step()
            steps_done = _run_steps(net, launches, 1 if callbacks.has_batch_hooks else left, epoch)
            left, number = left - steps_done, number + steps_done
            between_steps()
            now = time.monotonic()
            due = now - checked_at > POLL_SECONDS
            # ranks must raise at the same step, but their clocks differ
            if (callbacks.has_batch_hooks or due) and net.group.size == 1:
                raise_if_diverged(net, net.backend.to_host(net.state), display_epoch)
            if due:
                checked_at = now
                callbacks("on_progress", number, _epoch_logs(net))
            if callbacks.has_batch_hooks:
                callbacks("on_train_batch_end", number - 1, _epoch_logs(net))
            if left and net.state[StateEntry.NONFINITE_STEP]:
                break
    state = net.backend.to_host(net.state)
    raise_if_diverged(net, state, display_epoch)
    if not state[StateEntry.WEIGHT_SUM]:
        raise ValueError(
            f"sample_weight is zero in every row of epoch {display_epoch + 1}; at least one weight must be > 0"
        )


def _run_steps(net: Network, launches: list[Launch], steps: int, epoch: int) -> int:
    """Run up to `steps` steps. Return the number of steps done."""
    if steps == 1 or schedule_granularity(net) != "step" or not is_executable(launches):
        set_learning_rate(net, epoch)
        return run_steps(launches, steps, net.state, seconds=POLL_SECONDS)
    ahead = min(steps, MAX_PRECOMPUTED_RATES)
    rates, first = precompute_rates(net, ahead)
    return run_steps(launches, ahead, net.state, rates=rates, first=first, seconds=POLL_SECONDS)


def _epoch_logs(net: Network, row_buffer: RowBuffer | None = None) -> dict[str, float]:
    """Return loss and metrics of the epoch so far. Metrics that need all rows are included if the rows were stored."""
    state = net.backend.to_host(net.state)
    loss, weight = float(state[StateEntry.LOSS_SUM]), float(state[StateEntry.WEIGHT_SUM])
    return logs_of(net, loss, weight, net.backend.to_host(net.metric_sums), row_buffer)


def logs_of(
    net: Network, loss: float, weight: float, sums: np.ndarray, row_buffer: RowBuffer | None
) -> dict[str, float]:
    """Return loss and metrics from Σ loss · weight, Σ weight and metric sums over the batches of an epoch."""
    return {"loss": loss / weight if weight else float("nan")} | _values(net, sums, weight, row_buffer)


def _values(net: Network, sums: np.ndarray, weight: float, row_buffer: RowBuffer | None) -> dict[str, float]:
    """Return the value of each metric, from sums over rows with a total weight, or from the stored rows."""
    if not net.metrics:
        return {}
    found = {}
    for metric, part in net.metric_slices():
        if not metric.needs_all_rows:
            found[metric.name] = metric.value(sums[part], weight, net.n_out) if weight else float("nan")
        elif row_buffer is not None:
            arrays = (row_buffer.a, row_buffer.y, row_buffer.w)
            rows = (None if array is None else net.backend.to_host(array) for array in arrays)
            found[metric.name] = float(metric.compute_from_rows(*rows))
    return found


def evaluate(
    net: Network, data: Any, batch_size: int = EVALUATION_ROWS, group: ProcessGroup = SINGLE_PROCESS
) -> dict[str, float]:
    """Return the loss (with penalties) and metrics of a dataset, weighted means over its rows. Nothing is changed.

    With a group, each rank evaluates its shard, and all ranks get the result for all rows.
    """
    net.apply_attribute_changes()
    loss = weight = penalty = last = 0.0
    weighted = data.w is not None
    rows = data.n if data.total_rows is None else data.total_rows
    shard = BatchShard.of(rows, group)
    if data.metric_buffers is None or data.metric_buffers[0].shape[0] != max(1, net.n_metric_sums):
        data.metric_buffers = (
            net.backend.zeros((max(1, net.n_metric_sums),), np.float64),
            net.new_row_buffer(rows, weighted=weighted),
        )
    sums, row_buffer = data.metric_buffers
    sums.fill(0)
    collectives.zero_rows(row_buffer, group)
    local_rows, local_start = collectives.rows_from(row_buffer, data.offset), shard.offset - data.offset
    for block_start, piece in data.blocks(net.backend):
        block_rows = None if local_rows is None else local_rows.rows(block_start, block_start + piece.n)
        low, high = max(block_start, local_start), min(block_start + piece.n, local_start + shard.n)
        at = low - block_start
        for n, times in batches(max(0, high - low), batch_size).items():
            with net.plan(n, StepOptions(training=False, loss=True, weighted=weighted)) as plan:
                for entry, value in ((StateEntry.OFFSET, at), (StateEntry.LOSS_SUM, 0), (StateEntry.WEIGHT_SUM, 0)):
                    plan.state[entry] = value
                run_all(piece.compiled(plan, partial(evaluation_step, plan, sums, block_rows)), times, plan.state)
                at += n * times
                state = net.backend.to_host(plan.state)
                loss, weight = loss + float(state[StateEntry.LOSS_SUM]), weight + float(state[StateEntry.WEIGHT_SUM])
                penalty, last = float(state[StateEntry.PENALTY]), float(state[StateEntry.WEIGHT])
    (loss, weight), totals = collectives.reduce_metrics(net, group, (loss, weight), net.backend.to_host(sums))
    collectives.all_reduce_rows(row_buffer, group)
    penalty, last = group.allgather("the penalty of the dataset", (penalty, last))[0]
    logs = {"loss": loss / weight + net.loss_convention.mean_penalty(penalty, last, weight)}
    return logs | _values(net, totals, weight, row_buffer)


def evaluation_step(plan: Plan, sums: Array, row_buffer: RowBuffer | None) -> list[Launch]:
    """Return the launches of `evaluate` after a batch has been gathered."""
    counted = [*plan.accumulate_metrics(sums), *plan.store_rows(row_buffer), *plan.advance_offset("accumulate_loss")]
    return [*plan.normalize_weights, *plan.forward, *plan.loss, *counted]


def forward_backward(plan: Plan, data: DeviceDataset, offset: int) -> None:
    """Run forward pass, loss and, if the plan has one, backward pass for the rows from `offset`."""
    plan.state[StateEntry.OFFSET] = offset
    execute(data.compiled(plan, lambda: [*plan.normalize_weights, *plan.forward, *plan.loss, *plan.backward]))


def predict(net: Network, X: Array, batch_size: int, check: Callable[[], None]) -> Array:
    """Return aᴸ (n, n_out) for X, a new array on the device. `check` raises if X has an invalid number."""
    n = X.shape[0]
    result = net.backend.empty((n, net.n_out), net.dtype)
    checked, at = False, 0
    for rows, times in batches(n, batch_size).items():
        start, at = at, at + rows * times
        with net.plan(rows, PREDICTION) as plan:
            if not checked:
                # a finite maximum shows that these rows have no invalid number
                largest = plan.predict_in_place(X, result, start, at)
                if largest is not None and math.isfinite(largest):
                    continue
                check()
                checked = True
            plan.state[StateEntry.OFFSET] = start
            compile_launches, gather, store = net.backend.compile, plan.gather(X), plan.store_predictions(result)
            if times > 1:
                launches = compile_launches([*gather, *plan.forward, *store, *plan.advance_offset("advance_offset")])
                run_all(launches, times, plan.state)
                continue
            # independent of X, so that the next call can reuse it
            if plan.forward_step is None:
                plan.forward_step = compile_launches(plan.forward)
            execute([*compile_launches(gather), *plan.forward_step, *compile_launches(store)])
    return result
