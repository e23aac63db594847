"""Saved networks: the same bits after loading, also in a new process, for every kind of layer and setting."""

import json
import pickletools
import zipfile

import numpy as np
import pytest
from helpers import ROOT, internals
from helpers.messages import naming
from helpers.networks import network_builder
from helpers.processes import run_python
from helpers.snapshots import assert_unchanged, bits, state_of, weights_of
from helpers.user_classes import user_loss
from safetensors.numpy import load_file

import gpunn
from gpunn import activations, initializers, losses, metrics, schedules
from gpunn.training import checkpoint

RNG = np.random.default_rng(7)
X, Y = RNG.normal(size=(21, 5)), RNG.integers(0, 3, size=21)


def _layers():
    return [
        gpunn.Dense(8, activations.LeakyReLU(0.2), l2=0.01, l1=0.001, max_norm=2, bias_initializer="ones"),
        gpunn.BatchNormalization(momentum=0.3, epsilon=1e-4),
        gpunn.Dropout(0.2, form="textbook"),
        gpunn.Dense(7, use_bias=False, kernel_initializer=initializers.Orthogonal(gain=2)),
        gpunn.Activation(activations.ELU(0.7)),
        gpunn.LayerNormalization(epsilon=1e-3),
        gpunn.Dropout(0.1),
        gpunn.PeriodicEmbedding([1, 0], 2, scale=0.3),
        gpunn.Dense(3, "softmax"),
    ]


_net = network_builder(*_layers(), seed=2**63 + 11, optimizer=gpunn.Adam(0.01), metrics=["accuracy"])


@pytest.fixture
def trained():
    net = _net()
    net[3].trainable = False
    net.fit(X, Y, epochs=3, batch_size=8, verbose=0)
    return net


# --- the round trip --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_everything_is_restored_bit_for_bit(file, dtype):
    net = _net(dtype=dtype)
    net[3].trainable = False
    net.fit(X, Y, epochs=3, batch_size=8, verbose=0)
    with assert_unchanged(net, X):
        net.save(file)
    again = gpunn.load(file)
    assert type(again) is gpunn.Sequential
    assert weights_of(again) == weights_of(net) and bits(internals.running(again)) == bits(internals.running(net))
    assert internals.running(net).any()
    assert repr(again) == repr(net) and again.seed == net.seed == 2**63 + 11 and again.dtype == dtype
    assert [layer.trainable for layer in again] == [layer.trainable for layer in net]
    assert [layer.get_config() for layer in again] == [layer.get_config() for layer in net]
    assert repr(again.optimizer) == repr(net.optimizer) and repr(again.loss) == repr(net.loss)
    assert bits(again.predict(X)) == bits(net.predict(X))
    assert bits(again.predict_classes(X)) == bits(net.predict_classes(X))
    assert again.evaluate(X, Y) == net.evaluate(X, Y)
    assert again.device == "cpu"
    # its training continues like that of the network after compile: the optimizer's state is new
    net.compile(net.optimizer, net.loss, ["accuracy"])
    assert again.fit(X, Y, epochs=2, verbose=0).history == net.fit(X, Y, epochs=2, verbose=0).history
    assert state_of(again) == state_of(net)


def test_a_new_process_gives_the_same_bits(file, trained):
    trained.save(file)
    script = (
        "import sys, json, numpy as np, gpunn\n"
        "net = gpunn.load(sys.argv[1])\n"
        "X, Y = np.random.default_rng(7).normal(size=(21, 5)), np.array(json.loads(sys.argv[2]))\n"
        "print(json.dumps([net.predict(X).tobytes().hex(), net.evaluate(X, Y),\n"
        "                  [w.tobytes().hex() for w in net.get_weights()]]))\n"
    )
    done = run_python(script, file, json.dumps(Y.tolist()), check=True)
    predicted, evaluated, weights = json.loads(done.stdout)
    assert predicted == trained.predict(X).tobytes().hex()
    assert evaluated == trained.evaluate(X, Y)
    assert weights == [w.tobytes().hex() for w in trained.get_weights()]


OPTIMIZERS = [
    gpunn.SGD(0.1),
    gpunn.SGD(0.1, clipvalue=0.5, clipnorm=2.0),
    gpunn.Momentum(0.1, momentum=0.8),
    gpunn.Nesterov(0.1, momentum=0.8),
    gpunn.RMSprop(0.1, rho=0.8, epsilon=1e-6),
    gpunn.Adagrad(0.1, initial_accumulator_value=0.2),
    gpunn.Adam(0.1, beta_1=0.8, beta_2=0.95, epsilon=1e-6),
    gpunn.AdamW(0.1, weight_decay=0.02, decay_weights_only=True),
    gpunn.SGD(schedules.StepDecay(0.1, 3, 0.5, per="epoch")),
    gpunn.SGD(schedules.ExponentialDecay(0.1, 3, 0.5, staircase=True)),
    gpunn.SGD(schedules.InverseTimeDecay(0.1, 3, 0.5)),
    gpunn.SGD(schedules.CosineDecay(0.1, 30, alpha=0.1)),
    gpunn.SGD(schedules.PiecewiseConstant([2, 5], [0.1, 0.05, 0.01])),
    gpunn.SGD(schedules.Warmup(schedules.CosineDecay(0.1, 30), 4)),
]


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
def test_every_optimizer_and_schedule_is_restored(file, optimizer):
    net = gpunn.Sequential([gpunn.Dense(3, "softmax")], input_shape=5, seed=1)
    net.compile(optimizer, "sparse_categorical_crossentropy", device="cpu").save(file)
    again = gpunn.load(file)
    assert repr(again.optimizer) == repr(optimizer)
    a = net.fit(X, Y, epochs=4, batch_size=8, verbose=0).history
    assert again.fit(X, Y, epochs=4, batch_size=8, verbose=0).history == a
    assert weights_of(again) == weights_of(net)


@pytest.mark.parametrize("name", sorted(internals.classes_by_name(losses)))
def test_every_loss_is_restored(file, name):
    loss = losses.Huber(0.3) if name == "huber" else losses.get(name)
    last = {"categorical_crossentropy": "softmax", "sparse_categorical_crossentropy": "softmax"}.get(name, "sigmoid")
    net = gpunn.Sequential([gpunn.Dense(3, last)], input_shape=5, seed=1).compile("sgd", loss, device="cpu")
    net.save(file)
    y = Y if name.startswith("sparse") else np.eye(3)[Y]
    again = gpunn.load(file)
    assert repr(again.loss) == repr(loss) and again.evaluate(X, y) == net.evaluate(X, y)


@pytest.mark.parametrize("from_logits", [None, True, False])
def test_from_logits_of_a_cross_entropy_is_restored(file, from_logits):
    last = {None: None, True: "tanh", False: "sigmoid"}[from_logits]
    net = gpunn.Sequential([gpunn.Dense(3, last)], input_shape=5, seed=1)
    net.compile("sgd", losses.SparseCategoricalCrossentropy(from_logits=from_logits), device="cpu").save(file)
    again = gpunn.load(file)
    assert again.loss.from_logits is from_logits and again.evaluate(X, Y) == net.evaluate(X, Y)
    assert bits(again.predict_proba(X)) == bits(net.predict_proba(X))


@pytest.mark.parametrize(
    ("kind", "y"), [(losses.SparseCategoricalCrossentropy, Y), (losses.CategoricalCrossentropy, np.eye(3)[Y])]
)
def test_label_smoothing_is_restored(file, kind, y):
    net = gpunn.Sequential([gpunn.Dense(3, "softmax")], input_shape=5, seed=1)
    net.compile("sgd", kind(label_smoothing=0.25), device="cpu").save(file)
    again = gpunn.load(file)
    assert again.loss.label_smoothing == 0.25 and again.evaluate(X, y) == net.evaluate(X, y)


def test_metrics_are_restored_under_their_names(file):
    watched = ["mae", "mse", metrics.RootMeanSquaredError(), metrics.MeanAbsoluteError(name="euros")]
    net = gpunn.Sequential([gpunn.Dense(1)], input_shape=5, seed=1).compile("sgd", "mse", watched, device="cpu")
    net.save(file)
    found = gpunn.load(file).evaluate(X, X[:, :1])
    assert found == net.evaluate(X, X[:, :1])
    assert list(found) == ["loss", "mae", "mse", "root_mean_squared_error", "euros"]


def test_activations_and_initializers_are_restored(file):
    for name in internals.classes_by_name(activations):
        net = gpunn.Sequential([gpunn.Dense(3, name)], input_shape=5, seed=1)
        net.save(file)
        assert bits(gpunn.load(file).predict(X)) == bits(net.predict(X))


def test_a_network_that_is_not_compiled_is_restored_so(file):
    net = gpunn.Sequential(_layers(), input_shape=5, seed=1)
    net.save(str(file))
    again = gpunn.load(str(file))
    assert bits(again.predict(X)) == bits(net.predict(X))
    with pytest.raises(RuntimeError, match="compile"):
        again.evaluate(X, Y)


def test_a_loaded_network_saves_the_same_again(file, trained):
    trained.save(file)
    tensors, metadata = checkpoint.read(file)
    gpunn.load(file).save(file)
    again, same = checkpoint.read(file)
    assert same == metadata
    assert {k: bits(v) for k, v in again.items()} == {k: bits(v) for k, v in tensors.items()}


def test_a_loaded_network_does_not_need_the_file(file, trained):
    trained.save(file)
    again = gpunn.load(file)
    file.unlink()
    again.fit(X, Y, verbose=0)
    weights = again.get_weights()
    weights[0][...] = 0
    assert again.get_weights()[0].any()


# --- user-defined parts ----------------------------------------------------------------------------------------------


def huber(y, a):
    """A user-defined loss with the name of a built-in one."""
    return user_loss(y, a)


class Halves(metrics.Metric):
    """The fraction of rows with a loss above ½, written in Python."""

    opaque = True

    def rows(self, a, y, w):
        return w * (user_loss(y, a)[0] > 0.5)


@pytest.mark.parametrize("function", [user_loss, huber])
def test_a_user_defined_loss_is_saved_by_name_and_must_be_supplied(file, function):
    net = gpunn.Sequential([gpunn.Dense(2)], input_shape=5, seed=1).compile("sgd", function, device="cpu")
    net.save(file)
    name = function.__name__
    with pytest.raises(ValueError, match=f"loss '{name}' is not built in: pass custom={{'{name}': the function}}"):
        gpunn.load(file)
    again = gpunn.load(file, custom={name: function})
    assert again.evaluate(X, X[:, :2]) == net.evaluate(X, X[:, :2])
    assert again.fit(X, X[:, :2], verbose=0).history == net.fit(X, X[:, :2], verbose=0).history
    assert function.__name__.encode() in file.read_bytes()


def test_a_user_defined_metric_must_be_supplied(file):
    net = gpunn.Sequential([gpunn.Dense(2)], input_shape=5, seed=1).compile("sgd", "mse", [Halves()], device="cpu")
    net.save(file)
    with pytest.raises(ValueError, match=naming("metric", "'Halves'")):
        gpunn.load(file)
    found = gpunn.load(file, custom={"Halves": Halves}).evaluate(X, X[:, :2])
    assert found == net.evaluate(X, X[:, :2]) and 0 < found["Halves"] < 1


def test_a_user_defined_initializer_is_not_needed_for_loading(file):
    """Loading draws no weights."""

    def mine(shape, generator):
        return np.ones(shape)

    net = gpunn.Sequential([gpunn.Dense(2, kernel_initializer=mine)], input_shape=5)
    net.save(file)
    assert bits(gpunn.load(file).predict(X)) == bits(net.predict(X))


# --- the file --------------------------------------------------------------------------------------------------------


def test_the_file_is_safetensors_with_json_and_no_pickle(file, trained):
    trained.save(file)
    tensors = load_file(file)
    assert tensors["layers.0.W"].shape == (5, 8)
    assert bits(tensors["layers.0.W"]) == bits(trained.get_weights()[0])
    assert set(tensors) == {
        *(f"layers.{k}.{name}" for k in (0, 8) for name in ("W", "b")),
        *("layers.3.W", "layers.7.w", "layers.7.b"),
        *(f"layers.1.{name}" for name in ("gamma", "beta", "running_mean", "running_variance")),
        *(f"layers.5.{name}" for name in ("gamma", "beta")),
    }
    _, metadata = checkpoint.read(file)
    assert json.loads(json.dumps(metadata)) == metadata and metadata["kind"] == "sequential"
    assert not zipfile.is_zipfile(file)
    data = file.read_bytes()
    assert b"numpy" not in data and b"gpunn.layers" not in data
    with pytest.raises((ValueError, IndexError, UnicodeDecodeError)):
        list(pickletools.genops(data))


def test_nothing_is_written_if_something_cannot_be_saved(file, trained):
    trained.save(file)
    before = file.read_bytes()

    class Unwritable(activations.Activation):
        def f(self, z):
            return z

        def get_config(self):
            return {"what": object()}

    for config in ({"what": object()}, {"what": float("nan")}):
        Unwritable.get_config = lambda self, config=config: config
        net = gpunn.Sequential([gpunn.Dense(2, Unwritable())], input_shape=5)
        with pytest.raises((TypeError, ValueError)):
            net.save(file)
    assert file.read_bytes() == before and list(file.parent.iterdir()) == [file]


def test_the_file_of_version_1_opens():
    """All later versions read files of version 1. This file was written by version 1."""
    net = gpunn.load(ROOT / "tests" / "files" / "version1.safetensors")
    x = np.linspace(-1, 1, 15).reshape(3, 5)
    expected = json.loads((ROOT / "tests" / "files" / "version1.json").read_text(encoding="utf-8"))
    np.testing.assert_allclose(net.predict(x), expected["predicted"], rtol=1e-5)
    assert net.seed == 2**63 + 11 and net.dtype == np.float32
    assert [layer.trainable for layer in net] == [True, True, True, False, True, True, True, True]
    assert type(net.optimizer) is gpunn.Adam and net.optimizer.learning_rate == 0.01
    assert net.evaluate(x, [0, 1, 2]) == pytest.approx(expected["evaluated"], rel=1e-5)


class Forgetful(gpunn.Layer):
    """A user-defined layer with an argument that its get_config omits."""

    def __init__(self, factor=1.0):
        self.factor = factor

    def forward(self, t):
        t.a = t.a_prev

    def backward(self, t):
        t.grad_prev = t.grad_a


def test_save_refuses_an_argument_missing_in_get_config(tmp_path):
    net = gpunn.Sequential([Forgetful(3.0), gpunn.Dense(2)], input_shape=2, seed=0)
    with pytest.raises(ValueError, match=r"Forgetful.*lacks factor"):
        net.save(tmp_path / "m.safetensors")
    assert not list(tmp_path.iterdir())


class Halving(gpunn.schedules.Schedule):
    """η₀/2ᵗ, without a registered name."""

    def __init__(self, start, per="step"):
        super().__init__(per)
        self.start = start

    def __call__(self, t):
        return self.start / 2**t


class Quarter(gpunn.SGD):
    """A user-defined optimizer: gradient descent under another name."""


def test_user_defined_schedules_and_optimizers_are_saved_by_name(tmp_path):
    net = gpunn.Sequential([gpunn.Dense(2)], input_shape=2, seed=0)
    net.compile(Quarter(gpunn.schedules.Warmup(Halving(0.5), 3)), "mse")
    net.save(tmp_path / "m.safetensors")
    again = gpunn.load(tmp_path / "m.safetensors", custom={"Halving": Halving, "Quarter": Quarter})
    assert type(again.optimizer) is Quarter
    assert [again.optimizer.schedule(t) for t in range(6)] == [net.optimizer.schedule(t) for t in range(6)]
    assert type(gpunn.optimizers.get("sgd")) is gpunn.SGD
