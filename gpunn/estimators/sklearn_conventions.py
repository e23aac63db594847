"""scikit-learn's own update rules and losses, where its conventions are not those of the rest of gpunn."""

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
from ..recording import Array, Recorder

# the penalty αW/Σw of a batch, and an epoch's loss as the mean of its batches' by rows
SKLEARN_CONVENTION = LossConvention("add_scaled_penalty_gradient", "scale_penalty", "end_step_by_rows")


class ScikitLearnSGD(Optimizer):
    """v ← μv − ηg, θ ← θ + v. (E8's descendant; scikit-learn's form)"""

    rule = sklearn_momentum
    slots = ("v",)

    def __init__(self, learning_rate: Any, momentum: float, **clipping: Any) -> None:
        super().__init__(learning_rate, **clipping)
        self.momentum = float(momentum)

    def hyperparameters(self) -> dict[str, float]:
        return {"momentum": self.momentum}


class ScikitLearnNesterov(ScikitLearnSGD):
    """v ← μv − ηg, θ ← θ + μv − ηg. (E8's descendant; scikit-learn's form)"""

    rule = sklearn_nesterov


class ScikitLearnAdam(Adam):
    """m ← β₁m + (1 − β₁)g, v ← β₂v + (1 − β₂)g², θ ← θ − η√(1 − β₂ᵗ)/(1 − β₁ᵗ) · m/(√v + ε).
    (E8's descendant; scikit-learn's form, ε outside the bias correction)"""

    rule = sklearn_adam
    bias_correction = sklearn_adam_bias_correction


def _clipping(dtype: np.dtype) -> dict[str, float]:
    """The least and the largest −log p of a probability clipped to [ε, 1 − ε]."""
    eps = float(np.finfo(dtype).eps)
    return {"low": -math.log1p(-eps), "high": -math.log(eps)}


class ScikitLearnLogLoss(SparseCategoricalCrossentropy):
    """ℓ = −log a_y for labels y, a_y clipped to [ε, 1 − ε] where it is reported and not where it is followed. (E3)"""

    def record_fused(
        self, ops: Recorder, z: Array, y: Array, w: Array, a: Array, delta: Array, row_losses: Array
    ) -> None:
        super().record_fused(ops, z, y, w, a, delta, row_losses)
        ops(kernel("clip_log_loss"), w, out=row_losses, **_clipping(a.dtype))


class ScikitLearnBinaryLogLoss(BinaryCrossentropy):
    """ℓ = −Σ y log a + (1 − y) log(1 − a), a clipped to [ε, 1 − ε] where it is reported and not where it is followed;
    y is 0 or 1. (E3)"""

    def record_fused(
        self, ops: Recorder, z: Array, y: Array, w: Array, a: Array, delta: Array, row_losses: Array
    ) -> None:
        ops(kernel("sigmoid_log_loss"), z, y, w, out=(a, delta, row_losses), **_clipping(a.dtype))


class ScikitLearnSquaredError(Loss):
    """ℓ = ½ · the mean over the outputs of (y − a)² is reported, and the gradient of the sum, a − y, is followed. (E3)

    For one output it is half the squared error.
    """

    def record(self, ops: Recorder, a: Array, y: Array, w: Array, grad_a: Array, row_losses: Array) -> None:
        ops(kernel("mean_half_squared_error"), a, y, w, out=(grad_a, row_losses))


class ScikitLearnPoisson(Loss):
    """ℓ = Σ y log(y/a) − y + a, half the Poisson deviance, behind a = eᶻ; y ≥ 0. (E3, E4)"""

    fused_with_activation = True

    def for_activation(self, activation: Activation) -> Loss:
        if activation.name != "exponential":
            raise ValueError(f"loss='poisson' needs out_activation='exp', got {activation.name!r}")
        return self

    def record_fused(
        self, ops: Recorder, z: Array, y: Array, w: Array, a: Array, delta: Array, row_losses: Array
    ) -> None:
        ops(kernel("exp_poisson"), z, y, w, out=(a, delta, row_losses))

    def check_targets(self, y: Any, xp: Any, name: str) -> None:
        if bool((y < 0).any()):
            raise ValueError(f"{name} holds negative values; loss='poisson' is for counts, y ≥ 0")
