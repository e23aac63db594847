"""The CUDA backend: CuPy arrays on one GPU, cuBLASLt and CUDA graphs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

import numpy as np

from ...program import Op, Rule
from ..arrays import is_device_array, to_host
from ..base import AllReducer, Backend, Communicator, OnFallback, TransferBuffer
from ..errors import DeviceError
from ..executor import Launch
from .errors import forked
from .graph import build_graphs
from .matmul import UNIT_ROUNDOFF, GpuMatmul
from .memory import is_out_of_memory, out_of_memory
from .nccl import Nccl
from .pinned import PinnedBuffer
from .rules import OPS, FusionRules

MEMORY_FRACTION = 0.75  # of the free memory that a data set may take; the rest is for intermediate results


def from_cuda_interface(x: Any) -> Any:
    """A CuPy array that shares the memory of another library's GPU array (`__cuda_array_interface__`)."""
    import cupy

    return cupy.asarray(x)


class CUDABackend(Backend):
    """CuPy on one GPU."""

    def __init__(self, cupy: Any, index: int, reason: str) -> None:
        self.xp = cupy
        self.index = index
        self.reason = reason
        self.device = f"cuda:{index}"
        self.process = os.getpid()
        self.gpu_matmul = GpuMatmul(cupy, self.device)
        self.fusions = FusionRules(self.gpu_matmul, self.activate)

    def asarray(self, x: Any, dtype: Any = None) -> Any:
        with self.activate():
            if not is_device_array(x):
                # cast on the host: float64 that becomes float32 is half the bytes to copy
                x = np.asarray(x, dtype=dtype)
            elif x.device.id != self.index:
                # CuPy's asarray leaves an array on its GPU; copy moves it to the current one
                x = x.copy()
            return self.xp.asarray(x, dtype=dtype)

    def to_host(self, x: Any) -> np.ndarray:
        self._check_process()
        return to_host(x)

    def transfer_buffers(self, like: Sequence[tuple[tuple[int, ...], Any]]) -> list[TransferBuffer]:
        with self.activate():
            stream = self.xp.cuda.Stream(non_blocking=True)
            return [PinnedBuffer(self.xp, shape, dtype, stream) for shape, dtype in like]

    def fits_in_memory(self, size: int) -> bool:
        with self.activate():
            free = self.xp.cuda.runtime.memGetInfo()[0] + self.xp.get_default_memory_pool().free_bytes()
        return bool(size <= MEMORY_FRACTION * free)

    def release_memory(self) -> None:
        with self.activate():
            self.xp.get_default_memory_pool().free_all_blocks()
            self.xp.get_default_pinned_memory_pool().free_all_blocks()

    def synchronize(self) -> None:
        with self.activate():
            self.xp.cuda.runtime.deviceSynchronize()

    def activate(self) -> AbstractContextManager[Any]:
        self._check_process()
        return _DeviceContext(self)

    def _check_process(self) -> None:
        """Raise DeviceError in a process that was forked from the one that used the GPU."""
        if os.getpid() != self.process:
            raise DeviceError(f"{self.device} cannot be used: {forked()}")

    def device_count(self) -> int:
        """The number of GPUs that this process sees."""
        return int(self.xp.cuda.runtime.getDeviceCount())

    def all_reducer(self, group: Communicator) -> AllReducer:
        with self.activate():
            return Nccl(self.xp, group)

    def bind_matmul(self, a: Any, b: Any, out: Any, precision: str | None = None) -> Launch:
        with self.activate():
            return self.gpu_matmul.bind(a, b, out, precision)

    def rewrite_rules(self) -> Sequence[Rule]:
        return self.fusions.rules()

    def rewrite_key(self) -> Any:
        return self.fusions, len(self.fusions.refused)

    def bind_op(self, op: Op, inputs: Sequence[Any], outputs: Sequence[Any], precision: str | None = None) -> Launch:
        if op.name not in OPS:
            return super().bind_op(op, inputs, outputs, precision)
        with self.activate():
            return self.fusions.bind(op, inputs, outputs, precision)

    def lower_precision_error(self, *, explicit: bool) -> str:
        with self.activate():
            return self.gpu_matmul.lower_precision_error(self.xp.cuda.Device(self.index).compute_capability)

    def operand_rounding(self, precision: str | None) -> float:
        return UNIT_ROUNDOFF.get(precision or "", 0.0)

    def stores_bfloat16(self, precision: str | None) -> bool:
        return precision == "bf16"

    def allocate_workspace(self, stream: Any) -> Any:
        """Allocate the workspace of a stream before it captures. The caller keeps it as long as the captured graph."""
        with self.activate():
            return self.gpu_matmul.allocate_workspace(stream)

    def compile(
        self, launches: Sequence[Launch], *, flush: bool = False, on_fallback: OnFallback | None = None
    ) -> list[Launch]:
        # `flush` changes nothing: CuPy compiles kernels with subnormal numbers flushed to 0
        return build_graphs(self, launches, on_fallback)


class _DeviceContext:
    """`cupy.cuda.Device` as a context that adds a remedy to errors of exhausted memory."""

    def __init__(self, backend: CUDABackend) -> None:
        self.backend = backend
        self.context = backend.xp.cuda.Device(backend.index)

    def __enter__(self) -> None:
        self.context.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        xp = self.backend.xp
        fault = None
        if error is not None and is_out_of_memory(error, xp):
            fault = out_of_memory(error, xp, self.backend.device)
        self.context.__exit__(kind, error, trace)
        if fault is not None:
            raise MemoryError(str(fault)) from error
