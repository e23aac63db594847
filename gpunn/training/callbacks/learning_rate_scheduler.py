"""Set the learning rate of each epoch by a function."""

from __future__ import annotations

import inspect
from collections.abc import Callable

from ...validation import positive
from .base import Callback, Logs


class LearningRateScheduler(Callback):
    """Set the learning rate to `schedule(epoch, rate)` before each epoch.

    The rate overrides the optimizer's schedule and remains after the fit. `model.learning_rate = None` restores the
    optimizer's schedule. The logs and the history gain "learning_rate". As in Keras. For a rate that changes with every
    step, give the optimizer a schedule of `gpunn.schedules`.

    Parameters
    ----------
    schedule : callable
        Function (epoch, rate) → new rate, with the epoch counted from 0 in each fit and the current rate.

    Raises
    ------
    TypeError
        If `schedule` does not accept two arguments.
    ValueError
        Before an epoch for which `schedule` does not return a number > 0.
    """

    def __init__(self, schedule: Callable[[int, float], float]) -> None:
        if not callable(schedule):
            raise TypeError(f"schedule must be a function (epoch, rate) → rate, got {schedule!r}")
        if not _accepts_two_arguments(schedule):
            raise TypeError(f"schedule must accept two arguments, the epoch and the current rate, got {schedule!r}")
        self.schedule = schedule

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        rate = self.schedule(epoch, self.model.learning_rate)
        self.model.learning_rate = positive(f"the rate that schedule returns for epoch {epoch}", rate)

    def on_epoch_logs(self, epoch: int, logs: Logs) -> None:
        logs["learning_rate"] = self.model.learning_rate


def _accepts_two_arguments(function: Callable[[int, float], float]) -> bool:
    try:
        inspect.signature(function).bind(0, 0.1)
    except TypeError:
        return False
    except ValueError:
        # some functions written in C have no signature
        return True
    return True
