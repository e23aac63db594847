"""Ending a fit that no longer gets better."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...validation import boolean, finite, nonnegative_integer
from .base import Callback, Logs
from .monitor import Monitor


class EarlyStopping(Callback):
    """End the fit when `monitor` has not got better for `patience` epochs, and take the best epoch's weights back.

    monitor               a name in the logs: "val_loss", "loss", "val_accuracy", …
    min_delta             how much better counts as better, ≥ 0
    patience              how many epochs in a row without getting better are endured
    mode                  "min", "max", or "auto": by the name (see `Monitor`)
    baseline              a value that `monitor` must be better than as well; until it is, patience runs on, and the
                          first epoch that is no better than the best ends the fit when it has run out
    restore_best_weights  whether the model has at the end the weights, and the running statistics of its
                          BatchNormalization layers, of the epoch in which `monitor` was best; False leaves the last
    start_from_epoch      how many epochs pass before it begins to look

    As in Keras, except that restore_best_weights is True unless it is turned off, and that only an epoch whose number
    is not NaN can be the best. The weights are taken back wherever a fit ends by itself; after an error or Ctrl-C they
    are those of the last whole step. `stopped_epoch` is the epoch that was the last, or None; `best_epoch` and `best`
    tell of the best. ValueError or TypeError for arguments that make no sense, and ValueError after the first epoch
    where `monitor` is not in its logs.
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        min_delta: float = 0.0,
        patience: int = 0,
        mode: str = "auto",
        baseline: float | None = None,
        restore_best_weights: bool = True,
        start_from_epoch: int = 0,
    ) -> None:
        self.monitor = Monitor(monitor, mode, min_delta)
        self.patience = nonnegative_integer("patience", patience)
        self.baseline = None if baseline is None else finite("baseline", baseline)
        self.restore_best_weights = boolean("restore_best_weights", restore_best_weights)
        self.start_from_epoch = nonnegative_integer("start_from_epoch", start_from_epoch)
        self._begin()

    def _begin(self) -> None:
        self.wait = 0
        self.best = self.monitor.initial
        self.best_epoch: int | None = None
        self.stopped_epoch: int | None = None
        self._best: dict[str, np.ndarray] = {}

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self._begin()

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        value = self.monitor.value(logs)
        if epoch < self.start_from_epoch:
            return
        self.wait += 1
        if self.monitor.improved(value, self.best):
            self.best, self.best_epoch = value, epoch
            if self.restore_best_weights:
                self._best = self._weights()
            if self.baseline is None or self.monitor.improved(value, self.baseline):
                self.wait = 0
        elif self.wait >= self.patience and epoch > 0:
            self.stopped_epoch = epoch
            self.model.stop_training = True

    def _weights(self) -> dict[str, np.ndarray]:
        net = self.model._net
        return {name: np.array(net.backend.to_host(getattr(net, name))) for name in ("theta", "running")}

    def on_train_complete(self, logs: Logs | None = None) -> None:
        net = self.model._net
        for name, array in self._best.items():
            getattr(net, name)[...] = net.backend.asarray(array)
        self._best = {}

    def get_state(self) -> dict[str, Any]:
        state = {name: getattr(self, name) for name in ("wait", "best", "best_epoch", "stopped_epoch")}
        return state | {f"best_{name}": array for name, array in self._best.items()}

    def set_state(self, state: dict[str, Any]) -> None:
        net = self.model._net
        best = {name: state[f"best_{name}"] for name in ("theta", "running") if f"best_{name}" in state}
        for name, array in best.items():
            if array.shape != getattr(net, name).shape or array.dtype != net.dtype:
                raise ValueError(f"best_{name} is {array.dtype} {array.shape}")
        self.wait, self.best = int(state["wait"]), float(state["best"])
        self.best_epoch, self.stopped_epoch = state["best_epoch"], state["stopped_epoch"]
        self._best = best
        if self.stopped_epoch is not None:
            self.model.stop_training = True
