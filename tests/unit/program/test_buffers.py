"""Buffers: live tensors do not share memory, and reuse follows dependencies."""

import numpy as np
import pytest
from helpers.program_recorder import execute, interpret, record
from helpers.random_programs import RandomProgram

from gpunn.kernels import get as kernel
from gpunn.program import Program
from gpunn.program.buffers import ALIGNMENT, assign_buffers


def byte_range(layout, x):
    return layout.offsets[x], layout.offsets[x] + x.nbytes


def share(layout, x, y):
    (a, b), (c, d) = byte_range(layout, x), byte_range(layout, y)
    return a < d and c < b


def lifetimes(program):
    """The first and the last op that uses each tensor that needs memory."""
    found = {x: [k, k] for k, op in enumerate(program.ops) for x in op.outputs if x.place is None}
    for k, op in enumerate(program.ops):
        for view in op.inputs:
            if view.base in found:
                found[view.base][1] = k
    for x in program.outputs:
        if x in found:
            found[x][1] = len(program.ops)
    return found


def may_work_in_place(op, operand, result):
    """True if the kernel's definition lets the result share the operand's memory."""
    if op.kernel is None:
        return False
    number = op.outputs.index(result)
    updated = op.kernel.updated[number]
    allowed = op.kernel.in_place[number] if updated is None else (updated,)
    return any(op.inputs[k].base is operand for k in allowed)


@pytest.mark.parametrize("seed", range(150))
def test_live_tensors_do_not_share_memory(seed):
    program = RandomProgram(seed).program
    layout, life = assign_buffers(program), lifetimes(program)
    assert layout.offsets.keys() == life.keys()
    for x, (first, last) in life.items():
        assert layout.offsets[x] % ALIGNMENT == 0 and layout.offsets[x] + x.nbytes <= layout.size
        for y, (begin, _) in life.items():
            if x is y or not first <= begin <= last or not share(layout, x, y):
                continue
            assert begin == last and may_work_in_place(program.ops[begin], x, y), (str(program), x, y)


@pytest.mark.parametrize("seed", range(100))
def test_memory_is_reused_along_dependencies_only(seed):
    """The writer of a tensor depends on all ops that used the memory before: reuse orders nothing that was free."""
    program = RandomProgram(seed).program
    layout, life = assign_buffers(program), lifetimes(program)
    ancestors = []
    for before in program.dependencies():
        ancestors.append(set(before).union(*(ancestors[k] for k in before)))
    users = {x: set() for x in life}
    for k, op in enumerate(program.ops):
        for x in (*op.outputs, *(view.base for view in op.inputs)):
            users.get(x, set()).add(k)
    for y, (begin, _) in life.items():
        for x, (first, _) in life.items():
            if x is not y and first < begin and share(layout, x, y):
                assert users[x] - {begin} <= ancestors[begin], (str(program), x, y)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("seed", range(30))
def test_launches_on_the_buffers_compute_the_program(seed, dtype):
    case = RandomProgram(seed, dtype=dtype)
    found, expected = ({k: v.copy() for k, v in case.variables.items()} for _ in range(2))
    results = execute(case.program, case.inputs, found), interpret(case.program, case.inputs, expected)
    tolerance = {"float32": 2e-5, "float64": 1e-13}[dtype]
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=0, atol=tolerance, err_msg=name)


@pytest.mark.parametrize("seed", range(60))
def test_random_programs_are_valid_and_stay_so_when_sorted(seed):
    program = RandomProgram(seed).program
    program.verify()
    before = list(program.ops)
    program.sort()
    assert program.ops == before


def test_a_square_matrix_is_not_transposed_in_place():
    """The copy of x' reads elements that an earlier one would have overwritten."""
    x = np.random.default_rng(0).normal(size=(8, 8))
    program = record(lambda x: kernel("relu")((x * 2.0).T), x=x)
    np.testing.assert_array_equal(execute(program, {"x": x})[0], np.maximum(2 * x.T, 0))


# --- cases -----------------------------------------------------------------------------------------------------------


def offsets(function, **layouts):
    """The offsets of the results of a program's ops, in order."""
    program = record(function, **layouts)
    layout = assign_buffers(program)
    return [[layout.offsets.get(x) for x in op.outputs] for op in program.ops], layout


X = np.zeros((8, 100))


def test_elementwise_kernels_work_in_place():
    found, layout = offsets(lambda x: kernel("tanh")(kernel("relu")(x * 2) + 1), x=X)
    assert found == [[0]] * 4 and layout.size == 6400


def test_kernels_by_row_work_in_place_where_they_declare_it():
    found, _ = offsets(lambda x: kernel("softmax")(x * 2), x=X)
    assert found == [[0], [0]]

    def loss(x, w):
        grad_a, _ = kernel("half_squared_error")(x * 2, x, w)
        return grad_a

    (first, (grad_a, _)), _ = offsets(loss, x=X, w=np.zeros(8))
    assert first != [grad_a]


def test_an_operand_that_is_read_again_is_kept():
    def function(x):
        a = x * 2
        return kernel("relu")(a) * a

    found, _ = offsets(function, x=X)
    assert found[0] != found[1]


def test_an_output_is_kept():
    def function(x):
        a = x * 2
        return a, a + 1

    found, _ = offsets(function, x=X)
    assert found[0] != found[1]


def test_a_product_never_works_in_place():
    found, _ = offsets(lambda x, W: (x * 2) @ W, x=np.zeros((8, 8)), W=np.zeros((8, 8)))
    assert found[0] != found[1]


def test_two_results_take_different_memory():
    def function(x):
        a, d = kernel("relu_with_derivative")(x * 2)
        return a * d

    ((first,), (a, d), (last,)), _ = offsets(function, x=X)
    assert a != d and first in (a, d) and last in (a, d)


def test_inputs_are_never_overwritten():
    found, layout = offsets(lambda x: kernel("relu")(x), x=X)
    assert found == [[0]] and layout.size == 6400  # a new buffer, since x has memory of its own


def test_independent_branches_do_not_share_memory():
    """Memory that one branch frees serves the other only where the other waits for it anyway."""

    def function(x):
        left = (x @ x.T).sum(axis=0)
        right = (x @ x.T) @ x
        return left * 2, right

    program = record(function, x=np.zeros((8, 8)))
    layout = assign_buffers(program)
    first, second = (op.outputs[0] for op in program.ops if op.name == "matmul" and op.inputs[1].transposed)
    assert layout.offsets[first] != layout.offsets[second]


def test_a_tensor_in_a_variable_needs_no_memory():
    program = Program()
    program.variable("gradient", 3, "float64")
    x = program.input("x", (2, 3), "float64")
    stored = program.assign("gradient", 0, x.sum(axis=0))
    program.outputs = [stored * 2]
    layout = assign_buffers(program)
    assert stored not in layout.offsets and len(layout.offsets) == 1


@pytest.mark.parametrize("n", [0, 1, 7])
def test_every_buffer_is_aligned(n):
    def function(x):
        a, d = kernel("relu_with_derivative")(x)
        return a, d, x.sum(axis=0)

    (_, layout) = offsets(function, x=np.zeros((n, 3), "float32"))
    assert all(offset % 256 == 0 for offset in layout.offsets.values())
