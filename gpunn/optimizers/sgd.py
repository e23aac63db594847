"""Gradient descent."""

from __future__ import annotations

from typing import Any

from ..kernels.sgd import sgd
from .base import Optimizer


class SGD(Optimizer):
    """θ ← θ − η ∂C/∂θ: on single pairs (batch_size=1) the text's stochastic gradient descent. (E8)"""

    name = "sgd"
    rule = sgd

    def __init__(self, learning_rate: Any = 0.01, **clipping: Any) -> None:
        super().__init__(learning_rate, **clipping)
