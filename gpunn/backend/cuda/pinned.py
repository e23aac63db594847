"""Asynchronous copies to a GPU: pinned host memory, and a stream that only copies."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..base import TransferBuffer


class PinnedBuffer(TransferBuffer):
    """A transfer buffer in pinned memory. Events order the copy stream and the stream that computes."""

    def __init__(self, cupy: Any, shape: tuple[int, ...], dtype: Any, stream: Any) -> None:
        self.cupy = cupy
        self.stream = stream
        dtype = np.dtype(dtype)
        self.device: Any = cupy.empty(shape, dtype=dtype)
        size = int(np.prod(shape))
        self._memory = cupy.cuda.alloc_pinned_memory(max(1, size * dtype.itemsize))
        self.host = np.frombuffer(self._memory, dtype, size).reshape(shape)
        self._copied = cupy.cuda.Event(disable_timing=True)
        self._consumed = cupy.cuda.Event(disable_timing=True)

    def wait_reusable(self) -> None:
        self._copied.synchronize()

    def copy_async(self, count: int) -> None:
        self.stream.wait_event(self._consumed)
        self.device[:count].set(self.host[:count], stream=self.stream)
        self.stream.record(self._copied)

    def wait_on_stream(self) -> None:
        self.cupy.cuda.get_current_stream().wait_event(self._copied)

    def mark_consumed(self) -> None:
        self.cupy.cuda.get_current_stream().record(self._consumed)
