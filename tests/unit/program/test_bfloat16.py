"""Storage in bfloat16 as a pass: what is stored, what is copied, and that nothing but rounding changes."""

import numpy as np
import pytest
from helpers.networks import build_network
from helpers.programs import Interpreter, names
from helpers.tolerances import assert_within, rounded_operands

import gpunn
from gpunn.kernels import get as kernel
from gpunn.kernels import widened
from gpunn.kernels.state import SIZE, StateEntry
from gpunn.program import Program
from gpunn.program.bfloat16 import store_in_bfloat16

BF16 = 2.0**-8


def new_program(**variables):
    """A program for products in bfloat16, with flat float32 variables of these sizes."""
    program = Program(precision="bf16")
    for name, size in variables.items():
        program.variable(name, size, np.float32)
    return program


def stored(program):
    """The names of the tensors that are stored in bfloat16, but for copies."""
    copies = {x for op in program.ops if op.name == "to_bfloat16" for x in op.outputs}
    tensors = [*program.inputs, *(x for op in program.ops for x in op.outputs)]
    return {x.name for x in tensors if x.dtype == np.uint16 and x not in copies}


def named(x, name):
    x.name = name
    return x


def dense(program, *, n=6, k=8, m=16, f="relu"):
    """x, a = f(x W + b) and y = a V of a program whose parameters start at multiples of 8."""
    x = program.input("x", (n, k), np.float32)
    W, b = program.read("theta", 0, k * m, (k, m), "W"), program.read("theta", k * m, k * m + m, (m,), "b")
    a = named(kernel(f)(named(named(x @ W, "s") + b, "z")), "a")
    V = program.read("theta", k * m + m, k * m + m + m * 4, (m, 4), "V")
    return x, a, named(a @ V, "y")


def test_matrices_that_only_products_and_suitable_kernels_access_are_stored():
    program = new_program(theta=8 * 16 + 16 + 16 * 4)
    _, _, y = dense(program)
    program.outputs = [y]
    store_in_bfloat16(program)
    program.verify()
    assert stored(program) == {"x", "s", "z", "a"}
    # V has 4 columns: its rows are padded to 16 bytes, and it is no slice of the copy of all parameters
    assert names(program) == ["to_bfloat16", "matmul", "add_row", "relu", "to_bfloat16", "matmul"]
    copies = [op.outputs[0] for op in program.ops if op.name == "to_bfloat16"]
    assert [(x.shape, x.row_stride) for x in copies] == [((208,), 0), ((16, 4), 8)]
    assert copies[1].nbytes == 2 * 16 * 8


def test_outputs_variables_and_other_readers_keep_float32():
    """a is an output, c has 9 columns, and d is read by a kernel that has no bfloat16."""
    program = new_program(theta=8 * 24, gradient=64)
    x, other = program.input("x", (8, 8), np.float32), program.input("v", (8, 8), np.float32)
    theta = program.read("theta", 0, 64, (8, 8))
    a, c, d = x @ theta, x @ program.read("theta", 64, 136, (8, 9)), x @ theta
    product = kernel("column_dot")(d, other)
    program.assign("gradient", 0, x.T @ other)
    program.outputs = [a, c, product]
    store_in_bfloat16(program)
    program.verify()
    assert stored(program) == {"x"}
    assert {y.dtype.name for y in (a, c, d)} == {"float32"}


def test_operands_of_one_kernel_are_stored_alike():
    """relu_backward reads a and g. g is an output, so that a and δ stay float32, too."""
    program = new_program(theta=64)
    x, W = program.input("x", (8, 8), np.float32), program.read("theta", 0, 64, (8, 8))
    a, g = named(x @ W, "a"), named(x @ W, "g")
    delta = named(kernel("relu_backward")(a, g), "δ")
    y = delta @ W
    program.outputs = [g, y]
    store_in_bfloat16(program)
    program.verify()
    assert stored(program) == {"x"}
    assert {each.dtype.name for each in (a, g, delta)} == {"float32"}


def test_an_operand_is_rounded_once_and_again_after_it_was_written():
    program = new_program(theta=9 * 9, w=64)
    a, b = program.input("a", (6, 9), np.float32), program.input("b", (9, 6), np.float32)
    W = program.read("theta", 0, 81, (9, 9))
    y = [a @ W, b.T @ W, W @ b, a @ W.T]
    assert len(y) == 4
    program.assign("theta", 9, kernel("identity")(program.read("w", 0, 9, (9,))))
    y += [a @ W, W @ b]
    program.outputs = y
    store_in_bfloat16(program)
    program.verify()
    assert names(program).count("to_bfloat16") == 4  # a, b, and W twice
    assert names(program)[-4:] == ["identity", "to_bfloat16", "matmul", "matmul"]


def test_the_bias_of_a_result_in_bfloat16_is_rounded():
    """A vector that starts at no multiple of 8 has a copy of its own; the last bias is float32, as its result."""
    from gpunn.program import Rule, rewrite

    program = new_program(theta=3 + 16 + 64 + 4)
    x = program.input("x", (6, 8), np.float32)
    W, b = program.input("W", (8, 16), np.float32), program.read("theta", 3, 19, (16,))
    y = ((x @ W) + b) @ program.read("theta", 19, 83, (16, 4)) + program.read("theta", 83, 87, (4,))
    program.outputs = [y]
    rewrite(program, [Rule("s = matmul(x, W); z = add_row(s, b)", "z = lt_bias(x, W, b)")])
    store_in_bfloat16(program)
    program.verify()
    first, second = (op for op in program.ops if op.name == "lt_bias")
    assert [v.dtype.name for v in first.inputs] == ["uint16"] * 3
    assert [v.dtype.name for v in second.inputs] == ["uint16", "uint16", "float32"]
    assert first.outputs[0].dtype == np.uint16 and second.outputs[0].dtype == np.float32


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("f", ["relu", "tanh"])
def test_the_pass_changes_nothing_but_the_rounding(f, seed):
    rng = np.random.default_rng(seed)
    n, k, m = int(rng.integers(1, 9)), *(int(v) for v in rng.choice([5, 8, 12, 16, 24], 2))
    before, after = (new_program(theta=k * m + m + 4 * m) for _ in range(2))
    values = {"x": rng.normal(size=(n, k)).astype(np.float32)}
    variables = {"theta": rng.normal(size=k * m + m + 4 * m).astype(np.float32)}
    found = []
    for program in (before, after):
        _, _, y = dense(program, n=n, k=k, m=m, f=f)
        program.outputs = [y]
        if program is after:
            store_in_bfloat16(program)
            program.verify()
            if after.inputs[0].dtype == np.uint16:
                values = {"x": kernel("to_bfloat16")(values["x"])}
        elif k % 8 == 0:
            values = {"x": widened(kernel("to_bfloat16")(values["x"]))}
        found.append(Interpreter(program, values, variables).run()[y])
    scale = np.abs(found[0]).max() + m
    assert_within(found[1], found[0], 8 * rounded_operands(m, scale, BF16))
    assert m % 8 or (found[1] != found[0]).any()


# --- consecutive steps ------------------------------------------------------------------------------------------------


def training_step(fake_cupy, *layers, **options):
    """The program of a step in bfloat16, and its first inputs and variables."""
    net = build_network(*layers, input_shape=8, seed=4, device="cuda", precision="bf16", **options)
    program, rng = net.program(batch_size=6), np.random.default_rng(0)
    program.verify()
    inputs = {"x": kernel("to_bfloat16")(rng.normal(size=(6, 8)).astype(np.float32))}
    inputs |= {"y": np.arange(6, dtype=np.int32) % 3, "sample_weight": np.ones(6, np.float32)}
    inputs["w"] = np.full(6, 1 / 6, np.float32)
    state = np.zeros(SIZE)
    state[StateEntry.LR], state[StateEntry.STEP] = 0.1, 1
    theta = rng.normal(size=program.variables["theta"].size).astype(np.float32)
    return program, inputs, {"theta": theta, "state": state}


def layers(middle=16, **options):
    return gpunn.Dense(32, "relu"), gpunn.Dense(middle, "relu", **options), gpunn.Dense(3, "softmax")


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam", "rmsprop"])
def test_only_the_first_of_consecutive_steps_rounds_the_parameters(fake_cupy, optimizer):
    program, inputs, variables = training_step(fake_cupy, *layers(), optimizer=optimizer)
    assert [op.first_step_only for op in program.ops].count(True) == 1
    assert f"{optimizer}_with_bf16_copy" in names(program) and optimizer not in names(program)
    found = []
    for skip in (False, True):
        run = Interpreter(program, inputs, {k: v.copy() for k, v in variables.items()})
        for step in range(3):
            run.run(first_step=step == 0 or not skip)
        found.append(run.variables["theta"])
    np.testing.assert_array_equal(*found)
    assert (found[0] != variables["theta"]).any()


def test_other_writes_to_the_parameters_require_rounding_in_each_step(fake_cupy):
    """max_norm after the update, and ranges of the flat buffer that do not start at multiples of 8."""
    frozen = gpunn.Dense(7, "relu")
    frozen.trainable = False
    for each in (layers(max_norm=0.5), (gpunn.Dense(5, "relu"), frozen, gpunn.Dense(8, "relu"), gpunn.Dense(3))):
        options = {} if len(each) == 3 else {"loss": "half_squared_error"}
        net = build_network(*each, input_shape=8, seed=4, device="cuda", precision="bf16", **options)
        program = net.program(batch_size=6)
        program.verify()
        assert not any(op.first_step_only for op in program.ops)


def test_a_trace_and_a_prediction_show_float32(fake_cupy):
    net = build_network(*layers(), input_shape=8, seed=4, device="cuda", precision="bf16")
    traced = net.trace(np.ones((6, 8), np.float32), np.arange(6) % 3)
    assert {x.dtype.name for r in traced for x in (r.z, r.a, r.delta)} == {"float32"}
    assert net.predict(np.ones((6, 8), np.float32)).dtype == np.float32


def test_collectives_are_no_products_and_read_float32():
    """An all-reduce of two sums over rows, one of which is a matrix with rows of 16 bytes."""
    program = new_program(theta=64, gradient=72)
    x, delta = program.input("x", (6, 8), np.float32), program.input("δ", (6, 8), np.float32)
    program.section = 3
    sums = x.T @ delta, delta.sum(axis=0)
    reduced = [type(s)(s.program, s.shape, s.dtype) for s in sums]
    program.append("all_reduce", sums, reduced)
    program.outputs = reduced
    store_in_bfloat16(program)
    program.verify()
    assert stored(program) == {"x", "δ"} and names(program) == ["matmul", "column_sum", "all_reduce"]
