"""gpunn with a progress bar, callbacks and a history in `Sequential.fit`."""

from __future__ import annotations

import os
import sys

import tqdm  # noqa: F401  without it `fit` shows no progress bar

import gpunn

from ..conventions import Task
from .gpunn_sequential import GpunnSequential

PACKAGES = ("gpunn", "numpy", "tqdm")


class Watched(GpunnSequential):
    """A progress bar written to the null device, early stopping that never stops, and a user-defined callback."""

    def train(self, epochs: int) -> None:
        stderr, sys.stderr = sys.stderr, open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
        try:
            self.options = {
                "verbose": 1,
                "callbacks": [gpunn.EarlyStopping(monitor="loss", patience=10**9), EpochReport()],
            }
            super().train(epochs)
        finally:
            sys.stderr.close()
            sys.stderr = stderr


class EpochReport(gpunn.Callback):
    """A typical user-defined callback."""

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        self.lines: list[str] = []

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self.lines.append(f"epoch {epoch}: loss {(logs or {})['loss']:.4f}")


def prepare(task: Task, threads: int) -> Watched:
    """Prepare the contestant. The environment limits BLAS to `threads`."""
    return Watched(task)
