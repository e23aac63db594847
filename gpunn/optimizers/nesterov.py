"""Gradient descent with Nesterov's momentum."""

from __future__ import annotations

from ..kernels.nesterov import nesterov as rule
from .momentum import Momentum


class Nesterov(Momentum):
    """v ← μv + g, θ ← θ − η(g + μv), v = 0 at first; μ = 0.9 unless given. (E8's descendant; PyTorch's form)"""

    name = "nesterov"
    rule = rule
