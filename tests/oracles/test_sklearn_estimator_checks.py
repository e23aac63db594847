"""scikit-learn's estimator checks, and its tests of its MLP estimators, run on gpunn's estimators."""

import inspect

import pytest
from helpers.oracles import oracle

import gpunn

oracle("sklearn")
import sklearn.neural_network.tests.test_mlp as theirs  # noqa: E402
from sklearn.utils.estimator_checks import parametrize_with_checks  # noqa: E402

# a list, since pytest deprecates generators here
CHECKS = parametrize_with_checks([gpunn.MLPClassifier(max_iter=100), gpunn.MLPRegressor(max_iter=100)])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(CHECKS.args[0], list(CHECKS.args[1]), **CHECKS.kwargs)
def test_scikit_learn_estimator_checks_pass(estimator, check):
    check(estimator)


@pytest.fixture
def global_random_seed():
    return 42


# these two call private methods that do not exist here; test_sklearn_same_fit.py and check_gradients cover the same
PRIVATE = {"test_fit", "test_gradient"}
TESTS = {
    name: test
    for name, test in vars(theirs).items()
    if name.startswith("test_") and inspect.isfunction(test) and name not in PRIVATE
}


def _arguments():
    """Every test of scikit-learn with every combination of its parameters."""
    for name, test in TESTS.items():
        cases = [{}]
        for mark in reversed(getattr(test, "pytestmark", [])):
            if mark.name != "parametrize":
                continue
            names, values = mark.args[:2]
            names = [n.strip() for n in names.split(",")] if isinstance(names, str) else list(names)
            rows = [value if len(names) > 1 else (value,) for value in values]
            cases = [case | dict(zip(names, row, strict=True)) for case in cases for row in rows]
        for k, case in enumerate(cases):
            yield pytest.param(name, case, id=f"{name}-{k}" if len(cases) > 1 else name)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "case"), list(_arguments()))
def test_scikit_learn_mlp_tests_pass(name, case, monkeypatch, request):
    monkeypatch.setattr(theirs, "MLPClassifier", gpunn.MLPClassifier)
    monkeypatch.setattr(theirs, "MLPRegressor", gpunn.MLPRegressor)
    test = TESTS[name]
    fixtures = {n: request.getfixturevalue(n) for n in inspect.signature(test).parameters if n not in case}
    given = {k: getattr(gpunn, v.__name__, v) if inspect.isclass(v) else v for k, v in case.items()}
    test(**given, **fixtures)
