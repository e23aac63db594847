"""Ctrl-C between the steps of a fit, and several fits in a pool of threads."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait

from ..backend import Backend
from ..backend.executor import POLL_SECONDS


class Cancelled(BaseException):
    """Raised in the other fits of a pool when one fails or the user interrupts."""

    def __init__(self) -> None:
        super().__init__("another training run failed or was interrupted")


class _Pool(threading.local):
    """The event that ends the fit of this thread, None outside a pool."""

    stop: threading.Event | None = None


_pool = _Pool()


class Interrupts:
    """A context that defers Ctrl-C to the next call of `check`.

    A second Ctrl-C is raised immediately. With another signal handler, or in another thread, nothing changes.
    """

    def __init__(self) -> None:
        self._received = 0
        self._installed = False

    def __enter__(self) -> Interrupts:
        in_main = threading.current_thread() is threading.main_thread()
        if in_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._handle)
            self._installed = True
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if self._installed:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        if kind is None:
            self.check()

    def _handle(self, number: int, frame: object) -> None:
        self._received += 1
        if self._received > 1:
            raise KeyboardInterrupt

    def check(self) -> None:
        """Raise KeyboardInterrupt after Ctrl-C, and Cancelled if another fit of the pool has ended them all."""
        if self._received:
            raise KeyboardInterrupt
        if _pool.stop is not None and _pool.stop.is_set():
            raise Cancelled


def run_concurrently(backend: Backend, fits: Sequence[Callable[[], object]]) -> None:
    """Run fits, as many at a time as the device supports, each in one thread.

    If one raises, or on Ctrl-C, the others end after their current step and the error is raised.
    """
    threads = min(backend.max_concurrent_fits(), len(fits))
    if threads <= 1:
        for fit in fits:
            fit()
        return
    stop = threading.Event()

    def run(fit: Callable[[], object]) -> None:
        _pool.stop = stop
        try:
            if stop.is_set():
                raise Cancelled
            fit()
        except BaseException:
            stop.set()  # before this thread starts its next fit
            raise
        finally:
            _pool.stop = None

    with backend.single_threaded(), Interrupts() as interrupts, ThreadPoolExecutor(threads, "gpunn") as pool:
        futures = [pool.submit(run, fit) for fit in fits]
        try:
            left: Collection[Future[None]] = futures
            while left and not any(future.exception() for future in futures if future.done()):
                left = wait(left, timeout=POLL_SECONDS, return_when=FIRST_EXCEPTION).not_done
                interrupts.check()
        finally:
            # fits that have not started will not start; the others end after their step
            stop.set()
    errors = [error for future in futures if (error := future.exception()) is not None]
    if errors:
        # a failure, rather than a cancellation that it caused
        raise next((error for error in errors if not isinstance(error, Cancelled)), errors[0])
