"""fit: histories, batches, weights, validation, progress output, and divergence."""

import builtins
import copy
import logging
import re
import signal
import sys

import numpy as np
import pytest
from helpers import internals
from helpers.messages import naming
from helpers.networks import classifier_builder, network_builder
from helpers.oracles import oracle
from helpers.processes import run_python
from helpers.snapshots import assert_unchanged, bits, state_of, weights_of

import gpunn
from gpunn.backend import to_host

RNG = np.random.default_rng(4)
X, Y = RNG.normal(size=(23, 4)), RNG.integers(0, 3, size=23)
VX, VY = RNG.normal(size=(9, 4)), RNG.integers(0, 3, size=9)


HIDDEN = gpunn.Dense(6, "tanh"), gpunn.BatchNormalization(), gpunn.Dropout(0.3)
_net = classifier_builder(*HIDDEN, dtype="float64", optimizer=gpunn.Adam(0.01), device="auto")


_regression = network_builder(
    *[gpunn.Dense(5, "relu"), gpunn.Dense(1)],
    **{"input_shape": 4, "optimizer": gpunn.SGD(0.01), "loss": "half_squared_error", "device": "auto"},
)


# --- the history ------------------------------------------------------------------------------------------------------


def test_a_history_has_one_float_per_epoch():
    history = _net(metrics=["accuracy"]).fit(X, Y, epochs=3, batch_size=8, validation_data=(VX, VY), verbose=0)
    assert isinstance(history, gpunn.History)
    assert list(history.history) == ["loss", "accuracy", "val_loss", "val_accuracy"]
    assert history.epoch == [0, 1, 2]
    for values in history.history.values():
        assert len(values) == 3 and all(type(v) is float for v in values)
    assert "3 epochs" in repr(history) and "val_loss=" in repr(history)
    assert list(_net(metrics=[]).fit(X, Y, verbose=0).history) == ["loss"]
    named = _net(metrics=["acc"]).fit(X, Y, verbose=0, validation_split=0.5)
    assert list(named.history) == ["loss", "acc", "val_loss", "val_acc"]


def test_a_history_is_indexed_by_name():
    history = _net(metrics=["accuracy"]).fit(X, Y, epochs=2, verbose=0)
    assert history["loss"] is history.history["loss"] and list(history) == ["loss", "accuracy"]
    assert "loss" in history and "val_loss" not in history
    with pytest.raises(KeyError, match="'val_loss' is not in the history, which has loss, accuracy"):
        _ = history["val_loss"]


def test_the_loss_of_an_epoch_is_the_mean_over_rows_before_their_step():
    """The loss of a batch is that before its step. The last batch has 3 of 23 rows and its weight is 3/23."""
    net, reference = _net(), _net()
    found = net.fit(X, Y, batch_size=5, shuffle=False, verbose=0).history["loss"][0]
    batches = [slice(k, k + 5) for k in range(0, 23, 5)]
    total = sum(reference.train_on_batch(X[rows], Y[rows]) * len(Y[rows]) for rows in batches)
    assert found == pytest.approx(total / 23, rel=1e-13)
    assert weights_of(net) == weights_of(reference)


@pytest.mark.parametrize("batch_size", [1, 7, 22, 23, 24, 1000])
def test_every_batch_size_uses_all_rows(batch_size):
    net = _net()
    net.fit(X, Y, batch_size=batch_size, epochs=2, verbose=0)
    assert internals.steps_taken(net) == 2 * -(-23 // batch_size)


def test_without_shuffling_the_rows_keep_their_order():
    kept, shuffled, again = _net(), _net(), _net()
    kept.fit(X, Y, batch_size=8, shuffle=False, verbose=0)
    shuffled.fit(X, Y, batch_size=8, verbose=0)
    again.fit(X, Y, batch_size=8, verbose=0)
    assert weights_of(shuffled) == weights_of(again) != weights_of(kept)


# --- going on ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "optimizer",
    [
        gpunn.SGD(0.1),
        gpunn.Momentum(0.1),
        gpunn.Adam(0.01),
        gpunn.Adam(gpunn.schedules.ExponentialDecay(0.05, 2, 0.5)),
        gpunn.SGD(gpunn.schedules.StepDecay(0.5, 1, 0.5, per="epoch")),
    ],
    ids=repr,
)
def test_a_second_fit_continues_with_the_optimizer_state(optimizer):
    """Two fits of two epochs equal one of four: slots, step, schedule, shuffles and dropout masks."""
    whole, parts = _net(optimizer=optimizer), _net(optimizer=optimizer)
    history = whole.fit(X, Y, epochs=4, batch_size=8, validation_data=(VX, VY), verbose=0).history
    first = parts.fit(X, Y, epochs=2, batch_size=8, validation_data=(VX, VY), verbose=0)
    second = parts.fit(X, Y, epochs=2, batch_size=8, validation_data=(VX, VY), verbose=0)
    assert {name: first.history[name] + second.history[name] for name in history} == history
    assert first.epoch == second.epoch == [0, 1], "a second fit begins a History of its own"
    assert state_of(parts) == state_of(whole)


def test_other_calls_between_fits_change_nothing():
    plain, asked = _net(), _net()
    plain.fit(X, Y, epochs=2, batch_size=8, verbose=0)
    asked.fit(X, Y, batch_size=8, verbose=0)
    with assert_unchanged(asked, X):
        asked.evaluate(X, Y)
        asked.trace(X, Y, training=True)
        asked.loss_and_gradients(X[:8], Y[:8])
        asked.summary()
    asked.fit(X, Y, batch_size=8, verbose=0)
    assert weights_of(asked) == weights_of(plain)


def test_the_data_may_change_after_a_fit():
    net, reference = _net(), _net()
    mine, labels = X.copy(), Y.copy()
    net.fit(mine, labels, verbose=0)
    mine[...], labels[...] = 0, 0
    reference.fit(X, Y, verbose=0)
    assert net.fit(X, Y, verbose=0).history == reference.fit(X, Y, verbose=0).history


# --- weights of rows and classes --------------------------------------------------------------------------------------


def test_class_weights_equal_sample_weights_by_class():
    by_class = {0: 2, 2: 0.25}
    w = np.array([2, 1, 0.25])[Y]
    one, other = _net(), _net()
    history = one.fit(X, Y, batch_size=8, class_weight=by_class, verbose=0).history
    assert other.fit(X, Y, batch_size=8, sample_weight=w, verbose=0).history == history
    assert weights_of(one) == weights_of(other)
    assert one.train_on_batch(X, Y, class_weight=by_class) == other.train_on_batch(X, Y, sample_weight=w)


def test_class_and_sample_weights_multiply():
    w = np.linspace(0.5, 2, 23)
    one, other = _net(), _net()
    one.fit(X, Y, class_weight={1: 4}, sample_weight=w, verbose=0)
    other.fit(X, Y, sample_weight=w * np.array([1, 4, 1])[Y], verbose=0)
    assert weights_of(one) == weights_of(other)


@pytest.mark.parametrize(
    ("outputs", "activation", "loss", "y", "labels"),
    [
        (3, "softmax", "categorical_crossentropy", np.eye(3)[Y], Y),
        (1, "sigmoid", "binary_crossentropy", (Y[:, None] > 0), (Y > 0).astype(int)),
    ],
)
def test_class_weights_of_one_hot_and_binary_targets(outputs, activation, loss, y, labels):
    nets = []
    for options in ({"class_weight": {1: 3.0}}, {"sample_weight": np.where(labels == 1, 3.0, 1.0)}):
        net = gpunn.Sequential([gpunn.Dense(outputs, activation)], input_shape=4, seed=1)
        net.compile("adam", loss).fit(X, y, verbose=0, **options)
        nets.append(net)
    assert weights_of(nets[0]) == weights_of(nets[1])


@pytest.mark.parametrize("sample_weight", [None, np.linspace(0.5, 2, 23)])
def test_balanced_class_weights(sample_weight):
    """n/(k · rows of the class), as in scikit-learn's compute_class_weight, over the training rows."""
    y = np.array([0] * 11 + [2] * 5 + [0] * 4 + [1] * 3)
    rows = 18  # four fifths of 23 rows: 13 of class 0, 5 of class 2 and none of class 1
    counts = {0: 13, 2: 5}
    weights = {c: rows / (2 * count) for c, count in counts.items()}
    assert sum(weights[c] * count for c, count in counts.items()) == rows
    one, other = _net(), _net()
    options = {"validation_split": 0.2, "sample_weight": sample_weight, "verbose": 0, "epochs": 2}
    a = one.fit(X, y, class_weight="balanced", **options).history
    assert other.fit(X, y, class_weight=weights, **options).history == a
    assert weights_of(one) == weights_of(other)


def test_balanced_against_sklearn():
    scikit = oracle("sklearn.utils.class_weight")
    y = RNG.integers(0, 2, size=(23, 1))
    wanted = scikit.compute_sample_weight("balanced", y[:, 0])
    nets = []
    for options in ({"class_weight": "balanced"}, {"sample_weight": wanted}):
        net = gpunn.Sequential([gpunn.Dense(1, "sigmoid")], input_shape=4, seed=1)
        net.compile("adam", "binary_crossentropy").fit(X, y, verbose=0, **options)
        nets.append(net)
    assert weights_of(nets[0]) == weights_of(nets[1])
    with pytest.raises(ValueError, match=naming("class_weight='balanced'", "0 or 1")):
        nets[0].fit(X, 0.5 * y, class_weight="balanced", verbose=0)
    with pytest.raises(ValueError, match=naming("class_weight='balanced'", "one batch")):
        nets[0].train_on_batch(X, y, class_weight="balanced")


def test_uniform_weights_change_nothing():
    plain, weighted = _net(), _net()
    a = plain.fit(X, Y, epochs=3, batch_size=8, verbose=0).history
    b = weighted.fit(X, Y, epochs=3, batch_size=8, sample_weight=np.full(23, 4.0), verbose=0).history
    for name, values in a.items():
        np.testing.assert_allclose(b[name], values, rtol=1e-10)


# --- validation -------------------------------------------------------------------------------------------------------


def test_validation_split_takes_the_last_rows_before_any_shuffle():
    split, given = _net(), _net()
    a = split.fit(X, Y, epochs=2, batch_size=5, validation_split=0.25, verbose=0).history
    b = given.fit(X[:17], Y[:17], epochs=2, batch_size=5, validation_data=(X[17:], Y[17:]), verbose=0).history
    assert a == b and weights_of(split) == weights_of(given)
    assert a["val_loss"][-1] == split.evaluate(X[17:], Y[17:])["loss"]


def test_validation_follows_the_steps_of_the_epoch():
    net = _net()
    history = net.fit(X, Y, epochs=2, validation_data=[VX, VY], verbose=0).history
    final = net.evaluate(VX, VY)
    assert history["val_loss"][1] == final["loss"] and history["val_accuracy"][1] == final["accuracy"]
    assert history["val_loss"][0] != final["loss"]


def test_validation_with_weights():
    w = np.arange(9.0)
    net = _net()
    weighted = net.fit(X, Y, validation_data=(VX, VY, w), verbose=0).history["val_loss"][0]
    assert weighted == net.evaluate(VX, VY, sample_weight=w)["loss"] != net.evaluate(VX, VY)["loss"]
    # sample weights of the split rows are used; class weights apply to training only
    w = np.linspace(0.5, 3, 23)
    options = {"sample_weight": w, "class_weight": {0: 5.0}, "validation_split": 0.25}
    net = _net()
    history = net.fit(X, Y, verbose=0, **options).history
    assert history["val_loss"][0] == net.evaluate(X[17:], Y[17:], sample_weight=w[17:])["loss"]
    reference = _net()
    reference.fit(X[:17], Y[:17], sample_weight=w[:17], class_weight={0: 5.0}, verbose=0)
    assert weights_of(net) == weights_of(reference)


def test_validation_does_not_change_training():
    with_it, without = _net(), _net()
    with_it.fit(X, Y, epochs=3, batch_size=8, validation_data=(VX, VY), verbose=0)
    without.fit(X, Y, epochs=3, batch_size=8, verbose=0)
    assert state_of(with_it) == state_of(without)


# --- what is shown ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verbose", [0, 1, 2])
def test_verbose_0_prints_nothing(verbose, capfd, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("print was called")

    monkeypatch.setattr(builtins, "print", refuse)
    net = _net()
    net.fit(X, Y, epochs=2, validation_split=0.3, verbose=verbose)
    net.predict(X), net.evaluate(X, Y), net.summary()
    out, err = capfd.readouterr()
    assert out == ""
    if verbose == 0:
        assert err == ""


def test_lines_are_logged(caplog):
    caplog.set_level(logging.INFO, "gpunn")
    _net().fit(X, Y, epochs=2, validation_split=0.3, verbose=2)
    first, second = [r.getMessage() for r in caplog.records if r.name == "gpunn"]
    assert re.fullmatch(r"epoch 1/2: loss \S+, accuracy \S+, val_loss \S+, val_accuracy \S+", first)
    assert second.startswith("epoch 2/2: ")


def test_without_logging_configuration_each_line_is_on_stderr_once():
    script = (
        "import numpy as np, gpunn, logging\n"
        "net = gpunn.Sequential([gpunn.Dense(1)], seed=0)\n"
        "net.compile('sgd', 'mse', device='cpu')\n"
        "for _ in range(2):\n"
        "    net.fit(np.ones((4, 2)), np.ones((4, 1)), epochs=2, verbose=2)\n"
        "assert logging.getLogger('gpunn').handlers == [] and logging.getLogger('gpunn').level == 0\n"
    )
    done = run_python(script, check=True)
    assert done.stdout == ""
    assert [line.split(":")[0] for line in done.stderr.splitlines()] == ["epoch 1/2", "epoch 2/2"] * 2


def test_the_bar_is_on_stderr(capfd):
    pytest.importorskip("tqdm")
    _net().fit(X, Y, epochs=3)
    out, err = capfd.readouterr()
    assert out == "" and "3/3" in err and "loss " in err and "accuracy " in err


def test_without_tqdm_lines_are_logged(caplog, monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    caplog.set_level(logging.INFO, "gpunn")
    _net().fit(X, Y, epochs=2, verbose=1)
    assert len([r for r in caplog.records if r.name == "gpunn"]) == 2
    with pytest.raises(ImportError, match=r"gpunn\[cli\]"):
        gpunn.ProgressBar()


# --- divergence -------------------------------------------------------------------------------------------------------

SAYS = re.compile(
    r"training diverged in epoch (\d+), step (\d+) \(update (\d+), learning rate (\S+)\): (.*?)\. The likely cause is "
    r"a learning rate that is too large, .* The weights are those before that step\."
)


class _StopBefore(gpunn.Callback):
    """Stops a fit before update `step`, counted over all epochs."""

    class Stop(Exception):
        """Raised instead of the step."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_begin(self, batch, logs=None):
        if internals.steps_taken(self.model) == self.step:
            raise self.Stop


def _until(net, step, *data, **options):
    with pytest.raises(_StopBefore.Stop):
        net.fit(*data, callbacks=[_StopBefore(step)], verbose=0, **options)
    return net


def _kept(net):
    """Return the state that a non-finite step must not change."""
    held = {"theta": internals.parameters(net), "running": internals.running(net)} | internals.optimizer_state(net)
    return {k: bits(v) for k, v in held.items()} | {"step": internals.steps_taken(net)}


HUGE = [
    gpunn.SGD(1e4),
    gpunn.Momentum(1e4),
    gpunn.Nesterov(1e4),
    gpunn.RMSprop(1e15),
    gpunn.Adagrad(1e15),
    gpunn.Adam(1e15),
    gpunn.AdamW(1e15),
]


@pytest.mark.parametrize("optimizer", HUGE, ids=lambda o: o.name)
@pytest.mark.parametrize("watched", [False, True], ids=["checked at the end", "checked at every step"])
def test_divergence_keeps_the_weights_before_the_first_non_finite_step(optimizer, watched):
    net, reference = _regression(optimizer=optimizer), _regression(optimizer=optimizer)
    y = X[:, :1] * 3 + 1
    # with a batch hook the loop checks after every step
    callbacks = [_StopBefore(-1)] if watched else []
    options = {"batch_size": 4, "epochs": 50}
    with pytest.raises(gpunn.DivergenceError) as caught:
        net.fit(X, y, callbacks=callbacks, verbose=0, **options)
    epoch, step, update, rate, cause = SAYS.fullmatch(str(caught.value)).groups()
    assert int(update) == 6 * (int(epoch) - 1) + int(step) - 1 > 0
    assert float(rate) == optimizer.learning_rate
    assert cause in ("the loss is not finite", "a gradient or a parameter is not finite", "an update would overflow")
    assert all(np.isfinite(w).all() for w in net.get_weights())
    assert _kept(net) == _kept(_until(reference, int(update), X, y, **options))


@pytest.mark.parametrize("optimizer", [gpunn.SGD(0.1), gpunn.Momentum(0.1), gpunn.Adam(0.1)], ids=lambda o: o.name)
@pytest.mark.parametrize("bad", ["ℓ is NaN", "ℓ is infinite", "g is NaN", "g is infinite"])
def test_a_nan_within_the_network_stops_at_that_step(optimizer, bad):
    """In the second batch of the third epoch. Running statistics are kept too."""
    calls = []

    def loss(y, a):
        calls.append(1)
        e = a - y
        value, g = (e * e).sum(axis=1) / 2, e.copy()
        if len(calls) == 8:
            wrong = float("nan") if bad.endswith("NaN") else float("inf")
            (value if bad.startswith("ℓ") else g)[0] = wrong
        return value, g

    layers = [gpunn.Dense(5, "relu"), gpunn.BatchNormalization(), gpunn.Dropout(0.2), gpunn.Dense(1)]
    nets = [gpunn.Sequential(copy.deepcopy(layers), seed=1, input_shape=4) for _ in range(2)]
    for net in nets:
        net.compile(optimizer, loss)
    options = {"batch_size": 8, "epochs": 5}
    with pytest.raises(gpunn.DivergenceError) as caught:
        nets[0].fit(X, X[:, :1], verbose=0, **options)
    epoch, step, update, rate, cause = SAYS.fullmatch(str(caught.value)).groups()
    assert (epoch, step, update, rate) == ("3", "2", "7", "0.1")
    assert cause == ("the loss is not finite" if bad.startswith("ℓ") else "a gradient or a parameter is not finite")
    calls[:] = [1] * 100
    assert _kept(nets[0]) == _kept(_until(nets[1], 7, X, X[:, :1], **options))
    # training can continue
    history = nets[0].fit(X, X[:, :1], verbose=0, **options).history
    assert np.isfinite(history["loss"]).all() and internals.steps_taken(nets[0]) == 7 + 15


@pytest.mark.parametrize("rate", [1e30, 1e38, 3e38, 1e39, 1e300])
@pytest.mark.parametrize("optimizer", [gpunn.SGD, gpunn.Momentum, gpunn.Adam, gpunn.AdamW], ids=lambda o: o.name)
def test_an_update_that_would_overflow_is_not_written(rate, optimizer):
    """Loss and gradients of the step are finite, but in float32 the update or the next loss is not."""
    net = _regression(optimizer=optimizer(rate))
    big = 1e9 * X
    net.loss_and_gradients(big, X[:, :1])  # allocates the slots
    before = _kept(net)
    with pytest.raises(gpunn.DivergenceError, match=r"update \d+, learning rate [13]e\+") as caught:
        net.fit(big, X[:, :1], verbose=0, epochs=5)
    steps = internals.steps_taken(net)
    assert all(np.isfinite(w).all() for w in net.get_weights())
    assert all(np.isfinite(to_host(m)).all() for m in internals.optimizer_state(net).values())
    if steps == 0:
        assert _kept(net) == before
    if rate >= 1e38:
        assert steps == 0 and "an update would overflow" in str(caught.value)
        assert SAYS.fullmatch(str(caught.value)), "the learning rate is a likely cause of the first update too"


@pytest.mark.parametrize("which", ["X", "y", "weights"])
def test_finite_numbers_with_infinite_products(which):
    net = _regression()
    x, y = X.copy(), X[:, :1].copy()
    if which == "weights":
        net.set_weights([np.full_like(w, 1e30) for w in net.get_weights()])
    else:
        (x if which == "X" else y)[3] = 2e38
    before = _kept(net)
    with pytest.raises(gpunn.DivergenceError, match=naming("epoch 1", "step 1", "loss")):
        net.fit(x, y, batch_size=23, verbose=0)
    assert _kept(net) == before


def test_training_continues_with_a_smaller_rate():
    net = _regression(optimizer=gpunn.SGD(1e4))
    y = X[:, :1]
    with pytest.raises(gpunn.DivergenceError):
        net.fit(X, y, epochs=20, batch_size=4, verbose=0)
    # the last finite weights may have any size, so restart from the seed
    net.set_weights(_regression().get_weights())
    net.compile(gpunn.SGD(0.01), "half_squared_error")
    reference = _regression(optimizer=gpunn.SGD(0.01))
    assert net.fit(X, y, epochs=3, verbose=0).history == reference.fit(X, y, epochs=3, verbose=0).history
    assert weights_of(net) == weights_of(reference)


def test_the_same_rate_raises_again():
    net = _regression(optimizer=gpunn.SGD(1e4))
    updates = []
    for _ in range(2):
        with pytest.raises(gpunn.DivergenceError) as caught:
            net.fit(X, X[:, :1], epochs=20, batch_size=4, verbose=0)
        updates.append(SAYS.fullmatch(str(caught.value)).groups()[2])
    assert updates[0] == updates[1], "the second fit stops where the first did"


def test_train_on_batch_raises_too():
    net, reference = _regression(optimizer=gpunn.Momentum(1e4)), _regression(optimizer=gpunn.Momentum(1e4))
    with pytest.raises(
        gpunn.DivergenceError, match=r"\(update (\d+), learning rate 1e\+04\): .*likely cause"
    ) as caught:
        for _ in range(100):
            net.train_on_batch(X, X[:, :1])
    update = int(re.search(r"update (\d+)", str(caught.value))[1])
    assert 0 < update < 99
    for _ in range(update):
        reference.train_on_batch(X, X[:, :1])
    assert _kept(net) == _kept(reference)


def test_divergence_is_an_arithmetic_error_and_calls_on_train_end():
    ended = []

    class Watch(gpunn.Callback):
        def on_epoch_end(self, epoch, logs=None):
            ended.append(epoch)

        def on_train_end(self, logs=None):
            ended.append("end")

    net = _regression(optimizer=gpunn.SGD(1e4))
    with pytest.raises(ArithmeticError):
        net.fit(X, X[:, :1], epochs=20, batch_size=23, callbacks=[Watch()], verbose=0)
    assert ended[-1] == "end" and ended[:-1] == list(range(len(ended) - 1))


def test_a_loss_after_training_may_be_infinite_without_an_error():
    """Validation and evaluation change nothing, so they report infinity."""
    net = _regression()
    far = np.full((2, 1), 3e30, np.float32)
    assert net.evaluate(X[:2], far)["loss"] == float("inf")
    history = net.fit(X, X[:, :1], validation_data=(X[:2], far), verbose=0).history
    assert history["val_loss"] == [float("inf")] and np.isfinite(history["loss"]).all()


def test_a_second_ctrl_c_within_a_step_is_raised_immediately():
    """The first one takes effect at the end of the step."""
    reached = []

    def loss(y, a):
        reached.append("the first")
        signal.raise_signal(signal.SIGINT)
        reached.append("the second")
        signal.raise_signal(signal.SIGINT)
        reached.append("the end of the loss")
        return ((a - y) ** 2).sum(axis=1), 2 * (a - y)

    net = gpunn.Sequential([gpunn.Dense(2)], seed=0, input_shape=3).compile("sgd", loss, device="cpu")
    before = [w.copy() for w in net.get_weights()]
    with pytest.raises(KeyboardInterrupt):
        net.fit(np.ones((4, 3)), np.zeros((4, 2)), verbose=0)
    assert reached == ["the first", "the second"]
    for w, old in zip(net.get_weights(), before, strict=True):
        np.testing.assert_array_equal(w, old)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
