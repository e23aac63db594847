"""Batch and layer normalization."""

from __future__ import annotations

from typing import Any

from .. import initializers
from ..kernels import get as kernel
from ..validation import Checked, open_unit_interval, unit_interval
from .base import Layer, Parameter, Quantities, RunningStat


class BatchNormalization(Layer):
    """Batch normalization: x̂ = (x − μ)/√(σ² + ε), z = γx̂ + β, with one μ, σ, γ and β per column.

    x and z are (n, n_in). In training, μ and σ² are the mean and the biased variance of the batch's rows, regardless of
    sample weights. The running values move by running ← running + momentum · (batch − running), with the unbiased
    variance. A batch of one row has no unbiased variance, so the biased one, 0, is used. In prediction, and in a frozen
    layer (trainable = False), μ and σ² are the running values.

    In distributed training each rank normalizes with its own rows, and the running values are averaged over the ranks.
    `DataParallel(synchronized_batch_norm=True)` uses the rows of all ranks, as a single process does.

    Parameters
    ----------
    momentum : float
        The momentum of the running values, in [0, 1].
    epsilon : float
        ε, in (0, 1).

    References
    ----------
    Ioffe and Szegedy 2015. The conventions are PyTorch's.
    """

    batch_statistics = True
    momentum = Checked(unit_interval)
    epsilon = Checked(open_unit_interval)

    def __init__(self, momentum: float = 0.1, epsilon: float = 1e-5) -> None:
        self.momentum = momentum
        self.epsilon = epsilon

    def parameters(self) -> list[Parameter]:
        return _scale_and_shift(self.n_in)

    def running(self) -> list[RunningStat]:
        assert self.n_in is not None
        return [RunningStat("running_mean", (self.n_in,), 0.0), RunningStat("running_variance", (self.n_in,), 1.0)]

    def forward(self, t: Quantities) -> None:
        mean, variance = t.running_mean, t.running_variance
        if t.training and self.trainable:
            factor = 1 / max(t.rows, 1)
            mean = t.mean = kernel("column_mean")(t.a_prev, factor=factor)
            variance = t.variance = kernel("column_variance")(t.a_prev, mean, factor=factor)
        t.x_hat, t.a = kernel("batch_normalize")(t.a_prev, mean, variance, t.gamma, t.beta, epsilon=self.epsilon)

    def backward(self, t: Quantities) -> None:
        """Set ∂C/∂γ = Σ g x̂, ∂C/∂β = Σ g, ∂C/∂x = γ/√(σ² + ε) (g − (∂C/∂β + x̂ ∂C/∂γ)/n), g = ∂C/∂a."""
        g = t.grad_a
        t.dgamma = kernel("column_dot")(g, t.x_hat)
        t.dbeta = g.sum(axis=0)
        if t.training and self.trainable:
            t.grad_prev = kernel("batch_normalize_backward")(
                g, t.x_hat, t.variance, t.gamma, t.dgamma, t.dbeta, factor=1 / max(t.rows, 1), epsilon=self.epsilon
            )
        else:  # μ and σ² are constants
            fixed = kernel("batch_normalize_backward_fixed")
            t.grad_prev = fixed(g, t.running_variance, t.gamma, epsilon=self.epsilon)

    def after_update(self, t: Quantities) -> None:
        """Set running ← running + momentum · (batch − running), with the unbiased variance."""
        if not self.trainable or t.rows == 0:
            return
        update = kernel("update_running_stat")
        unbiased = t.rows / max(t.rows - 1, 1)
        t.running_mean = update(t.mean, t.state, t.running_mean, momentum=self.momentum, factor=1.0)
        t.running_variance = update(t.variance, t.state, t.running_variance, momentum=self.momentum, factor=unbiased)

    def get_config(self) -> dict[str, Any]:
        return {"momentum": self.momentum, "epsilon": self.epsilon}


class LayerNormalization(Layer):
    """Layer normalization: x̂ = (x − μ)/√(σ² + ε), z = γx̂ + β, with μ and σ² over the columns of each row.

    x and z are (n, n_in). Training and prediction are the same.

    Parameters
    ----------
    epsilon : float
        ε, in (0, 1).

    References
    ----------
    Ba, Kiros and Hinton 2016.
    """

    epsilon = Checked(open_unit_interval)

    def __init__(self, epsilon: float = 1e-5) -> None:
        self.epsilon = epsilon

    def parameters(self) -> list[Parameter]:
        return _scale_and_shift(self.n_in)

    def forward(self, t: Quantities) -> None:
        t.x_hat, t.a, t.scale = kernel("layer_normalize")(t.a_prev, t.gamma, t.beta, epsilon=self.epsilon)

    def backward(self, t: Quantities) -> None:
        """Set ∂C/∂γ = Σ g x̂, ∂C/∂β = Σ g, ∂C/∂x = (u − ū − x̂ · mean(u x̂))/√(σ² + ε), u = γg, g = ∂C/∂a."""
        t.dgamma = kernel("column_dot")(t.grad_a, t.x_hat)
        t.dbeta = t.grad_a.sum(axis=0)
        t.grad_prev = kernel("layer_normalize_backward")(t.grad_a, t.x_hat, t.scale, t.gamma)

    def get_config(self) -> dict[str, Any]:
        return {"epsilon": self.epsilon}


def _scale_and_shift(n_in: int | None) -> list[Parameter]:
    assert n_in is not None
    return [
        Parameter("gamma", (n_in,), initializers.get("ones")),
        Parameter("beta", (n_in,), initializers.get("zeros")),
    ]
