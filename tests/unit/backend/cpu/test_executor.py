"""Execution of recorded steps: order, sections, threads, other arrays, and blocks of larger arrays."""

import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from helpers import internals, limits

import gpunn
from gpunn import backend
from gpunn.backend.cpu import blas, executor, native
from gpunn.kernels import all_kernels
from gpunn.kernels import get as kernel
from gpunn.kernels._compiler.compiled_launch import CompiledLaunch, byte_range
from gpunn.kernels._compiler.cpu_partition import chunk_bounds
from gpunn.kernels.state import SIZE, StateEntry

if native.executor_library() is None:
    pytest.skip("nothing is compiled here", allow_module_level=True)


# --- one thread -------------------------------------------------------------------------------------------------------


def tick(state):
    """A step that only counts."""
    return kernel("end_step").bind(out=state, count=1, rows=2)


@pytest.fixture
def state():
    return np.zeros(SIZE)


def test_compiled_launches_run_in_order_with_python_between(state):
    seen = []

    def python():
        seen.append((state[StateEntry.STEP], state[StateEntry.OFFSET]))

    launches = [tick(state), tick(state), python, tick(state), python, tick(state)]
    joined = executor.compile_launches(launches)
    assert [isinstance(launch, executor.CompiledExecutor) for launch in joined] == [True, False, True, False, True]
    for launch in joined:
        launch()
    assert seen == [(2, 4), (3, 6)]
    assert state[StateEntry.STEP] == 4


def executor_of(launches, state=None, **options):
    """The compiled executor of one section."""
    return executor.CompiledExecutor([launches], np.zeros(SIZE) if state is None else state, **options)


def test_run_takes_the_given_number_of_steps(state):
    program = executor_of([tick(state), tick(state)], state)
    for steps in (1, 2, 7, 1000):
        before = state[StateEntry.STEP]
        assert program.run(steps, deadline=60.0) == steps
        assert state[StateEntry.STEP] == before + 2 * steps


def test_run_stops_when_the_flag_is_set(state):
    x = np.zeros(1)
    program = executor_of([kernel("sum_all").bind(x, out=state[StateEntry.LOSS : StateEntry.LOSS + 1]),
                           kernel("check_finite").bind(out=state, count=1, limit=1.0), tick(state)], state)  # fmt: skip
    assert program.run(5) == 5
    x[0] = np.nan
    assert program.run(5) == 1
    assert state[StateEntry.NONFINITE_STEP] == 1 + 5


def test_run_returns_after_the_deadline(state):
    a = np.zeros((400, 400), "float32")
    out = np.empty_like(a)
    launch = blas.bind_gemm(a, a.copy(), out)
    if launch is None:
        pytest.skip("NumPy's BLAS exports no cblas_gemm")
    program = executor_of([launch, tick(state)], state)
    begin = time.perf_counter()
    done = program.run(10**9, deadline=0.05)
    assert 0.04 < time.perf_counter() - begin < 2.0
    assert done == state[StateEntry.STEP] < 10**9


def test_rates_are_indexed_by_optimizer_steps_not_batches(state):
    """A batch whose weights are all zero is no step of the schedule."""
    seen = np.zeros(4)
    rates = np.array([0.5, 0.25, 0.125])
    state[StateEntry.STEP] = 10
    launches = [kernel("sum_of_squares").bind(np.ones(1), state, out=seen[:1]), tick(state)]
    program = executor_of(launches, state)
    assert program.run(2, learning_rates=rates) == 2
    assert state[StateEntry.LR] == 0.25
    state[StateEntry.EMPTY_BATCH] = 1
    assert program.run(2, learning_rates=rates[2:].repeat(2)) == 2
    assert (state[StateEntry.STEP], state[StateEntry.LR]) == (12, 0.125)
    with pytest.raises(ValueError, match="learning_rates must be 4"):
        program.run(4, learning_rates=rates)


@pytest.mark.parametrize("deadline", [0.0, 1.0])
@pytest.mark.parametrize("compiled", [True, False])
def test_an_end_runs_after_the_last_section(deadline, compiled, state, monkeypatch):
    """Each step reads its learning rate from the list, and the end of an epoch stores the sums."""
    if not compiled:
        monkeypatch.setenv("GPUNN_COMPILE", "0")
    record, sums = np.zeros((3, 3)), np.zeros(1)
    state[[StateEntry.LOSS, StateEntry.WEIGHT]] = 0.5, 4
    step = [kernel("end_step").bind(out=state, count=1, rows=4)]
    end = [kernel("end_epoch").bind(out=(record, sums, state), count=1, totals_n=1)]
    epochs = backend.get("cpu").executor([step, step], state, end)
    assert isinstance(epochs, executor.CompiledExecutor) == compiled
    epochs.set_times([2, 1])
    left, turns = 9, 0
    while left:
        left, turns = left - epochs.run(left, deadline=deadline, learning_rates=np.arange(9.0)[9 - left :]), turns + 1
    assert (turns > 3) == (deadline == 0)
    assert state[StateEntry.STEP] == 9 and state[StateEntry.OFFSET] == 36 and state[StateEntry.EPOCHS_DONE] == 3
    np.testing.assert_array_equal(record, [[6.0, 12.0, 0.0]] * 3)
    assert state[StateEntry.LR] == 8.0
    epochs.set_times([2, 1], done=2)
    state[StateEntry.NONFINITE_STEP] = 1
    assert epochs.run(3) == 1 and state[StateEntry.EPOCHS_DONE] == 3  # a diverged epoch does not end
    state[StateEntry.NONFINITE_STEP], state[StateEntry.EPOCHS_DONE] = 0, 0
    epochs.set_times([2, 1], done=2)
    assert epochs.run(1) == 1 and state[StateEntry.EPOCHS_DONE] == 1


def test_other_arrays_are_used_after_rebind():
    """With two threads every task has addresses of its own. The launches keep no reference to the arrays."""
    x, y = np.ones((64, 32)), np.empty((64, 32))
    for threads in (1, 2):
        launches = [kernel("relu").bind(x, out=y), kernel("relu_backward").bind(y, x, out=y)]
        program = executor_of(launches, threads=threads, arrays={"x": x, "y": y})
        program.release()
        X, Y = np.random.default_rng(0).normal(size=(64, 32)), np.full((64, 32), np.nan)
        program.rebind({"x": X, "y": Y})
        program()
        np.testing.assert_array_equal(Y, np.where(X > 0, X, 0))
        assert not any(a is x for launch in launches for a in launch.arrays)
    assert not executor_of([kernel("relu").bind(x, out=x)], arrays={"x": x, "first rows": x[:3]}).rebindable


@pytest.mark.parametrize(
    "schedule", [0.01, gpunn.schedules.StepDecay(0.05, 3), gpunn.schedules.StepDecay(0.05, 1, per="epoch")]
)
def test_compiled_epochs_equal_single_steps(schedule):
    """The results are equal bit for bit with and without a callback after every step."""

    class BatchHook(gpunn.Callback):
        def on_train_batch_end(self, batch, logs=None):
            pass

    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(70, 5)), rng.integers(0, 3, 70)
    w = rng.uniform(0, 1, 70) * (rng.random(70) > 0.5)
    weights = []
    for callbacks in ([], [BatchHook()]):
        net = gpunn.Sequential([gpunn.Dense(7, activation="tanh"), gpunn.Dropout(0.3), gpunn.Dense(3)], seed=0)
        net.compile(gpunn.Adam(schedule), "sparse_categorical_crossentropy", device="cpu")
        history = net.fit(X, y, batch_size=4, epochs=3, sample_weight=w, callbacks=callbacks, verbose=0)
        weights.append([*net.get_weights(), *history.history["loss"]])
    for a, b in zip(*weights, strict=True):
        np.testing.assert_array_equal(a, b)


def test_python_functions_are_not_compiled():
    def custom_loss(y, a):
        return ((a - y) ** 2).sum(axis=1), 2 * (a - y)

    net = gpunn.Sequential([gpunn.Dense(2)], input_shape=3, seed=0)
    net.compile("sgd", custom_loss, device="cpu")
    assert "leaves the fast path: loss custom_loss is Python code" in net.summary()
    program = net.program(4)
    assert [op.name for op in program.ops if op.reason] == ["python"]
    assert "python(z1, y, w)  # loss custom_loss is Python code" in str(program)
    X = np.ones((9, 3))
    before = net.evaluate(X, np.ones((9, 2)))["loss"]
    net.fit(X, np.ones((9, 2)), epochs=3, batch_size=4, verbose=0)
    assert net.evaluate(X, np.ones((9, 2)))["loss"] < before


# --- threads ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "parts", "grain"), [(0, 3, 4), (1, 2, 4), (7, 3, 1), (200, 2, 4), (200, 7, 64), (5, 9, 1)]
)
def test_chunk_bounds_cover_every_row_once(n, parts, grain):
    found = chunk_bounds(n, parts, grain)
    assert len(found) <= parts
    assert [i for low, high in found for i in range(low, high)] == list(range(n))
    assert all(low % grain == 0 for low, _ in found)


def test_byte_range_contains_all_elements():
    x = np.zeros((4, 6), "float32")
    base = x.ctypes.data
    assert byte_range(x) == (base, base + 96)
    assert byte_range(x[1:3]) == (base + 24, base + 72)
    assert byte_range(x[:, 2]) == (base + 8, base + 8 + 3 * 24 + 4)
    assert byte_range(x.T) == byte_range(x) == byte_range(x[::-1, ::-1])
    assert byte_range(x[:0]) == (0, 0)


def nets():
    """Networks whose steps contain every form of launch, at sizes that are partitioned."""
    big = {"n": 96, "n_in": 70}

    def dense(*last):
        return [gpunn.Dense(90, "relu", l2=1e-3), gpunn.Dense(70, "tanh", l1=1e-4), *last]

    yield "dropout", big, lambda: [gpunn.Dense(90, "relu"), gpunn.Dropout(0.3), *dense(gpunn.Dense(5, "softmax"))]
    yield "normalised", big, lambda: [gpunn.Dense(90), gpunn.BatchNormalization(), *dense(gpunn.Dense(5))]
    yield "layer", big, lambda: [gpunn.LayerNormalization(), gpunn.Dense(60, "gelu", max_norm=1.0), gpunn.Dense(5)]
    yield "periodic", big, lambda: [gpunn.PeriodicEmbedding(range(60), 5), gpunn.Dense(60, "relu"), gpunn.Dense(5)]


@pytest.mark.slow
@pytest.mark.parametrize("threads", [2, 3, 5])
@pytest.mark.parametrize(("layers", "sizes"), [pytest.param(m, s, id=name) for name, s, m in nets()])
@pytest.mark.parametrize("optimizer", [gpunn.Adam(0.01), gpunn.Momentum(0.01, clipnorm=0.5)])
def test_threads_change_only_the_order_of_sums(layers, sizes, optimizer, threads, monkeypatch):
    """Loss and weights equal those of one thread to rounding, and those of a second run bit for bit."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(250, sizes["n_in"])), rng.integers(0, 5, 250)
    w = rng.uniform(0.5, 2, 250)
    found = {}
    for count in (1, threads, threads):
        internals.use_threads(monkeypatch, count)
        net = gpunn.Sequential(layers(), seed=0, dtype="float64")
        net.compile(optimizer, "sparse_categorical_crossentropy", ["accuracy"], device="cpu")
        history = net.fit(X, y, batch_size=sizes["n"], epochs=3, sample_weight=w, verbose=0)
        numbers = [np.array(history.history["loss"]), *net.get_weights(), net.predict(X)]
        if count in found:
            for a, b in zip(found[count], numbers, strict=True):
                np.testing.assert_array_equal(a, b)
        found[count] = numbers
    for a, b in zip(found[1], found[threads], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11)


def test_concurrent_callers_get_the_results_of_one_caller():
    """The pool runs one program at a time. Other callers run all tasks themselves, with the same results."""
    rng = np.random.default_rng(0)
    problems = [
        (rng.normal(size=(200, 50)).astype("float32"), rng.normal(size=(50, 60)).astype("float32")) for _ in "ab"
    ]

    def build(a, b):
        z, out = np.empty((200, 60), "float32"), np.empty(60, "float32")
        launches = [blas.bind_gemm(a, b, z), kernel("tanh").bind(z, out=z), kernel("column_sum").bind(z, out=out)]
        return executor_of(launches, threads=2), z, out

    if blas.bind_gemm(*problems[0], np.empty((200, 60), "float32")) is None:
        pytest.skip("NumPy's BLAS exports no cblas_gemm")
    wanted = []
    for problem in problems:
        program, *result = build(*problem)
        program()
        wanted.append([x.copy() for x in result])
    wrong = []

    def call_repeatedly(which):
        program, *result = build(*problems[which])
        for _ in range(20):
            program.run(20, deadline=10.0)
            wrong.extend(which for a, b in zip(result, wanted[which], strict=True) if not np.array_equal(a, b))

    callers = [threading.Thread(target=call_repeatedly, args=(k,)) for k in (0, 1, 0)]
    for each in callers:
        each.start()
    for each in callers:
        each.join()
    assert not wrong


def test_barriers_separate_accesses_of_different_threads():
    rng = np.random.default_rng(0)
    x, y, total = rng.normal(size=(64, 32)), np.empty((64, 32)), np.empty(32)
    rowwise = [kernel("relu").bind(x, out=y), kernel("relu_backward").bind(y, x, out=y)]
    whole = kernel("column_sum").bind(y, out=total)
    alone = executor.partition(rowwise, 2)
    shared = executor.partition([*rowwise, whole, *rowwise], 2)
    assert [len(each) for each in alone] == [2, 2] and None not in alone[0] + alone[1]
    # before the sum, which reads all rows, and before y is written again
    assert [each is None for each in shared[0]] == [False, False, True, False, True, False, False]


@pytest.mark.slow
def test_partitioned_kernels_equal_unpartitioned_ones():
    """Tasks run one after another give the result of the whole launch, bit for bit unless it sums all elements."""
    from helpers.kernel_cases import make

    for each in all_kernels():
        case = make(each, each.signature.type_combinations()[0], 150, 200)
        inputs, options = case.arguments()
        whole = each.bind_compiled(*inputs, **options)
        if not isinstance(whole, CompiledLaunch):
            continue
        out = options["out"] if isinstance(options["out"], tuple) else (options["out"],)
        before = [x.copy() for x in out]
        whole()
        wanted = [x.copy() for x in out]
        for x, old in zip(out, before, strict=True):
            x[...] = old
        whole.estimated_ns = 1e6
        parts = whole.partition(3)
        for task in reversed(parts.tasks):
            task.launch()
        if parts.combine is not None:
            parts.combine()
        for x, right in zip(out, wanted, strict=True):
            if parts.combine is not None:
                np.testing.assert_allclose(x, right, rtol=1e-12, err_msg=each.name)
            else:
                np.testing.assert_array_equal(x, right, err_msg=each.name)


def test_subnormals_are_flushed_only_inside_a_step():
    scaled = np.full(40, 1e-38 * 1.2, "float32")
    for flush, threads in ((False, 1), (True, 1), (False, 2), (True, 2)):
        product = np.full(40, np.nan, "float32")
        program = executor_of(
            [kernel("column_dot").bind(scaled[None], np.full((1, 40), 0.5, "float32"), out=product)],
            flush=flush,
            threads=threads,
        )
        program()
        assert (product == 0).all() == flush
        # the caller's arithmetic is not affected
        assert (scaled * np.float32(0.5) > 0).all()


def test_a_thread_limit_of_blas_limits_the_pool():
    threadpoolctl = pytest.importorskip("threadpoolctl")
    if blas.thread_count() < 2:
        pytest.skip("BLAS has one thread here")
    assert executor.thread_count_for(1e9) == min(blas.thread_count(), limits.get("threads"))
    assert executor.thread_count_for(2 * limits.get("thread_work") - 1) == 1
    with threadpoolctl.threadpool_limits(1):
        assert executor.thread_count_for(1e9) == 1


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cores cannot be chosen here")
def test_thread_count_is_limited_to_the_cores_of_the_process():
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, [min(before)])
        assert blas.thread_count() == 1 == executor.thread_count_for(1e9)
    finally:
        os.sched_setaffinity(0, before)


def test_blas_gets_its_threads_back_after_a_run():
    before = blas.thread_count()
    x = np.ones((64, 64))
    executor_of([kernel("tanh").bind(x, out=x)], threads=2)()
    assert blas.thread_count() == before


def test_a_forked_process_gets_a_new_pool():
    if not hasattr(os, "fork"):
        pytest.skip("no fork here")
    code = """
import os, sys
import numpy as np
from gpunn.backend.cpu import executor
from gpunn.kernels import get
x, y, state = np.random.default_rng(0).normal(size=(64, 512)), np.empty((64, 512)), np.zeros(64)
program = executor.CompiledExecutor([[get("tanh").bind(x, out=y), get("identity").bind(y, out=x)]], state, threads=2)
program()
want = y.copy()
child = os.fork()
if child == 0:
    y[...] = 0
    executor.CompiledExecutor([[get("identity").bind(x, out=y)]], state, threads=2)()
    os._exit(0 if np.array_equal(x, y) else 3)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], timeout=120, check=False, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


# --- blocks of larger arrays ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2])
def test_run_blocks_processes_block_after_block(threads):
    x, y = np.empty((16, 8)), np.empty((16, 8))
    launches = [kernel("relu").bind(x, out=y), kernel("relu_backward").bind(y, x, out=y)]
    program = executor_of(launches, threads=threads, arrays={"x": x, "y": y, "unused": np.empty(3)})
    X = np.random.default_rng(0).normal(size=(80, 8))
    for rows in (80, 16, 48):
        result = np.full((rows, 8), np.nan)
        assert program.run_blocks(rows // 16, {"x": X[:rows], "y": result})
        np.testing.assert_array_equal(result, np.where(X[:rows] > 0, X[:rows], 0))
    x[...] = -1
    program()
    assert (y == 0).all()  # its own arrays again
    with pytest.raises(ValueError, match="y must have 6 blocks of 1024 bytes"):
        program.run_blocks(6, {"x": np.empty((96, 8)), "y": np.empty((80, 8))})
    assert not program.run_blocks(1, {"unused": np.empty(3)})


@pytest.mark.parametrize("rows", [1, 7, 8, 9, 40])
@pytest.mark.parametrize("kind", ["float32", "float64", "int8", "strided", "transposed"])
def test_predictions_do_not_depend_on_the_input_path(rows, kind):
    """X is read directly if type and layout allow it, otherwise gathered; the last block may be shorter."""
    net = gpunn.Sequential(
        [gpunn.Dense(9, "tanh"), gpunn.Dropout(0.5), gpunn.Dense(3, "softmax")], input_shape=6, seed=0
    )
    X = np.random.default_rng(0).integers(-3, 4, size=(rows, 6)).astype("float32")
    given = {"strided": np.repeat(X, 2, axis=1)[:, ::2], "transposed": np.asfortranarray(X)}.get(kind)
    given = X.astype(kind) if given is None else given
    before = given.copy()
    wanted = np.concatenate([net.predict(X[k : k + 1]) for k in range(rows)])
    for batch in (8, 1024):
        np.testing.assert_allclose(net.predict(given, batch_size=batch), wanted, rtol=1e-6)
        np.testing.assert_array_equal(given, before)
    given = given.astype("float64") if given.dtype.kind == "i" else given
    given[-1, 2] = np.nan
    with pytest.raises(ValueError, match=f"NaN, first in row {rows - 1}, column 2"):
        net.predict(given, batch_size=8)
