"""PeriodicEmbedding: values and gradients by hand, large arguments, optimizers, threads, ranks, files, the program."""

import copy
from functools import partial

import numpy as np
import pytest
from helpers import internals
from helpers.layer_checks import check_ranks, check_simulated_gpu
from helpers.messages import naming
from helpers.networks import network_builder
from helpers.snapshots import bits, weights_of

import gpunn
from gpunn import kernels
from gpunn.layers import Quantities

RNG = np.random.default_rng(4)
X, Y = RNG.normal(size=(40, 3)), RNG.normal(size=(40, 2))
PI, ROOT = np.pi, 0.5**0.5
OPTIMIZERS = ["sgd", "momentum", "nesterov", "rmsprop", "adagrad", "adam", "adamw", gpunn.SGD(0.05, clipnorm=0.5)]
KERNELS = ("periodic_embed", "periodic_embed_backward", "add_periodic_gradient")

# columns 2 and 0 are x = (1, 2): wx + b is ¼, ½ of the first and ⅜, 2½ of the second, with sines 1, 0, √½, 0
ROW, W, B = [[2.0, 10.0, 1.0]], np.array([[0.25, 0.5], [0.125, 1.0]]), np.array([[0.0, 0.0], [0.125, 0.5]])
A = [[2, 10, 1, 0, -1, -ROOT, -1]]
# ∂C/∂a = (1, 2, 3, 4, 5, 6, 7), so d = −2π (1, 0, √½, 0) ⊙ (4, 5, 6, 7)
DELTA = np.arange(1.0, 8)[None]
D = np.array([[-8 * PI, 0], [-12 * PI * ROOT, 0]])
GRADIENTS = {"dw": D * [[1], [2]], "db": D, "grad_prev": [[1 - 1.5 * PI * ROOT, 2, 3 - 2 * PI]]}

DEFAULTS = {"input_shape": 3, "dtype": "float64", "loss": "half_squared_error", "optimizer": gpunn.SGD(0.05)}
_net = network_builder(gpunn.PeriodicEmbedding([2, 0], 3), gpunn.Dense(2), **DEFAULTS)


# --- values ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_values_and_gradients_by_hand(dtype):
    """The same on arrays and in a compiled network."""
    eps = np.finfo(dtype).eps
    layer = gpunn.PeriodicEmbedding([2, 0], 2)
    assert layer.build(3) == 7
    given = {"a_prev": ROW, "w": W, "b": B, "grad_a": DELTA}
    t = Quantities(**{name: np.array(values, dtype) for name, values in given.items()})
    layer.forward(t)
    layer.backward(t)
    for name, wanted in ({"a": A} | GRADIENTS).items():
        np.testing.assert_allclose(getattr(t, name), wanted, rtol=4 * eps, atol=eps, err_msg=name)
        assert getattr(t, name).dtype == dtype

    net = _net(gpunn.PeriodicEmbedding([2, 0], 2), dtype=dtype)
    net.set_weights([W, B])
    a = net.predict(ROW)
    np.testing.assert_allclose(a, A, rtol=0, atol=eps)
    y = a - DELTA
    _, gradients = net.loss_and_gradients(ROW, y)
    found = dict(zip(GRADIENTS, [*gradients, net.input_gradient(ROW, y)], strict=True))
    for name, wanted in GRADIENTS.items():
        np.testing.assert_allclose(found[name], wanted, rtol=8 * eps, atol=8 * eps, err_msg=name)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_large_arguments_are_as_accurate_as_small_ones(dtype):
    """wx is exact and up to 2¹⁷ periods, so the cosine is too: within 2 units in the last place of 1."""
    x = np.random.default_rng(1).integers(-(2**18), 2**18, size=(500, 1))
    w = np.arange(1, 32) / 64
    net = _net(gpunn.PeriodicEmbedding([0], 31), input_shape=1, dtype=dtype)
    net.set_weights([w[None, :], np.zeros((1, 31))])
    wanted = np.sin(PI * (0.5 - 2 * np.abs(x * w - np.rint(x * w))))
    found = net.predict(x.astype(dtype))[:, 1:]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=2 * np.finfo(dtype).eps)
    # without the reduction, 2π times the argument is rounded
    t = x.astype(dtype) * w.astype(dtype)
    assert np.abs(np.cos(t.dtype.type(2 * PI) * t) - wanted).max() > 1e4 * np.finfo(dtype).eps


def test_initial_values_are_normal_and_uniform():
    w, b = _net(gpunn.PeriodicEmbedding([0, 1, 2], 2000, scale=0.3)).get_weights()
    assert w.shape == b.shape == (3, 2000)
    assert abs(w.mean()) < 0.02 and w.std() == pytest.approx(0.3, rel=0.05)
    assert 0 <= b.min() < 0.01 and 0.99 < b.max() < 1 and b.mean() == pytest.approx(0.5, abs=0.02)


# --- training --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rewritten", [True, False])
@pytest.mark.parametrize(
    "layers",
    [
        [gpunn.PeriodicEmbedding([0, 1, 2], 4, scale=0.5), gpunn.Dense(5, "tanh", l2=0.1), gpunn.Dense(2)],
        [gpunn.Dense(3, "tanh", l1=0.01), gpunn.PeriodicEmbedding([1, 2, 0], 3, scale=0.3), gpunn.Dense(2)],
        [gpunn.PeriodicEmbedding([2, 0], 1, scale=0.3), gpunn.PeriodicEmbedding([3, 4], 2), gpunn.Dense(2)],
    ],
    ids=["first", "hidden", "twice"],
)
def test_gradients(layers, rewritten):
    report = gpunn.check_gradients(_net(*copy.deepcopy(layers)), X[:7], Y[:7], rewritten=rewritten)
    assert report.ok and report.worst < 1e-6, report


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
def test_every_optimizer_compiled_and_eager(optimizer):
    found = []
    for eager in (False, True):
        net = _net(optimizer=optimizer, eager=eager)
        before = net.get_weights()
        losses = net.fit(X, Y, epochs=5, batch_size=8, verbose=0).history["loss"]
        assert losses[-1] < losses[0]
        assert all((a != b).all() for a, b in zip(net.get_weights(), before, strict=True))
        found.append(net.get_weights())
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-10, atol=1e-13)


def test_frequencies_and_phases_are_not_penalized():
    net = _net(gpunn.PeriodicEmbedding([2, 0], 3), gpunn.Dense(2, l2=0.01))
    # the flat buffer begins with the 18 weights of the Dense layer
    assert internals.penalties(net) == [(0, 18, 0.01)]


def test_a_sine_is_learned_in_few_steps():
    """sin 6πx, of which a tanh network of this size learns little in these epochs."""
    x = np.linspace(-1, 1, 200)[:, None]
    y = np.sin(6 * PI * x)
    losses = []
    for first in ([gpunn.PeriodicEmbedding([0], 16, scale=2.0)], []):
        net = _net(*first, gpunn.Dense(16, "tanh"), gpunn.Dense(1), input_shape=1, optimizer=gpunn.Adam(0.01))
        losses.append(net.fit(x, y, epochs=60, batch_size=20, verbose=0)["loss"][-1])
    assert losses[0] < 0.01 < 0.15 < losses[1]


def test_a_frozen_layer_does_not_change():
    net = _net()
    net[0].trainable = False
    before = weights_of(net)
    net.fit(X, Y, verbose=0)
    assert weights_of(net)[:2] == before[:2] and weights_of(net)[2:] != before[2:]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("dim", [3, 40])
def test_any_number_of_threads_gives_the_same_bits(dim, dtype, monkeypatch):
    found = []
    for threads in (1, 2, 3):
        internals.use_threads(monkeypatch, threads)
        net = _net(gpunn.PeriodicEmbedding([2, 0, 1], dim, scale=0.5), dtype=dtype)
        net.fit(X, np.zeros((len(X), 3 + 3 * dim)), epochs=3, batch_size=16, verbose=0)
        found.append([*weights_of(net), bits(net.predict(X))])
    assert found[0] == found[1] == found[2]


def test_ranks_take_the_steps_of_one_process():
    check_ranks(partial(_net, optimizer="adam"), X, Y, batch_size=8)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_simulated_gpu(fake_cupy, dtype):
    check_simulated_gpu(_net, X, Y, batch_size=16, dtype=dtype)


# --- the program -----------------------------------------------------------------------------------------------------


def test_the_programs_of_a_first_and_of_a_hidden_layer():
    """A first layer computes no ∂C/∂a_prev, and a frozen one no gradient."""
    net = _net()
    assert [str(net.program(8)).count(f"{name}(") for name in KERNELS] == [1, 1, 0]
    net[0].trainable = False
    assert [str(net.program(8)).count(f"{name}(") for name in KERNELS] == [1, 0, 0]
    # one kernel per run of consecutive columns
    hidden = _net(gpunn.Dense(4), gpunn.PeriodicEmbedding([1, 2, 0], 3), gpunn.Dense(2))
    assert [str(hidden.program(8)).count(f"{name}(") for name in KERNELS] == [1, 1, 2]


def test_the_layer_has_no_bfloat16():
    assert not any(kernels.get(name).signature.supports_bf16 for name in KERNELS)


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_files_and_checkpoints(tmp_path, dtype):
    path, checkpoint = tmp_path / "m.safetensors", tmp_path / "c.safetensors"
    net = _net(gpunn.PeriodicEmbedding([2, 0], 3, scale=0.4), gpunn.Dense(2), dtype=dtype)
    net.fit(X, Y, epochs=2, verbose=0, callbacks=[gpunn.ModelCheckpoint(checkpoint)])
    net.save(path)
    again = gpunn.load(path)
    assert repr(again[0]) == "PeriodicEmbedding((2, 0), 3, scale=0.4)"
    assert weights_of(again) == weights_of(net) and bits(again.predict(X)) == bits(net.predict(X))
    whole, resumed = (_net(*copy.deepcopy(net.layers), dtype=dtype) for _ in range(2))
    whole.fit(X, Y, epochs=4, verbose=0)
    resumed.fit(X, Y, epochs=4, verbose=0, resume=checkpoint)
    assert weights_of(resumed) == weights_of(whole)


def test_a_torch_module_is_refused():
    with pytest.raises(ValueError, match=naming("layers[0]", "PeriodicEmbedding")):
        gpunn.interchange.torch_module(_net())


# --- refused arguments -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        (([], 2), ValueError, naming("columns", "[]")),
        (([0, 0], 2), ValueError, naming("columns", "different", "[0, 0]")),
        (([-1], 2), ValueError, naming("columns", -1)),
        (([0.5], 2), TypeError, naming("columns", 0.5)),
        ((3, 2), TypeError, naming("columns", 3)),
        (([0], 0), ValueError, naming("dim", "got 0")),
        (([0], 2.5), TypeError, naming("dim", "integer", 2.5)),
        (([0], None), TypeError, naming("dim", None)),
    ],
    ids=repr,
)
def test_refused_arguments(arguments, error, said):
    with pytest.raises(error, match=said):
        gpunn.PeriodicEmbedding(*arguments)


@pytest.mark.parametrize("scale", [0, -1, np.nan, "1"])
def test_scales_that_are_refused(scale):
    with pytest.raises(ValueError, match=naming("scale", scale)):
        gpunn.PeriodicEmbedding([0], 2, scale=scale)


def test_columns_that_the_input_lacks_are_refused():
    with pytest.raises(ValueError, match=naming("columns", "inputs, 3", "(3,)")):
        gpunn.Sequential([gpunn.PeriodicEmbedding([3], 1)], input_shape=3)


@pytest.mark.parametrize(("name", "value"), [("columns", [1, 2]), ("dim", 2)])
def test_a_built_layer_keeps_its_shapes(name, value):
    layer = gpunn.PeriodicEmbedding([2, 0], 3)
    setattr(layer, name, value)
    net = _net()
    with pytest.raises(AttributeError, match=naming(name, "built")):
        setattr(net[0], name, value)
    assert net[0].columns == (2, 0) and net[0].dim == 3
