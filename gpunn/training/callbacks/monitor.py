"""What a callback watches: one number an epoch, and whether it got better."""

from __future__ import annotations

import math
from typing import Any

from ...validation import nonnegative

# words of a metric's name, its val_ aside, that say which way is better
LARGER = frozenset("acc accuracy auc precision recall f1 r2 top score".split())
SMALLER = frozenset("loss error mae mse rmse crossentropy entropy deviance".split())


class Monitor:
    """A number of an epoch's logs and the direction in which it gets better.

    name       an entry of the logs: "loss", "val_loss", "val_accuracy", …
    mode       "min", "max", or "auto", which tells from the name: a loss or an error is to become smaller; accuracy,
               AUC, precision, recall, F1, R² and top-k are to become larger
    min_delta  how much better it must be to count, ≥ 0

    ValueError or TypeError for arguments that make no sense, and where "auto" cannot tell.
    """

    def __init__(self, name: str, mode: str = "auto", min_delta: float = 0.0) -> None:
        if not isinstance(name, str):
            raise TypeError(f"monitor must be the name of a number in the logs, got {name!r}")
        if mode not in ("auto", "min", "max"):
            raise ValueError(f"mode must be 'auto', 'min' or 'max', got {mode!r}")
        if mode == "auto":
            words = set(name.lower().removeprefix("val_").split("_"))
            if words.isdisjoint(LARGER | SMALLER):
                raise ValueError(f"mode='auto' cannot tell whether {name!r} is to become smaller or larger: give mode")
            # "mean_squared_error" has a word of one kind; of a name with words of both the error counts
            mode = "max" if words.isdisjoint(SMALLER) else "min"
        self.name, self.mode = name, mode
        self.min_delta = nonnegative("min_delta", min_delta)

    @property
    def initial(self) -> float:
        """The value that every other improves on: ∞ for "min", −∞ for "max"."""
        return math.inf if self.mode == "min" else -math.inf

    def value(self, logs: dict[str, float] | None) -> float:
        """This epoch's number. ValueError names what there is where it is missing."""
        found: Any = (logs or {}).get(self.name)
        if found is None:
            there = ", ".join(logs or {}) or "nothing"
            hint = "; give fit validation_data" if self.name.startswith("val_") else ""
            raise ValueError(f"monitor={self.name!r} is not among what an epoch gives: {there}{hint}")
        return float(found)

    def improved(self, value: float, best: float) -> bool:
        """Whether `value` is better than `best` by more than min_delta; NaN never is."""
        if self.mode == "min":
            return value < best - self.min_delta
        return value > best + self.min_delta
