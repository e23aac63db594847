"""Adagrad."""

import numpy as np

from ._compiler.update_rule import update_rule
from .state import StateEntry


@update_rule(
    "v",
    "v = v + g * g; theta = theta - lr * g / (sqrt(v) + eps);",
    reads=(StateEntry.LR,),
    prologue="const T lr = (T)state[LR], eps = (T)epsilon;",
    scalars=("epsilon",),
)
def adagrad(g, state, epsilon, theta, v):
    """v ← v + g², θ ← θ − ηg/(√v + ε). (variant of E8, in PyTorch's form)"""
    lr = theta.dtype.type(state[StateEntry.LR])
    v = v + g * g
    return theta - lr * g / (np.sqrt(v) + epsilon), v
