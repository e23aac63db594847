"""Reduce the learning rate if the fit no longer improves."""

from __future__ import annotations

from ...validation import nonnegative, nonnegative_integer, open_unit_interval
from .base import Callback, Logs, saved_number
from .monitor import Monitor


class ReduceLROnPlateau(Callback):
    """Multiply the learning rate by `factor` if `monitor` has not improved for `patience` epochs.

    The new rate takes effect in the next epoch, overrides the optimizer's schedule and remains after the fit.
    `model.learning_rate = None` restores the optimizer's schedule. The logs and the history gain "learning_rate", the
    rate of that epoch. As in Keras; NaN never counts as an improvement.

    Parameters
    ----------
    monitor : str, default "val_loss"
        A name in the logs: "val_loss", "loss", "val_accuracy", …
    factor : float, default 0.1
        Factor in (0, 1).
    patience : int, default 10
        Number of consecutive epochs without improvement before a reduction.
    mode : {"auto", "min", "max"}, default "auto"
        Direction of improvement. "auto" infers it from the name, see `Monitor`.
    min_delta : float, default 1e-4
        Smallest change that counts as an improvement, ≥ 0.
    cooldown : int, default 0
        Number of epochs after a reduction before counting resumes.
    min_lr : float, default 0.0
        Lower bound of the learning rate, ≥ 0.

    Raises
    ------
    TypeError, ValueError
        If an argument is invalid. ValueError after the first epoch if `monitor` is not in its logs.
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        factor: float = 0.1,
        patience: int = 10,
        mode: str = "auto",
        min_delta: float = 1e-4,
        cooldown: int = 0,
        min_lr: float = 0.0,
    ) -> None:
        self.monitor = Monitor(monitor, mode, min_delta)
        self.factor = open_unit_interval("factor", factor)
        self.patience = nonnegative_integer("patience", patience)
        self.cooldown = nonnegative_integer("cooldown", cooldown)
        self.min_lr = nonnegative("min_lr", min_lr)
        self._reset()

    def _reset(self) -> None:
        self.best = self.monitor.initial
        self.wait = 0
        self.cooldown_left = 0

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self._reset()

    def on_epoch_logs(self, epoch: int, logs: Logs) -> None:
        logs["learning_rate"] = self.model.learning_rate

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        value = self.monitor.value(logs)
        if self.cooldown_left > 0:
            self.cooldown_left -= 1
            self.wait = 0
        if self.monitor.improved(value, self.best):
            self.best = value
            self.wait = 0
        elif self.cooldown_left == 0:
            self.wait += 1
            if self.wait >= self.patience:
                self._reduce()

    def _reduce(self) -> None:
        old = self.model.learning_rate
        new = max(self.factor * old, self.min_lr)
        # a product that underflows to 0 is not a learning rate
        if 0 < new < old:
            self.model.learning_rate = new
            self.cooldown_left = self.cooldown
            self.wait = 0

    def get_state(self) -> dict[str, object]:
        return {"best": self.best, "wait": self.wait, "cooldown_left": self.cooldown_left}

    def set_state(self, state: dict[str, object]) -> None:
        self.best = saved_number(state, "best")
        self.wait = int(saved_number(state, "wait"))
        self.cooldown_left = int(saved_number(state, "cooldown_left"))
