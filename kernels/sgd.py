"""Gradient descent, the text's own step."""

from ._compiler.update_rule import rule
from .state import Slot


@rule(text="theta = theta - lr * g;", setup="const T lr = (T)state[LR];")  # mutate: E8 sgd
def sgd(g, state, theta):
    """θ ← θ − η g. (E8)"""
    lr = theta.dtype.type(state[Slot.LR])
    return theta - lr * g
