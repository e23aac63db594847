"""Multi-model training: each network equals one trained alone, in float64 on a CPU bit for bit."""

import warnings

import numpy as np
import pytest
from helpers import internals, limits
from helpers.messages import naming
from helpers.networks import build_network
from helpers.oracles import oracle
from helpers.user_classes import Square

import gpunn
from gpunn.backend.cuda.graph import CaptureWarning
from gpunn.kernels._compiler import cpu_cache
from gpunn.training import DivergenceError
from gpunn.training.interrupts import Interrupts

RNG = np.random.default_rng(8)
X = RNG.normal(size=(61, 5))
LABELS = (X @ RNG.normal(size=(5, 3))).argmax(axis=1)
VALUES = np.stack([X[:, 0] - X[:, 1], X[:, 2] ** 2], axis=1)
HALF, BACK = np.arange(0, 61, 2), np.arange(60, 19, -1)
TWICE = np.r_[np.arange(30), np.arange(30)]


def net(*, seed=0, l2=0.0, dropout=0.0, width=7, lr=0.01, outputs=3, device="cpu"):
    """A compiled network with the given settings."""
    options = {"loss": "half_squared_error"}
    if outputs == 3:
        options = {"loss": "sparse_categorical_crossentropy", "metrics": ["accuracy"]}
    last = gpunn.Dense(outputs, "softmax" if outputs == 3 else None, l2=l2)
    layers = gpunn.Dense(width, "tanh", l2=l2), gpunn.Dropout(dropout), last
    return build_network(*layers, seed=seed, dtype="float64", optimizer=gpunn.Adam(lr), device=device, **options)


def build(dropout=0.0, width=7):
    """A network with the default seed, learning rate, penalty and rows."""
    return net(dropout=dropout, width=width)


CANDIDATES = [
    {},
    {"seed": 3},
    {"seed": 3, "lr": 0.1},
    {"lr": gpunn.schedules.ExponentialDecay(0.1, 3, 0.5), "l2": 0.01},
    {"l2": 0.1, "dropout": 0.5},
    {"dropout": 0.25, "seed": 5, "rows": HALF},
    {"rows": BACK, "l2": 0.0},
    {"rows": TWICE, "width": 4},
]


def fit_alone(candidate, y, outputs=3, **fit):
    """The network and history of a separate fit."""
    made = net(**{k: v for k, v in candidate.items() if k != "rows"}, outputs=outputs)
    rows = candidate.get("rows", np.arange(61))
    w = fit.pop("sample_weight", None)
    history = made.fit(X[rows], y[rows], verbose=0, sample_weight=None if w is None else w[rows], **fit)
    return made, history


def assert_same(fitted, wanted):
    for a, b in zip(fitted[0].get_weights(), wanted[0].get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert fitted[1].history == wanted[1].history and fitted[1].epoch == wanted[1].epoch


@pytest.mark.parametrize("batch_size", [8, 61, 100])
@pytest.mark.parametrize("outputs", [3, 2])
def test_each_network_equals_one_trained_alone(batch_size, outputs):
    y = LABELS if outputs == 3 else VALUES
    found = gpunn.fit_many(
        lambda **given: net(outputs=outputs, **given), X, y, CANDIDATES, batch_size=batch_size, epochs=5
    )
    assert len(found) == len(CANDIDATES)
    for candidate, fitted in zip(CANDIDATES, found, strict=True):
        assert_same(fitted, fit_alone(candidate, y, outputs, batch_size=batch_size, epochs=5))


def test_sample_weights_and_unshuffled_rows():
    w = RNG.uniform(0.1, 2, size=61)
    given = {"batch_size": 16, "epochs": 3, "shuffle": False}
    found = gpunn.fit_many(build, X, LABELS, CANDIDATES, sample_weight=w, **given)
    for candidate, fitted in zip(CANDIDATES, found, strict=True):
        assert_same(fitted, fit_alone(candidate, LABELS, sample_weight=w, **given))


def test_a_fitted_network_can_be_trained_further():
    ((made, history),) = gpunn.fit_many(build, X, LABELS, [{"seed": 2}], epochs=3)
    wanted, first = fit_alone({"seed": 2}, LABELS, epochs=3)
    assert history.history == first.history
    again, then = made.fit(X, LABELS, epochs=2, verbose=0), wanted.fit(X, LABELS, epochs=2, verbose=0)
    assert again.history == then.history
    np.testing.assert_array_equal(made.predict(X), wanted.predict(X))


def test_every_candidate_is_trained_on_every_split():
    folds = [(np.arange(20, 61), np.arange(20)), (np.arange(41), np.arange(41, 61))]
    found = gpunn.fit_many(build, X, LABELS, [{"seed": 1}, {"lr": 0.1}], splits=folds, epochs=4, batch_size=16)
    assert len(found) == 4
    for k, (made, history) in enumerate(found):
        wanted = net(**[{"seed": 1}, {"lr": 0.1}][k // 2])
        train, held = folds[k % 2]
        there = wanted.fit(
            X[train], LABELS[train], epochs=4, batch_size=16, verbose=0, validation_data=(X[held], LABELS[held])
        )
        assert set(history.history) == {"loss", "accuracy", "val_loss", "val_accuracy"}
        assert_same((made, history), (wanted, there))


def test_validation_rows_keep_their_sample_weights():
    """val_loss and val_accuracy are those of a fit with validation_data=(X, y, sample_weight)."""
    w = np.random.default_rng(1).uniform(0.1, 3, size=61)
    folds = [(np.arange(20, 61), np.arange(20)), (np.arange(40), np.arange(40, 61))]
    found = gpunn.fit_many(build, X, LABELS, [{"seed": 1}], splits=folds, epochs=3, batch_size=16, sample_weight=w)
    for (rows, held), fitted in zip(folds, found, strict=True):
        options = {"epochs": 3, "batch_size": 16, "sample_weight": w}
        held_out = (X[held], LABELS[held], w[held])
        assert_same(fitted, fit_alone({"seed": 1, "rows": rows}, LABELS, validation_data=held_out, **options))


def test_scikit_learn_splits_and_sparse_rows():
    KFold = oracle("sklearn.model_selection").KFold
    csr = oracle("scipy.sparse").csr_matrix(X * (X > 0.3))
    found = gpunn.fit_many(build, csr, LABELS, [{}], splits=KFold(3).split(X), epochs=2)
    dense = gpunn.fit_many(build, csr.toarray(), LABELS, [{}], splits=KFold(3).split(X), epochs=2)
    for a, b in zip(found, dense, strict=True):
        assert_same(a, b)


def test_a_metric_that_needs_all_rows():
    """AUC is computed from all rows after an epoch, so such fits return to Python after every epoch."""
    y = (LABELS == 0).astype(float)[:, None]

    def binary(**given):
        made = gpunn.Sequential([gpunn.Dense(1, activation="sigmoid")], dtype="float64", **given)
        return made.compile("sgd", "binary_crossentropy", ["auc"], device="cpu")

    ((made, history),) = gpunn.fit_many(binary, X, y, [{"seed": 4}], epochs=3)
    wanted = binary(seed=4)
    assert_same((made, history), (wanted, wanted.fit(X, y, epochs=3, verbose=0)))


def test_more_epochs_than_one_call_of_compiled_code_trains(monkeypatch):
    limits.set(monkeypatch, "epochs_at_once", 3)
    limits.set(monkeypatch, "rates_at_once", 2)
    found = gpunn.fit_many(build, X, LABELS, CANDIDATES, epochs=7, batch_size=20)
    for candidate, fitted in zip(CANDIDATES, found, strict=True):
        assert_same(fitted, fit_alone(candidate, LABELS, epochs=7, batch_size=20))


@pytest.mark.parametrize("per", ["step", "epoch"])
def test_schedules(per):
    rate = gpunn.schedules.ExponentialDecay(0.1, 2, 0.5, per=per)
    ((made, history),) = gpunn.fit_many(build, X, LABELS, [{"lr": rate}], epochs=5, batch_size=20)
    assert_same((made, history), fit_alone({"lr": rate}, LABELS, epochs=5, batch_size=20))


def test_numpy_references_give_the_same_networks(monkeypatch):
    monkeypatch.setenv("GPUNN_COMPILE", "0")
    found = gpunn.fit_many(build, X, LABELS, CANDIDATES, epochs=3, batch_size=20)
    for candidate, fitted in zip(CANDIDATES, found, strict=True):
        assert_same(fitted, fit_alone(candidate, LABELS, epochs=3, batch_size=20))


def test_simulated_on_a_gpu(fake_cupy):
    """The same on the fake CuPy; never a GPU result."""

    def there(**given):
        return net(device="cuda", **given)

    found = gpunn.fit_many(there, X, LABELS, CANDIDATES[:6], epochs=3, batch_size=20)
    for candidate, (made, history) in zip(CANDIDATES, found, strict=False):
        wanted, there_history = fit_alone(candidate, LABELS, epochs=3, batch_size=20)
        assert made.device == "cuda:0"
        np.testing.assert_allclose(history.history["loss"], there_history.history["loss"], rtol=1e-10)
        for a, b in zip(made.get_weights(), wanted.get_weights(), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-10)


def there(**given):
    return net(device="cuda", **given)


ALIKE = [{"seed": k, "l2": 0.01 * k, "lr": 0.01 + 0.002 * k, "dropout": 0.2 * (k % 2)} for k in range(5)]


def test_a_failed_capture_of_several_networks_gives_its_reason(fake_cupy, monkeypatch):
    def refuses(self, steps, with_schedule):
        raise MemoryError("no room")

    internals.refuse_capture(monkeypatch, refuses)
    with pytest.warns(CaptureWarning, match="no room"):
        found = gpunn.fit_many(there, X, LABELS, ALIKE[:2], epochs=3, batch_size=20)
    for made, _ in found:
        assert str(made.summary()).endswith("path: no CUDA graph could be captured, MemoryError: no room")


def test_a_divergence_on_a_gpu_does_not_affect_other_networks(fake_cupy):
    wild = [{}, {"lr": 1e308}, {"seed": 3}]
    with pytest.raises(DivergenceError, match=r"candidates\[1\]") as caught:
        gpunn.fit_many(there, X, LABELS, wild, epochs=6, batch_size=20)
    for candidate, (made, history) in zip(wild, caught.value.fitted, strict=True):
        if candidate.get("lr") == 1e308:
            assert len(history.history.get("loss", ())) < 6
            continue
        (lone,) = gpunn.fit_many(there, X, LABELS, [candidate], epochs=6, batch_size=20)
        assert lone.history.history == history.history
        for a, b in zip(made.get_weights(), lone.net.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)


def test_networks_that_cannot_be_captured_are_trained_sequentially(fake_cupy, monkeypatch):
    from gpunn.backend.cuda.matmul import ProductWarning

    internals.hide_cublaslt(monkeypatch)
    with pytest.warns(ProductWarning):
        found = gpunn.fit_many(there, X, LABELS, ALIKE[:2], epochs=2, batch_size=20)
    for candidate, (made, _) in zip(ALIKE, found, strict=False):
        wanted, _ = fit_alone(candidate, LABELS, epochs=2, batch_size=20)
        for a, b in zip(made.get_weights(), wanted.get_weights(), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-10)


# --- length, validation, early stopping -------------------------------------------------------------------------------


def test_candidates_have_lengths_of_their_own():
    found = gpunn.fit_many(build, X, LABELS, [{"epochs": 2}, {}, {"epochs": 5, "seed": 3}], epochs=3)
    assert [len(fitted.history.epoch) for fitted in found] == [2, 3, 5]
    assert_same(found[2], fit_alone({"seed": 3}, LABELS, epochs=5))


def test_validation_predictions_of_every_epoch(monkeypatch):
    """The last ones are those of the trained network, and earlier ones those of shorter fits."""
    validation = X[:20], LABELS[:20]
    candidates = [{"epochs": 4}, {"epochs": 2, "seed": 1}]
    long, other = gpunn.fit_many(build, X, LABELS, candidates, validation_data=validation, snapshots=True)
    assert long.validation_predictions.shape == (4, 20, 3) and other.validation_predictions.shape == (2, 20, 3)
    np.testing.assert_array_equal(long.validation_predictions[-1], long.net.predict(X[:20]))
    (short,) = gpunn.fit_many(build, X, LABELS, [{"epochs": 2}])
    np.testing.assert_array_equal(long.validation_predictions[1], short.net.predict(X[:20]))
    assert len(long.history.history["val_loss"]) == 4
    assert short.validation_predictions is None


def test_snapshots_of_splits_have_the_rows_of_each_pair():
    pairs = [(HALF, BACK), (BACK, HALF)]
    found = gpunn.fit_many(build, X, LABELS, [{}], splits=pairs, epochs=2, snapshots=True)
    for (_, validation), fitted in zip(pairs, found, strict=True):
        assert fitted.validation_predictions.shape == (2, len(validation), 3)
        np.testing.assert_array_equal(fitted.validation_predictions[-1], fitted.net.predict(X[validation]))


def test_early_stopping_restores_the_best_epoch():
    """Each network has its own callback; the weights are those of the epoch with the lowest validation loss."""

    def stopping():
        return [gpunn.EarlyStopping("val_loss", patience=2)]

    candidates = [{"lr": 0.3, "callbacks": stopping}, {"lr": 1e-5, "callbacks": stopping}]
    validation = X[:20], LABELS[:20]
    fast, slow = gpunn.fit_many(
        build, X, LABELS, candidates, epochs=60, batch_size=20, validation_data=validation, snapshots=True
    )
    assert len(fast.history.epoch) < 60 == len(slow.history.epoch)
    best = int(np.argmin(fast.history.history["val_loss"]))
    np.testing.assert_array_equal(fast.validation_predictions[best], fast.net.predict(X[:20]))


# --- recordings that networks share ----------------------------------------------------------------------------------


def _require_compiled_kernels():
    if cpu_cache.status().implementation != "compiled":
        pytest.skip(f"kernels are not compiled here: {cpu_cache.status().reason}")


@pytest.fixture
def recorded(monkeypatch):
    """A list with an entry per recorded step; recordings are reused if they are fully compiled."""
    _require_compiled_kernels()
    made = internals.record_executables(monkeypatch, updates=True)
    internals.train_sequentially(monkeypatch)
    return made


def test_networks_of_one_structure_are_recorded_once(recorded):
    """The networks differ in seed, learning rate, rows and λ, which are not part of a recording."""
    same = [{"l2": 0.1 * (k + 1), "seed": k, "lr": 0.01 * (k + 1), "dropout": 0.4} for k in range(4)]
    same += [{"l2": 0.3, "dropout": 0.4, "rows": np.roll(np.arange(61), 9)}]
    found = gpunn.fit_many(build, X, LABELS, same, epochs=3, batch_size=20)
    for candidate, fitted in zip(same, found, strict=True):
        assert_same(fitted, fit_alone(candidate, LABELS, epochs=3, batch_size=20))
    assert len(recorded) == 1


def test_networks_with_normalization_are_recorded_once_and_keep_their_statistics(recorded):
    def normal(shift=0):
        layers = [gpunn.Dense(6), gpunn.BatchNormalization(), gpunn.Activation("relu"), gpunn.LayerNormalization()]
        made = gpunn.Sequential([*layers, gpunn.Dense(2)], seed=shift, dtype="float64")
        return made.compile(gpunn.Adam(0.01), "half_squared_error", device="cpu")

    found = gpunn.fit_many(normal, X, VALUES, [{"shift": k} for k in range(3)], epochs=3, batch_size=20)
    for k, (made, history) in enumerate(found):
        wanted = normal(k)
        assert_same((made, history), (wanted, wanted.fit(X, VALUES, epochs=3, batch_size=20, verbose=0)))
        np.testing.assert_array_equal(made.predict(X), wanted.predict(X))  # by the running statistics
    assert len(recorded) == 1


def test_a_network_with_the_same_array_as_x_and_y_is_recorded_each_time(recorded):
    """If X and y are one array, a recording cannot be rebound to two arrays."""

    def mirror(seed=0):
        made = gpunn.Sequential([gpunn.Dense(3, activation="tanh"), gpunn.Dense(5)], seed=seed, dtype="float64")
        return made.compile("adam", "half_squared_error", device="cpu")

    found = gpunn.fit_many(mirror, X, X, [{"seed": 1}, {"seed": 2}], epochs=3)
    assert len(recorded) == 2
    for k, fitted in enumerate(found):
        wanted = mirror(k + 1)
        assert_same(fitted, (wanted, wanted.fit(X, X, epochs=3, verbose=0)))


OTHERS = {
    "a penalty": [{}, {"l2": 0.1}],
    "dropout": [{"dropout": 0.2}, {"dropout": 0.3}],
    "a width": [{"width": 3}, {"width": 4}],
    "rows": [{"rows": HALF}, {"rows": BACK}],
}


@pytest.mark.parametrize("case", OTHERS)
def test_networks_that_differ_in_structure_are_recorded_separately(recorded, case):
    found = gpunn.fit_many(build, X, LABELS, OTHERS[case], epochs=3, batch_size=16)
    for candidate, fitted in zip(OTHERS[case], found, strict=True):
        assert_same(fitted, fit_alone(candidate, LABELS, epochs=3, batch_size=16))
    assert len(recorded) == 2


@pytest.mark.parametrize(
    "one, other",
    [
        (gpunn.Adam(0.01), gpunn.Adam(0.01, beta_1=0.8)),
        (gpunn.Adam(0.01), gpunn.Adam(0.01, clipnorm=0.1)),
        (gpunn.Momentum(0.01), gpunn.Nesterov(0.01)),
    ],
    ids=["a constant", "clipping", "a rule"],
)
def test_different_optimizers_are_recorded_separately(recorded, one, other):
    def with_rule(rule):
        made = gpunn.Sequential([gpunn.Dense(3, activation="softmax")], seed=0)
        return made.compile(rule, "sparse_categorical_crossentropy", device="cpu")

    found = gpunn.fit_many(with_rule, X, LABELS, [{"rule": one}, {"rule": other}, {"rule": one}], epochs=2)
    for rule, (made, history) in zip((one, other, one), found, strict=True):
        wanted = with_rule(rule)
        assert_same((made, history), (wanted, wanted.fit(X, LABELS, epochs=2, verbose=0)))
    assert len(recorded) == 2


def test_a_user_defined_activation_is_recorded_for_each_network(recorded):
    def user_defined():
        made = gpunn.Sequential([gpunn.Dense(4, activation=Square()), gpunn.Dense(2)], seed=0)
        return made.compile("sgd", "half_squared_error", device="cpu")

    found = gpunn.fit_many(user_defined, X, VALUES, [{}, {}], epochs=2)
    assert len(recorded) == 2
    for fitted in found:
        wanted = user_defined()
        assert_same(fitted, (wanted, wanted.fit(X, VALUES, epochs=2, verbose=0)))


def test_the_cache_of_executables_is_limited(recorded, monkeypatch):
    limits.set(monkeypatch, "shared_executable_bytes", 0)
    gpunn.fit_many(build, X, LABELS, [{"width": 3}, {"width": 4}, {"width": 3}], epochs=1)
    assert len(recorded) == 3


# --- errors ----------------------------------------------------------------------------------------------------------


def test_a_divergence_does_not_affect_other_networks():
    huge = {"lr": 1e308, "seed": 3}
    with pytest.raises(DivergenceError, match=r"candidates\[1\]: training diverged in epoch \d+") as caught:
        gpunn.fit_many(build, X, LABELS, [{"seed": 3}, huge, {"seed": 4}], epochs=3)
    fitted = caught.value.fitted
    for k, candidate in ((0, {"seed": 3}), (2, {"seed": 4})):
        assert_same(fitted[k], fit_alone(candidate, LABELS, epochs=3))
    assert all(np.isfinite(w).all() for w in fitted[1].net.get_weights())


CALLBACKS = [gpunn.EarlyStopping()]
INVALID = {
    "no list": (TypeError, naming("candidates", {"seed": 1}), {"candidates": {"seed": 1}}),
    "none": (ValueError, r"candidates is empty; \[\{\}\]", {"candidates": []}),
    "no dict": (TypeError, r"candidates\[1\] must be a dict", {"candidates": [{}, 3]}),
    "one callback twice": (
        ValueError,
        r"candidates\[0\] and candidates\[1\] share .*: give a function",
        {"candidates": [{"callbacks": CALLBACKS}, {"callbacks": CALLBACKS}]},
    ),
    "unknown": (TypeError, r"candidates\[0\] does not fit build: .*'color'", {"candidates": [{"color": 1}]}),
    "seed": (ValueError, r"candidates\[0\]\['seed'\] must be in", {"candidates": [{"seed": -1}]}),
    "seed's type": (TypeError, r"candidates\[0\]\['seed'\] must be an integer", {"candidates": [{"seed": "1"}]}),
    "lr": (ValueError, r"candidates\[0\]\['lr'\]: ", {"candidates": [{"lr": 0}]}),
    "l2": (ValueError, naming("candidates[0]['l2']", -1), {"candidates": [{"l2": -1}]}),
    "mask": (TypeError, r"candidates\[0\]\['rows'\].*np.flatnonzero\(mask\)", {"candidates": [{"rows": X[:, 0] > 0}]}),
    "no rows": (ValueError, r"candidates\[0\]\['rows'\] is empty", {"candidates": [{"rows": np.empty(0, int)}]}),
    "rows outside": (ValueError, r"must be in \[0, 61\), X's rows, got 3 … 61", {"candidates": [{"rows": [3, 61]}]}),
    "negative rows": (ValueError, r"must be in \[0, 61\)", {"candidates": [{"rows": [-1, 3]}]}),
    "build": (TypeError, naming("build", 3), {"build": 3}),
    "build's result": (TypeError, naming("build", "int"), {"build": lambda: 3}),
    "not compiled": (ValueError, "call compile", {"build": lambda: gpunn.Sequential([gpunn.Dense(3)])}),
    "splits": (TypeError, r"splits must be pairs .*cv.split", {"splits": "ab"}),
    "no splits": (ValueError, naming("splits", "empty"), {"splits": []}),
    "no pair": (TypeError, r"splits\[0\] must be \(training rows, validation rows\)", {"splits": [3]}),
    "split outside": (ValueError, r"splits\[0\]\[1\] must be in", {"splits": [([0, 1], [99])]}),
    "both": (ValueError, "give one of the two", {"candidates": [{"rows": [0]}], "splits": [([0, 1], [2])]}),
    "batch_size": (ValueError, naming("batch_size", 0), {"batch_size": 0}),
    "epochs": (TypeError, naming("epochs", 1.5), {"epochs": 1.5}),
    "shuffle": (ValueError, naming("shuffle", "'yes'"), {"shuffle": "yes"}),
    "its epochs": (ValueError, naming("candidates[1]['epochs']", 0), {"candidates": [{}, {"epochs": 0}]}),
    "callbacks": (TypeError, naming("candidates[0]['callbacks']", "'all'"), {"candidates": [{"callbacks": "all"}]}),
    "snapshots": (ValueError, "snapshots needs validation rows", {"snapshots": True}),
    "snapshots' type": (ValueError, naming("snapshots", 2), {"snapshots": 2}),
    "validation_data": (ValueError, "must be .X, y. or", {"validation_data": X}),
    "validation twice": (
        ValueError,
        "cannot be combined with splits",
        {"validation_data": (X, LABELS), "splits": [([0, 1], [2])]},
    ),
    "X": (ValueError, "NaN", {"X": np.where(X > 2, np.nan, X)}),
    "y": (ValueError, "y", {"y": LABELS[:5]}),
    "weights": (ValueError, naming("zero", "candidates[0]"), {"sample_weight": np.eye(61)[3]}),
}


@pytest.mark.parametrize("case", INVALID)
def test_invalid_arguments_raise_before_anything_is_trained(case):
    error, message, given = INVALID[case]
    arguments = {"build": build, "X": X, "y": LABELS, "candidates": [{"rows": [0, 1]}] if case == "weights" else [{}]}
    arguments |= given
    before = RNG.bit_generator.state, X.copy()
    with pytest.raises(error, match=message):
        gpunn.fit_many(**arguments)
    assert RNG.bit_generator.state == before[0]
    np.testing.assert_array_equal(X, before[1])


def test_build_must_return_a_new_network_each_time():
    made = net()
    with pytest.raises(ValueError, match="new net"):
        gpunn.fit_many(lambda: made, X, LABELS, [{}, {}])
    weights = made.fit(X, LABELS, verbose=0) and made.get_weights()
    with pytest.raises(ValueError, match="or trained"):
        gpunn.fit_many(lambda: made, X, LABELS, [{}])
    for a, b in zip(weights, made.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_l2_is_refused_if_no_layer_has_it():
    class Twice(gpunn.Layer):
        def forward(self, t):
            raise AssertionError("never trained")

        def backward(self, t):
            raise AssertionError("never trained")

    def bare():
        return gpunn.Sequential([Twice()]).compile("sgd", "half_squared_error", device="cpu")

    with pytest.raises(ValueError, match=naming("l2", "no layer")):
        gpunn.fit_many(bare, X, X, [{"l2": 0.1}])


def test_an_interrupted_fit_keeps_its_completed_epochs(monkeypatch):
    made = net(seed=1)
    limits.set(monkeypatch, "compiled_seconds", 0.0)  # the trainer sees every step
    checks = iter(range(4 * 4 - 1))

    def interrupt(self):
        if next(checks, None) is None:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Interrupts, "check", interrupt)
        with pytest.raises(KeyboardInterrupt):
            made.fit(X, LABELS, batch_size=20, epochs=9, shuffle=False, verbose=0)
    wanted = net(seed=1)
    history = wanted.fit(X, LABELS, batch_size=20, epochs=4, shuffle=False, verbose=0)
    assert internals.epochs_taken(made) == 4 and len(history.epoch) == 4
    for a, b in zip(made.get_weights(), wanted.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made.fit(X, LABELS, verbose=0)  # the lock is free again
