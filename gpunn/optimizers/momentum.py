"""Gradient descent with momentum."""

from __future__ import annotations

from typing import Any

from ..kernels.momentum import momentum as rule
from ..validation import Checked, half_open_unit_interval
from .base import Optimizer


class Momentum(Optimizer):
    """v ← μv + g, θ ← θ − ηv, v = 0 at first; μ = 0.9 unless given. (E8's descendant; PyTorch's form)"""

    name = "momentum"
    rule = rule
    slots = ("v",)
    momentum = Checked(half_open_unit_interval)

    def __init__(self, learning_rate: Any = 0.01, momentum: float = 0.9, **clipping: Any) -> None:
        super().__init__(learning_rate, **clipping)
        self.momentum = momentum

    def hyperparameters(self) -> dict[str, float]:
        return {"momentum": self.momentum}
