"""Adam with decoupled weight decay."""

from __future__ import annotations

from typing import Any, Unpack

from ..kernels.adamw import adamw
from ..validation import Checked, nonnegative
from .adam import Adam
from .base import Clipping


class AdamW(Adam):
    """AdamW: m and v as in Adam, θ ← (1 − ηλ)θ − η/(1 − β₁ᵗ) · m/(√v/√(1 − β₂ᵗ) + ε).

    (A variant of E8; PyTorch's form, Keras's defaults)

    Parameters
    ----------
    learning_rate : float or Schedule
        η > 0, or a schedule of `gpunn.schedules`.
    weight_decay : float
        λ ≥ 0. It applies to every parameter.
    beta_1, beta_2 : float
        β₁ and β₂ in [0, 1).
    epsilon : float
        ε > 0.
    clipvalue, clipnorm : float or None
        Gradient clipping, as in `Optimizer`.

    References
    ----------
    Loshchilov and Hutter 2019.
    """

    name = "adamw"
    rule = adamw
    weight_decay = Checked(nonnegative)

    def __init__(
        self,
        learning_rate: Any = 1e-3,
        weight_decay: float = 0.004,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        **clipping: Unpack[Clipping],
    ) -> None:
        super().__init__(learning_rate, beta_1, beta_2, epsilon, **clipping)
        self.weight_decay = weight_decay

    def hyperparameters(self) -> dict[str, Any]:
        return super().hyperparameters() | {"weight_decay": self.weight_decay}
