"""RMSprop."""

import numpy as np

from ._compiler.update_rule import update_rule
from .state import StateEntry


@update_rule(
    "v",
    "v = decay * v + one_minus_decay * g * g; theta = theta - lr * g / (sqrt(v) + eps);",
    reads=(StateEntry.LR,),
    prologue="const T lr = (T)state[LR], decay = (T)rho, one_minus_decay = (T)(1.0 - rho), eps = (T)epsilon;",
    scalars=("rho", "epsilon"),
)
def rmsprop(g, state, rho, epsilon, theta, v):
    """v ← ρv + (1 − ρ)g², θ ← θ − ηg/(√v + ε). (variant of E8, in PyTorch's form)"""
    lr = theta.dtype.type(state[StateEntry.LR])
    v = rho * v + (1 - rho) * g * g
    return theta - lr * g / (np.sqrt(v) + epsilon), v
