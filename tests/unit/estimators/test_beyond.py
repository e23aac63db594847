"""What scikit-learn's networks lack: dropout, class weights, losses, optimisers, curves, callbacks and the like."""

import contextlib
import warnings

import numpy as np
import pytest
from helpers import internals
from helpers.oracles import oracle

import gpunn
from gpunn import activations, losses

oracle("sklearn")
from scipy.special import expit, log_softmax, softmax  # noqa: E402
from sklearn import datasets, neural_network  # noqa: E402
from sklearn.exceptions import ConvergenceWarning  # noqa: E402
from sklearn.preprocessing import scale  # noqa: E402
from sklearn.utils.class_weight import compute_sample_weight  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
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
    return [np.array(a) for pair in zip(estimator.coefs_, estimator.intercepts_, strict=True) for a in pair]


def assert_equal(a, b, rtol=0.0):
    """Two fits with the same weights and curves."""
    for x, y in zip(weights_of(a), weights_of(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=rtol, atol=rtol)
    np.testing.assert_allclose(a.loss_curve_, b.loss_curve_, rtol=max(rtol, 1e-15))


def differ(a, b):
    return any((x != y).any() for x, y in zip(weights_of(a), weights_of(b), strict=True))


class Watch(gpunn.Callback):
    """Keeps the weights at the beginning and after each epoch, and what it was told."""

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


# --- dropout ------------------------------------------------------------------------------------------------------


def test_dropout_changes_the_training_and_not_the_prediction():
    plain, dropped = classifier().fit(X, NAMES), classifier(dropout=0.5).fit(X, NAMES)
    assert dropped.loss_ > plain.loss_
    assert differ(plain, dropped)
    np.testing.assert_array_equal(dropped.predict_proba(X), dropped.predict_proba(X))
    a = X
    for W, b in zip(dropped.coefs_[:-1], dropped.intercepts_[:-1], strict=True):
        a = np.maximum(a @ W + b, 0)
    np.testing.assert_allclose(
        dropped.predict_proba(X), softmax(a @ dropped.coefs_[-1] + dropped.intercepts_[-1], axis=1), rtol=1e-10
    )


def test_the_same_random_state_drops_the_same():
    assert_equal(classifier(dropout=0.5).fit(X, LABELS), classifier(dropout=0.5).fit(X, LABELS))
    assert differ(classifier(dropout=0.5).fit(X, LABELS), classifier(dropout=0.5, random_state=4).fit(X, LABELS))


def test_no_dropout_is_no_dropout():
    assert_equal(classifier().fit(X, LABELS), classifier(dropout=[0, 0.0]).fit(X, LABELS))
    assert [type(layer) for layer in classifier(dropout=0.0).fit(X, LABELS).net_.layers] == [gpunn.Dense] * 3


def test_dropout_of_each_layer():
    fitted = regressor(dropout=(0.0, 0.25)).fit(X, VALUES)
    assert [repr(layer) for layer in fitted.net_.layers if isinstance(layer, gpunn.Dropout)] == ["Dropout(0.25)"]
    assert isinstance(fitted.net_.layers[2], gpunn.Dropout)
    assert_equal(regressor(dropout=0.25).fit(X, VALUES), regressor(dropout=[0.25, 0.25]).fit(X, VALUES))


@pytest.mark.parametrize("kind", ["classifier", "regressor"])
def test_dropout_is_that_of_a_network_built_by_hand(kind):
    watch = Watch()
    chosen = {"optimizer": gpunn.Nesterov(0.05, clipnorm=0.7), "shuffle": False, "alpha": 0.0, "callbacks": [watch]}
    last, loss, y, theirs = {
        "classifier": (gpunn.Dense(3, "softmax"), "sparse_categorical_crossentropy", LABELS, NAMES),
        "regressor": (gpunn.Dense(2), "half_squared_error", TWO, TWO),
    }[kind]
    fitted = {"classifier": classifier, "regressor": regressor}[kind](dropout=[0.2, 0.4], **chosen).fit(X, theirs)
    net = gpunn.Sequential(
        [gpunn.Dense(8, "relu"), gpunn.Dropout(0.2), gpunn.Dense(7, "relu"), gpunn.Dropout(0.4), last],
        input_shape=13,
        seed=fitted.net_.seed,
        dtype="float64",
    )
    net.set_weights(watch.weights[0])
    net.compile(gpunn.Nesterov(0.05, clipnorm=0.7), loss)
    history = net.fit(X, y, batch_size=50, epochs=4, shuffle=False, verbose=0)
    for a, b in zip(weights_of(fitted), net.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)
    if kind == "classifier":
        np.testing.assert_allclose(fitted.loss_curve_, history.history["loss"], rtol=1e-9)


# --- class weights ------------------------------------------------------------------------------------------------

WEIGHTS = {"ale": 3.0, "bock": 0.5, "cider": 1.0}


@pytest.mark.parametrize("solver", ["sgd", "adam", "lbfgs"])
@pytest.mark.parametrize("class_weight", ["balanced", WEIGHTS, {"ale": 2.0}])
def test_class_weights_are_sample_weights(solver, class_weight):
    own = np.random.default_rng(0).uniform(0.5, 2, len(X))
    by_class = compute_sample_weight(class_weight, NAMES)
    for given, equal in ((None, by_class), (own, own * by_class)):
        ours = classifier(solver=solver, class_weight=class_weight).fit(X, NAMES, sample_weight=given)
        theirs = neural_network.MLPClassifier(**SMALL | {"solver": solver}).fit(X, NAMES, sample_weight=equal)
        for a, b in zip(ours.coefs_, theirs.coefs_, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9)
    assert np.ptp(by_class) > 0


def test_class_weights_of_numbers_booleans_and_one_class():
    for y, class_weight, weights in (
        (LABELS, {0: 3.0, 1: 0.5, 2: 1.0}, compute_sample_weight({0: 3.0, 1: 0.5, 2: 1.0}, LABELS)),
        (LABELS == 0, {True: 4.0, False: 0.25}, np.where(LABELS == 0, 4.0, 0.25)),
        (LABELS == 0, "balanced", compute_sample_weight("balanced", LABELS == 0)),
        (np.zeros(len(X), int), {0: 2.0}, np.full(len(X), 2.0)),
    ):
        assert_equal(
            classifier(class_weight=class_weight).fit(X, y), classifier().fit(X, y, sample_weight=weights), rtol=1e-12
        )


@pytest.mark.parametrize("class_weight", ["balanced", [{0: 1.0, 1: 2.0}, {0: 3.0, 1: 1.0}, {0: 1.0, 1: 1.0}]])
def test_class_weights_of_multilabel_targets(class_weight):
    weights = compute_sample_weight(class_weight, MULTI)
    assert np.ptp(weights) > 0
    assert_equal(
        classifier(class_weight=class_weight).fit(X, MULTI),
        classifier().fit(X, MULTI, sample_weight=weights),
        rtol=1e-12,
    )


def test_class_weights_of_parts_that_lack_a_class():
    """A part of a stream need not hold every class that has a weight, nor weigh every class that it holds."""
    there, here = classifier(), classifier(class_weight={"ale": 2.0, "cider": 3.0})
    for rows in (LABELS < 2, LABELS > 0, LABELS == 1):
        weights = np.select([NAMES[rows] == "ale", NAMES[rows] == "cider"], [2.0, 3.0], 1.0)
        there.partial_fit(X[rows], NAMES[rows], sample_weight=weights, classes=["ale", "bock", "cider"])
        here.partial_fit(X[rows], NAMES[rows], classes=["ale", "bock", "cider"])
    assert_equal(there, here, rtol=1e-12)


def test_a_class_that_weighs_more_is_found_more_often():
    y = (VALUES + np.random.default_rng(0).normal(size=len(X)) > 2).astype(int)
    found = [classifier(class_weight=w, max_iter=50).fit(X, y).predict(X).sum() for w in ({1: 0.05}, None, {1: 20.0})]
    assert found[0] < found[1] < found[2]


# --- where scikit-learn does otherwise ----------------------------------------------------------------------------


def test_a_batch_without_weight_is_skipped():
    """The fit is the one without these rows; scikit-learn raises ZeroDivisionError."""
    weights = np.where((np.arange(len(X)) >= 50) & (np.arange(len(X)) < 100), 0.0, 1.0)
    there = regressor(shuffle=False).fit(X[weights > 0], VALUES[weights > 0])
    assert_equal(regressor(shuffle=False).fit(X, VALUES, sample_weight=weights), there, rtol=1e-12)


def test_a_warm_start_that_finds_nothing_better_keeps_the_best_weights():
    fitted = classifier(early_stopping=True, warm_start=True, max_iter=10).fit(X, NAMES)
    fitted.best_validation_score_ = 2.0  # no score reaches it
    before = weights_of(fitted)
    fitted.fit(X, NAMES)
    for got, wanted in zip(weights_of(fitted), before, strict=True):
        np.testing.assert_array_equal(got, wanted)


# --- activations, losses, outputs, initial weights ----------------------------------------------------------------

HIDDEN = sorted(
    name
    for name, cls in internals.classes_by_name(activations).items()
    if cls.elementwise and cls.__module__ == activations.__name__
)


@pytest.mark.slow
@pytest.mark.parametrize("name", HIDDEN)
def test_every_activation_of_gpunns(name):
    f = activations.get(name)
    for estimator, y in ((classifier(activation=name), NAMES), (regressor(activation=[name, name]), TWO)):
        fitted = estimator.fit(X, y)
        a = X
        for W, b in zip(fitted.coefs_[:-1], fitted.intercepts_[:-1], strict=True):
            a = f.f(a @ W + b)
        z = a @ fitted.coefs_[-1] + fitted.intercepts_[-1]
        if y is NAMES:
            np.testing.assert_allclose(fitted.predict_proba(X), softmax(z, axis=1), rtol=1e-8)
        else:
            np.testing.assert_allclose(fitted.predict(X), z, rtol=1e-8, atol=1e-10)


def test_one_activation_for_each_layer():
    mixed = classifier(activation=["tanh", activations.LeakyReLU(0.3)]).fit(X, NAMES)
    a = np.tanh(X @ mixed.coefs_[0] + mixed.intercepts_[0])
    a = a @ mixed.coefs_[1] + mixed.intercepts_[1]
    a = np.where(a > 0, a, 0.3 * a)
    z = a @ mixed.coefs_[2] + mixed.intercepts_[2]
    np.testing.assert_allclose(mixed.predict_proba(X), softmax(z, axis=1), rtol=1e-9)
    same = (classifier(activation=a).fit(X, NAMES) for a in ("logistic", ("sigmoid", "logistic")))
    assert_equal(*same)


def test_an_activation_of_ones_own():
    class Squared(activations.Activation):
        def f(self, z):
            return z * z

        def derivative(self, z, a):
            return 2 * z

    fitted = regressor(activation=Squared()).fit(X, VALUES)
    a = X
    for W, b in zip(fitted.coefs_[:-1], fitted.intercepts_[:-1], strict=True):
        a = (a @ W + b) ** 2
    np.testing.assert_allclose(fitted.predict(X), (a @ fitted.coefs_[-1] + fitted.intercepts_[-1])[:, 0], rtol=1e-9)


@pytest.mark.parametrize("name", ["logistic", "tanh"])
@pytest.mark.parametrize("kind", ["MLPClassifier", "MLPRegressor"])
def test_without_hidden_layers_the_weights_are_drawn_as_theirs(name, kind):
    y = LABELS if kind == "MLPClassifier" else VALUES
    parameters = {"hidden_layer_sizes": (), "activation": name, "random_state": 0, "max_iter": 5}
    theirs, ours = (getattr(m, kind)(**parameters).fit(X, y) for m in (neural_network, gpunn))
    np.testing.assert_allclose(ours.coefs_[0], theirs.coefs_[0], rtol=1e-9)


def _huber(e):
    return np.where(abs(e) <= 1, e * e / 2, abs(e) - 0.5).mean(axis=1)


LOSSES = {
    "half_squared_error": lambda y, a: ((y - a) ** 2).sum(axis=1) / 2,
    "mse": lambda y, a: ((y - a) ** 2).mean(axis=1),
    "mean_squared_error": lambda y, a: ((y - a) ** 2).mean(axis=1),
    "mae": lambda y, a: abs(y - a).mean(axis=1),
    "huber": lambda y, a: _huber(a - y),
    "log_cosh": lambda y, a: np.log(np.cosh(a - y)).mean(axis=1),
}


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
@pytest.mark.parametrize("y", [VALUES, TWO], ids=["one", "two"])
@pytest.mark.parametrize("name", LOSSES)
def test_losses_of_a_regressor(name, y, solver):
    """The loss of the last step's batch, by hand: one batch, so that it is over all rows, before that step."""
    watch = Watch()
    more = {"callbacks": [watch], "batch_size": len(X)} if solver == "adam" else {}
    fitted = regressor(loss=name, solver=solver, alpha=0.5, **more).fit(X, y)
    weights = watch.weights[-2] if more else weights_of(fitted)
    a = X
    for k in range(0, 6, 2):
        a = a @ weights[k] + weights[k + 1]
        a = np.maximum(a, 0) if k < 4 else a
    penalty = 0.25 * sum((W**2).sum() for W in weights[::2]) / len(X)
    expected = LOSSES[name](y.reshape(len(X), -1), a).mean() + penalty
    assert fitted.loss_ == pytest.approx(expected, rel=1e-10)


def test_losses_as_objects_and_functions():
    def own(y, a):
        e = a - y
        return np.where(abs(e) <= 0.5, e * e / 2, 0.5 * (abs(e) - 0.25)).mean(axis=1), np.clip(e, -0.5, 0.5) / e.shape[
            1
        ]

    assert_equal(regressor(loss=losses.Huber(0.5)).fit(X, TWO), regressor(loss=own).fit(X, TWO), rtol=1e-12)
    assert differ(regressor(loss=losses.Huber(0.5)).fit(X, TWO), regressor(loss="huber").fit(X, TWO))


def test_outputs_of_a_regressor():
    y = expit(VALUES)
    fitted = regressor(out_activation="sigmoid").fit(X, y)
    assert fitted.out_activation_ == "logistic"
    assert ((fitted.predict(X) > 0) & (fitted.predict(X) < 1)).all()
    counts = np.floor(np.exp(VALUES / 2))
    theirs, exp = (regressor(loss="poisson", out_activation=o).fit(X, counts) for o in (None, "exp"))
    assert_equal(theirs, exp)
    shares = softmax(TWO, axis=1)
    mixed = regressor(loss="categorical_crossentropy").fit(X, shares)
    np.testing.assert_allclose(mixed.predict(X).sum(axis=1), 1.0, rtol=1e-12)
    rate = regressor(loss="binary_crossentropy").fit(X, y)
    logit = regressor(loss="binary_crossentropy", out_activation="identity").fit(X, y)
    assert (rate.out_activation_, logit.out_activation_) == ("logistic", "identity")
    np.testing.assert_allclose(rate.predict(X), expit(logit.predict(X)), rtol=1e-9)


@pytest.mark.parametrize("y", [NAMES, LABELS == 1, MULTI], ids=["several", "two", "multilabel"])
def test_a_classifier_of_logits_is_the_same(y):
    """out_activation="identity": the network gives logits, and the loss and the probabilities know it."""
    plain, logits = classifier().fit(X, y), classifier(out_activation="identity").fit(X, y)
    assert logits.out_activation_ == "identity"
    for a, b in zip(plain.coefs_, logits.coefs_, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9)
    np.testing.assert_allclose(plain.predict_proba(X), logits.predict_proba(X), rtol=1e-9)
    np.testing.assert_array_equal(plain.predict(X), logits.predict(X))
    z = logits.net_.predict(X)
    proba = logits.predict_proba(X)
    if y is NAMES:
        np.testing.assert_allclose(np.log(proba), log_softmax(z, axis=1), atol=1e-12)
    else:
        np.testing.assert_allclose(proba if y is MULTI else proba[:, 1:], expit(z), rtol=1e-12)


@pytest.mark.parametrize(
    ("y", "loss"),
    [
        (NAMES, "half_squared_error"),
        (NAMES, "categorical_crossentropy"),
        (NAMES, "sparse_categorical_crossentropy"),
        (LABELS == 1, "half_squared_error"),
        (LABELS == 1, "binary_crossentropy"),
        (MULTI, "mae"),
        (MULTI, "binary_crossentropy"),
    ],
    ids=lambda v: v if isinstance(v, str) else f"{v.ndim}-{v.dtype}",
)
def test_other_losses_of_a_classifier(y, loss):
    fitted = classifier(loss=loss, max_iter=80, learning_rate_init=0.02).fit(X, y)
    assert fitted.score(X, y) > 0.9
    proba = fitted.predict_proba(X)
    assert ((proba >= 0) & (proba <= 1)).all()
    if "cross" in loss:
        np.testing.assert_allclose(proba, classifier(max_iter=80, learning_rate_init=0.02).fit(X, y).predict_proba(X))


def test_half_squared_error_of_a_classifier_is_that_of_its_probabilities():
    watch = Watch()
    fitted = classifier(loss="half_squared_error", batch_size=len(X), alpha=0.0, callbacks=[watch]).fit(X, NAMES)
    W = watch.weights[-2]
    a = np.maximum(np.maximum(X @ W[0] + W[1], 0) @ W[2] + W[3], 0)
    p = softmax(a @ W[4] + W[5], axis=1)
    assert fitted.loss_ == pytest.approx(((p - np.eye(3)[LABELS]) ** 2).sum(axis=1).mean() / 2, rel=1e-10)


@pytest.mark.parametrize("initializer", ["he_normal", gpunn.initializers.Orthogonal(), "zeros"])
def test_initial_weights(initializer):
    watch = Watch()
    fitted = classifier(kernel_initializer=initializer, callbacks=[watch]).fit(X, NAMES)
    W = watch.weights[0]
    assert all((b == 0).all() for b in W[1::2])
    if initializer == "zeros":
        assert all((w == 0).all() for w in W)
    elif initializer == "he_normal":
        wide = Watch()
        classifier(kernel_initializer="he_normal", hidden_layer_sizes=(2000,), callbacks=[wide], max_iter=1).fit(
            X, NAMES
        )
        assert wide.weights[0][0].std() == pytest.approx(np.sqrt(2 / 13), rel=0.02)
    else:
        np.testing.assert_allclose(W[2].T @ W[2], np.eye(7), atol=1e-12)
    assert_equal(fitted, classifier(kernel_initializer=initializer).fit(X, NAMES))
    if initializer != "zeros":
        assert differ(fitted, classifier(kernel_initializer=initializer, random_state=9).fit(X, NAMES))


# --- validation data ----------------------------------------------------------------------------------------------


def test_the_curve_of_validation_data_by_hand():
    watch = Watch()
    train, held = slice(0, None, 2), slice(1, None, 2)
    w = np.random.default_rng(0).uniform(0.5, 2, len(X[held]))
    fitted = classifier(alpha=0.3, dropout=0.4, callbacks=[watch])
    fitted.fit(X[train], NAMES[train], validation_data=(X[held], NAMES[held], w))
    expected = []
    for W in watch.weights[1:]:
        a = np.maximum(np.maximum(X[held] @ W[0] + W[1], 0) @ W[2] + W[3], 0)
        logs = log_softmax(a @ W[4] + W[5], axis=1)
        own = -logs[np.arange(len(w)), LABELS[held]]
        expected.append(np.average(own, weights=w) + 0.15 * sum((k**2).sum() for k in W[::2]) / w.sum())
    np.testing.assert_allclose(fitted.validation_loss_curve_, expected, rtol=1e-10)
    assert fitted.validation_loss_curve_ == [logs["val_loss"] for logs in watch.logs]
    assert fitted.history_.history == {"loss": fitted.loss_curve_, "val_loss": fitted.validation_loss_curve_}


@pytest.mark.parametrize("weighted", [False, True])
def test_the_penalty_of_validation_data_is_that_of_all_its_rows(weighted):
    """½α ΣW²/Σw over 2500 rows, which are evaluated in several batches, the last one shorter."""
    rng = np.random.default_rng(4)
    held, y = rng.normal(size=(2500, 13)), rng.normal(size=2500)
    w = rng.uniform(0.5, 2, size=2500) if weighted else np.ones(2500)
    fitted = regressor(alpha=50.0, max_iter=2).fit(X, VALUES, validation_data=(held, y, w) if weighted else (held, y))
    expected = np.average((fitted.predict(held) - y) ** 2 / 2, weights=w)
    expected += 25.0 * sum((W**2).sum() for W in fitted.coefs_) / w.sum()
    assert fitted.validation_loss_curve_[-1] == pytest.approx(expected, rel=1e-10)


def test_validation_data_does_not_move_the_fit():
    plain = regressor().fit(X, TWO)
    watched = regressor().fit(X, TWO, validation_data=[X[:20], TWO[:20]])
    assert_equal(plain, watched)
    assert plain.validation_loss_curve_ is None
    net = watched.net_
    assert net.evaluate(X[:20], TWO[:20])["loss"] == pytest.approx(watched.validation_loss_curve_[-1], rel=1e-12)


@pytest.mark.parametrize("y", [LABELS == 1, MULTI, LABELS], ids=["two", "multilabel", "several"])
def test_validation_data_of_every_kind_of_labels(y):
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(X, columns=[f"x{k}" for k in range(13)])
    fitted = classifier().fit(frame, y, validation_data=(frame[:30], y[:30]))
    curve = classifier().fit(X, y, validation_data=(X[:30], y[:30])).validation_loss_curve_
    assert fitted.validation_loss_curve_ == curve
    assert len(set(curve)) == 4


def test_a_warm_start_goes_on_with_the_curves():
    estimator = regressor(warm_start=True).fit(X, VALUES)
    for k in range(2):
        curve = estimator.validation_loss_curve_
        kept = list(curve or [])
        estimator.fit(X, VALUES, validation_data=(X[:9], VALUES[:9]))
        assert estimator.validation_loss_curve_[: len(kept)] == kept
        assert len(estimator.validation_loss_curve_) == 4 * (k + 1)
        assert curve is None or curve == kept


def test_another_solver_goes_on_where_one_stopped():
    """In scikit-learn each of these is an AttributeError or a TypeError in the midst of the fit."""
    estimator = classifier(warm_start=True, solver="lbfgs", max_iter=10).fit(X, NAMES)
    before = estimator.loss_
    estimator.set_params(solver="adam", learning_rate_init=1e-4).fit(X, NAMES)
    assert estimator.loss_curve_[0] < 1.2 * before + 0.1
    estimator.set_params(early_stopping=True).fit(X, NAMES)
    assert len(estimator.validation_scores_) == 10
    assert estimator.best_loss_ is None
    estimator.set_params(early_stopping=False).fit(X, NAMES)
    assert estimator.validation_scores_ is None
    assert estimator.best_loss_ == min(estimator.loss_curve_[-10:])
    assert len(estimator.loss_curve_) == 30
    one = classifier(solver="lbfgs").fit(X, NAMES)
    one.set_params(solver="adam").partial_fit(X, NAMES)
    assert len(one.loss_curve_) == 1


# --- callbacks ----------------------------------------------------------------------------------------------------


def test_callbacks_are_called_with_the_network():
    watch = Watch()
    fitted = classifier(callbacks=(watch,)).fit(X, NAMES)
    assert watch.calls == ["train begins", 0, 1, 2, 3, "train ends"]
    assert watch.model is fitted.net_
    assert watch.params["epochs"] == 4
    assert watch.params["steps"] == -(-len(X) // 50)
    assert [logs["loss"] for logs in watch.logs] == fitted.loss_curve_
    for a, b in zip(watch.weights[-1], weights_of(fitted), strict=True):
        np.testing.assert_array_equal(a, b)
    fitted.partial_fit(X, NAMES)
    assert watch.calls[6:] == ["train begins", 0, "train ends"]


def test_a_callback_stops_the_fit():
    class Stop(gpunn.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = epoch == 1

    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        fitted = classifier(callbacks=[Stop()]).fit(X, NAMES)
    assert fitted.n_iter_ == 2
    assert_equal(fitted, classifier(max_iter=2).fit(X, NAMES))


@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_a_callback_sets_the_learning_rate(solver):
    class Slow(gpunn.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.rates = [*getattr(self, "rates", []), self.model.learning_rate]
            if epoch == 2:
                self.model.learning_rate = 1e-300

    slow, watch = Slow(), Watch()
    more = {"momentum": 0} if solver == "sgd" else {}
    classifier(solver=solver, callbacks=[slow, watch], learning_rate_init=0.02, **more).fit(X, NAMES)
    assert slow.rates == [0.02, 0.02, 0.02, 1e-300]
    for a, b in zip(watch.weights[2], watch.weights[4], strict=True):
        np.testing.assert_array_equal(a, b)
    assert any((a != b).any() for a, b in zip(watch.weights[1], watch.weights[2], strict=True))


def test_early_stopping_on_validation_data_takes_the_best_weights():
    watch = Watch()
    stop = gpunn.EarlyStopping(monitor="val_loss", patience=3)
    fitted = regressor(callbacks=[watch, stop], max_iter=500, learning_rate_init=0.03, batch_size=10)
    fitted.fit(X[:40], VALUES[:40], validation_data=(X[40:], VALUES[40:]))
    assert fitted.n_iter_ < 500
    best = int(np.argmin(fitted.validation_loss_curve_))
    for a, b in zip(weights_of(fitted), watch.weights[best + 1], strict=True):
        np.testing.assert_array_equal(a, b)
    a = fitted.predict(X)
    np.testing.assert_array_equal(a, fitted.net_.predict(X)[:, 0])


def test_a_callback_may_predict_with_the_estimator():
    seen = []

    class Look(gpunn.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append((estimator.predict_proba(X), self.model.predict(X)))

    estimator = classifier(callbacks=[Look()])
    for _ in range(2):
        estimator.fit(X, NAMES)
        assert_equal(estimator, classifier().fit(X, NAMES))
    assert len(seen) == 8
    for a, b in seen:
        np.testing.assert_array_equal(a, b)
    assert (seen[0][0] != seen[3][0]).any()


# --- optimisers ---------------------------------------------------------------------------------------------------

RULES = {
    "sgd": "sgd",
    "rmsprop": "RMSprop",
    "adamw": gpunn.AdamW(0.01),
    "momentum with a schedule": gpunn.Momentum(gpunn.schedules.StepDecay(0.05, 3)),
    "nesterov by epochs": gpunn.Nesterov(gpunn.schedules.StepDecay(0.05, 2, per="epoch")),
}


@pytest.mark.parametrize("case", RULES)
def test_optimisers_of_gpunn_take_their_own_steps(case):
    watch = Watch()
    fitted = classifier(optimizer=RULES[case], callbacks=[watch], alpha=0.0, shuffle=False).fit(X, NAMES)
    layers = [gpunn.Dense(8, "relu"), gpunn.Dense(7, "relu"), gpunn.Dense(3, "softmax")]
    net = gpunn.Sequential(layers, input_shape=13, seed=0, dtype="float64")
    net.set_weights(watch.weights[0])
    net.compile(RULES[case], "sparse_categorical_crossentropy")
    net.fit(X, LABELS, batch_size=50, epochs=4, shuffle=False, verbose=0)
    for a, b in zip(weights_of(fitted), net.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)
    assert differ(fitted, classifier().fit(X, NAMES))


def test_clipnorm_bounds_the_step():
    """With plain SGD and no penalty the step is η times the gradient: its length is what clipnorm says."""
    watch = Watch()
    more = {"solver": "sgd", "momentum": 0.0, "nesterovs_momentum": False, "alpha": 0.0, "batch_size": len(X)}
    for clipnorm, length in ((0.01, 0.01), (1e9, None)):
        watch = Watch()
        classifier(clipnorm=clipnorm, learning_rate_init=0.1, callbacks=[watch], max_iter=1, **more).fit(X, NAMES)
        step = np.sqrt(sum(((a - b) ** 2).sum() for a, b in zip(*watch.weights, strict=True)))
        if length is not None:
            assert step == pytest.approx(0.1 * length, rel=1e-9)
        else:
            assert step > 0.01
    # where it does not bind, nothing changes
    assert_equal(classifier(clipnorm=1e9).fit(X, NAMES), classifier().fit(X, NAMES))


# --- machine ------------------------------------------------------------------------------------------------------


def test_float32_by_request_and_by_the_table():
    for dtype in ("float32", np.float32, np.dtype("float32")):
        fast = classifier(dtype=dtype).fit(X, NAMES)
        assert [a.dtype for a in weights_of(fast)] == [np.float32] * 6
        assert fast.predict_proba(X).dtype == np.float32
        assert fast.net_.dtype == np.float32
    by_table = classifier().fit(X.astype(np.float32), NAMES)
    assert_equal(fast, by_table, rtol=1e-5)
    exact = classifier(dtype="float64").fit(X.astype(np.float32), NAMES)
    assert exact.coefs_[0].dtype == np.float64
    slow = classifier().fit(X, NAMES)
    np.testing.assert_allclose(fast.predict_proba(X), slow.predict_proba(X), atol=1e-4)
    assert differ(fast, slow)
    assert regressor(dtype="float32").fit(X, TWO).predict(X).dtype == np.float32
    # as scikit-learn's, which optimises in float64
    assert classifier(solver="lbfgs").fit(X.astype(np.float32), NAMES).coefs_[0].dtype == np.float64


def test_the_device_and_the_precision():
    plain = classifier().fit(X, NAMES)
    assert_equal(classifier(device="cpu").fit(X, NAMES), plain)
    assert plain.net_.device in ("cpu", "cuda:0")
    assert_equal(classifier(precision="float64").fit(X, NAMES), plain)
    assert_equal(
        classifier(dtype="float32", precision="float32").fit(X, NAMES), classifier(dtype="float32").fit(X, NAMES)
    )


@pytest.mark.parametrize("bar", ["bar", True, False])
def test_what_is_shown(bar, capsys):
    if bar == "bar":
        pytest.importorskip("tqdm")
    quiet = classifier().fit(X, NAMES)
    capsys.readouterr()
    fitted = classifier(verbose=bar).fit(X, NAMES)
    out, err = capsys.readouterr()
    assert_equal(fitted, quiet)
    assert ("Iteration 4, loss = " in out) == (bar is True)
    assert ("4/4" in err and f"loss {fitted.loss_:.4g}" in err) == (bar == "bar")
    if bar is False:
        assert (out, err) == ("", "")


# --- what is fitted -----------------------------------------------------------------------------------------------


def test_the_network_and_its_history():
    fitted = classifier().fit(X, NAMES)
    assert isinstance(fitted.net_, gpunn.Sequential)
    np.testing.assert_array_equal(fitted.net_.predict(X), fitted.predict_proba(X))
    trace = fitted.net_.trace(X[:5], LABELS[:5])
    np.testing.assert_allclose(trace[0].z, X[:5] @ fitted.coefs_[0] + fitted.intercepts_[0], rtol=1e-12)
    np.testing.assert_allclose(trace[-1].a, fitted.predict_proba(X[:5]), rtol=1e-12)
    assert "inputs 13, parameters 199" in str(fitted.net_.summary())
    assert fitted.history_.history == {"loss": fitted.loss_curve_}
    assert fitted.n_iter_ == len(fitted.loss_curve_) == 4


@pytest.mark.parametrize("kind", ["classifier", "regressor"])
def test_weights_that_are_changed_are_predicted_with(kind):
    fitted = classifier().fit(X, NAMES) if kind == "classifier" else regressor().fit(X, TWO)
    ask = fitted.predict_proba if kind == "classifier" else fitted.predict

    def by_hand():
        a = X
        for k, (W, b) in enumerate(zip(fitted.coefs_, fitted.intercepts_, strict=True)):
            a = a @ W + b
            a = np.maximum(a, 0) if k < 2 else a
        return softmax(a, axis=1) if kind == "classifier" else a

    before = ask(X)
    fitted.coefs_[0][3, 2] += 1.0  # in place
    np.testing.assert_allclose(ask(X), by_hand(), rtol=1e-9)
    assert (ask(X) != before).any()
    fitted.intercepts_[1] = fitted.intercepts_[1] + 2.0  # one array for another
    np.testing.assert_allclose(ask(X), by_hand(), rtol=1e-9)
    fitted.coefs_ = [W / 2 for W in fitted.coefs_]  # all of them
    np.testing.assert_allclose(ask(X), by_hand(), rtol=1e-9)
    fitted.coefs_[2] *= 0
    np.testing.assert_allclose(ask(X), by_hand(), rtol=1e-9)
    # and trained on
    watch, put = Watch(), fitted.coefs_[1] + 1.0
    fitted.coefs_[1] = put.copy()
    fitted.set_params(callbacks=[watch]).partial_fit(X, NAMES if kind == "classifier" else TWO)
    np.testing.assert_array_equal(watch.weights[0][2], put)
    np.testing.assert_allclose(ask(X), by_hand(), rtol=1e-9)


def test_arrays_handed_out_do_not_change_by_a_new_fit():
    for more in (
        {},
        {"warm_start": True},
        {"solver": "lbfgs"},
        {"early_stopping": True},
        {"solver": "lbfgs", "warm_start": True},
    ):
        fitted = classifier(**more).fit(X, NAMES)
        held = [*fitted.coefs_, *fitted.intercepts_]
        lists = (
            fitted.coefs_,
            fitted.intercepts_,
            *(getattr(fitted, n, None) for n in ("loss_curve_", "validation_scores_")),
        )
        copies, proba = [a.copy() for a in held], fitted.predict_proba(X)
        kept = [list(part) for part in lists if part is not None]
        answer = proba.copy()
        fitted.fit(X[::-1], NAMES)
        for a, b in zip(held, copies, strict=True):
            np.testing.assert_array_equal(a, b)
        for part, copied in zip((p for p in lists if p is not None), kept, strict=True):
            assert len(part) == len(copied)
            assert all(a is b for a, b in zip(part, copied, strict=True))
        np.testing.assert_array_equal(proba, answer)
        assert any((a != b).any() for a, b in zip(fitted.coefs_, held, strict=False))


def test_a_prediction_belongs_to_the_caller():
    fitted = regressor().fit(X, TWO)
    first = fitted.predict(X)
    copied = first.copy()
    fitted.predict(X[::-1])
    np.testing.assert_array_equal(first, copied)
    first[:] = 0
    np.testing.assert_array_equal(fitted.predict(X), copied)


def test_the_table_is_the_callers():
    frozen = X.copy()
    frozen.flags.writeable = False
    y = NAMES.copy()
    y.flags.writeable = False
    w = np.ones(len(X))
    w.flags.writeable = False
    for more in ({}, {"solver": "lbfgs"}, {"early_stopping": True}, {"dtype": "float32"}):
        with contextlib.suppress(ConvergenceWarning):
            classifier(**more).fit(frozen, y, sample_weight=w).predict(frozen)
