"""Run several training coroutines concurrently. Each yields epoch runners and resumes when they have finished.

A coroutine that is ended early, by Ctrl-C for example, gets that error raised at its `yield`.
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
    """Raised in the other coroutines when one fails or the user interrupts."""


def run_coroutine(coroutine: EpochCoroutine, seconds: float, poll_interrupt: Callable[[], None]) -> None:
    """Run one coroutine to its end. `poll_interrupt`, called every `seconds`, raises to stop it."""
    for runner in coroutine:
        try:
            while not runner.run(seconds):
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
    """Run all coroutines in one thread, one runner of each per round. `merge` may combine the runners of a round."""
    active = list(coroutines)
    try:
        while active:
            yielded = [(coroutine, next(coroutine, None)) for coroutine in active]
            active = [coroutine for coroutine, runner in yielded if runner is not None]
            for runner in merge([runner for _, runner in yielded if runner is not None]):
                while not runner.run(seconds):
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
    """Run the coroutines in a pool of threads, each coroutine in one thread from beginning to end."""
    stop = threading.Event()

    def poll_cancel() -> None:
        if stop.is_set():
            raise Cancelled("another training run failed or was interrupted")

    def run(coroutine: EpochCoroutine) -> None:
        poll_cancel()
        try:
            run_coroutine(coroutine, seconds, poll_cancel)
        except BaseException:
            stop.set()  # before this thread starts its next coroutine
            raise

    with single_threaded_blas(), ThreadPoolExecutor(max(1, threads), "gpunn") as pool:
        futures = [pool.submit(run, coroutine) for coroutine in coroutines]
        try:
            left: Any = futures
            while left and not any(future.exception() for future in futures if future.done()):
                left = wait(left, timeout=seconds, return_when=FIRST_EXCEPTION).not_done
                poll_interrupt()
        finally:
            # coroutines that have not started will not start; the others end within `seconds`
            stop.set()
    errors = [error for future in futures if (error := future.exception()) is not None]
    # a failure before the cancellations that it caused
    for error in [e for e in errors if not isinstance(e, Cancelled)] or errors:
        raise error
