"""Checkpoints written while a fit runs, from which it can go on."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

from ...validation import boolean, positive_integer
from ..checkpoint import stat_regular_file
from .base import Callback, Logs
from .monitor import Monitor


class ModelCheckpoint(Callback):
    """Write the fit under way to a file after an epoch: `fit(…, resume=path)` goes on from it, `gpunn.load` opens the
    model in it.

    path            the file, replaced as one step each time. It may hold fields of `str.format`: {epoch}, counted from
                    1, and the names in the logs; "run-{epoch:03d}-{val_loss:.3f}.safetensors" keeps every file
    every           write after every so many epochs, and after the last
    save_best_only  write only where `monitor` is better than at every epoch looked at before
    monitor, mode   what is better, as in `EarlyStopping`; for save_best_only

    ValueError or TypeError for arguments that make no sense, OSError where a file cannot be written, which ends the
    fit: the old file is whole, and so is the model. A path that names a folder, a device, a pipe or a socket ends it
    before the first epoch.
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
            raise ValueError("save_best_only=True needs monitor: the name of what is to be best, 'val_loss' say")
        if monitor is not None and not save_best_only:
            raise ValueError(f"monitor={monitor!r} is for save_best_only=True: without it every epoch is written")
        self.monitor = None if monitor is None else Monitor(monitor, mode)
        # where several write, those that keep the best come first: a file that follows knows what they wrote
        self.runs_last = self.monitor is None

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self.best = None if self.monitor is None else self.monitor.initial
        self._due = False
        folder = Path(self.path).parent
        # in the first minute rather than after the first epoch
        if "{" not in str(folder) and not folder.is_dir():
            raise FileNotFoundError(2, "there is no such folder for checkpoints", str(folder))
        if "{" not in self.path:
            with contextlib.suppress(FileNotFoundError):
                stat_regular_file(self.path)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Whether this epoch is to be written; it is, when all callbacks have had it."""
        ends = epoch + 1 == self.params["epochs"]
        self._due = ends or (epoch + 1) % self.every == 0
        if self.monitor is not None and self.best is not None:
            value = self.monitor.value(logs)
            self._due = self._due and self.monitor.improved(value, self.best)
            if self._due:
                self.best = value

    def on_epoch_complete(self, epoch: int, logs: Logs | None = None) -> None:
        # whoever stops the fit may be behind this one in the list
        if self._due or (self.monitor is None and self.model.stop_training):
            self.model.save_checkpoint(self._name(epoch, logs or {}))

    def _name(self, epoch: int, logs: Logs) -> str:
        try:
            return self.path.format_map({**logs, "epoch": epoch + 1})
        except (KeyError, ValueError, IndexError, AttributeError, TypeError) as error:
            names = ", ".join(["epoch", *logs])
            raise ValueError(f"path={self.path!r} cannot be filled in ({error!r}); there are {names}") from None

    def get_state(self) -> dict[str, Any]:
        return {} if self.monitor is None else {"best": self.best}

    def set_state(self, state: dict[str, Any]) -> None:
        self.best = float(state["best"])
