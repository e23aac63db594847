"""`MLPSearchCV` gives the results of scikit-learn's `GridSearchCV` over the same estimators, bit for bit on a CPU."""

import pickle
import warnings

import numpy as np
import pytest
from helpers.messages import naming
from helpers.oracles import oracle

import gpunn
from gpunn import backend

oracle("sklearn")
from sklearn.base import clone  # noqa: E402
from sklearn.datasets import load_digits  # noqa: E402
from sklearn.exceptions import FitFailedWarning, NotFittedError  # noqa: E402
from sklearn.model_selection import GridSearchCV, KFold, StratifiedKFold  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import StandardScaler  # noqa: E402
from sklearn.tree import DecisionTreeClassifier  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
RNG = np.random.default_rng(3)
X = RNG.normal(size=(67, 4))
LABELS = np.array(["ale", "bock", "cider"])[(X[:, 0] > 0).astype(int) + (X[:, 1] > 0.5)]
VALUES = np.stack([X[:, 0] - X[:, 1], X[:, 2]], axis=1)
FOLDS = KFold(3, shuffle=True, random_state=0)
SMALL = {"hidden_layer_sizes": (6,), "max_iter": 9, "random_state": 1, "batch_size": 20, "device": "cpu"}
TIMES = ("mean_fit_time", "std_fit_time", "mean_score_time", "std_score_time")


def classifier(**given):
    return gpunn.MLPClassifier(**SMALL | given)


def regressor(**given):
    return gpunn.MLPRegressor(**SMALL | given)


CASES = {
    "alpha": (classifier(), {"alpha": [1e-4, 0.1, 1.0]}, LABELS),
    "rates, seeds and dropout": (
        classifier(),
        [{"learning_rate_init": [0.001, 0.1], "random_state": [0, 4]}, {"dropout": [0.0, 0.5]}],
        LABELS,
    ),
    "other shapes": (classifier(), {"hidden_layer_sizes": [(3,), (8, 4)], "batch_size": [7, "auto"]}, LABELS),
    "solvers": (classifier(), {"solver": ["sgd", "adam", "lbfgs"], "activation": ["tanh", "relu"]}, LABELS),
    "sgd's rates": (
        classifier(solver="sgd", learning_rate_init=0.5, n_iter_no_change=1, max_iter=30, tol=0.5),
        {"learning_rate": ["constant", "invscaling", "adaptive"]},
        LABELS,
    ),
    "tolerance": (classifier(learning_rate_init=0.1, tol=0.02), {"n_iter_no_change": [1, 3], "max_iter": [60]}, LABELS),
    "early stopping": (classifier(early_stopping=True), {"n_iter_no_change": [1, 4], "alpha": [1e-4, 1]}, LABELS),
    "regressor": (regressor(), {"alpha": [1e-4, 0.1], "loss": ["squared_error", "huber"]}, VALUES),
    "ensembles": (regressor(), {"n_models": [1, 3]}, VALUES),
    "pipeline": (make_pipeline(StandardScaler(), classifier()), {"mlpclassifier__alpha": [1e-4, 1.0]}, LABELS),
}


def assert_same_results(ours, theirs):
    assert list(ours) == list(theirs)
    for name, values in theirs.items():
        if name not in TIMES:
            np.testing.assert_array_equal(ours[name], values, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_results_equal_grid_search_cv(case):
    estimator, grid, y = CASES[case]
    given = {"cv": FOLDS, "return_train_score": True}
    theirs = GridSearchCV(clone(estimator), grid, **given).fit(X, y)
    ours = gpunn.MLPSearchCV(clone(estimator), grid, n_jobs=2, **given).fit(X, y)
    assert_same_results(ours.cv_results_, theirs.cv_results_)
    assert ours.best_params_ == theirs.best_params_ and ours.best_index_ == theirs.best_index_
    assert ours.best_score_ == theirs.best_score_ and ours.score(X, y) == theirs.score(X, y)
    np.testing.assert_array_equal(ours.predict(X), theirs.predict(X))
    assert ours.n_concurrent_fits_ == 2


def test_results_equal_grid_search_cv_with_scikit_learn_networks():
    """`GridSearchCV` over scikit-learn's estimator, in float64 on a CPU without a tolerance."""
    from sklearn.neural_network import MLPClassifier

    digits, y = load_digits(return_X_y=True)
    digits, y = digits[:600] / 16, y[:600]
    same = {"hidden_layer_sizes": (16,), "max_iter": 5, "random_state": 0, "tol": 0.0, "n_iter_no_change": np.inf}
    grid, cv = {"alpha": [1e-5, 1e-2, 1.0]}, StratifiedKFold(3, shuffle=True, random_state=0)
    ours = gpunn.MLPSearchCV(gpunn.MLPClassifier(device="cpu", **same), grid, cv=cv).fit(digits, y)
    theirs = GridSearchCV(MLPClassifier(**same), grid, cv=cv).fit(digits, y)
    assert_same_results(ours.cv_results_, theirs.cv_results_)


def test_multimetric_scoring_and_refit():
    given = {"cv": FOLDS, "scoring": ["accuracy", "neg_log_loss"], "refit": "neg_log_loss"}
    theirs = GridSearchCV(classifier(), {"alpha": [1e-4, 5.0]}, **given).fit(X, LABELS)
    ours = gpunn.MLPSearchCV(classifier(), {"alpha": [1e-4, 5.0]}, **given).fit(X, LABELS)
    assert_same_results(ours.cv_results_, theirs.cv_results_)
    assert ours.multimetric_ and ours.best_params_ == theirs.best_params_
    np.testing.assert_array_equal(ours.predict_proba(X), theirs.predict_proba(X))
    assert list(ours.classes_) == ["ale", "bock", "cider"] and ours.n_features_in_ == 4


def test_refit_false():
    ours = gpunn.MLPSearchCV(classifier(), {"alpha": [1e-4]}, cv=FOLDS, refit=False).fit(X, LABELS)
    assert not hasattr(ours, "best_estimator_")
    with pytest.raises(AttributeError, match="predict"):
        ours.predict(X)


def test_sample_weights_reach_the_fits():
    w = RNG.uniform(0.1, 3, size=len(X))
    theirs = GridSearchCV(classifier(), {"alpha": [1e-4, 1.0]}, cv=FOLDS).fit(X, LABELS, sample_weight=w)
    ours = gpunn.MLPSearchCV(classifier(), {"alpha": [1e-4, 1.0]}, cv=FOLDS).fit(X, LABELS, sample_weight=w)
    assert_same_results(ours.cv_results_, theirs.cv_results_)


def test_slow_path_reason():
    grid = [
        {"alpha": [1e-4]},
        {"early_stopping": [True]},
        {"solver": ["lbfgs"]},
        {"callbacks": [[gpunn.TerminateOnNaN()]]},
    ]
    search = gpunn.MLPSearchCV(classifier(), grid, cv=FOLDS).fit(X, LABELS)
    assert search.slow_path_reason_[0] is None
    for said, word in zip(search.slow_path_reason_[1:], ("early_stopping", "lbfgs", "callbacks"), strict=True):
        assert word in said


def test_n_jobs_none_uses_the_backends_limit():
    search = gpunn.MLPSearchCV(classifier(), {"alpha": [1e-4]}, cv=FOLDS).fit(X, LABELS)
    assert search.n_concurrent_fits_ == backend.get("cpu").max_concurrent_fits()


def test_fits_on_a_simulated_gpu_run_one_after_another(fake_cupy):
    grid = {"alpha": [1e-4, 1.0]}
    there = gpunn.MLPSearchCV(classifier(device="cuda"), grid, cv=FOLDS).fit(X, LABELS)
    here = GridSearchCV(classifier(), grid, cv=FOLDS).fit(X, LABELS)
    assert there.n_concurrent_fits_ == 1
    np.testing.assert_allclose(there.cv_results_["mean_test_score"], here.cv_results_["mean_test_score"], rtol=1e-12)


def test_clone_pickle_and_cross_validation():
    search = gpunn.MLPSearchCV(classifier(), {"alpha": [1e-4, 1.0]}, cv=FOLDS)
    assert search.get_params(deep=False).keys() == GridSearchCV(classifier(), {}).get_params(deep=False).keys()
    copied = clone(search).set_params(estimator__max_iter=3)
    assert copied.estimator.max_iter == 3 and search.estimator.max_iter == 9
    with pytest.raises(NotFittedError):
        search.predict(X)
    search.fit(X, LABELS)
    again = pickle.loads(pickle.dumps(search))
    np.testing.assert_array_equal(again.predict(X), search.predict(X))
    assert again.best_params_ == search.best_params_


@pytest.mark.filterwarnings("ignore:One or more of the test scores are non-finite:UserWarning")
def test_failed_fits_are_scored_like_grid_search_cv():
    search = gpunn.MLPSearchCV(classifier(), {"dropout": [0.1, 1.5]}, cv=FOLDS)
    with pytest.warns(FitFailedWarning, match="3 fits failed out of a total of 6"):
        search.fit(X, LABELS)
    assert np.isnan(search.cv_results_["mean_test_score"][1]) and search.best_index_ == 0
    with pytest.raises(ValueError, match="dropout"):
        gpunn.MLPSearchCV(classifier(), {"dropout": [1.5]}, cv=FOLDS, error_score="raise").fit(X, LABELS)


def test_invalid_use_is_refused():
    with pytest.raises(TypeError, match=naming("estimator", "gpunn.MLPClassifier", "GridSearchCV")):
        gpunn.MLPSearchCV(DecisionTreeClassifier(), {"max_depth": [1]}).fit(X, LABELS)
    search = gpunn.MLPSearchCV(classifier(), {"colour": [1]}, cv=FOLDS)
    before = dict(vars(search))
    with pytest.raises(ValueError, match="colour"):
        search.fit(X, LABELS)
    assert not hasattr(search, "cv_results_") and not hasattr(search, "n_concurrent_fits_")
    assert {name: vars(search)[name] for name in before} == before
    with pytest.raises(ValueError, match="cv"):
        gpunn.MLPSearchCV(classifier(), {"alpha": [1]}, cv="five").fit(X, LABELS)


def test_warning_filters_are_restored():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="one of a kind")
        before = list(warnings.filters)
        gpunn.MLPSearchCV(classifier(), {"alpha": [1e-4, 1e-3]}, cv=FOLDS, n_jobs=2).fit(X, LABELS)
        assert warnings.filters == before
