"""A regression target far from unit scale is reported, with the remedy, and one near it is not."""

import warnings

import numpy as np
import pytest
from helpers.oracles import oracle

import gpunn

oracle("sklearn")
from sklearn.compose import TransformedTargetRegressor  # noqa: E402
from sklearn.exceptions import ConvergenceWarning  # noqa: E402
from sklearn.preprocessing import StandardScaler  # noqa: E402

X = np.random.default_rng(2).normal(size=(40, 3))
Y = (X @ [1.0, -2.0, 0.5] - np.mean(X @ [1.0, -2.0, 0.5])) / np.std(X @ [1.0, -2.0, 0.5])


def _regressor(**options):
    return gpunn.MLPRegressor(**{"hidden_layer_sizes": (3,), "max_iter": 2, "random_state": 0, **options})


def _warnings(regressor, y):
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        regressor.fit(X, y)
    return [w for w in found if not issubclass(w.category, ConvergenceWarning)]


FAR = [Y * 1e5 + 1e6, 2e3 * Y, 1e-5 * Y, Y + 1.1e3, np.stack([Y, 1e6 * Y], axis=1)]
NEAR = [Y, 900 * Y, 2e-3 * Y, 5 * Y + 4500, np.zeros(40), np.stack([Y, 10 * Y], axis=1)]


@pytest.mark.parametrize("y", FAR)
def test_a_target_far_from_unit_scale_warns_once(y):
    (warning,) = _warnings(_regressor(), y)
    assert warning.filename == __file__
    assert "standard deviation" in str(warning.message) and "TransformedTargetRegressor" in str(warning.message)


@pytest.mark.parametrize("y", NEAR)
def test_a_target_near_unit_scale_does_not(y):
    assert _warnings(_regressor(), y) == []


def test_the_remedy_helps():
    far = Y * 1e5 + 1e6
    scaled = TransformedTargetRegressor(_regressor(), transformer=StandardScaler())
    assert _warnings(scaled, far) == []


def test_what_does_not_depend_on_the_scale_does_not_warn():
    assert _warnings(_regressor(loss="poisson"), np.exp(Y) * 1e4) == []
    assert _warnings(_regressor(solver="lbfgs", max_iter=200), 2e3 * Y) == []
