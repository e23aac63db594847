"""Searches over estimators in Dask and Ray, with joblib's backends, give the same results as in this process."""

import os
import warnings

import numpy as np
import pytest
from helpers import ROOT
from helpers.oracles import oracle

oracle("sklearn")

import joblib  # noqa: E402
from sklearn.exceptions import ConvergenceWarning  # noqa: E402
from sklearn.model_selection import GridSearchCV, cross_val_score  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import StandardScaler  # noqa: E402

import gpunn  # noqa: E402

pytestmark = pytest.mark.slow

RNG = np.random.default_rng(2)
X = RNG.normal(size=(120, 5))
Y = (X[:, 0] * X[:, 1] > 0).astype(int)
GRID = {"mlpclassifier__alpha": [1e-4, 1e-1], "mlpclassifier__hidden_layer_sizes": [(4,), (8, 4)]}


@pytest.fixture
def worker_environment(monkeypatch):
    """Set the environment of worker processes: this checkout, the CPU, and no warnings."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("PYTHONWARNINGS", "ignore")
    monkeypatch.setenv("GPUNN_DEVICE", "cpu")
    with warnings.catch_warnings():
        # the libraries warn of sockets and versions, the fits of too few epochs
        warnings.simplefilter("ignore")
        yield


def search():
    """Return scores and best weights of a small grid search, and scores of a cross-validation."""
    warnings.simplefilter("ignore", ConvergenceWarning)
    model = make_pipeline(StandardScaler(), gpunn.MLPClassifier(max_iter=8, random_state=0))
    grid = GridSearchCV(model, GRID, cv=3, n_jobs=2).fit(X, Y)
    scores = cross_val_score(gpunn.MLPRegressor(max_iter=8, random_state=1), X, X[:, 0], cv=3, n_jobs=2)
    return grid.cv_results_["mean_test_score"], grid.best_params_, grid.best_estimator_[-1].coefs_, scores


def process_id():
    """The id of the process that runs a task."""
    return os.getpid()


def assert_same(found, wanted):
    np.testing.assert_array_equal(found[0], wanted[0])
    assert found[1] == wanted[1]
    for a, b in zip(found[2], wanted[2], strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(found[3], wanted[3])


def test_dask_cluster_gives_the_same_results(worker_environment):
    oracle("dask")
    distributed = oracle("distributed")
    with joblib.parallel_config(backend="threading", n_jobs=1):
        wanted = search()
    options = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
    with (
        distributed.LocalCluster(**options) as cluster,
        distributed.Client(cluster),
        joblib.parallel_config(backend="dask"),
    ):
        found = search()
        ran = set(joblib.Parallel()(joblib.delayed(process_id)() for _ in range(20)))
    assert os.getpid() not in ran
    assert_same(found, wanted)


def test_ray_gives_the_same_results(worker_environment):
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install ray")
    from ray.util.joblib import register_ray

    with joblib.parallel_config(backend="threading", n_jobs=1):
        wanted = search()
    register_ray()
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        with joblib.parallel_config(backend="ray"):
            found = search()
    finally:
        ray.shutdown()
    assert_same(found, wanted)
