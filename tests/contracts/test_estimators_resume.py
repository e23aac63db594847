"""Resumed fits of estimators: weights, curves and scores equal those of uninterrupted fits, bit for bit."""

import subprocess
import sys

import numpy as np
import pytest
from helpers.messages import naming
from helpers.oracles import oracle

import gpunn

oracle("sklearn")
from sklearn import datasets  # noqa: E402
from sklearn.preprocessing import scale  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
X, LABELS = datasets.load_wine(return_X_y=True)
X = scale(X)
EPOCHS, STOP = 12, 7
CURVES = (
    "loss_curve_ validation_scores_ validation_loss_curve_ loss_ best_loss_ best_validation_score_ n_iter_ t_".split()
)


class StopAt(gpunn.Callback):
    """Raise KeyboardInterrupt at the beginning of an epoch."""

    passive = True

    def __init__(self, epoch, batch=None):
        self.epoch, self.batch = epoch, batch

    def on_epoch_begin(self, epoch, logs=None):
        self.now = epoch
        if epoch == self.epoch and self.batch is None:
            raise KeyboardInterrupt


class StopInEpoch(StopAt):
    """Raise KeyboardInterrupt after a batch of an epoch."""

    def on_train_batch_end(self, batch, logs=None):
        if (self.now, batch) == (self.epoch, self.batch):
            raise KeyboardInterrupt


CASES = {
    "adam": {},
    "early stopping": {"early_stopping": True},
    "momentum": {"solver": "sgd", "nesterovs_momentum": False},
    "adaptive": {"solver": "sgd", "learning_rate": "adaptive", "tol": 1.0, "n_iter_no_change": 2},
    "invscaling": {"solver": "sgd", "learning_rate": "invscaling", "learning_rate_init": 0.1},
    "dropout": {"dropout": [0.2, 0.4], "hidden_layer_sizes": (9, 8)},
    "without shuffling": {"shuffle": False, "early_stopping": True},
    "a schedule": {"optimizer": gpunn.RMSprop(gpunn.schedules.StepDecay(0.01, 7))},
    "float32": {"dtype": "float32", "class_weight": "balanced"},
    "one layer": {"hidden_layer_sizes": ()},
}


def fitted(parameters, callbacks, resume=None, kind="Classifier"):
    estimator = getattr(gpunn, f"MLP{kind}")(
        **{"max_iter": EPOCHS, "batch_size": 50, "random_state": 0, "hidden_layer_sizes": (9,)} | parameters,
        callbacks=callbacks,
    )
    stopped = any(isinstance(c, StopAt) for c in callbacks)
    data = {"validation_data": (X[:30], LABELS[:30]), "resume": resume}
    if stopped:
        with pytest.raises(KeyboardInterrupt):
            estimator.fit(X, LABELS, **data)
    else:
        estimator.fit(X, LABELS, **data)
    return estimator


def assert_same_fit(a, b):
    for x, y in zip(a.coefs_ + a.intercepts_, b.coefs_ + b.intercepts_, strict=True):
        np.testing.assert_array_equal(x, y)
    for name in CURVES:
        assert getattr(a, name) == getattr(b, name), name
    assert a.history_.history == b.history_.history


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["Classifier", "Regressor"])
@pytest.mark.parametrize("case", CASES)
def test_resumed_fit_equals_an_uninterrupted_fit(case, kind, tmp_path):
    parameters, path = CASES[case], tmp_path / "run.safetensors"
    if kind == "Regressor":
        parameters = {k: v for k, v in parameters.items() if k != "class_weight"}
    whole = fitted(parameters, [], kind=kind)
    stopped = fitted(parameters, [gpunn.ModelCheckpoint(path), StopInEpoch(STOP, 1)], kind=kind)
    assert stopped.n_iter_ == STOP
    stopped.predict(X)
    resumed = fitted(parameters, [gpunn.ModelCheckpoint(path)], resume=path, kind=kind)
    assert_same_fit(resumed, whole)
    assert_same_fit(fitted(parameters, [], resume=path, kind=kind), whole)


def _changed(array):
    """Copy an array with another value in the last row."""
    array = np.array(array)
    array[-1] = array[0]
    return array


WEIGHTS = np.linspace(0.5, 2, len(X))
OTHERS = {
    "X": (r"training data\.X", {"X": X + 1}),
    "the last row of X": (r"training data\.X", {"X": _changed(X)}),
    "y": (r"training data\.y", {"y": (LABELS + 1) % 3}),
    "the last row of y": (r"training data\.y", {"y": _changed(LABELS)}),
    "sample_weight": (r"training data\.sample_weight", {"sample_weight": _changed(WEIGHTS)}),
    "class_weight": (r"training data\..*class_weight", {"class_weight": {0: 1.0, 1: 2.0, 2: 4.0}}),
    "X of validation_data": (r"validation data\.X", {"validation_data": (X[:30] + 1, LABELS[:30])}),
}


@pytest.mark.parametrize("name", OTHERS)
def test_resume_with_changed_data_is_refused(name, tmp_path):
    path = tmp_path / "run.safetensors"

    def fit(callbacks, X=X, y=LABELS, sample_weight=WEIGHTS, class_weight="balanced", **options):
        classifier = gpunn.MLPClassifier(
            (9,), max_iter=EPOCHS, batch_size=50, random_state=0, class_weight=class_weight, callbacks=callbacks
        )
        options = {"validation_data": (X[:30], LABELS[:30]), **options}
        return classifier.fit(X, y, sample_weight=sample_weight, resume=path, **options)

    whole = fit([gpunn.ModelCheckpoint(path)])
    path.unlink()
    with pytest.raises(KeyboardInterrupt):
        fit([gpunn.ModelCheckpoint(path), StopAt(STOP)])
    match, other = OTHERS[name]
    with pytest.raises(gpunn.CheckpointError, match=match):
        fit([], **other)
    assert_same_fit(fit([]), whole)


@pytest.mark.parametrize("of", [np.int64, np.uint8])
def test_numpy_integers_equal_python_integers_in_a_checkpoint(of, tmp_path):
    path = tmp_path / "run.safetensors"
    sizes = {"batch_size": 50, "max_iter": EPOCHS, "hidden_layer_sizes": (9,), "n_iter_no_change": 10}
    whole = fitted(sizes, [])
    given = {name: (of(size[0]),) if name == "hidden_layer_sizes" else of(size) for name, size in sizes.items()}
    fitted(given, [gpunn.ModelCheckpoint(path), StopAt(STOP)])
    assert_same_fit(fitted(given, [], resume=path), whole)
    assert_same_fit(fitted(sizes, [], resume=path), whole)


def test_resuming_a_fit_that_stopped_early_trains_no_further(tmp_path):
    """The checkpoint is of the last epoch."""
    parameters = {"early_stopping": True, "n_iter_no_change": 1, "tol": 0.5, "max_iter": 40}
    path = tmp_path / "run.safetensors"
    whole = fitted(parameters, [gpunn.ModelCheckpoint(path)])
    assert whole.n_iter_ < 40
    assert_same_fit(fitted(parameters, [], resume=path), whole)


@pytest.mark.parametrize("parameters", [{"dropout": 0.3}, {"early_stopping": True}, {"shuffle": False}])
def test_without_random_state_the_checkpoint_restores_the_generator(parameters, tmp_path):
    """Weights, split, seed and shuffles are equal, although the global generator has another state."""
    parameters, path = {"random_state": None, **parameters}, tmp_path / "run.safetensors"
    global_state = np.random.get_state()
    try:
        np.random.seed(3)
        whole = fitted(parameters, [])
        np.random.seed(3)
        fitted(parameters, [gpunn.ModelCheckpoint(path), StopAt(STOP)])
        np.random.seed(4)
        assert_same_fit(fitted(parameters, [], resume=path), whole)
    finally:
        np.random.set_state(global_state)


@pytest.mark.slow
def test_another_process_resumes(tmp_path):
    path = tmp_path / "run.safetensors"
    whole = fitted({"dropout": 0.2}, [])
    fitted({"dropout": 0.2}, [gpunn.ModelCheckpoint(path), StopAt(STOP)])
    np.savez(tmp_path / "data.npz", X=X, y=LABELS)
    code = (
        "import sys, warnings, numpy as np, gpunn\n"
        "warnings.simplefilter('ignore')\n"
        "data = np.load(sys.argv[2])\n"
        f"clf = gpunn.MLPClassifier((9,), max_iter={EPOCHS}, batch_size=50, random_state=0, dropout=0.2)\n"
        "clf.fit(data['X'], data['y'], validation_data=(data['X'][:30], data['y'][:30]), resume=sys.argv[1])\n"
        "clf.save(sys.argv[3])\n"
    )
    files = [str(path), str(tmp_path / "data.npz"), str(tmp_path / "out.safetensors")]
    subprocess.run([sys.executable, "-c", code, *files], check=True)
    there = gpunn.load(files[2])
    for x, y in zip(there.coefs_ + there.intercepts_, whole.coefs_ + whole.intercepts_, strict=True):
        np.testing.assert_array_equal(x, y)
    assert there.loss_curve_ == whole.loss_curve_


def test_load_opens_a_checkpoint_as_the_estimator_of_that_epoch(tmp_path):
    path = tmp_path / "run-{epoch}.safetensors"
    fitted({}, [gpunn.ModelCheckpoint(path), StopAt(STOP)])
    there = gpunn.load(tmp_path / f"run-{STOP}.safetensors")
    assert type(there) is gpunn.MLPClassifier
    short = fitted({"max_iter": STOP}, [])
    np.testing.assert_array_equal(there.predict_proba(X), short.predict_proba(X))
    np.testing.assert_array_equal(there.classes_, short.classes_)
    assert there.loss_curve_ == short.loss_curve_


def test_resume_without_a_file_starts_from_scratch(tmp_path):
    path = tmp_path / "none.safetensors"
    with pytest.warns(UserWarning, match="no callback writes it") as found:
        classifier = fitted({}, [], resume=path)
    assert [w.filename for w in found if "callback" in str(w.message)] == [__file__]
    assert_same_fit(classifier, fitted({}, []))
    assert_same_fit(fitted({}, [gpunn.ModelCheckpoint(path)], resume=path), classifier)


REFUSED = {
    "other layers": ({"hidden_layer_sizes": (8,)}, naming("another fit", "layers")),
    "another rule": ({"solver": "sgd"}, naming("another fit", "optimizer")),
    "another rate": ({"learning_rate_init": 0.5}, naming("another fit", "optimizer")),
    "another penalty": ({"alpha": 0.5}, naming("another fit", "layers")),
    "another batch": ({"batch_size": 49}, "batch_size is 50 in the file and 49 here"),
    "another tolerance": ({"tol": 0.5}, "tol is 0.0001 in the file and 0.5 here"),
    "early stopping": ({"early_stopping": True}, "training data.rows is 178 in the file and 160 here"),
    "fewer epochs": ({"max_iter": 3}, "holds 7 epochs, more than epochs=3"),
    "another dtype": ({"dtype": "float32"}, "is float64 in the file|float64.*float32"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_checkpoint_of_another_fit_is_refused_and_nothing_changes(case, tmp_path):
    parameters, said = REFUSED[case]
    path = tmp_path / "run.safetensors"
    fitted({}, [gpunn.ModelCheckpoint(path), StopAt(STOP)])
    before = path.read_bytes()
    estimator = fitted({"random_state": 5}, [])
    outputs, state = estimator.predict_proba(X), {k: repr(v) for k, v in vars(estimator).items() if k.endswith("_")}
    estimator.set_params(random_state=0, **parameters)
    with pytest.raises(gpunn.CheckpointError, match=said):
        estimator.fit(X, LABELS, validation_data=(X[:30], LABELS[:30]), resume=path)
    np.testing.assert_array_equal(estimator.predict_proba(X), outputs)
    assert {k: repr(v) for k, v in vars(estimator).items() if k.endswith("_")} == state
    assert path.read_bytes() == before


def test_files_that_are_no_checkpoints_are_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    fitted({}, []).save(path)
    with pytest.raises(gpunn.CheckpointError, match="training state"):
        fitted({}, [], resume=path)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(gpunn.CheckpointError, match="damaged"):
        fitted({}, [], resume=path)


def test_lbfgs_and_a_warm_start_cannot_resume(tmp_path):
    with pytest.raises(ValueError, match="resume needs mini-batches"):
        gpunn.MLPClassifier(solver="lbfgs").fit(X, LABELS, resume=tmp_path / "none")
    warm = gpunn.MLPClassifier((4,), warm_start=True, max_iter=2, random_state=0).fit(X, LABELS)
    with pytest.raises(ValueError, match=r"resume .*warm_start=True"):
        warm.fit(X, LABELS, resume=tmp_path / "none")
    other = gpunn.MLPClassifier((4,), max_iter=2, random_state=np.random.RandomState(np.random.Philox(1)))
    other.fit(X, LABELS)
    other.set_params(callbacks=[gpunn.ModelCheckpoint(tmp_path / "run.safetensors")])
    with pytest.raises(ValueError, match=r"random_state must draw from MT19937 .*Philox"):
        other.fit(X, LABELS)
