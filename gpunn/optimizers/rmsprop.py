"""RMSprop."""

from __future__ import annotations

from typing import Any, Unpack

from ..kernels.rmsprop import rmsprop
from ..validation import Checked, half_open_unit_interval, positive
from .base import Clipping, Optimizer


class RMSprop(Optimizer):
    """RMSprop: v ← ρv + (1 − ρ)g², θ ← θ − ηg/(√v + ε), with v = 0 before the first step.

    (A variant of E8; PyTorch's form, Keras's defaults)

    Parameters
    ----------
    learning_rate : float or Schedule
        η > 0, or a schedule of `gpunn.schedules`.
    rho : float
        ρ in [0, 1).
    epsilon : float
        ε > 0.
    clipvalue, clipnorm : float or None
        Gradient clipping, as in `Optimizer`.
    """

    name = "rmsprop"
    rule = rmsprop
    slots = ("v",)
    rho = Checked(half_open_unit_interval)
    epsilon = Checked(positive)

    def __init__(
        self, learning_rate: Any = 1e-3, rho: float = 0.9, epsilon: float = 1e-7, **clipping: Unpack[Clipping]
    ) -> None:
        super().__init__(learning_rate, **clipping)
        self.rho = rho
        self.epsilon = epsilon

    def hyperparameters(self) -> dict[str, Any]:
        return {"rho": self.rho, "epsilon": self.epsilon}
