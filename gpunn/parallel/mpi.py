"""The processes that one `mpiexec` started, as MPI's library has them: sums over arrays, and what is told to all.

Two communicators are our own copies of MPI's world, so that messages of the user's never meet ours: one adds arrays
within steps, one brings Python objects between them. An error of one process goes by the second to wherever the others
come next, or, where they do not come, ends them: nobody waits for a process that is no longer there.
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
from ..recording import Array
from .watchdog import Watchdog

# what the launchers of MPICH and Intel MPI, Open MPI, and Slurm with PMIx tell a process: its number, and how many
LAUNCHERS = (
    ("PMI_RANK", "PMI_SIZE"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("PMIX_RANK", "SLURM_NTASKS"),
)
FAILURE_TIMEOUT = 10.0  # seconds that a process whose training failed waits for the others to hear of it
ABORT_DELAY = 1.0  # seconds between what a process says at last and the end of all of them
SMALL = 4096  # elements up to which arrays travel in one message with others
HOW = "start it as: mpiexec -n 4 python train.py"


class ProcessError(RuntimeError):
    """Another process failed, ended, or went another way; the message says which and how."""


def mpi_rank_and_size() -> tuple[int, int] | None:
    """(number of this process, how many there are) as the launcher tells; None where there was none."""
    for rank, size in LAUNCHERS:
        if os.environ.get(rank, "").isdigit() and os.environ.get(size, "").isdigit():
            return int(os.environ[rank]), int(os.environ[size])
    return None


def load() -> Any:
    """mpi4py's module MPI. ImportError naming the extra where it, or the MPI library behind it, is absent."""
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise ImportError(
            f'DataParallel needs mpi4py and an MPI library: pip install "gpunn[mpi]" mpich ({error})'
        ) from error
    return MPI


_world: MpiWorld | None = None
_lock = threading.Lock()


def world() -> MpiWorld:
    """All processes of this launch; made once. RuntimeError without an MPI launch, ImportError without mpi4py."""
    global _world
    with _lock:
        if _world is None:
            told = mpi_rank_and_size()
            MPI = load()
            seen = MPI.COMM_WORLD.size
            if told is None and seen == 1:
                raise RuntimeError(f"strategy=DataParallel() is for processes that mpiexec started; {HOW}")
            if told is not None and told[1] != seen:
                raise RuntimeError(
                    f"the launcher started {told[1]} processes, but mpi4py's library sees {seen}: they are of two "
                    "kinds of MPI. Take the mpiexec of the library that mpi4py uses"
                )
            _world = MpiWorld(MPI)
        return _world


class MpiWorld:
    """The processes of one launch. `timeout` is how many seconds any wait for the others may last."""

    def __init__(self, MPI: Any) -> None:
        self._mpi = MPI
        self.timeout = 600.0
        self.inside, self.agreed = 0, False  # calls that all make, one within another; and whether they have met there
        self.rank, self.size = int(MPI.COMM_WORLD.rank), int(MPI.COMM_WORLD.size)
        self._watchdog = Watchdog(self._abort)
        with self._watchdog.deadline(self.timeout, lambda: f"the others did not begin within {self.timeout:.0f} s"):
            self._control, self._data = MPI.COMM_WORLD.Dup(), MPI.COMM_WORLD.Dup()
            self.local_rank = int(MPI.COMM_WORLD.Split_type(MPI.COMM_TYPE_SHARED).rank)
        self._exited_rank: int | None = None  # a process that ended and meets nobody any more
        self._hook = sys.excepthook
        sys.excepthook = self._uncaught
        atexit.register(self._leave)

    # --- arrays ---

    def bind_async_all_reduce(self, arrays: Sequence[Array], *, blocking: bool) -> tuple[list[Launch], list[Launch]]:
        """Launches that send arrays off, in the host's memory and contiguous, and launches after which each holds the
        sum over all processes; `blocking` says that nothing happens between them.

        MPI gives every process the same bits. Small arrays of a type travel together.
        """
        begin: list[Launch] = []
        finish: list[Launch] = []
        small: dict[str, list[np.ndarray]] = {}
        for array in arrays:
            flat = array.reshape(-1)
            if flat.size and not np.shares_memory(flat, array):
                raise ValueError("sums over processes need contiguous arrays")
            if flat.size > SMALL:
                self._add(flat, begin, finish, blocking)
            elif flat.size:
                small.setdefault(flat.dtype.str, []).append(flat)
        for together in small.values():
            if len(together) == 1:
                self._add(together[0], begin, finish, blocking)
                continue
            packed = np.concatenate(together)
            parts = np.split(packed, np.cumsum([flat.size for flat in together])[:-1])
            begin.append(functools.partial(_copy, together, parts))
            self._add(packed, begin, finish, blocking)
            finish.append(functools.partial(_copy, parts, together))
        return begin, finish

    def _add(self, flat: np.ndarray, begin: list[Launch], finish: list[Launch], blocking: bool) -> None:
        in_place = self._mpi.IN_PLACE

        def add() -> None:
            with self._watchdog.deadline(self.timeout, self._stuck):
                self._data.Allreduce(in_place, flat)

        under_way: list[Any] = []

        def send() -> None:
            under_way.append(self._data.Iallreduce(in_place, flat))

        def receive() -> None:
            with self._watchdog.deadline(self.timeout, self._stuck):
                under_way.pop().Wait()

        begin.append(add if blocking else send)
        finish += [] if blocking else [receive]

    def _stuck(self) -> str:
        return f"waited {self.timeout:.0f} s for the others in vain: one of them is stuck, or gone"

    # --- what is told ---

    def _gather(self, value: Any, seconds: float, say: Callable[[], str]) -> list[Any]:
        with self._watchdog.deadline(seconds, say):
            return list(self._control.allgather(value))

    def allgather(self, where: str, value: Any) -> list[Any]:
        """What every process brings to the same place. ProcessError, on all, where one failed, left, or is elsewhere;
        the same list of values otherwise."""
        if self._exited_rank is None:
            entries = self._gather(("here", where, value), self.timeout, self._stuck)
            self._see(entries)
        if self._exited_rank is not None:
            raise _mark_known(
                ProcessError(f"process {self._exited_rank} has ended, and process {self.rank} needs it in {where}")
            )
        for rank, (word, place, said) in enumerate(entries):
            if word == "failed":
                error = ProcessError(f"process {rank} failed: {said}")
            elif place != where:
                error = ProcessError(
                    f"process {rank} is in {place}, process {self.rank} in {where}: every process must make the same "
                    "calls in the same order"
                )
            else:
                continue
            raise _mark_known(error)
        return [said for _, _, said in entries]

    def announce_failure(self, error: BaseException, seconds: float) -> None:
        """Tell the others, wherever they come next, that this process failed; end them, and this one, where they do
        not come in time. Where all fail at once each keeps its own error."""
        if _is_known(error) or self._exited_rank is not None:
            return
        _mark_known(error)
        said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        whole = "".join(traceback.format_exception(error))

        def alone() -> str:
            return f"failed, while the others wait for it, and ends them: {said}\n{whole}"

        self._see(self._gather(("failed", "", said), seconds, alone))

    def _see(self, entries: list[Any]) -> None:
        """Remember whether one has left."""
        self._exited_rank = next((rank for rank, entry in enumerate(entries) if entry[0] == "left"), self._exited_rank)

    def _uncaught(self, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> Any:
        """An error that ends this process must not leave the others waiting."""
        self._hook(kind, error, trace)
        sys.stderr.flush()
        self.announce_failure(error, FAILURE_TIMEOUT)

    def _leave(self) -> None:
        """The script is over: whoever waits for this process hears of it."""
        if self._exited_rank is None:
            self._control.allgather(("left", "", None))

    def _abort(self, message: str) -> None:
        stream = sys.__stderr__
        if stream is not None:
            print(f"gpunn: process {self.rank} of {self.size} {message}", file=stream, flush=True)
            # a launcher that hears of the end first passes on nothing more
            time.sleep(ABORT_DELAY)
        if self._mpi.Query_thread() == self._mpi.THREAD_MULTIPLE:
            self._mpi.COMM_WORLD.Abort(1)
        # a launcher ends the others where one ends without a farewell
        os._exit(1)


def _copy(sources: list[np.ndarray], into: list[np.ndarray]) -> None:
    for source, target in zip(sources, into, strict=True):
        target[...] = source


def _mark_known(error: BaseException) -> BaseException:
    """The error, of which all processes know."""
    vars(error)["_gpunn_told"] = True
    return error


def _is_known(error: BaseException | None) -> bool:
    """Whether all know of this error, or of the one that it was made of."""
    while error is not None:
        if "_gpunn_told" in vars(error):
            return True
        error = error.__cause__ or error.__context__
    return False
