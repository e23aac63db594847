"""The fusions of a CPU: each rule keeps the program's results, NaN and infinity included; what fires in networks."""

import numpy as np
import pytest
from helpers import internals
from helpers.networks import build_network
from helpers.program_recorder import execute, interpret, record_rule
from helpers.programs import accepting, matrix_ops, names, products
from helpers.tolerances import assert_within, sums

import gpunn
from gpunn.backend.cpu import native, rules
from gpunn.program import rewrite

RULES = {rule.text: rule for rule in rules.rewrite_rules()}
CONSTANTS = {"alpha": 0.3}
SPECIAL = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-30, 30.0, -30.0]


def layouts(rule, rng, dtype):
    """Random arrays for the free names of a rule: x (n, k), W (k, m), s (n, m), b (m,)."""
    n, k, m = (int(size) for size in rng.integers(1, 13, 3))
    shapes = {"x": (n, k), "W": (k, m), "s": (n, m), "b": (m,)}
    read = {name for call in rule.before for name, _ in call.inputs} & shapes.keys()
    written = {name for call in rule.before for name in call.outputs}
    return {name: rng.normal(size=shapes[name]).astype(dtype) for name in read - written}


@pytest.mark.parametrize("text", RULES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_each_rule_keeps_all_results(text, seed, dtype, special):
    """In NumPy and by the compiled launches, for random shapes; with special values, some of them NaN and infinite."""
    rule, rng = RULES[text], np.random.default_rng(seed)
    arrays = layouts(rule, rng, dtype)
    if special:
        for values in arrays.values():
            flat = values.reshape(-1)
            flat[rng.integers(flat.size, size=3)] = rng.choice(SPECIAL, 3)
    before, after = (record_rule(rule, CONSTANTS, **arrays) for _ in range(2))
    rewrite(after, [accepting(rule)], verify=True)
    assert names(after) == [call.name for call in rule.after]
    with np.errstate(all="ignore"):
        expected = interpret(before, arrays)
        results = [interpret(after, arrays), execute(before, arrays)]
        if native.gemm_library(dtype) is not None or "W" not in arrays:
            results.append(execute(after, arrays))
        for found in results:
            for got, want in zip(found, expected, strict=True):
                largest = np.abs(want[np.isfinite(want)]).max(initial=1)
                if "W" in arrays:  # products that cancel have the rounding errors of their terms
                    largest = max(
                        largest, np.prod([np.abs(arrays[v][np.isfinite(arrays[v])]).max(initial=1) for v in "xW"])
                    )
                assert_within(got, want, sums(dtype, 12, largest), text)


def test_every_activation_has_a_rule():
    with_bias = {name for name in internals.activations_with_kernels() if name != "identity"}
    written = {call.name for rule in RULES.values() for call in rule.after}
    assert written >= {"gemm_bias", "gemm_bias_relu", *(f"bias_{name}" for name in with_bias)}
    assert not any(rule.nan_lost for rule in RULES.values())


def step_of(*layers, rows=12, n_in=7, loss="half_squared_error", **options):
    net = build_network(*layers, input_shape=n_in, loss=loss, device="cpu", **options)
    program = net.program(rows)
    program.verify()
    return program


@pytest.mark.parametrize(
    "f", ["relu", "tanh", "gelu", "leaky_relu", "elu", "silu", "selu", "mish", "softplus", "sigmoid"]
)
@pytest.mark.parametrize("width", [5, 64, 300])
def test_hidden_layers_have_no_pass_for_the_bias(f, width):
    """Neither with products of BLAS nor with those of small matrices."""
    layers = [gpunn.Dense(width, f), gpunn.Dense(width, f), gpunn.Dense(3)]
    program = step_of(*layers, n_in=200, rows=100)
    hidden = [op for op in program.ops if op.name == "add_row" and op.outputs[0].shape[1] == width]
    assert hidden == []
    forward = [op.name for op in program.ops if op.section == 1]
    assert len(forward) <= 6 and len(products(program)) == 3 * 3 - 1
    assert "relu" not in forward


def test_the_last_layer_of_a_small_network_adds_its_bias_in_registers():
    program = step_of(gpunn.Dense(8, "relu"), gpunn.Dense(3))
    if native.gemm_library("float32") is not None:
        assert [op.name for op in program.ops if op.section == 1] == ["gemm_bias_relu", "gemm_bias"]


def test_a_layer_without_bias_or_activation_is_not_fused():
    program = step_of(gpunn.Dense(300, "tanh", use_bias=False), gpunn.Dense(300), gpunn.Dense(2), n_in=300)
    forward = [op.name for op in program.ops if op.section == 1]
    assert forward == ["matmul", "tanh", "matmul", "add_row", "matmul", "add_row"]


def test_z_is_written_only_where_the_derivative_needs_it():
    for f, results in (("relu", 1), ("tanh", 1), ("gelu", 2), ("silu", 2), ("mish", 2)):
        program = step_of(gpunn.Dense(300, f), gpunn.Dense(2), n_in=300)
        (op,) = [op for op in program.ops if op.name == f"bias_{f}"]
        assert len(op.outputs) == results


def test_a_traced_step_is_not_fused():
    net = build_network(gpunn.Dense(8, "relu"), gpunn.Dense(3), input_shape=7, loss="mse", device="cpu")
    recorded = names(net.program(12, rewritten=False))
    assert recorded.count("matmul") == 5 and recorded.count("add_row") == 2 and "relu" in recorded
    traced = names(internals.program_of(net, 12, training=True, loss=True, backward=True, trace=True))
    assert [name for name in traced if name in ("matmul", "add_row", "relu", "relu_backward", "column_sum")] == [
        name for name in recorded if name in ("matmul", "add_row", "relu", "relu_backward", "column_sum")
    ]


def test_nothing_fuses_across_an_activation_in_python():
    class Own(gpunn.activations.Activation):
        opaque = True

        def f(self, z):
            return np.tanh(z)

        def derivative(self, z, a):
            return 1 - a * a

    program = step_of(gpunn.Dense(300, Own()), gpunn.Dense(2), n_in=300)
    assert [op.name for op in program.ops if op.section == 1] == ["matmul", "add_row", "python", "matmul", "add_row"]
    assert "# activation Own is Python code" in str(program)


def test_prediction_is_fused_too():
    net = build_network(gpunn.Dense(300, "relu"), gpunn.Dropout(0.5), gpunn.Dense(3), input_shape=300, device="cpu")
    assert names(internals.program_of(net, 12, training=False)) == ["matmul", "bias_relu", "matmul", "add_row"]


def test_the_loss_is_the_only_other_op_on_a_matrix():
    """Products with their bias and activation, derivatives, column sums, and the loss."""
    program = step_of(gpunn.Dense(300, "relu"), gpunn.Dense(300, "relu"), gpunn.Dense(3), n_in=300)
    found = matrix_ops(program, 12)
    assert sorted(set(found)) == ["add_row", "bias_relu", "column_sum", "half_squared_error", "relu_backward"]
    assert found.count("half_squared_error") == 1
