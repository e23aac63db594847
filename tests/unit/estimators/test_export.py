"""Estimators exported to ONNX: onnxruntime returns what `predict` and `predict_proba` return."""

import numpy as np
import pytest
from helpers.oracles import oracle

import gpunn

oracle("sklearn")
oracle("onnx")
runtime = oracle("onnxruntime")
from sklearn import datasets  # noqa: E402
from sklearn.exceptions import NotFittedError  # noqa: E402
from sklearn.preprocessing import scale  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
X, LABELS = datasets.load_wine(return_X_y=True)
X = scale(X)
TARGETS = {
    "numbers": LABELS * 3 - 1,
    "text": np.array(["ale", "bock", "cider"])[LABELS],
    "objects": np.array(["ä", "", "c"], dtype=object)[LABELS],
    "binary": LABELS == 1,
    "binary text": np.array(["no", "yes"])[(LABELS == 1).astype(int)],
    "one class": np.full(len(X), 7),
    "multilabel": np.stack([LABELS == 0, LABELS > 0], axis=1).astype(int),
}


def answers(path, dtype, rows=slice(None)):
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(None, {"X": X[rows].astype(dtype)}), strict=True))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("targets", TARGETS)
def test_classifier_export(targets, dtype, tmp_path):
    y = TARGETS[targets]
    clf = gpunn.MLPClassifier((6, 5), activation=["tanh", "gelu"], max_iter=8, random_state=0, dtype=dtype).fit(X, y)
    clf.export(tmp_path / "c.onnx")
    for rows in (slice(None), slice(0, 1)):
        found = answers(tmp_path / "c.onnx", dtype, rows)
        wanted = clf.predict_proba(X[rows].astype(dtype))
        np.testing.assert_allclose(found["probabilities"].reshape(wanted.shape), wanted, atol=1e-5)
        np.testing.assert_array_equal(found["label"].astype(y.dtype), clf.predict(X[rows]))


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("loss", ["squared_error", "poisson"])
def test_regressor_export(loss, outputs, tmp_path):
    y = np.abs(X[:, 0] if outputs == 1 else X[:, :outputs])
    reg = gpunn.MLPRegressor(loss, (6,), max_iter=8, random_state=0, dtype="float32").fit(X, y)
    reg.export(tmp_path / "r.onnx")
    found = answers(tmp_path / "r.onnx", "float32")["variable"]
    np.testing.assert_allclose(found, reg.predict(X), rtol=1e-5, atol=1e-5)


def test_replaced_weights_are_exported(tmp_path):
    reg = gpunn.MLPRegressor(hidden_layer_sizes=(), max_iter=2, random_state=0).fit(X, LABELS)
    reg.coefs_[0] = np.zeros_like(reg.coefs_[0])
    reg.export(tmp_path / "r.onnx")
    np.testing.assert_allclose(answers(tmp_path / "r.onnx", "float64")["variable"], reg.intercepts_[0][0])


def test_export_before_fit_is_refused(tmp_path):
    with pytest.raises(NotFittedError):
        gpunn.MLPClassifier().export(tmp_path / "c.onnx")
    assert not list(tmp_path.iterdir())
