"""Gradient descent."""

from __future__ import annotations

from typing import Any, Unpack

from ..kernels.sgd import sgd
from .base import Clipping, Optimizer


class SGD(Optimizer):
    """Gradient descent: θ ← θ − η ∂C/∂θ. With batch_size=1 it is the stochastic gradient descent of E8.

    Parameters
    ----------
    learning_rate : float or Schedule
        η > 0, or a schedule of `gpunn.schedules`.
    clipvalue, clipnorm : float or None
        Gradient clipping, as in `Optimizer`.
    """

    name = "sgd"
    rule = sgd

    def __init__(self, learning_rate: Any = 0.01, **clipping: Unpack[Clipping]) -> None:
        super().__init__(learning_rate, **clipping)
