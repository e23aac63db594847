"""scikit-learn's losses on NumPy arrays, where their conventions differ from gpunn's."""

import numpy as np
import pytest

from gpunn import activations, losses
from gpunn.estimators.sklearn_conventions import (
    ScikitLearnBinaryLogLoss,
    ScikitLearnLogLoss,
    ScikitLearnPoisson,
    ScikitLearnSquaredError,
)

W = np.array([0.25, 0.25, 0.5])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_reported_log_losses_are_clipped_and_gradients_are_not(dtype):
    """A probability of e⁻¹⁰⁰⁰ counts as ε, the spacing of numbers at 1, and one of 1 as 1 − ε."""
    eps = np.finfo(dtype).eps
    low, high = -np.log1p(-float(eps)), -np.log(float(eps))
    w = W.astype(dtype)
    z = np.array([[0, 1000], [0, 1000], [0, 0]], dtype)
    plain, clipped = (
        cls().resolve(activations.get("softmax")) for cls in (losses.SparseCategoricalCrossentropy, ScikitLearnLogLoss)
    )
    y = np.array([0, 1, 0], np.int32)
    for got, wanted in zip(clipped.from_z(z, y, w)[:2], plain.from_z(z, y, w)[:2], strict=True):
        np.testing.assert_array_equal(got, wanted)
    np.testing.assert_allclose(clipped.from_z(z, y, w)[2], w * [high, low, np.log(2)], rtol=1e-6)
    binary, clipped = (
        cls().resolve(activations.get("sigmoid")) for cls in (losses.BinaryCrossentropy, ScikitLearnBinaryLogLoss)
    )
    z, y = np.array([[-1000], [1000], [0]], dtype), np.array([[1], [1], [0]], dtype)
    for got, wanted in zip(clipped.from_z(z, y, w)[:2], binary.from_z(z, y, w)[:2], strict=True):
        np.testing.assert_array_equal(got, wanted)
    np.testing.assert_allclose(clipped.from_z(z, y, w)[2], w * [high, low, np.log(2)], rtol=1e-6)


def test_the_squared_error_is_a_mean_and_its_gradient_that_of_the_sum():
    """e = (1, −2): ½·(1 + 4)/2, gradient e."""
    grad_a, row_losses = ScikitLearnSquaredError().evaluate(np.array([[2.0, 0]]), np.array([[1.0, 2]]), np.array([0.5]))
    np.testing.assert_array_equal(grad_a, [[0.5, -1]])
    np.testing.assert_array_equal(row_losses, [0.625])


def test_the_poisson_loss_by_hand():
    """z = log 2: a = 2, y log(y/a) − y + a is 2 for y = 0 and 0 for y = 2."""
    loss = ScikitLearnPoisson()
    assert loss.resolve(activations.get("exponential")) is loss and loss.takes_z
    with pytest.raises(ValueError, match="needs out_activation='exp', got 'softplus'"):
        loss.resolve(activations.get("softplus"))
    a, delta, row_losses = loss.from_z(np.full((2, 1), np.log(2.0)), np.array([[0.0], [2.0]]), np.array([0.5, 0.5]))
    np.testing.assert_allclose(a, [[2], [2]], rtol=1e-15)
    np.testing.assert_allclose(delta, [[1], [0]], atol=1e-15)
    np.testing.assert_allclose(row_losses, [1, 0], atol=1e-15)
