"""The loop over epochs and batches. It runs recorded launches and looks at the state array; it computes nothing."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ..kernels import Launch
from ..kernels.state import Slot
from ..network import Network, Plan, evaluate
from ..recording import Array, run
from .history import History

EVALUATION_ROWS = 1024
LOOK_AFTER = 0.1  # seconds between two looks at the flag


class DivergenceError(ArithmeticError):
    """A loss, a gradient or an update was not finite. The weights are those before that step."""


class Hooks(Protocol):
    """What calls the callbacks."""

    watch_batches: bool

    def __call__(self, hook: str, *arguments: Any) -> None:
        """Call one hook."""


@dataclass
class Data:
    """A set on the device: X (n, d), y for the loss, and weights (n,) or None."""

    X: Array
    y: Array
    w: Array | None = None

    @property
    def n(self) -> int:
        return int(self.X.shape[0])


CAUSES = {
    1: "the loss is not finite",
    2: "a gradient is not finite",
    3: "an update would overflow",
}


def diverged(net: Network, state: np.ndarray, epoch: int | None, step: int | None) -> DivergenceError:
    """The error for a raised flag, which is lowered, so that training can go on with other settings."""
    cause, lr = int(state[Slot.CAUSE]), state[Slot.BAD_LR]
    where = "" if epoch is None else f" in epoch {epoch + 1}, step {step}"
    net.state[Slot.BAD] = 0
    net.state[Slot.CAUSE] = 0
    return DivergenceError(
        f"training diverged{where} (update {int(state[Slot.BAD]) - 1}, learning rate {lr:.3g}): {CAUSES[cause]}. "
        f"{_advice(int(state[Slot.BAD]) - 1)} The weights are those before that step."
    )


def _advice(update: int) -> str:
    if update == 0:
        return (
            "No update was taken yet, so the likely cause lies in the first outputs: inputs or targets that are not "
            "scaled, or outputs that the loss is not defined for (a ≤ 0 for poisson, say)."
        )
    return (
        "The likely cause is a learning rate that is too large, or inputs that are not scaled: try a tenth of the "
        "rate, clipnorm=1.0, or standardised inputs."
    )


def fit(
    net: Network,
    data: Data,
    validation: Data | None,
    *,
    batch_size: int,
    epochs: int,
    order_of: Callable[[int], np.ndarray] | None,
    callbacks: Hooks,
    model: Any,
    history: History,
    first_epoch: int = 0,
    done: int = 0,
    rows: np.ndarray | None = None,
) -> History:
    """Train until `epochs` epochs are done, `done` of them already; the last, shorter batch is a plan of its own.

    `order_of(epoch)` is the order (n,) of the rows in that epoch, counted from `first_epoch`; None leaves them as they
    stand. Of a fit that is resumed `history` holds the epochs done; a callback that is restored in `on_train_begin` may
    find that it had stopped already. `rows` are those that train, all unless given. `history` gains an entry an epoch.
    """
    model.stop_training = False
    order = net.backend.asarray(np.arange(data.n) if rows is None else np.array(rows))
    n = int(order.shape[0])
    batch = min(batch_size, n)
    sizes = [batch] * (n // batch) + ([n % batch] if n % batch else [])
    callbacks("on_train_begin", {})
    logs = {name: values[-1] for name, values in history.history.items()}
    try:
        with ExitStack() as plans, whole_steps() as between_steps:
            steps = plans.enter_context(_steps(net, data, order, set(sizes)))
            for k in range(done, done if done and model.stop_training else epochs):
                epoch = first_epoch + k
                callbacks("on_epoch_begin", k, {})
                if net.follow_layers():
                    # a callback froze a layer, say: the steps are recorded anew
                    steps = plans.enter_context(_steps(net, data, order, set(sizes)))
                if order_of is not None:
                    order[...] = net.backend.asarray(order_of(epoch))
                _epoch(net, steps, sizes, epoch, k, callbacks, between_steps)
                logs = _epoch_logs(net)
                if validation is not None:
                    logs |= {f"val_{name}": value for name, value in score(net, validation).items()}
                history.add(k, logs)
                callbacks("on_epoch_end", k, logs)
                callbacks("on_epoch_complete", k, logs)
                if model.stop_training:
                    break
        callbacks("on_train_complete", logs)
    finally:
        callbacks("on_train_end", logs)
    return history


@contextmanager
def _steps(net: Network, data: Data, order: Array, sizes: set[int]) -> Iterator[dict[int, list[Launch]]]:
    """The whole step of each batch size as one list of launches, its data's gather first."""
    with ExitStack() as stack:
        steps = {}
        for n in sizes:
            plan = stack.enter_context(training_plan(net, n, weighted=data.w is not None))
            steps[n] = whole_step(plan, plan.source(data.X, data.y, data.w, order))
        yield steps


def training_plan(net: Network, n: int, *, weighted: bool) -> Any:
    """A plan that takes steps on n rows."""
    return net.plan(n, training=True, loss=True, backward=True, update=True, weighted=weighted)


def whole_step(plan: Plan, source: list[Launch]) -> list[Launch]:
    """The six steps of the procedure as one list."""
    return [*source, *plan.prepare, *plan.forward, *plan.loss, *plan.backward, *plan.update]


def rate(net: Network, epoch: int) -> float:
    """η of the coming step: what it is held at, else what the schedule gives."""
    if net.held_rate is not None:
        return net.held_rate
    schedule = net.optimizer.schedule
    if schedule.per == "epoch":
        return float(schedule(epoch))
    return float(schedule(int(net.state[Slot.STEP]) if net.is_built else 0))


def set_learning_rate(net: Network, epoch: int) -> None:
    """η of the coming step into the state array."""
    net.state[Slot.LR] = rate(net, epoch)


@contextmanager
def whole_steps() -> Iterator[Callable[[], None]]:
    """Let Ctrl-C wait for the end of a step: the function that this gives, called between steps, raises what came.

    A second Ctrl-C is raised at once. Where another handler is installed, or in another thread, nothing changes.
    """
    came: list[int] = []

    def handle(number: int, frame: Any) -> None:
        if came:
            raise KeyboardInterrupt
        came.append(number)

    def between_steps() -> None:
        if came:
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


def _epoch(
    net: Network,
    steps: dict[int, list[Launch]],
    sizes: list[int],
    epoch: int,
    shown: int,
    callbacks: Hooks,
    between_steps: Callable[[], None],
) -> None:
    state = net.state
    for slot in (Slot.OFFSET, Slot.BATCH, Slot.LOSS_SUM, Slot.WEIGHT_SUM):
        state[slot] = 0
    net.score_sums.fill(0)
    set_learning_rate(net, epoch)
    # a batch hook may set the learning rate
    fixed = not callbacks.watch_batches and (net.optimizer.schedule.is_constant or net.held_rate is not None)
    looked = time.monotonic()
    for number, n in enumerate(sizes):
        if callbacks.watch_batches:
            callbacks("on_train_batch_begin", number, {})
        if not fixed:
            set_learning_rate(net, epoch)
        run(steps[n])
        between_steps()
        now = time.monotonic()
        if callbacks.watch_batches or now - looked > LOOK_AFTER:
            looked = now
            _look(net, shown)
        if callbacks.watch_batches:
            callbacks("on_train_batch_end", number, _epoch_logs(net))
    _look(net, shown)


def _look(net: Network, epoch: int) -> None:
    """Raise DivergenceError where the flag stands; the step at which it was raised is in the state."""
    state = net.backend.to_host(net.state)
    if state[Slot.BAD]:
        raise diverged(net, np.array(state), epoch, int(state[Slot.BAD_BATCH]) + 1)


def _epoch_logs(net: Network) -> dict[str, float]:
    state = net.backend.to_host(net.state)
    weight = float(state[Slot.WEIGHT_SUM])
    logs = {"loss": float(state[Slot.LOSS_SUM]) / weight if weight else float("nan")}
    sums = net.backend.to_host(net.score_sums)
    for metric, total in zip(net.metrics, sums, strict=False):
        logs[metric.name] = metric.finish(float(total) / weight) if weight else float("nan")
    return logs


def score(net: Network, data: Data, batch_size: int = EVALUATION_ROWS) -> dict[str, float]:
    """Loss (with penalties) and metrics over a set, nothing moved: the weighted means over its rows."""
    loss = weight = penalty = last = 0.0
    sums = np.zeros(len(net.metrics))
    full = min(batch_size, data.n)
    for start, stop, n in _stretches(data.n, full):
        with net.plan(n, training=False, loss=True, weighted=data.w is not None) as plan:
            source = plan.source(data.X, data.y, data.w)
            for offset in range(start, stop, n):
                evaluate(plan, source, offset)
                state = net.backend.to_host(plan.state)
                here = float(state[Slot.WEIGHT])
                loss += float(state[Slot.LOSS]) * here
                weight += here
                penalty, last = float(state[Slot.PENALTY]), here
                sums += net.backend.to_host(plan.scores)[: len(sums)] * here
    logs = {"loss": loss / weight + net.accounting.over(penalty, last, weight)}
    return logs | {m.name: m.finish(float(s) / weight) for m, s in zip(net.metrics, sums, strict=True)}


def predict(net: Network, X: Array, batch_size: int) -> Array:
    """aᴸ (n, n_out) for the rows of X, a new array on the device."""
    n = X.shape[0]
    result = net.backend.empty((n, net.n_out), net.dtype)
    for start, stop, rows in _stretches(n, min(batch_size, n)):
        with net.plan(rows, training=False) as plan:
            source = plan.source(X)
            for offset in range(start, stop, rows):
                plan.state[Slot.OFFSET] = offset
                run(source)
                run(plan.forward)
                result[offset : offset + rows] = plan.output
    return result


def _stretches(n: int, full: int) -> list[tuple[int, int, int]]:
    """(first row, last row + 1, rows a batch) of the whole batches, and of the shorter last one."""
    whole = n // full * full
    found = [(0, whole, full)] if whole else []
    return found + ([(whole, n, n - whole)] if whole < n else [])
