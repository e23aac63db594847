"""Sums over processes in the memory of their GPUs, by NCCL through CuPy.

Source: NCCL's user guide, and CuPy's `cupy.cuda.nccl.NcclCommunicator`. NOT RUN on a GPU: tested on a stand-in for
CuPy's interface alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

Launch = Callable[[], None]
TYPES = {"float32": "NCCL_FLOAT32", "float64": "NCCL_FLOAT64", "int32": "NCCL_INT32", "int64": "NCCL_INT64"}


class ProcessGroup(Protocol):
    """Those that add: this one's number, how many there are, and how they tell each other Python objects."""

    rank: int
    size: int
    local_rank: int

    def allgather(self, where: str, value: Any) -> list[Any]: ...

    def bind_async_all_reduce(self, arrays: Sequence[Any], *, blocking: bool) -> tuple[list[Launch], list[Launch]]: ...


class Nccl:
    """Sums on one GPU a process. Made by all processes at once; the first one's identifier goes to all by MPI."""

    def __init__(self, xp: Any, processes: ProcessGroup) -> None:
        try:
            # a module that `import cupy` leaves aside, and that is empty where it finds no NCCL
            from cupy.cuda import nccl

            make, first = nccl.NcclCommunicator, nccl.get_unique_id() if processes.rank == 0 else None
        except (AttributeError, ImportError) as error:
            raise RuntimeError(
                "several processes with GPUs need NCCL, which this CuPy lacks: install NVIDIA's nccl, or train with "
                f"device='cpu' ({error})"
            ) from error
        self._nccl, self._xp = nccl, xp
        self._stream: Any = None
        identifier = processes.allgather("the start of NCCL", first)[0]
        self._communicator = make(processes.size, identifier, processes.rank)

    def bind_async_all_reduce(self, arrays: Sequence[Any], *, blocking: bool) -> tuple[list[Launch], list[Launch]]:
        """A launch that sends arrays off, as one NCCL group, and one after which each holds the sum over all processes:
        in the current stream if `blocking`, else in a separate stream that waits for it and that it waits for.
        """
        nccl, add, cuda = self._nccl, self._communicator.allReduce, self._xp.cuda
        calls = [
            (a.data.ptr, a.data.ptr, a.size, getattr(nccl, TYPES[a.dtype.name]), nccl.NCCL_SUM)
            for a in arrays
            if a.size
        ]
        kept = list(arrays)  # their memory, for as long as the launch lives

        def send(stream: Any) -> None:
            assert len(kept) >= len(calls)
            nccl.groupStart()
            for call in calls:
                add(*call, stream.ptr)
            nccl.groupEnd()

        if not calls:
            return [], []
        if blocking:
            return [lambda: send(cuda.get_current_stream())], []
        if self._stream is None:
            self._stream = cuda.Stream(non_blocking=True)
        apart, before, after = self._stream, cuda.Event(disable_timing=True), cuda.Event(disable_timing=True)

        def begin() -> None:
            cuda.get_current_stream().record(before)
            apart.wait_event(before)
            send(apart)
            apart.record(after)

        return [begin], [lambda: cuda.get_current_stream().wait_event(after)]
