"""The other floor on a GPU: a copy of as many bytes as a step must move (`Net.bytes_of_step`), half of them read, half
written, between buffers larger than its caches."""

from __future__ import annotations

import torch

from ..conventions import Task
from . import torch_device
from .torch_device import release, to_host

__all__ = ["CHUNK", "PACKAGES", "prepare", "release", "to_host"]

PACKAGES = ("torch", "numpy")
CHUNK = {"cpu": 1 << 24, "cuda": 1 << 30}  # bytes of a buffer


class TorchBytes:
    """Two buffers."""

    def __init__(self, task: Task) -> None:
        self.task, self.clock = task, torch_device.clock(task)
        self.source = torch.randint(256, (CHUNK[task.device],), dtype=torch.uint8, device=task.device)
        self.target = torch.empty_like(self.source)
        self.copied = 0

    def train(self, epochs: int) -> None:
        """The bytes of so many epochs' steps."""
        left = epochs * self.task.net.steps * self.task.net.bytes_of_step(self.task.precision) // 2
        self.copied = left
        while left > 0:
            n = min(left, len(self.source))
            self.target[:n].copy_(self.source[:n])
            left -= n


def prepare(task: Task, threads: int) -> TorchBytes:
    """PyTorch with so many threads beside the GPU."""
    torch_device.set_up(task, threads)
    return TorchBytes(task)
