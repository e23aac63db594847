"""The second floor on a GPU: a copy of the bytes that a step must move (`Net.bytes_of_step`).

Half of the bytes are read and half written, between buffers larger than the GPU's caches.
"""

from __future__ import annotations

import torch

from ..conventions import Task
from . import torch_device
from .torch_device import release, to_host

__all__ = ["CHUNK", "PACKAGES", "prepare", "release", "to_host"]

PACKAGES = ("torch", "numpy")
CHUNK = {"cpu": 1 << 24, "cuda": 1 << 30}  # bytes per buffer


class TorchBytes:
    """Copies between two buffers."""

    def __init__(self, task: Task) -> None:
        self.task, self.clock = task, torch_device.clock(task)
        self.source = torch.randint(256, (CHUNK[task.device],), dtype=torch.uint8, device=task.device)
        self.target = torch.empty_like(self.source)
        self.copied = 0

    def train(self, epochs: int) -> None:
        """Copy the bytes of all steps of the epochs."""
        left = epochs * self.task.net.steps * self.task.net.bytes_of_step(self.task.precision) // 2
        self.copied = left
        while left > 0:
            n = min(left, len(self.source))
            self.target[:n].copy_(self.source[:n])
            left -= n


def prepare(task: Task, threads: int) -> TorchBytes:
    """Prepare the contestant, with `threads` threads on the host."""
    torch_device.set_up(task, threads)
    return TorchBytes(task)
