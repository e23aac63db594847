"""Metrics: weighted means over rows, by hand and against scikit-learn, in the history and in evaluate."""

import numpy as np
import pytest
from oracles import oracle

import gpunn
from gpunn import losses, metrics

ROWS, COLUMNS = 23, 4
BATCHES = [1, 5, 8, 23, 100]


@pytest.fixture
def rng():
    return np.random.default_rng(12)


@pytest.fixture
def X(rng):
    return rng.normal(size=(ROWS, COLUMNS))


def _net(n_out, last, loss, watched, rate=0.1, dtype="float64"):
    layers = [gpunn.Dense(6, "tanh"), gpunn.Dense(n_out, last)]
    net = gpunn.Sequential(layers, input_shape=COLUMNS, seed=9, dtype=dtype)
    return net.compile(gpunn.SGD(rate), loss, watched, device="cpu")


def _weights(rng, weighted):
    if not weighted:
        return None
    w = rng.uniform(0.1, 3, size=ROWS)
    w[4:9] = 0
    return w


# --- by hand ---------------------------------------------------------------------------------------------------------


def _as_given(n_out, loss, watched):
    """A network whose outputs are its inputs."""
    net = gpunn.Sequential([gpunn.Activation("identity")], input_shape=n_out, dtype="float64")
    return net.compile("sgd", loss, watched, device="cpu")


def test_regression_metrics_by_hand():
    net = _as_given(2, "half_squared_error", ["mae", "mse", "rmse"])
    a = np.array([[1.0, 2.0], [0.0, 4.0]])
    y = np.array([[2.0, 2.0], [-1.0, 1.0]])
    # errors −1, 0 and 1, 3
    found = net.evaluate(a, y)
    assert found == {"loss": (0.5 + 5) / 2, "mae": (0.5 + 2) / 2, "mse": (0.5 + 5) / 2, "rmse": 2.75**0.5}
    # the second row three times as heavy: (0.5 + 3·2)/4, (0.5 + 3·5)/4
    found = net.evaluate(a, y, sample_weight=[1.0, 3.0])
    assert found == {"loss": 3.875, "mae": 1.625, "mse": 3.875, "rmse": 3.875**0.5}


def test_the_three_accuracies_by_hand():
    # labels: the largest output's index; of equal ones the first
    net = _as_given(3, "sparse_categorical_crossentropy", ["accuracy"])
    a = [[0.1, 2.0, 1.0], [3.0, -1.0, 3.0], [0.0, 0.0, 5.0], [1.0, 2.0, 3.0]]
    assert net.evaluate(a, [1, 0, 2, 1])["accuracy"] == 0.75
    assert net.evaluate(a, [1, 2, 2, 1], sample_weight=[1.0, 2.0, 4.0, 1.0])["accuracy"] == 0.625
    # rows of probabilities: the largest one's index
    net = _as_given(3, "categorical_crossentropy", ["accuracy"])
    y = [[0, 1, 0], [0.5, 0.25, 0.25], [0.25, 0.5, 0.25], [0, 0, 1]]
    assert net.evaluate(a, y)["accuracy"] == 0.75
    # yes and no a column: an output above ½ (a logit above 0) is a yes, and columns count one by one
    y = [[1, 0], [0, 0], [1, 1], [0, 1]]
    a = np.array([[2.0, -1.0], [0.25, 0.75], [0.5, 0.0], [-1.0, 1.0]])
    net = _as_given(2, "binary_crossentropy", ["accuracy"])
    # logits: right are 2, 0, 1, 2 of two
    assert net.evaluate(a, y)["accuracy"] == 5 / 8
    net = _as_given(2, losses.BinaryCrossentropy(from_logits=True), ["accuracy"])
    assert net.evaluate(a, y, sample_weight=[1.0, 1.0, 0.0, 2.0])["accuracy"] == (2 + 0 + 4) / 8

    class Itself(gpunn.activations.Activation):
        """a = z, which the loss takes for probabilities."""

        def f(self, z):
            return z

        def slope(self, z, a):
            return np.ones_like(z)

    net = gpunn.Sequential([gpunn.Activation(Itself())], input_shape=2, dtype="float64")
    net.compile("sgd", losses.BinaryCrossentropy(from_logits=False), ["accuracy"], device="cpu")
    p = [[0.75, 0.25], [0.25, 0.625], [0.5, 0.625], [0.125, 0.375]]
    # probabilities, ½ itself is a no: right are 2, 1, 1, 1 of two
    assert net.evaluate(p, y)["accuracy"] == 5 / 8


# --- against scikit-learn --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("batch_size", BATCHES)
@pytest.mark.parametrize("n_out", [1, 3])
def test_regression_metrics_against_sklearn(rng, X, n_out, batch_size, weighted):
    scores = oracle("sklearn.metrics")
    y, w = rng.normal(size=(ROWS, n_out)), _weights(rng, weighted)
    net = _net(n_out, None, "mean_squared_error", ["mean_absolute_error", "mean_squared_error", "rmse"])
    a = net.predict(X)
    found = net.evaluate(X, y, batch_size=batch_size, sample_weight=w)
    mse = scores.mean_squared_error(y, a, sample_weight=w)
    assert found == pytest.approx(
        {
            "loss": mse,
            "mean_absolute_error": scores.mean_absolute_error(y, a, sample_weight=w),
            "mean_squared_error": mse,
            "rmse": mse**0.5,
        },
        rel=1e-12,
    )


def _classes(rng, kind):
    """Outputs, last activation, loss and targets of one of the meanings of accuracy."""
    if kind == "labels":
        return 4, "softmax", "sparse_categorical_crossentropy", rng.integers(0, 4, size=ROWS)
    if kind == "labels of logits":
        return 4, None, "sparse_categorical_crossentropy", rng.integers(0, 4, size=ROWS)
    if kind == "one-hot rows":
        return 4, "softmax", "categorical_crossentropy", np.eye(4)[rng.integers(0, 4, size=ROWS)]
    if kind == "yes and no":
        return 1, "sigmoid", "binary_crossentropy", rng.integers(0, 2, size=(ROWS, 1))
    return 1, None, "binary_crossentropy", rng.integers(0, 2, size=(ROWS, 1))


KINDS = ["labels", "labels of logits", "one-hot rows", "yes and no", "yes and no of logits"]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("batch_size", BATCHES)
@pytest.mark.parametrize("kind", KINDS)
def test_accuracy_against_sklearn(rng, X, kind, batch_size, weighted):
    scores = oracle("sklearn.metrics")
    n_out, last, loss, y = _classes(rng, kind)
    w = _weights(rng, weighted)
    net = _net(n_out, last, loss, ["accuracy"])
    labels = y.argmax(axis=1) if kind == "one-hot rows" else np.ravel(y)
    wanted = scores.accuracy_score(labels, net.predict_classes(X), sample_weight=w)
    found = net.evaluate(X, y, batch_size=batch_size, sample_weight=w)
    assert found["accuracy"] == pytest.approx(wanted, rel=1e-12)
    assert 0 < wanted < 1
    p = net.predict_proba(X)
    cost = scores.log_loss(
        labels, np.hstack([1 - p, p]) if n_out == 1 else p, sample_weight=w, labels=range(p.shape[1] + (n_out == 1))
    )
    assert found["loss"] == pytest.approx(cost, rel=1e-12)


def test_accuracy_of_several_columns_against_sklearn(rng, X):
    scores = oracle("sklearn.metrics")
    y, w = rng.integers(0, 2, size=(ROWS, 3)), _weights(rng, True)
    net = _net(3, "sigmoid", "binary_crossentropy", ["accuracy"])
    a = net.predict_classes(X)
    wanted = np.mean([scores.accuracy_score(y[:, k], a[:, k], sample_weight=w) for k in range(3)])
    assert net.evaluate(X, y, batch_size=7, sample_weight=w)["accuracy"] == pytest.approx(wanted, rel=1e-12)


# --- in the history --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("batch_size", [5, 8, 23])
@pytest.mark.parametrize("kind", KINDS)
def test_the_history_counts_every_batch_before_its_step(rng, X, kind, batch_size, weighted):
    """The epoch's accuracy and loss are weighted means over its rows, each as the network stood when its batch came;
    a batch whose weights are all zero is not counted. The last batch is shorter."""
    n_out, last, loss, y = _classes(rng, kind)
    w = _weights(rng, weighted)
    net, walker = (_net(n_out, last, loss, ["accuracy"], rate=0.5) for _ in range(2))
    history = net.fit(X, y, batch_size=batch_size, epochs=2, shuffle=False, sample_weight=w, verbose=0).history
    rows = np.ones(ROWS) if w is None else w
    for epoch in range(2):
        hits, costs = np.zeros(ROWS), np.zeros(ROWS)
        for start in range(0, ROWS, batch_size):
            batch = slice(start, start + batch_size)
            given = {} if w is None else {"sample_weight": w[batch]}
            labels = y[batch].argmax(axis=1) if kind == "one-hot rows" else np.ravel(y[batch])
            hits[batch] = walker.predict_classes(X[batch]) == labels
            if w is None or w[batch].any():
                costs[batch] = walker.train_on_batch(X[batch], y[batch], **given)
        assert history["accuracy"][epoch] == pytest.approx((rows * hits).sum() / rows.sum(), rel=1e-12)
        assert history["loss"][epoch] == pytest.approx((rows * costs).sum() / rows.sum(), rel=1e-12)
    for a, b in zip(net.get_weights(), walker.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("batch_size", [5, 8, 23])
def test_the_root_is_drawn_from_the_mean_of_the_epoch(rng, X, batch_size):
    """Not the mean of the batches' roots: of a frozen network the history's numbers are those of evaluate."""
    y, w = rng.normal(size=(ROWS, 2)), _weights(rng, True)
    net = _net(2, None, "half_squared_error", ["rmse", "mae", "mse"])
    for layer in net.layers:
        layer.trainable = False
    history = net.fit(X, y, batch_size=batch_size, sample_weight=w, verbose=0).history
    e = net.predict(X) - y
    mse = (w * (e**2).mean(axis=1)).sum() / w.sum()
    wanted = {"loss": mse, "mse": mse, "rmse": mse**0.5, "mae": (w * np.abs(e).mean(axis=1)).sum() / w.sum()}
    assert {name: values[0] for name, values in history.items()} == pytest.approx(wanted, rel=1e-12)
    assert net.evaluate(X, y, batch_size=batch_size, sample_weight=w) == pytest.approx(wanted, rel=1e-12)


def test_validation_is_evaluated_after_the_epoch(rng, X):
    y = rng.integers(0, 3, size=ROWS)
    Xv, yv, wv = rng.normal(size=(11, COLUMNS)), rng.integers(0, 3, size=11), rng.uniform(0.1, 2, size=11)
    net = _net(3, "softmax", "sparse_categorical_crossentropy", ["accuracy"])
    for data in ((Xv, yv), (Xv, yv, wv)):
        history = net.fit(X, y, batch_size=8, validation_data=data, verbose=0).history
        found = net.evaluate(Xv, yv, sample_weight=data[2] if len(data) == 3 else None)
        assert {"val_loss": history["val_loss"][0], "val_accuracy": history["val_accuracy"][0]} == {
            f"val_{name}": value for name, value in found.items()
        }


@pytest.mark.parametrize("form", ["softmax", None])
def test_metrics_in_float32(rng, X, form):
    """Counted in the network's type, added in float64: a share of rows is exact to float32's rounding of 1/n."""
    y = rng.integers(0, 4, size=ROWS)
    net = _net(4, form, "sparse_categorical_crossentropy", ["accuracy"], dtype="float32")
    wanted = (net.predict_classes(X) == y).mean()
    assert net.evaluate(X, y, batch_size=7)["accuracy"] == pytest.approx(wanted, rel=1e-6)


# --- names -----------------------------------------------------------------------------------------------------------


def test_the_history_takes_the_names_that_were_given(rng, X):
    y = rng.normal(size=(ROWS, 2))
    watched = ["mae", metrics.MeanSquaredError("square"), metrics.RootMeanSquaredError]
    net = _net(2, None, "half_squared_error", watched)
    history = net.fit(X, y, verbose=0, validation_split=0.25).history
    names = ["loss", "mae", "square", "root_mean_squared_error"]
    assert list(history) == [*names, *(f"val_{name}" for name in names)]
    assert list(net.evaluate(X, y)) == names
    for name in ("acc", "accuracy"):
        net = _net(3, "softmax", "sparse_categorical_crossentropy", [name])
        assert list(net.evaluate(X, rng.integers(0, 3, size=ROWS))) == ["loss", name]


@pytest.mark.parametrize(
    ("n_out", "loss", "watched", "error", "message"),
    [
        (2, "mse", ["f1"], ValueError, "metric 'f1' is unknown; there are acc, accuracy, mae"),
        (2, "mse", [0.5], TypeError, "metrics must hold names or .*Metric objects, got float"),
        (2, "mse", "mae", TypeError, r"metrics must be a list, write metrics=\['mae'\]"),
        (2, "mse", metrics.MeanAbsoluteError(), TypeError, "metrics must be a list"),
        (2, "mse", ["mae", "mae"], ValueError, "metrics must have different names"),
        (2, "mse", [metrics.MeanAbsoluteError("loss")], ValueError, "none of them 'loss'"),
        (1, "mse", ["accuracy"], ValueError, "'accuracy' does not fit loss 'mean_squared_error' with one output"),
        (3, "sparse_categorical_crossentropy", ["mae"], ValueError, "'mae' compares values, but loss .* takes labels"),
    ],
)
def test_what_is_no_metric_is_refused_before_anything_changes(n_out, loss, watched, error, message):
    net = gpunn.Sequential([gpunn.Dense(n_out)], input_shape=COLUMNS, seed=0)
    net.compile("sgd", "half_squared_error", device="cpu")
    with pytest.raises(error, match=message):
        net.compile("adam", loss, watched, device="cpu")
    assert net.optimizer.name == "sgd" and net.loss.name == "half_squared_error"
