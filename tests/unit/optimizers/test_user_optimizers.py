"""Optimizers of the user's own, in compiled steps and in eager mode."""

import numpy as np
import pytest
from helpers import internals
from helpers.snapshots import bits

import gpunn

RNG = np.random.default_rng(12)
X, Y = RNG.normal(size=(16, 8)), RNG.normal(size=(16, 8))
EAGER = pytest.mark.parametrize("eager", [False, True], ids=["compiled", "eager"])


def network(optimizer, *, eager, frozen=()):
    layers = [gpunn.Dense(8, "relu"), gpunn.Dense(8), gpunn.Dense(8)]
    net = gpunn.Sequential(layers, input_shape=8, seed=1, dtype="float64")
    net.compile(optimizer, "mse", device="cpu", eager=eager)
    for index in frozen:
        layers[index].trainable = False
    return net


class HeavyBall(gpunn.Optimizer):
    """θ ← θ − ηg + μ(θ − the previous θ), η and μ fixed."""

    slots = ("previous",)

    def __init__(self, learning_rate=0.1, **clipping):
        super().__init__(learning_rate, **clipping)

    def update(self, t):
        old = t.theta
        t.theta = old - 0.05 * t.g + 0.1 * (old - t.previous)
        t.previous = old


class OpaqueHeavyBall(HeavyBall):
    opaque = True


@EAGER
@pytest.mark.parametrize("rule", [HeavyBall, OpaqueHeavyBall])
def test_a_slot_may_be_the_old_parameters(rule, eager):
    net = network(rule(), eager=eager)
    net.fit(X, Y, epochs=1, batch_size=16, verbose=0)
    before = np.array(internals.parameters(net))
    net.fit(X, Y, epochs=1, batch_size=16, verbose=0)
    np.testing.assert_array_equal(internals.optimizer_state(net)["previous"], before)


class Exploding(gpunn.Adam):
    """Adam, and then an infinite number in ranges of the last parameters."""

    def update(self, t):
        super().update(t)
        if t.theta.shape[0] == 8:
            t.theta = t.theta * 1e300 * 1e300


@EAGER
def test_an_update_that_is_not_finite_changes_no_range(eager):
    """The frozen layer divides the parameters into ranges, of which only the last one becomes infinite."""
    net = network(Exploding(), eager=eager, frozen=(1,))
    before = bits(internals.parameters(net))
    with pytest.raises(gpunn.DivergenceError):
        net.fit(X, Y, epochs=1, batch_size=16, verbose=0)
    assert bits(internals.parameters(net)) == before
    assert all((slot == 0).all() for slot in internals.optimizer_state(net).values())


@EAGER
@pytest.mark.parametrize("value", [0.0, np.zeros(1), np.zeros((8, 1))], ids=["number", "one", "matrix"])
def test_an_opaque_update_of_the_wrong_shape_is_refused(value, eager):
    class Wrong(gpunn.Optimizer):
        opaque = True

        def update(self, t):
            t.theta = value

    net = network(Wrong(0.1), eager=eager)
    before = bits(internals.parameters(net))
    with pytest.raises(ValueError, match=r"Wrong.update must set t.theta of shape \(216,\), got"):
        net.fit(X, Y, epochs=1, batch_size=16, verbose=0)
    assert bits(internals.parameters(net)) == before


@EAGER
@pytest.mark.parametrize(
    ("result", "message"),
    [
        ((np.zeros((16, 1)), np.zeros(16)), r"return ∂C/∂a of shape \(16, 8\), got \(16, 1\)"),
        ((np.zeros((16, 8)), np.zeros(1)), r"return row losses of shape \(16,\), got \(1,\)"),
        ((np.zeros((16, 8)), 0.0), r"return row losses of shape \(16,\), got 0.0"),
        (np.zeros((16, 8)), r"return \(∂C/∂a, row losses\), got ndarray"),
    ],
)
def test_results_of_an_opaque_loss_are_checked(result, message, eager):
    class WrongLoss(gpunn.losses.Loss):
        opaque = True

        def evaluate(self, a, y, w):
            return result

    net = gpunn.Sequential([gpunn.Dense(8)], input_shape=8, seed=1, dtype="float64")
    net.compile("sgd", WrongLoss(), device="cpu", eager=eager)
    with pytest.raises(ValueError, match=f"WrongLoss.evaluate must {message}"):
        net.fit(X, Y, epochs=1, batch_size=16, verbose=0)


class ShortClip(HeavyBall):
    def clip(self, g, state):
        return gpunn.kernels.get("sum_all")(g)


class NumberUpdate(HeavyBall):
    def update(self, t):
        t.theta = 0.0


@EAGER
@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (ShortClip, r"ShortClip.clip must return a gradient of shape \(216,\), got \(1,\)"),
        (NumberUpdate, r"NumberUpdate.update must set t.theta of shape \(216,\), got 0.0"),
    ],
)
def test_results_of_an_update_are_checked(rule, message, eager):
    with pytest.raises(ValueError, match=message):
        network(rule(), eager=eager).fit(X, Y, batch_size=16, verbose=0)
