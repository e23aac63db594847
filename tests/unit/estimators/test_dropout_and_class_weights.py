"""Dropout and class weights of the estimators, and two cases in which scikit-learn differs."""

import numpy as np
import pytest
from helpers.oracles import oracle

import gpunn

oracle("sklearn")
from helpers.wine_fits import (  # noqa: E402
    LABELS,
    MULTI,
    NAMES,
    SMALL,
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
from scipy.special import softmax  # noqa: E402
from sklearn import neural_network  # noqa: E402
from sklearn.utils.class_weight import compute_sample_weight  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

# --- dropout --------------------------------------------------------------------------------------------------------


def test_dropout_affects_training_but_not_prediction():
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


def test_equal_random_states_give_equal_dropout_masks():
    assert_equal(classifier(dropout=0.5).fit(X, LABELS), classifier(dropout=0.5).fit(X, LABELS))
    assert differ(classifier(dropout=0.5).fit(X, LABELS), classifier(dropout=0.5, random_state=4).fit(X, LABELS))


def test_rate_0_adds_no_dropout_layer():
    assert_equal(classifier().fit(X, LABELS), classifier(dropout=[0, 0.0]).fit(X, LABELS))
    assert [type(layer) for layer in classifier(dropout=0.0).fit(X, LABELS).net_.layers] == [gpunn.Dense] * 3


def test_dropout_rate_per_layer():
    fitted = regressor(dropout=(0.0, 0.25)).fit(X, VALUES)
    assert [repr(layer) for layer in fitted.net_.layers if isinstance(layer, gpunn.Dropout)] == ["Dropout(0.25)"]
    assert isinstance(fitted.net_.layers[2], gpunn.Dropout)
    assert_equal(regressor(dropout=0.25).fit(X, VALUES), regressor(dropout=[0.25, 0.25]).fit(X, VALUES))


@pytest.mark.parametrize("kind", ["classifier", "regressor"])
def test_dropout_equals_that_of_a_sequential(kind):
    recorder = Recorder()
    chosen = {"optimizer": gpunn.Nesterov(0.05, clipnorm=0.7), "shuffle": False, "alpha": 0.0, "callbacks": [recorder]}
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
    net.set_weights(recorder.weights[0])
    net.compile(gpunn.Nesterov(0.05, clipnorm=0.7), loss)
    history = net.fit(X, y, batch_size=50, epochs=4, shuffle=False, verbose=0)
    for a, b in zip(weights_of(fitted), net.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)
    if kind == "classifier":
        np.testing.assert_allclose(fitted.loss_curve_, history.history["loss"], rtol=1e-9)


# --- class weights --------------------------------------------------------------------------------------------------


WEIGHTS = {"ale": 3.0, "bock": 0.5, "cider": 1.0}


@pytest.mark.parametrize("solver", ["sgd", "adam", "lbfgs"])
@pytest.mark.parametrize("class_weight", ["balanced", WEIGHTS, {"ale": 2.0}])
def test_class_weights_equal_sample_weights(solver, class_weight):
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


def test_class_weights_in_partial_fit_with_missing_classes():
    """A batch may lack a class that has a weight, and have a class without one."""
    there, here = classifier(), classifier(class_weight={"ale": 2.0, "cider": 3.0})
    for rows in (LABELS < 2, LABELS > 0, LABELS == 1):
        weights = np.select([NAMES[rows] == "ale", NAMES[rows] == "cider"], [2.0, 3.0], 1.0)
        there.partial_fit(X[rows], NAMES[rows], sample_weight=weights, classes=["ale", "bock", "cider"])
        here.partial_fit(X[rows], NAMES[rows], classes=["ale", "bock", "cider"])
    assert_equal(there, here, rtol=1e-12)


def test_larger_class_weight_gives_more_predictions_of_the_class():
    y = (VALUES + np.random.default_rng(0).normal(size=len(X)) > 2).astype(int)
    found = [classifier(class_weight=w, max_iter=50).fit(X, y).predict(X).sum() for w in ({1: 0.05}, None, {1: 20.0})]
    assert found[0] < found[1] < found[2]


# --- differences from scikit-learn ----------------------------------------------------------------------------------


def test_batch_with_zero_weights_is_skipped():
    """The fit equals one without these rows; scikit-learn raises ZeroDivisionError."""
    weights = np.where((np.arange(len(X)) >= 50) & (np.arange(len(X)) < 100), 0.0, 1.0)
    there = regressor(shuffle=False).fit(X[weights > 0], VALUES[weights > 0])
    assert_equal(regressor(shuffle=False).fit(X, VALUES, sample_weight=weights), there, rtol=1e-12)


def test_warm_start_without_improvement_keeps_the_best_weights():
    fitted = classifier(early_stopping=True, warm_start=True, max_iter=10).fit(X, NAMES)
    fitted.best_validation_score_ = 2.0  # above every score
    before = weights_of(fitted)
    fitted.fit(X, NAMES)
    for got, wanted in zip(weights_of(fitted), before, strict=True):
        np.testing.assert_array_equal(got, wanted)
