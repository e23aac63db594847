"""PyTorch on the task's device: precision, clock, conversions."""

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
    """Set the number of threads and the precision of float32 products: TF32 only for "tf32"."""
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision("high" if task.precision == "tf32" else "highest")


def on_device(task: Task, x: np.ndarray) -> torch.Tensor:
    """An array as a tensor on the task's device; not copied on a CPU."""
    return torch.from_numpy(x).to(task.device)


def precision_context(task: Task) -> Callable[[], AbstractContextManager[Any]]:
    """The context in which products are computed in bfloat16 for "bf16"; parameters stay float32."""
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
    """The matrix product a b in the task's precision."""
    with torch.no_grad(), precision_context(task)():
        return on_device(task, a) @ on_device(task, b)


def to_host(x: torch.Tensor) -> np.ndarray:
    """A tensor as a NumPy array."""
    found: np.ndarray = x.detach().float().cpu().numpy() if x.dtype == torch.bfloat16 else x.detach().cpu().numpy()
    return found


def release() -> None:
    """Free cached GPU memory, and reset compiled functions, whose number of recompilations is limited."""
    torch.compiler.reset()
    torch.cuda.empty_cache()
