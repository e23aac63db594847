"""Gradient descent."""

from ._compiler.update_rule import update_rule
from .state import StateEntry


@update_rule(source="theta = theta - lr * g;", prologue="const T lr = (T)state[LR];")  # mutate: E8 sgd
def sgd(g, state, theta):
    """θ ← θ − η g. (E8)"""
    lr = theta.dtype.type(state[StateEntry.LR])
    return theta - lr * g
