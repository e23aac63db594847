"""Gradient descent with Nesterov's momentum."""

from __future__ import annotations

from ..kernels.nesterov import nesterov as rule
from .momentum import Momentum


class Nesterov(Momentum):
    """Nesterov's momentum: v ← μv + g, θ ← θ − η(g + μv), with v = 0 before the first step. (A variant of E8)

    The form is PyTorch's.

    Parameters
    ----------
    learning_rate : float or Schedule
        η > 0, or a schedule of `gpunn.schedules`.
    momentum : float
        μ in [0, 1).
    clipvalue, clipnorm : float or None
        Gradient clipping, as in `Optimizer`.
    """

    name = "nesterov"
    rule = rule
