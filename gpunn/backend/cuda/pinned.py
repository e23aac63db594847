"""A way for rows to a GPU while it computes: page-locked memory on the host, and a stream that only copies."""

from __future__ import annotations

from typing import Any

import numpy as np


class Staging:
    """An array of the device, and one of the host from which it is filled; on a CPU they are one.

    The host fills `host` between `emptied` and `send`; the device may use `device` between `arrived` and `used`.
    """

    def __init__(self, array: np.ndarray) -> None:
        self.host: np.ndarray = array
        self.device: Any = array

    def emptied(self) -> None:
        """Wait until what was sent last has left `host`."""

    def send(self, count: int) -> None:
        """Begin to copy the first `count` rows of `host` to `device`, once the work named by `used` is over."""

    def arrived(self) -> None:
        """Let the work that is asked of the device from now on wait for what was sent last."""

    def used(self) -> None:
        """All work on what was sent last has been asked of the device."""


class PinnedStaging(Staging):
    """On a GPU: page-locked memory, which a copy engine reads by itself, and events between the two streams."""

    def __init__(self, cupy: Any, shape: tuple[int, ...], dtype: Any, stream: Any) -> None:
        self.cupy, self.stream = cupy, stream
        dtype = np.dtype(dtype)
        self.device: Any = cupy.empty(shape, dtype=dtype)
        size = int(np.prod(shape))
        self._memory = cupy.cuda.alloc_pinned_memory(max(1, size * dtype.itemsize))
        self.host = np.frombuffer(self._memory, dtype, size).reshape(shape)
        self._sent, self._used = (cupy.cuda.Event(disable_timing=True) for _ in range(2))

    def emptied(self) -> None:
        self._sent.synchronize()

    def send(self, count: int) -> None:
        self.stream.wait_event(self._used)
        self.device[:count].set(self.host[:count], stream=self.stream)
        self.stream.record(self._sent)

    def arrived(self) -> None:
        self.cupy.cuda.get_current_stream().wait_event(self._sent)

    def used(self) -> None:
        self.cupy.cuda.get_current_stream().record(self._used)
