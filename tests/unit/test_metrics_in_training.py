"""Metrics in the history and in `evaluate`, on each device, custom metrics, and invalid metrics."""

import numpy as np
import pytest
from helpers import internals
from helpers.messages import naming
from helpers.metric_cases import (
    COLUMNS,
    FORMS,
    KINDS,
    LABELS,
    ROWS,
    classification_case,
    draw_weights,
    make_net,
    net_for_targets,
)

import gpunn
from gpunn import metrics


@pytest.fixture
def rng():
    return np.random.default_rng(12)


@pytest.fixture
def X(rng):
    return rng.normal(size=(ROWS, COLUMNS))


# --- on another device -----------------------------------------------------------------------------------------------

ALL = ["accuracy", "precision", "recall", "f1", "auc", metrics.TopKCategoricalAccuracy(2)]


@pytest.mark.slow
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("form", ["labels", "labels of logits", "one-hot rows", "yes and no", "values"])
def test_metrics_are_equal_on_both_devices(rng, X, cuda, form, weighted):
    """Metrics in training and in validation, with a shorter last batch."""
    w = draw_weights(rng, weighted)
    last, loss, n_out, kind = FORMS.get(form, (None, "mse", 2, "values"))
    y = rng.normal(size=(ROWS, n_out)) if kind == "values" else rng.integers(0, max(n_out, 2), size=ROWS)
    y = np.eye(n_out)[y] if kind == "rows" else y[:, None] if kind == "columns" else y
    watched = ["r2", "mae", "rmse"] if kind == "values" else ALL[:-1] if kind == "columns" else ALL
    found = []
    for device in ("cpu", "cuda"):
        net = make_net(n_out, last, loss, watched)
        net.compile(gpunn.SGD(0.1), loss, watched, device=device)
        data = (X[:9], y[:9]) if w is None else (X[:9], y[:9], w[:9])
        history = net.fit(X, y, batch_size=5, epochs=2, sample_weight=w, validation_data=data, verbose=0).history
        found.append(history | {"after": list(net.evaluate(X, y, batch_size=4, sample_weight=w).values())})
    assert list(found[0]) == list(found[1]) and len(found[0]) == 2 * len(watched) + 3
    for name, values in found[0].items():
        np.testing.assert_allclose(found[1][name], values, rtol=1e-10, err_msg=name)


def test_metrics_in_a_step_on_the_device_only_launch(rng, X, fake_cupy):
    """No transfer and no allocation happens, even if the outputs of all rows are stored."""
    y = rng.integers(0, 4, size=ROWS)
    net = make_net(4, "softmax", LABELS, ALL)
    net.compile("adam", LABELS, ALL, device="cuda")
    net.train_on_batch(X, y)
    with internals.training_step(net, X, y.astype(np.int32), keeps_outputs=True) as step:
        fake_cupy.state.calls.clear()
        for launch in step:
            launch()
    assert internals.only_launches(fake_cupy) and set(internals.products_run(fake_cupy)) == {"none"}
    assert {"count_labels", "store_rows"} <= set(internals.kernels_run(fake_cupy))


# --- custom metrics --------------------------------------------------------------------------------------------------


class LargestError(metrics.NonDecomposableMetric):
    """The largest error of the rows with weight."""

    def compute_from_rows(self, a, y, w):
        errors = np.abs(a - y).max(axis=1)
        return errors.max() if w is None else errors[w > 0].max()


class Bias(metrics.Metric):
    """The ratio of two means, of a − y and of |y|."""

    opaque = True

    def __init__(self, unit=1.0, name=None):
        self.unit = unit
        super().__init__(name)

    def n_sums(self, n_out):
        return 2

    def rows(self, a, y, w):
        return w[:, None] * np.stack([(a - y).mean(axis=1), np.abs(y).mean(axis=1)], axis=1)

    def compute(self, mean):
        return self.unit * mean[0] / mean[1]

    def get_config(self):
        return {"unit": self.unit}


@pytest.mark.parametrize("weighted", [False, True])
def test_custom_metrics(rng, X, weighted):
    y, w = rng.normal(size=(ROWS, 2)), draw_weights(rng, weighted)
    net = make_net(2, None, "mse", [LargestError, Bias(100.0)])
    a, v = net.predict(X), np.ones(ROWS) if w is None else w
    bias = 100 * (v * (a - y).mean(axis=1)).sum() / (v * np.abs(y).mean(axis=1)).sum()
    found = net.evaluate(X, y, batch_size=4, sample_weight=w)
    assert found["Bias"] == pytest.approx(bias, rel=1e-12)
    assert found["LargestError"] == np.abs(a - y)[v > 0].max()
    assert list(net.fit(X, y, verbose=0).history) == ["loss", "LargestError", "Bias"]


def test_arguments_of_metrics_are_stored_in_files(rng, X, tmp_path):
    watched = [metrics.TopKCategoricalAccuracy(2), metrics.F1Score("micro", name="f"), "auc", "precision"]
    net, y, _, _ = net_for_targets(rng, X, "labels", watched)
    net.save(tmp_path / "net.safetensors")
    again = gpunn.load(tmp_path / "net.safetensors")
    assert again.evaluate(X, y) == net.evaluate(X, y)
    assert list(again.evaluate(X, y)) == ["loss", "top_k_categorical_accuracy", "f", "auc", "precision"]
    assert repr(internals.compiled(again)) == repr(internals.compiled(net))
    assert repr(metrics.F1Score("micro", name="f")) == "F1Score(average='micro', threshold=0.5, name='f')"
    y = rng.normal(size=(ROWS, 2))
    net = make_net(2, None, "mse", [Bias(3.0, name="b")])
    net.save(tmp_path / "own.safetensors")
    again = gpunn.load(tmp_path / "own.safetensors", custom={"Bias": Bias})
    assert again.evaluate(X, y) == net.evaluate(X, y)

    class IncompleteConfig(Bias):
        def get_config(self):
            return {}

    with pytest.raises(ValueError, match=naming("IncompleteConfig.get_config()", "unit")):
        make_net(2, None, "mse", [IncompleteConfig(3.0)]).save(tmp_path / "own.safetensors")


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: metrics.TopKCategoricalAccuracy(0), ValueError, naming("k", 0)),
        (lambda: metrics.TopKCategoricalAccuracy(2.5), TypeError, naming("k", 2.5)),
        (lambda: metrics.Precision("weighted"), ValueError, naming("average", "'weighted'")),
        (lambda: metrics.F1Score(threshold=1.0), ValueError, naming("threshold", 1.0)),
    ],
)
def test_invalid_arguments_of_metrics_are_rejected(make, error, message):
    with pytest.raises(error, match=message):
        make()


# --- in the history --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("batch_size", [5, 8, 23])
@pytest.mark.parametrize("kind", KINDS)
def test_the_history_evaluates_each_batch_before_its_step(rng, X, kind, batch_size, weighted):
    """Accuracy and loss of an epoch are weighted means over its rows, each evaluated before its batch's step.

    A batch whose weights are all zero does not count. The last batch is shorter.
    """
    n_out, last, loss, y = classification_case(rng, kind)
    w = draw_weights(rng, weighted)
    net, walker = (make_net(n_out, last, loss, ["accuracy"], rate=0.5) for _ in range(2))
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
def test_the_root_is_taken_of_the_mean_over_the_epoch(rng, X, batch_size):
    """It is not the mean of the roots of the batches: for a frozen network the history equals `evaluate`."""
    y, w = rng.normal(size=(ROWS, 2)), draw_weights(rng, True)
    net = make_net(2, None, "half_squared_error", ["rmse", "mae", "mse"])
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
    net = make_net(3, "softmax", "sparse_categorical_crossentropy", ["accuracy"])
    for data in ((Xv, yv), (Xv, yv, wv)):
        history = net.fit(X, y, batch_size=8, validation_data=data, verbose=0).history
        found = net.evaluate(Xv, yv, sample_weight=data[2] if len(data) == 3 else None)
        assert {"val_loss": history["val_loss"][0], "val_accuracy": history["val_accuracy"][0]} == {
            f"val_{name}": value for name, value in found.items()
        }


# --- exact counts ----------------------------------------------------------------------------------------------------

MANY = 1500


def _net_with_correct_rows(form, right, device, dtype):
    """Return a network that returns its inputs and does not learn, X, and y for which the rows `right` are correct.

    If each output is a yes or no, one output in three is correct in every row and one in none.
    """
    last, loss, n_out, kind = FORMS[form]
    net = gpunn.Sequential([gpunn.Dense(n_out, last)], input_shape=n_out, dtype=dtype)
    net.compile("sgd", loss, ["accuracy", "precision", "recall", "f1"], device=device)
    net.set_weights([np.eye(n_out), np.zeros(n_out)])
    net.layers[0].trainable = False
    right = np.isin(np.arange(MANY), right)
    if kind != "columns":
        labels = np.arange(MANY) % n_out
        answers = np.where(right, labels, (labels + 1) % n_out)
        return net, np.eye(n_out)[answers], (np.eye(n_out)[labels] if kind == "rows" else labels)
    y = np.zeros((MANY, n_out))
    y[:, 0] = np.arange(MANY) % 2
    correct = np.where(right, y[:, 0], 1 - y[:, 0])
    a = np.c_[correct, np.zeros(MANY), np.ones(MANY)][:, :n_out]
    return net, 2 * a - 1, y


def _assert_exact(form, right, w, dtype, device="cpu"):
    """Check that `evaluate`, history and validation give the exact fraction of `right` rows for several batch sizes."""
    net, X, y = _net_with_correct_rows(form, right, device, dtype)
    outputs = FORMS[form][2] if FORMS[form][3] == "columns" else 1
    rows = np.ones(MANY) if w is None else w
    wanted = (rows[right].sum() + (outputs > 1) * rows.sum()) / (outputs * rows.sum())
    found = [net.evaluate(X, y, batch_size=size, sample_weight=w) for size in (476, 1024)]
    held = (X, y) if w is None else (X, y, w)
    history = net.fit(X, y, batch_size=200, sample_weight=w, validation_data=held, verbose=0).history
    found += [{name[len(part) :]: v[0] for name, v in history.items()} for part in ("", "val_")]
    for numbers in found:
        assert numbers["accuracy"] == wanted
        for name in ("precision", "recall", "f1"):
            assert numbers[name] == found[0][name]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_a_count_of_correct_rows_is_exact(rng, form, weighted, dtype):
    """700 correct of 1500 rows are 700/1500. Weights that are multiples of 1/8 add up without rounding too."""
    w = rng.integers(0, 9, size=MANY) / 8 if weighted else None
    for right in (np.arange(700), np.arange(MANY - 700, MANY), rng.permutation(MANY)[:700]):
        _assert_exact(form, right, w, dtype)


def test_a_count_of_correct_rows_is_exact_on_a_device(rng, cuda):
    w = rng.integers(0, 9, size=MANY) / 8
    _assert_exact("several yes and no", np.arange(700), w, "float32", device="cuda")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("form", ["labels", "one-hot rows"])
def test_a_top_k_count_is_exact(form, dtype):
    net, X, y = _net_with_correct_rows(form, np.arange(700), "cpu", dtype)
    net.compile("sgd", FORMS[form][1], [metrics.TopKCategoricalAccuracy(1)], device="cpu")
    for size in (7, 476, 1024, MANY):
        assert net.evaluate(X, y, batch_size=size)["top_k_categorical_accuracy"] == 700 / MANY


# --- names -----------------------------------------------------------------------------------------------------------


def test_the_history_uses_the_given_names(rng, X):
    y = rng.normal(size=(ROWS, 2))
    watched = ["mae", metrics.MeanSquaredError("square"), metrics.RootMeanSquaredError]
    net = make_net(2, None, "half_squared_error", watched)
    history = net.fit(X, y, verbose=0, validation_split=0.25).history
    names = ["loss", "mae", "square", "root_mean_squared_error"]
    assert list(history) == [*names, *(f"val_{name}" for name in names)]
    assert list(net.evaluate(X, y)) == names
    for name in ("acc", "accuracy"):
        net = make_net(3, "softmax", "sparse_categorical_crossentropy", [name])
        assert list(net.evaluate(X, rng.integers(0, 3, size=ROWS))) == ["loss", name]


@pytest.mark.parametrize(
    ("n_out", "loss", "watched", "error", "message"),
    [
        (2, "mse", ["f2"], ValueError, naming("metric", "'f2'", "f1", "f1_score")),
        (2, "mse", [0.5], TypeError, naming("metrics", "float")),
        (2, "mse", "mae", TypeError, naming("metrics", "metrics=['mae']")),
        (2, "mse", metrics.MeanAbsoluteError(), TypeError, naming("metrics")),
        (2, "mse", ["mae", "mae"], ValueError, naming("metrics", "different names")),
        (2, "mse", [metrics.MeanAbsoluteError("loss")], ValueError, "none of them 'loss'"),
        (1, "mse", ["accuracy"], ValueError, naming("'accuracy'", "'mean_squared_error'")),
        (3, "sparse_categorical_crossentropy", ["mae"], ValueError, naming("'mae'", "labels")),
        (3, "sparse_categorical_crossentropy", ["r2"], ValueError, naming("'r2'", "labels")),
        (1, "mse", ["precision"], ValueError, naming("'precision'", "one output")),
        (1, "mse", ["auc"], ValueError, naming("'auc'", "one output")),
        (5, LABELS, ["top_k_categorical_accuracy"], ValueError, naming("k=5", 5)),
        (7, "binary_crossentropy", ["top_k_categorical_accuracy"], ValueError, "each output is a yes or no"),
        (3, LABELS, [metrics.Recall("binary")], ValueError, naming("'recall'", "average='binary'")),
        (2, "binary_crossentropy", [metrics.F1Score("binary")], ValueError, naming("average='binary'", "two classes")),
        (3, LABELS, [metrics.Recall(threshold=0.4)], ValueError, naming("threshold=0.4")),
    ],
)
def test_invalid_metrics_are_rejected_before_anything_changes(n_out, loss, watched, error, message):
    net = gpunn.Sequential([gpunn.Dense(n_out)], input_shape=COLUMNS, seed=0)
    net.compile("sgd", "half_squared_error", device="cpu")
    with pytest.raises(error, match=message):
        net.compile("adam", loss, watched, device="cpu")
    assert net.optimizer.name == "sgd" and net.loss.name == "half_squared_error"
