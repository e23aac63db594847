"""Fits of the estimators equal those of scikit-learn, in float64 on a CPU with the same random_state.

Rounding changes such fits by at most 1e-10 of the largest entry; the documentation guarantees 1e-6.
"""

import warnings

import numpy as np
import pytest
from helpers import internals, limits
from helpers.oracles import oracle

import gpunn

oracle("sklearn")
import sklearn  # noqa: E402
from scipy import sparse  # noqa: E402
from sklearn import datasets, neural_network  # noqa: E402
from sklearn.exceptions import ConvergenceWarning  # noqa: E402
from sklearn.preprocessing import scale  # noqa: E402

PROMISED = 1e-6
EPOCHS = 20
SOLVERS = ["sgd", "adam", "lbfgs"]
ACTIVATIONS = ["identity", "logistic", "tanh", "relu"]

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def table(name):
    return getattr(datasets, f"load_{name}")(return_X_y=True)


def pair(kind, **parameters):
    """Return scikit-learn's estimator and ours, with the same parameters."""
    return getattr(neural_network, f"MLP{kind}")(**parameters), getattr(gpunn, f"MLP{kind}")(**parameters)


def relative_difference(theirs, ours):
    """The largest difference, relative to the largest entry."""
    theirs, ours = np.asarray(theirs, dtype=float), np.asarray(ours, dtype=float)
    assert theirs.shape == ours.shape
    return float(np.abs(theirs - ours).max() / np.abs(theirs).max()) if theirs.size and np.abs(theirs).max() else 0.0


def assert_same(theirs, ours, X):
    for a, b in zip(theirs.coefs_ + theirs.intercepts_, ours.coefs_ + ours.intercepts_, strict=True):
        assert a.dtype == b.dtype
        assert relative_difference(a, b) < PROMISED
    for name in ("n_iter_", "t_", "n_layers_", "n_outputs_", "out_activation_", "n_features_in_"):
        assert getattr(theirs, name) == getattr(ours, name), name
    assert relative_difference(theirs.loss_, ours.loss_) < PROMISED
    for name in ("loss_curve_", "best_loss_", "validation_scores_", "best_validation_score_"):
        assert hasattr(theirs, name) == hasattr(ours, name), name
        a, b = getattr(theirs, name, None), getattr(ours, name, None)
        assert (a is None) == (b is None), name
        if a is not None:
            assert relative_difference(a, b) < PROMISED, name
    if hasattr(theirs, "classes_"):
        p = theirs.predict_proba(X), ours.predict_proba(X)
        assert relative_difference(*p) < PROMISED
        with np.errstate(divide="ignore"):
            np.testing.assert_array_equal(ours.predict_log_proba(X), np.log(p[1]))
        np.testing.assert_array_equal(theirs.classes_, ours.classes_)
        np.testing.assert_array_equal(theirs.predict(X), ours.predict(X))
    else:
        assert relative_difference(theirs.predict(X), ours.predict(X)) < PROMISED


def compare(kind, X, y, sample_weight=None, **parameters):
    theirs, ours = pair(kind, **{"max_iter": EPOCHS, "random_state": 0} | parameters)
    theirs.fit(X, y, sample_weight=sample_weight)
    ours.fit(X, y, sample_weight=sample_weight)
    assert np.isfinite(theirs.loss_), "the comparison says nothing"
    assert_same(theirs, ours, X)
    return theirs, ours


@pytest.mark.parametrize("early_stopping", [False, True], ids=["all rows", "early stopping"])
@pytest.mark.parametrize("weighted", [False, True], ids=["unweighted", "weighted"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("name", [pytest.param("digits", marks=pytest.mark.slow), "iris", "diabetes"])
def test_fit_equals_scikit_learn(name, solver, activation, weighted, early_stopping):
    X, y = table(name)
    w = np.random.default_rng(1).uniform(0.2, 2, len(X)) if weighted else None
    kind = "Regressor" if name == "diabetes" else "Classifier"
    # with scikit-learn's default rate, sgd diverges on the large targets of diabetes
    more = {"learning_rate_init": 1e-5} if solver == "sgd" and name == "diabetes" else {}
    compare(kind, X, y, w, solver=solver, activation=activation, early_stopping=early_stopping, **more)


@pytest.mark.parametrize("weighted", [False, True], ids=["unweighted", "weighted"])
@pytest.mark.parametrize("kind", ["Classifier", "Regressor"])
def test_lbfgs_in_several_blocks(monkeypatch, kind, weighted):
    """2500 rows are evaluated in three blocks, each with its weight."""
    limits.set(monkeypatch, "lbfgs_elements", 1)
    rng = np.random.default_rng(2)
    X = rng.normal(size=(2500, 4))
    # the blocks differ in their targets and in their weights
    values = X[:, 0] + np.linspace(-2, 2, 2500)
    w = rng.uniform(0.2, 1, 2500) * np.linspace(0.1, 3, 2500) if weighted else None
    y = (values > 0).astype(int) if kind == "Classifier" else values
    compare(kind, X, y, w, solver="lbfgs", hidden_layer_sizes=(5,), max_iter=10)


VARIANTS = {
    "invscaling": {"solver": "sgd", "learning_rate": "invscaling", "learning_rate_init": 0.1, "power_t": 0.3},
    "adaptive": {"solver": "sgd", "learning_rate": "adaptive", "learning_rate_init": 0.3, "n_iter_no_change": 1,
                 "tol": 0.05, "max_iter": 60},
    "adaptive with early stopping": {"solver": "sgd", "learning_rate": "adaptive", "learning_rate_init": 0.3,
                                     "n_iter_no_change": 1, "tol": 0.1, "max_iter": 60, "early_stopping": True},
    "plain momentum": {"solver": "sgd", "nesterovs_momentum": False, "momentum": 0.7},
    "no momentum": {"solver": "sgd", "momentum": 0.0},
    "all of the momentum": {"solver": "sgd", "momentum": 1.0, "learning_rate_init": 1e-4},
    "stops": {"solver": "adam", "tol": 0.05, "n_iter_no_change": 2, "max_iter": 200, "learning_rate_init": 0.01},
    "stops early": {"solver": "adam", "early_stopping": True, "n_iter_no_change": 2, "max_iter": 200,
                    "validation_fraction": 0.3},
    "never stops": {"n_iter_no_change": np.inf, "tol": 0.0},
    "as the rows stand": {"shuffle": False},
    "unshuffled, early stopping": {"shuffle": False, "early_stopping": True},
    "odd batches": {"batch_size": 37},
    "one batch": {"batch_size": 10_000},
    "no penalty": {"alpha": 0.0},
    "a heavy penalty": {"alpha": 30.0},
    "Adam's numbers": {"beta_1": 0.5, "beta_2": 0.9, "epsilon": 1e-3, "learning_rate_init": 0.01},
    "no first moment": {"beta_1": 0.0, "beta_2": 0.0},
    "two hidden layers": {"hidden_layer_sizes": (20, 15), "activation": "tanh"},
    "three, by lbfgs": {"hidden_layer_sizes": [8, 9, 10], "solver": "lbfgs", "activation": "logistic"},
    "no hidden layer": {"hidden_layer_sizes": ()},
    "a number for one layer": {"hidden_layer_sizes": 12},
    "a few evaluations": {"solver": "lbfgs", "max_fun": 7, "tol": 1e-9},
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Got `batch_size` less than 1 or larger")
@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("kind", ["Classifier", "Regressor"])
def test_variants(kind, name):
    X, y = table("wine") if kind == "Classifier" else table("diabetes")
    # scaled, so that every variant trains
    compare(kind, scale(X), y if kind == "Classifier" else scale(y), **VARIANTS[name])


def test_variants_reach_the_code_they_are_meant_for():
    X, y = table("wine")
    lengths = {}
    for name in ("stops", "stops early", "adaptive"):
        _, ours = compare("Classifier", scale(X), y, **VARIANTS[name])
        lengths[name] = ours.n_iter_
    assert lengths["stops"] < 200
    assert lengths["stops early"] < 200
    assert internals.optimizer_of(ours).learning_rate < 0.3


TARGETS = {
    "binary": ("Classifier", lambda y: y == 1),
    "text": ("Classifier", lambda y: np.array(["ale", "bock", "cider"])[y]),
    "objects": ("Classifier", lambda y: np.array(["ale", "bock", "cider"], dtype=object)[y]),
    "multilabel": ("Classifier", lambda y: np.stack([y == 0, y > 0, y == 2, y < 2], axis=1).astype(int)),
    "one column": ("Classifier", lambda y: y[:, None]),
    "gaps between numbers": ("Classifier", lambda y: y * 5 - 3),
    "two targets": ("Regressor", lambda y: np.stack([y, 2.0 - y * y], axis=1)),
    "three integer targets": ("Regressor", lambda y: np.stack([y, 2 - y, y * y], axis=1)),
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:A column-vector y was passed")
@pytest.mark.parametrize("early_stopping", [False, True], ids=["all rows", "early stopping"])
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("name", TARGETS)
def test_targets(name, solver, early_stopping):
    kind, of = TARGETS[name]
    if name in ("text", "objects") and early_stopping and solver != "lbfgs" and sklearn.__version__ < "1.9":
        pytest.skip(f"scikit-learn {sklearn.__version__} itself stumbles over text when it stops early")
    X, y = table("wine")
    w = np.random.default_rng(2).uniform(0.5, 3, len(X))
    compare(kind, scale(X), of(y), w, solver=solver, early_stopping=early_stopping)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("weighted", [False, True])
def test_poisson(solver, outputs, weighted):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 4))
    y = rng.poisson(np.exp(X[:, :outputs])).astype(float)
    w = rng.uniform(0.1, 1, 300) if weighted else None
    _, ours = compare("Regressor", X, y[:, 0] if outputs == 1 else y, w, loss="poisson", solver=solver)
    assert (ours.predict(X) > 0).all()


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["csr_matrix", "csc_matrix", "csr_array", "csc_array", "unsorted"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_sparse_tables(layout, solver):
    X, y = table("digits")
    if layout == "unsorted":
        # reversed indices in a row, and one entry stored as two summands
        whole = sparse.csr_matrix(X)
        whole.data, whole.indices = whole.data[::-1].copy(), whole.indices[::-1].copy()
        whole.indptr = whole.indptr[-1] - whole.indptr[::-1]
        S = sparse.csr_matrix((whole.data, whole.indices, whole.indptr), shape=X.shape)[::-1]
        X = S.toarray()
    else:
        S = getattr(sparse, layout)(X)
    before = S.copy()
    theirs, ours = pair("Classifier", max_iter=5, random_state=0, solver=solver, early_stopping=solver == "adam")
    theirs.fit(S, y)
    ours.fit(S, y)
    assert_same(theirs, ours, S)
    assert_same(theirs, ours, X)
    assert (before != S).nnz == 0


@pytest.mark.parametrize("kind", ["Classifier", "Regressor"])
def test_partial_fit_equals_scikit_learn(kind):
    X, y = table("wine")
    X = scale(X)
    rng = np.random.default_rng(0)
    for solver in ("sgd", "adam"):
        theirs, ours = pair(kind, solver=solver, random_state=0, hidden_layer_sizes=(9,), batch_size=16)
        for k in range(8):
            rows = rng.choice(len(X), 60, replace=False)
            w = rng.uniform(0.5, 2, 60) if k % 2 else None
            for estimator in (theirs, ours):
                more = {"classes": np.unique(y)} if kind == "Classifier" and k == 0 else {}
                estimator.partial_fit(X[rows], y[rows], sample_weight=w, **more)
            assert_same(theirs, ours, X)


@pytest.mark.parametrize("solver", SOLVERS)
def test_warm_start_equals_scikit_learn(solver):
    X, y = table("wine")
    theirs, ours = pair("Classifier", solver=solver, random_state=0, warm_start=True, max_iter=6)
    for _ in range(3):
        for estimator in (theirs, ours):
            estimator.fit(scale(X), y)
        assert_same(theirs, ours, scale(X))


def test_fit_and_partial_fit_alternate():
    X, y = table("wine")
    X = scale(X)
    theirs, ours = pair("Classifier", random_state=0, max_iter=4)
    for estimator in (theirs, ours):
        estimator.partial_fit(X, y, classes=[0, 1, 2]).fit(X, y).partial_fit(X[:50], y[:50])
    assert_same(theirs, ours, X)


def test_shared_generator_is_advanced_equally():
    """random_state is a generator: draws after the fit are equal."""
    X, y = table("iris")
    states = [np.random.RandomState(5), np.random.RandomState(5)]
    theirs, ours = (
        module.MLPClassifier(random_state=state, max_iter=3, early_stopping=True)
        for module, state in zip((neural_network, gpunn), states, strict=True)
    )
    for _ in range(2):
        theirs.fit(X, y)
        ours.fit(X, y)
        assert_same(theirs, ours, X)
    assert states[0].uniform() == states[1].uniform()


def test_float32_input_is_fitted_in_float32():
    X, y = table("wine")
    X = scale(X).astype(np.float32)
    theirs, ours = pair("Classifier", random_state=0, max_iter=5)
    theirs.fit(X, y)
    ours.fit(X, y)
    assert [c.dtype for c in ours.coefs_] == [c.dtype for c in theirs.coefs_] == [np.float32] * 2
    for a, b in zip(theirs.coefs_, ours.coefs_, strict=True):
        assert relative_difference(a, b) < 1e-4


def test_divergence_with_early_stopping_keeps_the_best_weights():
    X, y = table("iris")
    theirs, ours = pair(
        "Regressor", hidden_layer_sizes=100, activation="identity", solver="sgd", learning_rate_init=1, max_iter=20,
        early_stopping=True, random_state=0,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs.fit(X, y)
    with pytest.warns(ConvergenceWarning, match="best weights"):
        ours.fit(X, y)
    for a, b in zip(theirs.coefs_, ours.coefs_, strict=True):
        assert relative_difference(a, b) < PROMISED
    assert np.isnan(ours.validation_scores_[-1])


def test_verbose_output_equals_scikit_learn(capsys):
    X, y = table("iris")
    for more in ({}, {"early_stopping": True}, {"solver": "sgd", "learning_rate": "adaptive", "tol": 1.0}):
        printed = []
        for estimator in pair("Classifier", random_state=0, max_iter=15, verbose=True, n_iter_no_change=2, **more):
            estimator.fit(X, y)
            printed.append(capsys.readouterr().out)
        assert printed[0] == printed[1]
        assert "Iteration 1, loss = " in printed[0]
