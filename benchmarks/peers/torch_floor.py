"""The floor on a GPU: the matrix products of a step only, by cuBLAS through PyTorch, into existing buffers.

They are captured as one CUDA graph, which removes the overhead of their launches.
"""

from __future__ import annotations

import functools
from typing import Any

import torch

from ..conventions import Task
from . import floor, torch_device, torch_graph
from .torch_device import release, to_host

__all__ = ["PACKAGES", "prepare", "release", "to_host"]

PACKAGES = ("torch", "numpy")


class TorchFloor:
    """Lists of products (a, b, out), in bfloat16 for "bf16"."""

    def __init__(self, task: Task) -> None:
        self.task, self.clock = task, torch_device.clock(task)
        dtype = torch.bfloat16 if task.precision == "bf16" else getattr(torch, task.dtype)
        draws = torch.Generator(task.device).manual_seed(task.seed)

        def numbers(*shape: int) -> torch.Tensor:
            return torch.randn(shape, generator=draws, device=task.device).to(dtype)

        W = [torch_device.on_device(task, w).to(dtype) for w in task.weights[0::2]]
        self.lists = floor.products(task, numbers, W)
        self._replays: dict[int, Any] = {}

    def replay(self, which: int) -> Any:
        """A function that launches the products of a list as one graph."""
        if which not in self._replays:
            self._replays[which], _ = torch_graph.capture(functools.partial(self.run, which))
        return self._replays[which]

    def run(self, which: int) -> None:
        """Compute the products of a list."""
        for a, b, out in self.lists[which]:
            torch.mm(a, b, out=out)

    def train(self, epochs: int) -> None:
        """Compute the products of all steps of the epochs."""
        replay = self.replay(0)
        for _ in range(epochs * self.task.net.steps):
            replay()

    def predict(self) -> torch.Tensor:
        """Compute the products of a prediction; the numbers have no meaning."""
        replay = self.replay(1)
        for _ in range(self.task.net.rows // self.task.net.block):
            replay()
        found: torch.Tensor = self.lists[1][-1][2]
        return found


def prepare(task: Task, threads: int) -> TorchFloor:
    """Prepare the contestant, with `threads` threads on the host."""
    torch_device.set_up(task, threads)
    return TorchFloor(task)
