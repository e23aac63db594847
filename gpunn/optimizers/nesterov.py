"""Gradient descent with Nesterov's momentum."""

from __future__ import annotations

from typing import Any

from ..arguments import fraction
from ..kernels.nesterov import nesterov as rule
from .base import Optimizer


class Nesterov(Optimizer):
    """v ← μv + g, θ ← θ − η(g + μv), v = 0 at first; μ = 0.9 unless given. (E8's descendant; PyTorch's form)"""

    name = "nesterov"
    rule = rule
    moments = ("v",)

    def __init__(self, learning_rate: Any = 0.01, momentum: float = 0.9, **clipping: Any) -> None:
        super().__init__(learning_rate, **clipping)
        self.momentum = fraction("momentum", momentum)

    def hyper(self) -> dict[str, float]:
        return {"momentum": self.momentum}
