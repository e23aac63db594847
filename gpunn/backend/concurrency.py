"""Courses taken side by side: iterators that give epochs to be taken, and go on with what they came to.

A course is told of what ends it early, Ctrl-C say, by that error raised in it.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import Any

from .cpu.blas import single_threaded_blas
from .epoch_runner import EpochRunner

EpochCoroutine = Generator[EpochRunner, None, Any]


class Cancelled(BaseException):
    """Another course failed, or somebody interrupts: what is raised in the courses that this ends."""


def run_coroutine(coroutine: EpochCoroutine, seconds: float, poll_interrupt: Callable[[], None]) -> None:
    """Take one course to its end; `look`, called between stretches of so many seconds, raises what stops it."""
    for epochs in coroutine:
        try:
            while not epochs.run(seconds):
                poll_interrupt()
            poll_interrupt()
        except BaseException as error:
            coroutine.throw(error)
            raise


def run_round_robin(
    coroutines: Sequence[EpochCoroutine],
    seconds: float,
    poll_interrupt: Callable[[], None],
    merge: Callable[[Sequence[EpochRunner]], Sequence[EpochRunner]] = lambda runners: runners,
) -> None:
    """All courses in one thread and in step: each takes what it asks for, then the next; `merge` makes fewer of what
    all of them ask for at a time."""
    active = list(coroutines)
    try:
        while active:
            runners = [(coroutine, next(coroutine, None)) for coroutine in active]
            active = [coroutine for coroutine, epochs in runners if epochs is not None]
            for epochs in merge([epochs for _, epochs in runners if epochs is not None]):
                while not epochs.run(seconds):
                    poll_interrupt()
                poll_interrupt()
    except BaseException as error:
        for coroutine in active:
            with contextlib.suppress(Cancelled, StopIteration):
                coroutine.throw(Cancelled(str(error)))
        raise


def run_in_threads(
    coroutines: Sequence[EpochCoroutine], seconds: float, poll_interrupt: Callable[[], None], threads: int
) -> None:
    """Courses in so many threads, each of them taken by one thread from its beginning to its end."""
    stop = threading.Event()

    def poll_cancel() -> None:
        if stop.is_set():
            raise Cancelled("another course failed, or somebody interrupts")

    def run(coroutine: EpochCoroutine) -> None:
        poll_cancel()
        try:
            run_coroutine(coroutine, seconds, poll_cancel)
        except BaseException:
            stop.set()  # before this thread takes the next
            raise

    with single_threaded_blas(), ThreadPoolExecutor(max(1, threads), "gpunn") as pool:
        futures = [pool.submit(run, coroutine) for coroutine in coroutines]
        try:
            left: Any = futures
            while left and not any(future.exception() for future in futures if future.done()):
                left = wait(left, timeout=seconds, return_when=FIRST_EXCEPTION).not_done
                poll_interrupt()
        finally:
            # a course that was not begun is not begun any more, and the others end within those seconds
            stop.set()
    errors = [error for future in futures if (error := future.exception()) is not None]
    # the first that is not the echo of another
    for error in [e for e in errors if not isinstance(e, Cancelled)] or errors:
        raise error
