"""Networks, targets and weights for the tests of metrics."""

import numpy as np

import gpunn

from .networks import build_network

ROWS, COLUMNS = 23, 4
BATCHES = [1, 5, 8, 23, 100]
KINDS = ["labels", "labels of logits", "one-hot rows", "yes and no", "yes and no of logits"]
LABELS = "sparse_categorical_crossentropy"
FORMS = {
    # last activation, loss, outputs, kind of targets
    "labels": ("softmax", LABELS, 4, "labels"),
    "labels of logits": (None, LABELS, 4, "labels"),
    "two labels": ("softmax", LABELS, 2, "labels"),
    "one-hot rows": ("softmax", "categorical_crossentropy", 3, "rows"),
    "rows and a loss of values": ("tanh", "mse", 3, "rows"),
    "yes and no": ("sigmoid", "binary_crossentropy", 1, "columns"),
    "yes and no of logits": (None, "binary_crossentropy", 1, "columns"),
    "several yes and no": ("sigmoid", "binary_crossentropy", 3, "columns"),
}


def make_net(n_out, last, loss, watched, rate=0.1, dtype="float64"):
    layers = gpunn.Dense(6, "tanh"), gpunn.Dense(n_out, last)
    options = {"input_shape": COLUMNS, "seed": 9, "dtype": dtype, "optimizer": gpunn.SGD(rate)}
    return build_network(*layers, loss=loss, metrics=watched, **options)


def draw_weights(rng, weighted):
    """Return row weights, some of them 0, or None."""
    if not weighted:
        return None
    w = rng.uniform(0.1, 3, size=ROWS)
    w[4:9] = 0
    return w


def classification_case(rng, kind):
    """Return outputs, last activation, loss and targets of one of the target formats."""
    if kind == "labels":
        return 4, "softmax", "sparse_categorical_crossentropy", rng.integers(0, 4, size=ROWS)
    if kind == "labels of logits":
        return 4, None, "sparse_categorical_crossentropy", rng.integers(0, 4, size=ROWS)
    if kind == "one-hot rows":
        return 4, "softmax", "categorical_crossentropy", np.eye(4)[rng.integers(0, 4, size=ROWS)]
    if kind == "yes and no":
        return 1, "sigmoid", "binary_crossentropy", rng.integers(0, 2, size=(ROWS, 1))
    return 1, None, "binary_crossentropy", rng.integers(0, 2, size=(ROWS, 1))


def net_for_targets(rng, X, form, watched, dtype="float64"):
    """Return a network, its targets, and labels and predictions in the form of scikit-learn."""
    last, loss, n_out, kind = FORMS[form]
    net = make_net(n_out, last, loss, watched, dtype=dtype)
    y = rng.integers(0, max(n_out, 2), size=len(X)) if kind != "columns" else rng.integers(0, 2, size=(len(X), n_out))
    a = net.predict(X)
    if kind == "columns":
        return net, y, (y[:, 0] if n_out == 1 else y), (net.predict_classes(X) if loss != "mse" else None)
    return net, (np.eye(n_out)[y] if kind == "rows" else y), y, a.argmax(axis=1)
