"""Adam."""

import numpy as np

from ._compiler.registry import by_row
from ._compiler.update_rule import update_rule
from .state import Slot

PARTS = "const T keep1 = (T)beta1, fresh1 = (T)(1.0 - beta1), keep2 = (T)beta2, fresh2 = (T)(1.0 - beta2);"
SETUP = f"{PARTS} const T rate = (T)state[CORRECTED_LR], root = (T)state[INV_SQRT_CORRECTION], eps = (T)epsilon;"
MEANS = "m = keep1 * m + fresh1 * g; v = keep2 * v + fresh2 * g * g;"


@by_row(
    "scalar float64 beta1, scalar float64 beta2 -> raw float64 state",
    """
const double t = state[STEP] + 1.0;
state[CORRECTED_LR] = state[LR] / (1.0 - pow(beta1, t));
state[INV_SQRT_CORRECTION] = 1.0 / sqrt(1.0 - pow(beta2, t));
""",
)
def adam_bias_correction(beta1, beta2, state):
    """η/(1 − β₁ᵗ) and 1/√(1 − β₂ᵗ), t counted from 1: once a step, in float64."""
    t = state[Slot.STEP] + 1
    state[Slot.CORRECTED_LR] = state[Slot.LR] / (1 - beta1**t)
    state[Slot.INV_SQRT_CORRECTION] = 1 / np.sqrt(1 - beta2**t)


@update_rule(
    "m v",
    f"{MEANS} theta = theta - rate * m / (sqrt(v) * root + eps);",
    prologue=SETUP,
    scalars=("beta1", "beta2", "epsilon"),
)
def adam(g, state, beta1, beta2, epsilon, theta, m, v):
    """m ← β₁m + (1 − β₁)g, v ← β₂v + (1 − β₂)g², θ ← θ − η/(1 − β₁ᵗ) · m/(√v/√(1 − β₂ᵗ) + ε).
    (E8's descendant; the form of PyTorch)"""
    rate, root = theta.dtype.type(state[Slot.CORRECTED_LR]), theta.dtype.type(state[Slot.INV_SQRT_CORRECTION])
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g * g
    return theta - rate * m / (np.sqrt(v) * root + epsilon), m, v
