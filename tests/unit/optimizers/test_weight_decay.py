"""AdamW's decay of all parameters, or of weights only."""

import numpy as np
import pytest

import gpunn
from gpunn import Adam, AdamW, optimizers


@pytest.mark.parametrize(("weights_only", "factors"), [(False, [0.875**2] * 4), (True, [0.875**2, 1, 1, 1])])
def test_weight_decay_applies_to_every_parameter_or_to_weights(weights_only, factors):
    """AdamW multiplies weights, intercepts, γ and β by 1 − ηλ in each step if all gradients are 0."""
    layers = [gpunn.Dense(2, bias_initializer="ones"), gpunn.LayerNormalization()]
    net = gpunn.Sequential(layers, input_shape=3, seed=0, dtype="float64")
    net.set_weights([w + 0.5 for w in net.get_weights()])

    def nothing(y, a):
        return 0 * a[:, 0], 0 * a

    net.compile(AdamW(0.5, 0.25, decay_weights_only=weights_only), nothing, device="cpu")
    start = net.get_weights()
    for _ in range(2):
        net.train_on_batch(np.ones((4, 3)), np.zeros((4, 2)))
    for before, after, factor in zip(start, net.get_weights(), factors, strict=True):
        np.testing.assert_allclose(after, before * factor, rtol=1e-15)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("eager", [False, True])
def test_decay_of_weights_only_is_adamw_for_weights_and_adam_for_the_rest(dtype, eager):
    """A step has the same bits as one of AdamW, or of Adam."""
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(9, 3)), rng.normal(size=(9, 2))
    found = []
    for rule in (AdamW(0.1, 0.3, decay_weights_only=True), AdamW(0.1, 0.3), Adam(0.1)):
        layers = [gpunn.Dense(4, "tanh"), gpunn.LayerNormalization(), gpunn.Dense(2)]
        net = gpunn.Sequential(layers, seed=0, dtype=dtype).compile(rule, "mse", device="cpu", eager=eager)
        net.build(3)
        net.set_weights([w + 0.5 for w in net.get_weights()])
        net.train_on_batch(x, y)
        found.append(net.get_weights())
    for mine, decayed, plain in zip(*found, strict=True):
        np.testing.assert_array_equal(mine, decayed if mine.ndim == 2 else plain)
        assert (decayed != plain).any()


def test_an_own_update_is_given_weights_and_other_parameters_separately():
    class Halving(optimizers.Optimizer):
        opaque = True
        separates_weights = True

        def update(self, t):
            t.theta = t.theta / 2 if t.are_weights else t.theta

    net = gpunn.Sequential([gpunn.Dense(3, bias_initializer="ones"), gpunn.LayerNormalization()], input_shape=4, seed=0)
    start = net.get_weights()
    net.compile(Halving(0.1), "mse", device="cpu").train_on_batch(np.ones((2, 4)), np.ones((2, 3)))
    for before, after in zip(start, net.get_weights(), strict=True):
        np.testing.assert_array_equal(after, before / 2 if before.ndim == 2 else before)
