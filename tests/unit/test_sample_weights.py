"""Sample weights: only their ratios matter, extreme magnitudes raise, and batches may have no weight. (E3)"""

import numpy as np
import pytest
from helpers import internals
from helpers.networks import build_network
from helpers.oracles import oracle
from helpers.snapshots import assert_unchanged, bits, state_of, weights_of

import gpunn
from gpunn import theory

RNG = np.random.default_rng(21)
ROWS = 24
X, Y = RNG.normal(size=(ROWS, 3)), RNG.normal(size=(ROWS, 2))
W = RNG.integers(0, 9, size=ROWS) / 8
BATCHES = [slice(start, start + 5) for start in range(0, ROWS, 5)]


def _net(dtype="float64", l2=0.01, device="cpu"):
    layers = gpunn.Dense(4, "tanh", l2=l2), gpunn.BatchNormalization(), gpunn.Dense(2, l2=l2)
    options = {"optimizer": gpunn.Adam(0.02), "loss": "half_squared_error", "metrics": ["mse", "r2"], "device": device}
    return build_network(*layers, input_shape=3, seed=2, dtype=dtype, **options)


# --- magnitudes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "power"), [("float32", -100), ("float32", 100), ("float64", -300), ("float64", 300)])
def test_weights_times_a_power_of_two_give_the_same_fit(dtype, power):
    """Weights and histories of training and validation data are equal bit for bit."""
    runs = []
    for w in (W, W * 2.0**power):
        net = _net(dtype)
        options = {"sample_weight": w, "validation_data": (X[:9], Y[:9], w[:9]), "verbose": 0}
        runs.append((net.fit(X, Y, batch_size=5, epochs=3, **options).history, weights_of(net)))
    assert runs[0] == runs[1]
    assert np.isfinite(list(runs[0][0].values())).all()


@pytest.mark.parametrize(
    ("dtype", "small", "device"), [("float32", 1e-40, "cpu"), ("float32", 1e-40, "cuda"), ("float64", 1e-101, "cpu")]
)
def test_weights_too_small_for_a_step_count_as_zero(request, dtype, small, device):
    """A fit and a single batch treat them as zero, on the CPU and on the fake GPU."""
    if device == "cuda":
        request.getfixturevalue("fake_cupy")
    w = np.where(np.arange(ROWS) < 10, small, 1.0)
    found, zeroed = _net(dtype, device=device), _net(dtype, device=device)
    options = {"batch_size": 5, "shuffle": False, "verbose": 0}
    history = found.fit(X, Y, sample_weight=w, **options).history
    assert history == zeroed.fit(X, Y, sample_weight=np.where(w < 1, 0, w), **options).history
    assert weights_of(found) == weights_of(zeroed)
    before = weights_of(found)
    found.train_on_batch(X[:5], Y[:5], sample_weight=w[:5])
    assert weights_of(found) == before


@pytest.mark.parametrize("value", [1e307, 1.1e100])
def test_weights_too_large_to_be_added_raise(value):
    net, w = _net(), np.full(ROWS, value)
    with assert_unchanged(net, X):
        for call in (
            lambda: net.fit(X, Y, sample_weight=w, verbose=0),
            lambda: net.fit(X, Y, validation_data=(X, Y, w), verbose=0),
            lambda: net.fit(iter([(X, Y, w)]), verbose=0),
            lambda: net.train_on_batch(X, Y, sample_weight=w),
            lambda: net.evaluate(X, Y, sample_weight=w),
            lambda: net.loss_and_gradients(X, Y, sample_weight=w),
            lambda: gpunn.fit_many(_net, X, Y, [{}], sample_weight=w),
        ):
            with pytest.raises(ValueError, match=r"sample_weight must be at most 1e.100, got 1.*e.[13]0[07];"):
                call()


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
@pytest.mark.parametrize(("value", "dtype"), [(1e307, None), (1e-310, None), (1e-40, "float32")])
def test_estimators_refuse_weights_whose_sum_overflows_or_is_zero(value, dtype, solver):
    oracle("sklearn")
    w = np.full(ROWS, value)
    for make, y in ((gpunn.MLPRegressor, Y[:, 0]), (gpunn.MLPClassifier, (Y[:, 0] > 0).astype(int))):
        estimator = make(hidden_layer_sizes=(3,), max_iter=2, solver=solver, dtype=dtype)
        with pytest.raises(ValueError, match="sample_weight"):
            estimator.fit(X, y, sample_weight=w)
        assert not hasattr(estimator, "loss_") and not hasattr(estimator, "coefs_")


def test_products_of_sample_and_class_weights_that_overflow_raise():
    net = gpunn.Sequential([gpunn.Dense(2)], seed=0, dtype="float64", input_shape=3)
    net.compile("sgd", "sparse_categorical_crossentropy", device="cpu")
    with assert_unchanged(net, X), pytest.raises(ValueError, match="sample_weight times class_weight"):
        net.fit(X, np.arange(ROWS) % 2, sample_weight=np.full(ROWS, 1e99), class_weight={0: 1e300}, verbose=0)


# --- batches without weight ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_batch_without_weight_changes_nothing(dtype):
    """Weights, running statistics, slots and step stay the same; the loss is the penalty."""
    net = _net(dtype, l2=0.5)
    net.fit(X, Y, batch_size=5, verbose=0)
    W1, _, _, _, W2, _ = net.get_weights()

    def variables():
        moments = internals.optimizer_state(net).values()
        flat = [bits(a) for a in (internals.parameters(net), internals.running(net), *moments)]
        return flat, net.learning_rate, internals.epochs_taken(net), internals.steps_taken(net)

    before = variables()
    loss = net.train_on_batch(X[:5], Y[:5], sample_weight=np.zeros(5))
    assert loss == pytest.approx(float(theory.penalty([W1, W2], 0.5)), rel=1e-6 if dtype == "float32" else 1e-14)
    assert variables() == before
    # the next step is the same as without that batch
    reference = _net(dtype, l2=0.5)
    reference.fit(X, Y, batch_size=5, verbose=0)
    assert net.train_on_batch(X, Y) == reference.train_on_batch(X, Y)
    assert weights_of(net) == weights_of(reference)


def test_a_step_on_a_batch_without_weight_equals_theory():
    net = gpunn.Sequential([gpunn.Dense(4, "tanh", l2=0.5), gpunn.Dense(2, l2=0.5)], seed=2, dtype="float64")
    net.compile(gpunn.SGD(0.1), "half_squared_error", device="cpu")
    net.build(3)
    W1, b1, W2, b2 = net.get_weights()
    w = np.zeros(ROWS)
    step = theory.train_step(
        [(W1, b1), (W2, b2)], X, Y, 0.1, activations=["tanh", "identity"], kind="half_squared_error", w=w, lam=0.5
    )
    C, gradients = net.loss_and_gradients(X, Y, sample_weight=w)
    assert pytest.approx(float(step.C), rel=1e-14) == C
    for got, wanted in zip(gradients, [step.dW[0], step.db[0], step.dW[1], step.db[1]], strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-14)
    records = net.trace(X, Y, sample_weight=w)
    assert not any(record.delta.any() for record in records)
    assert net.train_on_batch(X, Y, sample_weight=w) == pytest.approx(float(step.C), rel=1e-14)
    for got, wanted in zip(net.get_weights(), [a for pair in step.parameters for a in pair], strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_train_on_batch_takes_the_same_steps_as_a_stream_and_a_fit():
    """Some batches have no weight, by sample weights or by class weights."""
    w = np.where(np.arange(ROWS) // 5 % 2 == 0, 0, W + 1)
    fitted, streamed, stepped = (_net() for _ in range(3))
    fitted.fit(X, Y, batch_size=5, shuffle=False, sample_weight=w, verbose=0)
    streamed.fit(iter([(X[rows], Y[rows], w[rows]) for rows in BATCHES]), verbose=0)
    for rows in BATCHES:
        stepped.train_on_batch(X[rows], Y[rows], sample_weight=w[rows])
    assert weights_of(fitted) == weights_of(streamed) == weights_of(stepped)
    net = gpunn.Sequential([gpunn.Dense(2)], seed=0, input_shape=3)
    net.compile("adam", "sparse_categorical_crossentropy", device="cpu")
    before = weights_of(net)
    assert net.train_on_batch(X, np.zeros(ROWS, int), class_weight={0: 0}) == 0
    assert weights_of(net) == before


# --- epochs and data sets without weight -----------------------------------------------------------------------------


@pytest.mark.parametrize("given", [0.0, 1e-320])
def test_a_stream_without_weight_raises(given):
    net, reference, w = _net(), _net(), np.full(5, given)
    before = weights_of(net)
    with pytest.raises(ValueError, match="sample_weight is zero in every row of epoch 1"):
        net.fit(lambda: ((X[rows], Y[rows], w[: len(X[rows])]) for rows in BATCHES), epochs=2, verbose=0)
    assert weights_of(net) == before
    # the next fit equals that of a new network
    assert net.fit(X, Y, verbose=0).history == reference.fit(X, Y, verbose=0).history
    assert weights_of(net) == weights_of(reference)


def test_an_epoch_without_weight_ends_the_fit_after_those_before_it():
    epochs, reference, net = [], _net(), _net()
    reference.fit(X, Y, batch_size=5, shuffle=False, verbose=0)

    def batches():
        epochs.append(0)
        return [(X[rows], Y[rows], np.full(len(X[rows]), 2.0 - len(epochs))) for rows in BATCHES]

    seen = []
    watch = type("Watch", (gpunn.Callback,), {"on_epoch_end": lambda self, epoch, logs: seen.append(logs)})
    with pytest.raises(ValueError, match="sample_weight is zero in every row of epoch 2"):
        net.fit(batches, epochs=3, callbacks=[watch()], verbose=0)
    assert weights_of(net) == weights_of(reference) and len(seen) == 1 and np.isfinite(seen[0]["loss"])
    assert state_of(net)["epochs"] == 1


def test_validation_rows_on_disk_without_weight_raise(tmp_path):
    for name, array in (("x", X), ("y", Y), ("w", 0 * W)):
        np.save(tmp_path / f"{name}.npy", array)
    held = tuple(gpunn.Rows(tmp_path / f"{name}.npy") for name in "xyw")
    net = _net()
    with assert_unchanged(net, X), pytest.raises(ValueError, match="validation sample_weight is zero in every row"):
        net.fit(X, Y, validation_data=held, verbose=0)


@pytest.mark.parametrize("row", [0, 7, 23])
@pytest.mark.parametrize("make", [gpunn.MLPRegressor, gpunn.MLPClassifier])
def test_early_stopping_needs_weight_in_both_parts(make, row):
    """All weight is on one row, which is either a training or a validation row."""
    oracle("sklearn")
    estimator = make(hidden_layer_sizes=(3,), max_iter=3, early_stopping=True, validation_fraction=0.25, random_state=0)
    y = Y[:, 0] if make is gpunn.MLPRegressor else np.arange(ROWS) % 2
    with pytest.raises(ValueError, match=r"sample_weight is zero in every row that .*early_stopping"):
        estimator.fit(X, y, sample_weight=np.where(np.arange(ROWS) == row, 1.0, 0.0))
    assert not hasattr(estimator, "coefs_") and not hasattr(estimator, "loss_curve_")
