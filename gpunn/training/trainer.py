"""The trainer: the loop over epochs and steps of every fit."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from typing import Protocol

import numpy as np

from ..backend.executor import POLL_SECONDS
from ..kernels.state import StateEntry
from ..network import Executable
from . import collectives
from .callbacks.base import CallbackModel
from .datasets import Dataset, DeviceDataset, Part
from .divergence import DivergenceError, raise_if_diverged
from .evaluation import BorrowedExecutables, evaluate, logs_of
from .history import History
from .interrupts import Cancelled, Interrupts
from .learning_rates import granularity, learning_rate, rates_ahead
from .resume import LoadedCheckpoint, Saved, TrainingRun
from .trainer_state import TrainerState

OBSERVATION_SECONDS = 0.1  # of several epochs, during which another thread cannot stop the fit
EPOCH_ENTRIES = (
    StateEntry.OFFSET,
    StateEntry.BATCH_INDEX,
    StateEntry.LOSS_SUM,
    StateEntry.WEIGHT_SUM,
    StateEntry.EPOCHS_DONE,
)


class Model(CallbackModel, Saved, Protocol):
    """The attributes of a `Sequential` that a fit reads and sets."""

    _epochs: int
    _threads: int | None
    _run: TrainingRun | None

    def _exclusive(self, name: str, /) -> AbstractContextManager[None]: ...


class Trainer:
    """Runs one fit.

    Steps run without Python up to the next point of observation: every step if a callback has batch hooks, otherwise
    100 ms, the end of an epoch, or several epochs if nothing needs each of them.

    model       the model, whose network is built and prepared for training
    dataset     the training data
    validation  a data set that is evaluated after each epoch, or None
    record      the callbacks, the history, the number of epochs done, and checkpoints
    epochs      the number of epochs
    saved       the checkpoint from which the fit continues, or None
    """

    def __init__(
        self,
        model: Model,
        dataset: Dataset,
        validation: DeviceDataset | None,
        record: TrainingRun,
        *,
        epochs: int,
        saved: LoadedCheckpoint | None = None,
    ) -> None:
        self.model = model
        self.net = model._net
        self.dataset = dataset
        self.validation = validation
        self.hooks = record.hooks
        self.record = record
        self.epochs = epochs
        self.saved = saved
        self.logs: dict[str, float] = {}
        self._interrupts = Interrupts()
        self._executables = BorrowedExecutables(self.net)
        self._epoch_seconds = 0.0
        self._observed_at = 0.0
        self._step = 0  # the number of steps since the last call of on_epoch_begin

    def run(self) -> History:
        """Train until all epochs are done, a callback stops the fit, or a step is not finite."""
        record, model = self.record, self.model
        self._begin()
        try:
            with self._interrupts, self._executables:
                # a restored callback may already have stopped the fit
                while record.epochs_done < self.epochs and not (record.epochs_done and model.stop_training):
                    try:
                        self._run_epochs(self._epochs_until_observation())
                    except DivergenceError as error:
                        self._diverged(error)
                        break
            self.hooks("on_train_complete", self.logs)
        finally:
            self.hooks("on_train_end", self.logs)
        return record.history

    # --- the beginning ---

    def _begin(self) -> None:
        self.model.stop_training = False
        if self.saved is None:
            self.hooks("on_train_begin", {})
        else:
            self._resume(self.saved)
        collectives.check_in_sync(self.net, self.model, "before the first epoch")
        self.logs = {name: values[-1] for name, values in self.record.history.history.items()}

    def _resume(self, saved: LoadedCheckpoint) -> None:
        before = self.record.capture()
        try:
            self._restore(saved.state)
            self.hooks("on_train_begin", {})
            # again, since the saved state already contains the effects of on_train_begin
            self._restore(saved.state)
            saved.restore_callbacks()
        except BaseException:
            self._restore(before)
            raise

    def _restore(self, state: TrainerState) -> None:
        self.record.restore(state)
        self.model._epochs = state.first_epoch + state.epochs_done

    def _diverged(self, error: DivergenceError) -> None:
        """Raise the error of a non-finite step, unless a callback ends the fit."""
        self.model.stop_training = False
        self.hooks("on_divergence", error)
        if not self.model.stop_training:
            raise error

    # --- epochs ---

    def _epochs_until_observation(self) -> int:
        """The number of epochs that run before Python must see the results of each of them."""
        self.net.apply_attribute_changes()
        if self.validation is not None or granularity(self.net) == "epoch":
            return 1
        # not longer, so that another thread can stop the fit
        in_time = OBSERVATION_SECONDS / self._epoch_seconds if self._epoch_seconds else 1.0
        count = min(self.dataset.max_epochs, self.epochs - self.record.epochs_done, self.hooks.undecided_epochs())
        return int(max(1.0, min(count, in_time)))

    def _run_epochs(self, count: int) -> None:
        """Run epochs, and observe them."""
        first = self.record.epochs_done
        for k in range(count):
            self.hooks("on_epoch_begin", first + k, {})
        self._observed_at = begin = time.monotonic()
        self._step = 0
        collectives.zero_rows(self.dataset.row_buffer, self.net.group)
        self._apply_attribute_changes()
        self._reset_epoch_state()
        try:
            complete = all(map(self._run_part, self.dataset.parts(self.record.first_epoch + first, count)))
        except (KeyboardInterrupt, Cancelled):
            if count > 1:
                self._end_epochs(complete=False)
            raise
        self._end_epochs(complete=complete)
        self._epoch_seconds = (time.monotonic() - begin) / count
        raise_if_diverged(self.net, self.net.backend.to_host(self.net.state), self.record.epochs_done)

    def _reset_epoch_state(self) -> None:
        """Reset the state array for the first step of an epoch."""
        for entry in EPOCH_ENTRIES:
            self.net.state[entry] = 0
        self.net.metric_sums.fill(0)

    def _end_epochs(self, *, complete: bool) -> None:
        """Observe the epochs that have ended: those in the log, or the one whose parts are complete."""
        host, log = self.net.backend.to_host, self.dataset.epoch_log
        state = host(self.net.state)
        if log is not None:
            found = [tuple(row) for row in host(log)[: int(state[StateEntry.EPOCHS_DONE])]]
        else:
            found = [self._sums()] if complete and not state[StateEntry.NONFINITE_STEP] else []
        self._reset_epoch_state()
        for sums in found:
            self._end_epoch(*sums)

    def _end_epoch(self, loss: float, weight: float, *sums: float) -> None:
        """Validate, run the hooks at the end of an epoch, and add its logs to the history."""
        net, k = self.net, self.record.epochs_done
        if not weight:
            raise ValueError(f"sample_weight is zero in every row of epoch {k + 1}; at least one weight must be > 0")
        collectives.average_running_stats(net)
        collectives.all_reduce_rows(self.dataset.row_buffer, net.group)
        logs = logs_of(net, float(loss), float(weight), np.array(sums), self.dataset.row_buffer)
        if self.validation is not None:
            found = evaluate(net, self.validation, self._executables, group=net.group)
            logs |= {f"val_{name}": value for name, value in found.items()}
        self.hooks("on_epoch_logs", k, logs)
        self.record.history.add(k, logs)
        self.record.epochs_done = k + 1
        self.model._epochs = self.record.first_epoch + k + 1
        self.hooks("on_epoch_end", k, logs)
        with self.record.at_epoch_boundary():
            self.hooks("on_epoch_complete", k, logs)
        self.logs = logs
        collectives.check_in_sync(net, self.model, f"after epoch {k + 1}")

    # --- steps ---

    def _apply_attribute_changes(self) -> None:
        """Apply the attributes that hooks have set."""
        self.net.apply_attribute_changes()
        self.dataset.fit_log_to_metrics()

    def _run_part(self, part: Part) -> bool:
        """Run the steps of a part. Return False after a step that is not finite."""
        net, hooks = self.net, self.hooks
        executable, left = None, part.steps
        # ranks must apply an attribute change at the same step, but without batch hooks they return at different times
        follows = hooks.has_batch_hooks or net.group.size == 1
        while left:
            if hooks.has_batch_hooks:
                hooks("on_train_batch_begin", self._step, {})
            if follows or executable is None:
                self._apply_attribute_changes()
                current = self._executables.get(part.spec, part.arrays)
                if current is not executable:
                    current.set_times(part.times, (part.steps - left) % sum(part.times))
                executable = current
            if part.batch is not None:
                executable.load(*part.batch)
            ran = self._run_steps(executable, 1 if hooks.has_batch_hooks else left)
            left, self._step = left - ran, self._step + ran
            self._interrupts.check()
            if not self._observe(last=left == 0):
                return False
        return True

    def _run_steps(self, executable: Executable, steps: int) -> int:
        """Run up to `steps` steps. Return the number of steps done."""
        if steps > 1 and granularity(self.net) == "step":
            rates = rates_ahead(self.net, steps)
            return executable.run(len(rates), deadline=POLL_SECONDS, learning_rates=rates)
        self.net.state[StateEntry.LR] = learning_rate(self.net, self.model._epochs)
        return executable.run(steps, deadline=POLL_SECONDS)

    def _observe(self, *, last: bool) -> bool:
        """Run the hooks that are due after a step. Return False if a step was not finite."""
        net, hooks = self.net, self.hooks
        now = time.monotonic()
        due = now - self._observed_at > POLL_SECONDS
        if (hooks.has_batch_hooks or due or not last) and net.state[StateEntry.NONFINITE_STEP]:
            return False
        if due:
            self._observed_at = now
            hooks("on_progress", self._step, self._running_logs())
        if hooks.has_batch_hooks:
            hooks("on_train_batch_end", self._step - 1, self._running_logs())
        return True

    def _sums(self) -> tuple[float, ...]:
        """Σ loss · weight, Σ weight and the metrics' sums of the epoch so far."""
        host, log = self.net.backend.to_host, self.dataset.epoch_log
        state = host(self.net.state)
        ended = int(state[StateEntry.EPOCHS_DONE])
        if log is not None and ended and not state[StateEntry.BATCH_INDEX]:
            return tuple(host(log)[ended - 1])  # the last step has ended the epoch
        return (state[StateEntry.LOSS_SUM], state[StateEntry.WEIGHT_SUM], *host(self.net.metric_sums))

    def _running_logs(self) -> dict[str, float]:
        """Loss and metrics of the epoch so far."""
        loss, weight, *sums = self._sums()
        return logs_of(self.net, float(loss), float(weight), np.array(sums), None)
