"""Write checkpoints during a fit."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from ...validation import boolean, positive_integer
from ..files import stat_regular_file
from .base import Callback, Logs, saved_number
from .monitor import Monitor


class ModelCheckpoint(Callback):
    """Write a checkpoint of the fit after an epoch.

    `fit(…, resume=path)` continues from the checkpoint, and `gpunn.load` opens the model in it. Writing replaces the
    file atomically: if it fails, the old file remains complete.

    Parameters
    ----------
    path : path-like
        The file. It may contain fields of `str.format`: {epoch}, counted from 1, and the names in the logs. For
        example, "run-{epoch:03d}-{val_loss:.3f}.safetensors" writes a file per epoch.
    every : int, default 1
        Write after every `every` epochs, and after the last one.
    monitor : str, optional
        A name in the logs, required by `save_best_only`.
    mode : {"auto", "min", "max"}, default "auto"
        Direction of improvement. "auto" infers it from the name, see `Monitor`.
    save_best_only : bool, default False
        Write only if `monitor` improves on its value at the last checkpoint.

    Raises
    ------
    TypeError, ValueError
        If an argument is invalid.
    OSError
        If a file cannot be written, which ends the fit. Before the first epoch if `path` is a directory, a device, a
        pipe or a socket.
    """

    passive = True

    def __init__(
        self,
        path: str | os.PathLike[str],
        every: int = 1,
        monitor: str | None = None,
        mode: str = "auto",
        save_best_only: bool = False,
    ) -> None:
        self.path = os.fspath(path)
        if not isinstance(self.path, str):
            raise TypeError(f"path must be text, got {path!r}")
        self.every = positive_integer("every", every)
        boolean("save_best_only", save_best_only)
        if save_best_only and monitor is None:
            raise ValueError("save_best_only=True needs monitor: give a name in the logs, for example 'val_loss'")
        if monitor is not None and not save_best_only:
            raise ValueError(f"monitor={monitor!r} needs save_best_only=True: otherwise every epoch is written")
        self.monitor = None if monitor is None else Monitor(monitor, mode)
        # a checkpoint that is written regularly must contain the state of the callbacks that save the best
        self.runs_last = self.monitor is None

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self.best = None if self.monitor is None else self.monitor.initial
        self._due = False
        folder = Path(self.path).parent
        # a wrong path must raise here and not after the first epoch
        if "{" not in str(folder) and not folder.is_dir():
            raise FileNotFoundError(2, "there is no such folder for checkpoints", str(folder))
        if "{" not in self.path:
            with contextlib.suppress(FileNotFoundError):
                stat_regular_file(self.path)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Decide if a checkpoint is due. It is written after all callbacks have processed the epoch."""
        is_last = epoch + 1 == self.params["epochs"]
        self._due = is_last or (epoch + 1) % self.every == 0
        if self.monitor is not None and self.best is not None:
            value = self.monitor.value(logs)
            self._due = self._due and self.monitor.improved(value, self.best)
            if self._due:
                self.best = value

    def on_epoch_complete(self, epoch: int, logs: Logs | None = None) -> None:
        # a later callback in the list may have stopped the fit
        if self._due or (self.monitor is None and self.model.stop_training):
            self.model.save_checkpoint(self._format_path(epoch, logs or {}))

    def _format_path(self, epoch: int, logs: Logs) -> str:
        try:
            return self.path.format_map({**logs, "epoch": epoch + 1})
        except (KeyError, ValueError, IndexError, AttributeError, TypeError) as error:
            names = ", ".join(["epoch", *logs])
            raise ValueError(f"path={self.path!r} cannot be formatted ({error!r}); the fields are {names}") from None

    def get_state(self) -> dict[str, object]:
        return {} if self.monitor is None else {"best": self.best}

    def set_state(self, state: dict[str, object]) -> None:
        self.best = saved_number(state, "best")
