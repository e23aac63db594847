"""A learning rate that is lowered where the fit no longer gets better."""

from __future__ import annotations

from typing import Any

from ...validation import nonnegative, nonnegative_integer, open_unit_interval
from .base import Callback, Logs
from .monitor import Monitor


class ReduceLROnPlateau(Callback):
    """Multiply the learning rate by `factor` when `monitor` has not got better for `patience` epochs.

    monitor    a name in the logs: "val_loss", "loss", "val_accuracy", …
    factor     between 0 and 1
    patience   after how many epochs in a row without getting better
    mode       "min", "max", or "auto": by the name (see `Monitor`)
    min_delta  how much better counts as better, ≥ 0
    cooldown   how many epochs pass after a reduction before it begins to count again
    min_lr     the rate is not lowered further, ≥ 0

    The new rate holds from the next epoch on, whatever schedule the optimiser has, and stays after the fit:
    `model.learning_rate = None` goes back to the optimiser's. The epoch's logs and the history gain "learning_rate",
    the rate of that epoch. As in Keras; of a value that is not a number it is said that it is not better. ValueError
    or TypeError for arguments that make no sense, and ValueError after the first epoch where `monitor` is not in its
    logs.
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
        self._begin()

    def _begin(self) -> None:
        self.best = self.monitor.initial
        self.wait = 0
        self.cooldown_left = 0

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self._begin()

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
        # a rate that has underflowed would be none
        if 0 < new < old:
            self.model.learning_rate = new
            self.cooldown_left = self.cooldown
            self.wait = 0

    def get_state(self) -> dict[str, Any]:
        return {"best": self.best, "wait": self.wait, "cooldown_left": self.cooldown_left}

    def set_state(self, state: dict[str, Any]) -> None:
        self.best, self.wait, self.cooldown_left = float(state["best"]), int(state["wait"]), int(state["cooldown_left"])
