"""The MPI processes of one `mpiexec` launch: all-reduce of arrays, and collectives on Python objects.

Two communicators, duplicates of COMM_WORLD, keep gpunn's messages separate from the user's: one for arrays within
steps, one for Python objects between steps. A failing rank reports its error at the next collective of the others. If
they do not reach one in time, it aborts the job, so that no rank waits for a process that has exited.
"""

from __future__ import annotations

import atexit
import functools
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

import numpy as np

from ..kernels import Launch
from ..program import Array
from .watchdog import Watchdog

# environment variables with rank and size: MPICH and Intel MPI, Open MPI, Slurm with PMIx
LAUNCHERS = (
    ("PMI_RANK", "PMI_SIZE"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("PMIX_RANK", "SLURM_NTASKS"),
)
FAILURE_TIMEOUT = 10.0  # seconds that a failed process waits until the others receive its error
ABORT_DELAY = 1.0  # seconds between the last message and the abort
SMALL = 4096  # elements; smaller arrays of one type are packed into one message


class ProcessError(RuntimeError):
    """Another process failed, exited, or made another call."""


def mpi_rank_and_size() -> tuple[int, int] | None:
    """Return rank and number of processes from the launcher's environment variables. None without a launcher."""
    for rank, size in LAUNCHERS:
        if os.environ.get(rank, "").isdigit() and os.environ.get(size, "").isdigit():
            return int(os.environ[rank]), int(os.environ[size])
    return None


def load() -> Any:
    """Return mpi4py's module MPI. ImportError if it or its MPI library is missing."""
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise ImportError(
            f'DataParallel needs mpi4py and an MPI library: pip install "gpunn[mpi]" mpich ({error})'
        ) from error
    return MPI


_world: MpiWorld | None = None
_lock = threading.Lock()


def world() -> MpiWorld | None:
    """Return the processes of this launch, created once. None for a process that no launcher started.

    ImportError if a launcher started it, but mpi4py is missing. RuntimeError if they are of different MPI libraries.
    """
    global _world
    with _lock:
        if _world is None:
            launched = mpi_rank_and_size()
            try:
                MPI = load()
            except ImportError:
                if launched is None:
                    return None
                raise
            size = MPI.COMM_WORLD.size
            if launched is None and size == 1:
                return None
            if launched is not None and launched[1] != size:
                raise RuntimeError(
                    f"the launcher started {launched[1]} processes, but mpi4py sees {size}: they use different MPI "
                    "libraries. Use the mpiexec of mpi4py's library"
                )
            _world = MpiWorld(MPI)
        return _world


class MpiWorld:
    """The processes of one launch.

    timeout           seconds after which a blocking call on other ranks aborts the job
    call_depth        nesting depth of the collective calls in progress
    has_synchronized  True if the ranks have completed a collective in the current call
    """

    def __init__(self, MPI: Any) -> None:
        self._mpi = MPI
        self.timeout = 600.0
        self.call_depth = 0
        self.has_synchronized = False
        self.rank = int(MPI.COMM_WORLD.rank)
        self.size = int(MPI.COMM_WORLD.size)
        self._watchdog = Watchdog(self._abort)
        with self._watchdog.deadline(self.timeout, lambda: f"the other ranks did not start in {self.timeout:.0f} s"):
            self._control = MPI.COMM_WORLD.Dup()
            self._data = MPI.COMM_WORLD.Dup()
            self.local_rank = int(MPI.COMM_WORLD.Split_type(MPI.COMM_TYPE_SHARED).rank)
        self._exited_rank: int | None = None  # a rank that takes part in no further collective
        self._excepthook = sys.excepthook
        sys.excepthook = self._handle_uncaught
        atexit.register(self._leave)

    # --- arrays ---

    def bind_async_all_reduce(self, arrays: Sequence[Array], *, blocking: bool) -> tuple[list[Launch], list[Launch]]:
        """Bind launches that start an all-reduce of contiguous host arrays, and launches that complete it.

        With `blocking`, the first launches block and the second list only unpacks. Every rank gets the same bits. Small
        arrays of one type are packed into one message.
        """
        start_launches: list[Launch] = []
        wait_launches: list[Launch] = []
        small: dict[str, list[np.ndarray]] = {}
        for array in arrays:
            flat = array.reshape(-1)
            if flat.size and not np.shares_memory(flat, array):
                raise ValueError("an all-reduce needs contiguous arrays")
            if flat.size > SMALL:
                self._add(flat, start_launches, wait_launches, blocking=blocking)
            elif flat.size:
                small.setdefault(flat.dtype.str, []).append(flat)
        for same_type in small.values():
            if len(same_type) == 1:
                self._add(same_type[0], start_launches, wait_launches, blocking=blocking)
                continue
            packed = np.concatenate(same_type)
            slices = np.split(packed, np.cumsum([flat.size for flat in same_type])[:-1])
            start_launches.append(functools.partial(_copy, same_type, slices))
            self._add(packed, start_launches, wait_launches, blocking=blocking)
            wait_launches.append(functools.partial(_copy, slices, same_type))
        return start_launches, wait_launches

    def _add(
        self, flat: np.ndarray, start_launches: list[Launch], wait_launches: list[Launch], *, blocking: bool
    ) -> None:
        """Append the launches of the all-reduce of one array."""
        in_place = self._mpi.IN_PLACE
        requests: list[Any] = []

        def all_reduce() -> None:
            with self._watchdog.deadline(self.timeout, self._stuck):
                self._data.Allreduce(in_place, flat)

        def start() -> None:
            requests.append(self._data.Iallreduce(in_place, flat))

        def wait() -> None:
            with self._watchdog.deadline(self.timeout, self._stuck):
                requests.pop().Wait()

        start_launches.append(all_reduce if blocking else start)
        wait_launches += [] if blocking else [wait]

    def _stuck(self) -> str:
        return f"waited {self.timeout:.0f} s for the other ranks: one of them is stuck or has exited"

    # --- Python objects ---

    def _gather(self, value: Any, seconds: float, message: Callable[[], str]) -> list[Any]:
        with self._watchdog.deadline(seconds, message):
            return list(self._control.allgather(value))

    def allgather(self, where: str, value: Any) -> list[Any]:
        """Gather one value per rank. ProcessError, on all ranks, if one of them failed, exited, or is elsewhere."""
        if self._exited_rank is None:
            entries = self._gather(("here", where, value), self.timeout, self._stuck)
            self._note_exits(entries)
        if self._exited_rank is not None:
            raise _mark_known(
                ProcessError(f"process {self._exited_rank} has exited, but process {self.rank} needs it in {where}")
            )
        for rank, (status, place, content) in enumerate(entries):
            if status == "failed":
                raise _mark_known(ProcessError(f"process {rank} failed: {content}"))
            if place != where:
                raise _mark_known(
                    ProcessError(
                        f"process {rank} is in {place}, process {self.rank} in {where}: every process must make the "
                        "same calls in the same order"
                    )
                )
        return [content for _, _, content in entries]

    def announce_failure(self, error: BaseException, seconds: float) -> None:
        """Report this rank's error at the next collective of the others. Abort the job if they do not reach one.

        If all ranks fail, each keeps its own error.
        """
        if _is_known(error) or self._exited_rank is not None:
            return
        _mark_known(error)
        summary = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        report = "".join(traceback.format_exception(error))

        def aborting() -> str:
            return f"failed, while the other ranks wait for it, and ends them: {summary}\n{report}"

        self._note_exits(self._gather(("failed", "", summary), seconds, aborting))

    def _note_exits(self, entries: list[Any]) -> None:
        """Remember a rank that has exited."""
        self._exited_rank = next((rank for rank, entry in enumerate(entries) if entry[0] == "left"), self._exited_rank)

    def _handle_uncaught(self, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> Any:
        """Report an error that ends this process to the other ranks."""
        self._excepthook(kind, error, trace)
        sys.stderr.flush()
        self.announce_failure(error, FAILURE_TIMEOUT)

    def _leave(self) -> None:
        """Tell the other ranks, at the end of the script, that this rank has exited."""
        if self._exited_rank is None:
            self._control.allgather(("left", "", None))

    def _abort(self, message: str) -> None:
        stream = sys.__stderr__
        if stream is not None:
            print(f"gpunn: process {self.rank} of {self.size} {message}", file=stream, flush=True)
            # a launcher may discard output that arrives after the abort
            time.sleep(ABORT_DELAY)
        if self._mpi.Query_thread() == self._mpi.THREAD_MULTIPLE:
            self._mpi.COMM_WORLD.Abort(1)
        # a launcher ends the other processes if one exits without MPI_Finalize
        os._exit(1)


def _copy(sources: list[np.ndarray], targets: list[np.ndarray]) -> None:
    for source, target in zip(sources, targets, strict=True):
        target[...] = source


def _mark_known(error: BaseException) -> BaseException:
    """Mark an error as known to all ranks."""
    vars(error)["_gpunn_known"] = True
    return error


def _is_known(error: BaseException | None) -> bool:
    """True if all ranks know this error or one of its causes."""
    while error is not None:
        if "_gpunn_known" in vars(error):
            return True
        error = error.__cause__ or error.__context__
    return False
