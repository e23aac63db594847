"""A fit without callbacks runs several epochs per call of compiled code, and equals one with callbacks, bit for bit."""

import os
import signal
import threading

import numpy as np
import pytest
from helpers import internals, limits
from helpers.oracles import oracle

import gpunn

oracle("sklearn")

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
RNG = np.random.default_rng(5)
X = RNG.normal(size=(90, 4))
LABELS = (X[:, 0] > 0).astype(int) + (X[:, 1] > 0.5)
SMALL = {"hidden_layer_sizes": (6,), "random_state": 3, "batch_size": 25, "device": "cpu"}

CASES = {
    "all epochs": {"max_iter": 12},
    "tolerance": {"max_iter": 200, "tol": 0.01, "n_iter_no_change": 4, "learning_rate_init": 0.05},
    "as early as possible": {"max_iter": 200, "tol": 10.0, "n_iter_no_change": 1},
    "infinite patience": {"max_iter": 30, "tol": 0.0, "n_iter_no_change": np.inf},
    "adaptive rate": {
        "solver": "sgd", "learning_rate": "adaptive", "learning_rate_init": 0.5, "tol": 0.05, "n_iter_no_change": 2,
        "max_iter": 200,
    },
    "a schedule": {"optimizer": gpunn.SGD(gpunn.schedules.ExponentialDecay(0.5, 3, 0.9)), "max_iter": 9},
    "dropout and clipping": {"dropout": 0.4, "clipnorm": 0.1, "max_iter": 9},
    "no shuffling": {"shuffle": False, "max_iter": 9},
    "in float32": {"dtype": "float32", "max_iter": 20},
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("epochs_per_call", [64, 3])
def test_fused_epochs_equal_epochs_with_callbacks(case, epochs_per_call, monkeypatch):
    limits.set(monkeypatch, "epochs_at_once", epochs_per_call)
    given = SMALL | CASES[case]
    free = gpunn.MLPClassifier(**given).fit(X, LABELS)
    observed = gpunn.MLPClassifier(callbacks=[gpunn.Callback()], **given).fit(X, LABELS)
    assert internals.slow_path_reason(free) is None and internals.slow_path_reason(observed) == "callbacks"
    for a, b in zip(free.coefs_ + free.intercepts_, observed.coefs_ + observed.intercepts_, strict=True):
        np.testing.assert_array_equal(a, b)
    assert free.loss_curve_ == observed.loss_curve_ and free.n_iter_ == observed.n_iter_ and free.t_ == observed.t_
    assert free.history_.history == observed.history_.history and free.best_loss_ == observed.best_loss_
    # equal generators, so that later draws are equal too
    assert internals.generator(free).randint(10**6) == internals.generator(observed).randint(10**6)


def test_divergence_is_reported_with_its_epoch_and_step():
    given = SMALL | {"optimizer": gpunn.SGD(1e200), "max_iter": 30}
    for more in ({}, {"callbacks": [gpunn.Callback()]}):
        with pytest.raises(ValueError, match=r"non-finite parameter weights.*training diverged in epoch \d+, step \d+"):
            gpunn.MLPClassifier(**given, **more).fit(X, LABELS)


@pytest.mark.slow
def test_sigint_keeps_the_completed_steps():
    """The signal is real, and epochs run in compiled code."""
    clf = gpunn.MLPClassifier(**SMALL | {"max_iter": 10**7, "tol": 0.0, "n_iter_no_change": np.inf})
    timer = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        clf.fit(X, LABELS)
    timer.join()
    assert clf.n_iter_ == len(clf.loss_curve_) == len(clf.history_.epoch) > 1
    assert clf.loss_curve_[-1] < clf.loss_curve_[0] and np.isfinite(clf.predict_proba(X)).all()
    assert clf.n_iter_ <= internals.steps_taken(clf.net_) // 4 <= clf.n_iter_ + 1
