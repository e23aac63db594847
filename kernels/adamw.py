"""Adam with decoupled weight decay."""

import numpy as np

from ._compiler.update_rule import update_rule
from .adam import MOMENTS, PROLOGUE
from .state import StateEntry


@update_rule(
    "m v",
    f"{MOMENTS} theta = theta * shrink - rate * m / (sqrt(v) * root + eps);",
    reads=(StateEntry.LR, StateEntry.CORRECTED_LR, StateEntry.INV_SQRT_CORRECTION),
    prologue=f"{PROLOGUE} const T shrink = (T)(1.0 - state[LR] * weight_decay);",
    scalars=("beta1", "beta2", "epsilon", "weight_decay"),
)
def adamw(g, state, beta1, beta2, epsilon, weight_decay, theta, m, v):
    """Adam's m and v; θ ← (1 − ηλ)θ − η/(1 − β₁ᵗ) · m/(√v/√(1 − β₂ᵗ) + ε). (variant of E8, in PyTorch's form)"""
    rate, root = (
        theta.dtype.type(state[StateEntry.CORRECTED_LR]),
        theta.dtype.type(state[StateEntry.INV_SQRT_CORRECTION]),
    )
    shrink = theta.dtype.type(1 - state[StateEntry.LR] * weight_decay)
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g * g
    return theta * shrink - rate * m / (np.sqrt(v) * root + epsilon), m, v
