"""Programs: recording, variables, dead code, order, verification and text."""

import re

import numpy as np
import pytest
from helpers.program_recorder import interpret
from helpers.programs import Interpreter, names

from gpunn.kernels import get as kernel
from gpunn.kernels.state import SIZE, StateEntry
from gpunn.program import Op, Program, python_call


@pytest.fixture
def program():
    """A program with variables: four parameters, their gradient, and the state array."""
    made = Program()
    for name, size, dtype in (("theta", 6, "float64"), ("gradient", 6, "float64"), ("state", SIZE, "float64")):
        made.variable(name, size, dtype)
    return made


def state(program):
    return program.read("state", 0, SIZE, (SIZE,))


def update(program, start=0, stop=6):
    """Record θ ← θ − ηg of a range."""
    theta, g = (program.read(name, start, stop, (stop - start,)) for name in ("theta", "gradient"))
    new = kernel("sgd")(g, state(program), theta)
    program.assign("theta", start, new)
    return new


def new_tensor(program, shape=(2, 3), **options):
    return program.new_tensor(shape, "float64", **options)


# --- recording -------------------------------------------------------------------------------------------------------


def test_ops_are_recorded_in_order_with_their_section(program):
    x = program.input("x", (2, 3), "float64")
    z = x * 2
    program.section = 1
    a = kernel("relu")(z)
    assert [(op.name, op.section) for op in program.ops] == [("multiply_scalar", 0), ("relu", 1)]
    assert program.ops[1].inputs == (z,) and program.ops[1].outputs == (a,)
    program.verify()


def test_a_part_of_a_variable_is_one_tensor(program):
    assert program.variable("theta", 6, "float64") is program.variables["theta"]
    assert program.read("theta", 0, 6, (2, 3)) is program.read("theta", 0, 6, (2, 3))
    assert program.read("theta", 0, 6, (2, 3)) is not program.read("theta", 0, 6, (6,))


def test_an_assigned_tensor_is_stored_in_the_variable(program):
    x = program.input("x", (2, 3), "float64")
    z = x * 2
    assert program.assign("gradient", 0, z) is z
    assert z.place == (program.variables["gradient"], 0, 6)
    assert program.assign("gradient", 0, z) is z and names(program) == ["multiply_scalar"]
    variables = {"gradient": np.zeros(6)}
    interpret(program, {"x": np.arange(6.0).reshape(2, 3)}, variables)
    np.testing.assert_array_equal(variables["gradient"], 2 * np.arange(6))


@pytest.mark.parametrize("kind", ["input", "part of a variable", "stored elsewhere", "another part"])
def test_a_tensor_that_has_memory_is_copied_into_the_variable(program, kind):
    x = program.input("x", (3,), "float64")
    value = {"input": x, "part of a variable": program.read("theta", 0, 3, (3,))}.get(kind)
    if value is None:
        value = program.assign("theta" if kind == "stored elsewhere" else "gradient", 0, x * 2)
    made = program.assign("gradient", 3, value)
    assert made is not value and made.place == (program.variables["gradient"], 3, 6)
    assert names(program)[-1] == "identity"
    program.verify()


def test_a_value_of_another_type_is_not_assigned():
    program = Program()
    program.variable("sums", 3, "float64")
    x = program.input("x", (2, 3), "float32")
    with pytest.raises(TypeError, match="a value assigned to sums must be float64, got float32"):
        program.assign("sums", 0, kernel("column_sum")(x))


def test_a_kernel_that_updates_its_operand_stays_in_the_variable(program):
    new = update(program)
    assert new.place == (program.variables["theta"], 0, 6)
    assert names(program) == ["sgd"]  # the assignment copies nothing
    program.verify()


def test_the_state_array_is_accessed_entry_by_entry(program):
    kernel("start_batch")(state(program), count=1, rows=4)
    reads, writes = program.ops[0].accesses()
    assert {start for memory, start, _ in writes} == set(kernel("start_batch").state_writes)
    assert {start for memory, start, _ in reads} == set(kernel("start_batch").state_reads)
    assert all(memory is program.variables["state"] and stop == start + 1 for memory, start, stop in writes)


def test_python_code_is_recorded_with_its_reason(program):
    x = program.input("x", (2, 3), "float64")
    w = program.input("w", (2,), "float64")
    a, b = python_call(lambda x, w: (x, w), (x, w), (x, w), "a test of Python")
    assert (a.shape, b.shape, a.batch, b.batch) == ((2, 3), (2,), True, True)
    (op,) = program.ops
    assert op.name == "python" and op.reason == "a test of Python" and not op.partial


# --- dead code -------------------------------------------------------------------------------------------------------


def test_dead_code_is_removed(program):
    x = program.input("x", (2, 3), "float64")
    needed = x * 2
    for unused in (x + 1, needed * 3):
        kernel("relu")(unused)
    stored = needed * 4
    program.assign("gradient", 0, stored)
    kernel("start_batch")(state(program), count=1, rows=2)
    output = x / 2
    program.outputs = [output]
    program.eliminate_dead_code()
    assert [op.scalars for op in program.ops] == [{"c": 2.0}, {"c": 4.0}, {"rows": 2.0}, {"c": 2.0}]
    program.verify()


def test_one_needed_result_keeps_an_op(program):
    x, w = program.input("x", (2, 3), "float64"), program.input("w", (2,), "float64")
    gradient, _ = kernel("half_squared_error")(x, x, w)
    program.outputs = [gradient]
    program.eliminate_dead_code()
    assert names(program) == ["half_squared_error"]


# --- order -----------------------------------------------------------------------------------------------------------


def test_sort_keeps_an_order_that_is_possible(program):
    x = program.input("x", (2, 3), "float64")
    for k in range(20):
        x * k
    before = list(program.ops)
    program.sort()
    assert program.ops == before


def test_sort_moves_only_what_must_move(program):
    x = program.input("x", (2, 3), "float64")
    a = x * 1
    b = a * 2
    c = x * 3
    program.outputs = [b, c]
    first, second, third = program.ops
    program.ops = [second, third, first]
    program.sort()
    assert program.ops == [third, first, second]
    program.verify()


def test_sort_keeps_the_order_of_effects(program):
    """A reader of θ stays before the update, and two writers of the state in their order."""
    x = program.input("x", (2, 6), "float64")
    theta = program.read("theta", 0, 6, (6,))
    kernel("start_batch")(state(program), count=1, rows=2)
    z = x * theta
    update(program)
    kernel("end_step")(state(program), count=1, rows=2)
    program.outputs = [z]
    before = list(program.ops)
    program.sort()
    assert program.ops == before


def test_sort_refuses_a_circle(program):
    x = program.input("x", (2, 3), "float64")
    a = x * 2
    b = a * 3
    program.ops[0].inputs = (b,)
    with pytest.raises(AssertionError, match="have a cycle"):
        program.sort()


def test_dependencies_follow_tensors_and_ranges_of_variables(program):
    x = program.input("x", (2, 3), "float64")
    a = x * 2
    a * 3
    x * 4
    first, second = update(program, 0, 3), update(program, 3, 6)
    kernel("max_abs")(program.read("theta", 0, 6, (6,)))
    found = program.dependencies()
    assert found == [set(), {0}, set(), set(), set(), {3, 4}]
    assert first.place != second.place


# --- verification ----------------------------------------------------------------------------------------------------


def test_a_read_before_the_write_is_found(program):
    x = program.input("x", (2, 3), "float64")
    kernel("relu")(x * 2)
    program.ops.reverse()
    with pytest.raises(AssertionError, match=r"op 0 \(relu\) reads .* before it is written"):
        program.verify()


def test_a_second_write_is_found(program):
    x = program.input("x", (2, 3), "float64")
    z = x * 2
    program.append("relu", (x,), (z,), kernel=kernel("relu"))
    with pytest.raises(AssertionError, match=r"op 1 \(relu\) writes .* again"):
        program.verify()


def test_a_write_into_an_input_is_found(program):
    x = program.input("x", (2, 3), "float64")
    program.append("relu", (x,), (x,), kernel=kernel("relu"))
    with pytest.raises(AssertionError, match=r"writes .* again"):
        program.verify()


def test_a_tensor_of_another_program_is_found(program):
    other = Program()
    x = other.input("x", (2, 3), "float64")
    program.append("relu", (x,), (new_tensor(program),), kernel=kernel("relu"))
    with pytest.raises(AssertionError, match="before it is written"):
        program.verify()


def test_an_output_that_is_never_written_is_found(program):
    program.outputs = [new_tensor(program, name="lost")]
    with pytest.raises(AssertionError, match=r"the output <Tensor lost .*> is never written"):
        program.verify()


def test_a_wrong_shape_of_a_kernel_is_found(program):
    x = program.input("x", (2, 3), "float64")
    program.append("relu", (x,), (new_tensor(program, (3, 2)),), kernel=kernel("relu"))
    with pytest.raises(AssertionError, match=r"op 0 \(relu\) has outputs .* instead of"):
        program.verify()


def test_a_wrong_type_is_found(program):
    x, W = program.input("x", (2, 3), "float64"), program.input("W", (3, 3), "float32")
    single = program.new_tensor((2, 3), np.dtype("float32"))
    program.append("relu", (x,), (single,), kernel=kernel("relu"))
    with pytest.raises(AssertionError, match=r"op 0 \(relu\) has outputs .*float32.* instead of .*float64"):
        program.verify()
    program.ops.clear()
    program.append("matmul", (x, W), (program.new_tensor((2, 3), np.dtype("float64")),))
    with pytest.raises(AssertionError, match="factors of types float64 and float32"):
        program.verify()


@pytest.mark.parametrize("shape", [(2, 3), (2, 2), (3, 4)])
def test_a_wrong_shape_of_a_product_is_found(program, shape):
    x, W = program.input("x", (2, 3), "float64"), program.input("W", (3, 4), "float64")
    program.append("matmul", (x, W), (new_tensor(program, shape),))
    with pytest.raises(AssertionError, match=r"op 0 \(matmul\) has outputs .* instead of"):
        program.verify()


def test_a_place_of_another_size_is_found(program):
    x = program.input("x", (2, 3), "float64")
    z = program.assign("gradient", 0, x * 2)
    z.place = z.place._replace(stop=5)
    with pytest.raises(AssertionError, match="of another size"):
        program.verify()


def test_a_value_of_a_variable_can_be_read_after_it_was_overwritten(program):
    """It is copied before the op that overwrites it, and read from the copy by all later ops."""
    x = program.input("x", (2, 3), "float64")
    first = program.assign("gradient", 0, x * 2)
    program.assign("gradient", 0, x * 3)
    read = kernel("relu")(first), kernel("tanh")(first)
    program.outputs = list(read)
    program.verify()
    assert [op.name for op in program.ops] == ["multiply_scalar", "identity", "multiply_scalar", "relu", "tanh"]
    run = Interpreter(program, {"x": np.ones((2, 3))}, {}).run()
    np.testing.assert_array_equal(run[read[0]], np.full((2, 3), 2.0))


def test_an_update_by_a_kernel_changes_a_variable_only_if_it_is_assigned(program):
    old = program.read("theta", 0, 6, (6,))
    add = kernel("add_penalty_gradient")
    new = add(old, program.read("state", 0, SIZE, (SIZE,)), old, l2=1.0, l1=0.0)
    program.outputs = [new + old]
    program.end_recording()
    program.verify()
    state = np.zeros(SIZE)
    run = Interpreter(program, {}, {"theta": np.ones(6), "state": state}).run()
    np.testing.assert_array_equal(run.variables["theta"], np.ones(6))
    np.testing.assert_array_equal(run[program.outputs[0]], np.full(6, 3.0))


def test_a_value_is_not_written_before_the_variable_is_read(program):
    """The op that computed it precedes one that reads the variable."""
    x = program.input("x", (2, 3), "float64")
    made = x * 2
    seen = kernel("tanh")(program.read("gradient", 0, 6, (2, 3)))
    program.outputs = [seen]
    program.assign("gradient", 0, made)
    run = Interpreter(program, {"x": np.ones((2, 3))}, {}).run()
    np.testing.assert_array_equal(run[seen], np.zeros((2, 3)))
    assert (run.variables["gradient"][:6] == 2).all()


def test_a_value_of_a_variable_that_was_overwritten_is_found(program):
    """The first value of the gradient is read after the second was written to the same place."""
    x = program.input("x", (2, 3), "float64")
    first = program.assign("gradient", 0, x * 2)
    program.assign("gradient", 0, x * 3)
    kernel("relu")(x)
    program.ops[-1].inputs = (first,)
    with pytest.raises(AssertionError, match=r"op 2 \(relu\) reads .* which was overwritten"):
        program.verify()


def test_an_op_of_an_earlier_section_is_found(program):
    x = program.input("x", (2, 3), "float64")
    program.section = 2
    z = x * 2
    program.section = 1
    kernel("relu")(z)
    with pytest.raises(AssertionError, match=r"op 1 \(relu\) belongs to an earlier section"):
        program.verify()


# --- text ------------------------------------------------------------------------------------------------------------


def test_the_text_has_one_numbered_op_per_line(program):
    x, W = program.input("x", (2, 3), "float64"), program.input("W", (3, 3), "float64", batch=False)
    program.section = 1
    z = x @ W
    a = kernel("relu")(z)
    program.section = 3
    program.assign("gradient", 0, 0.5 * a)
    program.section = 4
    update(program)
    kernel("end_step")(state(program), count=1, rows=2)
    python_call(lambda x: x, (x.T @ x,), (W,), "a reason")
    a.name = "a1"
    program.outputs = [a]
    lines = str(program).splitlines()
    assert lines[0] == "inputs: x (2, 3) float64, W (3, 3) float64"
    assert [line for line in lines if not line.startswith(" ")][1:-1] == ["forward:", "backward:", "update:"]
    ops = [line for line in lines if re.match(r" +\d", line)]
    assert ops[:4] == [
        "  0  t1 (2, 3) float64 = matmul(x, W)",
        "  1  a1 (2, 3) float64 = relu(t1)",
        "  2  gradient (2, 3) float64 = multiply_scalar(a1, c=0.5)",
        "  3  theta (6,) float64 = sgd(gradient, state, theta) if updating",
    ]
    assert ops[4].endswith("= end_step(state, rows=2)") and StateEntry.STEP.name in ops[4]
    assert ops[5].endswith("= matmul(xᵀ, x)") and ops[6].endswith("  # a reason")
    assert lines[-1] == "outputs: a1"


def test_names_in_the_text_are_unique(program):
    x = program.input("x", (2, 3), "float64")
    for _ in range(3):
        (x * 2).name = "z"
    a, b = (program.assign("gradient", start, kernel("column_sum")(x)) for start in (0, 3))
    assert [line.split()[1] for line in str(program).splitlines() if "multiply" in line] == ["z", "z.2", "z.3"]
    assert "gradient[0:3] (3,) float64 = " in str(program) and "gradient[3:6] (3,) float64 = " in str(program)
    assert a.place != b.place


def test_bfloat16_is_shown_as_a_storage_type():
    program = Program()
    program.input("x", (2, 3), np.uint16)
    assert str(program).startswith("inputs: x (2, 3) bfloat16")


def test_an_op_describes_itself():
    assert repr(Op("relu", (), ())) == "<Op relu>"
