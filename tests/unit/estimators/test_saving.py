"""Files of estimators: they contain the whole fitted state, without pickle, and tampered files are refused."""

import json
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
from helpers.oracles import oracle

import gpunn
from gpunn.training import checkpoint

oracle("sklearn")
from sklearn import datasets  # noqa: E402
from sklearn.exceptions import NotFittedError  # noqa: E402
from sklearn.preprocessing import scale  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
X, LABELS = datasets.load_wine(return_X_y=True)
X = scale(X)


def cubed(y, a):
    """A user-defined loss."""
    e = a - y
    return np.abs(e**3).sum(axis=1) / 3, e * np.abs(e)


CLASSIFIERS = {
    "defaults": ({}, LABELS),
    "text": ({}, np.array(["ä", "bb", "c c"])[LABELS]),
    "objects": ({}, np.array(["ä", "bb", "c c"], dtype=object)[LABELS]),
    "bool": ({}, LABELS == 1),
    "one class": ({}, np.zeros(len(X), int)),
    "multilabel": ({"solver": "sgd"}, np.stack([LABELS == 0, LABELS > 0], axis=1).astype(int)),
    "float classes": ({}, LABELS.astype(float)),
    "early stopping": ({"early_stopping": True, "n_iter_no_change": np.inf, "warm_start": True}, LABELS),
    "all of gpunn's": (
        {
            "hidden_layer_sizes": np.array([6, 5]),
            "activation": ["gelu", gpunn.activations.LeakyReLU(0.2)],
            "dropout": [0.1, 0.2],
            "class_weight": {0: 2.0, 1: 1.0, 2: 0.5},
            "kernel_initializer": gpunn.initializers.Orthogonal(),
            "optimizer": gpunn.AdamW(gpunn.schedules.StepDecay(0.01, 5)),
            "callbacks": [gpunn.Callback()],
            "dtype": np.float32,
            "random_state": np.random.RandomState(3),
        },
        LABELS,
    ),
    "logits": ({"out_activation": "identity"}, LABELS),
    "lbfgs": ({"solver": "lbfgs"}, LABELS),
    "own loss": ({"loss": cubed}, LABELS),
}
FITTED = (
    "coefs_ intercepts_ loss_ best_loss_ loss_curve_ validation_scores_ best_validation_score_ n_iter_ n_layers_ "
    "n_outputs_ out_activation_ t_ classes_ n_features_in_ feature_names_in_ validation_loss_curve_"
).split()


def assert_same_fitted(loaded, fitted):
    for name in FITTED:
        assert hasattr(loaded, name) == hasattr(fitted, name), name
        if hasattr(fitted, name):
            a, b = getattr(loaded, name), getattr(fitted, name)
            assert type(a) is type(b), name
            for x, y in zip(*((v if isinstance(v, list) else [v]) for v in (a, b)), strict=True):
                np.testing.assert_array_equal(x, y)
                assert np.asarray(x).dtype == np.asarray(y).dtype, name


@pytest.mark.parametrize("case", CLASSIFIERS)
def test_classifier_round_trip(case, tmp_path):
    parameters, y = CLASSIFIERS[case]
    fitted = gpunn.MLPClassifier(**{"max_iter": 4, "random_state": 0, "hidden_layer_sizes": (6,)} | parameters)
    fitted.fit(X, y)
    fitted.save(tmp_path / "c.safetensors")
    loaded = gpunn.load(tmp_path / "c.safetensors", custom={"cubed": cubed})
    assert type(loaded) is gpunn.MLPClassifier
    np.testing.assert_array_equal(loaded.predict_proba(X), fitted.predict_proba(X))
    np.testing.assert_array_equal(loaded.predict(X), fitted.predict(X))
    assert loaded.predict(X).dtype == fitted.predict(X).dtype
    assert_same_fitted(loaded, fitted)
    again = tmp_path / "again.safetensors"
    loaded.save(again)
    np.testing.assert_array_equal(gpunn.load(again, custom={"cubed": cubed}).predict_proba(X), fitted.predict_proba(X))
    for name, value in fitted.get_params(deep=False).items():
        kept = getattr(loaded, name)
        if name in ("callbacks",) or isinstance(value, np.random.RandomState):
            assert kept is None
        elif name == "dtype" and value is not None:
            assert np.dtype(kept) == np.dtype(value)
        else:
            assert repr(kept).replace("[6, 5]", "array([6, 5])") == repr(value) or kept == value


UNSUPPORTED_LABELS = {
    "days": np.array(["2020-01-01", "2021-01-01"], "datetime64[D]"),
    "seconds": np.array([1, 2], "timedelta64[s]"),
    "long doubles": np.array([1, 2], np.longdouble),
    "fractions": np.array([Fraction(1, 2), Fraction(1, 3)], object),
}


@pytest.mark.parametrize("kind", UNSUPPORTED_LABELS)
def test_unsupported_label_types_are_refused(kind, tmp_path):
    fitted = gpunn.MLPClassifier((4,), max_iter=2, random_state=0).fit(X, LABELS == 1)
    fitted.classes_ = UNSUPPORTED_LABELS[kind]
    with pytest.raises(TypeError, match=r"^classes_ cannot be saved: .*1"):
        fitted.save(tmp_path / "c.safetensors")
    assert not list(tmp_path.iterdir())


def test_unsupported_parameter_is_refused(tmp_path):
    fitted = gpunn.MLPClassifier((4,), max_iter=2, random_state=0).fit(X, LABELS)
    fitted.set_params(random_state=np.longdouble(1))
    with pytest.raises(TypeError, match=r"^random_state cannot be saved: .*1"):
        fitted.save(tmp_path / "c.safetensors")


@pytest.mark.parametrize("loss", ["squared_error", "poisson", "huber", gpunn.losses.Huber(0.5)])
@pytest.mark.parametrize("outputs", [1, 2])
def test_regressor_round_trip(loss, outputs, tmp_path):
    y = np.abs(X[:, :outputs]) if outputs > 1 else np.abs(X[:, 0])
    fitted = gpunn.MLPRegressor(loss, (5,), max_iter=3, random_state=0).fit(X, y)
    fitted.save(tmp_path / "r.safetensors")
    loaded = gpunn.load(tmp_path / "r.safetensors")
    np.testing.assert_array_equal(loaded.predict(X), fitted.predict(X))
    assert_same_fitted(loaded, fitted)


def test_feature_names_round_trip(tmp_path):
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(X, columns=[f"größe {k}" for k in range(X.shape[1])])
    fitted = gpunn.MLPClassifier((4,), max_iter=2, random_state=0).fit(frame, LABELS)
    fitted.save(tmp_path / "c.safetensors")
    loaded = gpunn.load(tmp_path / "c.safetensors")
    assert_same_fitted(loaded, fitted)
    with pytest.raises(ValueError, match="feature names should match"):
        loaded.predict(frame.rename(columns={"größe 0": "länge"}))


def test_loaded_estimator_can_be_trained(tmp_path):
    fitted = gpunn.MLPClassifier((4,), max_iter=30, random_state=0, learning_rate_init=0.01).fit(X, LABELS)
    fitted.save(tmp_path / "c.safetensors")
    loaded = gpunn.load(tmp_path / "c.safetensors")
    before = loaded.loss_
    for _ in range(20):
        loaded.partial_fit(X, LABELS)
    assert loaded.loss_ < before
    assert len(loaded.loss_curve_) == len(fitted.loss_curve_) + 20
    again = gpunn.load(tmp_path / "c.safetensors").set_params(warm_start=True, max_iter=5).fit(X, LABELS)
    assert len(again.loss_curve_) == len(fitted.loss_curve_) + 5


def test_parameters_set_after_the_fit_are_saved(tmp_path):
    fitted = gpunn.MLPClassifier((4,), max_iter=2, random_state=0).fit(X, LABELS)
    new = {"alpha": 1.0, "activation": "tanh", "hidden_layer_sizes": (7, 7), "dropout": 0.5, "solver": "lbfgs"}
    fitted.set_params(**new).save(tmp_path / "c.safetensors")
    loaded = gpunn.load(tmp_path / "c.safetensors")
    np.testing.assert_array_equal(loaded.predict_proba(X), fitted.predict_proba(X))
    assert {name: getattr(loaded, name) for name in new} == new


@pytest.mark.slow
def test_another_process_loads_the_file(tmp_path):
    fitted = gpunn.MLPClassifier((4,), max_iter=2, random_state=0).fit(X, LABELS)
    fitted.save(tmp_path / "c.safetensors")
    np.save(tmp_path / "X.npy", X)
    code = "import sys, numpy as np, gpunn; print(*gpunn.load(sys.argv[1]).predict(np.load(sys.argv[2])))"
    files = [str(tmp_path / name) for name in ("c.safetensors", "X.npy")]
    done = subprocess.run([sys.executable, "-c", code, *files], capture_output=True, text=True, check=True)
    np.testing.assert_array_equal(np.array(done.stdout.split(), int), fitted.predict(X))


def test_save_before_fit_is_refused(tmp_path):
    with pytest.raises(NotFittedError):
        gpunn.MLPClassifier().save(tmp_path / "c.safetensors")
    assert not list(tmp_path.iterdir())


def tampered_file(tmp_path, change):
    """Write a file with changed metadata and a valid digest."""
    gpunn.MLPClassifier((4,), max_iter=2, random_state=0).fit(X, LABELS).save(tmp_path / "c.safetensors")
    tensors, metadata = checkpoint.read(tmp_path / "c.safetensors")
    content = json.loads(metadata["estimator"])
    change(tensors, metadata, content)
    checkpoint.write(tmp_path / "bad.safetensors", tensors, metadata | {"estimator": json.dumps(content)})
    return tmp_path / "bad.safetensors"


def _set(where, name, value):
    return lambda tensors, metadata, content: content[where].update({name: value})


HOSTILE = {
    "no class": lambda t, m, content: m.pop("class"),
    "another class": lambda t, m, content: m.update({"class": "os.system"}),
    "a regressor": lambda t, m, content: m.update({"class": "MLPRegressor"}),
    "no such parameter": _set("parameters", "colour", "red"),
    "a parameter out of range": _set("parameters", "alpha", -1.0),
    "more layers": lambda t, m, content: content["fitted"]["dict"].append(["n_layers_", 4]),
    "another output": lambda t, m, content: content["fitted"]["dict"].append(["out_activation_", "logistic"]),
    "an unknown thing": _set("parameters", "activation", {"eval": "1"}),
    "two values": _set("parameters", "activation", {"loss": {}, "list": []}),
    "parameters as a list": lambda t, m, content: content.update({"parameters": []}),
    "no fitted": lambda t, m, content: content.pop("fitted"),
    "fitted of another name": lambda t, m, content: content["fitted"]["dict"].append(["__class__", "x"]),
    "fewer outputs": lambda t, m, content: content["fitted"]["dict"].append(["n_outputs_", 2]),
    "more inputs": lambda t, m, content: content["fitted"]["dict"].append(["n_features_in_", 14]),
    "two classes fewer": lambda t, m, content: content["fitted"]["dict"].append(
        ["classes_", {"dict": [["values", {"list": [0]}], ["dtype", "<i8"]]}]
    ),
    "an array less": lambda t, m, content: t.pop("layers.0.W"),
    "an array of another shape": lambda t, m, content: t.update({"layers.0.b": np.zeros(5)}),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_tampered_file_is_refused(case, tmp_path):
    path = tampered_file(tmp_path, HOSTILE[case])
    with pytest.raises(gpunn.CheckpointError) as caught:
        gpunn.load(path)
    assert len(str(caught.value)) > 20
