"""Stop a fit that no longer improves."""

from __future__ import annotations

import numpy as np

from ...program import HostArray
from ...validation import boolean, finite, nonnegative_integer
from .base import Callback, Logs, saved_epoch, saved_number
from .monitor import Monitor


class EarlyStopping(Callback):
    """Stop the fit if `monitor` has not improved for `patience` epochs, and restore the weights of the best epoch.

    As in Keras, with two exceptions: `restore_best_weights` is True by default, and NaN never counts as an improvement.
    Weights are restored whenever the fit ends normally. After an error or Ctrl-C they are those after the last complete
    step.

    Parameters
    ----------
    monitor : str, default "val_loss"
        A name in the logs: "val_loss", "loss", "val_accuracy", …
    min_delta : float, default 0.0
        Smallest change that counts as an improvement, ≥ 0.
    patience : int, default 0
        Number of consecutive epochs without improvement that are tolerated.
    mode : {"auto", "min", "max"}, default "auto"
        Direction of improvement. "auto" infers it from the name, see `Monitor`.
    baseline : float, optional
        Value that `monitor` must also improve on. Until it does, the patience counter continues, and once it has
        reached `patience` the first epoch that does not improve on the best ends the fit.
    restore_best_weights : bool, default True
        Restore the weights and the running statistics of BatchNormalization from the best epoch at the end. False
        leaves those of the last epoch.
    start_from_epoch : int, default 0
        Number of epochs to ignore at the beginning.

    Attributes
    ----------
    best : float
        The best value of `monitor`.
    best_epoch : int or None
        The epoch of `best`, counted from 0.
    stopped_epoch : int or None
        The last epoch, if this callback stopped the fit.
    wait : int
        Number of epochs since the last improvement.

    Raises
    ------
    TypeError, ValueError
        If an argument is invalid. ValueError after the first epoch if `monitor` is not in its logs.
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
        self._reset()

    def _reset(self) -> None:
        self.wait = 0
        self.best = self.monitor.initial
        self.best_epoch: int | None = None
        self.stopped_epoch: int | None = None
        self._best: dict[str, HostArray] = {}

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self._reset()

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        value = self.monitor.value(logs)
        if epoch < self.start_from_epoch:
            return
        self.wait += 1
        if self.monitor.improved(value, self.best):
            self.best = value
            self.best_epoch = epoch
            if self.restore_best_weights:
                self._best = self._weights()
            if self.baseline is None or self.monitor.improved(value, self.baseline):
                self.wait = 0
        elif self.wait >= self.patience and epoch > 0:
            self.stopped_epoch = epoch
            self.model.stop_training = True

    def _weights(self) -> dict[str, HostArray]:
        net = self.model._net
        return {name: np.array(net.backend.to_host(getattr(net, name))) for name in ("theta", "running")}

    def on_train_complete(self, logs: Logs | None = None) -> None:
        net = self.model._net
        for name, array in self._best.items():
            getattr(net, name)[...] = net.backend.asarray(array)
        self._best = {}

    def get_state(self) -> dict[str, object]:
        state = {name: getattr(self, name) for name in ("wait", "best", "best_epoch", "stopped_epoch")}
        return state | {f"best_{name}": array for name, array in self._best.items()}

    def set_state(self, state: dict[str, object]) -> None:
        net = self.model._net
        best: dict[str, HostArray] = {}
        for name in ("theta", "running"):
            if f"best_{name}" not in state:
                continue
            array = state[f"best_{name}"]
            if not isinstance(array, np.ndarray):
                raise TypeError(f"best_{name} must be an array, got {type(array).__name__}")
            if array.shape != getattr(net, name).shape or array.dtype != net.dtype:
                raise ValueError(f"best_{name} is {array.dtype} {array.shape}")
            best[name] = array
        self.wait = int(saved_number(state, "wait"))
        self.best = saved_number(state, "best")
        self.best_epoch = saved_epoch(state, "best_epoch")
        self.stopped_epoch = saved_epoch(state, "stopped_epoch")
        self._best = best
        if self.stopped_epoch is not None:
            self.model.stop_training = True
