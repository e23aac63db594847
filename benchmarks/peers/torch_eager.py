"""PyTorch in eager mode with its fused optimizers, as users write it."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from torch.nn import functional as F

from ..conventions import BETA_1, BETA_2, EPSILON, Orders, Task
from ..nets import Net
from . import torch_device
from .torch_device import release, to_host

__all__ = ["PACKAGES", "TorchEager", "cost", "prepare", "release", "to_host"]

PACKAGES = ("torch", "numpy")


def cost(net: Net, z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """C of a batch, the mean over its rows."""
    if net.loss == "half_squared_error":
        # `mean` is over all elements, which for one output means over the rows
        return 0.5 * F.mse_loss(z, y)
    return F.cross_entropy(z, y)


class TorchEager:
    """An `nn.Sequential` with the task's transposed weights, and its optimizer."""

    def __init__(self, task: Task) -> None:
        self.task, self.epoch = task, 0
        self.clock, self.precision_context = torch_device.clock(task), torch_device.precision_context(task)
        self.X, self.y = torch_device.on_device(task, task.X), torch_device.on_device(task, task.y)
        self.order = Orders(task, lambda rows: torch_device.on_device(task, rows))
        sizes, layers = task.net.sizes, []
        for n_in, n_out in pairwise(sizes):
            layers += [torch.nn.Linear(n_in, n_out, dtype=self.X.dtype), torch.nn.ReLU()]
        self.model = torch.nn.Sequential(*layers[:-1]).to(task.device)
        with torch.no_grad():
            for p, w in zip(self.model.parameters(), task.weights, strict=True):
                p.copy_(torch.from_numpy(np.ascontiguousarray(w.T)))
        lr = task.net.learning_rate
        if task.net.rule == "sgd":
            self.rule: torch.optim.Optimizer = torch.optim.SGD(self.model.parameters(), lr, fused=True)
        else:
            betas = (BETA_1, BETA_2)
            on_gpu = task.device != "cpu"
            self.rule = torch.optim.Adam(self.model.parameters(), lr, betas, eps=EPSILON, fused=True, capturable=on_gpu)

    def batches(self) -> tuple[torch.Tensor, ...]:
        """The rows of each step of the next epoch."""
        order = self.order(self.epoch)
        self.epoch += 1
        batches: tuple[torch.Tensor, ...] = order.split(self.task.net.batch)
        return batches

    def step(self, rows: torch.Tensor) -> torch.Tensor:
        """Run one step; returns the loss before it."""
        x, y = self.X.index_select(0, rows), self.y.index_select(0, rows)
        self.rule.zero_grad(set_to_none=True)
        with self.precision_context():
            loss = cost(self.task.net, self.model(x), y)
        loss.backward()
        self.rule.step()
        return loss

    def losses(self, n: int) -> list[float]:
        return [self.step(rows).item() for rows in self.batches()[:n]]

    def train(self, epochs: int) -> None:
        for _ in range(epochs):
            for rows in self.batches():
                self.step(rows)

    def predict(self) -> torch.Tensor:
        parts = []
        with torch.inference_mode(), self.precision_context():
            for x in self.X.split(self.task.net.block):
                z = self.model(x)
                parts.append(F.softmax(z, dim=1) if self.task.net.loss == "crossentropy" else z)
            return torch.cat(parts)

    def weights(self) -> list[np.ndarray]:
        return [to_host(p).T.copy() for p in self.model.parameters()]

    def product(self, a: np.ndarray, b: np.ndarray) -> torch.Tensor:
        return torch_device.product(self.task, a, b)


def prepare(task: Task, threads: int) -> TorchEager:
    """Prepare the contestant with `threads` threads."""
    torch_device.set_up(task, threads)
    return TorchEager(task)
