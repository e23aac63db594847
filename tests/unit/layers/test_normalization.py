"""BatchNormalization and LayerNormalization by hand, and the conventions of the running values."""

import numpy as np
import pytest
from helpers import internals
from helpers.messages import naming
from helpers.networks import network_builder
from helpers.snapshots import bits

import gpunn

# columns of mean 2 and 10, biased variances 5 and 80, unbiased 20/3 and 320/3
X = np.array([[-1.0, -2.0], [1.0, 6.0], [3.0, 14.0], [5.0, 22.0]])
MEAN, BIASED, UNBIASED = np.array([2.0, 10.0]), np.array([5.0, 80.0]), np.array([20.0, 320.0]) / 3
EPSILON = 1e-5


OPTIONS = {"input_shape": 2, "seed": 0, "dtype": "float64", "loss": "half_squared_error", "device": "auto"}
_net = network_builder(optimizer=gpunn.SGD(1e-30), **OPTIONS)


def _running(net, layer=0):
    return internals.running_stats_of(net, layer)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_training_uses_the_moments_of_the_batch(dtype):
    net = _net(gpunn.BatchNormalization(), dtype=dtype)
    normal = (X - MEAN) / np.sqrt(BIASED + EPSILON)
    tolerance = 1e-6 if dtype == "float32" else 1e-14
    np.testing.assert_allclose(net.trace(X, training=True)[0].a, normal, rtol=tolerance)
    net.set_weights([[2.0, 0.5], [1.0, -3.0]])
    np.testing.assert_allclose(net.trace(X, training=True)[0].a, normal * [2, 0.5] + [1, -3], rtol=tolerance)
    np.testing.assert_allclose(net.trace(X, training=True)[0].z, net.trace(X, training=True)[0].a, rtol=0)


def test_running_values_move_by_a_tenth_with_the_unbiased_variance():
    net = _net(gpunn.BatchNormalization())
    assert {k: v.tolist() for k, v in _running(net).items()} == {"running_mean": [0, 0], "running_variance": [1, 1]}
    mean, variance = np.zeros(2), np.ones(2)
    for _ in range(3):
        net.train_on_batch(X, X)
        mean, variance = mean + 0.1 * (MEAN - mean), variance + 0.1 * (UNBIASED - variance)
        np.testing.assert_allclose(_running(net)["running_mean"], mean, rtol=1e-14)
        np.testing.assert_allclose(_running(net)["running_variance"], variance, rtol=1e-14)
    np.testing.assert_allclose(net.predict(X), (X - mean) / np.sqrt(variance + EPSILON), rtol=1e-13)
    # a trace changes nothing
    before = bits(internals.running(net))
    net.predict(X), net.evaluate(X, X), net.loss_and_gradients(X, X), net.trace(X, X, training=True)
    assert bits(internals.running(net)) == before


@pytest.mark.parametrize("momentum", [0.0, 0.5, 1.0, np.float32(0.25)])
def test_custom_momentum_and_epsilon(momentum):
    net = _net(gpunn.BatchNormalization(momentum=momentum, epsilon=0.5))
    net.train_on_batch(X, X)
    np.testing.assert_allclose(_running(net)["running_mean"], float(momentum) * MEAN, rtol=1e-14)
    variance = 1 + float(momentum) * (UNBIASED - 1)
    np.testing.assert_allclose(net.predict(X), (X - float(momentum) * MEAN) / np.sqrt(variance + 0.5), 1e-13, 1e-25)


def test_a_frozen_layer_uses_its_running_values_and_does_not_change_them():
    net = _net(gpunn.BatchNormalization(), gpunn.Dense(2))
    net.train_on_batch(X, X)
    net[0].trainable = False
    before = bits(internals.running(net))
    predicted = net.trace(X)[0].a
    assert bits(net.trace(X, X, training=True)[0].a) == bits(predicted)
    net.fit(X, X, epochs=2, verbose=0)
    assert bits(internals.running(net)) == before


def test_a_batch_of_one_row():
    """One row has no unbiased variance: the biased one, 0, is used, and x̂ is 0."""
    net = _net(gpunn.BatchNormalization())
    np.testing.assert_array_equal(net.trace(X[:1], training=True)[0].a, [[0, 0]])
    net.train_on_batch(X[:1], X[:1])
    np.testing.assert_allclose(_running(net)["running_mean"], 0.1 * X[0], rtol=1e-14)
    np.testing.assert_allclose(_running(net)["running_variance"], [0.9, 0.9], rtol=1e-14)
    assert np.isfinite(net.predict(X)).all()
    # the last batch of an epoch may have one row
    net.fit(X, X, batch_size=3, verbose=0)


def test_a_constant_column():
    net = _net(gpunn.BatchNormalization())
    np.testing.assert_array_equal(net.trace(np.full((4, 2), 7.0), training=True)[0].a, np.zeros((4, 2)))
    loss, gradients = net.loss_and_gradients(np.full((4, 2), 7.0), X)
    assert np.isfinite(loss) and all(np.isfinite(g).all() for g in gradients)


def test_sample_weights_do_not_affect_the_moments():
    weighted, plain = _net(gpunn.BatchNormalization()), _net(gpunn.BatchNormalization())
    weighted.train_on_batch(X, X, sample_weight=[1, 0, 5, 2])
    plain.train_on_batch(X, X)
    assert bits(internals.running(weighted)) == bits(internals.running(plain))


def test_layer_normalization_by_hand():
    # rows of mean 1 and variance 4; of mean −2 and variance 0
    x = np.array([[-1.0, 3.0], [-2.0, -2.0]])
    net = _net(gpunn.LayerNormalization(epsilon=1e-3))
    normal = np.array([[-2.0, 2.0], [0.0, 0.0]]) / np.sqrt([[4.001], [0.001]])
    np.testing.assert_allclose(net.predict(x), normal, rtol=1e-14)
    net.set_weights([[2.0, 0.5], [1.0, -3.0]])
    np.testing.assert_allclose(net.predict(x), normal * [2, 0.5] + [1, -3], rtol=1e-14)
    assert bits(net.trace(x, training=True)[0].a) == bits(net.predict(x)), "training and prediction are equal"
    assert bits(net.trace(x)[0].z) == bits(net.predict(x))
    # a row does not depend on the others
    assert bits(net.predict(x[:1])) == bits(net.predict(x)[:1])
    assert _running(net) == {}


@pytest.mark.parametrize("layer", [gpunn.BatchNormalization, gpunn.LayerNormalization])
def test_gamma_and_beta_are_learned_and_not_penalized(layer):
    net = _net(layer(), gpunn.Dense(2, l2=0.1), optimizer=gpunn.SGD(0.1))
    gamma, beta = net.get_weights()[:2]
    assert (gamma == 1).all() and not beta.any()
    net.fit(X, X, epochs=2, verbose=0)
    after = net.get_weights()
    assert (after[0] != 1).any() and after[1].any()
    # the flat buffer begins with the Dense layer's weights, the only penalized parameters
    assert internals.penalties(net) == [(0, 4, 0.1)]


def test_repr():
    assert repr(gpunn.BatchNormalization()) == "BatchNormalization()"
    assert repr(gpunn.LayerNormalization(0.001)) == "LayerNormalization(epsilon=0.001)"


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan"), True, "0.1", None])
def test_invalid_momenta_are_rejected(value):
    with pytest.raises(ValueError, match=naming("momentum", value)):
        gpunn.BatchNormalization(momentum=value)


@pytest.mark.parametrize("layer", [gpunn.BatchNormalization, gpunn.LayerNormalization])
@pytest.mark.parametrize("value", [0, 1, -1e-5, float("nan"), True, "1e-5", None])
def test_invalid_epsilons_are_rejected(layer, value):
    with pytest.raises(ValueError, match=naming("epsilon", f"got {value!r}")):
        layer(epsilon=value)
