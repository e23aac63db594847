"""PyTorch where the task wants it: device, precision, clock."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch

from ..clocks import Clock, EventClock
from ..conventions import Task


def set_up(task: Task, threads: int) -> None:
    """So many threads, and the precision of float32 products: TF32 only where it is asked for."""
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision("high" if task.precision == "tf32" else "highest")


def on_device(task: Task, x: np.ndarray) -> torch.Tensor:
    """An array as a tensor of the task's device; not copied where that is the CPU."""
    return torch.from_numpy(x).to(task.device)


def precision_context(task: Task) -> Callable[[], AbstractContextManager[Any]]:
    """The context in which products take bfloat16 where the task wants it; parameters stay float32."""
    if task.precision != "bf16":
        return contextlib.nullcontext
    return lambda: torch.autocast(task.device, dtype=torch.bfloat16)


def clock(task: Task) -> Clock:
    """The device's clock."""
    if task.device == "cpu":
        return Clock()

    def event() -> torch.cuda.Event:
        made = torch.cuda.Event(enable_timing=True)
        made.record()
        return made

    return EventClock(torch.cuda.synchronize, event, lambda first, last: first.elapsed_time(last))


def product(task: Task, a: np.ndarray, b: np.ndarray) -> torch.Tensor:
    """a b as the task's precision computes it."""
    with torch.no_grad(), precision_context(task)():
        return on_device(task, a) @ on_device(task, b)


def to_host(x: torch.Tensor) -> np.ndarray:
    """A tensor as NumPy's."""
    found: np.ndarray = x.detach().float().cpu().numpy() if x.dtype == torch.bfloat16 else x.detach().cpu().numpy()
    return found


def release() -> None:
    """Give the GPU's memory back that PyTorch keeps, and forget what was compiled: a function is compiled anew for so
    many nets only."""
    torch.compiler.reset()
    torch.cuda.empty_cache()
