"""gpunn as it is watched: the same `Sequential.fit` with its progress bar, callbacks and history."""

from __future__ import annotations

import os
import sys

import tqdm  # noqa: F401  without it there would be no bar to time

import gpunn

from ..conventions import Task
from .gpunn_sequential import GpunnSequential

PACKAGES = ("gpunn", "numpy", "tqdm")


class Watched(GpunnSequential):
    """A bar drawn into nothing, early stopping that never stops, and a user's own callback."""

    def train(self, epochs: int) -> None:
        shown, sys.stderr = sys.stderr, open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
        try:
            self.options = {
                "verbose": 1,
                "callbacks": [gpunn.EarlyStopping(monitor="loss", patience=10**9), EpochReport()],
            }
            super().train(epochs)
        finally:
            sys.stderr.close()
            sys.stderr = shown


class EpochReport(gpunn.Callback):
    """What a user's own callback might do."""

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        self.lines: list[str] = []

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self.lines.append(f"epoch {epoch}: loss {(logs or {})['loss']:.4f}")


def prepare(task: Task, threads: int) -> Watched:
    """`threads` is what the environment has told BLAS."""
    return Watched(task)
