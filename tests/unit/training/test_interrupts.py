"""Several fits in a pool of threads: completion, errors and interrupts."""

import os
import signal
import threading
import time

import pytest

from gpunn import backend
from gpunn.training.interrupts import Cancelled, Interrupts, run_concurrently


class Pool:
    """A device that runs as many fits at a time as a test asks for."""

    def __init__(self, fits):
        self.fits = fits

    def max_concurrent_fits(self):
        return self.fits

    def single_threaded(self):
        return backend.get("cpu").single_threaded()


def fit_of(name, ended, steps=3, fail=None):
    """A fit that checks for interrupts between its steps."""

    def fit():
        try:
            with Interrupts() as interrupts:
                for _ in range(steps):
                    time.sleep(0.002)
                    if fail is not None:
                        raise fail
                    interrupts.check()
            ended.append((name, threading.current_thread().name))
        except Cancelled:
            ended.append((name, "stopped"))
            raise

    return fit


@pytest.mark.parametrize("threads", [1, 2])
def test_all_fits_run_to_their_end(threads):
    ended = []
    run_concurrently(Pool(threads), [fit_of(k, ended) for k in range(5)])
    assert sorted(k for k, _ in ended) == list(range(5))
    assert len({thread for _, thread in ended}) == threads


@pytest.mark.parametrize("threads", [1, 2])
def test_an_error_in_one_fit_ends_all_and_is_raised(threads):
    ended = []
    fits = [fit_of(0, ended, 50), fit_of(1, ended, fail=ZeroDivisionError("one")), fit_of(2, ended)]
    with pytest.raises(ZeroDivisionError, match="one"):
        run_concurrently(Pool(threads), fits)
    assert 2 not in dict(ended)


@pytest.mark.parametrize("threads", [1, 3])
def test_ctrl_c_ends_all_fits(threads):
    ended = []
    timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        run_concurrently(Pool(threads), [fit_of(k, ended, 10**5) for k in range(9)])
    timer.join()
    assert all(how == "stopped" for _, how in ended)
    with Interrupts() as interrupts:
        interrupts.check()  # a later fit is not ended


def test_a_second_ctrl_c_is_raised_immediately():
    with pytest.raises(KeyboardInterrupt), Interrupts():
        signal.raise_signal(signal.SIGINT)
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            immediately = True
    assert immediately
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_single_threaded_limits_blas_and_restores_it():
    cpu = backend.get("cpu")
    before = cpu.max_concurrent_fits()
    with cpu.single_threaded():
        assert cpu.max_concurrent_fits() == 1
        with cpu.single_threaded():
            assert cpu.max_concurrent_fits() == 1
        assert cpu.max_concurrent_fits() == 1
    assert cpu.max_concurrent_fits() == before
