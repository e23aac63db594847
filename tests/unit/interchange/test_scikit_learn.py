"""Conversion from and to scikit-learn: predictions are equal, and training continues where it stopped."""

import numpy as np
import pytest
from helpers.oracles import oracle

import gpunn

oracle("sklearn")
from sklearn import datasets, neural_network  # noqa: E402
from sklearn.exceptions import NotFittedError  # noqa: E402
from sklearn.linear_model import LogisticRegression  # noqa: E402
from sklearn.preprocessing import scale  # noqa: E402

from gpunn.interchange.scikit_learn import from_sklearn, to_sklearn  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
X, LABELS = datasets.load_wine(return_X_y=True)
X = scale(X)
TARGETS = {
    "multiclass": LABELS,
    "text": np.array(["ale", "bock", "cider"])[LABELS],
    "binary": LABELS == 1,
    "multilabel": np.stack([LABELS == 0, LABELS > 0], axis=1).astype(int),
}


def assert_equal_numbers(a, b):
    """Assert equality to rounding: the libraries multiply matrices in different orders."""
    np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12 * max(1, float(np.abs(b).max())))


@pytest.mark.parametrize("solver", ["sgd", "adam", "lbfgs"])
@pytest.mark.parametrize("targets", TARGETS)
def test_classifier_converts_both_ways(targets, solver):
    y = TARGETS[targets]
    fitted = neural_network.MLPClassifier((8, 6), "tanh", solver=solver, max_iter=15, random_state=0).fit(X, y)
    ours = from_sklearn(fitted)
    assert isinstance(ours, gpunn.MLPClassifier)
    assert_equal_numbers(ours.predict_proba(X), fitted.predict_proba(X))
    np.testing.assert_array_equal(ours.predict(X), fitted.predict(X))
    back = ours.to_sklearn()
    assert type(back) is neural_network.MLPClassifier
    np.testing.assert_array_equal(back.predict_proba(X), fitted.predict_proba(X))
    assert back.get_params() == fitted.get_params()


@pytest.mark.parametrize("loss", ["squared_error", "poisson"])
def test_regressor_converts_both_ways(loss):
    y = np.abs(np.stack([X[:, 0], X[:, 1] ** 2], axis=1))
    fitted = neural_network.MLPRegressor(loss, (7,), "logistic", max_iter=15, random_state=0).fit(X, y)
    ours = from_sklearn(fitted)
    assert_equal_numbers(ours.predict(X), fitted.predict(X))
    np.testing.assert_array_equal(ours.to_sklearn().predict(X), fitted.predict(X))


@pytest.mark.parametrize(
    "parameters",
    [{"solver": "adam"}, {"solver": "sgd", "learning_rate": "adaptive", "tol": 1.0, "n_iter_no_change": 1}],
    ids=["adam", "sgd"],
)
def test_training_continues_after_conversion(parameters):
    """The optimizer's slots, step and learning rate are converted, both ways."""
    theirs = neural_network.MLPClassifier((8,), "tanh", random_state=0, batch_size=50, max_iter=9, **parameters)
    theirs.fit(X, LABELS)
    rate = theirs._optimizer.learning_rate
    ours = from_sklearn(theirs)
    for _ in range(3):
        theirs.partial_fit(X, LABELS)
        ours.partial_fit(X, LABELS)
    for a, b in zip(ours.coefs_ + ours.intercepts_, theirs.coefs_ + theirs.intercepts_, strict=True):
        assert_equal_numbers(a, b)
    assert_equal_numbers(ours.loss_curve_, theirs.loss_curve_)
    back = ours.to_sklearn()
    for _ in range(3):
        theirs.partial_fit(X, LABELS)
        back.partial_fit(X, LABELS)
    for a, b in zip(back.coefs_, theirs.coefs_, strict=True):
        assert_equal_numbers(a, b)
    if parameters["solver"] == "sgd":
        assert rate < theirs.learning_rate_init


def test_conversion_copies_the_weights():
    fitted = neural_network.MLPClassifier((5,), max_iter=3, random_state=0).fit(X, LABELS)
    before = fitted.predict_proba(X)
    ours = from_sklearn(fitted)
    ours.partial_fit(X, LABELS)
    ours.coefs_[0][...] = 0
    np.testing.assert_array_equal(fitted.predict_proba(X), before)
    ours = from_sklearn(fitted)
    back = ours.to_sklearn()
    back.coefs_[0][...] = 0
    assert_equal_numbers(ours.predict_proba(X), before)


def test_from_sklearn_accepts_gpunns_parameters():
    fitted = neural_network.MLPClassifier((5,), max_iter=3, random_state=0).fit(X, LABELS)
    ours = from_sklearn(fitted, dropout=0.5, device="cpu")
    assert (ours.dropout, ours.device) == (0.5, "cpu")
    assert_equal_numbers(ours.predict_proba(X), fitted.predict_proba(X))


def test_networks_that_scikit_learn_lacks_are_refused():
    common = {"max_iter": 2, "random_state": 0, "hidden_layer_sizes": (5, 4)}
    for parameters, said in (
        ({"activation": "gelu"}, "activation must be one of .* in all hidden layers"),
        ({"activation": ["tanh", "relu"]}, "activation must be one of .* in all hidden layers"),
        ({"out_activation": "identity"}, "out_activation must be .*got 'identity'"),
    ):
        fitted = gpunn.MLPClassifier(**common, **parameters).fit(X, LABELS)
        with pytest.raises(ValueError, match=said):
            fitted.to_sklearn()
    huber = gpunn.MLPRegressor("huber", **common, out_activation="softplus").fit(X, LABELS)
    with pytest.raises(ValueError, match="got 'softplus'; save"):
        to_sklearn(huber)


def test_other_and_unfitted_estimators_are_refused():
    with pytest.raises(TypeError, match="got LogisticRegression"):
        from_sklearn(LogisticRegression())
    with pytest.raises(NotFittedError):
        from_sklearn(neural_network.MLPClassifier())
    with pytest.raises(NotFittedError):
        gpunn.MLPClassifier().to_sklearn()
    fitted = neural_network.MLPClassifier((5,), max_iter=3, random_state=0).fit(X, LABELS)
    with pytest.raises(ValueError, match="'dropout' parameter"):
        from_sklearn(fitted, dropout=2.0)
