"""`Sequential.program`: the recorded and the rewritten step as text, and what dead-code elimination leaves."""

import re

import numpy as np
import pytest
from helpers import internals
from helpers.messages import naming
from helpers.networks import network_builder
from helpers.programs import names
from helpers.snapshots import assert_unchanged

import gpunn
from gpunn.program import Program, Rule

X, Y = np.random.default_rng(0).normal(size=(20, 5)), np.random.default_rng(1).integers(0, 3, 20)
LAYERS = gpunn.Dense(8, "relu", l2=0.1), gpunn.BatchNormalization(), gpunn.Dropout(0.5), gpunn.Dense(3, "softmax")
_net = network_builder(*LAYERS, input_shape=5, optimizer="adam", metrics=["accuracy"])


def lines(program):
    return str(program).splitlines()


def op_line(program, name):
    """The text of the only op with that name, without its number."""
    (found,) = [line for line in lines(program) if f" = {name}(" in line]
    return re.sub(r"^ *\d+ +", "", found)


# --- the call --------------------------------------------------------------------------------------------------------


def test_a_network_must_be_compiled_and_its_width_known():
    net = gpunn.Sequential([gpunn.Dense(3)], input_shape=4)
    with pytest.raises(RuntimeError, match=r"program needs a loss and an optimizer: call compile\("):
        net.program()
    net = gpunn.Sequential([gpunn.Dense(3)]).compile("sgd", "mse", device="cpu")
    with pytest.raises(RuntimeError, match="program: there are no weights yet"):
        net.program()
    net.fit(X, X[:, :3], verbose=0)
    assert isinstance(net.program(), Program)


@pytest.mark.parametrize("batch_size", [0, -1, 2.5, "8", None, True])
def test_the_batch_size_is_a_positive_integer(batch_size):
    with pytest.raises((TypeError, ValueError), match="batch_size must be"):
        _net().program(batch_size)


@pytest.mark.parametrize("rewritten", ["no", None, 2])
def test_rewritten_is_a_boolean(rewritten):
    with pytest.raises((TypeError, ValueError), match="rewritten must be"):
        _net().program(8, rewritten=rewritten)


def test_the_program_changes_nothing():
    net = _net()
    net.fit(X, Y, verbose=0)
    with assert_unchanged(net, X):
        net.program(7)
        net.program(7, rewritten=False)
    assert net.program().inputs[0].shape == (32, 5)


# --- the text --------------------------------------------------------------------------------------------------------


def test_the_text_lists_ops_shapes_types_and_outputs():
    net = _net()
    program = net.program(batch_size=16, rewritten=False)
    text = lines(program)
    assert text[0] == "inputs: x (16, 5) float32, y (16,) int32, sample_weight (16,) float32, w (16,) float32"
    assert [line for line in text if line[0].isalpha()][1:-1] == [
        "weights:",
        "forward:",
        "loss:",
        "backward:",
        "update:",
    ]
    assert text[-1] == "outputs: a4"
    numbers = [int(line.split()[0]) for line in text if line[0] == " "]
    assert numbers == list(range(len(program.ops)))
    assert op_line(program, "relu") == "a1 (16, 8) float32 = relu(z1)"
    assert op_line(program, "relu_backward").startswith("δ1 (16, 8) float32 = relu_backward(a1, ∂C/∂a1)")
    assert "dW4 (8, 3) float32 = matmul(a3ᵀ, δ4)" in str(program)
    assert "db1 (8,) float32 = column_sum(δ1)" in str(program)
    assert op_line(program, "softmax_crossentropy").startswith("a4 (16, 3) float32, δ4 (16, 3) float32, ")
    assert op_line(program, "adam").endswith(" if updating") and "theta (" in op_line(program, "adam")
    assert "running_mean2 (8,) float32 = update_running_stat(mean2, state, running_mean2" in str(program)
    assert str(program).count("∂C/∂a0") == 0


def test_the_rewritten_program_has_fewer_ops_and_the_same_outputs():
    net = _net()
    recorded, rewritten = net.program(16, rewritten=False), net.program(16)
    assert len(rewritten.ops) < len(recorded.ops)
    assert lines(rewritten)[-1] == lines(recorded)[-1]
    assert "relu" in names(recorded) and "relu" not in names(rewritten)


def test_the_type_of_a_float64_network_is_shown():
    assert "float32" not in str(_net(dtype="float64").program(4))


def test_constants_are_shown():
    program = _net().program(10)
    assert "factor=2, layer=2" in str(program)
    assert "l2=0.1" in op_line(program, "penalty") and "beta1=0.9" in op_line(program, "adam")


# --- dead code -------------------------------------------------------------------------------------------------------


def plain(*trainable, **options):
    """The recorded step of a network of Dense layers, of which some are trainable."""
    layers = [gpunn.Dense(4, "tanh") for _ in trainable[:-1]] + [gpunn.Dense(3)]
    for layer, value in zip(layers, trainable, strict=True):
        layer.trainable = value
    program = network_builder(*layers, input_shape=5, loss="mse", optimizer="sgd", **options)().program(8)
    program.verify()
    return program


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_a_step_has_three_products_per_layer_and_none_for_the_inputs(depth):
    program = plain(*[True] * depth)
    products = [name for name in names(program) if name == "matmul" or name.startswith("gemm")]
    assert len(products) == 3 * depth - 1


def test_frozen_layers_need_no_gradients():
    """δ is computed down to the first trainable layer only."""
    program = plain(False, False, True, True)
    products = [name for name in names(program) if name == "matmul" or name.startswith("gemm")]
    assert len(products) == 4 + 2 + 1
    assert "dW1" not in str(program) and "dW3" in str(program) and "δ2" not in str(program)


def test_a_frozen_layer_in_the_middle_passes_the_gradient_on():
    program = plain(True, False, True)
    assert "dW2" not in str(program) and "dW1" in str(program) and "δ2" in str(program)


def test_a_network_without_trainable_layers_computes_the_loss_only():
    program = plain(False, False)
    assert not [op for op in program.ops if op.section == 3 and op.name == "matmul"]
    assert "sgd" not in names(program) and "mean_squared_error" in names(program)


def test_metrics_are_part_of_the_step():
    with_metric, without = _net().program(8), _net(metrics=[]).program(8)
    assert "accumulate" in names(with_metric) and "accumulate" not in names(without)


# --- checks of gradients ---------------------------------------------------------------------------------------------


@pytest.fixture
def wrong_rule(monkeypatch):
    """A rule that computes tanh in place of ReLU, so that the backward pass does not fit."""
    internals.use_rules(monkeypatch, [Rule("z = add_row(s, b); a = relu(z)", "a = bias_tanh(s, b)")])


def test_check_gradients_checks_the_rewritten_program(wrong_rule):
    net = network_builder(gpunn.Dense(4, "relu"), gpunn.Dense(2), input_shape=5, loss="mse", dtype="float64")()
    y = X[:6, :2]
    assert not gpunn.check_gradients(net, X[:6], y).ok
    assert gpunn.check_gradients(net, X[:6], y, rewritten=False).ok
    assert "bias_tanh" in str(net.program(6)) and "bias_tanh" not in str(net.program(6, rewritten=False))


@pytest.mark.parametrize("rewritten", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_both_programs_have_the_right_gradients(rewritten, training):
    net = _net(dtype="float64")
    w = np.linspace(0.1, 2, 20)
    report = gpunn.check_gradients(net, X, Y, sample_weight=w, training=training, rewritten=rewritten)
    assert report.ok, report


def test_a_trace_is_never_rewritten(wrong_rule):
    net = network_builder(gpunn.Dense(4, "relu"), gpunn.Dense(2), input_shape=5, loss="mse", dtype="float64")()
    first, _ = net.trace(X, X[:, :2])
    np.testing.assert_array_equal(first.a, np.maximum(first.z, 0))


def test_check_gradients_refuses_other_values_of_rewritten():
    net = _net(dtype="float64")
    with pytest.raises((TypeError, ValueError), match=naming("rewritten")):
        gpunn.check_gradients(net, X, Y, rewritten="no")
