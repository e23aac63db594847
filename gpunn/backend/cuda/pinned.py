"""A way for rows to a GPU while it computes: page-locked memory on the host, and a stream that only copies."""

from __future__ import annotations

from typing import Any

import numpy as np


class TransferBuffer:
    """An array of the device, and one of the host from which it is filled; on a CPU they are one.

    The host fills `host` between `wait_reusable` and `copy_async`.
    The device may use `device` between `wait_on_stream` and `mark_consumed`.
    """

    def __init__(self, array: np.ndarray) -> None:
        self.host: np.ndarray = array
        self.device: Any = array

    def wait_reusable(self) -> None:
        """Wait until what was sent last has left `host`."""

    def copy_async(self, count: int) -> None:
        """Start to copy the first `count` rows of `host` to `device`, after the work before `mark_consumed`."""

    def wait_on_stream(self) -> None:
        """Let the work that is asked of the device from now on wait for what was sent last."""

    def mark_consumed(self) -> None:
        """All work on what was sent last has been asked of the device."""


class PinnedBuffer(TransferBuffer):
    """On a GPU: page-locked memory, which a copy engine reads by itself, and events between the two streams."""

    def __init__(self, cupy: Any, shape: tuple[int, ...], dtype: Any, stream: Any) -> None:
        self.cupy, self.stream = cupy, stream
        dtype = np.dtype(dtype)
        self.device: Any = cupy.empty(shape, dtype=dtype)
        size = int(np.prod(shape))
        self._memory = cupy.cuda.alloc_pinned_memory(max(1, size * dtype.itemsize))
        self.host = np.frombuffer(self._memory, dtype, size).reshape(shape)
        self._sent, self._used = (cupy.cuda.Event(disable_timing=True) for _ in range(2))

    def wait_reusable(self) -> None:
        self._sent.synchronize()

    def copy_async(self, count: int) -> None:
        self.stream.wait_event(self._used)
        self.device[:count].set(self.host[:count], stream=self.stream)
        self.stream.record(self._sent)

    def wait_on_stream(self) -> None:
        self.cupy.cuda.get_current_stream().wait_event(self._sent)

    def mark_consumed(self) -> None:
        self.cupy.cuda.get_current_stream().record(self._used)
