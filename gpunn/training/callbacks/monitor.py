"""A monitored value of the logs and its direction of improvement."""

from __future__ import annotations

import math

from ...validation import nonnegative

# words in the name of a metric that determine its direction of improvement
LARGER = frozenset("acc accuracy auc precision recall f1 r2 top score".split())
SMALLER = frozenset("loss error mae mse rmse crossentropy entropy deviance".split())


class Monitor:
    """A value of an epoch's logs and its direction of improvement.

    Parameters
    ----------
    name : str
        An entry of the logs: "loss", "val_loss", "val_accuracy", …
    mode : {"auto", "min", "max"}, default "auto"
        Direction of improvement. "auto" infers it from the words of the name: smaller for losses and errors, larger for
        accuracy, AUC, precision, recall, F1, R² and top-k.
    min_delta : float, default 0.0
        Smallest change that counts as an improvement, ≥ 0.

    Raises
    ------
    TypeError, ValueError
        If an argument is invalid, or if "auto" cannot infer the direction.
    """

    def __init__(self, name: str, mode: str = "auto", min_delta: float = 0.0) -> None:
        if not isinstance(name, str):
            raise TypeError(f"monitor must be the name of a value in the logs, got {name!r}")
        if mode not in ("auto", "min", "max"):
            raise ValueError(f"mode must be 'auto', 'min' or 'max', got {mode!r}")
        if mode == "auto":
            words = set(name.lower().removeprefix("val_").split("_"))
            if words.isdisjoint(LARGER | SMALLER):
                raise ValueError(f"mode='auto' cannot infer if {name!r} should decrease or increase: give mode")
            # a name with words of both kinds is an error or a loss
            mode = "max" if words.isdisjoint(SMALLER) else "min"
        self.name = name
        self.mode = mode
        self.min_delta = nonnegative("min_delta", min_delta)

    @property
    def initial(self) -> float:
        """The value that every other value improves on: ∞ for "min", −∞ for "max"."""
        return math.inf if self.mode == "min" else -math.inf

    def value(self, logs: dict[str, float] | None) -> float:
        """Return the value in these logs. ValueError if it is absent."""
        found = (logs or {}).get(self.name)
        if found is None:
            names = ", ".join(logs or {}) or "empty"
            hint = "; give fit validation_data" if self.name.startswith("val_") else ""
            raise ValueError(f"monitor={self.name!r} is not in the logs of an epoch, which are {names}{hint}")
        return float(found)

    def improved(self, value: float, best: float) -> bool:
        """True if `value` improves on `best` by more than min_delta. NaN never improves."""
        if self.mode == "min":
            return value < best - self.min_delta
        return value > best + self.min_delta
