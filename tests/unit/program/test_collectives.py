"""All-reduces in programs: where the pass inserts them, and that any number of processes compute what one does."""

import re
from dataclasses import dataclass

import numpy as np
import pytest
from helpers.threaded_group import ThreadedGroup

import gpunn
from gpunn.backend import get as get_backend
from gpunn.backend.executor import execute
from gpunn.kernels import get as kernel
from gpunn.kernels.state import SIZE, StateEntry
from gpunn.network.binding import BoundProgram
from gpunn.program import Program, Rule, first_row, rewrite
from gpunn.program.buffers import assign_buffers
from gpunn.program.collectives import insert_all_reduces
from gpunn.program.groups import SINGLE_PROCESS, shard_bounds

FORWARD, LOSS, BACKWARD, UPDATE = 1, 2, 3, 4
COLLECTIVE = ("all_reduce", "start_all_reduce", "wait_all_reduce")


@dataclass(frozen=True)
class Group:
    """The attributes of a process group that the pass reads."""

    rank: int = 0
    size: int = 2
    bucket_bytes: int | None = None


def new_program(rows=3):
    """A program with x (rows, 4), and variables for its sums."""
    program = Program()
    for name, size in (("gradient", 24), ("state", SIZE), ("sums", 4)):
        program.variable(name, size, np.float64)
    return program, program.input("x", (rows, 4), np.float64)


def reduced(program, group=Group()):
    insert_all_reduces(program, group)
    program.verify()
    return [op.name for op in program.ops]


def places(tensors):
    return [(x.place.variable.name, x.place.start, x.place.stop) for x in tensors]


def collectives(program):
    """The name and the parts of variables of each collective."""
    return [(op.name, places(op.outputs)) for op in program.ops if op.name in COLLECTIVE]


# --- sums that an op reads --------------------------------------------------------------------------------------------


def normalized(program, x):
    mean = kernel("column_mean")(x, factor=0.2)
    variance = kernel("column_variance")(x, mean, factor=0.2)
    program.outputs.append(x - mean)
    program.outputs.append(x - variance)


def test_a_sum_is_reduced_before_its_reader():
    program, x = new_program()
    normalized(program, x)
    names = ["column_mean", "all_reduce", "column_variance", "subtract_row", "all_reduce", "subtract_row"]
    assert reduced(program) == names
    # every reader gets the same sum
    (mean,) = program.ops[1].outputs
    assert program.ops[2].inputs[1] is mean and program.ops[3].inputs[1] is mean


def test_sums_of_one_reader_are_one_collective():
    program, x = new_program()
    program.outputs.append((x.sum(axis=0) + kernel("column_dot")(x, x)) * 2.0)
    assert reduced(program) == ["column_sum", "column_dot", "all_reduce", "add", "multiply_scalar"]


def test_an_output_of_the_program_is_reduced():
    program, x = new_program()
    program.outputs.append(x.sum(axis=0))
    assert reduced(program) == ["column_sum", "all_reduce"]
    assert program.outputs == list(program.ops[1].outputs)


def test_products_over_rows_are_sums_and_products_by_row_are_not():
    program, x = new_program()
    W = program.read("gradient", 0, 8, (4, 2))
    program.outputs += [x.T @ x, x @ W]
    assert reduced(program) == ["matmul", "matmul", "all_reduce"]


def test_values_that_do_not_depend_on_the_rows_are_not_reduced():
    program, _ = new_program()
    g = program.read("gradient", 0, 24, (24,))
    program.assign("state", StateEntry.SQUARED_NORM, kernel("sum_all")(g))
    assert reduced(program) == ["sum_all"]


@pytest.mark.parametrize(
    "combine",
    [lambda x: x @ x.T, lambda x: (x @ x.T) @ x, lambda x: kernel("relu")(x.T) @ x],
    ids=["pairs", "attention", "copied"],
)
def test_a_product_that_combines_rows_of_all_processes_is_refused(combine):
    """Each process has its own rows only. One process computes it."""
    program, x = new_program()
    program.outputs = [combine(x)]
    insert_all_reduces(program, Group(size=1))
    program.verify()
    with pytest.raises(
        ValueError, match=r"combines rows of the batch.*leave out strategy|cannot be divided among processes"
    ):
        insert_all_reduces(program, Group())


def test_a_product_of_transposed_rows_is_not_refused():
    """(Wᵀ xᵀ)ᵀ is computed row by row."""
    program, x = new_program()
    W = program.read("gradient", 0, 8, (4, 2))
    program.outputs = [(W.T @ x.T).base]
    assert reduced(program) == ["matmul"]


def test_a_maximum_over_rows_is_refused():
    program, x = new_program()
    program.outputs.append(kernel("max_abs")(x))
    with pytest.raises(ValueError, match="max_abs over the rows of a batch is not a sum"):
        insert_all_reduces(program, Group())


def test_a_kernel_on_transposed_rows_is_refused():
    """Its rows are columns of the batch, so a sum over them may or may not be partial."""
    program, x = new_program()
    program.outputs.append(kernel("column_sum")(x.T))
    with pytest.raises(ValueError, match="transposed matrix of the batch's rows cannot be divided among processes"):
        insert_all_reduces(program, Group())


# --- sums in variables ------------------------------------------------------------------------------------------------


def backward(program, x, *, reader=True):
    """Gradients of two layers in 16 + 4 and 4 elements, and the loss."""
    program.section = LOSS
    program.assign("state", StateEntry.LOSS, kernel("sum_all")(x))
    program.section = BACKWARD
    program.assign("gradient", 0, x.T @ x)
    program.assign("gradient", 20, x.sum(axis=0))
    delta = x + x
    program.assign("gradient", 16, kernel("column_dot")(x, delta))
    program.section = UPDATE
    if reader:
        g = program.read("gradient", 0, 24, (24,))
        program.assign("sums", 0, kernel("sum_all")(g))


def test_sums_in_variables_are_one_collective_before_the_first_access():
    program, x = new_program()
    backward(program, x)
    names = ["sum_all", "matmul", "column_sum", "add", "column_dot", "all_reduce", "sum_all"]
    assert reduced(program) == names
    assert collectives(program) == [("all_reduce", [("state", 9, 10), ("gradient", 0, 24)])]
    assert program.ops[5].section == UPDATE


def test_sums_that_no_op_reads_are_reduced_at_the_end():
    program, x = new_program()
    backward(program, x, reader=False)
    assert reduced(program)[-1] == "all_reduce"


def test_an_entry_of_the_state_is_reduced_before_the_kernel_that_reads_it():
    program, x = new_program()
    state = program.read("state", 0, SIZE, (SIZE,))
    w = program.input("w", (3,), np.float64)
    program.assign("state", StateEntry.WEIGHT, kernel("sum_all")(w))
    program.assign("state", StateEntry.LOSS, kernel("sum_all")(x))
    kernel("start_shard")(state, count=1, first=3)  # accesses another entry
    kernel("start_weighted_batch")(state, count=1)
    assert reduced(program) == ["sum_all", "sum_all", "start_shard", "all_reduce", "start_weighted_batch"]


def test_gradients_of_frozen_layers_are_reduced_with_the_others():
    """All processes send the same bytes, even if a layer is frozen on one of them only."""
    program, x = new_program()
    program.section = BACKWARD
    program.assign("gradient", 20, x.sum(axis=0))
    reduced(program)
    assert collectives(program) == [("all_reduce", [("gradient", 0, 24)])]


def test_a_reader_of_a_gradient_gets_a_copy_and_the_variable_keeps_the_partial_sum():
    program, x = new_program()
    program.section = BACKWARD
    d = x.sum(axis=0)
    program.assign("gradient", 20, d)
    program.outputs.append(x - d)
    assert reduced(program) == ["column_sum", "all_reduce", "subtract_row", "all_reduce"]
    copy, last = program.ops[1], program.ops[3]
    assert copy.outputs[0].place is None and places(last.outputs) == [("gradient", 0, 24)]


def test_local_sums_are_read_as_they_are_and_reduced_as_gradients():
    program, x = new_program()
    program.section, program.local_sums = BACKWARD, True
    mean, d = kernel("column_mean")(x, factor=0.5), x.sum(axis=0)
    program.local_sums = False
    program.assign("gradient", 20, d)
    program.outputs += [x - mean, x - d]
    assert reduced(program) == ["column_mean", "column_sum", "subtract_row", "subtract_row", "all_reduce"]
    assert program.ops[3].inputs[1] is d


def test_a_local_sum_that_is_read_after_the_reduction_is_copied():
    program, x = new_program()
    program.section, program.local_sums = BACKWARD, True
    d = x.sum(axis=0)
    program.local_sums = False
    program.assign("gradient", 20, d)
    program.assign("sums", 0, kernel("sum_all")(program.read("gradient", 0, 24, (24,))))
    program.outputs.append(x - d)
    assert reduced(program) == ["column_sum", "identity", "all_reduce", "sum_all", "subtract_row"]
    assert program.ops[4].inputs[1] is program.ops[1].outputs[0]


# --- buckets ----------------------------------------------------------------------------------------------------------


def test_a_bucket_starts_when_the_gradients_of_a_layer_are_complete():
    program, x = new_program()
    backward(program, x)
    names = ["sum_all", "matmul", "column_sum", "add", "start_all_reduce", "column_dot", "start_all_reduce"]
    assert reduced(program, Group(bucket_bytes=128)) == [*names, "wait_all_reduce", "sum_all"]
    assert collectives(program) == [
        ("start_all_reduce", [("gradient", 0, 16)]),  # 128 bytes, and not the 32 bytes from 20 on
        ("start_all_reduce", [("state", 9, 10), ("gradient", 16, 24)]),
        ("wait_all_reduce", [("gradient", 0, 16), ("state", 9, 10), ("gradient", 16, 24)]),
    ]


@pytest.mark.parametrize("bucket", [1, 129, 10**6])
def test_a_range_in_flight_has_no_access_before_the_wait(bucket):
    program, x = new_program()
    backward(program, x)
    reduced(program, Group(bucket_bytes=bucket))
    in_flight = []
    for op in program.ops:
        if op.name == "wait_all_reduce":
            assert sorted(places(op.inputs)) == sorted(in_flight)
            in_flight = []
        for memory, start, stop in [access for each in op.accesses() for access in each]:
            assert not any(getattr(memory, "name", "") == v and start < b and a < stop for v, a, b in in_flight)
        if op.name == "start_all_reduce":
            in_flight += places(op.outputs)
    assert not in_flight


def test_a_gradient_with_a_later_reader_is_not_sent_before():
    program, x = new_program()
    program.section, program.local_sums = BACKWARD, True
    d = x.sum(axis=0)
    program.assign("gradient", 20, d)
    program.local_sums = False
    delta = x + x
    program.outputs.append(delta - d)
    assert reduced(program, Group(bucket_bytes=1)) == [
        "column_sum",
        "add",
        "subtract_row",
        "start_all_reduce",
        "start_all_reduce",  # of the rest, which is zeros
        "wait_all_reduce",
    ]


# --- row 0 of the batch -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [0, 1])
def test_the_first_row_is_sent_once_per_table(rank):
    program, x = new_program(rows=2 - rank)
    program.outputs += [x - first_row(x), x + first_row(x)]
    source = "first_row" if rank == 0 else "zeros"
    assert reduced(program, Group(rank)) == [source, "all_reduce", "subtract_row", "add_row"]


def test_one_process_has_the_first_row():
    program, x = new_program()
    program.outputs.append(x - first_row(x))
    assert reduced(program, Group(size=1)) == ["first_row", "subtract_row"]


# --- order ------------------------------------------------------------------------------------------------------------


def test_collectives_keep_their_order():
    """Ranks may fuse different ops, since a shard of one row more may use another kernel."""
    programs = []
    for rules in ([], [Rule("y = add(x, x); s = column_dot(x, y)", "y, s = fused(x, x)")]):
        program, x = new_program()
        backward(program, x)
        normalized(program, x)
        reduced(program, Group(bucket_bytes=1))
        rewrite(program, rules)
        programs.append(program)
    plain, fused = programs
    assert len(fused.ops) == len(plain.ops) - 1
    assert collectives_by_shape(plain) == collectives_by_shape(fused)


def test_sorting_keeps_the_order_of_collectives():
    """The second collective depends on the first by no tensor."""
    program, x = new_program()
    program.outputs += [x - x.sum(axis=0), x - kernel("column_dot")(x, x)]
    reduced(program)
    before = [op for op in program.ops if op.name in COLLECTIVE]
    assert len(before) == 2
    first = program.ops.index(before[0])
    assert first in program.dependencies()[program.ops.index(before[1])]


def collectives_by_shape(program):
    return [(op.name, [x.shape for x in op.outputs]) for op in program.ops if op.name in COLLECTIVE]


# --- results ----------------------------------------------------------------------------------------------------------

RNG = np.random.default_rng(3)
X = RNG.normal(size=(7, 4))


def compute(group, offset, rows):
    """Run the same program on some rows of X. Return its output and its variables."""
    program, x = new_program(rows)
    program.section = FORWARD
    mean = kernel("column_mean")(x, factor=1 / len(X))
    program.outputs.append(x - mean - first_row(x))
    backward(program, program.outputs[0])
    insert_all_reduces(program, group)
    program.verify()
    variables = {name: np.zeros(v.size) for name, v in program.variables.items()}
    inputs = {x: np.ascontiguousarray(X[offset : offset + rows])}
    bound = BoundProgram(program, assign_buffers(program), get_backend("cpu"), group, inputs, variables)
    for _ in range(2):
        execute(launch for section in bound.launches for launch in section)
    return bound.array(program.outputs[0]).copy(), variables


@pytest.mark.parametrize("bucket", [None, 1, 100])
@pytest.mark.parametrize("size", [2, 3, 9])
def test_any_number_of_processes_compute_what_one_does(size, bucket):
    """With nine processes two have no rows."""
    output, wanted = compute(SINGLE_PROCESS, 0, len(X))

    def run(strategy):
        group = strategy.start()
        return compute(group, *shard_bounds(len(X), group.rank, group.size))

    found = ThreadedGroup(size).run(run, bucket_bytes=bucket)
    np.testing.assert_allclose(np.concatenate([each for each, _ in found]), output, rtol=1e-13)
    for _, variables in found:
        for name, values in variables.items():
            np.testing.assert_allclose(values, wanted[name], rtol=1e-12, atol=1e-14, err_msg=name)
            np.testing.assert_array_equal(values, found[0][1][name])


# --- recorded steps ---------------------------------------------------------------------------------------------------


def step_program(strategy, batch_size=5):
    layers = [gpunn.Dense(9, "relu", l2=0.01), gpunn.BatchNormalization(), gpunn.Dense(3)]
    net = gpunn.Sequential(layers, seed=0, input_shape=7)
    net.compile("adam", "mse", metrics=["r2"], strategy=strategy, device="cpu")
    program = net.program(batch_size=batch_size)
    program.verify()
    return program


def lines_with(program, word):
    return [line.strip().split("  ", 1)[1] for line in str(program).splitlines() if word in line]


def test_the_all_reduces_of_a_step():
    for program in ThreadedGroup(2).run(step_program, synchronized_batch_norm=True):
        found = lines_with(program, "all_reduce(")
        assert found[0] == "Σmean2 (9,) float32 = all_reduce(mean2)"
        assert found[1] == "Σvariance2 (9,) float32 = all_reduce(variance2)"
        assert re.search(r" \(3,\) float32 = all_reduce\(t\d+\)$", found[2])  # row 0 of y
        assert found[3] == "Σdgamma2 (9,) float32, Σdbeta2 (9,) float32 = all_reduce(dgamma2, dbeta2)"
        assert found[4].endswith("= all_reduce(LOSS, batch_metrics[0:12], gradient)") and len(found) == 5
        assert "Σdgamma2, Σdbeta2" in lines_with(program, "batch_normalize_backward(")[0]


def test_batch_statistics_of_each_process():
    for program in ThreadedGroup(2).run(step_program):
        assert len(lines_with(program, "all_reduce(")) == 2  # row 0, and the gradient with loss and metrics
        assert "dgamma2, dbeta2" in lines_with(program, "batch_normalize_backward(")[0]


def test_ranks_run_the_same_collectives():
    """Also a rank without rows, whose kernels may differ."""
    for batch_size in (5, 3, 1):
        options = {"synchronized_batch_norm": True, "bucket_bytes": 100}
        programs = ThreadedGroup(3).run(lambda s, n=batch_size: step_program(s, n), **options)
        found = [collectives_by_shape(program) for program in programs]
        assert found == [found[0]] * 3 and "start_all_reduce" in dict(found[0])
