"""Adam."""

from __future__ import annotations

from typing import Any, Unpack

from ..kernels.adam import adam, adam_bias_correction
from ..program import Array
from ..validation import Checked, half_open_unit_interval, positive
from .base import Clipping, Optimizer


class Adam(Optimizer):
    """Adam: m ← β₁m + (1 − β₁)g, v ← β₂v + (1 − β₂)g², θ ← θ − η/(1 − β₁ᵗ) · m/(√v/√(1 − β₂ᵗ) + ε), t = 1, 2, …

    (A variant of E8; PyTorch's form, Keras's defaults)

    Parameters
    ----------
    learning_rate : float or Schedule
        η > 0, or a schedule of `gpunn.schedules`.
    beta_1, beta_2 : float
        β₁ and β₂ in [0, 1).
    epsilon : float
        ε > 0.
    clipvalue, clipnorm : float or None
        Gradient clipping, as in `Optimizer`.

    References
    ----------
    Kingma and Ba 2015.
    """

    name = "adam"
    rule = adam
    corrections = adam_bias_correction  # the kernel that computes η/(1 − β₁ᵗ) and 1/√(1 − β₂ᵗ) once per step
    slots = ("m", "v")
    beta_1 = Checked(half_open_unit_interval)
    beta_2 = Checked(half_open_unit_interval)
    epsilon = Checked(positive)

    def __init__(
        self,
        learning_rate: Any = 1e-3,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        **clipping: Unpack[Clipping],
    ) -> None:
        super().__init__(learning_rate, **clipping)
        self.beta_1, self.beta_2 = beta_1, beta_2
        self.epsilon = epsilon

    def hyperparameters(self) -> dict[str, Any]:
        return {"beta1": self.beta_1, "beta2": self.beta_2, "epsilon": self.epsilon}

    def bias_correction(self, state: Array) -> None:
        self.corrections(state, count=1, beta1=self.beta_1, beta2=self.beta_2)

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        return config | {"beta_1": config.pop("beta1"), "beta_2": config.pop("beta2")}
