"""Every registered activation: its derivative, its buffers, its names. A new one is tested once it is registered."""

import numpy as np
import pytest
from helpers import internals
from helpers.networks import build_network

import gpunn
from gpunn import activations

BUILT_IN = sorted(
    {
        cls.names[0]: cls
        for cls in internals.classes_by_name(activations).values()
        if cls.__module__ == "gpunn.activations"
    }.items()
)


def _net(activation, dtype="float64"):
    layers = gpunn.Dense(6, activation, l2=0.1), gpunn.Dense(5, activation), gpunn.Dense(2)
    return build_network(*layers, seed=4, dtype=dtype, optimizer="sgd", loss="half_squared_error", device="auto")


@pytest.mark.parametrize(("name", "cls"), BUILT_IN)
def test_the_derivative_is_right(name, cls):
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(7, 4)), rng.normal(size=(7, 2))
    report = gpunn.check_gradients(_net(name), x, y, sample_weight=rng.uniform(0.5, 2, size=7))
    assert report.ok, report
    assert sum(e.checked for e in report.entries) > 90


@pytest.mark.parametrize(("name", "cls"), [pair for pair in BUILT_IN if pair[1].elementwise])
def test_derivative_matches_differences_of_the_value(name, cls):
    activation = cls()
    z = np.linspace(-4, 4, 81).reshape(9, 9) + 0.0123
    h = 6e-6
    numeric = (activation.f(z + h) - activation.f(z - h)) / (2 * h)
    np.testing.assert_allclose(activation.derivative(z, activation.f(z)), numeric, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize(("name", "cls"), BUILT_IN)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_trace_and_the_fused_step_give_the_same_gradients(name, cls, dtype):
    """`trace` stores z and a separately and fuses nothing; a step shares buffers and fuses kernels."""
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(9, 4)), rng.normal(size=(9, 2))
    net = _net(name, dtype)
    _, gradients = net.loss_and_gradients(x, y)
    traced = [g for record in net.trace(x, y, training=True) for g in record.gradients.values()]
    tolerance = 1e-12 if dtype == "float64" else 1e-5
    for a, b in zip(gradients, traced, strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * np.abs(a).max())


@pytest.mark.parametrize(("name", "cls"), BUILT_IN)
def test_names_and_configuration(name, cls):
    for spelling in cls.names:
        assert type(activations.get(spelling)) is cls
    made = cls()
    again = activations.from_config(activations.to_config(made))
    assert again == made and hash(again) == hash(made) and repr(again) == repr(made)
    assert cls.__name__ in activations.__all__
    assert "f(z)" in cls.__doc__ or name == "softmax" or name == "gelu", "the docstring states the formula"


def test_constants_can_be_set():
    z = np.array([[-2.0, 0.0, 3.0]])
    np.testing.assert_array_equal(activations.LeakyReLU(0.25).f(z), [[-0.5, 0, 3]])
    np.testing.assert_array_equal(activations.LeakyReLU().f(z), [[-2 * 0.01, 0, 3]])
    np.testing.assert_allclose(activations.ELU(2.0).f(z), [[2 * np.expm1(-2), 0, 3]], rtol=1e-15)
    net = gpunn.Sequential([gpunn.Dense(1, activations.LeakyReLU(0.25), kernel_initializer="ones")], input_shape=3)
    np.testing.assert_array_equal(net.predict([[-2.0, 0.0, 0.0]]), [[-0.5]])


@pytest.mark.parametrize("bad", [-0.1, float("nan"), float("inf"), True, "0.1"])
def test_invalid_constants_are_rejected(bad):
    for cls in (activations.LeakyReLU, activations.ELU):
        with pytest.raises(ValueError, match="alpha"):
            cls(bad)


def test_nan_passes_through_relu_on_every_path():
    nan = np.array([[np.nan, -1.0, 2.0]])
    relu = activations.ReLU()
    np.testing.assert_array_equal(relu.f(nan), [[np.nan, 0, 2]])
    np.testing.assert_array_equal(relu.derivative(nan, relu.f(nan)), [[np.nan, 0, 1]])
    from gpunn.kernels import get

    np.testing.assert_array_equal(get("bias_relu")(nan, np.zeros(3)), [[np.nan, 0, 2]])
    np.testing.assert_array_equal(get("relu_backward")(nan, np.ones((1, 3))), [[np.nan, 0, 1]])
    assert relu.derivative(np.zeros((1, 1)), np.zeros((1, 1))) == 0


# --- on arrays -------------------------------------------------------------------------------------------------------


def _arrays():
    rng = np.random.default_rng(5)
    return rng.normal(size=(4, 3)), rng.normal(size=(4, 3))


@pytest.mark.parametrize(("name", "cls"), [pair for pair in BUILT_IN if pair[1].elementwise])
def test_the_passes_are_f_and_its_derivative(name, cls):
    """a = f(z), δ = f′(z) ⊙ ∂C/∂a. (E2, E5)"""
    z, grad_a = _arrays()
    f = cls()
    a = f.forward(z)
    np.testing.assert_array_equal(a, f.f(z))
    np.testing.assert_allclose(f.backward(z, a, grad_a), f.derivative(z, a) * grad_a, rtol=1e-14)


def test_the_identity_returns_its_argument():
    z, grad_a = _arrays()
    identity = activations.Identity()
    assert identity.forward(z) is z and identity.backward(z, z, grad_a) is grad_a


def test_softmax_multiplies_by_its_jacobian():
    """δⱼ = Σₖ ∂aₖ/∂zⱼ gₖ with ∂aₖ/∂zⱼ = aₖ(1[k = j] − aⱼ). (E4)"""
    z, grad_a = _arrays()
    softmax = activations.Softmax()
    a = softmax.forward(z)
    jacobians = [np.diag(row) - np.outer(row, row) for row in a]
    wanted = [J @ g for J, g in zip(jacobians, grad_a, strict=True)]
    np.testing.assert_allclose(softmax.backward(z, a, grad_a), wanted, rtol=1e-13, atol=1e-16)


class Steep(activations.Sigmoid):
    """The sigmoid of 2z, by operators."""

    def f(self, z):
        return super().f(2 * z)

    def derivative(self, z, a):
        return 2 * a * (1 - a)


class StillSteep(Steep):
    """A subclass that changes nothing."""


class OpaqueSteep(Steep):
    """The same function as Python code."""

    opaque = True


class Restored(Steep):
    """A subclass with kernels again: they define both passes."""

    kernels = activations.Sigmoid.kernels


@pytest.mark.parametrize("cls", [Steep, StillSteep, OpaqueSteep])
def test_a_subclass_with_its_own_functions_does_not_use_the_kernels(cls):
    z, grad_a = _arrays()
    a = cls().forward(z)
    np.testing.assert_allclose(a, 1 / (1 + np.exp(-2 * z)), rtol=1e-14)
    np.testing.assert_allclose(cls().backward(z, a, grad_a), 2 * a * (1 - a) * grad_a, rtol=1e-14)


def test_a_subclass_may_set_its_kernels():
    z, grad_a = _arrays()
    a = Restored().forward(z)
    np.testing.assert_array_equal(a, activations.Sigmoid().forward(z))
    np.testing.assert_array_equal(Restored().backward(z, a, grad_a), activations.Sigmoid().backward(z, a, grad_a))


def test_a_subclass_of_the_identity_with_its_own_function():
    class Shifted(activations.Identity):
        def f(self, z):
            return z + 1

    z, grad_a = _arrays()
    np.testing.assert_array_equal(Shifted().forward(z), z + 1)
    np.testing.assert_array_equal(Shifted().backward(z, z + 1, grad_a), grad_a)


def test_a_derivative_of_another_shape_is_reported():
    class Wrong(activations.Activation):
        def f(self, z):
            return z[:1]

        def derivative(self, z, a):
            return 1.0

    z, grad_a = _arrays()
    with pytest.raises(ValueError, match=r"Wrong.f must return an array of shape \(4, 3\), got \(1, 3\)"):
        Wrong().forward(z)
    with pytest.raises(ValueError, match=r"Wrong.derivative must return an array of shape \(4, 3\), got 1.0"):
        Wrong().backward(z, z, grad_a)


def test_a_configuration_must_have_a_name():
    with pytest.raises(KeyError, match="'name'"):
        activations.from_config({})
