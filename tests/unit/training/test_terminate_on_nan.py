"""TerminateOnNaN: a diverging fit ends without an error, with the weights before the first non-finite step."""

import logging
import math

import numpy as np
import pytest
from helpers import internals
from helpers.networks import network_builder
from helpers.snapshots import weights_of

import gpunn
from gpunn.kernels.state import StateEntry

RNG = np.random.default_rng(6)
X = RNG.normal(size=(20, 4))
Y = X[:, :1] * 3


_net = network_builder(
    gpunn.Dense(5, "relu"), gpunn.Dense(1), input_shape=4, optimizer=gpunn.SGD(1e4), loss="half_squared_error"
)


def _warnings(caplog):
    return [r.getMessage() for r in caplog.records if r.name == "gpunn" and r.levelno == logging.WARNING]


@pytest.mark.parametrize("watched", [False, True])
def test_a_diverging_fit_ends_without_an_error_and_keeps_the_weights_before(watched, caplog):
    net, reference, nan = _net(), _net(), gpunn.TerminateOnNaN()
    ended = []

    class Watch(gpunn.Callback):
        def on_train_complete(self, logs=None):
            ended.append("complete")

        def on_train_end(self, logs=None):
            ended.append("end")

    class Batches(gpunn.Callback):
        def on_train_batch_end(self, batch, logs=None):
            pass

    callbacks = [nan, Watch(), *([Batches()] if watched else [])]
    history = net.fit(X, Y, batch_size=4, epochs=50, callbacks=callbacks, verbose=0)
    with pytest.raises(gpunn.DivergenceError) as caught:
        reference.fit(X, Y, batch_size=4, epochs=50, verbose=0)
    assert weights_of(net) == weights_of(reference)
    (message,) = _warnings(caplog)
    assert message == f"{caught.value} The fit ends." and "training diverged in epoch" in message
    assert nan.terminated_epoch == len(history.epoch) < 50 and net.stop_training
    assert all(np.isfinite(history.history.get("loss", [])))
    assert ended == ["complete", "end"]
    # training can continue, and the callback is reset
    assert internals.step_state(net)[StateEntry.NONFINITE_STEP] == 0
    net.set_weights(_net().get_weights())
    net.compile(gpunn.SGD(0.01), "half_squared_error")
    assert len(net.fit(X, Y, epochs=2, callbacks=[nan], verbose=0).epoch) == 2 and nan.terminated_epoch is None


def test_early_stopping_restores_the_best_weights(caplog):
    net, nan = _net(optimizer=gpunn.SGD(0.01)), gpunn.TerminateOnNaN()
    kept = []

    class Explode(gpunn.Callback):
        def on_epoch_end(self, epoch, logs=None):
            kept.append(weights_of(self.model))
            if epoch == 2:
                self.model.learning_rate = 1e30

    best = gpunn.EarlyStopping("loss", patience=9)
    history = net.fit(X, Y, batch_size=4, epochs=9, callbacks=[best, Explode(), nan], verbose=0)
    assert len(history.epoch) == 3 == nan.terminated_epoch and best.best_epoch == 2
    assert weights_of(net) == kept[2]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_non_finite_validation_loss_ends_the_fit_too(value, caplog):
    net, nan = _net(optimizer=gpunn.SGD(0.01)), gpunn.TerminateOnNaN()

    class SetLogs(gpunn.Callback):
        def on_epoch_logs(self, epoch, logs):
            logs["val_loss"] = [1.0, 2.0, value][epoch]
            logs["val_auc"] = math.nan

    history = net.fit(X, Y, epochs=9, callbacks=[nan, SetLogs()], verbose=0)
    assert history.epoch == [0, 1, 2] and nan.terminated_epoch == 2
    assert _warnings(caplog) == [f"val_loss is {value} after epoch 3. The fit ends."]


def test_a_terminated_fit_stays_terminated_after_a_resume(tmp_path, caplog):
    class SetLogs(gpunn.Callback):
        def on_epoch_logs(self, epoch, logs):
            logs["val_loss"] = [1.0, math.nan, 0.5, 0.5][epoch]

    path = tmp_path / "run.safetensors"
    callbacks = [gpunn.TerminateOnNaN(), SetLogs()]
    first = _net(optimizer=gpunn.SGD(0.01)).fit(
        X, Y, epochs=4, callbacks=[*callbacks, gpunn.ModelCheckpoint(path)], verbose=0
    )
    assert first.epoch == [0, 1]
    again = gpunn.TerminateOnNaN()
    history = _net(optimizer=gpunn.SGD(0.01)).fit(X, Y, epochs=4, callbacks=[again, SetLogs()], verbose=0, resume=path)
    assert history.epoch == [0, 1] and again.terminated_epoch == 1


def test_without_it_the_error_is_raised_even_after_stop_training():
    """A batch hook stops the fit, and the following step diverges."""

    class Stop(gpunn.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.stop_training = True

    with pytest.raises(gpunn.DivergenceError):
        _net(optimizer=gpunn.SGD(1e30)).fit(X, Y, batch_size=4, callbacks=[Stop()], verbose=0)
