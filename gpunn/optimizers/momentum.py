"""Gradient descent with momentum."""

from __future__ import annotations

from typing import Any, Unpack

from ..kernels.momentum import momentum as rule
from ..validation import Checked, half_open_unit_interval
from .base import Clipping, Optimizer


class Momentum(Optimizer):
    """Momentum: v ← μv + g, θ ← θ − ηv, with v = 0 before the first step. (A variant of E8; PyTorch's form)

    Parameters
    ----------
    learning_rate : float or Schedule
        η > 0, or a schedule of `gpunn.schedules`.
    momentum : float
        μ in [0, 1).
    clipvalue, clipnorm : float or None
        Gradient clipping, as in `Optimizer`.
    """

    name = "momentum"
    rule = rule
    slots = ("v",)
    momentum = Checked(half_open_unit_interval)

    def __init__(self, learning_rate: Any = 0.01, momentum: float = 0.9, **clipping: Unpack[Clipping]) -> None:
        super().__init__(learning_rate, **clipping)
        self.momentum = momentum

    def hyperparameters(self) -> dict[str, Any]:
        return {"momentum": self.momentum}
