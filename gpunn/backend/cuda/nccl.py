"""All-reduce of GPU arrays over processes, by NCCL through CuPy.

Source: NCCL's user guide, and CuPy's `cupy.cuda.nccl.NcclCommunicator`. NOT RUN on a GPU: tested with a fake of CuPy's
interface only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..base import Communicator

Launch = Callable[[], None]
TYPES = {"float32": "NCCL_FLOAT32", "float64": "NCCL_FLOAT64", "int32": "NCCL_INT32", "int64": "NCCL_INT64"}


class Nccl:
    """The all-reduce of one GPU per process.

    All processes create it together. Rank 0's identifier is sent to all of them by the process group.
    """

    def __init__(self, xp: Any, processes: Communicator) -> None:
        try:
            # `import cupy` does not import this module, and it is empty if CuPy finds no NCCL
            from cupy.cuda import nccl

            communicator = nccl.NcclCommunicator
            identifier = nccl.get_unique_id() if processes.rank == 0 else None
        except (AttributeError, ImportError) as error:
            raise RuntimeError(
                "several processes with GPUs need NCCL, which this CuPy lacks: install NVIDIA's nccl, or train with "
                f"device='cpu' ({error})"
            ) from error
        self._nccl = nccl
        self._xp = xp
        self._stream: Any = None
        identifier = processes.allgather("the start of NCCL", identifier)[0]
        self._communicator = communicator(processes.size, identifier, processes.rank)

    def bind_async_all_reduce(self, arrays: Sequence[Any], *, blocking: bool) -> tuple[list[Launch], list[Launch]]:
        """Bind the sum of arrays over all processes, in place, as one NCCL group.

        Parameters
        ----------
        arrays : sequence of contiguous GPU arrays
        blocking : bool
            Run in the current stream. Else run in a separate stream, which waits for the current one.

        Returns
        -------
        start, wait : lists of launches
            The launches that start the all-reduce, and those that make the current stream wait for it. `wait` is empty
            if `blocking`.
        """
        nccl = self._nccl
        cuda = self._xp.cuda
        # NCCL gets addresses only: each call is stored with its array, which keeps the memory allocated
        calls = [
            (a, (a.data.ptr, a.data.ptr, a.size, getattr(nccl, TYPES[a.dtype.name]), nccl.NCCL_SUM))
            for a in arrays
            if a.size
        ]
        if not calls:
            return [], []

        def submit(stream: Any) -> None:
            nccl.groupStart()
            for _, call in calls:
                self._communicator.allReduce(*call, stream.ptr)
            nccl.groupEnd()

        if blocking:
            return [lambda: submit(cuda.get_current_stream())], []
        if self._stream is None:
            self._stream = cuda.Stream(non_blocking=True)
        separate = self._stream
        ready = cuda.Event(disable_timing=True)
        summed = cuda.Event(disable_timing=True)

        def start() -> None:
            cuda.get_current_stream().record(ready)
            separate.wait_event(ready)
            submit(separate)
            separate.record(summed)

        return [start], [lambda: cuda.get_current_stream().wait_event(summed)]
