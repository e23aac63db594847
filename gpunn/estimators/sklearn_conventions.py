"""scikit-learn's optimizers, losses and penalty, where its conventions differ from the rest of gpunn.

`kernels/scikit_learn.py` lists the differences.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..activations import Activation
from ..kernels import get as kernel
from ..kernels.scikit_learn import sklearn_adam, sklearn_adam_bias_correction, sklearn_momentum, sklearn_nesterov
from ..losses import BinaryCrossentropy, Loss, SparseCategoricalCrossentropy
from ..network import LossConvention
from ..optimizers import Adam, Optimizer
from ..program import Array

# the penalty of a batch is αW/Σw; the loss of an epoch is the mean of its batches' losses, weighted by rows
SKLEARN_CONVENTION = LossConvention("add_scaled_penalty_gradient", "scale_penalty", "end_step_by_rows")


class ScikitLearnSGD(Optimizer):
    """v ← μv − ηg, θ ← θ + v. (E8's descendant; scikit-learn's form)"""

    rule = sklearn_momentum
    slots = ("v",)

    def __init__(self, learning_rate: Any, momentum: float, **clipping: Any) -> None:
        super().__init__(learning_rate, **clipping)
        self.momentum = float(momentum)

    def hyperparameters(self) -> dict[str, Any]:
        """The momentum μ."""
        return {"momentum": self.momentum}


class ScikitLearnNesterov(ScikitLearnSGD):
    """v ← μv − ηg, θ ← θ + μv − ηg. (E8's descendant; scikit-learn's form)"""

    rule = sklearn_nesterov


class ScikitLearnAdam(Adam):
    """m ← β₁m + (1 − β₁)g, v ← β₂v + (1 − β₂)g², θ ← θ − η√(1 − β₂ᵗ)/(1 − β₁ᵗ) · m/(√v + ε).
    (E8's descendant; scikit-learn's form, ε outside the bias correction)"""

    rule = sklearn_adam
    corrections = sklearn_adam_bias_correction


def _clipping(dtype: np.dtype) -> dict[str, Any]:
    """The bounds of −log p for a probability p clipped to [ε, 1 − ε], ε the spacing of floats at 1."""
    eps = float(np.finfo(dtype).eps)
    return {"low": -math.log1p(-eps), "high": -math.log(eps)}


class ScikitLearnLogLoss(SparseCategoricalCrossentropy):
    """ℓ = −log a_y for class indices y. The reported loss clips a_y to [ε, 1 − ε], the gradient does not. (E3)"""

    def from_z(self, z: Array, y: Array, w: Array) -> tuple[Array, Array, Array]:
        """Return a, δ and the clipped loss of each row."""
        a, delta, row_losses = super().from_z(z, y, w)
        return a, delta, kernel("clip_log_loss")(w, row_losses, **_clipping(z.dtype))


class ScikitLearnBinaryLogLoss(BinaryCrossentropy):
    """ℓ = −Σ y log a + (1 − y) log(1 − a), y 0 or 1. The reported loss clips a to [ε, 1 − ε], the gradient does
    not. (E3)"""

    def from_z(self, z: Array, y: Array, w: Array) -> tuple[Array, Array, Array]:
        """Return a, δ and the clipped loss of each row."""
        a, delta, row_losses = kernel("sigmoid_log_loss")(z, y, w, **_clipping(z.dtype))
        return a, delta, row_losses


class ScikitLearnSquaredError(Loss):
    """ℓ = ½ · the mean over the outputs of (y − a)². The gradient is a − y, that of the sum over the outputs. (E3)

    For one output both are half the squared error.
    """

    def evaluate(self, a: Array, y: Array, w: Array) -> tuple[Array, Array]:
        """Return ∂C/∂a and the loss of each row."""
        grad_a, row_losses = kernel("mean_half_squared_error")(a, y, w)
        return grad_a, row_losses


class ScikitLearnPoisson(Loss):
    """ℓ = Σ y log(y/a) − y + a for y ≥ 0 and a = eᶻ, half the Poisson deviance. (E3, E4)"""

    takes_z = True

    def resolve(self, activation: Activation) -> Loss:
        """Return the loss. Raise ValueError if the last activation is not the exponential."""
        if activation.name != "exponential":
            raise ValueError(f"loss='poisson' needs out_activation='exp', got {activation.name!r}")
        return self

    def from_z(self, z: Array, y: Array, w: Array) -> tuple[Array, Array, Array]:
        """Return a, δ and the loss of each row."""
        a, delta, row_losses = kernel("exp_poisson")(z, y, w)
        return a, delta, row_losses

    def check_targets(self, y: Any, xp: Any, name: str) -> None:
        """Raise ValueError for negative targets."""
        if bool((y < 0).any()):
            raise ValueError(f"{name} must be ≥ 0 with loss='poisson', got negative values")
