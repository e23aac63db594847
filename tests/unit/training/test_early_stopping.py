"""EarlyStopping: the epoch at which it ends a fit, restored weights, and invalid arguments."""

import copy
import math

import numpy as np
import pytest
from helpers import internals
from helpers.messages import naming
from helpers.networks import classifier_builder
from helpers.snapshots import bits, weights_of

import gpunn
from gpunn.training.callbacks.monitor import Monitor

NAN, INF = math.nan, math.inf
RNG = np.random.default_rng(6)
X, Y = RNG.normal(size=(20, 4)), RNG.integers(0, 3, size=20)


_net = classifier_builder(gpunn.Dense(6, "relu"), gpunn.BatchNormalization(), optimizer=gpunn.Adam(0.1))


def _weights_and_statistics(net):
    return weights_of(net), bits(internals.running(net))


class SetLogs(gpunn.Callback):
    """Sets the logs of each epoch to given values and stores the weights."""

    def __init__(self, values, name="val_loss"):
        self.values, self.name, self.kept = values, name, []

    def on_epoch_end(self, epoch, logs=None):
        logs[self.name] = self.values[epoch]
        self.kept.append(_weights_and_statistics(self.model))


def _fit(values, *arguments, name="val_loss", **options):
    """Run a fit with these monitored values. Return the callback, the network, and the weights after each epoch."""
    net, set_logs = _net(), SetLogs(values, name)
    stopping = gpunn.EarlyStopping(name, *arguments, **options)
    history = net.fit(X, Y, epochs=len(values), batch_size=8, callbacks=[set_logs, stopping], verbose=0)
    assert history.epoch == list(range(len(set_logs.kept)))
    return stopping, net, set_logs.kept


# --- when it stops ----------------------------------------------------------------------------------------------------

# values, arguments, number of epochs, best epoch
CASES = {
    "the first epoch without improvement": ([3, 2, 1, 1, 0], {}, 4, 2),
    "patience tolerates epochs": ([3, 4, 4, 2, 3, 3, 3, 1], {"patience": 3}, 7, 3),
    "patience counts consecutive epochs": ([3, 4, 2, 3, 1, 2, 2], {"patience": 2}, 7, 4),
    "it never stops": ([5, 4, 3, 2], {}, 4, 3),
    "improvement by less than min_delta": ([3, 2.5, 2.25, 1.5], {"min_delta": 1, "patience": 2}, 3, 0),
    "two improvements by less than min_delta": ([3, 2.5, 1.5, 1.25, 1], {"min_delta": 1, "patience": 2}, 5, 2),
    "exactly min_delta is no improvement": ([3, 2, 1], {"min_delta": 1}, 2, 0),
    "larger is better": ([1, 2, 3, 2], {"mode": "max"}, 4, 2),
    "a baseline that is never reached": ([3, 2, 2, 1], {"baseline": 1.5, "patience": 2}, 3, 1),
    "a baseline that is reached": ([3, 1, 2, 2, 2], {"baseline": 1.5, "patience": 2}, 4, 1),
    "improvement below the baseline": ([5, 4, 3, 2, 1], {"baseline": 0.0, "patience": 2}, 5, 4),
    "start_from_epoch": ([1, 2, 3, 4, 5, 6], {"start_from_epoch": 3}, 5, 3),
    "patience after start_from_epoch": ([1, 2, 3, 4, 5, 6], {"start_from_epoch": 2, "patience": 2}, 5, 2),
    "NaN is no improvement": ([3, NAN, NAN, 2, NAN], {"patience": 2}, 3, 0),
    "NaN first": ([NAN, 3, 2, 2], {}, 4, 2),
    "only NaN": ([NAN, NAN, NAN], {}, 2, None),
    "infinite at first": ([INF, INF, 3, 2], {"patience": 3}, 4, 3),
    "patience beyond the end": ([1, 2, 3], {"patience": 9}, 3, 0),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("restore", [True, False], ids=["restoring", "keeping"])
def test_the_last_epoch_and_the_restored_weights(name, restore):
    values, options, epochs, best = CASES[name]
    stopping, net, kept = _fit(values, restore_best_weights=restore, **options)
    assert len(kept) == epochs and stopping.best_epoch == best
    stopped = stopping.stopped_epoch is not None
    assert net.stop_training == stopped and stopping.stopped_epoch == (epochs - 1 if stopped else None)
    assert stopped or epochs == len(values)
    assert stopping.best == (values[best] if best is not None else INF)
    assert _weights_and_statistics(net) == kept[best if restore and best is not None else -1]
    assert kept[0] != kept[-1]


@pytest.mark.parametrize("name", ["accuracy", "val_accuracy", "acc", "val_auc", "precision", "recall", "f1", "r2"])
def test_auto_mode_is_max_for_these_names(name):
    stopping, *_ = _fit([0.1, 0.3, 0.2, 0.4], name=name)
    assert (stopping.best_epoch, stopping.stopped_epoch) == (1, 2)


@pytest.mark.parametrize("name", ["loss", "val_loss", "mae", "val_mean_absolute_error", "rmse", "mse"])
def test_auto_mode_is_min_for_these_names(name):
    stopping, *_ = _fit([0.3, 0.1, 0.2, 0.0], name=name)
    assert (stopping.best_epoch, stopping.stopped_epoch) == (1, 2)


def test_running_statistics_are_restored_too():
    """Otherwise the best weights would predict with the statistics of the last epoch."""
    stopping, net, _ = _fit([3, 1, 2, 2], patience=2)
    reference = _net()
    reference.fit(X, Y, epochs=2, batch_size=8, verbose=0)
    assert bits(net.predict(X)) == bits(reference.predict(X)) and stopping.best_epoch == 1


def test_it_monitors_the_values_that_fit_reports():
    """With random labels the validation loss increases. The restored weights evaluate to the best value."""
    net = _net()
    stopping = gpunn.EarlyStopping(patience=4)
    history = net.fit(X[:12], Y[:12], validation_data=(X[12:], Y[12:]), epochs=60, callbacks=[stopping], verbose=0)
    losses = history.history["val_loss"]
    assert 5 <= len(losses) < 60 and stopping.best_epoch == int(np.argmin(losses)) == len(losses) - 5
    assert net.evaluate(X[12:], Y[12:])["loss"] == min(losses)


def test_weights_are_restored_if_another_callback_ends_the_fit():
    class StopAt(gpunn.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training |= epoch == 2

    net, set_logs = _net(), SetLogs([1, 2, 3, 4])
    callbacks = [set_logs, gpunn.EarlyStopping(patience=9), StopAt()]
    net.fit(X, Y, epochs=4, callbacks=callbacks, verbose=0)
    assert len(set_logs.kept) == 3 and _weights_and_statistics(net) == set_logs.kept[0]


@pytest.mark.parametrize("error", [KeyboardInterrupt, LookupError])
def test_after_an_error_the_weights_are_those_of_the_last_step(error):
    class Fail(gpunn.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 2:
                raise error

    net, set_logs = _net(), SetLogs([1, 2, 3, 4])
    with pytest.raises(error):
        net.fit(X, Y, epochs=4, callbacks=[set_logs, gpunn.EarlyStopping(patience=9), Fail()], verbose=0)
    assert len(set_logs.kept) == 3 and _weights_and_statistics(net) == set_logs.kept[2]


def test_the_optimizer_state_is_not_restored():
    """As in Keras: only the weights are."""
    _, net, kept = _fit([1, 2, 3], patience=2)
    reference = _net()
    reference.fit(X, Y, epochs=3, batch_size=8, verbose=0)
    moments, wanted = internals.optimizer_state(net), internals.optimizer_state(reference)
    assert moments.keys() == wanted.keys() and all(bits(moments[k]) == bits(wanted[k]) for k in wanted)
    assert _weights_and_statistics(net) == kept[0] != _weights_and_statistics(reference)


def test_one_object_works_in_several_fits():
    stopping = gpunn.EarlyStopping("loss", patience=1, mode="max")
    for _ in range(2):
        net = _net()
        history = net.fit(X, Y, epochs=9, batch_size=8, callbacks=[stopping], verbose=0)
        assert history.epoch == [0, 1] and stopping.best_epoch == 0
        assert _weights_and_statistics(net)[0] == weights_of(net)


def test_a_copy_made_during_the_fit_is_not_affected():
    copies = []

    class Copy(gpunn.Callback):
        def on_epoch_end(self, epoch, logs=None):
            copies.append(copy.deepcopy(self.model))

    net = _net()
    net.fit(X, Y, epochs=3, callbacks=[gpunn.EarlyStopping("loss"), Copy()], verbose=0)
    before = _weights_and_statistics(copies[0])
    net.fit(X, Y, verbose=0)
    assert _weights_and_statistics(copies[0]) == before
    copies[0].fit(X, Y, verbose=0)


# --- what it refuses --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "match", "options"),
    [
        (TypeError, naming("monitor", 3), {"monitor": 3}),
        (ValueError, "mode must be 'auto', 'min' or 'max', got 'larger'", {"mode": "larger"}),
        (ValueError, "mode='auto' cannot infer if 'val_profit' should", {"monitor": "val_profit"}),
        (ValueError, naming("min_delta", -1), {"min_delta": -1}),
        (ValueError, naming("min_delta", "nan"), {"min_delta": NAN}),
        (ValueError, naming("patience", -1), {"patience": -1}),
        (TypeError, naming("patience", 1.5), {"patience": 1.5}),
        (TypeError, naming("patience", True), {"patience": True}),
        (ValueError, naming("baseline", "inf"), {"baseline": INF}),
        (ValueError, naming("restore_best_weights", "'yes'"), {"restore_best_weights": "yes"}),
        (ValueError, naming("start_from_epoch", -2), {"start_from_epoch": -2}),
    ],
)
def test_invalid_arguments(error, match, options):
    with pytest.raises(error, match=match):
        gpunn.EarlyStopping(**options)


@pytest.mark.parametrize(
    ("monitor", "match"),
    [
        ("val_loss", naming("monitor='val_loss'", "loss, accuracy", "validation_data")),
        ("val_auc", naming("monitor='val_auc'", "loss, accuracy", "validation_data")),
        ("f1", r"monitor='f1' .* are loss, accuracy$"),
    ],
)
def test_a_missing_value_raises_after_the_first_epoch(monitor, match):
    net = _net()
    with pytest.raises(ValueError, match=match):
        net.fit(X, Y, epochs=9, batch_size=8, callbacks=[gpunn.EarlyStopping(monitor, start_from_epoch=5)], verbose=0)
    reference = _net()
    reference.fit(X, Y, batch_size=8, verbose=0)
    assert weights_of(net) == weights_of(reference)


# --- the helper -------------------------------------------------------------------------------------------------------


def test_monitor():
    loss, score = Monitor("val_loss", min_delta=0.5), Monitor("val_top_k_accuracy")
    assert (loss.mode, loss.initial, score.mode, score.initial) == ("min", INF, "max", -INF)
    assert loss.improved(1, loss.initial) and loss.improved(1, 1.75) and not loss.improved(1, 1.5)
    assert score.improved(0, score.initial) and score.improved(0.5, 0.25) and not score.improved(0.5, 0.5)
    for monitor in (loss, score):
        assert not monitor.improved(NAN, monitor.initial) and not monitor.improved(monitor.initial, monitor.initial)
    assert loss.value({"val_loss": np.float32(0.5)}) == 0.5
    assert Monitor("profit", "max").mode == "max" and Monitor("accuracy", "min").mode == "min"
