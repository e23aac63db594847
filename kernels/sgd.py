"""Gradient descent."""

from ._compiler.update_rule import update_rule
from .state import StateEntry


@update_rule(
    source="theta = theta - lr * g;",  # mutate: E8 sgd
    reads=(StateEntry.LR,),
    prologue="const T lr = (T)state[LR];",
)
def sgd(g, state, theta):
    """θ ← θ − η g. (E8)"""
    lr = theta.dtype.type(state[StateEntry.LR])
    return theta - lr * g
