"""PyTorch with a whole step captured by hand as one CUDA graph: gather, forward, gradients and the fused update.

The batch number is on the GPU and incremented there, so that a step is one launch without input from the host.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ..conventions import Task
from . import torch_device
from .torch_device import release, to_host
from .torch_eager import TorchEager

__all__ = ["PACKAGES", "capture", "prepare", "release", "to_host"]

PACKAGES = ("torch", "numpy")
WARM_UP = 3


def capture(body: Callable[[], Any]) -> tuple[Callable[[], Any], Any]:
    """Capture `body`; returns the function that replays it, and its result, whose memory every replay overwrites.

    `body` first runs a few times on a side stream, which PyTorch requires.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            body()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = body()
    return graph.replay, result


class TorchGraph(TorchEager):
    """Like `TorchEager`, captured at the first step and at the first prediction."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        net = task.net
        self.rows = self.order(0).view(net.steps, net.batch).clone()
        self.k = torch.zeros(1, dtype=torch.int64, device=task.device)
        self.found = torch.zeros(net.steps, dtype=self.X.dtype, device=task.device)
        start = [p.detach().clone() for p in self.model.parameters()]
        self.replay, _ = capture(self.body)
        # the runs before the capture changed all state, so it is reset
        with torch.no_grad():
            for p, first in zip(self.model.parameters(), start, strict=True):
                p.copy_(first)
                for moment in self.rule.state[p].values():
                    if isinstance(moment, torch.Tensor):
                        moment.zero_()
            self.k.zero_()
        self.answers: tuple[Callable[[], Any], Any] | None = None

    def body(self) -> None:
        """Run one step on batch k, store its loss and increment k."""
        k = self.k.remainder(len(self.rows))
        loss = self.step(self.rows.index_select(0, k)[0])
        self.found.index_copy_(0, k, loss.detach().view(1).to(self.found.dtype))
        self.k.add_(1)

    def steps(self, n: int) -> None:
        """Run n steps of the next epoch."""
        self.rows.copy_(self.order(self.epoch).view_as(self.rows))
        self.epoch += 1
        self.k.zero_()
        for _ in range(n):
            self.replay()

    def losses(self, n: int) -> list[float]:
        self.steps(n)
        return [float(loss) for loss in self.found[:n].tolist()]

    def train(self, epochs: int) -> None:
        for _ in range(epochs):
            self.steps(self.task.net.steps)

    def predict(self) -> torch.Tensor:
        if self.answers is None:
            self.answers = capture(super().predict)
        replay, found = self.answers
        replay()
        answer: torch.Tensor = found
        return answer


def prepare(task: Task, threads: int) -> TorchGraph:
    """Prepare the contestant, with `threads` threads on the host."""
    torch_device.set_up(task, threads)
    return TorchGraph(task)
