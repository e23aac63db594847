"""Losses, activations and initial weights of the estimators that scikit-learn lacks."""

import numpy as np
import pytest
from helpers import internals
from helpers.oracles import oracle
from helpers.user_classes import Square

import gpunn
from gpunn import activations, losses

oracle("sklearn")
from helpers.wine_fits import (  # noqa: E402
    LABELS,
    MULTI,
    NAMES,
    TWO,
    VALUES,
    Recorder,
    X,
    assert_equal,
    classifier,
    differ,
    regressor,
    weights_of,
)
from scipy.special import expit, log_softmax, softmax  # noqa: E402
from sklearn import neural_network  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

HIDDEN = sorted(
    name
    for name, cls in internals.classes_by_name(activations).items()
    if cls.elementwise and cls.__module__ == activations.__name__
)


@pytest.mark.slow
@pytest.mark.parametrize("name", HIDDEN)
def test_every_hidden_activation(name):
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


def test_activation_per_layer():
    mixed = classifier(activation=["tanh", activations.LeakyReLU(0.3)]).fit(X, NAMES)
    a = np.tanh(X @ mixed.coefs_[0] + mixed.intercepts_[0])
    a = a @ mixed.coefs_[1] + mixed.intercepts_[1]
    a = np.where(a > 0, a, 0.3 * a)
    z = a @ mixed.coefs_[2] + mixed.intercepts_[2]
    np.testing.assert_allclose(mixed.predict_proba(X), softmax(z, axis=1), rtol=1e-9)
    same = (classifier(activation=a).fit(X, NAMES) for a in ("logistic", ("sigmoid", "logistic")))
    assert_equal(*same)


def test_user_defined_activation():
    fitted = regressor(activation=Square()).fit(X, VALUES)
    a = X
    for W, b in zip(fitted.coefs_[:-1], fitted.intercepts_[:-1], strict=True):
        a = (a @ W + b) ** 2
    np.testing.assert_allclose(fitted.predict(X), (a @ fitted.coefs_[-1] + fitted.intercepts_[-1])[:, 0], rtol=1e-9)


@pytest.mark.parametrize("name", ["logistic", "tanh"])
@pytest.mark.parametrize("kind", ["MLPClassifier", "MLPRegressor"])
def test_initial_weights_without_hidden_layers_equal_scikit_learn(name, kind):
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
def test_regressor_losses_by_hand(name, y, solver):
    """The reported loss is that of the last batch, which has all rows, before its step."""
    recorder = Recorder()
    more = {"callbacks": [recorder], "batch_size": len(X)} if solver == "adam" else {}
    fitted = regressor(loss=name, solver=solver, alpha=0.5, **more).fit(X, y)
    weights = recorder.weights[-2] if more else weights_of(fitted)
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


def test_regressor_output_activations():
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
def test_classifier_with_logits_equals_one_with_probabilities(y):
    """With out_activation="identity" the network returns logits, from which loss and probabilities are computed."""
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
def test_classifier_losses(y, loss):
    fitted = classifier(loss=loss, max_iter=80, learning_rate_init=0.02).fit(X, y)
    assert fitted.score(X, y) > 0.9
    proba = fitted.predict_proba(X)
    assert ((proba >= 0) & (proba <= 1)).all()
    if "cross" in loss:
        np.testing.assert_allclose(proba, classifier(max_iter=80, learning_rate_init=0.02).fit(X, y).predict_proba(X))


def test_classifier_half_squared_error_by_hand():
    recorder = Recorder()
    fitted = classifier(loss="half_squared_error", batch_size=len(X), alpha=0.0, callbacks=[recorder]).fit(X, NAMES)
    W = recorder.weights[-2]
    a = np.maximum(np.maximum(X @ W[0] + W[1], 0) @ W[2] + W[3], 0)
    p = softmax(a @ W[4] + W[5], axis=1)
    assert fitted.loss_ == pytest.approx(((p - np.eye(3)[LABELS]) ** 2).sum(axis=1).mean() / 2, rel=1e-10)


@pytest.mark.parametrize("initializer", ["he_normal", gpunn.initializers.Orthogonal(), "zeros"])
def test_initial_weights(initializer):
    recorder = Recorder()
    fitted = classifier(kernel_initializer=initializer, callbacks=[recorder]).fit(X, NAMES)
    W = recorder.weights[0]
    assert all((b == 0).all() for b in W[1::2])
    if initializer == "zeros":
        assert all((w == 0).all() for w in W)
    elif initializer == "he_normal":
        wide = Recorder()
        classifier(kernel_initializer="he_normal", hidden_layer_sizes=(2000,), callbacks=[wide], max_iter=1).fit(
            X, NAMES
        )
        assert wide.weights[0][0].std() == pytest.approx(np.sqrt(2 / 13), rel=0.02)
    else:
        np.testing.assert_allclose(W[2].T @ W[2], np.eye(7), atol=1e-12)
    assert_equal(fitted, classifier(kernel_initializer=initializer).fit(X, NAMES))
    if initializer != "zeros":
        assert differ(fitted, classifier(kernel_initializer=initializer, random_state=9).fit(X, NAMES))
