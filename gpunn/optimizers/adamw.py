"""Adam with decoupled weight decay."""

from __future__ import annotations

from typing import Any, Unpack

from ..kernels.adamw import adamw
from ..validation import Checked, boolean, nonnegative
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
        λ ≥ 0.
    beta_1, beta_2 : float
        β₁ and β₂ in [0, 1).
    epsilon : float
        ε > 0.
    decay_weights_only : bool
        True applies λ to weights only, not to intercepts, γ and β. By default it applies to every parameter.
    clipvalue, clipnorm : float or None
        Gradient clipping, as in `Optimizer`.

    References
    ----------
    Loshchilov and Hutter 2019.
    """

    name = "adamw"
    rule = adamw
    weight_decay = Checked(nonnegative)
    decay_weights_only = Checked(boolean)

    def __init__(
        self,
        learning_rate: Any = 1e-3,
        weight_decay: float = 0.004,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        *,
        decay_weights_only: bool = False,
        **clipping: Unpack[Clipping],
    ) -> None:
        super().__init__(learning_rate, beta_1, beta_2, epsilon, **clipping)
        self.weight_decay = weight_decay
        self.decay_weights_only = decay_weights_only

    def hyperparameters(self) -> dict[str, Any]:
        return super().hyperparameters() | {"weight_decay": self.weight_decay}

    @property
    def separates_weights(self) -> bool:  # type: ignore[override]
        """True if λ differs between weights and the other parameters."""
        return self.decay_weights_only

    def hyperparameters_of(self, t: Any) -> dict[str, Any]:
        """The constants for the parameters of t: λ = 0 for intercepts, γ and β with `decay_weights_only`."""
        found = self.hyperparameters()
        if self.decay_weights_only and not t.are_weights:
            found["weight_decay"] = 0.0
        return found

    def step_key(self) -> Any:
        return *super().step_key(), self.decay_weights_only

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"decay_weights_only": self.decay_weights_only}
