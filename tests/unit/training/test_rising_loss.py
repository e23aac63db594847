"""A loss that explodes but stays finite is reported after the fit."""

import warnings

import numpy as np
import pytest
from helpers.oracles import oracle

import gpunn

X = np.random.default_rng(4).normal(size=(23, 4))
Y = X @ np.ones((4, 1))


def _fit_network(rate):
    net = gpunn.Sequential([gpunn.Dense(1)], seed=0, dtype="float64").compile(gpunn.SGD(rate), "mse", device="cpu")
    return net.fit(X, Y, batch_size=23, epochs=12, verbose=0)


def _fit_estimator(rate):
    oracle("sklearn")
    regressor = gpunn.MLPRegressor(
        hidden_layer_sizes=(), solver="sgd", learning_rate_init=rate, max_iter=12, momentum=0.0, random_state=0
    )
    return regressor.fit(X, Y[:, 0]).history_


@pytest.mark.parametrize("fit", [_fit_network, _fit_estimator])
@pytest.mark.parametrize(("rate", "rises"), [(0.01, False), (30.0, True)])
def test_a_loss_that_rose_a_million_times_warns_once(fit, rate, rises):
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        history = fit(rate)
    assert (history["loss"][-1] > 1e6 * max(1, history["loss"][0])) == rises
    diverged = [w for w in found if "training diverged: the loss rose from" in str(w.message)]
    assert [w.filename for w in diverged] == [__file__] * rises
