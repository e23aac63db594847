"""Attributes set after construction take effect at the next step of every path."""

import copy
import pickle
import threading

import numpy as np
import pytest
from helpers import limits
from helpers.networks import network_builder
from helpers.snapshots import bits, state_of, weights_of

import gpunn
from gpunn import losses, metrics, schedules

RNG = np.random.default_rng(13)
X, Y = RNG.normal(size=(40, 4)), RNG.integers(0, 3, size=40)
VALUES = RNG.normal(size=(40, 3)) * 3


LAYERS = gpunn.Dense(8, "relu"), gpunn.Dropout(0.25), gpunn.Dense(6, gpunn.activations.ELU(0.5)), gpunn.Dense(3)
_net = network_builder(*LAYERS, input_shape=4, seed=2, dtype="float64", optimizer=gpunn.Adam(0.01))


def _step_length(net, before):
    return float(np.sqrt(sum(((a - b) ** 2).sum() for a, b in zip(net.get_weights(), before, strict=True))))


# --- a frozen layer's gradient ---------------------------------------------------------------------------------------

CLIPPED = {"learning_rate": 0.1, "clipnorm": 0.3}


def _freeze(net):
    net[0].trainable = False
    return net


def _compile(net):
    return net.compile(gpunn.SGD(**CLIPPED), "sparse_categorical_crossentropy", device="cpu")


def _pickle(net):
    return pickle.loads(pickle.dumps(net))


BETWEEN = {
    "nothing": lambda net: net,
    "predict": lambda net: (net.predict(X), net)[1],
    "deepcopy": copy.deepcopy,
    "pickle": _pickle,
    "summary": lambda net: (net.summary(40), net)[1],
}
ORDERS = {
    "freeze, compile": (_freeze, _compile),
    "compile, freeze": (_compile, _freeze),
    "freeze, compile, compile": (_freeze, _compile, _compile),
}
STEPS = {
    "fit": lambda net: net.fit(X, Y, batch_size=40, shuffle=False, verbose=0),
    "train_on_batch": lambda net: net.train_on_batch(X, Y),
    "stream": lambda net: net.fit(lambda: iter([(X, Y)]), verbose=0),
}


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("between", BETWEEN)
@pytest.mark.parametrize("order", ORDERS)
def test_a_frozen_layers_old_gradient_does_not_count_in_clipping(order, between, step):
    """The step has the length clipnorm, and equals that of a network that was never trained before."""
    net = _net(optimizer=gpunn.SGD(1e-3))
    STEPS[step](net)
    net.train_on_batch(X * 100, Y)  # a large gradient, in the frozen layer too
    for change in ORDERS[order]:
        net = BETWEEN[between](change(net))
    fresh = _compile(_freeze(_net()))
    fresh.set_weights(net.get_weights())
    before = net.get_weights()
    for each in (net, fresh):
        STEPS[step](each)
    assert _step_length(net, before) / 0.1 == pytest.approx(0.3, rel=1e-12)
    assert weights_of(net) == weights_of(fresh)


def test_freezing_without_compile_leaves_the_old_gradient_out_of_clipping():
    net = _net(optimizer=gpunn.SGD(**CLIPPED))
    for _ in range(2):
        net[0].trainable = True
        net.train_on_batch(X * 100, Y)
        before = _freeze(net).get_weights()
        net.train_on_batch(X, Y)
        assert _step_length(net, before) / 0.1 == pytest.approx(0.3, rel=1e-12)


@pytest.mark.parametrize("again", [_compile, copy.deepcopy, _pickle], ids=["compile", "deepcopy", "pickle"])
def test_a_network_trains_on_after_a_divergence_with_the_cause_frozen(again):
    net = _compile(_net(optimizer=gpunn.SGD(1e-3)))
    good = net.get_weights()
    net.set_weights([w * 1e160 for w in good])
    with pytest.raises(gpunn.DivergenceError):
        net.fit(X, Y, verbose=0)
    net = again(_freeze(net))
    net.set_weights(good)
    net.fit(X, Y, verbose=0)
    assert np.isfinite(net.fit(X, Y, verbose=0).history["loss"]).all()


def test_a_network_frozen_by_build_is_clipped_as_one_trained_alone():
    def build():
        net = _net(optimizer=gpunn.SGD(1e-3))
        net.train_on_batch(X * 100, Y)
        return _compile(_freeze(net))

    fitted = gpunn.fit_many(build, X, Y, [{} for _ in range(4)], batch_size=40, shuffle=False)
    for net, _ in fitted:
        assert _step_length(net, build().get_weights()) / 0.1 == pytest.approx(0.3, rel=1e-12)


# --- a second compile ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("per", ["step", "epoch"])
def test_a_second_compile_restarts_the_schedule(per):
    schedule = schedules.Warmup(schedules.CosineDecay(0.01, 3, per=per), 2)
    net = _net(optimizer=gpunn.SGD(schedule))
    net.fit(X, Y, epochs=6, verbose=0)
    assert net.learning_rate == 0.0
    _ = net.compile(gpunn.SGD(schedule), "sparse_categorical_crossentropy", device="cpu")
    assert net.learning_rate == 0.005


def test_a_second_compile_restarts_the_dropout_masks():
    net, fresh = _net(), _net()
    net.train_on_batch(X, Y)
    drawn_later = net.trace(X, training=True)[1].a
    for each in (net, fresh):
        each.compile("sgd", "sparse_categorical_crossentropy", device="cpu")
        each.set_weights(net.get_weights())
    ours, theirs = (each.trace(X, training=True)[1].a for each in (net, fresh))
    assert bits(ours) == bits(theirs) != bits(drawn_later)


# --- changes made by callbacks ---------------------------------------------------------------------------------------

SETTINGS = {
    "trainable": lambda net: setattr(net[0], "trainable", False),
    "l2": lambda net: setattr(net[2], "l2", 0.5),
    "rate": lambda net: setattr(net[1], "rate", 0.75),
    "activation": lambda net: setattr(net[2], "activation", "tanh"),
    "alpha": lambda net: setattr(net[2].activation, "alpha", 2.0),
    "clipnorm": lambda net: setattr(net.optimizer, "clipnorm", 1e-3),
    "beta_1": lambda net: setattr(net.optimizer, "beta_1", 0.0),
}


def _in_a_thread(function):
    def call(net):
        thread = threading.Thread(target=function, args=(net,))
        thread.start()
        thread.join()

    return call


CALLS_AFTERWARDS = {
    "nothing": lambda net: None,
    "predict": lambda net: net.predict(X),
    "evaluate": lambda net: net.evaluate(X, Y),
    "trace": lambda net: net.trace(X, Y),
    "loss_and_gradients": lambda net: net.loss_and_gradients(X, Y),
    "summary": lambda net: net.summary(16),
    "a thread": _in_a_thread(lambda net: net.predict(X)),
}


def _stream():
    return iter([(X[k : k + 16], Y[k : k + 16]) for k in range(0, 40, 16)])


FITS = {
    "arrays": lambda net, **options: net.fit(X, Y, batch_size=16, verbose=0, **options),
    "stream": lambda net, **options: net.fit(_stream, verbose=0, **options),
}


class At(gpunn.Callback):
    """A callback that calls functions on the model in the k-th call of one hook."""

    def __init__(self, hook, k, *calls):
        self.k, self.calls = k, calls
        setattr(self, hook, self._called)

    def _called(self, *arguments):
        self.k -= 1
        if self.k == -1:
            for call in self.calls:
                call(self.model)


@pytest.mark.slow
@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("call_afterwards", CALLS_AFTERWARDS)
@pytest.mark.parametrize("setting", SETTINGS)
def test_a_callbacks_change_counts_after_any_other_call(setting, call_afterwards, fit):
    """A change at the end of an epoch is a change between two fits, bit for bit."""
    net, reference, unchanged = _net(), _net(), _net()
    change = At("on_epoch_end", 0, SETTINGS[setting], CALLS_AFTERWARDS[call_afterwards])
    found = FITS[fit](net, epochs=3, callbacks=[change], validation_data=(X, Y)).history
    wanted = FITS[fit](reference, validation_data=(X, Y)).history
    SETTINGS[setting](reference)
    for name, values in FITS[fit](reference, epochs=2, validation_data=(X, Y)).history.items():
        wanted[name] += values
    assert found == wanted and weights_of(net) == weights_of(reference)
    FITS[fit](unchanged, epochs=3)
    assert weights_of(net) != weights_of(unchanged)


@pytest.mark.parametrize("device", ["cpu", "simulated"])
@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("hook", ["on_train_batch_begin", "on_train_batch_end"])
@pytest.mark.parametrize("setting", SETTINGS)
def test_a_change_in_a_batch_hook_takes_effect_at_the_next_step(setting, hook, fit, device, request):
    if device == "simulated":
        request.getfixturevalue("fake_cupy")
    where = "cpu" if device == "cpu" else "cuda"
    net, reference = _net(device=where), _net(device=where)
    # between the first and the second of three steps
    k = 1 if hook == "on_train_batch_begin" else 0
    options = {} if fit == "stream" else {"shuffle": False}
    FITS[fit](net, callbacks=[At(hook, k, SETTINGS[setting], CALLS_AFTERWARDS["predict"])], **options)
    for step, (x, y) in enumerate(_stream()):
        if step == 1:
            SETTINGS[setting](reference)
        reference.train_on_batch(x, y)
    for ours, theirs in zip(net.get_weights(), reference.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-14)


def test_a_layer_frozen_in_the_progress_hook_stays_frozen(monkeypatch):
    """The hook is called between two steps of an epoch at regular intervals."""
    limits.set(monkeypatch, "compiled_seconds", 0.0)
    seen = []
    freeze = At("on_progress", 1, _freeze, lambda net: seen.append(bits(net.get_weights()[0])))
    net = _net()
    net.fit(X, Y, batch_size=2, verbose=0, callbacks=[freeze])
    assert seen == [bits(net.get_weights()[0])]


def test_a_metric_may_freeze_a_layer_during_fit_many():
    nets, seen = [], []

    class Freeze(metrics.NonDecomposableMetric):
        def compute_from_rows(self, a, y, w):
            if not seen:
                seen.append(bits(_freeze(nets[-1]).get_weights()[0]))
            return 0.0

    def build():
        nets.append(_net(metrics=[Freeze()]))
        return nets[-1]

    ((net, _),) = gpunn.fit_many(build, X, Y, [{}], epochs=3)
    assert seen == [bits(net.get_weights()[0])]
    assert seen != [bits(_net().get_weights()[0])]


# --- changes between calls -------------------------------------------------------------------------------------------

CALLS = {
    "fit, sizes seen": lambda net, y: net.fit(X[:32], y[:32], batch_size=16, verbose=0).history,
    "fit, sizes seen and new": lambda net, y: net.fit(X[:39], y[:39], batch_size=16, verbose=0).history,
    "train_on_batch": lambda net, y: net.train_on_batch(X, y),
    "evaluate": lambda net, y: net.evaluate(X, y),
    "evaluate, a size new": lambda net, y: net.evaluate(X[:39], y[:39]),
    "predict": lambda net, y: bits(net.predict(X)),
    "loss_and_gradients": lambda net, y: net.loss_and_gradients(X, y)[0],
}
RATE, SPARSE, HUBER = 0.05, losses.SparseCategoricalCrossentropy(), losses.Huber()
F1, TOP = metrics.F1Score("macro"), metrics.TopKCategoricalAccuracy(1)
SMOOTHED = losses.SparseCategoricalCrossentropy(label_smoothing=0.1)
BINARY, BINARY_LOSS = (Y[:, None] == np.arange(3)).astype(float), losses.BinaryCrossentropy()
# what is compiled, the targets, the change, and the calls whose result it changes
CHANGES = {
    "momentum": ((gpunn.Momentum(RATE), SPARSE), Y, (0, "momentum", 0.1), "fit"),
    "nesterov": ((gpunn.Nesterov(RATE), SPARSE), Y, (0, "momentum", 0.1), "fit"),
    "clipnorm": ((gpunn.SGD(RATE), SPARSE), Y, (0, "clipnorm", 1e-3), "fit"),
    "clipvalue": ((gpunn.SGD(RATE, clipvalue=1.0), SPARSE), Y, (0, "clipvalue", 1e-3), "fit"),
    "no clipping": ((gpunn.SGD(RATE, clipnorm=1e-3), SPARSE), Y, (0, "clipnorm", None), "fit"),
    "beta_1": ((gpunn.Adam(RATE), SPARSE), Y, (0, "beta_1", 0.1), "fit"),
    "beta_2": ((gpunn.Adam(RATE), SPARSE), Y, (0, "beta_2", 0.1), "fit"),
    "epsilon": ((gpunn.Adam(RATE), SPARSE), Y, (0, "epsilon", 1.0), "fit"),
    "weight_decay": ((gpunn.AdamW(RATE), SPARSE), Y, (0, "weight_decay", 1.0), "fit"),
    "decay_weights_only": ((gpunn.AdamW(RATE, 1.0), SPARSE), Y, (0, "decay_weights_only", True), "fit"),
    "rho": ((gpunn.RMSprop(RATE), SPARSE), Y, (0, "rho", 0.1), "fit"),
    "schedule": ((gpunn.SGD(RATE), SPARSE), Y, (0, "schedule", schedules.Constant(0.5)), "fit"),
    "label_smoothing": ((gpunn.SGD(RATE), SMOOTHED), Y, (1, "label_smoothing", 0.5), "fit evaluate train loss"),
    "delta": ((gpunn.SGD(RATE), HUBER), VALUES, (1, "delta", 0.01), "fit evaluate train loss"),
    "threshold": ((gpunn.SGD(RATE), BINARY_LOSS, F1), BINARY, (2, "threshold", 0.4), "fit evaluate"),
    "average": ((gpunn.SGD(RATE), BINARY_LOSS, F1), BINARY, (2, "average", "micro"), "fit evaluate"),
    "k": ((gpunn.SGD(RATE), SPARSE, TOP), Y, (2, "k", 2), "fit evaluate"),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_number_applies_to_every_call_and_batch_size(change, call):
    """A network with recorded steps gives the same results as a copy without recordings."""
    compiled, y, (which, name, value), changed = CHANGES[change]
    rule, loss, *watched = copy.deepcopy(compiled)
    net = _net(optimizer=rule, loss=loss, metrics=watched)
    for each in CALLS.values():
        each(net, y)
    objects = (net, rule, loss, *watched)
    copied, unchanged = copy.deepcopy(objects), copy.deepcopy(objects)
    for each in (objects, copied):
        setattr(each[1 + which], name, value)
    results = [CALLS[call](each[0], y) for each in (objects, copied, unchanged)]
    states = [weights_of(each[0]) for each in (objects, copied, unchanged)]
    assert (results[0], states[0]) == (results[1], states[1])
    if any(call.startswith(word) for word in changed.split()):
        assert (results[0], states[0]) != (results[2], states[2])


def test_a_changed_clipnorm_limits_the_next_step():
    net = _net(optimizer=gpunn.SGD(0.1))
    for size in (16, 40):
        net.train_on_batch(X[:size], Y[:size])
    net.optimizer.clipnorm = 1e-3
    for size in (16, 40, 39):
        before = net.get_weights()
        net.train_on_batch(X[:size], Y[:size])
        assert _step_length(net, before) == pytest.approx(1e-4, rel=1e-10)


def test_a_changed_delta_applies_to_every_number_of_rows():
    net = _net(loss="huber")
    for rows in (40, 39):
        net.evaluate(X[:40], VALUES[:40])
        net.loss.delta = rows / 100
        e = np.abs(net.predict(X[:rows]) - VALUES[:rows])
        wanted = np.where(e <= net.loss.delta, e**2 / 2, net.loss.delta * (e - net.loss.delta / 2)).mean()
        assert net.evaluate(X[:rows], VALUES[:rows])["loss"] == pytest.approx(wanted, rel=1e-12)


def test_an_optimizer_of_two_networks_changes_in_both():
    rule = gpunn.SGD(0.1)
    for net in (_net(optimizer=rule), _net(optimizer=rule)):
        rule.clipnorm = None
        net.train_on_batch(X, Y)
        rule.clipnorm = 1e-3
        before = net.get_weights()
        net.train_on_batch(X, Y)
        assert _step_length(net, before) == pytest.approx(1e-4, rel=1e-10)


def test_a_user_defined_metric_may_change_its_number_of_sums():
    class Ones(metrics.Metric):
        opaque = True

        def __init__(self, count=1, name=None):
            self.count = count
            super().__init__(name)

        def n_sums(self, n_out):
            return self.count

        def rows(self, a, y, w):
            return w if self.count == 1 else np.repeat(w[:, None], self.count, axis=1)

        def compute(self, mean):
            return float(np.sum(mean))

        def get_config(self):
            return {"count": self.count}

    ones = Ones()
    net = _net(metrics=["accuracy", ones])
    more = At("on_train_batch_end", 2, lambda net: setattr(ones, "count", 3))  # of the first epoch of three steps
    history = net.fit(X, Y, batch_size=16, epochs=2, validation_data=(X, Y), verbose=0, callbacks=[more]).history
    assert history["val_Ones"] == pytest.approx([3, 3]) and history["Ones"][1] == pytest.approx(3)
    assert net.evaluate(X, Y)["Ones"] == pytest.approx(3)
    assert net.evaluate(X, Y)["accuracy"] == history["val_accuracy"][1]


def test_a_changed_metric_is_saved(tmp_path):
    f1 = metrics.F1Score("macro", threshold=0.5)
    net = _net(loss="binary_crossentropy", metrics=[f1])
    net.evaluate(X, BINARY)
    f1.threshold, f1.average = 0.4, "micro"
    net.save(tmp_path / "m.safetensors")
    loaded = gpunn.load(tmp_path / "m.safetensors")
    assert loaded.evaluate(X, BINARY) == net.evaluate(X, BINARY)


# --- the last layer's activation and the loss ------------------------------------------------------------------------


def _softmax(z):
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("call_afterwards", ["nothing", "predict"])
def test_a_softmax_set_after_compile_is_not_applied_twice(call_afterwards):
    net = _net()
    net.fit(X, Y, verbose=0)
    probabilities = _softmax(net.predict(X))
    loss, gradients = net.loss_and_gradients(X, Y)
    net[-1].activation = "softmax"
    CALLS_AFTERWARDS[call_afterwards](net)
    np.testing.assert_allclose(net.predict_proba(X), probabilities, rtol=1e-12)
    np.testing.assert_allclose(net.predict(X), probabilities, rtol=1e-12)
    assert net.evaluate(X, Y)["loss"] == pytest.approx(-np.log(probabilities[np.arange(40), Y]).mean(), rel=1e-12)
    again, others = net.loss_and_gradients(X, Y)
    assert again == pytest.approx(loss, rel=1e-12)
    for ours, theirs in zip(others, gradients, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-14)
    net[-1].activation = None
    np.testing.assert_allclose(net.predict_proba(X), probabilities, rtol=1e-12)


def test_a_metric_follows_the_last_activation():
    """Accuracy's threshold is 0 for logits and 0.5 for probabilities."""
    net = _net(loss="binary_crossentropy", metrics=["accuracy"])
    before = net.evaluate(X, BINARY)["accuracy"]
    net[-1].activation = "sigmoid"
    assert net.evaluate(X, BINARY)["accuracy"] == before
    assert before == pytest.approx(((net.predict(X) > 0.5) == BINARY).mean(), rel=1e-12)


REFUSED = {
    "fit": lambda net: net.fit(X, Y, verbose=0),
    "train_on_batch": lambda net: net.train_on_batch(X, Y),
    "evaluate": lambda net: net.evaluate(X, Y),
    "predict": lambda net: net.predict(X),
    "predict_proba": lambda net: net.predict_proba(X),
    "loss_and_gradients": lambda net: net.loss_and_gradients(X, Y),
    "to_tensors": lambda net: net.to_tensors(),
}


@pytest.mark.parametrize("call", REFUSED)
def test_an_activation_that_does_not_fit_the_loss_raises_until_it_is_restored(call):
    net = _net()
    net.fit(X, Y, verbose=0)
    before, outputs = state_of(net), bits(net.predict(X))
    net[-1].activation = "relu"
    for _ in range(2):
        with pytest.raises(ValueError, match=r"sparse_categorical_crossentropy.*softmax.*got relu"):
            REFUSED[call](net)
        assert state_of(net) == before
    net[-1].activation = None
    assert bits(net.predict(X)) == outputs


def test_a_loss_set_to_probabilities_refuses_logits():
    net = _net()
    net.fit(X, Y, verbose=0)
    outputs = net.evaluate(X, Y)
    net.loss.from_logits = False
    with pytest.raises(ValueError, match=r"got identity.*from_logits="):
        net.evaluate(X, Y)
    net.loss.from_logits = True
    assert net.evaluate(X, Y) == outputs


def test_a_change_that_does_not_fit_stays_refused_in_a_copy():
    net = _net()
    net[-1].activation = "relu"
    for duplicate in (copy.deepcopy(net), _pickle(net)):
        with pytest.raises(ValueError, match="got relu"):
            duplicate.evaluate(X, Y)


@pytest.mark.parametrize("name, value", [("units", 7), ("use_bias", False)])
def test_an_attribute_that_changes_the_shape_of_weights_raises(name, value):
    net = _net()
    net.fit(X, Y, verbose=0)
    before, outputs, given = state_of(net), bits(net.predict(X)), getattr(net[0], name)
    setattr(net[0], name, value)
    for call in (*REFUSED.values(), _compile):
        with pytest.raises(ValueError, match=r"layers\[0\]"):
            call(net)
    assert state_of(net) == before
    setattr(net[0], name, given)
    assert bits(net.predict(X)) == outputs


def test_a_hyperparameter_that_the_dtype_cannot_represent_raises():
    net = gpunn.Sequential([gpunn.Dense(3)], seed=0, input_shape=4).compile("adam", "mse", device="cpu")
    net.fit(X, VALUES, verbose=0)
    net.optimizer.epsilon = 1e-60
    with pytest.raises(ValueError, match="epsilon=1e-60"):
        net.fit(X, VALUES, verbose=0)


class _Interrupted(gpunn.Dense):
    """A layer that calls a function in another thread once, while a plan of the network is being recorded."""

    during = None

    def forward(self, t):
        super().forward(t)
        call, self.during = self.during, None
        if call is not None:
            thread = threading.Thread(target=call)
            thread.start()
            thread.join()


def test_a_plan_made_while_another_thread_changes_an_attribute_is_not_used_again():
    hook = _Interrupted(3)
    net = gpunn.Sequential([gpunn.Dense(8, "relu"), hook], seed=2, input_shape=4, dtype="float64")

    def change():
        net.layers[0].activation = "tanh"
        net.predict(X[:2])

    hook.during = change
    net.predict(X)
    reference = gpunn.Sequential([gpunn.Dense(8, "tanh"), gpunn.Dense(3)], seed=2, input_shape=4, dtype="float64")
    reference.set_weights(net.get_weights())
    assert bits(net.predict(X)) == bits(reference.predict(X))
