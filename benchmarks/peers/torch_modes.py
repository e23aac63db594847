"""PyTorch with `torch.compile` in one of its modes over gather, model and loss, followed by the fused optimizer.

Data and parameters are buffers of one module, because a replayed graph copies any other tensor at every call.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from ..conventions import Task
from ..nets import Net
from . import torch_device
from .torch_device import release, to_host
from .torch_eager import TorchEager, cost

__all__ = ["PACKAGES", "prepare", "release", "to_host"]

PACKAGES = ("torch", "numpy")


class Loss(torch.nn.Module):
    """C of the rows of a batch."""

    def __init__(self, net: Net, model: torch.nn.Module, X: torch.Tensor, y: torch.Tensor) -> None:
        super().__init__()
        self.net, self.model = net, model
        self.register_buffer("X", X)
        self.register_buffer("y", y)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        x, y = self.X.index_select(0, rows), self.y.index_select(0, rows)
        return cost(self.net, self.model(x), y)


class TorchModes(TorchEager):
    """Like `TorchEager`, with a compiled model."""

    def __init__(self, task: Task, mode: str) -> None:
        super().__init__(task)
        loss = Loss(task.net, self.model, self.X, self.y)
        self.loss = torch.compile(loss, mode=mode, dynamic=False, fullgraph=True)
        self.answer = torch.compile(self._outputs, mode=mode, dynamic=False, fullgraph=True)

    def _outputs(self, x: torch.Tensor) -> torch.Tensor:
        z = self.model(x)
        return F.softmax(z, dim=1) if self.task.net.loss == "crossentropy" else z

    def step(self, rows: torch.Tensor) -> torch.Tensor:
        """Run one step; returns the loss before it."""
        torch.compiler.cudagraph_mark_step_begin()
        self.rule.zero_grad(set_to_none=True)
        with self.precision_context():
            loss: torch.Tensor = self.loss(rows)
        loss.backward()
        self.rule.step()
        return loss

    def predict(self) -> torch.Tensor:
        found = torch.empty((self.task.net.rows, self.task.net.sizes[-1]), device=self.task.device, dtype=self.X.dtype)
        blocks = zip(self.X.split(self.task.net.block), found.split(self.task.net.block), strict=True)
        with torch.no_grad(), self.precision_context():
            for x, out in blocks:
                torch.compiler.cudagraph_mark_step_begin()
                out.copy_(self.answer(x))
        return found


def prepare(task: Task, threads: int, mode: str) -> TorchModes:
    """Prepare the contestant. A missing compiler is an error at the first step."""
    torch_device.set_up(task, threads)
    return TorchModes(task, mode)
