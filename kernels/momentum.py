"""Gradient descent with momentum."""

from ._compiler.update_rule import update_rule
from .state import StateEntry


@update_rule(
    "v",
    "v = mu * v + g; theta = theta - lr * v;",
    reads=(StateEntry.LR,),
    prologue="const T lr = (T)state[LR], mu = (T)momentum;",
    scalars=("momentum",),
)
def momentum(g, state, momentum, theta, v):
    """v ← μv + g, θ ← θ − ηv. (variant of E8, in PyTorch's form)"""
    lr = theta.dtype.type(state[StateEntry.LR])
    v = momentum * v + g
    return theta - lr * v, v
