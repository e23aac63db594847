"""The record of a fit."""

from __future__ import annotations


class History:
    """What `fit` returns: `history` maps each name (loss, accuracy, val_loss, …) to one number an epoch.

    `epoch` lists the epochs' numbers from 0; a second `fit` begins a History of its own.
    """

    def __init__(self) -> None:
        self.history: dict[str, list[float]] = {}
        self.epoch: list[int] = []

    def add(self, epoch: int, logs: dict[str, float]) -> None:
        """Append one epoch's numbers."""
        self.epoch.append(epoch)
        for name, value in logs.items():
            self.history.setdefault(name, []).append(value)

    def __repr__(self) -> str:
        last = ", ".join(f"{name}={values[-1]:.4g}" for name, values in self.history.items())
        return f"History({len(self.epoch)} epochs; last: {last})" if self.epoch else "History(0 epochs)"
