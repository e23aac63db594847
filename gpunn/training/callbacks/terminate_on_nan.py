"""End a fit without an error at the first non-finite step."""

from __future__ import annotations

import logging
import math

from .base import Callback, Logs, saved_epoch

_log = logging.getLogger("gpunn")


class TerminateOnNaN(Callback):
    """End the fit at the first step with a non-finite loss, gradient or update, instead of a DivergenceError.

    The weights are those before that step, and the history does not contain its epoch. The fit also ends after an epoch
    with a non-finite validation loss. The reason is logged by `logging`: logger "gpunn", level WARNING.

    Attributes
    ----------
    terminated_epoch : int or None
        The epoch in which the fit ended, counted from 0.
    """

    terminated_epoch: int | None = None

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self.terminated_epoch = None

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self._epoch = epoch

    def on_divergence(self, error: ArithmeticError) -> None:
        self._end(self._epoch, str(error))

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        for name in ("loss", "val_loss"):
            value = (logs or {}).get(name, 0.0)
            if not math.isfinite(value):
                self._end(epoch, f"{name} is {value} after epoch {epoch + 1}.")

    def _end(self, epoch: int, reason: str) -> None:
        self.terminated_epoch = epoch
        self.model.stop_training = True
        _log.warning("%s The fit ends.", reason)

    def get_state(self) -> dict[str, object]:
        return {"terminated_epoch": self.terminated_epoch}

    def set_state(self, state: dict[str, object]) -> None:
        self.terminated_epoch = saved_epoch(state, "terminated_epoch")
        if self.terminated_epoch is not None:
            self.model.stop_training = True
