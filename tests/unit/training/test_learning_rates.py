"""LearningRateScheduler and ReduceLROnPlateau: the rate of each epoch, and resumed fits."""

import math

import numpy as np
import pytest
from helpers.messages import naming
from helpers.networks import classifier_builder
from helpers.oracles import oracle
from helpers.snapshots import state_of, weights_of

import gpunn

RNG = np.random.default_rng(6)
X, Y = RNG.normal(size=(20, 4)), RNG.integers(0, 3, size=20)


_net = classifier_builder(gpunn.Dense(5, "relu"), dtype="float64", optimizer=gpunn.Momentum(0.5), metrics=())


def _fit(net, *callbacks, epochs=1, **options):
    return net.fit(X, Y, epochs=epochs, batch_size=8, callbacks=callbacks, verbose=0, **options).history


class SetLogs(gpunn.Callback):
    """Sets the logs of each epoch to given values."""

    def __init__(self, values, name="val_loss"):
        self.values, self.name = values, name

    def on_epoch_logs(self, epoch, logs):
        logs[self.name] = self.values[epoch]


# --- a function of the epoch ------------------------------------------------------------------------------------------


def test_each_epoch_uses_the_rate_that_the_function_returns():
    asked = []

    def schedule(epoch, rate):
        asked.append((epoch, rate))
        return rate / (1 + epoch)

    net, reference = _net(), _net()
    history = _fit(net, gpunn.LearningRateScheduler(schedule), epochs=4)
    rates = [0.5, 0.25, 0.25 / 3, 0.25 / 3 / 4]
    assert asked == list(zip(range(4), [0.5, *rates[:3]], strict=True))
    assert history["learning_rate"] == rates
    assert list(history) == ["loss", "learning_rate"]
    for rate in rates:
        reference.learning_rate = rate
        _fit(reference)
    assert weights_of(net) == weights_of(reference)
    # the rate remains after the fit, and a second fit counts epochs from 0 again
    assert net.learning_rate == rates[-1]
    assert _fit(net, gpunn.LearningRateScheduler(schedule))["learning_rate"] == [rates[-1]]
    net.learning_rate = None
    assert net.learning_rate == 0.5


def test_the_returned_rate_overrides_the_schedule_of_the_optimizer():
    """The current rate passed to the function is that of the schedule."""
    net = _net(optimizer=gpunn.SGD(gpunn.schedules.StepDecay(0.5, 3, 0.5)))
    seen = []
    history = _fit(net, gpunn.LearningRateScheduler(lambda epoch, rate: seen.append(rate) or 0.1), epochs=2)
    assert history["learning_rate"] == [0.1, 0.1] and seen == [0.5, 0.1]
    reference = _net(optimizer=gpunn.SGD(0.1))
    _fit(reference, epochs=2)
    assert weights_of(net) == weights_of(reference)


@pytest.mark.parametrize("schedule", [0.1, None, gpunn.schedules.Constant(0.1), lambda epoch: 0.1, lambda a, b, c: 1])
def test_invalid_functions(schedule):
    with pytest.raises(TypeError, match=r"schedule must (be a function \(epoch, rate\)|accept two arguments).*, got "):
        gpunn.LearningRateScheduler(schedule)


@pytest.mark.parametrize("rate", [0, -1.0, math.nan, math.inf, None, "0.1", True, np.ones(1)])
def test_an_invalid_rate_is_refused_before_its_epoch(rate):
    net, reference = _net(), _net()
    schedule = gpunn.LearningRateScheduler(lambda epoch, _: 0.1 if epoch == 0 else rate)
    with pytest.raises(ValueError, match=naming("schedule", "epoch 1")):
        _fit(net, schedule, epochs=3)
    _fit(reference, gpunn.LearningRateScheduler(lambda *_: 0.1))
    assert state_of(net) == state_of(reference)


# --- ReduceLROnPlateau -----------------------------------------------------------------------------------

# monitored values, arguments, and the rate of every epoch, initially 1
CASES = {
    "it improves": ([5, 4, 3, 2], {"patience": 1}, [1, 1, 1, 1]),
    "patience 1": ([5, 5, 5, 5], {"patience": 1}, [1, 1, 0.5, 0.25]),
    "patience 0": ([5, 5, 5, 4], {"patience": 0}, [1, 1, 0.5, 0.25]),
    "patience counts consecutive epochs": ([5, 6, 4, 5, 5, 3], {"patience": 2}, [1, 1, 1, 1, 1, 0.5]),
    "counting restarts after a reduction": ([5, 5, 5, 5, 5, 5], {"patience": 2}, [1, 1, 1, 0.5, 0.5, 0.25]),
    "compared with the best, not the last": ([3, 5, 4, 3, 3], {"patience": 3}, [1, 1, 1, 1, 0.5]),
    "a cooldown": ([5, 5, 5, 5, 5, 5, 5], {"patience": 1, "cooldown": 2}, [1, 1, 0.5, 0.5, 0.25, 0.25, 0.125]),
    "improvement within a cooldown": ([5, 5, 4, 4, 4, 4], {"patience": 1, "cooldown": 2}, [1, 1, 0.5, 0.5, 0.25, 0.25]),
    "min_lr": ([5, 5, 5, 5, 5], {"patience": 1, "min_lr": 0.375}, [1, 1, 0.5, 0.375, 0.375]),
    "min_lr above the rate": ([5, 5, 5], {"patience": 1, "min_lr": 2.0}, [1, 1, 1]),
    "min_delta": ([5, 4.9, 4.8, 4.7], {"patience": 2, "min_delta": 0.5}, [1, 1, 1, 0.5]),
    "larger is better": ([1, 2, 3, 3, 3], {"patience": 1, "mode": "max"}, [1, 1, 1, 1, 0.5]),
    "NaN is no improvement": ([math.nan, math.nan, 1, math.nan], {"patience": 2}, [1, 1, 0.5, 0.5]),
    "factor": ([5, 5, 5], {"patience": 1, "factor": 0.125}, [1, 1, 0.125]),
}


@pytest.mark.parametrize(("values", "arguments", "rates"), CASES.values(), ids=CASES)
def test_epochs_at_which_the_rate_is_reduced(values, arguments, rates):
    net, reference = _net(optimizer=gpunn.SGD(1.0)), _net(optimizer=gpunn.SGD(1.0))
    reduce = gpunn.ReduceLROnPlateau(**{"factor": 0.5, "min_delta": 0.0, **arguments})
    history = _fit(net, SetLogs(values), reduce, epochs=len(values))
    assert history["learning_rate"] == rates
    for rate in rates:
        reference.learning_rate = rate
        _fit(reference)
    assert weights_of(net) == weights_of(reference)


def test_defaults_are_those_of_keras():
    reduce = gpunn.ReduceLROnPlateau()
    found = (reduce.monitor.name, reduce.factor, reduce.patience, reduce.monitor.mode, reduce.monitor.min_delta)
    assert found == ("val_loss", 0.1, 10, "min", 1e-4) and (reduce.cooldown, reduce.min_lr) == (0, 0.0)
    assert gpunn.ReduceLROnPlateau("val_accuracy").monitor.mode == "max"


def test_against_the_scheduler_of_torch():
    """torch also counts from the first epoch, and reduces if more than `patience` epochs do not improve."""
    torch, schedulers = oracle("torch"), oracle("torch.optim.lr_scheduler")
    values = np.random.default_rng(1).normal(size=60).cumsum() / 10 + 5
    parameter = torch.nn.Parameter(torch.zeros(1))
    theirs = torch.optim.SGD([parameter], lr=1.0)
    options = {"factor": 0.7, "cooldown": 3, "threshold": 0.01, "threshold_mode": "abs", "eps": 0.0}
    rule = schedulers.ReduceLROnPlateau(theirs, patience=2, **options)
    wanted = []
    for value in values:
        wanted.append(theirs.param_groups[0]["lr"])
        rule.step(value)
    ours = gpunn.ReduceLROnPlateau(factor=0.7, patience=3, cooldown=4, min_delta=0.01)
    found = _fit(_net(optimizer=gpunn.SGD(1.0)), SetLogs(values), ours, epochs=len(values))["learning_rate"]
    assert len({*wanted}) > 3
    assert found == pytest.approx(wanted, rel=1e-12)


def test_a_rate_is_kept_if_the_reduced_one_underflows():
    net = _net(optimizer=gpunn.SGD(1e-300))
    history = _fit(net, SetLogs([1.0] * 5), gpunn.ReduceLROnPlateau(factor=1e-20, patience=1), epochs=5)
    rates = history["learning_rate"]
    assert rates[:2] == [1e-300] * 2 and rates[2] == pytest.approx(1e-320, rel=1e-3) == rates[3] == rates[4] > 0


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"monitor": 3}, TypeError, naming("monitor", 3)),
        ({"monitor": "val_what"}, ValueError, "mode='auto' cannot infer if 'val_what'"),
        ({"mode": "up"}, ValueError, "mode must be 'auto', 'min' or 'max', got 'up'"),
        ({"factor": 1.0}, ValueError, naming("factor", 1.0)),
        ({"factor": 0}, ValueError, naming("factor", "got 0")),
        ({"patience": -1}, ValueError, naming("patience", -1)),
        ({"patience": 1.5}, TypeError, naming("patience", 1.5)),
        ({"cooldown": "1"}, TypeError, naming("cooldown", "'1'")),
        ({"min_delta": -0.1}, ValueError, naming("min_delta", -0.1)),
        ({"min_lr": math.inf}, ValueError, naming("min_lr", "inf")),
    ],
)
def test_invalid_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        gpunn.ReduceLROnPlateau(**arguments)


def test_a_missing_value_raises_after_the_first_epoch():
    net = _net()
    with pytest.raises(ValueError, match=naming("monitor='val_loss'", "loss, learning_rate")):
        _fit(net, gpunn.ReduceLROnPlateau(), epochs=3)


# --- in a fit that is resumed -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop", [1, 2, 3, 4, 5])
def test_a_resumed_fit_continues_counting(stop, tmp_path):
    values = [5, 5, 5, 4, 4, 4, 4]

    def callbacks():
        return (
            SetLogs(values),
            gpunn.ReduceLROnPlateau(factor=0.5, patience=1, cooldown=1),
            gpunn.LearningRateScheduler(lambda epoch, rate: rate * 0.75),
            gpunn.ModelCheckpoint(tmp_path / "run.safetensors"),
        )

    whole, first, again = _net(), _net(), _net()
    wanted = _fit(whole, *callbacks(), epochs=7)
    (tmp_path / "run.safetensors").unlink()
    assert len({*wanted["learning_rate"]}) == 7
    _fit(first, *callbacks(), epochs=stop)
    assert _fit(again, *callbacks(), epochs=7, resume=tmp_path / "run.safetensors") == wanted
    assert state_of(again) == state_of(whole)


@pytest.mark.parametrize("stop", range(1, 12))
def test_a_cooldown_continues_after_a_resume(tmp_path, stop):
    """Without improvement, three epochs without a reduction follow each reduction, wherever the fit was interrupted."""
    file = tmp_path / "run.safetensors"

    def fit(epochs):
        plateau = gpunn.ReduceLROnPlateau(factor=0.5, patience=1, cooldown=3)
        callbacks = [SetLogs([1.0] * 12), plateau, gpunn.ModelCheckpoint(file)]
        return _fit(_net(), *callbacks, epochs=epochs, resume=file)["learning_rate"]

    fit(stop)
    assert fit(12) == [0.5, 0.5, *[0.25] * 3, *[0.125] * 3, *[0.0625] * 3, 0.03125]
