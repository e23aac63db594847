"""Executables: networks and data sets share them, each caller has its own, and they keep no caller's array."""

import gc
import traceback
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from helpers import internals
from helpers.networks import build_network
from helpers.user_classes import Square

import gpunn
from gpunn import activations, input_checks
from gpunn.kernels._compiler import cpu_cache
from gpunn.network import Executable
from gpunn.registry import attribute_versions

RNG = np.random.default_rng(11)
X = RNG.normal(size=(130, 6))
Y = RNG.integers(0, 3, 130)


def net(seed=0, l2=0.0, width=5, activation="tanh", dropout=0.0):
    layers = gpunn.Dense(width, activation, l2=l2), gpunn.Dropout(dropout), gpunn.Dense(3, l2=l2)
    return build_network(*layers, seed=seed, dtype="float64", loss="sparse_categorical_crossentropy", device="cpu")


@pytest.fixture
def made(monkeypatch):
    """A list with the spec of each executable that is made."""
    if cpu_cache.status().implementation != "compiled":
        pytest.skip(f"kernels are not compiled here: {cpu_cache.status().reason}")
    return internals.record_executables(monkeypatch)


# --- sharing ----------------------------------------------------------------------------------------------------------


def test_networks_data_sets_and_penalties_share_an_executable(made):
    """The results are those of a process that made one for each, bit for bit."""
    cases = [(0, 0.0, X), (1, 0.0, X[::-1].copy()), (2, 0.0, X[:70]), (3, 0.0, X + 1)]
    shared = []
    for seed, l2, rows in cases:
        one = net(seed, l2)
        shared.append([one.fit(rows, Y[: len(rows)], epochs=3, batch_size=30, verbose=0).history, *one.get_weights()])
    assert len([spec for spec in made if spec.options.update]) == 1  # batches of 30 rows, and of 10
    for (seed, l2, rows), (history, *weights) in zip(cases, shared, strict=True):
        internals.forget_executables()
        alone = net(seed, l2)
        assert alone.fit(rows, Y[: len(rows)], epochs=3, batch_size=30, verbose=0).history == history
        for a, b in zip(alone.get_weights(), weights, strict=True):
            np.testing.assert_array_equal(a, b)


def test_each_network_has_its_own_penalty(made):
    strengths = (0.5, 0.01, 2.0)
    together = [net(4, l2) for l2 in strengths]
    histories = [one.fit(X, Y, epochs=2, verbose=0).history for one in together]
    assert len([spec for spec in made if spec.options.update]) == 1
    for l2, history in zip(strengths, histories, strict=True):
        internals.forget_executables()
        assert net(4, l2).fit(X, Y, epochs=2, verbose=0).history == history


@pytest.mark.parametrize("other", [{"width": 6}, {"activation": "relu"}, {"dropout": 0.2}, {"l2": 0.1}])
def test_other_structures_have_executables_of_their_own(made, other):
    for options in ({}, other):
        net(**options).fit(X, Y, verbose=0)
    assert len([spec for spec in made if spec.options.update]) == 2


def test_concurrent_fits_use_different_executables(made):
    alone = [net(seed).fit(X, Y, epochs=4, verbose=0).history for seed in range(8)]
    with ThreadPoolExecutor(4) as pool:
        fits = [pool.submit(lambda seed: net(seed).fit(X, Y, epochs=4, verbose=0).history, seed) for seed in range(8)]
        assert [fit.result() for fit in fits] == alone
    assert 1 <= len([spec for spec in made if spec.options.update]) <= 5


def test_an_executable_is_not_used_again_after_an_error(made):
    class Stop(gpunn.Callback):
        def on_train_batch_end(self, batch, logs=None):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        net().fit(X, Y, verbose=0, callbacks=[Stop()])
    net().fit(X, Y, verbose=0)
    assert len([spec for spec in made if spec.options.update]) == 2


def test_user_classes_have_executables_of_their_own(made):
    for _ in range(2):
        net(activation=Square()).fit(X, Y, verbose=0)
    assert len([spec for spec in made if spec.options.update]) == 2


# --- references -------------------------------------------------------------------------------------------------------


class Rows(np.ndarray):
    """An array that supports weak references."""


@pytest.mark.parametrize("compiled", [True, False])
def test_no_array_of_a_caller_is_kept(compiled, monkeypatch):
    if not compiled:
        monkeypatch.setenv("GPUNN_COMPILE", "0")
    rows, validation = (X.copy().view(Rows) for _ in range(2))
    one = net()
    one.fit(rows, Y, epochs=2, validation_data=(validation, Y), verbose=0)
    one.evaluate(rows, Y)
    one.predict(rows, batch_size=32)
    references = [weakref.ref(rows), weakref.ref(validation), weakref.ref(internals.network(one))]
    del rows, validation, one
    gc.collect()
    assert [reference() for reference in references] == [None] * 3


# --- predictions ------------------------------------------------------------------------------------------------------


def test_predictions_of_many_sizes_use_few_executables(made):
    one = net()
    wanted = np.concatenate([one.predict(X[k : k + 1]) for k in range(130)])
    made.clear()
    for n in range(1, 131):
        np.testing.assert_allclose(one.predict(X[:n]), wanted[:n], rtol=1e-12, atol=1e-14)
    assert len(made) < 48
    made.clear()
    for n in range(1, 131):
        one.predict(X[:n])
    assert not made


@pytest.mark.parametrize("dtype", ["float32", "int8", "bool"])
@pytest.mark.parametrize("rows", [1, 40, 100])
def test_input_of_another_type_keeps_its_launches(made, dtype, rows):
    """Converted input is copied to the same buffers. Full batches are gathered by an executable that is kept."""
    one, given = net(), X.astype(dtype)
    first = one.predict(given, batch_size=32)
    made.clear()
    for _ in range(3):
        np.testing.assert_array_equal(one.predict(given, batch_size=32), first)
    assert not made


def test_an_invalid_number_is_found_after_a_padded_prediction(made):
    one, bad = net(), X.copy()
    bad[1, 2] = np.nan
    with pytest.raises(ValueError, match="NaN, first in row 1, column 2"):
        one.predict(bad[:17])
    assert np.isfinite(one.predict(X[:17])).all()


# --- the way to a step ------------------------------------------------------------------------------------------------


def test_ten_calls_lead_from_fit_to_an_executable(monkeypatch):
    depths, run = [], Executable.run

    def counted(self, *given, **options):
        names = [frame.name for frame in traceback.extract_stack() if "/gpunn/" in frame.filename]
        depths.append(names)
        return run(self, *given, **options)

    monkeypatch.setattr(Executable, "run", counted)
    net().fit(X, Y, verbose=0)
    assert depths and all(names[0] == "fit" and len(names) <= 10 for names in depths), depths[:1]


# --- attributes -------------------------------------------------------------------------------------------------------


def test_setting_an_attribute_is_counted_and_reading_is_not():
    layer = gpunn.Dense(3, "leaky_relu")
    (before,) = attribute_versions([layer])
    layer.l2 = 0.1
    assert attribute_versions([layer]) == [before + 1]
    _ = layer.l2, repr(layer), layer.get_config()
    assert attribute_versions([layer]) == [before + 1]
    (inner,) = attribute_versions([layer.activation])
    layer.activation.alpha = 0.2
    assert attribute_versions([layer.activation]) == [inner + 1]


def test_an_attribute_that_is_set_to_its_value_makes_no_executable(made):
    one = net()
    one.fit(X, Y, verbose=0)
    made.clear()
    one.layers[0].l2 = 0.0
    one.fit(X, Y, verbose=0)
    assert not made


class Shifted(activations.Activation):
    """a = z + Σ offsets. Its name `version` is the user's."""

    version = property(lambda self: "a user's version")

    def __init__(self, offsets=(0.5,)):
        self.offsets = list(offsets)

    def f(self, z):
        return z + sum(self.offsets)

    def derivative(self, z, a):
        return 1 + 0 * z

    def get_config(self):
        return {"offsets": self.offsets}


def test_a_list_in_a_user_class_may_be_changed_in_place():
    shifted = Shifted()
    one = net(activation=shifted)
    before = one.predict(X)
    shifted.offsets.append(2.0)
    other = net(activation=Shifted([0.5, 2.0]))
    other.build(6)
    other.set_weights(one.get_weights())
    np.testing.assert_array_equal(one.predict(X), other.predict(X))
    assert not np.array_equal(one.predict(X), before)
    assert shifted.version == "a user's version"


class MoreClasses(gpunn.Callback):
    """Sets an attribute on which the number of a metric's sums depends."""

    def __init__(self, metric, hook):
        self.metric = metric
        setattr(self, hook, self.change)

    def change(self, *given):
        self.metric.count = 7


class Counts(gpunn.metrics.Metric):
    """The mean of 1 over the rows, in each of `count` sums."""

    opaque = True

    def __init__(self, count=1):
        super().__init__()
        self.count = count

    def n_sums(self, n_out):
        return self.count

    def rows(self, a, y, w):
        return w if self.count == 1 else np.repeat(w[:, None], self.count, axis=1)

    def compute(self, mean):
        assert np.size(mean) == self.count
        return float(np.max(mean))

    def get_config(self):
        return {"count": self.count}


@pytest.mark.parametrize("hook", ["on_epoch_begin", "on_train_batch_begin", "on_epoch_end"])
def test_a_hook_may_change_the_number_of_sums_of_a_metric(hook):
    metric = Counts()
    one = net()
    one.compile("sgd", "sparse_categorical_crossentropy", metrics=[metric])
    history = one.fit(X, Y, epochs=3, batch_size=130, verbose=0, callbacks=[MoreClasses(metric, hook)]).history
    assert history["Counts"] == [1.0] * 3


# --- arrays -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2])
def test_networks_that_share_an_executable_keep_their_penalty_in_all_threads(threads, monkeypatch):
    internals.use_threads(monkeypatch, threads)
    strengths = (0.5, 0.01)
    together = [net(4, l2, width=300).fit(X, Y, epochs=2, verbose=0).history for l2 in strengths]
    for l2, history in zip(strengths, together, strict=True):
        internals.forget_executables()
        assert net(4, l2, width=300).fit(X, Y, epochs=2, verbose=0).history == history
    assert together[0] != together[1]


def test_reversed_rows_of_two_lengths():
    """Element 0 of X[::-1] has the highest address of the array."""
    for n in (130, 90):
        together, alone = net(), net()
        history = together.fit(X[:n][::-1], Y[:n][::-1], epochs=2, verbose=0).history
        assert alone.fit(X[:n][::-1].copy(), Y[:n][::-1].copy(), epochs=2, verbose=0).history == history


def test_an_autoencoder_reads_one_array_twice(made):
    histories = []
    for targets in (X, X.copy()):
        one = build_network(gpunn.Dense(4, "tanh"), gpunn.Dense(6), seed=1, dtype="float64", loss="mse", device="cpu")
        histories += [one.fit(X, targets, epochs=2, verbose=0).history for _ in range(2)]
    assert histories[:2] == histories[2:]
    # the same network uses its executable again, although the arrays overlap
    assert len([spec for spec in made if spec.options.update]) == 2


class Centred(gpunn.Layer):
    """a = a_prev − its mean over the rows of the batch."""

    opaque = True

    def forward(self, t):
        t.a = t.a_prev - t.a_prev.mean(axis=0)

    def backward(self, t):
        t.grad_prev = t.grad_a - t.grad_a.mean(axis=0)


def test_a_user_layer_gets_no_rows_but_those_of_the_batch():
    one = build_network(Centred(), gpunn.Dense(3), seed=0, dtype="float64", loss="mse", device="cpu")
    one.build(6)
    W, b = one.get_weights()
    np.testing.assert_allclose(one.predict(X[:17]), (X[:17] - X[:17].mean(axis=0)) @ W + b, rtol=1e-12, atol=1e-14)


def test_rows_after_a_padded_prediction_are_zero(monkeypatch):
    """An invalid number of an earlier batch must not reach the check of a later one."""
    one, checked = net(), []
    one.build(6)
    with pytest.raises(ValueError, match="NaN"):
        one.predict(np.vstack([X[:17], np.full((1, 6), np.nan)]))
    monkeypatch.setattr(input_checks, "check_numbers", lambda *given: checked.append(given))
    one.predict(X[:17])
    assert not checked


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_many_rows_are_predicted_in_blocks_that_stay_in_the_cache(made, dtype):
    """Few parameters: a block has 65, rounded down to 64, rows. Many: it has the rows that the caller allows."""
    rows = RNG.normal(size=(1030, 100))
    for width, sizes in ((8, {64, 6}), (200, {1024, 6})):
        layers = gpunn.Dense(width, "tanh"), gpunn.Dense(3)
        one = build_network(*layers, seed=0, dtype="float64", loss="mse", device="cpu")
        one.build(100)
        W1, b1, W2, b2 = one.get_weights()
        made.clear()
        found = one.predict(rows.astype(dtype))
        np.testing.assert_allclose(found, np.tanh(rows @ W1 + b1) @ W2 + b2, rtol=0, atol=1e-5)
        assert {spec.shards[0].n for spec in made} == sizes


def test_a_caller_may_allow_smaller_blocks(made):
    one = net()
    one.build(6)
    one.predict(np.ones((5000, 6)), batch_size=100)
    assert {spec.shards[0].n for spec in made} == {100}
