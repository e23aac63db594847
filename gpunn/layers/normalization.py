"""Batch and layer normalization."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .. import initializers
from ..kernels import get as kernel
from ..recording import Array, Recorder
from ..validation import Checked, open_unit_interval, unit_interval
from .base import Buffers, Layer, Parameter, RunningStat


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

    def allocate(self, t: Buffers, new: Callable[..., Array], n: int, trace: bool) -> None:
        super().allocate(t, new, n, trace)
        t.x_hat = new((n, self.n_in or 0))
        t.mean, t.variance = new((self.n_in or 0,)), new((self.n_in or 0,))
        t.d_gamma, t.d_beta = new((self.n_in or 0,)), new((self.n_in or 0,))

    def forward(self, ops: Recorder, t: Buffers, training: bool) -> None:
        """Record μ = mean x, σ² = mean (x − μ)², x̂ = (x − μ)/√(σ² + ε), z = γx̂ + β."""
        mean, variance = t.running_mean, t.running_variance
        if self._uses_batch_stats(training):
            mean, variance = t.mean, t.variance
            t.rows = ops.batch_norm_count(t.a.shape[0])
            factor = 1 / max(t.rows, 1)
            ops(kernel("column_mean"), t.a_prev, out=mean, factor=factor)
            ops.all_reduce_if_synced(mean)
            ops(kernel("column_variance"), t.a_prev, mean, out=variance, factor=factor)
            ops.all_reduce_if_synced(variance)
        out = (t.x_hat, t.z)
        ops(kernel("batch_normalize"), t.a_prev, mean, variance, t.gamma, t.beta, out=out, epsilon=self.epsilon)

    def backward(self, ops: Recorder, t: Buffers, training: bool) -> None:
        """Record ∂C/∂γ = Σ g x̂, ∂C/∂β = Σ g, ∂C/∂x = γ/√(σ² + ε) (g − (∂C/∂β + x̂ ∂C/∂γ)/n), g = ∂C/∂a."""
        uses_batch_stats = self._uses_batch_stats(training)
        d_gamma, d_beta = (t.dgamma, t.dbeta) if self.trainable else (t.d_gamma, t.d_beta)
        if self.trainable or uses_batch_stats:
            ops(kernel("column_dot"), t.grad_a, t.x_hat, out=d_gamma)
            ops(kernel("column_sum"), t.grad_a, out=d_beta)
        if t.grad_prev is None:
            return
        numbers = {"epsilon": self.epsilon}
        if uses_batch_stats:
            numbers["factor"] = 1 / max(t.rows, 1)
            sums = ops.synced_sums((d_gamma, d_beta), into=(t.d_gamma, t.d_beta))
            ops(
                kernel("batch_normalize_backward"),
                t.grad_a,
                t.x_hat,
                t.variance,
                t.gamma,
                *sums,
                out=t.grad_prev,
                **numbers,
            )
        else:
            reads = (t.grad_a, t.running_variance, t.gamma)
            ops(kernel("batch_normalize_backward_fixed"), *reads, out=t.grad_prev, **numbers)

    def after_update(self, ops: Recorder, t: Buffers) -> None:
        """Record running ← running + momentum · (batch − running), with the unbiased variance."""
        if not self._uses_batch_stats(True) or t.rows == 0:
            return
        n = t.rows
        for running, observed, factor in (
            (t.running_mean, t.mean, 1.0),
            (t.running_variance, t.variance, n / max(n - 1, 1)),
        ):
            ops(kernel("update_running_stat"), observed, t.state, out=running, momentum=self.momentum, factor=factor)

    def _uses_batch_stats(self, training: bool) -> bool:
        return training and self.trainable

    def plan_key(self) -> Any:
        return self.trainable, self.get_config()

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

    def allocate(self, t: Buffers, new: Callable[..., Array], n: int, trace: bool) -> None:
        super().allocate(t, new, n, trace)
        t.x_hat = new((n, self.n_in or 0))
        t.scale = new((n,))

    def forward(self, ops: Recorder, t: Buffers, training: bool) -> None:
        """Record x̂ = (x − μ)/√(σ² + ε), z = γx̂ + β."""
        out = (t.x_hat, t.z, t.scale)
        ops(kernel("layer_normalize"), t.a_prev, t.gamma, t.beta, out=out, epsilon=self.epsilon)

    def backward(self, ops: Recorder, t: Buffers, training: bool) -> None:
        """Record ∂C/∂γ = Σ g x̂, ∂C/∂β = Σ g, ∂C/∂x = (u − ū − x̂ · mean(u x̂))/√(σ² + ε), u = γg, g = ∂C/∂a."""
        if self.trainable:
            ops(kernel("column_dot"), t.grad_a, t.x_hat, out=t.dgamma)
            ops(kernel("column_sum"), t.grad_a, out=t.dbeta)
        if t.grad_prev is not None:
            ops(kernel("layer_normalize_backward"), t.grad_a, t.x_hat, t.scale, t.gamma, out=t.grad_prev)

    def plan_key(self) -> Any:
        return self.trainable, self.get_config()

    def get_config(self) -> dict[str, Any]:
        return {"epsilon": self.epsilon}


def _scale_and_shift(n_in: int | None) -> list[Parameter]:
    assert n_in is not None
    return [
        Parameter("gamma", (n_in,), initializers.get("ones")),
        Parameter("beta", (n_in,), initializers.get("zeros")),
    ]
