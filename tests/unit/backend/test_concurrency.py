"""Concurrent fits as coroutines: completion, errors and interrupts, and the runners of their epochs."""

import threading
import time

import numpy as np
import pytest

from gpunn import backend
from gpunn.backend import concurrency, epoch_runner
from gpunn.kernels import get
from gpunn.kernels._compiler import cpu_cache
from gpunn.kernels.state import SIZE, StateEntry


class Slow(epoch_runner.EpochRunner):
    """A runner whose epochs sleep."""

    def __init__(self, log, name):
        super().__init__([], np.zeros(SIZE))
        self.log, self.name = log, name

    def run(self, seconds):
        time.sleep(seconds)
        self.log.append((self.name, threading.current_thread().name))
        return len([name for name, _ in self.log if name == self.name]) >= 3


def coroutine(log, name, ended, fail=None):
    try:
        if fail is not None:
            raise fail
        yield Slow(log, name)
        ended.append((name, "whole"))
    except concurrency.Cancelled:
        ended.append((name, "stopped"))
        raise


@pytest.mark.parametrize("way", ["round robin", "threads"])
def test_all_coroutines_run_to_their_end(way):
    log, ended = [], []
    these = [coroutine(log, k, ended) for k in range(5)]
    if way == "threads":
        concurrency.run_in_threads(these, 0.001, lambda: None, 2)
        assert len({thread for _, thread in log}) == 2
    else:
        concurrency.run_round_robin(these, 0.001, lambda: None)
    assert sorted(ended) == [(k, "whole") for k in range(5)]


@pytest.mark.parametrize("way", ["round robin", "threads"])
def test_an_error_in_one_coroutine_stops_all_and_is_raised(way):
    log, ended = [], []
    these = [
        coroutine(log, 0, ended),
        coroutine(log, 1, ended, fail=ZeroDivisionError("one")),
        coroutine(log, 2, ended),
    ]
    with pytest.raises(ZeroDivisionError, match="one"):
        if way == "threads":
            concurrency.run_in_threads(these, 0.001, lambda: None, 2)
        else:
            concurrency.run_round_robin(these, 0.001, lambda: None)
    assert (2, "whole") not in ended


@pytest.mark.parametrize("way", ["round robin", "threads"])
def test_an_interrupt_stops_all_coroutines(way):
    log, ended, polls = [], [], iter(range(2))

    def poll():
        if next(polls, None) is None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        if way == "threads":
            concurrency.run_in_threads([coroutine(log, k, ended) for k in range(9)], 0.01, poll, 2)
        else:
            concurrency.run_round_robin([coroutine(log, k, ended) for k in range(9)], 0.01, poll)
    assert (8, "whole") not in ended and any(how == "stopped" for _, how in ended)


@pytest.mark.parametrize("seconds", [0.0, 1.0])
@pytest.mark.parametrize("compiled", [True, False])
def test_sections_of_epochs_run_in_order_with_and_without_interruptions(seconds, compiled, monkeypatch):
    """Each step reads its learning rate from the list, and the end of an epoch stores the sums."""
    if compiled:
        if cpu_cache.status().implementation != "compiled":
            pytest.skip(f"kernels are not compiled here: {cpu_cache.status().reason}")
    else:
        monkeypatch.setenv("GPUNN_COMPILE", "0")
    state, record, sums = np.zeros(SIZE), np.zeros((3, 3)), np.zeros(1)
    state[[StateEntry.LOSS, StateEntry.WEIGHT]] = 0.5, 4
    step = [get("end_step").bind(out=state, count=1, rows=4)]
    end = [get("end_epoch").bind(out=(record, sums, state), count=1, totals_n=1)]
    whole = backend.get("cpu").epoch_runner([(step, 2), (step, 1), (end, 1)], state)
    assert isinstance(whole, epoch_runner.CompiledEpochRunner) == compiled
    whole.reset(3, np.arange(10.0), 0)
    turns = 1
    while not whole.run(seconds):
        turns += 1
    assert (turns > 3) == (seconds == 0)
    assert state[StateEntry.STEP] == 9 and state[StateEntry.OFFSET] == 36 and state[StateEntry.EPOCHS_DONE] == 3
    np.testing.assert_array_equal(record, [[6.0, 12.0, 0.0]] * 3)
    assert state[StateEntry.LR] in (8.0, 9.0)
    state[StateEntry.NONFINITE_STEP] = 1
    whole.reset(3)
    assert whole.run(1.0) and state[StateEntry.EPOCHS_DONE] == 3


def test_single_threaded_limits_blas_and_restores_it():
    cpu = backend.get("cpu")
    before = cpu.max_concurrent_fits()
    with cpu.single_threaded():
        assert cpu.max_concurrent_fits() == 1
        with cpu.single_threaded():
            assert cpu.max_concurrent_fits() == 1
        assert cpu.max_concurrent_fits() == 1
    assert cpu.max_concurrent_fits() == before
