"""RMSprop."""

from __future__ import annotations

from typing import Any

from ..kernels.rmsprop import rmsprop
from ..validation import Checked, half_open_unit_interval, positive
from .base import Optimizer


class RMSprop(Optimizer):
    """v ← ρv + (1 − ρ)g², θ ← θ − ηg/(√v + ε), v = 0 at first. (E8's descendant; PyTorch's form, Keras's defaults)"""

    name = "rmsprop"
    rule = rmsprop
    slots = ("v",)
    rho = Checked(half_open_unit_interval)
    epsilon = Checked(positive)

    def __init__(self, learning_rate: Any = 1e-3, rho: float = 0.9, epsilon: float = 1e-7, **clipping: Any) -> None:
        super().__init__(learning_rate, **clipping)
        self.rho = rho
        self.epsilon = epsilon

    def hyperparameters(self) -> dict[str, float]:
        return {"rho": self.rho, "epsilon": self.epsilon}
