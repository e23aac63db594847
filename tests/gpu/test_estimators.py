"""Fits of the estimators on a CPU and on a GPU are equal. With the fake CuPy the GPU is simulated."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
from helpers import internals
from helpers.messages import naming
from helpers.oracles import oracle

import gpunn

oracle("sklearn")
from scipy import sparse  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
RNG = np.random.default_rng(6)
X = RNG.normal(size=(60, 5))
LABELS = (X[:, 0] > 0).astype(int) + (X[:, 1] > 0.5)
NAMES = np.array(["ale", "bock", "cider"])[LABELS]
MULTI = np.stack([LABELS == 0, X[:, 2] > 0], axis=1).astype(int)
VALUES = X @ [1.0, -1.0, 0.5, 2.0, 0.0]
TWO = np.stack([VALUES, X[:, 0]], axis=1)
SMALL = {"hidden_layer_sizes": (7, 6), "max_iter": 4, "random_state": 2, "batch_size": 25}


def classifier(**parameters):
    return gpunn.MLPClassifier(**SMALL | parameters)


def regressor(**parameters):
    return gpunn.MLPRegressor(**SMALL | parameters)


FITS = {
    "adam": lambda d: classifier(device=d).fit(X, NAMES),
    "sgd": lambda d: classifier(device=d, solver="sgd", learning_rate="invscaling").fit(X, NAMES),
    "lbfgs": lambda d: classifier(device=d, solver="lbfgs").fit(X, NAMES),
    "stopping early": lambda d: classifier(device=d, early_stopping=True, n_iter_no_change=1).fit(X, NAMES),
    "two classes, weighted": lambda d: classifier(device=d, class_weight="balanced").fit(X, LABELS == 1),
    "multilabel": lambda d: classifier(device=d, activation=["gelu", "tanh"]).fit(X, MULTI),
    "dropout": lambda d: classifier(device=d, dropout=0.3, clipnorm=0.5).fit(X, NAMES, validation_data=(X, NAMES)),
    "sparse": lambda d: classifier(device=d).fit(sparse.csr_matrix(X * (X > 0)), NAMES),
    "regressor": lambda d: regressor(device=d).fit(X, TWO, sample_weight=abs(VALUES)),
    "poisson": lambda d: regressor(device=d, loss="poisson").fit(X, abs(VALUES)),
    "optimizer": lambda d: regressor(device=d, optimizer=gpunn.AdamW(0.01), loss="huber").fit(X, VALUES),
    "parts": lambda d: regressor(device=d).partial_fit(X, VALUES).partial_fit(X[:30], VALUES[:30]),
    "warm": lambda d: regressor(device=d, warm_start=True).fit(X, VALUES).fit(X, VALUES),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", FITS)
def test_cpu_and_gpu_fits_are_equal(cuda, case):
    here, there = (FITS[case](device) for device in ("cpu", "cuda"))
    assert (here.net_.device, there.net_.device) == ("cpu", "cuda:0")
    for a, b in zip(here.coefs_ + here.intercepts_, there.coefs_ + there.intercepts_, strict=True):
        assert type(b) is np.ndarray
        np.testing.assert_allclose(b, a, rtol=1e-9, atol=1e-12)
    for name in ("loss_", "loss_curve_", "validation_scores_", "validation_loss_curve_", "best_loss_", "n_iter_", "t_"):
        assert hasattr(here, name) == hasattr(there, name)
        if getattr(here, name, None) is not None:
            np.testing.assert_allclose(getattr(there, name), getattr(here, name), rtol=1e-9, err_msg=name)
    ask = "predict_proba" if hasattr(here, "predict_proba") else "predict"
    a, b = (getattr(e, ask)(X) for e in (here, there))
    assert type(b) is np.ndarray
    np.testing.assert_allclose(b, a, rtol=1e-9, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_gpu_arrays_are_accepted_and_returned(cuda, device):
    cupy = cuda
    put = cupy.asarray
    w = np.linspace(1, 2, len(X))
    fitted = classifier(device=device).fit(
        put(X), put(LABELS), sample_weight=put(w), validation_data=(put(X), put(LABELS))
    )
    plain = classifier(device=device).fit(X, LABELS, sample_weight=w, validation_data=(X, LABELS))
    np.testing.assert_array_equal(fitted.coefs_[0], plain.coefs_[0])
    assert isinstance(fitted.classes_, np.ndarray)
    assert fitted.validation_loss_curve_ == plain.validation_loss_curve_
    for ask in ("predict", "predict_proba", "predict_log_proba"):
        given, expected = getattr(fitted, ask)(put(X)), getattr(plain, ask)(X)
        assert isinstance(given, cupy.ndarray)
        np.testing.assert_array_equal(given.get(), expected)
        assert isinstance(expected, np.ndarray)
    assert fitted.score(put(X), put(LABELS), sample_weight=put(w)) == plain.score(X, LABELS, sample_weight=w)
    fitted.partial_fit(put(X), put(LABELS), sample_weight=put(w))
    plain.partial_fit(X, LABELS, sample_weight=w)
    np.testing.assert_array_equal(fitted.predict_proba(X), plain.predict_proba(X))


def test_string_labels_are_returned_as_numpy_strings(cuda):
    fitted = classifier(device="cuda").fit(cuda.asarray(X), NAMES)
    predicted = fitted.predict(cuda.asarray(X))
    assert isinstance(predicted, np.ndarray)
    np.testing.assert_array_equal(predicted, fitted.predict(X))
    assert isinstance(fitted.predict_proba(cuda.asarray(X)), cuda.ndarray)
    assert isinstance(classifier(device="cuda").fit(X, LABELS == 1).predict(cuda.asarray(X)), cuda.ndarray)


def test_regressor_accepts_and_returns_gpu_arrays(cuda):
    for y in (VALUES, TWO):
        fitted = regressor(device="cuda").fit(cuda.asarray(X), cuda.asarray(y))
        predicted = fitted.predict(cuda.asarray(X))
        assert isinstance(predicted, cuda.ndarray)
        np.testing.assert_array_equal(predicted.get(), fitted.predict(X))
        assert fitted.score(cuda.asarray(X), cuda.asarray(y)) == pytest.approx(fitted.score(X, y))


def test_weights_of_a_gpu_network_are_read_only_copies(cuda):
    fitted = classifier(device="cuda").fit(X, NAMES)
    before = fitted.predict_proba(X)
    with pytest.raises(ValueError, match="read-only"):
        fitted.coefs_[0][0, 0] = 1.0
    fitted.coefs_[0] = fitted.coefs_[0] + 1.0
    after = fitted.predict_proba(X)
    a = X
    for k, (W, b) in enumerate(zip(fitted.coefs_, fitted.intercepts_, strict=True)):
        a = a @ W + b
        a = np.maximum(a, 0) if k < 2 else np.exp(a - a.max(axis=1, keepdims=True))
    np.testing.assert_allclose(after, a / a.sum(axis=1, keepdims=True), rtol=1e-9)
    assert (after != before).any()


@pytest.mark.slow
def test_estimator_fitted_on_a_gpu_unpickles_without_one(cuda, tmp_path):
    fitted = [FITS[how]("cuda") for how in ("adam", "lbfgs", "stopping early", "dropout")]
    (tmp_path / "models.pickle").write_bytes(pickle.dumps((fitted, X)))
    # "auto" is the CPU if there is no GPU
    code = """
import sys
sys.modules["cupy"] = None
import pickle, warnings
import numpy as np
warnings.simplefilter("ignore")
with open(sys.argv[1], "rb") as file:
    models, X = pickle.load(file)
np.savez(sys.argv[2], *[model.predict_proba(X) for model in models], y=models[0].predict(X))
for model in models:
    assert model.net_.device == "cpu"
    assert model.coefs_[0].flags.writeable
    if model.solver != "lbfgs" and not model.early_stopping:
        model.set_params(device="auto").partial_fit(X, model.predict(X))
    model.set_params(device="cpu").fit(X, model.predict(X))
"""
    run = [sys.executable, "-c", code, str(tmp_path / "models.pickle"), str(tmp_path / "there.npz")]
    done = subprocess.run(run, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    there = np.load(tmp_path / "there.npz")
    for k, model in enumerate(fitted):
        np.testing.assert_allclose(there[f"arr_{k}"], model.predict_proba(X), rtol=1e-12)
    np.testing.assert_array_equal(there["y"], fitted[0].predict(X))


def test_partial_fit_moves_the_network_to_the_requested_device(cuda):
    moved, stayed = classifier(device="cuda").fit(X, NAMES), classifier(device="cpu").fit(X, NAMES)
    moved.set_params(device="cpu").partial_fit(X, NAMES)
    assert moved.net_.device == "cpu"
    stayed.partial_fit(X, NAMES)
    np.testing.assert_allclose(moved.predict_proba(X), stayed.predict_proba(X), rtol=1e-9)
    moved.coefs_[0][0, 0] += 1.0
    assert (moved.predict_proba(X) != stayed.predict_proba(X)).any()


def test_lower_precision_on_a_cpu_is_refused(cuda):
    for precision in ("tf32", "bf16"):
        with pytest.raises(ValueError, match=f"precision='{precision}'"):
            classifier(precision=precision, device="cpu").fit(X, NAMES)


def test_without_a_gpu_cuda_raises_and_auto_uses_the_cpu(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    internals.reset_device_choice(monkeypatch)
    fitted = classifier(device="auto").fit(X, NAMES)
    assert fitted.net_.device == "cpu"
    before = fitted.predict_proba(X)
    for call in ("fit", "partial_fit"):
        with pytest.raises(gpunn.DeviceError, match=naming("'cuda'", "Remedy")):
            getattr(fitted.set_params(device="cuda"), call)(X, NAMES)
        np.testing.assert_array_equal(fitted.predict_proba(X), before)
