"""L-BFGS: scikit-learn's loop with the loss and gradient of gpunn's network."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..kernels.state import StateEntry
from ..model import Sequential
from ..network import ExecutableSpec, StepOptions
from ..program.groups import BatchShard
from ..training import inputs
from ..training.evaluation import BorrowedExecutables
from .fit_data import MLPFitData

LBFGS_ELEMENTS = 1 << 22  # the largest number of elements of the widest layer in one block of rows


class LbfgsObjective:
    """C(θ) and ∂C/∂θ over a whole dataset, evaluated in blocks of rows so that memory stays bounded."""

    def __init__(self, model: Sequential, data: tuple[Any, Any, Any], alpha: float) -> None:
        net = model._net
        self.net = net
        self.alpha = alpha
        self.data = inputs.on_device(net, data)
        self.executables = BorrowedExecutables(net)  # a context around all evaluations
        self.total_weight = float(data[0].shape[0] if data[2] is None else data[2].sum(dtype=np.float64))
        self.penalized = sum(p.stop - p.start for p in net.slices if p.parameter.penalized)
        widest = max(net.n_in, *(layer.n_out or 1 for layer in net.layers))
        rows = max(1024, LBFGS_ELEMENTS // widest)
        n = self.data.n
        self.blocks = [(start, min(rows, n - start)) for start in range(0, n, rows)]
        self.best_loss = math.inf
        self.best_theta = np.empty(0)
        self.improvements = 0

    def __call__(self, packed: np.ndarray) -> tuple[float, np.ndarray]:
        """C = Σwℓ/Σw + ½α ΣW²/Σw and its gradient (E3, E6, E7, E9) in float64."""
        net = self.net
        net.theta[...] = net.backend.asarray(packed.astype(net.dtype))
        gradient, loss = np.zeros(len(packed)), 0.0
        with net.backend.activate():
            for start, n in self.blocks:
                loss += self._add_block(start, n, gradient)
        W = packed[: self.penalized]
        gradient[: self.penalized] += self.alpha * W / self.total_weight
        loss += 0.5 * self.alpha * float(W @ W) / self.total_weight
        if loss < self.best_loss:
            self.best_loss = loss
            self.best_theta = np.array(packed)
            self.improvements += 1
        return loss, gradient

    def _add_block(self, start: int, n: int, gradient: np.ndarray) -> float:
        """Add a block's share of the gradient to `gradient`; return its share of the loss."""
        options = StepOptions(training=True, loss=True, backward=True, weighted=self.data.w is not None)
        executable = self.executables.get(ExecutableSpec(options, (BatchShard.of(n),)), self.data.named())
        executable.state[StateEntry.OFFSET] = start
        executable.run()
        state = self.net.backend.to_host(executable.state)
        fraction = float(state[StateEntry.WEIGHT]) / self.total_weight
        if not fraction:
            return 0.0
        gradient += fraction * self.net.backend.to_host(executable.gradient)
        return fraction * float(state[StateEntry.LOSS])


class MLPLbfgsFit(MLPFitData):
    """Fitting with solver="lbfgs"."""

    _lbfgs_objective: LbfgsObjective

    def _fit_lbfgs(self, X: Any, y: Any, sample_weight: Any, *given: Any) -> None:
        layer_units = given[-1]
        model = self._network(layer_units, continues=False)
        w = self._combined_weights(y, sample_weight)
        objective = LbfgsObjective(model, self._targets(model, X, y, w), float(self.alpha))
        self._lbfgs_objective = objective
        # scikit-learn writes the result into these lists; those of an earlier fit belong to the caller
        self.coefs_, self.intercepts_ = list(self.coefs_), list(self.intercepts_)
        try:
            with objective.executables:
                super()._fit_lbfgs(X, y, sample_weight, *given)  # type: ignore[misc]
        except KeyboardInterrupt:
            if objective.improvements < 2:
                raise
            # every iteration of L-BFGS lowers C, so the lowest C belongs to the last complete iteration
            self.loss_ = objective.best_loss
            self._unpack(objective.best_theta)
            self._has_stepped = lambda: True
            self._replace_network(model)
            raise
        finally:
            del self._lbfgs_objective
        self._replace_network(model)

    def _loss_grad_lbfgs(self, packed: np.ndarray, *arguments: Any) -> tuple[float, np.ndarray]:
        """(C, ∂C/∂θ) at the packed θ: all weights, then all intercepts, in the order of the network's flat buffer."""
        return self._lbfgs_objective(packed)
