"""The equations of the optimizers on NumPy arrays: clipping, bias correction, the update and its probe."""

import numpy as np
import pytest

import gpunn
from gpunn import SGD, Adagrad, Adam, AdamW, Momentum, Nesterov, RMSprop
from gpunn.estimators.sklearn_conventions import ScikitLearnAdam, ScikitLearnNesterov, ScikitLearnSGD
from gpunn.kernels.state import SIZE, StateEntry
from gpunn.layers import Quantities


def state_array(step=0, lr=0.5):
    state = np.zeros(SIZE)
    state[StateEntry.STEP], state[StateEntry.LR] = step, lr
    return state


def start(rule, theta=1.0, dtype="float64"):
    """θ and the slots before the first step."""
    t = Quantities(theta=np.array([theta], dtype))
    for slot in rule.slots:
        setattr(t, slot, np.full(1, rule.initial_value(slot), dtype))
    return t


def step(rule, t, g, number):
    """Take a step with the gradient g: bias correction, then the update."""
    t.g, t.state = np.full(1, g, t.theta.dtype), state_array(number)
    rule.bias_correction(t.state)
    rule.update(t)


# θ₀ = 1, η = ½; all numbers, also the intermediate ones, are dyadic fractions. test_optimizers.py has the calculations
EXACT = {
    "SGD": (SGD(0.5), [2, -1], [0, 0.5]),
    "Momentum": (Momentum(0.5, 0.5), [2, -2], [0, 0.5]),
    "Nesterov": (Nesterov(0.5, 0.5), [2, -2], [-0.5, 0.75]),
    "RMSprop": (RMSprop(0.5, 0.75, 2.0), [4, 2], [0.5, 0.25]),
    "Adagrad": (Adagrad(0.5, 9.0, 3.0), [4, 12], [0.75, 0.375]),
    "Adam": (Adam(0.5, 0.0, 0.0, 4.0), [4, -12], [0.75, 1.125]),
    "AdamW": (AdamW(0.5, 0.5, 0.0, 0.0, 4.0), [4, -12], [0.5, 0.75]),
    # v = −½·2, θ = 1 + v; v = ½·(−1) + ½·2, θ = 0 + v
    "scikit-learn SGD": (ScikitLearnSGD(0.5, 0.5), [2, -2], [0, 0.5]),
    # v = −1, θ = 1 + ½v − ½·2; v = ½·(−1) + 1 = ½, θ = −½ + ½v + 1
    "scikit-learn Nesterov": (ScikitLearnNesterov(0.5, 0.5), [2, -2], [-0.5, 0.75]),
    # θ = 1 − ½·4/(4 + 4), θ = ¾ + ½·12/(12 + 4)
    "scikit-learn Adam": (ScikitLearnAdam(0.5, 0.0, 0.0, 4.0), [4, -12], [0.75, 1.125]),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", EXACT)
def test_two_steps_by_hand(name, dtype):
    rule, gradients, wanted = EXACT[name]
    t, found = start(rule, dtype=dtype), []
    for number, g in enumerate(gradients):
        step(rule, t, g, number)
        found.append(t.theta.item())
    assert found == wanted and t.theta.dtype == dtype


@pytest.mark.parametrize("name", EXACT)
def test_an_update_changes_no_array_that_it_is_given(name):
    rule = EXACT[name][0]
    t = start(rule)
    given = {slot: getattr(t, slot) for slot in ("theta", *rule.slots)}
    before = {slot: x.copy() for slot, x in given.items()}
    step(rule, t, 3.0, 0)
    for slot, x in given.items():
        np.testing.assert_array_equal(x, before[slot])
        assert getattr(t, slot) is not x


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("entry", [StateEntry.EMPTY_BATCH, StateEntry.NONFINITE_STEP])
def test_a_batch_that_changes_nothing(name, entry):
    rule = EXACT[name][0]
    t = start(rule)
    t.g, t.state = np.ones(1), state_array()
    t.state[entry] = 1
    rule.update(t)
    assert t.theta == 1 and all(getattr(t, slot) == rule.initial_value(slot) for slot in rule.slots)


@pytest.mark.parametrize("name", EXACT)
def test_the_probe_is_finite_if_the_update_is(name):
    rule = EXACT[name][0]
    for g, theta, finite in ((1.0, 1.0, True), (np.inf, 1.0, False), (1.0, np.inf, False)):
        t = start(rule, theta)
        t.g, t.state = np.full(1, g), state_array()
        t.state[StateEntry.NEAR_OVERFLOW] = 1
        rule.bias_correction(t.state)
        assert rule.probe(t).shape == (1,)
        assert np.isfinite(rule.probe(t)).all() == finite
        assert t.theta == theta, "nothing was updated"


def test_the_bias_correction_of_adam():
    """η/(1 − β₁ᵗ) and 1/√(1 − β₂ᵗ) at t = 2; scikit-learn's form has both in the learning rate."""
    state = state_array(step=1)
    Adam(beta_1=0.5, beta_2=0.75).bias_correction(state)
    assert state[StateEntry.CORRECTED_LR] == 0.5 / 0.75
    assert state[StateEntry.INV_SQRT_CORRECTION] == pytest.approx((1 - 0.75**2) ** -0.5, rel=1e-15)
    state = state_array(step=1)
    ScikitLearnAdam(beta_1=0.5, beta_2=0.75).bias_correction(state)
    assert state[StateEntry.CORRECTED_LR] == pytest.approx(0.5 * (1 - 0.75**2) ** 0.5 / 0.75, rel=1e-15)
    before = state_array()
    SGD().bias_correction(before)
    np.testing.assert_array_equal(before, state_array())


def test_clipping_by_hand():
    """By value first, then by the norm over all parameters: (6, −8) → (6, −6) → (6, −6) · 3/√72."""
    g, state = np.array([6.0, -8.0]), state_array()
    assert SGD().clip(g, state) is g
    np.testing.assert_array_equal(SGD(clipvalue=6.0).clip(g, state), [6, -6])
    np.testing.assert_array_equal(SGD(clipnorm=5.0).clip(g, state), [3, -4])
    np.testing.assert_array_equal(SGD(clipnorm=10.0).clip(g, state), [6, -8])
    both = SGD(clipnorm=3.0, clipvalue=6.0).clip(g, state)
    np.testing.assert_allclose(both, [3 / 2**0.5, -3 / 2**0.5], rtol=1e-15)
    np.testing.assert_array_equal(g, [6, -8])


def test_clipping_a_norm_that_overflows():
    """‖(3, −4)·10²⁰⁰‖ = 5·10²⁰⁰; max |g| is in the state array."""
    g, state = np.array([3e200, -4e200]), state_array()
    state[StateEntry.MAX_ABS] = 4e200
    np.testing.assert_allclose(SGD(clipnorm=2.5).clip(g, state), [1.5, -2], rtol=1e-15)


def test_an_optimizer_needs_a_rule_or_an_update():
    class Empty(gpunn.Optimizer):
        pass

    rule = Empty(0.1)
    t = start(rule)
    t.g, t.state = np.ones(1), state_array()
    message = r"Empty must define rule, or opaque = True and update\(self, t\)"
    for call in (rule.update, rule.probe):
        with pytest.raises(NotImplementedError, match=message):
            call(t)
