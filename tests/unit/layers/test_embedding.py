"""Embedding: values and gradients by hand, unknown codes, every optimizer, threads, ranks, files and the program."""

import copy

import numpy as np
import pytest
from helpers import internals
from helpers.layer_checks import check_ranks, check_simulated_gpu
from helpers.messages import naming
from helpers.networks import network_builder
from helpers.snapshots import bits, weights_of

import gpunn
from gpunn.layers import Quantities

# columns 2 and 0 contain codes of 2 and 3 levels, column 1 is kept
X = np.array([[2.0, 10.0, 0.0], [0.0, 20.0, 1.0], [2.0, 30.0, 1.0], [0.0, 40.0, 0.0]])
V1, V2 = np.array([[5.0], [7.0]]), np.array([[1.0, 2.0], [3.0, 4.0], [-1.0, -2.0]])
A = [[10, 5, -1, -2], [20, 7, 1, 2], [30, 7, -1, -2], [40, 5, 1, 2]]
DELTA = np.array([[0.0, 1.0, 2.0, 3.0], [4.0, 5.0, 6.0, 7.0], [8.0, 90.0, 10.0, 11.0], [12.0, 13.0, 14.0, 15.0]])
DV1, DV2 = [[1 + 13], [5 + 90]], [[6 + 14, 7 + 15], [0, 0], [2 + 10, 3 + 11]]
GRAD_X = [[0, 0, 0], [0, 4, 0], [0, 8, 0], [0, 12, 0]]

RNG = np.random.default_rng(6)
ROWS, LEVELS = 300, [40, 7]
CODES = np.column_stack([RNG.integers(0, 40, ROWS), RNG.normal(size=(ROWS, 2)), RNG.integers(0, 7, ROWS)])
Y = RNG.normal(size=(ROWS, 2))
OPTIMIZERS = ["sgd", "momentum", "nesterov", "rmsprop", "adagrad", "adam", "adamw", gpunn.SGD(0.1, clipnorm=0.1)]


def _layer(**options):
    return gpunn.Embedding([2, 0], [2, 3], [1, 2], **options)


DEFAULTS = {"input_shape": 4, "dtype": "float64", "loss": "half_squared_error", "device": "cpu"}
_net = network_builder(gpunn.Embedding([0, 3], LEVELS, [5, 3]), gpunn.Dense(6, "tanh"), gpunn.Dense(2), **DEFAULTS)


def _by_hand(**options):
    net = _net(_layer(), **{"input_shape": 3, "optimizer": "sgd"} | options)
    net.set_weights([V1, V2])
    return net


# --- values ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_values_and_gradients_by_hand(dtype):
    """a = (kept columns, V₁[c₁], V₂[c₂]); row c of a gradient is the sum of δ over the rows with code c. (E1, E6)"""
    layer = _layer()
    assert layer.build(3) == 4
    t = Quantities(a_prev=X.astype(dtype), V1=V1.astype(dtype), V2=V2.astype(dtype), grad_a=DELTA.astype(dtype))
    layer.forward(t)
    layer.backward(t)
    found = {"a": A, "dV1": DV1, "dV2": DV2, "grad_prev": GRAD_X}
    for name, wanted in found.items():
        np.testing.assert_array_equal(getattr(t, name), wanted, err_msg=name)
        assert getattr(t, name).dtype == dtype
    net = _by_hand(dtype=dtype)
    np.testing.assert_array_equal(net.predict(X), A)
    # half_squared_error: δ = (a − y)/n
    trace = net.trace(X, np.array(A) - 4 * DELTA)[0]
    np.testing.assert_array_equal(trace.delta, DELTA)
    np.testing.assert_array_equal(trace.gradients["V1"], DV1)
    np.testing.assert_array_equal(trace.gradients["V2"], DV2)
    np.testing.assert_array_equal(net.input_gradient(X, np.array(A) - 4 * DELTA), GRAD_X)


def test_codes_are_rounded():
    net = _by_hand()
    near = X + np.array([0.4, 0, -0.4])
    np.testing.assert_array_equal(net.predict(near), A)


@pytest.mark.parametrize("code", [-1, -0.75, 2, 1.5, 1e30, -1e30])
def test_a_code_that_has_no_row_is_nan(code):
    """The prediction of other rows does not change, and training stops before it changes anything."""
    net, wrong = _by_hand(), X.copy()
    wrong[1, 2] = code
    found, wanted = net.predict(wrong), np.array(A, float)
    wanted[1, 1] = np.nan
    np.testing.assert_array_equal(found, wanted)
    before = weights_of(net)
    with pytest.raises(gpunn.DivergenceError, match=r"not finite.* n_levels"):
        net.fit(wrong, np.zeros((4, 4)), verbose=0)
    assert weights_of(net) == before


def test_initial_values_are_standard_normal():
    net = gpunn.Sequential([gpunn.Embedding([0], [2000], 5)], input_shape=1, seed=0)
    (V,) = net.get_weights()
    assert V.shape == (2000, 5) and abs(V.mean()) < 0.05 and V.std() == pytest.approx(1, abs=0.05)
    (zeros,) = gpunn.Sequential([gpunn.Embedding([0], [3], 2, initializer="zeros")], input_shape=1).get_weights()
    assert not zeros.any()


# --- training --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
def test_every_optimizer_compiled_and_eager(optimizer):
    found = []
    for eager in (False, True):
        net = _net(gpunn.Embedding([0, 3], LEVELS, 4, l2=0.1), gpunn.Dense(2), optimizer=optimizer, eager=eager)
        losses = net.fit(CODES, Y, epochs=3, batch_size=64, verbose=0).history["loss"]
        assert losses[-1] < losses[0]
        found.append(net.get_weights())
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("before", [[], [gpunn.Activation("identity")]], ids=["first", "second"])
def test_gradients(before):
    layers = [*copy.deepcopy(before), gpunn.Embedding([3, 0], LEVELS[::-1], [2, 3], l2=0.1), gpunn.Dense(2, "tanh")]
    report = gpunn.check_gradients(_net(*layers), CODES[:9], Y[:9])
    assert report.ok, report


def test_only_rows_with_a_code_of_the_batch_change():
    net = _net(optimizer="sgd")
    before = net.get_weights()[0]
    net.train_on_batch(CODES[:5], Y[:5])
    changed = (net.get_weights()[0] != before).any(axis=1)
    assert set(np.flatnonzero(changed)) == set(CODES[:5, 0])
    penalized = _net(gpunn.Embedding([0, 3], LEVELS, 4, l2=0.1), gpunn.Dense(2), optimizer="sgd")
    before = penalized.get_weights()[0]
    penalized.train_on_batch(CODES[:5], Y[:5])
    assert (penalized.get_weights()[0] != before).all()
    assert internals.penalties(penalized) == [(0, 4 * sum(LEVELS), 0.1)]


def test_a_frozen_layer_does_not_change():
    net = _net()
    net[0].trainable = False
    before = weights_of(net)
    net.fit(CODES, Y, verbose=0)
    assert weights_of(net)[:2] == before[:2] and weights_of(net)[2:] != before[2:]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_any_number_of_threads_gives_the_same_bits(monkeypatch, dtype):
    found = []
    for threads in (1, 2, 3):
        internals.use_threads(monkeypatch, threads)
        net = _net(gpunn.Embedding([0, 3], LEVELS, [5, 3]), optimizer="sgd", dtype=dtype)
        net.fit(CODES, np.ones((ROWS, 10)), batch_size=128, epochs=3, verbose=0)
        found.append(weights_of(net))
    assert found[0] == found[1] == found[2]


def test_ranks_take_the_steps_of_one_process():
    check_ranks(_net, CODES, Y, batch_size=32)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_simulated_gpu(fake_cupy, dtype):
    check_simulated_gpu(_net, CODES, Y, batch_size=64, dtype=dtype)


# --- the program -----------------------------------------------------------------------------------------------------


def test_the_program_of_a_first_layer():
    """∂C/∂x is not computed; a frozen layer has no gradient."""
    net = _net()
    text = str(net.program(batch_size=8))
    assert [text.count(f"{name}(") for name in ("zero_columns", "copy_columns", "embed")] == [1, 1, 2]
    assert text.count("embedding_gradient(") == 2
    net[0].trainable = False
    assert "embedding_gradient(" not in str(net.program(batch_size=8))


def test_summary():
    text = _net().summary()
    assert "Embedding((0, 3), (40, 7), (5, 3))" in text and f"{5 * 40 + 3 * 7}" in text


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_files_and_checkpoints(tmp_path, dtype):
    path, checkpoint = tmp_path / "m.safetensors", tmp_path / "c.safetensors"
    net = _net(dtype=dtype)
    net.fit(CODES, Y, epochs=2, verbose=0, callbacks=[gpunn.ModelCheckpoint(checkpoint)])
    net.save(path)
    again = gpunn.load(path)
    assert repr(again.layers) == repr(net.layers) and weights_of(again) == weights_of(net)
    assert bits(again.predict(CODES)) == bits(net.predict(CODES))
    whole, resumed = _net(dtype=dtype), _net(dtype=dtype)
    whole.fit(CODES, Y, epochs=4, verbose=0)
    resumed.fit(CODES, Y, epochs=4, verbose=0, resume=checkpoint)
    assert weights_of(resumed) == weights_of(whole)


# --- refused arguments -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        (([], [], 2), ValueError, naming("columns", "[]")),
        (([0, 0], [2, 2], 2), ValueError, naming("columns", "different", "[0, 0]")),
        (([-1], [2], 2), ValueError, naming("columns", -1)),
        (([0.5], [2], 2), TypeError, naming("columns", 0.5)),
        ((0, [2], 2), TypeError, naming("columns", 0)),
        (("01", [2, 2], 2), TypeError, naming("columns", "'01'")),
        (([0], [0], 2), ValueError, naming("n_levels", "got 0")),
        (([0], [True], 2), TypeError, naming("n_levels", True)),
        (([0], [2**23 + 1], 2), ValueError, naming("n_levels", 2**23)),
        (([0, 1], [2], 2), ValueError, naming("n_levels", "2 columns", "(2,)")),
        (([0], [2], 0), ValueError, naming("dim", "got 0")),
        (([0], [2], 1.5), TypeError, naming("dim", 1.5)),
        (([0], [2], [1, 2]), ValueError, naming("dim", "1 columns", "(1, 2)")),
    ],
    ids=repr,
)
def test_refused_arguments(arguments, error, said):
    with pytest.raises(error, match=said):
        gpunn.Embedding(*arguments)


def test_columns_that_the_input_lacks_are_refused():
    with pytest.raises(ValueError, match=naming("columns", "inputs, 3", "(3,)")):
        gpunn.Sequential([gpunn.Embedding([3], [2], 1)], input_shape=3)


@pytest.mark.parametrize(("name", "value"), [("columns", [1, 2]), ("n_levels", [3, 4]), ("dim", 2)])
def test_a_built_layer_keeps_its_shapes(name, value):
    layer = _layer()
    setattr(layer, name, value)
    net = gpunn.Sequential([_layer()], input_shape=3)
    with pytest.raises(AttributeError, match=naming(name, "built")):
        setattr(net[0], name, value)
    assert net[0].columns == (2, 0) and net[0].n_levels == (2, 3) and net[0].dim == (1, 2)
