"""Adagrad."""

from __future__ import annotations

from typing import Any, Unpack

from ..kernels.adagrad import adagrad
from ..validation import Checked, nonnegative, positive
from .base import Clipping, Optimizer


class Adagrad(Optimizer):
    """Adagrad: v ← v + g², θ ← θ − ηg/(√v + ε). (A variant of E8; PyTorch's form, Keras's defaults)

    Parameters
    ----------
    learning_rate : float or Schedule
        η > 0, or a schedule of `gpunn.schedules`.
    initial_accumulator_value : float
        The value ≥ 0 of v before the first step.
    epsilon : float
        ε > 0.
    clipvalue, clipnorm : float or None
        Gradient clipping, as in `Optimizer`.

    References
    ----------
    Duchi, Hazan and Singer 2011.
    """

    name = "adagrad"
    rule = adagrad
    slots = ("v",)
    initial_accumulator_value = Checked(nonnegative)
    epsilon = Checked(positive)

    def __init__(
        self,
        learning_rate: Any = 1e-3,
        initial_accumulator_value: float = 0.1,
        epsilon: float = 1e-7,
        **clipping: Unpack[Clipping],
    ) -> None:
        super().__init__(learning_rate, **clipping)
        self.initial_accumulator_value = initial_accumulator_value
        self.epsilon = epsilon

    def hyperparameters(self) -> dict[str, Any]:
        return {"epsilon": self.epsilon}

    def initial_value(self, slot: str) -> float:
        return self.initial_accumulator_value

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"initial_accumulator_value": self.initial_accumulator_value}
