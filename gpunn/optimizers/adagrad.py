"""Adagrad."""

from __future__ import annotations

from typing import Any

from ..kernels.adagrad import adagrad
from ..validation import Checked, nonnegative, positive
from .base import Optimizer


class Adagrad(Optimizer):
    """v ← v + g², θ ← θ − ηg/(√v + ε), v = `initial_accumulator_value` at first.
    (E8's descendant; PyTorch's form, Keras's defaults)"""

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
        **clipping: Any,
    ) -> None:
        super().__init__(learning_rate, **clipping)
        self.initial_accumulator_value = initial_accumulator_value
        self.epsilon = epsilon

    def hyperparameters(self) -> dict[str, float]:
        return {"epsilon": self.epsilon}

    def initial_value(self, slot: str) -> float:
        return self.initial_accumulator_value

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"initial_accumulator_value": self.initial_accumulator_value}
