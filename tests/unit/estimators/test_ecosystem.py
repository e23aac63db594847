"""The estimators with the rest of scikit-learn: pipelines, searches, ensembles, data frames, copies, threads, memory.

The oracle is scikit-learn's network in the same position, if possible.
"""

import copy
import pickle
import threading
import tracemalloc
import warnings

import numpy as np
import pytest
from helpers.array_protocols import OnlyDLPack
from helpers.oracles import oracle, strided_tensor

import gpunn

oracle("sklearn")
import joblib  # noqa: E402
import sklearn  # noqa: E402
from sklearn import base, datasets, ensemble, model_selection, multiclass, neural_network  # noqa: E402
from sklearn.calibration import CalibratedClassifierCV  # noqa: E402
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor  # noqa: E402
from sklearn.feature_extraction.text import TfidfVectorizer  # noqa: E402
from sklearn.inspection import permutation_importance  # noqa: E402
from sklearn.multioutput import MultiOutputRegressor  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import OneHotEncoder, StandardScaler, scale  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
X, LABELS = datasets.load_wine(return_X_y=True)
X = scale(X)
NAMES = np.array(["ale", "bock", "cider"])[LABELS]
VALUES = X @ np.linspace(-1, 1, 13) + np.sin(X[:, 0])
SMALL = {"hidden_layer_sizes": (6,), "max_iter": 8, "random_state": 3, "batch_size": 50, "learning_rate_init": 0.01}


def classifier(**parameters):
    return gpunn.MLPClassifier(**SMALL | parameters)


def regressor(**parameters):
    return gpunn.MLPRegressor(**SMALL | parameters)


def both(kind, **parameters):
    """Make scikit-learn's estimator and ours."""
    return [getattr(m, kind)(**SMALL | parameters) for m in (neural_network, gpunn)]


def frame():
    """A data frame with numeric columns and one of strings."""
    pd = pytest.importorskip("pandas")
    table = pd.DataFrame(X, columns=[f"x{k}" for k in range(13)])
    table["colour"] = np.where(X[:, 3] > 0, "red", "white")
    return table


# --- pipelines, searches, ensembles -------------------------------------------------------------------------------


def test_pipeline_with_column_transformer():
    table = frame()
    predictions = []
    for network in both("MLPClassifier"):
        columns = ColumnTransformer([("numbers", StandardScaler(), [f"x{k}" for k in range(13)]),
                                     ("words", OneHotEncoder(), ["colour"])])  # fmt: skip
        piped = make_pipeline(columns, network).fit(table, NAMES)
        predictions.append(piped.predict_proba(table))
    np.testing.assert_allclose(predictions[1], predictions[0], rtol=1e-6, atol=1e-9)


def test_sparse_text_features():
    texts = [f"{name} is a drink of {'malt' if name != 'cider' else 'apples'}" for name in NAMES]
    theirs, ours = (make_pipeline(TfidfVectorizer(), n).fit(texts, NAMES) for n in both("MLPClassifier"))
    np.testing.assert_allclose(ours.predict_proba(texts), theirs.predict_proba(texts), rtol=1e-6)


@pytest.mark.parametrize(("kind", "y"), [("MLPClassifier", NAMES), ("MLPRegressor", VALUES)])
def test_cross_validation_equals_scikit_learn(kind, y):
    theirs, ours = (model_selection.cross_val_score(n, X, y, cv=3) for n in both(kind))
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    theirs, ours = (model_selection.cross_val_predict(n, X, y, cv=3) for n in both(kind))
    if kind == "MLPClassifier":
        np.testing.assert_array_equal(ours, theirs)
    else:
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-9)


@pytest.mark.slow
def test_grid_search_in_two_processes():
    grid = {"alpha": [1e-4, 1.0], "activation": ["relu", "gelu"]}
    found = model_selection.GridSearchCV(classifier(), grid, cv=2, n_jobs=2).fit(X, NAMES)
    alone = model_selection.GridSearchCV(classifier(), grid, cv=2).fit(X, NAMES)
    np.testing.assert_array_equal(found.cv_results_["mean_test_score"], alone.cv_results_["mean_test_score"])
    np.testing.assert_array_equal(found.predict_proba(X), alone.predict_proba(X))
    assert found.best_params_ == alone.best_params_


def test_randomized_search_over_layers_and_dropout():
    space = {"hidden_layer_sizes": [(4,), (6,), 9], "dropout": [0.0, 0.2], "class_weight": [None, "balanced"],
             "optimizer": [None, gpunn.AdamW(0.01)], "learning_rate_init": [0.001]}  # fmt: skip
    search = model_selection.RandomizedSearchCV(
        classifier(), space, n_iter=6, cv=2, random_state=0, error_score="raise"
    )
    search.fit(X, NAMES)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.best_estimator_.get_params()["dropout"] in (0.0, 0.2)


def test_calibration():
    theirs, ours = (CalibratedClassifierCV(n, cv=2).fit(X, NAMES).predict_proba(X) for n in both("MLPClassifier"))
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)


def test_ensemble_meta_estimators():
    for make in (
        lambda n: ensemble.VotingClassifier([("a", n), ("b", base.clone(n).set_params(random_state=5))], voting="soft"),
        lambda n: ensemble.BaggingClassifier(n, n_estimators=3, random_state=0, max_features=0.8),
        lambda n: ensemble.StackingClassifier([("a", n)], cv=2),
        lambda n: ensemble.AdaBoostClassifier(n, n_estimators=2, random_state=0),
        lambda n: multiclass.OneVsRestClassifier(n),
        lambda n: multiclass.OneVsOneClassifier(n),
    ):
        theirs, ours = (make(n).fit(X, NAMES).predict(X) for n in both("MLPClassifier"))
        np.testing.assert_array_equal(ours, theirs)


def test_regressor_meta_estimators():
    for make, y in (
        (lambda n: TransformedTargetRegressor(n, transformer=StandardScaler()), VALUES * 100),
        (lambda n: MultiOutputRegressor(n), np.stack([VALUES, -VALUES], axis=1)),
        (lambda n: ensemble.BaggingRegressor(n, n_estimators=2, random_state=0), VALUES),
    ):
        theirs, ours = (make(n).fit(X, y).predict(X) for n in both("MLPRegressor"))
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-8)


def test_learning_curve_and_permutation_importance():
    theirs, ours = (
        model_selection.learning_curve(n, X, NAMES, cv=2, train_sizes=[0.5, 1.0], exploit_incremental_learning=True)
        for n in both("MLPClassifier", batch_size="auto")
    )
    for a, b in zip(theirs, ours, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-6)
    theirs, ours = (
        permutation_importance(n.fit(X, NAMES), X, NAMES, n_repeats=2, random_state=0).importances
        for n in both("MLPClassifier")
    )
    np.testing.assert_array_equal(ours, theirs)


# --- representation and parameters ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["MLPClassifier", "MLPRegressor"])
def test_estimators_are_instances_of_scikit_learn_classes(kind):
    theirs, ours = both(kind)
    assert isinstance(ours, type(theirs))
    assert base.is_classifier(ours) == base.is_classifier(theirs)
    assert base.is_regressor(ours) == base.is_regressor(theirs)
    assert repr(ours) == repr(theirs)
    assert ours.__sklearn_tags__() == theirs.__sklearn_tags__()


def test_html_representation():
    for estimator in (classifier(dropout=0.3), classifier(dropout=0.3).fit(X, NAMES), make_pipeline(classifier())):
        html = estimator._repr_html_()
        assert "MLPClassifier" in html
        assert "dropout" in html or "Pipeline" in html


def test_parameters_are_stored_unchanged():
    given = {
        "hidden_layer_sizes": [4, 3], "activation": ["relu", gpunn.activations.LeakyReLU(0.2)], "dropout": [0.1, 0.2],
        "class_weight": {"ale": 2}, "optimizer": gpunn.SGD(0.1), "callbacks": [gpunn.Callback()], "dtype": np.float32,
        "kernel_initializer": gpunn.initializers.HeNormal(), "random_state": np.random.RandomState(1), "clipnorm": 1,
    }  # fmt: skip
    estimator = gpunn.MLPClassifier(**given)
    assert all(estimator.get_params()[name] is value for name, value in given.items())
    estimator.set_params(clipnorm=None).fit(X, NAMES)
    assert all(getattr(estimator, name) is value for name, value in given.items() if name != "clipnorm")
    cloned = base.clone(estimator)
    assert not hasattr(cloned, "coefs_")
    assert repr(cloned.get_params()["activation"]) == repr(given["activation"])
    assert cloned.callbacks[0] is not given["callbacks"][0]
    cloned.fit(X, NAMES)


def test_clone_gives_the_same_fit():
    fitted = classifier(dropout=0.3, callbacks=[gpunn.Callback()]).fit(X, NAMES)
    np.testing.assert_array_equal(base.clone(fitted).fit(X, NAMES).predict_proba(X), fitted.predict_proba(X))


# --- copies -------------------------------------------------------------------------------------------------------


def _joblib(estimator, folder):
    joblib.dump(estimator, folder / "model.joblib")
    return joblib.load(folder / "model.joblib")


def _mapped(estimator, folder):
    joblib.dump(estimator, folder / "model.joblib")
    return joblib.load(folder / "model.joblib", mmap_mode="r")


COPIES = {
    "pickle": lambda e, folder: pickle.loads(pickle.dumps(e)),
    "oldest pickle": lambda e, folder: pickle.loads(pickle.dumps(e, protocol=2)),
    "deepcopy": lambda e, folder: copy.deepcopy(e),
    "joblib": _joblib,
    "joblib, mapped": _mapped,
}
FITS = {
    "adam": lambda: classifier(dropout=0.3).fit(X, NAMES),
    "sgd": lambda: classifier(solver="sgd", learning_rate="adaptive", tol=1.0, n_iter_no_change=1).fit(X, NAMES),
    "lbfgs": lambda: classifier(solver="lbfgs").fit(X, NAMES),
    "partial": lambda: classifier().partial_fit(X, NAMES, classes=np.unique(NAMES)),
    "stopped early": lambda: classifier(early_stopping=True, callbacks=[gpunn.Callback()]).fit(X, NAMES),
    "float32": lambda: classifier(dtype="float32").fit(X, NAMES),
    "replaced weights": lambda: _replaced(classifier().fit(X, NAMES)),
}


def _replaced(estimator):
    estimator.coefs_[0] = estimator.coefs_[0] + 1.0
    return estimator


@pytest.mark.slow
@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("fit", FITS)
def test_copies_predict_and_train_identically(how, fit, tmp_path):
    estimator = FITS[fit]()
    copied = COPIES[how](estimator, tmp_path)
    np.testing.assert_array_equal(copied.predict_proba(X), estimator.predict_proba(X))
    np.testing.assert_array_equal(copied.predict(X), estimator.predict(X))
    for name in ("classes_", "n_iter_", "loss_", "t_", "out_activation_", "n_features_in_"):
        assert np.array_equal(getattr(copied, name), getattr(estimator, name))
    for a, b in zip(copied.coefs_ + copied.intercepts_, estimator.coefs_ + estimator.intercepts_, strict=True):
        np.testing.assert_array_equal(a, b)
        assert not np.shares_memory(a, b)
    if fit not in ("lbfgs", "stopped early"):
        for _ in range(3):
            for e in (copied, estimator):
                e.partial_fit(X[:90], NAMES[:90])
        np.testing.assert_array_equal(copied.predict_proba(X), estimator.predict_proba(X))
        assert copied.loss_curve_ == estimator.loss_curve_
    for e in (copied, estimator):
        e.fit(X, NAMES)
    np.testing.assert_array_equal(copied.predict_proba(X), estimator.predict_proba(X))


def test_pickle_made_by_a_callback_is_usable():
    kept = []

    class Keep(gpunn.Callback):
        def on_epoch_end(self, epoch, logs=None):
            kept.append(pickle.dumps(estimator.set_params(callbacks=None)))

    estimator = classifier(callbacks=[Keep()], validation_fraction=0.2)
    estimator.fit(X, NAMES, validation_data=(X, NAMES))
    seen = pickle.loads(kept[3])
    np.testing.assert_array_equal(seen.predict_proba(X), classifier(max_iter=4).fit(X, NAMES).predict_proba(X))
    assert not {"_has_stepped", "_validation_data", "_resume", "_fit_lock"} & set(vars(seen))
    seen.fit(X, NAMES)


def test_pickle_contains_the_weights_once():
    wide = classifier(hidden_layer_sizes=(2000,), max_iter=1).fit(X, NAMES)
    weights = sum(a.nbytes for a in wide.coefs_ + wide.intercepts_)
    # θ, the gradient and Adam's two moments
    assert len(pickle.dumps(wide)) < 5.5 * weights


# --- frames -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_data_frame_column_names(library):
    table = pytest.importorskip(library)
    names = [f"x{k}" for k in range(13)]
    make = table.DataFrame if library == "pandas" else lambda a, columns: table.DataFrame(a, schema=columns)
    known, other = make(X, columns=names), make(X, columns=[n + "?" for n in names])
    results = []
    for network in both("MLPClassifier"):
        fitted = network.fit(known, table.Series(NAMES))
        if not hasattr(fitted, "feature_names_in_") and sklearn.__version__ < "1.9":
            pytest.skip(f"scikit-learn {sklearn.__version__} does not see the columns of {library}")
        assert fitted.feature_names_in_.tolist() == names
        with pytest.raises(ValueError, match="feature names should match") as refused:
            fitted.predict(other)
        with pytest.warns(UserWarning, match="does not have valid feature names") as warned:
            proba = fitted.predict_proba(X)
        np.testing.assert_array_equal(fitted.predict_proba(known), proba)
        assert isinstance(fitted.predict(known), np.ndarray)
        results.append((str(refused.value), str(warned[0].message), proba))
    assert results[0][:2] == results[1][:2]
    np.testing.assert_allclose(results[1][2], results[0][2], rtol=1e-6)


def test_data_frames_of_targets_weights_and_integers():
    pd = pytest.importorskip("pandas")
    y = pd.DataFrame({"a": VALUES, "b": -VALUES})
    whole = pd.DataFrame((X * 10).astype(int)).rename(columns=str)
    w = pd.Series(np.linspace(1, 2, len(X)))
    theirs, ours = (n.fit(whole, y, sample_weight=w).predict(whole) for n in both("MLPRegressor"))
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-8)


def test_set_output_pandas():
    table = frame().drop(columns="colour")
    piped = make_pipeline(StandardScaler(), classifier()).set_output(transform="pandas")
    assert piped.fit(table, NAMES)[-1].feature_names_in_.tolist() == list(table.columns)


def test_predicted_labels_have_the_type_of_the_given_labels():
    for y in (
        NAMES, NAMES.astype(object), LABELS, LABELS.astype("int8"), LABELS.astype(float), LABELS == 1,
        (LABELS == 1).tolist(), NAMES.tolist(), LABELS[:, None] == np.arange(3),
    ):  # fmt: skip
        theirs, ours = (n.fit(X, y) for n in both("MLPClassifier"))
        np.testing.assert_array_equal(ours.predict(X), theirs.predict(X))
        assert ours.predict(X).dtype == theirs.predict(X).dtype
        assert ours.classes_.dtype == theirs.classes_.dtype


def test_sample_weights_are_routed():
    w = np.where(LABELS == 0, 5.0, 0.5)
    with sklearn.config_context(enable_metadata_routing=True):
        scores = []
        for network in both("MLPClassifier"):
            network.set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
            search = model_selection.GridSearchCV(network, {"alpha": [0.1]}, cv=2)
            scores.append(search.fit(X, NAMES, sample_weight=w).best_score_)
        assert scores[1] == pytest.approx(scores[0], rel=1e-9)
        watched = classifier().set_fit_request(validation_data=True)
        piped = make_pipeline(watched).fit(X, NAMES, validation_data=(X, NAMES))
        assert len(piped[-1].validation_loss_curve_) == 8


class OnlyArray:
    """An array of another library with `__array__` only."""

    def __init__(self, array):
        self.array, self.shape = array, array.shape

    def __len__(self):
        return len(self.array)

    def __array__(self, dtype=None, copy=None):
        return np.array(self.array, dtype=dtype)


@pytest.mark.parametrize("of", [OnlyDLPack, OnlyArray, list], ids=["__dlpack__", "__array__", "lists"])
def test_arrays_of_other_libraries(of):
    w = np.linspace(1, 2, len(X))
    expected = classifier().fit(X, LABELS, sample_weight=w, validation_data=(X, LABELS, w))
    given = of(X.tolist() if of is list else X), of(LABELS), of(w)
    fitted = classifier().fit(*given, validation_data=given)
    np.testing.assert_array_equal(fitted.predict_proba(given[0]), expected.predict_proba(X))
    assert fitted.validation_loss_curve_ == expected.validation_loss_curve_
    assert isinstance(fitted.predict(given[0]), np.ndarray)
    assert fitted.score(*given) == expected.score(X, LABELS, w)


def _of_pandas(x):
    pandas = pytest.importorskip("pandas")
    return pandas.DataFrame(x) if x.ndim == 2 else pandas.Series(x)


HANDS = {
    "numpy": np.asarray,
    "pandas": _of_pandas,
    "torch": lambda x: oracle("torch").tensor(x),
    "torch, strided": strided_tensor,
    "torch, rows": lambda x: list(strided_tensor(x)),
}


@pytest.mark.parametrize("of_y", HANDS.values(), ids=HANDS)
@pytest.mark.parametrize("of_X", HANDS.values(), ids=HANDS)
def test_torch_tensors_give_the_same_fit(of_X, of_y):
    """X, y and weights as tensors or arrays give the same fit, bit for bit, and predictions are NumPy arrays."""
    w, seen = np.linspace(1, 2, len(X)), []
    for hand, hand_y in ((np.asarray, np.asarray), (of_X, of_y)):
        given, weights = hand(X), hand_y(w)
        results, scores = [], []
        for made, target in ((classifier(), LABELS), (regressor(), VALUES)):
            y = hand_y(target)
            made.fit(given, y, sample_weight=weights, validation_data=(given, y, weights))
            results += [made.coefs_[0], np.array(made.validation_loss_curve_), made.predict(given)]
            scores += [made.score(given, y), made.score(given, y, sample_weight=weights)]
            options = {"classes": hand_y(np.unique(target))} if target is LABELS else {}
            results.append(made.partial_fit(given, y, sample_weight=weights, **options).coefs_[0])
            if target is LABELS:
                results += [made.predict_proba(given), made.predict_log_proba(given), made.classes_]
        assert all(type(a) is np.ndarray for a in results)
        seen.append(([(a.dtype, a.tobytes()) for a in results], scores))
    assert seen[0] == seen[1]


def test_tensor_type_that_numpy_lacks_is_refused():
    torch = oracle("torch")
    half, fitted = torch.tensor(X).to(torch.bfloat16), regressor().fit(X, VALUES)
    for call, name in (
        (lambda: fitted.predict(half), "X"),
        (lambda: fitted.score(X, half[:, 0]), "y"),
        (lambda: fitted.fit(X, VALUES, sample_weight=half[:, 0]), "sample_weight"),
        (lambda: fitted.fit(X, VALUES, validation_data=(X, half[:, 0])), "validation_data: y"),
    ):
        with pytest.raises(TypeError, match=f"^{name}, of type Tensor.*BFloat16"):
            call()


# --- threads and memory -------------------------------------------------------------------------------------------


def test_concurrent_predictions():
    fitted = classifier(hidden_layer_sizes=(50, 50)).fit(X, NAMES)
    expected = [fitted.predict_proba(X[k:]) for k in range(8)]
    wrong = []

    def ask(k):
        for _ in range(30):
            if not np.array_equal(fitted.predict_proba(X[k:]), expected[k]):
                wrong.append(k)

    threads = [threading.Thread(target=ask, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_concurrent_fits_in_threads():
    makers = [classifier, regressor, lambda: classifier(dropout=0.2), lambda: classifier(solver="lbfgs")]
    targets = [NAMES, VALUES, LABELS, NAMES]
    alone = [make().fit(X, y).predict(X) for make, y in zip(makers, targets, strict=True)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        together = joblib.Parallel(n_jobs=4, backend="threading")(
            joblib.delayed(lambda make, y: make().fit(X, y).predict(X))(make, y)
            for make, y in zip(makers, targets, strict=True)
        )
    for a, b in zip(alone, together, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
@pytest.mark.parametrize("order", ["C", "F"])
def test_input_is_not_copied(order):
    rng = np.random.default_rng(0)
    table = np.asarray(rng.normal(size=(20_000, 60)), order=order)
    y = table[:, 0] > 0
    network = gpunn.MLPClassifier((4,), max_iter=1, batch_size=1000, random_state=0)
    calls = {
        "fit": lambda: network.fit(table, y),
        "early stopping": lambda: base.clone(network).set_params(early_stopping=True).fit(table, y),
        "partial_fit": lambda: network.partial_fit(table, y),
        "predict": lambda: network.predict(table),
    }
    for name, call in calls.items():
        call()
        tracemalloc.start()
        call()
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 0.4 * table.nbytes, (name, peak / table.nbytes)
