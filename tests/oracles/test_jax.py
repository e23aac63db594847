"""Losses and gradients of networks against jax.grad, in float64."""

import numpy as np
import pytest
from helpers.oracles import oracle

import gpunn

jax = oracle("jax")
jnp = jax.numpy

FUNCTIONS = {
    "relu": jax.nn.relu,
    "leaky_relu": lambda z: jax.nn.leaky_relu(z, 0.01),
    "elu": jax.nn.elu,
    "gelu": lambda z: jax.nn.gelu(z, approximate=True),
    "silu": jax.nn.silu,
    "selu": jax.nn.selu,
    "mish": jax.nn.mish,
    "sigmoid": jax.nn.sigmoid,
    "tanh": jnp.tanh,
    "softplus": jax.nn.softplus,
    "identity": lambda z: z,
}


@pytest.fixture(autouse=True)
def in_float64():
    """Enable float64 in JAX, whatever its present setting."""
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("activation", list(FUNCTIONS))
@pytest.mark.parametrize("loss", ["half_squared_error", "sparse_categorical_crossentropy"])
def test_loss_and_gradients(activation, loss):
    rng = np.random.default_rng(8)
    x, w = rng.normal(size=(11, 5)), rng.uniform(0.5, 2, size=11)
    y = rng.normal(size=(11, 3)) if loss == "half_squared_error" else rng.integers(0, 3, size=11)
    net = gpunn.Sequential(
        [gpunn.Dense(7, activation, l2=0.1), gpunn.Dense(6, activation), gpunn.Dense(3)], seed=5, dtype="float64"
    )
    net.compile("sgd", loss)

    def cost(parameters):
        (W1, b1, W2, b2, W3, b3), f = parameters, FUNCTIONS[activation]
        a = f(f(x @ W1 + b1) @ W2 + b2) @ W3 + b3
        if loss == "half_squared_error":
            rows = 0.5 * ((a - y) ** 2).sum(axis=1)
        else:
            rows = -jax.nn.log_softmax(a)[jnp.arange(11), y]
        return (w * rows).sum() / w.sum() + 0.05 * (W1**2).sum()

    got, gradients = net.loss_and_gradients(x, y, sample_weight=w)
    wanted, by_jax = jax.value_and_grad(cost)([jnp.asarray(v) for v in net.get_weights()])
    assert got == pytest.approx(float(wanted), rel=1e-12)
    for ours, theirs in zip(gradients, by_jax, strict=True):
        np.testing.assert_allclose(ours, np.asarray(theirs), rtol=0, atol=1e-11 * np.abs(theirs).max())
