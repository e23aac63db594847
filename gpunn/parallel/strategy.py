"""`DataParallel`, the strategy for `compile`, and the process group that it starts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ..backend import Backend, local_device
from ..kernels import Launch
from ..program import Array
from ..program.groups import SINGLE_PROCESS, SingleProcess
from ..validation import boolean, positive, positive_integer
from . import mpi


class DataParallel:
    """Divide the rows of every batch among the processes that `mpiexec` started, and sum their gradients.

    Row counts of two ranks differ by at most one. P processes take the same steps as one (E6, E7: sums over rows). A
    script that is started without `mpiexec` trains in its one process, with no need for mpi4py. Every process must run
    the same script and make the same calls with the same arguments. Passive callbacks, such as a progress bar or
    `ModelCheckpoint`, are called on rank 0 only.

    Parameters
    ----------
    synchronized_batch_norm : bool, default False
        Compute mean and variance of BatchNormalization over the rows of all processes, as in one process. This needs
        three small all-reduces more per such layer. By default each process uses its own rows, and the running values
        are averaged at the end of an epoch.
    bucket_bytes : int, optional
        By default all gradients are sent together, after the last one is complete. A number sends them in buckets of
        this size during the backward pass. This pays off if communication runs asynchronously: NCCL has a separate
        stream, and some MPI libraries need a thread for it (MPICH_ASYNC_PROGRESS=1).
    timeout : float, default 600.0
        Seconds that a process waits for the others before it ends all of them with a message.

    Raises
    ------
    ImportError
        At `compile`, if `mpiexec` started the script, but mpi4py is not installed.
    RuntimeError
        At `compile`, if `mpiexec` and mpi4py use different MPI libraries.
    ValueError
        On every process, if their arguments or data differ.
    """

    def __init__(
        self, *, synchronized_batch_norm: bool = False, bucket_bytes: int | None = None, timeout: float = 600.0
    ) -> None:
        self.synchronized_batch_norm = boolean("synchronized_batch_norm", synchronized_batch_norm)
        self.bucket_bytes = None if bucket_bytes is None else positive_integer("bucket_bytes", bucket_bytes)
        self.timeout = positive("timeout", timeout)

    def start(self) -> DataParallelGroup | SingleProcess:
        """Return the process group of this launch, without a device yet."""
        world = mpi.world()
        if world is None:
            return SINGLE_PROCESS
        world.timeout = self.timeout
        return DataParallelGroup(
            world, synchronized_batch_norm=self.synchronized_batch_norm, bucket_bytes=self.bucket_bytes
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DataParallel) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash(tuple(vars(self).values()))

    def __repr__(self) -> str:
        return f"DataParallel({', '.join(f'{name}={value!r}' for name, value in vars(self).items())})"


class DataParallelGroup:
    """The processes that train one network together: implements the protocol `gpunn.program.groups.ProcessGroup`."""

    def __init__(
        self, processes: Any, *, synchronized_batch_norm: bool = False, bucket_bytes: int | None = None
    ) -> None:
        self._processes = self._all_reducer = processes
        self.rank = processes.rank
        self.size = processes.size
        self.synchronized_batch_norm = synchronized_batch_norm
        self.bucket_bytes = bucket_bytes

    def backend(self, backend: Backend, requested: Any) -> Backend:
        """Return the device of this process: one GPU per process, unless a device number was requested."""
        return local_device(backend, self._processes) if requested in ("auto", "cuda") else backend

    def set_device(self, backend: Backend) -> None:
        """Choose the all-reduce for arrays of this device. All ranks must call it."""
        self._all_reducer = backend.all_reducer(self._processes)

    def bind_all_reduce(self, arrays: Sequence[Array]) -> list[Launch]:
        start, wait = self._all_reducer.bind_async_all_reduce(arrays, blocking=True)
        return [*start, *wait]

    def bind_async_all_reduce(self, arrays: Sequence[Array]) -> tuple[list[Launch], list[Launch]]:
        start, wait = self._all_reducer.bind_async_all_reduce(arrays, blocking=False)
        return list(start), list(wait)

    def allgather(self, where: str, value: Any) -> list[Any]:
        """Gather one value per rank. `gpunn.parallel.mpi.ProcessError` on all ranks if one of them fails."""
        found: list[Any] = self._processes.allgather(where, value)
        self._processes.has_synchronized = True
        return found

    @contextmanager
    def collective(self) -> Iterator[None]:
        processes = self._processes
        processes.call_depth += 1
        if processes.call_depth == 1:
            processes.has_synchronized = False
        try:
            yield
        except BaseException as error:
            if processes.call_depth == 1:
                # before the first collective another rank may still read its data; afterwards it waits within a step
                seconds = mpi.FAILURE_TIMEOUT if processes.has_synchronized else processes.timeout
                processes.announce_failure(error, seconds)
            raise
        finally:
            processes.call_depth -= 1

    def check_agreement(self, where: str, facts: Callable[[], dict[str, Any]]) -> None:
        everyone = self.allgather(where, facts())
        for name in dict.fromkeys(name for theirs in everyone for name in theirs):
            values = [theirs.get(name) for theirs in everyone]
            others = [rank for rank, value in enumerate(values) if value != values[0]]
            if others:
                ranks = ", ".join(map(str, others[:5])) + (" …" if len(others) > 5 else "")
                raise ValueError(
                    f"{name} must be the same on every process, got {_short(values[0])} on process 0 and "
                    f"{_short(values[others[0]])} on process {ranks}"
                )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else text[:197] + "…"
