"""Process groups: the processes that take a step together, and their shards of a batch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, TypeVar

from ..kernels import Launch
from .tensor import Array

T = TypeVar("T")


class ProcessGroup(Protocol):
    """The processes that take steps together, each with a shard of the rows of a batch.

    rank, size               number of this process, from 0, and number of processes
    synchronized_batch_norm  True if batch statistics are computed over the rows of all processes
    bucket_bytes             all-reduce gradients in buckets of this size during the backward pass; None: once, after it
    """

    @property
    def rank(self) -> int: ...

    @property
    def size(self) -> int: ...

    @property
    def synchronized_batch_norm(self) -> bool: ...

    @property
    def bucket_bytes(self) -> int | None: ...

    def bind_async_all_reduce(self, arrays: Sequence[Array]) -> tuple[list[Launch], list[Launch]]:
        """The launches of `bind_all_reduce` in two halves.

        The first half sends the arrays, after the second they are sums. In between, no launch may use them.
        """

    def bind_all_reduce(self, arrays: Sequence[Array]) -> list[Launch]:
        """Launches after which each array holds its sum over all processes, with the same bits on every rank."""

    def allgather(self, where: str, value: T) -> list[T]:
        """The values of all processes, by rank. An error of one process is raised on all."""

    def check_agreement(self, where: str, facts: Callable[[], dict[str, object]]) -> None:
        """Raise ValueError on every process that names the first fact that differs, and the ranks."""

    def collective(self) -> AbstractContextManager[None]:
        """Enter a call that all processes make: an error on one rank is raised on all."""


class SingleProcess:
    """A process group of one process."""

    rank, size, synchronized_batch_norm, bucket_bytes = 0, 1, False, None

    def bind_async_all_reduce(self, arrays: Sequence[Array]) -> tuple[list[Launch], list[Launch]]:
        return [], []

    def bind_all_reduce(self, arrays: Sequence[Array]) -> list[Launch]:
        return []

    def allgather(self, where: str, value: T) -> list[T]:
        return [value]

    def check_agreement(self, where: str, facts: Callable[[], dict[str, object]]) -> None:
        """Do nothing: one process agrees."""

    def collective(self) -> AbstractContextManager[None]:
        return contextlib.nullcontext()

    def backend(self, backend: T, requested: object) -> T:
        return backend

    def set_device(self, backend: object) -> None:
        """Do nothing: there is nothing to reduce."""


SINGLE_PROCESS = SingleProcess()


def shard_bounds(rows: int, rank: int, size: int) -> tuple[int, int]:
    """(first row, number of rows) of a rank's shard; the sizes of consecutive shards differ by at most one."""
    each, more = divmod(rows, size)
    return rank * each + min(rank, more), each + (rank < more)


@dataclass(frozen=True)
class BatchShard:
    """A rank's shard of a batch: n rows from row `offset` on, of `rows` rows in total."""

    rows: int
    offset: int
    n: int
    group: ProcessGroup

    @classmethod
    def of(cls, rows: int, group: ProcessGroup = SINGLE_PROCESS) -> BatchShard:
        """This rank's shard; all rows without a process group."""
        return cls(rows, *shard_bounds(rows, group.rank, group.size), group)
