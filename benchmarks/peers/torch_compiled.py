"""PyTorch with `torch.compile` over the whole step: gather, forward, gradients and update in one graph.

This was the fastest variant when it was chosen: compiling only model and loss, with the fused optimizer outside, was no
faster than eager mode on small nets. `cpp_wrapper` removes Python from the compiled graph.
"""

from __future__ import annotations

import numpy as np
import torch
import torch._inductor.config
from torch.nn import functional as F

from ..conventions import BETA_1, BETA_2, EPSILON, Task
from .torch_eager import cost

PACKAGES = ("torch", "numpy")


class TorchCompiled:
    """Parameters and moments as lists of tensors, with weights (n_out, n_in) for `F.linear`."""

    def __init__(self, task: Task) -> None:
        self.task, self.t, self.epoch = task, 0, 0
        self.X, self.y = torch.from_numpy(task.X), torch.from_numpy(task.y)
        self.p = [torch.from_numpy(np.ascontiguousarray(w.T)).clone() for w in task.weights]
        self.m = [torch.zeros_like(p) for p in self.p]
        self.v = [torch.zeros_like(p) for p in self.p]
        self.step = torch.compile(self._step)
        self.forward = torch.compile(self._forward)

    def logits(self, p: list[torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        for k in range(0, len(p), 2):
            x = F.linear(x, p[k], p[k + 1])
            if k < len(p) - 2:
                x = F.relu(x)
        return x

    def _forward(self, p: list[torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        z = self.logits(p, x)
        return F.softmax(z, dim=1) if self.task.net.loss == "crossentropy" else z

    def _step(
        self,
        p: list[torch.Tensor],
        m: list[torch.Tensor],
        v: list[torch.Tensor],
        X: torch.Tensor,
        y: torch.Tensor,
        rows: torch.Tensor,
        rate: torch.Tensor,
    ) -> torch.Tensor:
        """Run one step in place; `rate` is [η/(1 − β₁ᵗ), √(1 − β₂ᵗ)]."""
        x, targets = X.index_select(0, rows), y.index_select(0, rows)
        gradients, loss = torch.func.grad_and_value(lambda p: cost(self.task.net, self.logits(p, x), targets))(p)
        for k, g in enumerate(gradients):
            if self.task.net.rule == "sgd":
                p[k].sub_(rate[0] * g)
                continue
            m[k].mul_(BETA_1).add_(g, alpha=1 - BETA_1)
            v[k].mul_(BETA_2).addcmul_(g, g, value=1 - BETA_2)
            p[k].sub_(rate[0] * m[k] / (v[k].sqrt() / rate[1] + EPSILON))
        return loss

    def steps(self, n: int) -> list[torch.Tensor]:
        """Run n steps of the next epoch and return their losses."""
        net, order = self.task.net, torch.from_numpy(self.task.order(self.epoch))
        self.epoch += 1
        found = []
        t = np.arange(self.t + 1, self.t + n + 1)
        rates = np.full((n, 2), net.learning_rate)
        if net.rule == "adam":
            rates[:, 0] /= 1 - BETA_1**t
            rates[:, 1] = np.sqrt(1 - BETA_2**t)
        self.t += n
        each = torch.from_numpy(rates.astype(self.task.dtype)).unbind()
        with torch.no_grad():
            for rows, rate in zip(order.split(net.batch)[:n], each, strict=True):
                found.append(self.step(self.p, self.m, self.v, self.X, self.y, rows, rate))
        return found

    def losses(self, n: int) -> list[float]:
        return [loss.item() for loss in self.steps(n)]

    def train(self, epochs: int) -> None:
        for _ in range(epochs):
            self.steps(self.task.net.steps)

    def predict(self) -> np.ndarray:
        with torch.inference_mode():
            found: np.ndarray = torch.cat([self.forward(self.p, x) for x in self.X.split(self.task.net.block)]).numpy()
        return found

    def weights(self) -> list[np.ndarray]:
        return [p.numpy().T.copy() for p in self.p]


def prepare(task: Task, threads: int) -> TorchCompiled:
    """Prepare the contestant. A missing C++ compiler is an error at the first step."""
    torch.set_num_threads(threads)
    torch._inductor.config.cpp_wrapper = True
    return TorchCompiled(task)
