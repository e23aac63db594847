"""The base of all callbacks, with Keras's names."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

Logs = dict[str, float]


class Callback:
    """Override what is needed. `self.model` is the model being fitted, `self.params` holds epochs, steps and verbose.

    `logs` holds what is known at that moment: after an epoch its loss, metrics and their val_ forms; after a batch the
    running loss of the epoch. Setting `self.model.stop_training = True` ends the fit after the current epoch.

    An attribute that a hook sets on a layer, the optimizer, the loss or a metric takes effect at the next step: after a
    batch hook at the next batch, after an epoch hook in the next epoch. With `DataParallel` every rank must set the
    same attributes in the same epoch or batch hook.

    A fit that is resumed has the callbacks of the one before it, by their classes; `get_state` and `set_state` carry
    what they remember. One with `passive` may be there or not: it changes nothing of the run.
    """

    model: Any = None
    params: dict[str, Any]
    runs_last = False  # whether its hooks are called after those of the others, whose state it keeps, say
    passive = False  # whether the run is the same without it: it shows or writes, and decides nothing

    def get_state(self) -> dict[str, Any]:
        """What the callback must remember when a fit is resumed: numbers, text, lists and dicts as JSON has them, and
        NumPy arrays as entries of the dict itself. A callback without a memory has none."""
        return {}

    def set_state(self, state: dict[str, Any]) -> None:
        """The inverse of `get_state`, called after `on_train_begin` of a fit that is resumed."""

    def set_model(self, model: Any) -> None:
        """Called once before training."""
        self.model = model

    def set_params(self, params: dict[str, Any]) -> None:
        """Called once before training."""
        self.params = params

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Before the first epoch."""

    def on_train_end(self, logs: Logs | None = None) -> None:
        """After the last epoch, whose logs it gets, and after an error too."""

    def on_train_complete(self, logs: Logs | None = None) -> None:
        """Before `on_train_end`, where no error or Ctrl-C ended the fit. Keras does not have it."""

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Before an epoch, counted from 0."""

    def on_progress(self, steps: int, logs: Logs | None = None) -> None:
        """About ten times a second within an epoch, which `steps` steps were taken of; `logs` holds its running
        numbers. Unlike a batch hook it costs next to nothing. Keras does not have it."""

    def on_epoch_logs(self, epoch: int, logs: Logs) -> None:
        """After an epoch and its validation, before anyone looks: numbers may be added to `logs`, and go into the
        history as well, which has NaN for epochs without them. Keras does not have it."""

    def on_divergence(self, error: ArithmeticError) -> None:
        """At a step that is not finite, its update not written. The fit raises `error`, unless this hook sets
        `self.model.stop_training = True`: then it ends there as if it had been stopped. Keras does not have it."""

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """After an epoch and its validation."""

    def on_epoch_complete(self, epoch: int, logs: Logs | None = None) -> None:
        """After every callback's `on_epoch_end`: the run is whole, and `self.model.save_checkpoint(path)` writes it.
        Keras does not have it."""

    def on_train_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Before a step, counted from 0 in each epoch."""

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """After a step; overriding this makes the loop return to Python after every step."""


class CallbackList:
    """Several callbacks called as one, in order."""

    def __init__(self, callbacks: Iterable[Callback], model: Any, params: dict[str, Any]) -> None:
        self.callbacks = list(callbacks)
        for callback in self.callbacks:
            if not isinstance(callback, Callback):
                raise TypeError(f"callbacks must be gpunn.Callback objects, got {callback!r}")
        self.callbacks.sort(key=lambda callback: callback.runs_last)
        for callback in self.callbacks:
            callback.set_model(model)
            callback.set_params(params)
        # a hook that nobody overrides is not called once a batch
        self.has_batch_hooks = any(
            getattr(getattr(c, hook), "__func__", None) is not getattr(Callback, hook)
            for c in self.callbacks
            for hook in ("on_train_batch_begin", "on_train_batch_end")
        )

    def __call__(self, hook: str, *arguments: Any) -> None:
        """Call one hook on every callback."""
        for callback in self.callbacks:
            getattr(callback, hook)(*arguments)
