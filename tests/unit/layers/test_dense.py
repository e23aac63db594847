"""Dense and Activation: z = a_prev W + b, a = f(z), penalties, max-norm, initial values."""

import numpy as np
import pytest
from helpers.snapshots import bits, weights_of

import gpunn
from gpunn import initializers

W, B = [[1.0, -2.0, 0.5], [0.25, 4.0, -1.0]], [0.5, -1.0, 0.0]
X = [[2.0, 1.0], [-4.0, 0.5], [0.0, 0.0]]
# x W + b by hand
Z = [[2.75, -1.0, 0.0], [-3.375, 9.0, -2.5], [0.5, -1.0, 0.0]]


def _net(*layers, n_in=2, dtype="float32", seed=0):
    return gpunn.Sequential(layers, input_shape=n_in, dtype=dtype, seed=seed)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_forward_by_hand(dtype):
    net = _net(gpunn.Dense(3), dtype=dtype)
    net.set_weights([W, B])
    assert bits(net.predict(X)) == bits(np.array(Z, dtype))
    rectified = _net(gpunn.Dense(3, "relu"), dtype=dtype)
    rectified.set_weights([W, B])
    np.testing.assert_array_equal(rectified.predict(X), np.maximum(Z, 0))


@pytest.mark.parametrize("second", [{"l2": 0.5, "l1": 0.125}, {"l2": 0.25, "l1": 0.0}, {"l2": 0.25, "l1": 0.125}])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_each_layer_has_separate_penalties(second, dtype):
    """Each layer adds ½λ ΣW² + λ₁ Σ|W|, and λW + λ₁ sign(W) to its gradient, even if neighbors share λ or λ₁. (E9)"""
    penalties = [{"l2": 0.5, "l1": 0.0}, second, {"l2": 0.5, "l1": 0.0}]
    plain, penalized = (
        _net(*(gpunn.Dense(2, **p) for p in given), dtype=dtype).compile("sgd", "half_squared_error", device="cpu")
        for given in ([{}] * 3, penalties)
    )
    dyadic = [
        np.array(w) for w in ([[0.5, -1], [2, 0.25]], [0, 0], [[-2, 1], [0.5, 4]], [0, 0], [[1, -8], [3, 0.5]], [0, 0])
    ]
    for net in (plain, penalized):
        net.set_weights(dyadic)
    y = np.zeros((3, 2))
    C, gradients = plain.loss_and_gradients(X, y)
    found, penalized_gradients = penalized.loss_and_gradients(X, y)
    of_weights = list(zip(penalties, dyadic[::2], strict=True))
    wanted = sum(p["l2"] / 2 * (W**2).sum() + p["l1"] * np.abs(W).sum() for p, W in of_weights)
    assert found - C == pytest.approx(wanted, rel=1e-4 if dtype == "float32" else 1e-12)
    for (p, W), g, without in zip(of_weights, penalized_gradients[::2], gradients[::2], strict=True):
        tolerance = (1e-6 if dtype == "float32" else 1e-14) * np.abs(without).max()
        np.testing.assert_allclose(g - without, p["l2"] * W + p["l1"] * np.sign(W), rtol=0, atol=tolerance)
    for got, wanted in zip(penalized_gradients[1::2], gradients[1::2], strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_without_intercepts():
    net = _net(gpunn.Dense(3, use_bias=False))
    net.set_weights([W])
    np.testing.assert_array_equal(net.predict(X), np.array(Z) - B)
    net.compile(gpunn.SGD(0.5), "half_squared_error")
    _, gradients = net.loss_and_gradients(X, Z)
    # δ = (z − b − z)/3 = −b/3 in every row: W's gradient is Σ xᵢᵀ δ
    np.testing.assert_allclose(gradients[0], -np.outer(np.sum(X, axis=0), B) / 3, rtol=1e-6)
    assert len(gradients) == 1
    net.train_on_batch(X, Z)
    assert len(net.get_weights()) == 1


def test_backward_by_hand():
    """One row x = (2, 1), y = 0 and the loss ½‖a‖² after a rectifier: δ = a where z > 0."""
    net = _net(gpunn.Dense(2, "relu"), gpunn.Dense(1))
    net.set_weights([[[1, -1], [1, 1]], [0, 0], [[0.5], [3]], [0.25]])
    net.compile(gpunn.SGD(0.5), "half_squared_error")
    # z¹ = (3, −1), a¹ = (3, 0), z² = 1.75 = δ²; ∂C/∂a¹ = (0.875, 5.25), δ¹ = (0.875, 0)
    loss, (dW1, db1, dW2, db2) = net.loss_and_gradients([[2, 1]], [[0]])
    assert loss == 1.53125
    np.testing.assert_array_equal(dW1, [[1.75, 0], [0.875, 0]])
    np.testing.assert_array_equal(db1, [0.875, 0])
    np.testing.assert_array_equal(dW2, [[5.25], [0]])
    np.testing.assert_array_equal(db2, [1.75])
    np.testing.assert_array_equal(net.input_gradient([[2, 1]], [[0]]), [[0.875, 0.875]])
    net.train_on_batch([[2, 1]], [[0]])
    for w, exact in zip(
        net.get_weights(), ([[0.125, -1], [0.5625, 1]], [-0.4375, 0], [[-2.125], [3]], [-0.625]), strict=True
    ):
        np.testing.assert_array_equal(w, exact)


def test_penalties_apply_to_weights_only():
    net = _net(gpunn.Dense(3, l2=0.5, l1=0.25))
    net.set_weights([W, B])
    net.compile("sgd", "half_squared_error")
    loss, (dW, db) = net.loss_and_gradients(X, Z)
    # ½·½·Σ W² + ¼·Σ |W|; Σ W² = 22.3125, Σ |W| = 8.75
    assert loss == 0.25 * 22.3125 + 0.25 * 8.75
    np.testing.assert_array_equal(dW, 0.5 * np.array(W) + 0.25 * np.sign(W))
    np.testing.assert_array_equal(db, [0, 0, 0])


def test_max_norm_scales_only_longer_columns():
    net = _net(gpunn.Dense(3, max_norm=2.5))
    # columns of norm 5, 1.5 and 2.5; the batch has no error, so that nothing else changes
    net.set_weights([[[3.0, 1.5, 2.0], [4.0, 0.0, 1.5]], [7.0, 0.0, 0.0]])
    net.compile(gpunn.SGD(1.0), "half_squared_error")
    net.train_on_batch([[0.0, 0.0]], [[7.0, 0.0, 0.0]])
    after, b = net.get_weights()
    np.testing.assert_array_equal(after, [[1.5, 1.5, 2.0], [2.0, 0.0, 1.5]])
    np.testing.assert_array_equal(b, [7, 0, 0])


def test_max_norm_does_not_change_a_frozen_layer():
    net = _net(gpunn.Dense(3, max_norm=0.5), gpunn.Dense(1))
    net[0].trainable = False
    before = net.get_weights()[0]
    net.compile("sgd", "mse").train_on_batch(X, [[1], [2], [3]])
    assert bits(net.get_weights()[0]) == bits(before) and np.linalg.norm(before) > 0.5


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "elu", "gelu", "silu", "mish", "softplus"])
def test_default_weights_are_he_for_rectifiers_and_lecun_otherwise(activation):
    for name, variance in (
        (activation, 2 / 400),
        ("tanh", 1 / 400),
        ("sigmoid", 1 / 400),
        ("selu", 1 / 400),
        (None, 1 / 400),
    ):
        w, b = _net(gpunn.Dense(300, name), n_in=400).get_weights()
        assert w.var() == pytest.approx(variance, rel=0.02)
        # not truncated
        assert np.abs(w).max() > 4 * variance**0.5
        assert not b.any()


def test_custom_initial_values():
    net = _net(gpunn.Dense(3, kernel_initializer="ones", bias_initializer=initializers.Constant(0.5)))
    w, b = net.get_weights()
    assert (w == 1).all() and (b == 0.5).all()
    counted = _net(gpunn.Dense(3, kernel_initializer=lambda shape, generator: np.arange(6.0).reshape(shape)))
    np.testing.assert_array_equal(counted.get_weights()[0], [[0, 1, 2], [3, 4, 5]])
    given = _net(gpunn.Dense(3, "relu", kernel_initializer="lecun_normal"))
    assert bits(given.get_weights()[0]) == bits(_net(gpunn.Dense(3)).get_weights()[0])


def test_initial_weights_do_not_depend_on_preceding_layers():
    short, long = _net(gpunn.Dense(4), gpunn.Dense(3)), _net(gpunn.Dense(4, "tanh"), gpunn.Dense(3))
    assert weights_of(short)[2:] == weights_of(long)[2:]


@pytest.mark.parametrize("name", ["relu", "sigmoid", "tanh", "gelu", "softmax", "identity"])
def test_an_activation_layer_equals_the_activation_of_dense(name):
    nets = [
        _net(gpunn.Dense(3, name, kernel_initializer="lecun_normal"), gpunn.Dense(2), dtype="float64"),
        _net(gpunn.Dense(3), gpunn.Activation(name), gpunn.Dense(2), dtype="float64"),
    ]
    nets[1].set_weights(nets[0].get_weights())
    for net in nets:
        net.compile(gpunn.Adam(0.1), "mse").fit(X, np.ones((3, 2)), epochs=3, verbose=0)
    for a, b in zip(nets[0].get_weights(), nets[1].get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-13, atol=1e-15)
    assert nets[1][1].n_in == nets[1][1].n_out == 3


def test_repr():
    assert repr(gpunn.Dense(3)) == "Dense(3)"
    assert repr(gpunn.Dense(3, "logistic", l2=0.1, max_norm=2)) == (
        "Dense(3, activation='sigmoid', l2=0.1, max_norm=2.0)"
    )
    assert repr(gpunn.Activation("swish")) == "Activation('silu')"
    assert repr(gpunn.Dense(2, kernel_initializer="he_uniform")) == "Dense(2, kernel_initializer='he_uniform')"
    assert repr(gpunn.Dense(2, gpunn.activations.LeakyReLU(0.3))) == "Dense(2, activation=LeakyReLU(alpha=0.3))"
    assert repr(gpunn.Dense(2, "relu", kernel_initializer="he_normal")) == "Dense(2, activation='relu')"


@pytest.mark.parametrize("number", [np.int64(3), np.uint8(3), np.array(3)])
def test_numpy_scalars_are_accepted(number):
    layer = gpunn.Dense(number, l2=np.float32(0.5), l1=np.float64(0.25), max_norm=np.float32(2))
    assert type(layer.units) is int and layer.units == 3
    assert (layer.l2, layer.l1, layer.max_norm) == (0.5, 0.25, 2.0)
    assert {type(v) for v in (layer.l2, layer.l1, layer.max_norm)} == {float}
