"""Small fits of the wine data, and a callback that records them."""

import numpy as np
from sklearn import datasets
from sklearn.preprocessing import scale

import gpunn

X, LABELS = datasets.load_wine(return_X_y=True)
X = scale(X)
NAMES = np.array(["ale", "bock", "cider"])[LABELS]
MULTI = np.stack([LABELS == 0, LABELS > 0, X[:, 0] > 0], axis=1).astype(int)
VALUES = X @ np.linspace(-1, 1, 13) + np.sin(X[:, 0])
TWO = np.stack([VALUES, X[:, 1] - VALUES], axis=1)
SMALL = {"hidden_layer_sizes": (8, 7), "max_iter": 4, "random_state": 3, "batch_size": 50}


def classifier(**parameters):
    return gpunn.MLPClassifier(**SMALL | parameters)


def regressor(**parameters):
    return gpunn.MLPRegressor(**SMALL | parameters)


def weights_of(estimator):
    """Copies of the weights and intercepts, layer by layer."""
    return [np.array(a) for pair in zip(estimator.coefs_, estimator.intercepts_, strict=True) for a in pair]


def assert_equal(a, b, rtol=0.0):
    """Assert that two fits have the same weights and curves."""
    for x, y in zip(weights_of(a), weights_of(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=rtol, atol=rtol)
    np.testing.assert_allclose(a.loss_curve_, b.loss_curve_, rtol=max(rtol, 1e-15))


def differ(a, b):
    """Return True if two fits have different weights."""
    return any((x != y).any() for x, y in zip(weights_of(a), weights_of(b), strict=True))


class Recorder(gpunn.Callback):
    """Records its calls and logs, and the weights at the beginning and after each epoch."""

    def __init__(self):
        self.calls, self.weights, self.logs = [], [], []

    def on_train_begin(self, logs=None):
        self.calls.append("train begins")
        self.weights.append(self.model.get_weights())

    def on_epoch_end(self, epoch, logs=None):
        self.calls.append(epoch)
        self.logs.append(dict(logs))
        self.weights.append(self.model.get_weights())

    def on_train_end(self, logs=None):
        self.calls.append("train ends")
