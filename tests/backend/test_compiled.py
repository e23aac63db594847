"""Compiled code around the kernels: products through BLAS, and the walk over recorded steps."""

import ctypes
import time

import numpy as np
import pytest

import gpunn
from gpunn.backend import compiled
from gpunn.kernels import get as kernel
from gpunn.kernels.state import SIZE, Slot
from gpunn.recording import Recorder

if compiled.library() is None:
    pytest.skip("nothing is compiled here", allow_module_level=True)
needs_blas = pytest.mark.skipif(compiled.blas("float32") is None, reason="NumPy's BLAS exports no product")
SHAPES = [(1, 1, 1), (1, 8, 16), (8, 1, 16), (32, 64, 1), (5, 7, 3), (33, 31, 17), (4, 1, 1)]


def whole(rng, shape, dtype, layout):
    """Small whole numbers, so that every sum is exact; C, transposed, or rows of a wider array."""
    numbers = rng.integers(-8, 9, size=shape).astype(dtype)
    if layout == "transposed":
        return np.ascontiguousarray(numbers.T).T
    if layout == "rows of a wider one":
        wide = np.zeros((shape[0], shape[1] + 3), dtype)
        wide[:, : shape[1]] = numbers
        return wide[:, : shape[1]]
    return numbers


@needs_blas
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("left", ["C", "transposed", "rows of a wider one"])
@pytest.mark.parametrize("right", ["C", "transposed", "rows of a wider one"])
def test_products_are_exact_on_whole_numbers(dtype, left, right):
    rng = np.random.default_rng(0)
    for n, k, m in SHAPES:
        a, b = whole(rng, (n, k), dtype, left), whole(rng, (k, m), dtype, right)
        out = np.full((n, m), np.nan, dtype)
        launch = compiled.bind_product(a, b, out)
        assert launch is not None
        launch()
        np.testing.assert_array_equal(out, a.astype(int) @ b.astype(int))
        # what was bound is read when it runs
        a[...] += 1
        launch()
        np.testing.assert_array_equal(out, a.astype(int) @ b.astype(int))


@needs_blas
def test_nan_and_infinity_come_through_as_in_numpy():
    a = np.array([[1, np.nan], [np.inf, 0], [0, 0]], "float32")
    b = np.array([[0, 1], [1, 2]], "float32")
    out = np.full((3, 2), np.nan, "float32")
    compiled.bind_product(a, b, out)()
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(out, a @ b)


def test_what_blas_cannot_take_is_left_to_numpy():
    x = np.ones((4, 6), "float32")
    out = np.empty((4, 4), "float32")
    every_second = np.ones((6, 8), "float32")[:, ::2]
    assert compiled.bind_product(x, every_second, out) is None
    assert compiled.bind_product(x[:, ::-1], np.ones((6, 4), "float32"), out) is None
    assert compiled.bind_product(x[:0], np.ones((6, 4), "float32"), out[:0]) is None
    assert (
        compiled.bind_product(np.ones((2, 4, 6), "float32"), np.ones((2, 6, 4), "float32"), np.ones((2, 4, 4))) is None
    )
    backend = gpunn.backend.get("cpu")
    backend.bind_matmul(x, every_second, out)()
    np.testing.assert_array_equal(out, np.full((4, 4), 6))


def test_a_function_that_is_no_product_is_not_believed():
    kind = ctypes.CFUNCTYPE(None, *[ctypes.c_longlong] * 6, ctypes.c_float, *[ctypes.c_void_p, ctypes.c_longlong] * 2,
                            ctypes.c_float, ctypes.c_void_p, ctypes.c_longlong)  # fmt: skip

    @kind
    def does_nothing(*arguments):
        pass

    assert not compiled._is_the_product(ctypes.cast(does_nothing, ctypes.c_void_p).value, "float32")


# --- the walk ---------------------------------------------------------------------------------------------------------


def tick(state):
    """A step that does nothing but count."""
    return kernel("tick").bind(out=state, count=1, rows=2)


@pytest.fixture
def state():
    return np.zeros(SIZE)


def test_joined_launches_run_in_order_and_python_stays_between_them(state):
    told = []

    def python():
        told.append((state[Slot.STEP], state[Slot.OFFSET]))

    launches = [tick(state), tick(state), python, tick(state), python, tick(state)]
    joined = compiled.join(launches)
    assert [isinstance(launch, compiled.Walk) for launch in joined] == [True, False, True, False, True]
    for launch in joined:
        launch()
    assert told == [(2, 4), (3, 6)]
    assert state[Slot.STEP] == 4
    # walks are taken apart and joined with their neighbours
    again = compiled.join([*compiled.join([tick(state)]), *compiled.join([tick(state), tick(state)])])
    assert len(again) == 1
    assert again[0].count == 3


def test_repeat_takes_as_many_steps_as_are_asked(state):
    walk = compiled.Walk([tick(state), tick(state)])
    for steps in (1, 2, 7, 1000):
        before = state[Slot.STEP]
        assert walk.repeat(steps, state, seconds=60.0) == steps
        assert state[Slot.STEP] == before + 2 * steps


def test_repeat_stops_when_the_flag_is_raised(state):
    x = np.zeros(1)
    walk = compiled.Walk([kernel("total").bind(x, out=state[Slot.LOSS : Slot.LOSS + 1]),
                          kernel("judge").bind(out=state, count=1, limit=1.0), tick(state)])  # fmt: skip
    assert walk.repeat(5, state, seconds=60.0) == 5
    x[0] = np.nan
    assert walk.repeat(5, state, seconds=60.0) == 1
    assert state[Slot.BAD] == 1 + 5


def test_repeat_comes_back_in_time():
    a = np.zeros((400, 400), "float32")
    out = np.empty_like(a)
    launch = compiled.bind_product(a, a.copy(), out)
    if launch is None:
        pytest.skip("NumPy's BLAS exports no product")
    state = np.zeros(SIZE)
    walk = compiled.Walk([launch, tick(state)])
    begin = time.perf_counter()
    done = walk.repeat(10**9, state, seconds=0.05)
    assert 0.04 < time.perf_counter() - begin < 2.0
    assert done == state[Slot.STEP] < 10**9


def test_rates_follow_the_optimisers_step_and_not_the_batches(state):
    """A batch that changes nothing, all of its weights being zero, takes no step of the schedule."""
    seen = np.zeros(4)
    rates = np.array([0.5, 0.25, 0.125])
    state[Slot.STEP] = 10
    launches = [kernel("sum_of_squares").bind(np.ones(1), state, out=seen[:1]), tick(state)]
    walk = compiled.Walk(launches)
    assert walk.repeat(2, state, rates, 10, seconds=60.0) == 2
    assert state[Slot.LR] == 0.25
    state[Slot.SKIP] = 1
    assert walk.repeat(2, state, rates[1:], 11, seconds=60.0) == 2
    assert (state[Slot.STEP], state[Slot.LR]) == (12, 0.125)
    with pytest.raises(ValueError, match="rates must be 4"):
        walk.repeat(4, state, rates, 10, seconds=1.0)


@pytest.mark.parametrize(
    "schedule", [0.01, gpunn.schedules.StepDecay(0.05, 3), gpunn.schedules.StepDecay(0.05, 1, per="epoch")]
)
def test_an_epoch_in_compiled_code_is_the_epoch_step_by_step(schedule):
    """The same bits, whether Python looks after every step or not."""

    class Look(gpunn.Callback):
        def on_train_batch_end(self, batch, logs=None):
            pass

    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(70, 5)), rng.integers(0, 3, 70)
    w = rng.uniform(0, 1, 70) * (rng.random(70) > 0.5)
    weights = []
    for callbacks in ([], [Look()]):
        net = gpunn.Sequential([gpunn.Dense(7, activation="tanh"), gpunn.Dropout(0.3), gpunn.Dense(3)], seed=0)
        net.compile(gpunn.Adam(schedule), "sparse_categorical_crossentropy", device="cpu")
        history = net.fit(X, y, batch_size=4, epochs=3, sample_weight=w, callbacks=callbacks, verbose=0)
        weights.append([*net.get_weights(), *history.history["loss"]])
    for a, b in zip(*weights, strict=True):
        np.testing.assert_array_equal(a, b)


def test_what_python_computes_is_no_part_of_a_walk():
    def own(y, a):
        return ((a - y) ** 2).sum(axis=1), 2 * (a - y)

    net = gpunn.Sequential([gpunn.Dense(2)], input_shape=3, seed=0)
    net.compile("sgd", own, device="cpu")
    assert "leaves the fast path: loss own is a Python function" in net.summary()
    assert not hasattr(Recorder(gpunn.backend.get("cpu")).call, "keep")
    X = np.ones((9, 3))
    before = net.evaluate(X, np.ones((9, 2)))["loss"]
    net.fit(X, np.ones((9, 2)), epochs=3, batch_size=4, verbose=0)
    assert net.evaluate(X, np.ones((9, 2)))["loss"] < before
