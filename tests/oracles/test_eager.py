"""Eager mode as an oracle: the same text on arrays gives the numbers of the compiled step, to rounding."""

import copy
import os
import sys
import warnings

import numpy as np
import pytest
from helpers import internals
from helpers.networks import build_network
from helpers.processes import run_python
from helpers.random_nets import random_case
from helpers.snapshots import weights_of
from helpers.summaries import slow_path
from helpers.tolerances import GOLDEN, sums

import gpunn
from gpunn import compile_options, metrics, schedules

EAGER = "leaves the fast path: eager mode computes every operation from Python"
LAYERS = (
    gpunn.Dense(6, "gelu", l2=0.01, max_norm=1.5),
    gpunn.BatchNormalization(momentum=0.7),
    gpunn.Dropout(0.3),
    gpunn.Dense(5, gpunn.activations.LeakyReLU(0.2), use_bias=False, l1=0.01),
    gpunn.Dropout(0.2, form="textbook"),
    gpunn.LayerNormalization(),
    gpunn.Activation("silu"),
    gpunn.PeriodicEmbedding([1, 0], 2),
)
OPTIMIZERS = [
    gpunn.SGD(schedules.StepDecay(0.1, 3)),
    gpunn.SGD(0.1, clipvalue=0.01),
    gpunn.Momentum(0.05, 0.9, clipnorm=0.2),
    gpunn.Nesterov(0.05, 0.9),
    gpunn.Adagrad(0.05),
    gpunn.RMSprop(0.01),
    gpunn.Adam(0.01),
    gpunn.AdamW(0.01, weight_decay=0.1),
    gpunn.AdamW(0.01, weight_decay=0.1, decay_weights_only=True),
]
# a loss, the last activation, and metrics that fit it
ENDS = {
    "half_squared_error": ("identity", ["mae", "mse", "rmse", "r2"]),
    "mean_squared_error": ("tanh", ["r2"]),
    "mean_absolute_error": ("identity", []),
    "huber": ("softplus", ["mae"]),
    "log_cosh": ("elu", ["rmse"]),
    "poisson": ("exponential", ["mse"]),
    "binary_crossentropy": ("sigmoid", ["accuracy"]),
    "categorical_crossentropy": ("softmax", ["accuracy", "precision", "recall", "f1_score"]),
    "sparse_categorical_crossentropy": ("softmax", ["accuracy", metrics.TopKCategoricalAccuracy(2), "f1_score"]),
}
N, N_IN, N_OUT = 45, 4, 3


def data(loss, seed=0):
    """Rows, targets and weights; a block of weights is 0, so some batches are empty."""
    rng = np.random.default_rng(seed)
    X, w = rng.normal(size=(N, N_IN)), rng.uniform(0, 2, N)
    w[10:22] = 0
    labels = rng.integers(0, N_OUT, N)
    if loss == "sparse_categorical_crossentropy":
        return X, labels, w
    if loss == "categorical_crossentropy":
        return X, np.eye(N_OUT)[labels], w
    if loss in ("binary_crossentropy", "poisson"):
        return X, rng.integers(0, 2, (N, N_OUT)).astype(float), w
    return X, rng.normal(size=(N, N_OUT)), w


def pair(*layers, **options):
    """Equal networks, one compiled and one eager."""
    return [build_network(*copy.deepcopy(layers), eager=eager, **copy.deepcopy(options)) for eager in (False, True)]


def tolerance(dtype):
    """float64 as for golden values; float32 for a few steps with sums of at most N terms."""
    return GOLDEN if dtype == "float64" else 40 * sums("float32", 1, 1.0)


def assert_equal_numbers(found, expected, dtype, what=""):
    found, expected = np.asarray(found, "float64"), np.asarray(expected, "float64")
    scale = max(1.0, np.abs(expected).max(initial=0))
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance(dtype) * scale, err_msg=what)


def assert_equal_networks(eager, compiled, dtype):
    for name, array in internals.optimizer_state(compiled).items():
        assert_equal_numbers(internals.optimizer_state(eager)[name], array, dtype, name)
    assert_equal_numbers(internals.parameters(eager), internals.parameters(compiled), dtype, "parameters")
    assert_equal_numbers(internals.running(eager), internals.running(compiled), dtype, "running statistics")
    assert internals.steps_taken(eager) == internals.steps_taken(compiled)


# --- training --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("weighted", [False, True], ids=["equal weights", "weights with empty batches"])
@pytest.mark.parametrize("number", range(len(ENDS)))
def test_a_fit_gives_the_same_numbers(number, weighted, dtype):
    """All layers, losses and metrics; every optimizer with some of them."""
    loss, (last, found) = list(ENDS.items())[number]
    optimizer = OPTIMIZERS[(number + 4 * weighted) % len(OPTIMIZERS)]
    layers = [*LAYERS, gpunn.Dense(N_OUT, last, l2=0.01)]
    options = {"input_shape": N_IN, "loss": loss, "optimizer": optimizer, "metrics": found, "dtype": dtype, "seed": 7}
    compiled, eager = pair(*layers, **options)
    X, y, w = data(loss)
    fit = {"batch_size": 6, "epochs": 3, "verbose": 0, "sample_weight": w if weighted else None}
    fit["validation_data"] = X[:9], y[:9]
    histories = [net.fit(X, y, **fit).history for net in (compiled, eager)]
    assert histories[0].keys() == histories[1].keys()
    for name, values in histories[0].items():
        assert_equal_numbers(histories[1][name], values, dtype, name)
    assert_equal_networks(eager, compiled, dtype)
    for a, b in zip(*(list(net.evaluate(X, y, sample_weight=w).values()) for net in (eager, compiled)), strict=True):
        assert_equal_numbers(a, b, dtype, "evaluate")
    assert_equal_numbers(eager.predict(X, batch_size=7), compiled.predict(X, batch_size=7), dtype, "predict")


@pytest.mark.parametrize("number", range(36))
def test_random_networks_give_the_same_numbers(number):
    """Cost, gradients, trace and steps of the random networks, with user-defined activations and losses."""
    case = random_case(number)
    compiled, eager = case.net, copy.deepcopy(case.net)
    eager.compile(gpunn.SGD(0.1), case.net.loss, device="cpu", eager=True)
    data = {"sample_weight": case.w}
    for training in (False, True):
        (cost, gradients), (other, others) = (
            net.loss_and_gradients(case.x, case.y, training, **data) for net in (compiled, eager)
        )
        assert_equal_numbers(other, cost, "float64", "cost")
        for a, b in zip(others, gradients, strict=True):
            assert_equal_numbers(a, b, "float64", "gradient")
        a, b = (net.input_gradient(case.x, case.y, training, **data) for net in (eager, compiled))
        assert_equal_numbers(a, b, "float64", "input gradient")
        assert_equal_traces(*(net.trace(case.x, case.y, training, **data) for net in (eager, compiled)))
        assert_equal_traces(*(net.trace(case.x, training=training) for net in (eager, compiled)))
    for _ in range(3):
        costs = [net.train_on_batch(case.x, case.y, **data) for net in (eager, compiled)]
        assert_equal_numbers(*costs, "float64", "cost")
    assert_equal_networks(eager, compiled, "float64")
    assert_equal_numbers(eager.predict(case.x), compiled.predict(case.x), "float64", "predict")


def assert_equal_traces(found, expected):
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert a.layer == b.layer and a.gradients.keys() == b.gradients.keys()
        assert (a.delta is None) == (b.delta is None)
        for name in ("z", "a", *(["delta"] if b.delta is not None else [])):
            assert_equal_numbers(getattr(a, name), getattr(b, name), "float64", f"{name} of {a.layer}")
        for name, gradient in b.gradients.items():
            assert_equal_numbers(a.gradients[name], gradient, "float64", f"∂C/∂{name} of {a.layer}")


@pytest.mark.parametrize("scale", [1e160, 1e200])
def test_divergence_raises_the_same_error_and_keeps_the_weights(scale):
    messages, kept = [], []
    for net in pair(gpunn.Dense(4, "relu"), gpunn.Dense(3), input_shape=N_IN, loss="mse", dtype="float64"):
        X, y, _ = data("mse")
        net.fit(X, y, batch_size=9, verbose=0)
        before = weights_of(net)
        X[20] *= scale
        with pytest.raises(gpunn.DivergenceError) as info:
            net.fit(X, y * scale, batch_size=len(X), epochs=2, verbose=0)
        messages.append(str(info.value))
        assert weights_of(net) == before
        kept.append(internals.steps_taken(net))
    assert messages[0] == messages[1] and kept[0] == kept[1]


def test_a_batch_without_weight_changes_nothing():
    for net in pair(*LAYERS, gpunn.Dense(3), input_shape=N_IN, loss="mse", dtype="float64"):
        X, y, _ = data("mse")
        net.fit(X, y, batch_size=9, verbose=0)
        before = weights_of(net), internals.steps_taken(net)
        net.train_on_batch(X, y, sample_weight=np.zeros(N))
        assert (weights_of(net), internals.steps_taken(net)) == before


def test_an_attribute_set_between_steps_takes_effect():
    nets = pair(*LAYERS, gpunn.Dense(3), input_shape=N_IN, loss="mse", dtype="float64")
    X, y, _ = data("mse")
    for net in nets:
        net.train_on_batch(X, y)
        net[0].l2, net[2].rate, net[3].trainable = 0.5, 0.0, False
        net.optimizer.clipnorm = 0.01
        net.train_on_batch(X, y)
        net[1].trainable = False
        net.train_on_batch(X, y)
    assert_equal_networks(nets[1], nets[0], "float64")


def test_streams_and_callbacks_give_the_same_numbers():
    class Steps(gpunn.Callback):
        def on_train_begin(self, logs=None):
            self.losses = []

        def on_train_batch_end(self, batch, logs=None):
            self.losses.append(logs["loss"])

    X, y, w = data("mse")
    nets, found = pair(*LAYERS, gpunn.Dense(3), input_shape=N_IN, loss="mse", dtype="float64"), []
    for net in nets:
        steps = Steps()
        net.fit(X, y, batch_size=7, epochs=2, sample_weight=w, callbacks=[steps], verbose=0)
        net.fit(lambda: ((X[k : k + 9], y[k : k + 9]) for k in range(0, N, 9)), epochs=2, verbose=0)
        found.append(steps.losses)
    assert_equal_numbers(*found, "float64", "loss of each step")
    assert_equal_networks(nets[1], nets[0], "float64")


def test_a_check_of_gradients_runs_in_eager_mode():
    _, net = pair(*LAYERS, gpunn.Dense(3), input_shape=N_IN, loss="mse", dtype="float64")
    X, y, w = data("mse")
    assert gpunn.check_gradients(net, X[:8], y[:8], sample_weight=w[:8] + 0.1).ok


def test_resume_in_eager_mode_gives_the_same_bits(monkeypatch, tmp_path):
    monkeypatch.setenv("GPUNN_EAGER", "1")
    X, y, _ = data("mse")
    nets = [pair(*LAYERS, gpunn.Dense(3), input_shape=N_IN, loss="mse", optimizer="adam")[1] for _ in range(2)]
    nets[0].fit(X, y, batch_size=8, epochs=4, verbose=0)
    path = tmp_path / "checkpoint"
    nets[1].fit(X, y, batch_size=8, epochs=2, verbose=0, callbacks=[gpunn.ModelCheckpoint(path)])
    nets[1] = gpunn.load(path)
    assert EAGER in nets[1].summary()
    nets[1].fit(X, y, batch_size=8, epochs=4, verbose=0, resume=path)
    assert weights_of(nets[0]) == weights_of(nets[1])


# --- debugging -------------------------------------------------------------------------------------------------------


def test_a_layers_forward_pass_gets_arrays_at_every_step(monkeypatch):
    seen, forward = [], gpunn.Dense.forward

    def spy(self, t):
        forward(self, t)
        seen.append((type(t.a_prev), type(t.W), type(t.z), t.a.shape, float(np.abs(t.a).sum())))

    monkeypatch.setattr(gpunn.Dense, "forward", spy)
    _, net = pair(gpunn.Dense(4, "relu"), gpunn.Dense(3), input_shape=N_IN, loss="mse")
    X, y, _ = data("mse")
    net.fit(X, y, batch_size=9, epochs=2, verbose=0)
    assert len(seen) == 2 * 2 * 5
    assert {each[:3] for each in seen} == {(np.ndarray,) * 3}
    assert {each[3] for each in seen} == {(9, 4), (9, 3)}
    assert len({each[4] for each in seen}) > 15  # other numbers at every step


def test_a_debugger_stops_in_the_equations():
    """A trace function, as debuggers install it, sees the lines of forward and backward at every step."""
    calls = []

    def trace(frame, event, argument):
        code = frame.f_code
        if code.co_filename.endswith("dense.py") and code.co_name in ("forward", "backward"):
            calls.append((code.co_name, type(frame.f_locals["t"].a_prev)))
        return None

    compiled, eager = pair(gpunn.Dense(3), input_shape=N_IN, loss="mse")
    X, y, _ = data("mse")
    compiled.fit(X, y, batch_size=9, verbose=0)
    for net, steps in ((compiled, 0), (eager, 5)):
        calls.clear()
        before = sys.gettrace()
        sys.settrace(trace)
        try:
            net.fit(X, y, batch_size=9, verbose=0)
        finally:
            sys.settrace(before)
        assert calls == [("forward", np.ndarray), ("backward", np.ndarray)] * steps


def test_the_summary_says_that_a_network_is_eager():
    compiled, eager = pair(gpunn.Dense(3), input_shape=N_IN, loss="mse")
    assert EAGER in eager.summary() and EAGER not in compiled.summary()
    assert EAGER in copy.deepcopy(eager).summary()
    eager.compile("sgd", "mse", device="cpu")
    assert slow_path(eager.summary()) == []


def test_the_program_of_an_eager_network_is_that_of_a_compiled_one():
    compiled, eager = pair(gpunn.Dense(3, "relu"), gpunn.Dense(2), input_shape=N_IN, loss="mse")
    assert str(eager.program(8)) == str(compiled.program(8))


# --- how it is chosen ------------------------------------------------------------------------------------------------


def test_eager_mode_refuses_a_precision_by_name(fake_cupy):
    net = gpunn.Sequential([gpunn.Dense(3)], input_shape=4)
    with pytest.raises(ValueError, match=r"eager mode computes in the network's dtype: leave out precision='tf32'"):
        net.compile("sgd", "mse", device="cuda", precision="tf32", eager=True)


@pytest.mark.parametrize("value", [2, "yes", None])
def test_eager_must_be_a_boolean(value):
    with pytest.raises((TypeError, ValueError), match="eager must be"):
        gpunn.Sequential([gpunn.Dense(3)], input_shape=4).compile("sgd", "mse", eager=value)


def test_eager_mode_refuses_several_processes_by_name():
    class Group:
        size = 2

    with pytest.raises(ValueError, match=r"eager mode runs in one process, and strategy has 2: leave out one"):
        compile_options.resolve_eager(True, None, Group())


def test_the_environment_variable_chooses_eager_mode(monkeypatch):
    for value, eager in (("1", True), ("0", False), ("", False)):
        monkeypatch.setenv("GPUNN_EAGER", value)
        net = build_network(gpunn.Dense(3), input_shape=4, loss="mse")
        assert (EAGER in net.summary()) == eager


def test_a_process_with_the_environment_variable_is_eager(tmp_path):
    code = (
        "import sys, numpy as np, gpunn\n"
        "net = gpunn.Sequential([gpunn.Dense(4, 'relu'), gpunn.Dense(2)], seed=3, dtype='float64')\n"
        "net.compile('adam', 'mse', device='cpu')\n"
        "X = np.random.default_rng(0).normal(size=(20, 3))\n"
        "net.fit(X, X[:, :2], epochs=3, batch_size=6, verbose=0)\n"
        "print('eager mode' in net.summary())\n"
        "np.save(sys.argv[1], np.concatenate([w.ravel() for w in net.get_weights()]))\n"
    )
    found = []
    for value in ("0", "1"):
        path = tmp_path / f"{value}.npy"
        done = run_python(code, path, env={**os.environ, "GPUNN_EAGER": value})
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == str(value == "1")
        found.append(np.load(path))
    assert_equal_numbers(*found, "float64", "weights")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"solver": "sgd", "learning_rate": "adaptive", "nesterovs_momentum": True, "alpha": 0.1},
        {"solver": "lbfgs"},
        {"activation": "logistic", "early_stopping": True, "dropout": 0.2},
    ],
)
@pytest.mark.parametrize("kind", ["MLPClassifier", "MLPRegressor"])
def test_estimators_give_the_same_numbers(monkeypatch, kind, options):
    pytest.importorskip("sklearn")
    rng = np.random.default_rng(1)
    X = rng.normal(size=(60, 4))
    y = rng.integers(0, 3, 60) if kind == "MLPClassifier" else X[:, :2] ** 2
    options = {"hidden_layer_sizes": (6, 5), "max_iter": 12, "random_state": 0, "tol": 0} | options
    fitted, calls, forward = [], [], gpunn.Dense.forward

    def spy(self, t):
        calls.append(isinstance(t.a_prev, np.ndarray))
        forward(self, t)

    monkeypatch.setattr(gpunn.Dense, "forward", spy)
    for value in ("0", "1"):
        calls.clear()
        monkeypatch.setenv("GPUNN_EAGER", value)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # 12 iterations do not converge
            fitted.append(getattr(gpunn, kind)(**options).fit(X, y))
        assert calls.count(True) >= 36 if value == "1" else True not in calls
    compiled, eager = fitted
    for a, b in zip([*eager.coefs_, *eager.intercepts_], [*compiled.coefs_, *compiled.intercepts_], strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-9)
    assert eager.n_iter_ == compiled.n_iter_
    np.testing.assert_allclose(eager.loss_, compiled.loss_, rtol=1e-10)
    np.testing.assert_allclose(eager.predict(X), compiled.predict(X), rtol=1e-8, atol=1e-9)


# --- on a GPU --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", range(len(ENDS)))
def test_eager_mode_on_a_gpu_gives_the_numbers_of_the_compiled_cpu(fake_cupy, number):
    loss, (last, found) = list(ENDS.items())[number]
    optimizer = OPTIMIZERS[number % len(OPTIMIZERS)]
    options = {"input_shape": N_IN, "loss": loss, "optimizer": optimizer, "metrics": found, "dtype": "float64"}
    layers = [*LAYERS, gpunn.Dense(N_OUT, last)]
    compiled = build_network(*copy.deepcopy(layers), **copy.deepcopy(options))
    eager = build_network(*copy.deepcopy(layers), **copy.deepcopy(options), device="cuda", eager=True)
    X, y, w = data(loss)
    histories = [net.fit(X, y, batch_size=9, epochs=2, sample_weight=w, verbose=0).history for net in (compiled, eager)]
    for name, values in histories[0].items():
        assert_equal_numbers(histories[1][name], values, "float64", name)
    for a, b in zip(eager.get_weights(), compiled.get_weights(), strict=True):
        assert_equal_numbers(a, b, "float64", "weights")
    assert EAGER in eager.summary() and eager.device.startswith("cuda")
