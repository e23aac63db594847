"""Fitted attributes of the estimators: ownership of arrays, and effects of changes."""

import contextlib

import numpy as np
import pytest
from helpers.oracles import oracle

import gpunn

oracle("sklearn")
from helpers.wine_fits import LABELS, NAMES, TWO, Recorder, X, classifier, regressor  # noqa: E402
from scipy.special import softmax  # noqa: E402
from sklearn.exceptions import ConvergenceWarning  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def test_network_and_history():
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
def test_changed_weights_are_used_for_prediction(kind):
    fitted = classifier().fit(X, NAMES) if kind == "classifier" else regressor().fit(X, TWO)
    ask = fitted.predict_proba if kind == "classifier" else fitted.predict

    def by_hand():
        a = X
        for k, (W, b) in enumerate(zip(fitted.coefs_, fitted.intercepts_, strict=True)):
            a = a @ W + b
            a = np.maximum(a, 0) if k < 2 else a
        return softmax(a, axis=1) if kind == "classifier" else a

    before = ask(X)
    fitted.coefs_[0][3, 2] += 1.0  # changed in place
    np.testing.assert_allclose(ask(X), by_hand(), rtol=1e-9)
    assert (ask(X) != before).any()
    fitted.intercepts_[1] = fitted.intercepts_[1] + 2.0  # an array is replaced
    np.testing.assert_allclose(ask(X), by_hand(), rtol=1e-9)
    fitted.coefs_ = [W / 2 for W in fitted.coefs_]  # all arrays are replaced
    np.testing.assert_allclose(ask(X), by_hand(), rtol=1e-9)
    fitted.coefs_[2] *= 0
    np.testing.assert_allclose(ask(X), by_hand(), rtol=1e-9)
    # training starts from them, too
    recorder, put = Recorder(), fitted.coefs_[1] + 1.0
    fitted.coefs_[1] = put.copy()
    fitted.set_params(callbacks=[recorder]).partial_fit(X, NAMES if kind == "classifier" else TWO)
    np.testing.assert_array_equal(recorder.weights[0][2], put)
    np.testing.assert_allclose(ask(X), by_hand(), rtol=1e-9)


def test_a_new_fit_does_not_change_earlier_arrays():
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


def test_predictions_are_owned_by_the_caller():
    fitted = regressor().fit(X, TWO)
    first = fitted.predict(X)
    copied = first.copy()
    fitted.predict(X[::-1])
    np.testing.assert_array_equal(first, copied)
    first[:] = 0
    np.testing.assert_array_equal(fitted.predict(X), copied)


def test_read_only_input_is_accepted():
    frozen = X.copy()
    frozen.flags.writeable = False
    y = NAMES.copy()
    y.flags.writeable = False
    w = np.ones(len(X))
    w.flags.writeable = False
    for more in ({}, {"solver": "lbfgs"}, {"early_stopping": True}, {"dtype": "float32"}):
        with contextlib.suppress(ConvergenceWarning):
            classifier(**more).fit(frozen, y, sample_weight=w).predict(frozen)
