"""Gradient descent with Nesterov's momentum."""

from ._compiler.update_rule import update_rule
from .state import StateEntry


@update_rule(
    "v",
    "v = mu * v + g; theta = theta - lr * (g + mu * v);",
    reads=(StateEntry.LR,),
    prologue="const T lr = (T)state[LR], mu = (T)momentum;",
    scalars=("momentum",),
)
def nesterov(g, state, momentum, theta, v):
    """v ← μv + g, θ ← θ − η(g + μv). (variant of E8, in PyTorch's form)"""
    lr = theta.dtype.type(state[StateEntry.LR])
    v = momentum * v + g
    return theta - lr * (g + momentum * v), v
