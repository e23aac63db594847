"""Validation data and callbacks of the estimators, and warm starts with other parameters."""

import warnings

import numpy as np
import pytest
from helpers.oracles import oracle

import gpunn

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
    regressor,
    weights_of,
)
from scipy.special import log_softmax  # noqa: E402
from sklearn.exceptions import ConvergenceWarning  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

# --- validation data ------------------------------------------------------------------------------------------------


def test_validation_loss_curve_by_hand():
    recorder = Recorder()
    train, validation = slice(0, None, 2), slice(1, None, 2)
    w = np.random.default_rng(0).uniform(0.5, 2, len(X[validation]))
    fitted = classifier(alpha=0.3, dropout=0.4, callbacks=[recorder])
    fitted.fit(X[train], NAMES[train], validation_data=(X[validation], NAMES[validation], w))
    expected = []
    for W in recorder.weights[1:]:
        a = np.maximum(np.maximum(X[validation] @ W[0] + W[1], 0) @ W[2] + W[3], 0)
        logs = log_softmax(a @ W[4] + W[5], axis=1)
        own = -logs[np.arange(len(w)), LABELS[validation]]
        expected.append(np.average(own, weights=w) + 0.15 * sum((k**2).sum() for k in W[::2]) / w.sum())
    np.testing.assert_allclose(fitted.validation_loss_curve_, expected, rtol=1e-10)
    assert fitted.validation_loss_curve_ == [logs["val_loss"] for logs in recorder.logs]
    assert fitted.history_.history == {"loss": fitted.loss_curve_, "val_loss": fitted.validation_loss_curve_}


@pytest.mark.parametrize("weighted", [False, True])
def test_validation_penalty_is_divided_by_the_total_weight(weighted):
    """½α ΣW²/Σw over 2500 rows, which are evaluated in several batches."""
    rng = np.random.default_rng(4)
    validation, y = rng.normal(size=(2500, 13)), rng.normal(size=2500)
    w = rng.uniform(0.5, 2, size=2500) if weighted else np.ones(2500)
    fitted = regressor(alpha=50.0, max_iter=2).fit(
        X, VALUES, validation_data=(validation, y, w) if weighted else (validation, y)
    )
    expected = np.average((fitted.predict(validation) - y) ** 2 / 2, weights=w)
    expected += 25.0 * sum((W**2).sum() for W in fitted.coefs_) / w.sum()
    assert fitted.validation_loss_curve_[-1] == pytest.approx(expected, rel=1e-10)


def test_validation_data_does_not_change_the_fit():
    plain = regressor().fit(X, TWO)
    watched = regressor().fit(X, TWO, validation_data=[X[:20], TWO[:20]])
    assert_equal(plain, watched)
    assert plain.validation_loss_curve_ is None
    net = watched.net_
    assert net.evaluate(X[:20], TWO[:20])["loss"] == pytest.approx(watched.validation_loss_curve_[-1], rel=1e-12)


@pytest.mark.parametrize("y", [LABELS == 1, MULTI, LABELS], ids=["two", "multilabel", "several"])
def test_validation_data_with_every_target_type(y):
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(X, columns=[f"x{k}" for k in range(13)])
    fitted = classifier().fit(frame, y, validation_data=(frame[:30], y[:30]))
    curve = classifier().fit(X, y, validation_data=(X[:30], y[:30])).validation_loss_curve_
    assert fitted.validation_loss_curve_ == curve
    assert len(set(curve)) == 4


def test_warm_start_extends_the_curves():
    estimator = regressor(warm_start=True).fit(X, VALUES)
    for k in range(2):
        curve = estimator.validation_loss_curve_
        kept = list(curve or [])
        estimator.fit(X, VALUES, validation_data=(X[:9], VALUES[:9]))
        assert estimator.validation_loss_curve_[: len(kept)] == kept
        assert len(estimator.validation_loss_curve_) == 4 * (k + 1)
        assert curve is None or curve == kept


def test_warm_start_with_another_solver_continues():
    """scikit-learn raises AttributeError or TypeError during each of these fits."""
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


# --- callbacks ------------------------------------------------------------------------------------------------------


def test_callbacks_get_the_network():
    recorder = Recorder()
    fitted = classifier(callbacks=(recorder,)).fit(X, NAMES)
    assert recorder.calls == ["train begins", 0, 1, 2, 3, "train ends"]
    assert recorder.model is fitted.net_
    assert recorder.params["epochs"] == 4
    assert recorder.params["steps"] == -(-len(X) // 50)
    assert [logs["loss"] for logs in recorder.logs] == fitted.loss_curve_
    for a, b in zip(recorder.weights[-1], weights_of(fitted), strict=True):
        np.testing.assert_array_equal(a, b)
    fitted.partial_fit(X, NAMES)
    assert recorder.calls[6:] == ["train begins", 0, "train ends"]


def test_callback_stops_the_fit():
    class Stop(gpunn.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = epoch == 1

    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        fitted = classifier(callbacks=[Stop()]).fit(X, NAMES)
    assert fitted.n_iter_ == 2
    assert_equal(fitted, classifier(max_iter=2).fit(X, NAMES))


@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_callback_sets_the_learning_rate(solver):
    class Slow(gpunn.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.rates = [*getattr(self, "rates", []), self.model.learning_rate]
            if epoch == 2:
                self.model.learning_rate = 1e-300

    slow, recorder = Slow(), Recorder()
    more = {"momentum": 0} if solver == "sgd" else {}
    classifier(solver=solver, callbacks=[slow, recorder], learning_rate_init=0.02, **more).fit(X, NAMES)
    assert slow.rates == [0.02, 0.02, 0.02, 1e-300]
    for a, b in zip(recorder.weights[2], recorder.weights[4], strict=True):
        np.testing.assert_array_equal(a, b)
    assert any((a != b).any() for a, b in zip(recorder.weights[1], recorder.weights[2], strict=True))


def test_early_stopping_callback_restores_the_best_weights():
    recorder = Recorder()
    stop = gpunn.EarlyStopping(monitor="val_loss", patience=3)
    fitted = regressor(callbacks=[recorder, stop], max_iter=500, learning_rate_init=0.03, batch_size=10)
    fitted.fit(X[:40], VALUES[:40], validation_data=(X[40:], VALUES[40:]))
    assert fitted.n_iter_ < 500
    best = int(np.argmin(fitted.validation_loss_curve_))
    for a, b in zip(weights_of(fitted), recorder.weights[best + 1], strict=True):
        np.testing.assert_array_equal(a, b)
    a = fitted.predict(X)
    np.testing.assert_array_equal(a, fitted.net_.predict(X)[:, 0])


def test_callback_can_predict_with_the_estimator():
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
