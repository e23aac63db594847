"""The strategy that `compile` takes: what processes share, and how they make sure that they do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ..backend import Backend, local_device
from ..kernels import Launch
from ..recording import Array
from ..validation import boolean, positive, positive_integer
from . import mpi


class DataParallel:
    """The rows of every batch are shared among the processes that `mpiexec` started, in parts that differ by at most
    one row, and their gradients are added up once a step: P processes take the steps of one. (E6, E7: sums over rows)

    synchronized_batch_norm  whether BatchNormalization's mean and variance are over the rows of all processes, as in
                             one process, by three small sums more for each such layer; else over each process's own,
                             and running values become the mean of the processes' at an epoch's end
    bucket_bytes             None sends all gradients at once, when the last of them is there; a number sends them as
                             soon as so many bytes are there, while δ goes on to the layers before. It pays where the
                             network works by itself meanwhile: NCCL has a stream of its own, and of MPI some need a
                             thread for it (MPICH_ASYNC_PROGRESS=1)
    timeout                  seconds that a process waits for the others before it ends them all with a message

    Every process runs the same script and makes the same calls with the same arguments. Callbacks that only watch, a
    progress bar or `ModelCheckpoint`, are called in the first process alone. ImportError without mpi4py (extra `mpi`),
    RuntimeError without `mpiexec`, both at `compile`; ValueError on every process where they disagree.
    """

    def __init__(
        self, *, synchronized_batch_norm: bool = False, bucket_bytes: int | None = None, timeout: float = 600.0
    ) -> None:
        self.synchronized_batch_norm = boolean("synchronized_batch_norm", synchronized_batch_norm)
        self.bucket_bytes = None if bucket_bytes is None else positive_integer("bucket_bytes", bucket_bytes)
        self.timeout = positive("timeout", timeout)

    def start(self) -> DataParallelGroup:
        """The processes of this launch, without a device yet."""
        world = mpi.world()
        world.timeout = self.timeout
        return DataParallelGroup(world, self.synchronized_batch_norm, self.bucket_bytes)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DataParallel) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash(tuple(vars(self).values()))

    def __repr__(self) -> str:
        return f"DataParallel({', '.join(f'{name}={value!r}' for name, value in vars(self).items())})"


class DataParallelGroup:
    """The processes that train one network together: what `gpunn.recording.Group` asks for, and more."""

    def __init__(self, processes: Any, synchronized_batch_norm: bool = False, bucket_bytes: int | None = None) -> None:
        self._processes = self._adder = processes
        self.rank, self.size = processes.rank, processes.size
        self.synchronized_batch_norm, self.bucket_bytes = synchronized_batch_norm, bucket_bytes

    def backend(self, backend: Backend, asked: Any) -> Backend:
        """The device of this process: one of its own on a machine, unless one was asked for by its number."""
        return local_device(backend, self._processes) if asked in ("auto", "cuda") else backend

    def set_device(self, backend: Backend) -> None:
        """As there. All processes call it."""
        self._adder = backend.all_reducer(self._processes)

    def bind_all_reduce(self, arrays: Sequence[Array]) -> list[Launch]:
        begin, finish = self._adder.bind_async_all_reduce(arrays, blocking=True)
        return [*begin, *finish]

    def bind_async_all_reduce(self, arrays: Sequence[Array]) -> tuple[list[Launch], list[Launch]]:
        begin, finish = self._adder.bind_async_all_reduce(arrays, blocking=False)
        return list(begin), list(finish)

    def allgather(self, where: str, value: Any) -> list[Any]:
        """As there; `gpunn.parallel.mpi.ProcessError`, on all, where one fails."""
        found: list[Any] = self._processes.allgather(where, value)
        self._processes.agreed = True
        return found

    @contextmanager
    def collective(self) -> Iterator[None]:
        processes = self._processes
        processes.inside += 1
        if processes.inside == 1:
            processes.agreed = False
        try:
            yield
        except BaseException as error:
            if processes.inside == 1:
                # until they have met once, another may still be reading its data; later it waits within a step
                processes.announce_failure(error, mpi.FAILURE_TIMEOUT if processes.agreed else processes.timeout)
            raise
        finally:
            processes.inside -= 1

    def check_agreement(self, where: str, facts: Callable[[], dict[str, Any]]) -> None:
        everyone = self.allgather(where, facts())
        for name in dict.fromkeys(name for theirs in everyone for name in theirs):
            values = [theirs.get(name) for theirs in everyone]
            others = [rank for rank, value in enumerate(values) if value != values[0]]
            if others:
                who = ", ".join(map(str, others[:5])) + (" …" if len(others) > 5 else "")
                raise ValueError(
                    f"the processes disagree about {name}: {_shown(values[0])} on process 0, "
                    f"{_shown(values[others[0]])} on process {who}. Every process must be given the same"
                )


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else text[:197] + "…"
