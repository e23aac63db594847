"""Hooks, order and arguments as in Keras, and the permitted actions of a callback during a fit."""

import copy

import numpy as np
import pytest
from helpers.messages import naming
from helpers.networks import classifier_builder
from helpers.snapshots import state_of, weights_of

import gpunn

RNG = np.random.default_rng(4)
X, Y = RNG.normal(size=(23, 4)), RNG.integers(0, 3, size=23)


_net = classifier_builder(
    gpunn.Dense(6, "relu"), gpunn.Dropout(0.3), dtype="float64", optimizer=gpunn.Adam(0.01), device="auto"
)


class Record(gpunn.Callback):
    """Records every hook call."""

    def __init__(self, calls=None, name=""):
        self.calls, self.name = [] if calls is None else calls, name

    def _note(self, hook, *arguments):
        self.calls.append((self.name + hook, *(dict(a) if isinstance(a, dict) else a for a in arguments)))

    def set_params(self, params):
        super().set_params(params)
        self._note("set_params", params)

    def set_model(self, model):
        super().set_model(model)
        self._note("set_model")

    def on_train_begin(self, logs=None):
        self._note("on_train_begin", logs)

    def on_train_end(self, logs=None):
        self._note("on_train_end", logs)

    def on_epoch_begin(self, epoch, logs=None):
        self._note("on_epoch_begin", epoch, logs)

    def on_epoch_end(self, epoch, logs=None):
        self._note("on_epoch_end", epoch, logs)

    def on_train_batch_begin(self, batch, logs=None):
        self._note("on_train_batch_begin", batch, logs)

    def on_train_batch_end(self, batch, logs=None):
        self._note("on_train_batch_end", batch, logs)


def test_hooks_have_the_order_and_arguments_of_keras():
    record, net = Record(), _net()
    history = net.fit(X, Y, batch_size=8, epochs=2, validation_split=0.3, callbacks=[record], verbose=0).history
    epoch = ["on_epoch_begin", *["on_train_batch_begin", "on_train_batch_end"] * 2, "on_epoch_end"]
    hooks = [call[0] for call in record.calls]
    assert sorted(hooks[:2]) == ["set_model", "set_params"]
    assert hooks[2:] == ["on_train_begin", *epoch * 2, "on_train_end"]
    assert [call[1:] for call in record.calls if call[0] == "on_epoch_begin"] == [(0, {}), (1, {})]
    assert [call[1] for call in record.calls if call[0] == "on_train_batch_end"] == [0, 1, 0, 1]
    ends = [call for call in record.calls if call[0] == "on_epoch_end"]
    for k, (_, number, logs) in enumerate(ends):
        assert number == k
        assert logs == {name: values[k] for name, values in history.items()}
    assert list(ends[0][2]) == ["loss", "accuracy", "val_loss", "val_accuracy"]
    assert record.calls[2] == ("on_train_begin", {})
    assert record.calls[-1] == ("on_train_end", ends[-1][2])
    assert record.model is net
    assert record.params == {"epochs": 2, "steps": 2, "verbose": 0}
    # a second fit counts from 0 again
    net.fit(X, Y, callbacks=[record], verbose=0)
    assert record.calls[-2][:2] == ("on_epoch_end", 0)


def test_batch_hooks_get_the_running_means_of_the_epoch():
    record, net, reference = Record(), _net(), _net()
    history = net.fit(X, Y, batch_size=8, shuffle=False, callbacks=[record], verbose=0).history
    seen = [call[2] for call in record.calls if call[0] == "on_train_batch_end"]
    total = rows = 0
    for k, logs in enumerate(seen):
        part = slice(8 * k, 8 * k + 8)
        total += reference.train_on_batch(X[part], Y[part]) * len(Y[part])
        rows += len(Y[part])
        assert logs["loss"] == pytest.approx(total / rows, rel=1e-13) and list(logs) == ["loss", "accuracy"]
    assert seen[-1]["loss"] == history["loss"][0]


def test_several_callbacks_are_called_in_order():
    calls = []
    both = [Record(calls, "first "), Record(calls, "second ")]
    _net().fit(X, Y, callbacks=both, verbose=0)
    hooks = [call[0] for call in calls]
    assert [h.replace("first", "second") for h in hooks[4::2]] == hooks[5::2]
    assert hooks[4] == "first on_train_begin"


@pytest.mark.parametrize(
    "given", [(), [], iter([]), (gpunn.Callback(),), {gpunn.Callback()}], ids="tuple list iterator one set".split()
)
def test_callbacks_may_be_any_iterable(given):
    _net().fit(X, Y, callbacks=given, verbose=0)


def test_the_base_class_does_nothing_and_has_no_batch_hooks():
    plain, watched = _net(), _net()
    plain.fit(X, Y, epochs=2, verbose=0)
    watched.fit(X, Y, epochs=2, callbacks=[gpunn.Callback(), Record()], verbose=0)
    assert state_of(plain) == state_of(watched)

    class Epochs(gpunn.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append(epoch)

    from gpunn.training.callbacks import CallbackList

    seen = []
    assert not CallbackList([gpunn.Callback(), Epochs()], None, {}).has_batch_hooks
    assert CallbackList([Epochs(), Record()], None, {}).has_batch_hooks


def test_a_hook_may_be_an_instance_attribute():
    seen = []
    callback = gpunn.Callback()
    callback.on_train_batch_end = lambda batch, logs=None: seen.append(batch)
    _net().fit(X, Y, batch_size=8, callbacks=[callback], verbose=0)
    assert seen == [0, 1, 2]


class StopAt(gpunn.Callback):
    """Sets stop_training at the end of an epoch or of a batch."""

    def __init__(self, epoch=None, batch=None):
        self.epoch, self.batch = epoch, batch

    def on_epoch_end(self, epoch, logs=None):
        self.model.stop_training |= epoch == self.epoch

    def on_train_batch_end(self, batch, logs=None):
        self.model.stop_training |= batch == self.batch


def test_stop_training_ends_the_fit_after_the_epoch():
    net, reference = _net(), _net()
    history = net.fit(X, Y, epochs=50, batch_size=8, callbacks=[StopAt(epoch=2)], verbose=0)
    assert history.epoch == [0, 1, 2] and net.stop_training
    assert reference.fit(X, Y, epochs=3, batch_size=8, verbose=0).history == history.history
    assert weights_of(net) == weights_of(reference)
    # the next fit resets stop_training and continues as if the first had had three epochs
    assert net.fit(X, Y, epochs=2, batch_size=8, verbose=0).history == (
        reference.fit(X, Y, epochs=2, batch_size=8, verbose=0).history
    )
    assert not net.stop_training
    assert len(net.fit(X, Y, epochs=9, batch_size=8, callbacks=[StopAt(batch=0)], verbose=0).epoch) == 1


def test_reading_and_copying_in_a_callback_does_not_change_the_fit():
    copies = []

    class Inspect(gpunn.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.predict(X), self.model.evaluate(X, Y), self.model.get_weights()
            self.model.loss_and_gradients(X, Y), self.model.trace(X, Y), self.model.summary()

        def on_epoch_end(self, epoch, logs=None):
            copies.append(copy.deepcopy(self.model))
            logs.clear()

    plain, looked = _net(), _net()
    a = plain.fit(X, Y, epochs=3, batch_size=8, verbose=0).history
    b = looked.fit(X, Y, epochs=3, batch_size=8, callbacks=[Inspect()], verbose=0).history
    assert a == b and weights_of(plain) == weights_of(looked)
    # a copy made during the fit is a normal network
    assert len(copies) == 3
    for reference in copies[:1]:
        assert reference.fit(X, Y, epochs=2, batch_size=8, verbose=0).history == {k: v[1:] for k, v in a.items()}
        assert weights_of(reference) == weights_of(plain)


def test_a_callback_may_set_weights():
    class Shrink(gpunn.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.set_weights([0.5 * w for w in self.model.get_weights()])

    net, reference = _net(), _net()
    net.fit(X, Y, epochs=2, batch_size=8, callbacks=[Shrink()], verbose=0)
    for _ in range(2):
        reference.fit(X, Y, batch_size=8, verbose=0)
        reference.set_weights([0.5 * w for w in reference.get_weights()])
    assert weights_of(net) == weights_of(reference)


@pytest.mark.parametrize("call", ["fit", "train_on_batch", "compile", "to"])
@pytest.mark.parametrize("hook", ["on_train_begin", "on_epoch_begin", "on_train_batch_end", "on_epoch_end"])
def test_a_callback_cannot_start_another_fit(call, hook):
    """It would change the offset into the shuffled rows or the buffers of the running fit."""
    arguments = {"fit": (X, Y), "train_on_batch": (X, Y), "compile": ("sgd", "mse"), "to": ("cpu",)}[call]
    net, reference = _net(), _net()
    callback = gpunn.Callback()
    caught = []

    def meddle(*_):
        with pytest.raises(RuntimeError, match=naming(call, "while fit runs", "stop_training")) as error:
            getattr(net, call)(*arguments)
        caught.append(error)

    setattr(callback, hook, meddle)
    net.fit(X, Y, epochs=2, batch_size=8, callbacks=[callback], verbose=0)
    reference.fit(X, Y, epochs=2, batch_size=8, verbose=0)
    assert caught and state_of(net) == state_of(reference)
    net.fit(X, Y, verbose=0)


@pytest.mark.parametrize(
    "hook", ["on_train_begin", "on_epoch_begin", "on_train_batch_begin", "on_train_batch_end", "on_epoch_end"]
)
def test_an_error_in_a_callback_is_raised_and_leaves_a_valid_network(hook):
    net, callback, record = _net(), gpunn.Callback(), Record()

    def fail(*_):
        raise LookupError(hook)

    setattr(callback, hook, fail)
    with pytest.raises(LookupError, match=hook):
        net.fit(X, Y, batch_size=8, callbacks=[record, callback], verbose=0)
    if hook != "on_train_begin":
        assert record.calls[-1][0] == "on_train_end"
    assert np.isfinite(net.fit(X, Y, epochs=2, verbose=0).history["loss"]).all()
    net.compile("sgd", "sparse_categorical_crossentropy")


def test_one_callback_object_works_in_several_fits():
    record = Record()
    first, second = _net(), _net()
    first.fit(X, Y, callbacks=[record], verbose=0)
    second.fit(X, Y, callbacks=[record], verbose=0)
    assert record.model is second
