"""Adam."""

import numpy as np

from ._compiler.registry import by_row
from ._compiler.update_rule import update_rule
from .state import StateEntry

DECAY_RATES = "const T b1 = (T)beta1, one_minus_b1 = (T)(1.0 - beta1), b2 = (T)beta2, one_minus_b2 = (T)(1.0 - beta2);"
PROLOGUE = (
    f"{DECAY_RATES} const T rate = (T)state[CORRECTED_LR], root = (T)state[INV_SQRT_CORRECTION], eps = (T)epsilon;"
)
MOMENTS = "m = b1 * m + one_minus_b1 * g; v = b2 * v + one_minus_b2 * g * g;"


@by_row(
    "scalar float64 beta1, scalar float64 beta2 -> raw float64 state",
    """
const double t = state[STEP] + 1.0;
state[CORRECTED_LR] = state[LR] / (1.0 - pow(beta1, t));
state[INV_SQRT_CORRECTION] = 1.0 / sqrt(1.0 - pow(beta2, t));
""",
    reads=(StateEntry.STEP, StateEntry.LR),
    writes=(StateEntry.CORRECTED_LR, StateEntry.INV_SQRT_CORRECTION),
)
def adam_bias_correction(beta1, beta2, state):
    """η/(1 − β₁ᵗ) and 1/√(1 − β₂ᵗ), where t counts steps from 1: once per step, in float64."""
    t = state[StateEntry.STEP] + 1
    state[StateEntry.CORRECTED_LR] = state[StateEntry.LR] / (1 - beta1**t)
    state[StateEntry.INV_SQRT_CORRECTION] = 1 / np.sqrt(1 - beta2**t)


@update_rule(
    "m v",
    f"{MOMENTS} theta = theta - rate * m / (sqrt(v) * root + eps);",
    reads=(StateEntry.CORRECTED_LR, StateEntry.INV_SQRT_CORRECTION),
    prologue=PROLOGUE,
    scalars=("beta1", "beta2", "epsilon"),
)
def adam(g, state, beta1, beta2, epsilon, theta, m, v):
    """m ← β₁m + (1 − β₁)g, v ← β₂v + (1 − β₂)g², θ ← θ − η/(1 − β₁ᵗ) · m/(√v/√(1 − β₂ᵗ) + ε).
    (variant of E8, in PyTorch's form)"""
    rate, root = (
        theta.dtype.type(state[StateEntry.CORRECTED_LR]),
        theta.dtype.type(state[StateEntry.INV_SQRT_CORRECTION]),
    )
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g * g
    return theta - rate * m / (np.sqrt(v) * root + epsilon), m, v
