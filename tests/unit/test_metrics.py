"""Metrics by hand and against scikit-learn."""

import numpy as np
import pytest
from helpers.metric_cases import (
    BATCHES,
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
from helpers.oracles import oracle

import gpunn
from gpunn import losses, metrics


@pytest.fixture
def rng():
    return np.random.default_rng(12)


@pytest.fixture
def X(rng):
    return rng.normal(size=(ROWS, COLUMNS))


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
            return 0 * z + 1

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
    y, w = rng.normal(size=(ROWS, n_out)), draw_weights(rng, weighted)
    net = make_net(n_out, None, "mean_squared_error", ["mean_absolute_error", "mean_squared_error", "rmse"])
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


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("batch_size", BATCHES)
@pytest.mark.parametrize("kind", KINDS)
def test_accuracy_against_sklearn(rng, X, kind, batch_size, weighted):
    scores = oracle("sklearn.metrics")
    n_out, last, loss, y = classification_case(rng, kind)
    w = draw_weights(rng, weighted)
    net = make_net(n_out, last, loss, ["accuracy"])
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
    y, w = rng.integers(0, 2, size=(ROWS, 3)), draw_weights(rng, True)
    net = make_net(3, "sigmoid", "binary_crossentropy", ["accuracy"])
    a = net.predict_classes(X)
    wanted = np.mean([scores.accuracy_score(y[:, k], a[:, k], sample_weight=w) for k in range(3)])
    assert net.evaluate(X, y, batch_size=7, sample_weight=w)["accuracy"] == pytest.approx(wanted, rel=1e-12)


# --- classes, against scikit-learn -----------------------------------------------------------------------------------


def _averages(form):
    if form in ("two labels", "yes and no", "yes and no of logits"):
        return ["binary"] if "yes" in form else ["binary", "macro", "micro"]
    return ["macro", "micro"]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("batch_size", [1, 5, 100])
@pytest.mark.parametrize("form", FORMS)
def test_precision_recall_and_f1_against_sklearn(rng, X, form, batch_size, weighted):
    scores = oracle("sklearn.metrics")
    w = draw_weights(rng, weighted)
    own = {"precision": metrics.Precision, "recall": metrics.Recall, "f1": metrics.F1Score}
    theirs = {"precision": scores.precision_score, "recall": scores.recall_score, "f1": scores.f1_score}
    watched = [make(average, name=f"{name} {average}") for name, make in own.items() for average in _averages(form)]
    net, y, labels, answers = net_for_targets(rng, X, form, [*own, *watched])
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
    net, y, labels, _ = net_for_targets(rng, X, form, watched)
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
    w = draw_weights(rng, weighted)
    net, y, labels, _ = net_for_targets(rng, X, form, [metrics.TopKCategoricalAccuracy(k), "accuracy"])
    wanted = scores.top_k_accuracy_score(
        labels, net.predict_proba(X), k=k, sample_weight=w, labels=range(net[-1].units)
    )
    for batch_size in BATCHES:
        found = net.evaluate(X, y, batch_size=batch_size, sample_weight=w)
        assert found["top_k_categorical_accuracy"] == pytest.approx(wanted, rel=1e-12) and 0 < wanted < 1
        assert k > 1 or found["top_k_categorical_accuracy"] == found["accuracy"]


def test_top_k_by_hand_for_equal_and_nan_outputs():
    """The first of equal outputs counts, as in the accuracy."""
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
    w = draw_weights(rng, weighted)
    net, y, labels, _ = net_for_targets(rng, X, form, ["auc"], dtype=dtype)
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
    w = draw_weights(rng, weighted)
    net, y, labels, _ = net_for_targets(rng, X, "yes and no", ["auc", "f1"])
    walker = net_for_targets(np.random.default_rng(0), X, "yes and no", [])[0]
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
    """The values of an epoch equal those of `evaluate` for a frozen network, in any order of the rows."""
    net, y, _, _ = net_for_targets(rng, X, "labels", ["auc", "precision", "accuracy"])
    for layer in net.layers:
        layer.trainable = False
    w = draw_weights(rng, True)
    history = net.fit(X, y, batch_size=5, sample_weight=w, verbose=0).history
    assert {k: v[0] for k, v in history.items()} == pytest.approx(net.evaluate(X, y, sample_weight=w), rel=1e-12)


# --- R² --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("batch_size", BATCHES)
@pytest.mark.parametrize(("shift", "scale"), [(0, 1), (1e9, 1), (-3e5, 1e-4)])
def test_r2_against_sklearn(rng, X, shift, scale, batch_size, weighted):
    """The targets' mean may be 10⁹ times their deviation: there is no cancellation."""
    scores = oracle("sklearn.metrics")
    w = draw_weights(rng, weighted)
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
    y, w = 50 + rng.normal(size=(ROWS, 2)), draw_weights(rng, True)
    net, walker = (make_net(2, None, "half_squared_error", ["r2"]) for _ in range(2))
    history = net.fit(X, y, batch_size=5, shuffle=False, sample_weight=w, verbose=0).history
    a = np.zeros((ROWS, 2))
    for start in range(0, ROWS, 5):
        batch = slice(start, start + 5)
        a[batch] = walker.predict(X[batch])
        if w[batch].any():
            walker.train_on_batch(X[batch], y[batch], sample_weight=w[batch])
    assert history["r2"][0] == pytest.approx(scores.r2_score(y, a, sample_weight=w), rel=1e-12)


def test_a_configuration_must_have_a_name():
    with pytest.raises(KeyError, match="'metric'"):
        metrics.from_config({})
