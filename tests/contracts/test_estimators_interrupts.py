"""Interrupted, diverging and concurrent fits: the weights of the last complete step are kept."""

import os
import signal
import threading
import time

import numpy as np
import pytest
from helpers.estimator_cases import (
    LABELS,
    SMALL,
    VALUES,
    AssertUnchanged,
    X,
    assert_raises,
)
from helpers.messages import naming
from helpers.oracles import oracle

import gpunn

oracle("sklearn")

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


class RaiseAtStep(gpunn.Callback):
    """Raise an error at a given call of a hook, and record the weights at that moment."""

    def __init__(self, error, hook="on_train_batch_end", after=5):
        self.error, self.hook, self.left = error, hook, after
        for name in ("on_train_batch_begin", "on_train_batch_end", "on_epoch_begin", "on_epoch_end"):
            setattr(self, name, self._called(name))

    def _called(self, name):
        def hook(*arguments):
            if name != self.hook:
                return
            self.left -= 1
            if self.left == 0:
                self.weights = self.model.get_weights()
                raise self.error

        return hook


def assert_usable_with_weights(estimator, weights):
    """Assert that the estimator has these weights, predicts with them, and can be trained further."""
    now = [a for pair in zip(estimator.coefs_, estimator.intercepts_, strict=True) for a in pair]
    for a, b in zip(now, weights, strict=True):
        np.testing.assert_array_equal(a, b)
    a = X
    for k, (W, b) in enumerate(zip(estimator.coefs_, estimator.intercepts_, strict=True)):
        a = a @ W + b
        a = np.maximum(a, 0) if k < len(estimator.coefs_) - 1 else a
    p = np.exp(a - a.max(axis=1, keepdims=True))
    np.testing.assert_allclose(estimator.predict_proba(X), p / p.sum(axis=1, keepdims=True), rtol=1e-9)
    assert estimator.loss_curve_[-1:] == estimator.history_.history.get("loss", [])[-1:]
    assert not {"_has_stepped", "_validation_data", "_resume"} & set(vars(estimator))
    if not estimator.early_stopping:
        estimator.partial_fit(X, LABELS)
        assert any((a != b).any() for a, b in zip(estimator.coefs_, weights[::2], strict=True))
    estimator.set_params(callbacks=None).fit(X, LABELS)


@pytest.mark.slow
@pytest.mark.parametrize("error", [RuntimeError("mine"), KeyboardInterrupt(), MemoryError("mine"), SystemExit(3)])
@pytest.mark.parametrize(
    ("hook", "after"),
    [("on_train_batch_end", 5), ("on_train_batch_begin", 6), ("on_epoch_end", 2), ("on_epoch_begin", 3)],
)
@pytest.mark.parametrize("early_stopping", [False, True])
def test_exception_in_a_callback_ends_the_fit_after_a_complete_step(error, hook, after, early_stopping):
    stumble = RaiseAtStep(error, hook, after)
    estimator = gpunn.MLPClassifier(
        callbacks=[stumble], random_state=1, early_stopping=early_stopping, validation_fraction=0.3, **SMALL
    )
    with pytest.raises(type(error)) as caught:
        estimator.fit(X, LABELS)
    assert caught.value is error
    assert_usable_with_weights(estimator, stumble.weights)


@pytest.mark.parametrize("hook", ["on_train_batch_begin", "on_epoch_begin"])
def test_exception_before_the_first_step_restores_the_estimator(hook, fitted):
    estimator = fitted["text"]
    estimator.set_params(callbacks=[RaiseAtStep(RuntimeError("mine"), hook, 1)])
    with AssertUnchanged(estimator), pytest.raises(RuntimeError, match="mine"):
        estimator.fit(X, LABELS)
    estimator.set_params(callbacks=None)


def test_interrupted_partial_fit_keeps_the_last_complete_step():
    stumble = RaiseAtStep(KeyboardInterrupt(), after=2)
    estimator = gpunn.MLPClassifier(random_state=1, callbacks=[stumble], **SMALL)
    with pytest.raises(KeyboardInterrupt):
        estimator.partial_fit(X, LABELS, classes=["ale", "bock", "cider"])
    assert_usable_with_weights(estimator, stumble.weights)


class SendSigint(gpunn.Callback):
    """Send this process a real SIGINT from another thread in the third epoch."""

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            self.thread = threading.Thread(target=self._send)
            self.thread.start()

    def _send(self):
        time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("early_stopping", [False, True])
def test_sigint_ends_the_fit_after_a_complete_step(early_stopping):
    interrupt = SendSigint()
    estimator = gpunn.MLPClassifier(
        callbacks=[interrupt], random_state=1, early_stopping=early_stopping, validation_fraction=0.3, tol=0,
        n_iter_no_change=np.inf, **SMALL | {"max_iter": 20_000},
    )  # fmt: skip
    with pytest.raises(KeyboardInterrupt):
        estimator.fit(X, LABELS)
    interrupt.thread.join()
    assert 2 <= estimator.n_iter_ < 20_000
    estimator.set_params(max_iter=3)
    assert_usable_with_weights(estimator, estimator.net_.get_weights())


def test_interrupted_lbfgs_keeps_the_best_weights():
    calls = []

    def loss(y, a):
        calls.append(1)
        if len(calls) == 9:
            raise KeyboardInterrupt
        return 0.5 * ((a - y) ** 2).sum(axis=1), a - y

    estimator = gpunn.MLPRegressor(loss=loss, solver="lbfgs", random_state=0, max_iter=50, alpha=0.0)
    with pytest.raises(KeyboardInterrupt):
        estimator.fit(X, VALUES)
    assert len(calls) == 9
    expected = 0.5 * np.mean((estimator.predict(X) - VALUES) ** 2)
    assert estimator.loss_ == pytest.approx(expected, rel=1e-12)
    begun = gpunn.MLPRegressor(random_state=0, max_iter=1, learning_rate_init=1e-300).fit(X, VALUES)
    assert expected < 0.5 * np.mean((begun.predict(X) - VALUES) ** 2)
    estimator.fit(X, VALUES)
    assert estimator.loss_ < expected


def test_lbfgs_interrupted_before_any_progress_restores_the_estimator(fitted):
    estimator = fitted["warm lbfgs"]

    def loss(y, a):
        raise KeyboardInterrupt

    before = estimator.get_params()
    estimator.set_params(loss=loss)
    with AssertUnchanged(estimator), pytest.raises(KeyboardInterrupt):
        estimator.fit(X, VALUES)
    estimator.set_params(**before)


def test_divergence_keeps_the_last_finite_weights():
    kept = []

    class Keep(gpunn.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            kept.append(self.model.get_weights())

    estimator = gpunn.MLPRegressor(
        hidden_layer_sizes=(), solver="sgd", learning_rate_init=1e60, momentum=0, random_state=0, callbacks=[Keep()]
    )
    with pytest.raises(ValueError, match=r"non-finite parameter weights.*training diverged.*learning rate") as caught:
        estimator.fit(X, VALUES)
    assert type(caught.value) is ValueError
    assert len(kept) > 2
    np.testing.assert_array_equal(estimator.coefs_[0], kept[-1][0])
    np.testing.assert_allclose(estimator.predict(X), X @ kept[-1][0][:, 0] + kept[-1][1], rtol=1e-12)
    assert estimator.n_iter_ == len(estimator.loss_curve_) == len(kept) - 1


def test_divergence_in_the_first_step_restores_the_estimator(fitted):
    estimator = fitted["regressor"]
    with AssertUnchanged(estimator):
        assert_raises(lambda: estimator.fit(X, VALUES * 1e300), ValueError, r"non-finite.*inputs or targets")


# --- concurrent fits ------------------------------------------------------------------------------------------------


def test_concurrent_fit_of_the_same_estimator_is_refused():
    began, go_on = threading.Event(), threading.Event()

    class Wait(gpunn.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            began.set()
            assert go_on.wait(20)

    estimator = gpunn.MLPClassifier(random_state=0, callbacks=[Wait()], **SMALL)
    thread = threading.Thread(target=lambda: estimator.fit(X, LABELS))
    thread.start()
    try:
        assert began.wait(20)
        for call in (
            lambda: estimator.fit(X, LABELS),
            lambda: estimator.partial_fit(X, LABELS),
        ):
            assert_raises(call, RuntimeError, naming("fit", "already", "clone"))
    finally:
        go_on.set()
        thread.join()
    expected = gpunn.MLPClassifier(random_state=0, **SMALL).fit(X, LABELS)
    np.testing.assert_array_equal(estimator.predict_proba(X), expected.predict_proba(X))
    estimator.fit(X, LABELS)


def test_callback_cannot_start_another_fit():
    class Again(gpunn.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            estimator.fit(X, LABELS)

    estimator = gpunn.MLPClassifier(random_state=0, callbacks=[Again()], **SMALL)
    assert_raises(lambda: estimator.fit(X, LABELS), RuntimeError, "fit is already running")
    estimator.set_params(callbacks=None).fit(X, LABELS)
