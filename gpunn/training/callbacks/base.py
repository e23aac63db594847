"""Base class of all callbacks. Hook names follow Keras."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, TypedDict, cast

from ...layers import Layer
from ...network import Network
from ...optimizers import Optimizer
from ...program import Array
from ...registry import KeywordChecked

Logs = dict[str, float]


class Params(TypedDict):
    """The numbers of a fit."""

    epochs: int
    steps: int | None
    verbose: int


class CallbackModel(Protocol):
    """The network being fitted, as callbacks use it: a `Sequential`."""

    stop_training: bool
    learning_rate: float
    _net: Network

    @property
    def layers(self) -> list[Layer]: ...

    @property
    def optimizer(self) -> Optimizer: ...

    def get_weights(self) -> list[Array]: ...

    def set_weights(self, weights: Sequence[Array]) -> None: ...

    def predict(self, X: object, batch_size: int = ...) -> Array: ...

    def evaluate(
        self, X: object, y: object, *, batch_size: int = ..., sample_weight: object = None
    ) -> dict[str, float]: ...

    def save(self, path: str | os.PathLike[str]) -> None: ...

    def save_checkpoint(self, path: str | os.PathLike[str]) -> None: ...


class Callback(KeywordChecked):
    """Base class of callbacks. Override the hooks that are needed.

    Hooks are called in this order:

    1. `on_train_begin`
    2. for each epoch: `on_epoch_begin`; for each step `on_train_batch_begin` and `on_train_batch_end`;
       `on_epoch_logs`, `on_epoch_end`, `on_epoch_complete`
    3. `on_train_complete`, unless an error or Ctrl-C ended the fit
    4. `on_train_end`

    `on_progress` is called about ten times per second within an epoch, and `on_divergence` at a non-finite step.
    Each hook is called on all callbacks, in the order of the list, before the next hook follows.

    `logs` holds the values known at that time. After an epoch these are its loss, its metrics and their `val_` forms.
    After a batch they are the running values of the epoch.

    A callback that sets `self.model.stop_training = True` ends the fit after the current epoch. An attribute that a
    hook sets on a layer, the optimizer, the loss or a metric takes effect at the next step. With `DataParallel`, every
    rank must set the same attributes in the same hook of the same epoch or batch.

    A resumed fit needs the callbacks of the interrupted fit, matched by class. `get_state` and `set_state` save and
    restore their state.

    Attributes
    ----------
    model : Sequential
        The network being fitted.
    params : dict
        The numbers "epochs" and "steps" (per epoch, None if unknown), and "verbose".
    passive : bool
        True if the callback does not influence the fit: it only displays or writes. A resumed fit may add or omit it,
        and with `DataParallel` only rank 0 calls it. False by default.
    runs_last : bool
        True if its hooks are called after those of all other callbacks, for example to save their state. False by
        default.

    Examples
    --------
    >>> class PrintLoss(gpunn.Callback):
    ...     passive = True
    ...     def on_epoch_end(self, epoch, logs=None):
    ...         print(epoch, logs["loss"])
    """

    model: CallbackModel = cast("CallbackModel", None)  # until training begins
    params: Params
    runs_last = False
    passive = False

    def get_state(self) -> Mapping[str, object]:
        """Return the state to save in a checkpoint.

        Returns
        -------
        dict
            Values that JSON can represent, and NumPy arrays as top-level entries. Empty by default.
        """
        return {}

    def set_state(self, state: dict[str, object]) -> None:
        """Restore a state from `get_state`. A resumed fit calls this after `on_train_begin`."""

    def undecided_epochs(self) -> float:
        """Return the number of epochs that may run before this callback must see the results of each of them.

        With more than 1, several epochs may run between hooks: `on_epoch_begin` of all of them runs before their first
        step, `on_epoch_end` after their last one, and `stop_training` ends the fit only after them. 1 by default.
        """
        return 1.0

    def set_model(self, model: CallbackModel) -> None:
        """Set `model`, once before training."""
        self.model = model

    def set_params(self, params: Params) -> None:
        """Set `params`, once before training."""
        self.params = params

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Run before the first epoch."""

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Run after the last epoch, also after an error. `logs` are those of the last complete epoch."""

    def on_train_complete(self, logs: Logs | None = None) -> None:
        """Run before `on_train_end` if no error or Ctrl-C ended the fit. Keras has no such hook."""

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Run before an epoch, counted from 0."""

    def on_progress(self, steps: int, logs: Logs | None = None) -> None:
        """Run about ten times per second within an epoch, after `steps` of its steps. Keras has no such hook.

        Unlike a batch hook, it does not slow training down. `logs` holds the running values of the epoch.
        """

    def on_epoch_logs(self, epoch: int, logs: Logs) -> None:
        """Run after an epoch and its validation, to add values to `logs`. Keras has no such hook.

        The history stores the added values, and NaN in epochs without them.
        """

    def on_divergence(self, error: ArithmeticError) -> None:
        """Run at a step with a non-finite loss, gradient or update. Keras has no such hook.

        The parameters are those before that step. The fit raises `error`, unless a callback sets
        `self.model.stop_training = True`: then the fit ends normally.
        """

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Run after an epoch and its validation."""

    def on_epoch_complete(self, epoch: int, logs: Logs | None = None) -> None:
        """Run after `on_epoch_end` of all callbacks. Keras has no such hook.

        Only here can `self.model.save_checkpoint(path)` write a checkpoint.
        """

    def on_train_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Run before a step, counted from 0 in each epoch. Overriding it makes every step return to Python."""

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Run after a step, counted from 0 in each epoch. Overriding it makes every step return to Python."""


def saved_number(state: Mapping[str, object], name: str) -> float:
    """A number of a saved state. TypeError if it is not a number."""
    value = state[name]
    if not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number, got {value!r}")
    return float(value)


def saved_epoch(state: Mapping[str, object], name: str) -> int | None:
    """An epoch of a saved state, or None. TypeError if it is neither."""
    return None if state[name] is None else int(saved_number(state, name))


class CallbackList:
    """Calls each hook on several callbacks in order."""

    def __init__(self, callbacks: Iterable[Callback], model: CallbackModel, params: Params) -> None:
        self.callbacks = list(callbacks)
        for callback in self.callbacks:
            if not isinstance(callback, Callback):
                raise TypeError(f"callbacks must be gpunn.Callback objects, got {callback!r}")
        self.callbacks.sort(key=lambda callback: callback.runs_last)
        for callback in self.callbacks:
            callback.set_model(model)
            callback.set_params(params)
        # without an overridden batch hook, training does not return to Python after each step
        self.has_batch_hooks = any(
            getattr(getattr(c, hook), "__func__", None) is not getattr(Callback, hook)
            for c in self.callbacks
            for hook in ("on_train_batch_begin", "on_train_batch_end")
        )

    def __call__(self, hook: str, *arguments: object) -> None:
        """Call one hook on every callback."""
        for callback in self.callbacks:
            getattr(callback, hook)(*arguments)

    def undecided_epochs(self) -> float:
        """Return the number of epochs that may run before a callback must see the results of each of them."""
        found = min((callback.undecided_epochs() for callback in self.callbacks), default=math.inf)
        return 1.0 if self.has_batch_hooks else found
