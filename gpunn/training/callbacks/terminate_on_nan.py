"""Ending a fit quietly where numbers are no longer finite."""

from __future__ import annotations

import logging
import math
from typing import Any

from .base import Callback, Logs

_log = logging.getLogger("gpunn")


class TerminateOnNaN(Callback):
    """End the fit at the first step whose loss, gradient or update is not finite, instead of a DivergenceError.

    The weights are those before that step, and its epoch is not in the history. The fit also ends after an epoch whose
    loss on the validation set is not finite. Why is said by `logging`, logger "gpunn", level WARNING;
    `terminated_epoch` is the epoch, or None.
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

    def _end(self, epoch: int, why: str) -> None:
        self.terminated_epoch = epoch
        self.model.stop_training = True
        _log.warning("%s The fit ends here.", why)

    def get_state(self) -> dict[str, Any]:
        return {"terminated_epoch": self.terminated_epoch}

    def set_state(self, state: dict[str, Any]) -> None:
        self.terminated_epoch = state["terminated_epoch"]
        if self.terminated_epoch is not None:
            self.model.stop_training = True
