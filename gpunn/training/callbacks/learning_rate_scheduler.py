"""A learning rate that a function gives, epoch by epoch."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from ...validation import positive
from .base import Callback, Logs


class LearningRateScheduler(Callback):
    """Set the learning rate before each epoch to what `schedule(epoch, rate)` returns.

    schedule  a function of the epoch, counted from 0 in each fit, and of the rate until then; it returns the new rate

    The rate holds, whatever schedule the optimiser has, and stays after the fit: `model.learning_rate = None` goes back
    to the optimiser's. The epoch's logs and the history gain "learning_rate". As in Keras; a rate that changes from
    step to step is an optimiser's (`gpunn.schedules`). TypeError where `schedule` takes no two arguments; ValueError
    before the epoch where it returns no number > 0.
    """

    def __init__(self, schedule: Callable[[int, float], float]) -> None:
        if not callable(schedule):
            raise TypeError(f"schedule must be a function (epoch, rate) → rate, got {schedule!r}")
        if not _takes_two(schedule):
            raise TypeError(f"schedule must take two arguments, the epoch and the rate until then, got {schedule!r}")
        self.schedule = schedule

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        rate: Any = self.schedule(epoch, self.model.learning_rate)
        self.model.learning_rate = positive(f"what schedule returns for epoch {epoch}", rate)

    def on_epoch_logs(self, epoch: int, logs: Logs) -> None:
        logs["learning_rate"] = self.model.learning_rate


def _takes_two(function: Callable[..., Any]) -> bool:
    try:
        inspect.signature(function).bind(0, 0.1)
    except TypeError:
        return False
    except ValueError:
        # some functions of C do not tell
        return True
    return True
