"""Random sequences of calls: a network that is pickled after every call gives the same bits as the original."""

import pickle

import numpy as np
import pytest
from helpers import internals
from helpers.snapshots import bits, state_of

import gpunn
from gpunn import losses, metrics, schedules

RNG = np.random.default_rng(29)
X, Y = RNG.normal(size=(21, 4)), RNG.integers(0, 3, size=21)
SEQUENCES, CALLS = 60, 14


def _build(rng):
    layers = [gpunn.Dense(6, "relu", l2=0.01), gpunn.Dropout(0.25), gpunn.BatchNormalization()]
    shape = 4 if rng.random() < 0.7 else None
    return gpunn.Sequential([*layers, gpunn.Dense(3)], seed=3, input_shape=shape, dtype="float64")


def _compile(net, rng):
    rate = rng.choice([0.01, 0.1]) if rng.random() < 0.5 else schedules.Warmup(schedules.CosineDecay(0.1, 6), 3)
    make = [gpunn.SGD, gpunn.Momentum, gpunn.Adam, gpunn.AdamW][rng.integers(4)]
    rule = make(rate, clipnorm=[None, 0.05][rng.integers(2)])
    net.compile(rule, losses.SparseCategoricalCrossentropy(), [metrics.TopKCategoricalAccuracy(2)], device="cpu")
    return net.learning_rate


def _fit(net, rng):
    rows, size = int(rng.integers(12, 22)), int(rng.integers(4, 16))
    callbacks = []
    if rng.random() < 0.5:
        callback = gpunn.Callback()
        hook = ["on_epoch_begin", "on_epoch_end", "on_train_batch_begin", "on_train_batch_end"][rng.integers(4)]
        set_one, looks = SETTERS[rng.integers(len(SETTERS))], rng.random() < 0.5
        seed = int(rng.integers(2**31))

        def change(number, *_):
            if number == 1:
                set_one(net, np.random.default_rng(seed))
                if looks:
                    net.predict(X)

        setattr(callback, hook, change)
        callbacks.append(callback)
    validation = (X, Y) if rng.random() < 0.5 else None
    options = {"batch_size": size, "epochs": int(rng.integers(1, 4)), "callbacks": callbacks, "verbose": 0}
    return net.fit(X[:rows], Y[:rows], validation_data=validation, **options).history


def _fit_stream(net, rng):
    size = int(rng.integers(5, 12))
    return net.fit(
        lambda: ((X[k : k + size], Y[k : k + size]) for k in range(0, 21, size)), epochs=2, verbose=0
    ).history


def _diverge(net, rng):
    weights = net.get_weights()
    net.set_weights([w + np.sign(w) * 1e200 for w in weights])
    try:
        return net.fit(X, Y, verbose=0).history
    finally:
        net.set_weights(weights)


def _freeze(net, rng):
    layer = net[int(rng.integers(4))]
    layer.trainable = not layer.trainable


def _set_l2(net, rng):
    net[int(rng.choice([0, 3]))].l2 = float(rng.choice([0, 0.1, 1]))


def _set_rate(net, rng):
    net[1].rate = float(rng.choice([0, 0.25, 0.5]))


def _set_activation(net, rng):
    net[-1].activation = [None, "softmax", "tanh"][rng.integers(3)]


def _set_clipnorm(net, rng):
    net.optimizer.clipnorm = [None, 1e-3, 0.1][rng.integers(3)]


def _override_the_learning_rate(net, rng):
    net.learning_rate = [None, 0.003][rng.integers(2)]


SETTERS = [_freeze, _set_l2, _set_rate, _set_clipnorm, _override_the_learning_rate]
POSSIBLE = [
    *SETTERS,
    _set_activation,
    _compile,
    _fit,
    _fit,
    _fit_stream,
    _diverge,
    lambda net, rng: net.train_on_batch(X[: (n := int(rng.integers(2, 22)))], Y[:n]),
    lambda net, rng: net.evaluate(X[: (n := int(rng.integers(1, 22)))], Y[:n], batch_size=8),
    lambda net, rng: bits(net.predict(X[: int(rng.integers(1, 22))], batch_size=8)),
    lambda net, rng: bits(net.predict_proba(X)),
    lambda net, rng: [bits(layer.a) for layer in net.trace(X, training=bool(rng.integers(2)))],
    lambda net, rng: [bits(g) for g in net.loss_and_gradients(X, Y)[1]],
    lambda net, rng: net.set_weights([w * 0.5 for w in net.get_weights()]),
    lambda net, rng: net.learning_rate,
    lambda net, rng: len(net.summary(8)) > 0,
]


def _called(call, net, seed):
    """The result of a call, or its error."""
    try:
        return call(net, np.random.default_rng(seed))
    except (ValueError, RuntimeError, gpunn.DivergenceError) as error:
        return f"{type(error).__name__}: {error}"


@pytest.mark.parametrize("seed", range(SEQUENCES))
def test_a_network_pickled_between_calls_gives_the_same_bits(seed):
    rng = np.random.default_rng(seed)
    net, pickled = (_build(np.random.default_rng(seed)) for _ in range(2))
    for number in range(CALLS):
        call = _compile if number == 0 else POSSIBLE[rng.integers(len(POSSIBLE))]
        drawn = int(rng.integers(2**31))
        results = [_called(call, each, drawn) for each in (net, pickled)]
        assert repr(results[0]) == repr(results[1]), f"call {number}, {call}"
        if internals.parameters(net) is not None:
            assert state_of(net) == state_of(pickled), f"call {number}, {call}"
        pickled = pickle.loads(pickle.dumps(pickled))
