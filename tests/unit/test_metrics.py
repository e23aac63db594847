"""Metrics by hand and against scikit-learn, in the history and in evaluate."""

import numpy as np
import pytest
from helpers import internals
from helpers.messages import naming
from helpers.oracles import oracle

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


def _identity_net(n_out, loss, watched):
    """Return a network whose outputs equal its inputs."""
    net = gpunn.Sequential([gpunn.Activation("identity")], input_shape=n_out, dtype="float64")
    return net.compile("sgd", loss, watched, device="cpu")


def test_regression_metrics_by_hand():
    net = _identity_net(2, "half_squared_error", ["mae", "mse", "rmse"])
    a = np.array([[1.0, 2.0], [0.0, 4.0]])
    y = np.array([[2.0, 2.0], [-1.0, 1.0]])
    # errors −1, 0 and 1, 3
    found = net.evaluate(a, y)
    assert found == {"loss": (0.5 + 5) / 2, "mae": (0.5 + 2) / 2, "mse": (0.5 + 5) / 2, "rmse": 2.75**0.5}
    # the second row has three times the weight: (0.5 + 3·2)/4, (0.5 + 3·5)/4
    found = net.evaluate(a, y, sample_weight=[1.0, 3.0])
    assert found == {"loss": 3.875, "mae": 1.625, "mse": 3.875, "rmse": 3.875**0.5}


def test_accuracy_by_hand_for_three_target_formats():
    # labels: the index of the largest output, the first of equal ones
    net = _identity_net(3, "sparse_categorical_crossentropy", ["accuracy"])
    a = [[0.1, 2.0, 1.0], [3.0, -1.0, 3.0], [0.0, 0.0, 5.0], [1.0, 2.0, 3.0]]
    assert net.evaluate(a, [1, 0, 2, 1])["accuracy"] == 0.75
    assert net.evaluate(a, [1, 2, 2, 1], sample_weight=[1.0, 2.0, 4.0, 1.0])["accuracy"] == 0.625
    # rows of probabilities: the index of the largest one
    net = _identity_net(3, "categorical_crossentropy", ["accuracy"])
    y = [[0, 1, 0], [0.5, 0.25, 0.25], [0.25, 0.5, 0.25], [0, 0, 1]]
    assert net.evaluate(a, y)["accuracy"] == 0.75
    # one yes or no per column: an output above ½ (a logit above 0) is a yes, and each column counts
    y = [[1, 0], [0, 0], [1, 1], [0, 1]]
    a = np.array([[2.0, -1.0], [0.25, 0.75], [0.5, 0.0], [-1.0, 1.0]])
    net = _identity_net(2, "binary_crossentropy", ["accuracy"])
    # logits: 2, 0, 1, 2 of two are correct
    assert net.evaluate(a, y)["accuracy"] == 5 / 8
    net = _identity_net(2, losses.BinaryCrossentropy(from_logits=True), ["accuracy"])
    assert net.evaluate(a, y, sample_weight=[1.0, 1.0, 0.0, 2.0])["accuracy"] == (2 + 0 + 4) / 8

    class Unchanged(gpunn.activations.Activation):
        """a = z, which the loss treats as probabilities."""

        def f(self, z):
            return z

        def derivative(self, z, a):
            return np.ones_like(z)

    net = gpunn.Sequential([gpunn.Activation(Unchanged())], input_shape=2, dtype="float64")
    net.compile("sgd", losses.BinaryCrossentropy(from_logits=False), ["accuracy"], device="cpu")
    p = [[0.75, 0.25], [0.25, 0.625], [0.5, 0.625], [0.125, 0.375]]
    # probabilities, ½ is a no: 2, 1, 1, 1 of two are correct
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


# --- classes, against scikit-learn -----------------------------------------------------------------------------------

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


def _net_for_targets(rng, X, form, watched, dtype="float64"):
    """Return a network, its targets, and labels and predictions in the form of scikit-learn."""
    last, loss, n_out, kind = FORMS[form]
    net = _net(n_out, last, loss, watched, dtype=dtype)
    y = rng.integers(0, max(n_out, 2), size=len(X)) if kind != "columns" else rng.integers(0, 2, size=(len(X), n_out))
    a = net.predict(X)
    if kind == "columns":
        return net, y, (y[:, 0] if n_out == 1 else y), (net.predict_classes(X) if loss != "mse" else None)
    return net, (np.eye(n_out)[y] if kind == "rows" else y), y, a.argmax(axis=1)


def _averages(form):
    if form in ("two labels", "yes and no", "yes and no of logits"):
        return ["binary"] if "yes" in form else ["binary", "macro", "micro"]
    return ["macro", "micro"]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("batch_size", [1, 5, 100])
@pytest.mark.parametrize("form", FORMS)
def test_precision_recall_and_f1_against_sklearn(rng, X, form, batch_size, weighted):
    scores = oracle("sklearn.metrics")
    w = _weights(rng, weighted)
    own = {"precision": metrics.Precision, "recall": metrics.Recall, "f1": metrics.F1Score}
    theirs = {"precision": scores.precision_score, "recall": scores.recall_score, "f1": scores.f1_score}
    watched = [make(average, name=f"{name} {average}") for name, make in own.items() for average in _averages(form)]
    net, y, labels, answers = _net_for_targets(rng, X, form, [*own, *watched])
    found = net.evaluate(X, y, batch_size=batch_size, sample_weight=w)
    # rows of weight 0 do not count
    there = np.ones(ROWS, bool) if w is None else w > 0
    options = {"sample_weight": None if w is None else w[there], "zero_division": 0}
    for name, score in theirs.items():
        for average in _averages(form):
            wanted = score(labels[there], answers[there], average=average, **options)
            assert found[f"{name} {average}"] == pytest.approx(wanted, rel=1e-12)
            assert 0 < wanted < 1
        assert found[name] == found[f"{name} {_averages(form)[0]}"], "auto"


@pytest.mark.parametrize("form", ["yes and no", "yes and no of logits", "several yes and no"])
def test_a_custom_threshold(rng, X, form):
    scores = oracle("sklearn.metrics")
    watched = [metrics.Precision("micro", 0.55, name="p"), metrics.Recall("micro", threshold=0.55, name="r")]
    net, y, labels, _ = _net_for_targets(rng, X, form, watched)
    answers = (net.predict_proba(X) > 0.55).astype(int).reshape(labels.shape)
    assert 0 < answers.mean() < 1
    average = "binary" if labels.ndim == 1 else "micro"
    assert net.evaluate(X, y) == pytest.approx(
        {
            "loss": net.evaluate(X, y)["loss"],
            "p": scores.precision_score(labels, answers, average=average),
            "r": scores.recall_score(labels, answers, average=average),
        },
        rel=1e-12,
    )


def test_precision_recall_and_f1_by_hand():
    """Class 1: 1 correct of 2 predicted and 3 actual rows. Class 0: 2 correct of 3 and 2. Class 2 does not occur."""
    net = _identity_net(3, LABELS, ["precision", "recall", "f1", metrics.F1Score("micro", name="all")])
    a = np.eye(3)[[0, 0, 0, 1, 1]]
    found = net.evaluate(a, [0, 0, 1, 1, 1], batch_size=2)
    del found["loss"]
    f1 = (2 * 2 / (3 + 2) + 2 * 2 / (2 + 3)) / 2
    assert found == pytest.approx({"precision": (2 / 3 + 1) / 2, "recall": (1 + 2 / 3) / 2, "f1": f1, "all": 4 / 5})
    # no row is predicted or labeled 1: the metrics are 0, without a warning
    net = _identity_net(1, "binary_crossentropy", ["precision", "recall", "f1"])
    found = net.evaluate([[-1.0], [-2.0]], [[1], [0]])
    assert (found["precision"], found["recall"], found["f1"]) == (0, 0, 0)
    found = net.evaluate([[1.0], [-2.0]], [[0], [0]])
    assert (found["precision"], found["recall"], found["f1"]) == (0, 0, 0)


def test_a_class_that_is_only_predicted_counts_in_a_macro_average():
    """No row has class 2, but one is predicted as 2: the mean is over three classes, as in scikit-learn."""
    labels, answers = np.array([0, 0, 1, 1, 1]), np.array([0, 1, 1, 1, 2])
    net = _identity_net(3, LABELS, ["precision", "recall", "f1"])
    found = net.evaluate(np.eye(3)[answers], labels)
    by_hand = {"precision": (1 + 2 / 3 + 0) / 3, "recall": (1 / 2 + 2 / 3 + 0) / 3, "f1": (2 / 3 + 4 / 6 + 0) / 3}
    assert {name: found[name] for name in by_hand} == pytest.approx(by_hand, rel=1e-15)
    scores = oracle("sklearn.metrics")
    for name in by_hand:
        score = getattr(scores, f"{name}_score")(labels, answers, average="macro", zero_division=0)
        assert found[name] == pytest.approx(score, rel=1e-15)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("form", ["labels", "labels of logits", "one-hot rows"])
def test_top_k_against_sklearn(rng, X, form, k, weighted):
    scores = oracle("sklearn.metrics")
    if form == "one-hot rows" and k == 3:
        k = 2
    w = _weights(rng, weighted)
    net, y, labels, _ = _net_for_targets(rng, X, form, [metrics.TopKCategoricalAccuracy(k), "accuracy"])
    wanted = scores.top_k_accuracy_score(
        labels, net.predict_proba(X), k=k, sample_weight=w, labels=range(net[-1].units)
    )
    for batch_size in BATCHES:
        found = net.evaluate(X, y, batch_size=batch_size, sample_weight=w)
        assert found["top_k_categorical_accuracy"] == pytest.approx(wanted, rel=1e-12) and 0 < wanted < 1
        assert k > 1 or found["top_k_categorical_accuracy"] == found["accuracy"]


def test_top_k_by_hand_for_equal_and_nan_outputs():
    """Of equal outputs the first count, as in the accuracy."""
    nan = float("nan")
    a = np.array([[1, 2, 2, 0], [1, 2, 2, 0], [0, 0, 0, 0], [nan, 1, 2, nan], [nan, 1, 2, nan], [5, 4, 3, 2.0]])
    labels = np.array([1, 2, 2, 0, 3, 2])
    places = [0, 1, 2, 0, 1, 2]  # the number of outputs ranked before that of the label
    term = np.empty(6)
    for top in (1, 2, 3):
        wanted = [p < top for p in places]
        gpunn.kernels.get("sparse_top_k")(a, labels.astype(np.int32), np.ones(6), top=top, out=term)
        np.testing.assert_array_equal(term, wanted)
        gpunn.kernels.get("categorical_top_k")(a, np.eye(4)[labels], np.ones(6), top=top, out=term)
        np.testing.assert_array_equal(term, wanted)


# --- the area under the curve ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_auc_against_sklearn(rng, X, form, weighted, dtype):
    scores = oracle("sklearn.metrics")
    w = _weights(rng, weighted)
    net, y, labels, _ = _net_for_targets(rng, X, form, ["auc"], dtype=dtype)
    if FORMS[form][1] == "mse":
        columns = net.predict(X)
        wanted = np.mean([scores.roc_auc_score(labels == k, columns[:, k], sample_weight=w) for k in range(3)])
    else:
        p = net.predict_proba(X).astype(np.float64)
        if p.shape[1] == 2:
            p = p[:, 1]
        elif FORMS[form][3] != "columns":
            p /= p.sum(axis=1, keepdims=True)
        wanted = scores.roc_auc_score(
            labels, p if p.ndim > 1 and p.shape[1] > 1 else p.ravel(), sample_weight=w, multi_class="ovr"
        )
    assert 0.2 < wanted < 0.8
    for batch_size in BATCHES:
        found = net.evaluate(X, y, batch_size=batch_size, sample_weight=w)["auc"]
        assert found == pytest.approx(wanted, rel=1e-12 if dtype == "float64" else 1e-6)


def test_auc_by_hand():
    net = _identity_net(1, "binary_crossentropy", ["auc", metrics.AUC(name="again")])
    scores, y = np.array([[1.0], [2.0], [2.0], [3.0], [0.0]]), np.array([[0], [1], [0], [1], [0]])
    # pairs: the positive 2 against 1, 2, 0 gives 1 + ½ + 1; the positive 3 wins all 3
    found = net.evaluate(scores, y, batch_size=2)
    assert found["auc"] == found["again"] == pytest.approx(5.5 / 6, rel=1e-15)
    # the positive of score 2 has weight 3, the negative of score 2 has weight 0
    assert net.evaluate(scores, y, sample_weight=[1, 3, 0, 1, 1])["auc"] == 1
    assert net.evaluate(-scores, y, sample_weight=[1, 3, 0, 1, 1])["auc"] == 0
    assert np.isnan(net.evaluate(scores, np.ones_like(y))["auc"])
    # a class without rows is left out, so that 2 of 3 remain
    net = _identity_net(3, LABELS, ["auc"])
    outputs = np.log([[0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [0.4, 0.5, 0.1], [0.65, 0.25, 0.1]])
    assert net.evaluate(outputs, [0, 0, 1, 1])["auc"] == pytest.approx((3 / 4 + 3 / 4) / 2, rel=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("batch_size", [5, 23])
def test_the_auc_of_an_epoch_ranks_all_rows_with_the_outputs_of_their_step(rng, X, batch_size, weighted):
    scores = oracle("sklearn.metrics")
    w = _weights(rng, weighted)
    net, y, labels, _ = _net_for_targets(rng, X, "yes and no", ["auc", "f1"])
    walker = _net_for_targets(np.random.default_rng(0), X, "yes and no", [])[0]
    data = (X[:7], y[:7])
    seen = []

    class Watch(gpunn.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(list(logs))

    history = net.fit(
        X, y, batch_size=batch_size, epochs=2, shuffle=False, sample_weight=w, validation_data=data, verbose=0
    ).history
    assert list(history) == ["loss", "auc", "f1", "val_loss", "val_auc", "val_f1"]
    for epoch in range(2):
        p = np.zeros(ROWS)
        for start in range(0, ROWS, batch_size):
            batch = slice(start, start + batch_size)
            p[batch] = walker.predict(X[batch])[:, 0]
            if w is None or w[batch].any():
                walker.train_on_batch(X[batch], y[batch], **({} if w is None else {"sample_weight": w[batch]}))
        assert history["auc"][epoch] == pytest.approx(scores.roc_auc_score(labels, p, sample_weight=w), rel=1e-12)
        wanted = scores.f1_score(labels, p > 0.5, sample_weight=w, zero_division=0)
        assert history["f1"][epoch] == pytest.approx(wanted, rel=1e-12)
    assert history["val_auc"][-1] == scores.roc_auc_score(labels[:7], net.predict(X[:7])[:, 0])
    net.fit(X, y, callbacks=[Watch()], verbose=0)
    assert seen == [["loss", "f1"]], "batch callbacks get no metric that needs all rows"


def test_the_auc_does_not_depend_on_the_shuffle(rng, X):
    """For a frozen network, the epoch's values equal those of `evaluate`, for any order of the rows."""
    net, y, _, _ = _net_for_targets(rng, X, "labels", ["auc", "precision", "accuracy"])
    for layer in net.layers:
        layer.trainable = False
    w = _weights(rng, True)
    history = net.fit(X, y, batch_size=5, sample_weight=w, verbose=0).history
    assert {k: v[0] for k, v in history.items()} == pytest.approx(net.evaluate(X, y, sample_weight=w), rel=1e-12)


# --- R² --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("batch_size", BATCHES)
@pytest.mark.parametrize(("shift", "scale"), [(0, 1), (1e9, 1), (-3e5, 1e-4)])
def test_r2_against_sklearn(rng, X, shift, scale, batch_size, weighted):
    """The targets' mean may be 10⁹ times their deviation: there is no cancellation."""
    scores = oracle("sklearn.metrics")
    w = _weights(rng, weighted)
    net = _identity_net(4, "mse", ["r2"])
    y = shift + scale * rng.normal(size=(ROWS, 4))
    a = y + 0.3 * scale * X
    wanted = scores.r2_score(y, a, sample_weight=w)
    assert net.evaluate(a, y, batch_size=batch_size, sample_weight=w)["r2"] == pytest.approx(wanted, rel=1e-12)
    assert 0.5 < wanted < 1


def test_r2_by_hand():
    net = _identity_net(1, "mse", ["r2", "r2_score"])
    # around the mean 2: 1 + 0 + 1; errors ½ and 1
    found = net.evaluate([[1.5], [2.0], [2.0]], [[1.0], [2.0], [3.0]], batch_size=2)
    assert found["r2"] == found["r2_score"] == 1 - 1.25 / 2
    # all targets are equal
    assert net.evaluate([[1.0], [1.0]], [[1.0], [1.0]])["r2"] == 1
    assert net.evaluate([[1.0], [1.5]], [[1.0], [1.0]], batch_size=1)["r2"] == 0
    assert net.evaluate([[5.0], [0.0], [1.0]], [[1.0], [1.0], [3.0]], batch_size=1)["r2"] < -5


def test_the_r2_of_an_epoch_is_computed_over_its_rows(rng, X):
    scores = oracle("sklearn.metrics")
    y, w = 50 + rng.normal(size=(ROWS, 2)), _weights(rng, True)
    net, walker = (_net(2, None, "half_squared_error", ["r2"]) for _ in range(2))
    history = net.fit(X, y, batch_size=5, shuffle=False, sample_weight=w, verbose=0).history
    a = np.zeros((ROWS, 2))
    for start in range(0, ROWS, 5):
        batch = slice(start, start + 5)
        a[batch] = walker.predict(X[batch])
        if w[batch].any():
            walker.train_on_batch(X[batch], y[batch], sample_weight=w[batch])
    assert history["r2"][0] == pytest.approx(scores.r2_score(y, a, sample_weight=w), rel=1e-12)


# --- on another device -----------------------------------------------------------------------------------------------

ALL = ["accuracy", "precision", "recall", "f1", "auc", metrics.TopKCategoricalAccuracy(2)]


@pytest.fixture(params=["simulated", pytest.param("gpu", marks=pytest.mark.gpu)])
def cuda(request):
    """Use fake CuPy, and real CuPy if there is a GPU."""
    if request.param == "simulated":
        return request.getfixturevalue("fake_cupy")
    import cupy

    return cupy


@pytest.mark.slow
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("form", ["labels", "labels of logits", "one-hot rows", "yes and no", "values"])
def test_metrics_are_equal_on_both_devices(rng, X, cuda, form, weighted):
    """In training and in validation, with a shorter last batch."""
    w = _weights(rng, weighted)
    last, loss, n_out, kind = FORMS.get(form, (None, "mse", 2, "values"))
    y = rng.normal(size=(ROWS, n_out)) if kind == "values" else rng.integers(0, max(n_out, 2), size=ROWS)
    y = np.eye(n_out)[y] if kind == "rows" else y[:, None] if kind == "columns" else y
    watched = ["r2", "mae", "rmse"] if kind == "values" else ALL[:-1] if kind == "columns" else ALL
    found = []
    for device in ("cpu", "cuda"):
        net = _net(n_out, last, loss, watched)
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
    net = _net(4, "softmax", LABELS, ALL)
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

    def __init__(self, unit=1.0, name=None):
        self.unit = unit
        super().__init__(name)

    def n_sums(self, n_out):
        return 2

    def record(self, ops, a, y, w, row_values):
        def compute():
            row_values[:, 0] = w * (a - y).mean(axis=1)
            row_values[:, 1] = w * np.abs(y).mean(axis=1)

        ops.call_python(compute, reason="a metric of one's own")

    def compute(self, mean):
        return self.unit * mean[0] / mean[1]

    def get_config(self):
        return {"unit": self.unit}


@pytest.mark.parametrize("weighted", [False, True])
def test_custom_metrics(rng, X, weighted):
    y, w = rng.normal(size=(ROWS, 2)), _weights(rng, weighted)
    net = _net(2, None, "mse", [LargestError, Bias(100.0)])
    a, v = net.predict(X), np.ones(ROWS) if w is None else w
    bias = 100 * (v * (a - y).mean(axis=1)).sum() / (v * np.abs(y).mean(axis=1)).sum()
    found = net.evaluate(X, y, batch_size=4, sample_weight=w)
    assert found["Bias"] == pytest.approx(bias, rel=1e-12)
    assert found["LargestError"] == np.abs(a - y)[v > 0].max()
    assert list(net.fit(X, y, verbose=0).history) == ["loss", "LargestError", "Bias"]


def test_arguments_of_metrics_are_stored_in_files(rng, X, tmp_path):
    watched = [metrics.TopKCategoricalAccuracy(2), metrics.F1Score("micro", name="f"), "auc", "precision"]
    net, y, _, _ = _net_for_targets(rng, X, "labels", watched)
    net.save(tmp_path / "net.safetensors")
    again = gpunn.load(tmp_path / "net.safetensors")
    assert again.evaluate(X, y) == net.evaluate(X, y)
    assert list(again.evaluate(X, y)) == ["loss", "top_k_categorical_accuracy", "f", "auc", "precision"]
    assert repr(internals.compiled(again)) == repr(internals.compiled(net))
    assert repr(metrics.F1Score("micro", name="f")) == "F1Score(average='micro', threshold=0.5, name='f')"
    y = rng.normal(size=(ROWS, 2))
    net = _net(2, None, "mse", [Bias(3.0, name="b")])
    net.save(tmp_path / "own.safetensors")
    again = gpunn.load(tmp_path / "own.safetensors", custom={"Bias": Bias})
    assert again.evaluate(X, y) == net.evaluate(X, y)

    class IncompleteConfig(Bias):
        def get_config(self):
            return {}

    with pytest.raises(ValueError, match=naming("IncompleteConfig.get_config()", "unit")):
        _net(2, None, "mse", [IncompleteConfig(3.0)]).save(tmp_path / "own.safetensors")


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
def test_the_root_is_taken_of_the_mean_over_the_epoch(rng, X, batch_size):
    """It is not the mean of the roots of the batches: for a frozen network the history equals `evaluate`."""
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
    said = np.where(right, y[:, 0], 1 - y[:, 0])
    a = np.c_[said, np.zeros(MANY), np.ones(MANY)][:, :n_out]
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
