"""`TabularClassifier` and `TabularRegressor` in scikit-learn's tools and checks, and without scikit-learn."""

import json

import numpy as np
import pytest
from helpers.oracles import oracle
from helpers.processes import run_python
from helpers.tabular_cases import LABELS, SIZE, TABLE, VALUES, N, classifier, output, regressor

import gpunn
from gpunn.tabular.sklearn_bases import BaseEstimator


def test_models_work_without_scikit_learn(tmp_path):
    script = (
        "import importlib.util, sys\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *more: None if name == 'sklearn' else find(name, *more)\n"
        "sys.modules['sklearn'] = None\n"
        "import gpunn\n"
        "table = {'x': [1.0, None, 3.0, 4.0] * 5, 'c': ['a', 'b', 'b', None] * 5}\n"
        "y = ['a', 'b', 'b', 'a'] * 5\n"
        "c = gpunn.TabularClassifier(n_networks=2)\n"
        "assert repr(c) == 'TabularClassifier(n_networks=2)', repr(c)\n"
        "try: c.predict(table)\n"
        "except (ValueError, AttributeError) as error: print(type(error).__name__)\n"
        "try: c.set_params(networks=3)\n"
        "except ValueError as error: print(error)\n"
        "c.set_params(random_state=1)\n"
        "assert c.get_params()['random_state'] == 1\n"
        "assert c.fit(table, y).predict(table).tolist() == y\n"
        "assert c.score(table, y) == 1 and c.score(table, y[::-1], [1.0] + [0] * 19) == 1\n"
        "r = gpunn.TabularRegressor(n_networks=2).fit(table, [1.0, 2, 2, 1] * 5)\n"
        "print(r.score(table, [1.0, 2, 2, 1] * 5) > 0.9)\n"
        "c.save(sys.argv[1])\n"
        "assert gpunn.load(sys.argv[1]).predict(table).tolist() == y\n"
        "assert not [name for name in sys.modules if name.startswith('sklearn.')]\n"
    )
    done = run_python(script, tmp_path / "m.safetensors")
    assert done.returncode == 0, done.stderr
    first, second, third = done.stdout.splitlines()
    assert first == "NotFittedError" and "n_networks" in second and "['networks']" in second
    assert third == "True"


def test_scores_without_scikit_learn_equal_its_scores():
    metrics = oracle("sklearn.metrics")
    script = (
        "import importlib.util, json, numpy as np\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *more: None if name == 'sklearn' else find(name, *more)\n"
        "from gpunn.tabular.sklearn_bases import ClassifierMixin, RegressorMixin\n"
        "class C(ClassifierMixin):\n    predict = staticmethod(lambda X: np.array([1, 0, 1, 1]))\n"
        "class R(RegressorMixin):\n    predict = staticmethod(lambda X: np.array([1.0, 2, 4, 4]))\n"
        "w = [1.0, 2, 3, 4]\n"
        "print(json.dumps([C().score(0, [1, 1, 1, 0]), C().score(0, [1, 1, 1, 0], w),\n"
        "    R().score(0, [1, 2, 3, 5.5]), R().score(0, [1, 2, 3, 5.5], w)]))\n"
    )
    w = [1.0, 2, 3, 4]
    found = json.loads(run_python(script).stdout)
    expected = [metrics.accuracy_score([1, 1, 1, 0], [1, 0, 1, 1], sample_weight=each) for each in (None, w)]
    expected += [metrics.r2_score([1, 2, 3, 5.5], [1, 2, 4, 4], sample_weight=each) for each in (None, w)]
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert BaseEstimator.__module__ == "sklearn.base"


def frame():
    return oracle("pandas").DataFrame(TABLE)


def test_cross_validation_of_a_pipeline_with_a_table():
    oracle("sklearn")
    from sklearn.model_selection import GridSearchCV, cross_val_predict, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer

    piped = make_pipeline(FunctionTransformer(lambda table: table.drop(columns="day")), classifier(n_networks=3))
    scores = cross_val_score(piped, frame(), LABELS, cv=3)
    assert scores.shape == (3,) and scores.min() > 0.5
    assert cross_val_score(regressor(), frame(), VALUES, cv=2, error_score="raise").max() > 0
    assert cross_val_predict(classifier(), frame(), LABELS, cv=2, method="predict_proba").shape == (N, 2)
    search = GridSearchCV(classifier(), {"n_networks": [1, 2]}, cv=2, error_score="raise").fit(frame(), LABELS)
    assert search.best_estimator_.n_networks in (1, 2) and output(search.best_estimator_, frame())


def test_calibration_and_voting():
    oracle("sklearn")
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.ensemble import VotingRegressor

    calibrated = CalibratedClassifierCV(classifier(), cv=2).fit(frame(), LABELS)
    proba = calibrated.predict_proba(frame())
    np.testing.assert_allclose(proba.sum(axis=1), 1)
    assert ((proba[:, 1] > 0.5) == (LABELS == "yes")).mean() > 0.7
    X = SIZE[:, None]
    voted = VotingRegressor([("a", regressor()), ("b", regressor(random_state=1))]).fit(X, VALUES)
    one, two = regressor().fit(X, VALUES), regressor(random_state=1).fit(X, VALUES)
    np.testing.assert_allclose(voted.predict(X), (one.predict(X) + two.predict(X)) / 2)


EXPECTED_FAILURES = {
    "check_sample_weight_equivalence_on_dense_data": "rows are drawn in mini-batches, where a repeated row is two rows",
    "check_methods_sample_order_invariance": "float32 rounds a row differently at another place in a block",
}


def _checks():
    oracle("sklearn")
    from sklearn.utils.estimator_checks import parametrize_with_checks

    models = [gpunn.TabularClassifier(n_networks=2), gpunn.TabularRegressor(n_networks=2)]
    return parametrize_with_checks(models, expected_failed_checks=lambda model: EXPECTED_FAILURES, xfail_strict=False)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@_checks()
def test_scikit_learn_estimator_checks_pass(estimator, check):
    check(estimator)
