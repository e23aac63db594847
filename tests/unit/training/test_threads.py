"""A network allows one fit at a time, and concurrent predictions."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from helpers.networks import classifier_builder
from helpers.snapshots import bits, state_of

import gpunn

RNG = np.random.default_rng(2)
X, Y = RNG.normal(size=(40, 5)), RNG.integers(0, 3, size=40)
REFUSED = "fit cannot be called while fit runs; set stop_training = True to end it first"


_net = classifier_builder(gpunn.Dense(8, "relu"), gpunn.Dropout(0.2), input_shape=None, seed=1, metrics=())


class Hold(gpunn.Callback):
    """Blocks in the second epoch until it is released."""

    def __init__(self):
        self.there, self.go = threading.Event(), threading.Event()

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 1:
            self.there.set()
            assert self.go.wait(60)


def test_a_second_fit_is_refused_and_does_not_affect_the_first():
    net, reference, hold = _net(), _net(), Hold()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(net.fit, X, Y, epochs=3, callbacks=[hold], verbose=0)
        assert hold.there.wait(60)
        for call in (net.fit, net.train_on_batch):
            with pytest.raises(RuntimeError, match="while fit runs"):
                call(X, Y)
        hold.go.set()
        history = running.result(60).history
    assert history == reference.fit(X, Y, epochs=3, verbose=0).history
    assert state_of(net) == state_of(reference)
    net.fit(X, Y, verbose=0)


@pytest.mark.parametrize("resume", [False, True])
def test_one_of_many_concurrent_fits_runs(tmp_path, resume):
    """All pass the argument checks and then request the network at the same time."""
    file = tmp_path / "run.safetensors"
    if resume:
        _net().fit(X, Y, callbacks=[gpunn.ModelCheckpoint(file)], verbose=0)
    count = 8
    for _ in range(5):
        net, together, refused = _net(), threading.Barrier(count), threading.Semaphore(0)

        class Hold(gpunn.Callback):
            passive = True

            def on_epoch_end(self, epoch, logs=None, refused=refused):
                if epoch == 1:
                    for _ in range(count - 1):
                        assert refused.acquire(timeout=60)

        def fit(net=net, together=together, refused=refused, hold=Hold):
            together.wait(60)
            try:
                net.fit(X, Y, epochs=3, callbacks=[hold()], verbose=0, resume=file if resume else None)
            except RuntimeError as error:
                refused.release()
                return str(error)
            return "fitted"

        with ThreadPoolExecutor(count) as pool:
            said = sorted(f.result(60) for f in [pool.submit(fit) for _ in range(count)])
        assert said == sorted([*[REFUSED] * (count - 1), "fitted"])
        reference = _net()
        reference.fit(X, Y, epochs=3, verbose=0)
        assert state_of(net) == state_of(reference)


def test_a_failed_fit_releases_the_network():
    class Fail(gpunn.Callback):
        def on_epoch_end(self, epoch, logs=None):
            raise LookupError

    net = _net()
    for _ in range(2):
        with pytest.raises(LookupError):
            net.fit(X, Y, callbacks=[Fail()], verbose=0)
    with pytest.raises(TypeError, match="callbacks must be gpunn"):
        net.fit(X, Y, callbacks=[len], verbose=0)
    with pytest.raises(gpunn.CheckpointError):
        net.fit(X, Y, verbose=0, resume=__file__)
    net.fit(X, Y, verbose=0)


@pytest.mark.slow
def test_concurrent_predictions_are_correct():
    net = _net()
    net.fit(X, Y, verbose=0)
    sizes = [1, 7, 40, 16]
    wanted = [bits(net.predict(X[:n])) for n in sizes]
    scores = net.evaluate(X, Y)

    def ask(k):
        n = k % len(sizes)
        return bits(net.predict(X[: sizes[n]])) == wanted[n] and net.evaluate(X, Y) == scores

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(400)))
