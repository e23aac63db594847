"""A step as one CUDA graph, simulated: the fake CuPy stores what a capture launches, and raises where a GPU would. On a
machine with a GPU the same fits run on it."""

import functools
import gc
import warnings
import weakref

import numpy as np
import pytest
from helpers import internals, limits
from helpers.messages import naming
from helpers.summaries import slow_path

import gpunn
from gpunn import backend, kernels
from gpunn.backend.cuda import graph, stream_scheduler
from gpunn.backend.cuda.matmul import ProductWarning
from gpunn.backend.cuda.stream_scheduler import START
from gpunn.kernels import DeviceLaunch
from gpunn.kernels.state import SIZE, StateEntry


@pytest.fixture
def several(fake_cupy, monkeypatch):
    """Graphs of up to three steps, many of them between two polls of the clock, on a busy machine too."""
    limits.set(monkeypatch, "graph_steps", 3)
    limits.set(monkeypatch, "graph_polls", 1e-4)
    return fake_cupy


def _never(self, steps, with_schedule):
    """Steps that run launch by launch."""
    return None


# --- whole fits -------------------------------------------------------------------------------------------------------

NETS = {
    "plain": {"layers": lambda: [gpunn.Dense(6, "tanh"), gpunn.Dense(4)], "rule": lambda: gpunn.SGD(0.1)},
    "everything": {
        "layers": lambda: [
            gpunn.Dense(7, activation="relu", l2=0.01, max_norm=2.0),
            gpunn.BatchNormalization(),
            gpunn.Dropout(0.3),
            gpunn.Dense(6, activation="gelu", l1=0.001),
            gpunn.LayerNormalization(),
            gpunn.Dense(4, activation="softmax"),
        ],
        "rule": lambda: gpunn.Adam(0.01, clipnorm=1.0),
    },
    "periodic": {
        "layers": lambda: [
            gpunn.PeriodicEmbedding([2, 0], 3),
            gpunn.Dense(5, "tanh"),
            gpunn.PeriodicEmbedding(range(1, 5), 2),
            gpunn.Dense(4),
        ],
        "rule": lambda: gpunn.AdamW(0.01),
    },
    "schedule": {
        "layers": lambda: [gpunn.Dense(5, "sigmoid"), gpunn.Dense(4)],
        "rule": lambda: gpunn.Momentum(gpunn.schedules.ExponentialDecay(0.2, decay_steps=3, decay_rate=0.8)),
    },
}


def _fit(name, device="cuda", dtype="float64", **options):
    rng = np.random.default_rng(2)
    # 45 rows in batches of 4: eleven full batches and a tail of one row
    X, y, w = rng.normal(size=(45, 3)), rng.integers(0, 4, size=45), rng.uniform(0.5, 2, size=45)
    net = gpunn.Sequential(NETS[name]["layers"](), seed=9, dtype=dtype)
    net.compile(NETS[name]["rule"](), "sparse_categorical_crossentropy", metrics=["accuracy"], device=device)
    history = net.fit(X, y, batch_size=4, epochs=5, sample_weight=w, verbose=0, **options)
    return net, history.history


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", NETS)
def test_replay_equals_separate_launches_bit_for_bit(several, monkeypatch, name, dtype):
    net, history = _fit(name, dtype=dtype)
    replayed = internals.graphs_run(several)
    internals.refuse_graphs(monkeypatch, _never)
    several.state.calls.clear()
    eager, expected = _fit(name, dtype=dtype)
    assert len(set(replayed)) >= 2, "one graph of one step, and one of several"
    assert not internals.graphs_run(several)
    for a, b in zip(net.get_weights(), eager.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    for key in ("loss", "accuracy"):
        assert history[key] == expected[key]


@pytest.mark.parametrize("name", NETS)
def test_replay_agrees_with_a_cpu(several, name):
    net, history = _fit(name)
    there, expected = _fit(name, device="cpu")
    assert internals.graphs_run(several)
    np.testing.assert_allclose(history["loss"], expected["loss"], rtol=1e-10)
    for a, b in zip(net.get_weights(), there.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_divergence_in_a_graph_keeps_the_last_finite_weights(several):
    rng = np.random.default_rng(2)
    X, y = rng.normal(size=(64, 3)).astype(np.float32), rng.normal(size=(64, 2)).astype(np.float32)
    y[50] = 1e30  # in the thirteenth step
    net = gpunn.Sequential([gpunn.Dense(6, "tanh"), gpunn.Dense(2)], seed=9)
    net.compile(gpunn.SGD(0.01), "half_squared_error", device="cuda")
    other = gpunn.Sequential([gpunn.Dense(6, "tanh"), gpunn.Dense(2)], seed=9)
    other.compile(gpunn.SGD(0.01), "half_squared_error", device="cuda")
    with pytest.raises(gpunn.DivergenceError, match="step 13"):
        net.fit(X, y, batch_size=4, epochs=1, shuffle=False, verbose=0)
    assert internals.graphs_run(several)
    other.fit(X[:48], y[:48], batch_size=4, epochs=1, shuffle=False, verbose=0)
    for a, b in zip(net.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_products_that_cannot_be_captured_run_between_graphs(fake_cupy, monkeypatch):
    """CuPy's own products run one by one, and the launches between two of them are a graph; nothing fails."""
    internals.hide_cublaslt(monkeypatch)
    with pytest.warns(ProductWarning, match=naming("CuPy")):
        _net, history = _fit("plain")
    _, expected = _fit("plain", device="cpu")
    assert "matmul" in fake_cupy.state.calls and internals.graphs_run(fake_cupy)
    np.testing.assert_allclose(history["loss"], expected["loss"], rtol=1e-10)


def test_a_user_defined_loss_runs_between_graphs(several):
    def own(y, a):
        return 0.5 * ((a - y) ** 2).sum(axis=1), a - y

    rng = np.random.default_rng(4)
    X, y, found = rng.normal(size=(20, 3)), rng.normal(size=(20, 2)), []
    for loss in (own, "half_squared_error"):
        net = gpunn.Sequential([gpunn.Dense(4, "tanh"), gpunn.Dense(2)], seed=1, dtype="float64")
        net.compile("adam", loss, device="cuda")
        found.append(net.fit(X, y, batch_size=4, epochs=3, verbose=0).history["loss"])
    np.testing.assert_allclose(*found, rtol=1e-12)


def test_train_on_batch_replays_a_graph(several):
    rng = np.random.default_rng(4)
    batches = [(rng.normal(size=(8, 3)), rng.integers(0, 4, size=8)) for _ in range(6)]
    found = []
    for device in ("cpu", "cuda"):
        net = gpunn.Sequential([gpunn.Dense(5, "relu"), gpunn.Dense(4)], seed=3, dtype="float64")
        net.compile("adam", "sparse_categorical_crossentropy", device=device)
        found.append([net.train_on_batch(x, y) for x, y in batches])
    np.testing.assert_allclose(found[1], found[0], rtol=1e-11)
    assert len(internals.graphs_run(several)) == len(batches) - graph.WARM_UP_STEPS


def test_fit_on_a_stream_replays_a_graph(several):
    rng = np.random.default_rng(4)
    batches = [(rng.normal(size=(n, 3)), rng.normal(size=(n, 2))) for n in (8, 8, 8, 8, 8, 5)]
    found = []
    for device in ("cpu", "cuda"):
        net = gpunn.Sequential([gpunn.Dense(5, "tanh"), gpunn.Dense(2)], seed=3, dtype="float64")
        net.compile("adam", "half_squared_error", device=device)
        found.append(net.fit(lambda: iter(batches), epochs=3, verbose=0).history["loss"])
    np.testing.assert_allclose(found[1], found[0], rtol=1e-11)
    assert internals.graphs_run(several)


@pytest.fixture
def captures(fake_cupy, monkeypatch):
    """A list that grows by one with each capture."""
    return internals.record_captures(monkeypatch)


@pytest.mark.parametrize("weighted", [False, True])
def test_validation_is_captured_once_per_fit(captures, weighted):
    rng = np.random.default_rng(5)
    rows = 4 * limits.get("evaluation_rows") + 10  # four blocks and a tail
    X, y, w = rng.normal(size=(rows, 3)), rng.integers(0, 2, size=rows), rng.uniform(0.5, 2, size=rows)
    found = []
    for device in ("cpu", "cuda"):
        net = gpunn.Sequential([gpunn.Dense(5, "tanh"), gpunn.Dense(2)], seed=3, dtype="float64")
        # one metric of sums and one of all rows
        net.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy", "auc"], device=device)
        held = (X, y, w) if weighted else (X, y)
        given = {"validation_data": held, "batch_size": 16, "epochs": graph.WARM_UP_STEPS + 3, "verbose": 0}
        found.append(net.fit(X[:16], y[:16], **given).history)
    # the step, the blocks, the tail: each runs at least once per epoch, and three times before its capture
    assert len(captures) == 3
    assert {"val_loss", "val_accuracy", "val_auc"} < set(found[0])
    for name, values in found[0].items():
        np.testing.assert_allclose(found[1][name], values, rtol=1e-10, err_msg=name)


def test_the_forward_pass_is_captured_once_for_all_predictions_of_one_size(captures):
    rng = np.random.default_rng(5)
    batches = [rng.normal(size=(8, 3)).astype(dtype) for dtype in ("float32", "float64", "int32") * 2]
    found = []
    for device in ("cpu", "cuda"):
        net = gpunn.Sequential([gpunn.Dense(5, "tanh"), gpunn.Dense(4, "relu"), gpunn.Dense(2)], seed=3)
        net.compile("sgd", "mse", device=device)
        found.append([net.predict(X) for X in batches])
        net.set_weights([2 * w for w in net.get_weights()])  # a graph reads them through its buffers
        found[-1].append(net.predict(batches[0]))
    # the launches of a forward pass depend on each other; max |x|, which finds invalid numbers, is independent
    assert [len(each.streams) for each in captures] == [2]
    for there, here in zip(found[1], found[0], strict=True):
        np.testing.assert_allclose(there, here, rtol=1e-5, atol=1e-6)


def test_evaluated_data_is_released(fake_cupy):
    rng = np.random.default_rng(5)
    net = gpunn.Sequential([gpunn.Dense(5, "tanh"), gpunn.Dense(2)], seed=3, dtype="float64")
    net.compile("adam", "mse", device="cuda")
    net.build(3)
    seen = []
    for _ in range(3):
        data = internals.on_device(net, rng.normal(size=(8, 3)), rng.normal(size=(8, 2)))
        seen.append((internals.score(net, data)["loss"], weakref.ref(data.X)))
        del data
    gc.collect()
    assert len({loss for loss, _ in seen}) == 3, "each data set is evaluated"
    assert [there() for _, there in seen] == [None] * 3


def test_the_blocks_of_an_lbfgs_fit_are_captured_once(captures, monkeypatch):
    pytest.importorskip("sklearn", reason="the estimators need scikit-learn")

    limits.set(monkeypatch, "lbfgs_elements", 1)  # blocks of 1024 rows
    rng = np.random.default_rng(5)
    X, y = rng.normal(size=(1100, 3)), rng.normal(size=1100)
    found = []
    for device in ("cpu", "cuda"):
        made = gpunn.MLPRegressor(
            hidden_layer_sizes=(4,), activation="tanh", solver="lbfgs", max_iter=12, random_state=0, device=device
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # twelve iterations do not converge
            found.append(made.fit(X, y).predict(X[:9]))
    assert len(captures) == 2
    np.testing.assert_allclose(found[1], found[0], rtol=1e-6)


# --- a single graph ---------------------------------------------------------------------------------------------------


class Steps:
    """A step that adds one to each of three numbers by separate launches and advances the state's step."""

    def __init__(self, cupy):
        self.backend = backend.get("cuda")
        self.x = cupy.zeros((3,), np.float64)
        self.state = cupy.zeros((SIZE,), np.float64)
        self.seen = cupy.zeros((128,), np.float64)
        count = cupy.ElementwiseKernel("", "raw float64 x_", "x_[i] += 1;", "count")
        note = cupy.ElementwiseKernel(
            "raw float64 state_", "raw float64 seen_", "seen_[(long long)state_[0]] = state_[1];", "note"
        )
        parts = [self.x[k : k + 1] for k in range(3)]
        self.launches = [
            *(DeviceLaunch([functools.partial(count, part, size=1)], [part], [part]) for part in parts),
            DeviceLaunch([lambda: note(self.state, self.seen, size=1)], [self.state], [self.seen]),
            kernels.get("end_step").bind(out=self.state, count=1, rows=1),
        ]
        (self.graph,) = self.backend.compile(self.launches)

    def read(self):
        return self.x.get().tolist(), int(self.state.get()[StateEntry.STEP])


@pytest.fixture
def steps(fake_cupy):
    return Steps(fake_cupy)


@pytest.mark.parametrize("times", [1, 3, 4, 35, 36, 100])
def test_repeat_runs_the_requested_steps(steps, times):
    assert steps.graph.repeat(times, steps.state, seconds=60.0) == times
    assert steps.read() == ([times] * 3, times)


def test_warm_up_then_graphs_of_many_steps_then_a_tail_of_single_steps(fake_cupy, steps):
    internals.expect_seconds(steps.graph, 1e-9)  # so short that the clock is read only once
    fake_cupy.state.calls.clear()
    several = steps.graph.steps
    assert several == graph.MAX_STEPS
    steps.graph.repeat(graph.WARM_UP_STEPS, steps.state, seconds=60.0)
    assert not internals.graphs_run(fake_cupy)
    internals.expect_seconds(steps.graph, 1e-9)
    steps.graph.repeat(2 * several + 2, steps.state, seconds=60.0)
    assert internals.graphs_run(fake_cupy) == [5 * several] * 2 + [5] * 2
    assert steps.read()[1] == graph.WARM_UP_STEPS + 2 * several + 2


def test_a_call_runs_one_step(steps):
    for _ in range(6):
        steps.graph()
    assert steps.read() == ([6.0] * 3, 6)


def test_repeat_returns_at_the_deadline(steps):
    assert steps.graph.repeat(10**9, steps.state, seconds=0.0) == 1


def test_each_step_reads_its_learning_rate(steps):
    rates = np.linspace(0.5, 0.1, 50)
    done = 0
    while done < 50:
        done += steps.graph.repeat(50 - done, steps.state, rates=rates[done:], first=done, seconds=60.0)
    np.testing.assert_array_equal(steps.seen.get()[:50], rates)


def test_learning_rates_beyond_the_buffer_need_another_call(steps, monkeypatch):
    limits.set(monkeypatch, "graph_rates", 7)
    assert steps.graph.repeat(20, steps.state, rates=np.arange(20.0), seconds=60.0) == 7
    np.testing.assert_array_equal(steps.seen.get()[:7], np.arange(7.0))


def test_learning_rates_follow_the_step_in_the_state(steps):
    steps.graph.repeat(5, steps.state, seconds=60.0)
    steps.graph.repeat(4, steps.state, rates=np.array([5.0, 6, 7, 8]), first=5, seconds=60.0)
    np.testing.assert_array_equal(steps.seen.get()[:10], [0, 0, 0, 0, 0, 5, 6, 7, 8, 0])


# --- what cannot be captured ------------------------------------------------------------------------------------------

FORBIDDEN = {
    "an allocation": lambda cupy, x: cupy.zeros((2,), np.float64),
    "a copy to the host": lambda cupy, x: x.get(),
    "a wait": lambda cupy, x: cupy.cuda.runtime.deviceSynchronize(),
    "cuBLAS": lambda cupy, x: cupy.matmul(x[None, :], x[:, None]),
}


@pytest.mark.parametrize("name", FORBIDDEN)
def test_a_failed_capture_falls_back_to_separate_launches_with_a_warning(fake_cupy, steps, name):
    faulty = DeviceLaunch([lambda: FORBIDDEN[name](fake_cupy, steps.x)], [steps.x], [])
    (made,) = steps.backend.compile([*steps.launches, faulty])
    with pytest.warns(graph.CaptureWarning, match=r"slower: .*Error"):
        assert made.repeat(10, steps.state, seconds=60.0) == 10
    assert steps.read() == ([10.0] * 3, 10)
    assert not fake_cupy.state.capturing
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the warning was issued before
        made.repeat(3, steps.state, seconds=60.0)
    assert steps.read()[1] == 13


def _refuses(self, steps, with_schedule):
    raise MemoryError("no room\nfor it")


def test_the_summary_reports_a_failed_capture(fake_cupy, monkeypatch):
    """After the failure, once for any number of graphs, and until the network is compiled again or moved."""
    why = "leaves the fast path: no CUDA graph could be captured, MemoryError: no room for it"
    internals.refuse_capture(monkeypatch, _refuses)
    with pytest.warns(graph.CaptureWarning, match="no room for it"):
        net, _ = _fit("plain")
    assert str(net.summary()).splitlines()[-1] == why and str(net.summary()).count("CUDA graph") == 1
    assert slow_path(net.to("cpu").summary()) == []
    net.compile("adam", "sparse_categorical_crossentropy", device="cuda")
    assert str(net.summary()).endswith("nothing leaves the fast path")
    X, y = np.zeros((4, 3)), np.zeros(4, int)
    with pytest.warns(graph.CaptureWarning, match="no room for it"):
        for _ in range(graph.WARM_UP_STEPS + 1):
            net.train_on_batch(X, y)
    assert str(net.summary()).endswith(why)
    net.compile("adam", "sparse_categorical_crossentropy", device="cuda")
    assert str(net.summary()).endswith("nothing leaves the fast path")


def test_a_python_call_divides_the_step_into_two_graphs(fake_cupy, steps):
    called = []
    joined = steps.backend.compile([*steps.launches[:3], lambda: called.append(1), *steps.launches[3:]])
    assert [type(each).__name__ for each in joined] == ["StepGraph", "function", "StepGraph"]
    for _ in range(5):
        for each in joined:
            each()
    assert steps.read() == ([5.0] * 3, 5) and len(called) == 5


def test_a_single_launch_is_not_captured(steps):
    assert steps.backend.compile(steps.launches[:1]) == [steps.launches[0]]


def test_the_fake_detects_a_race():
    """Two streams that write the same bytes and do not wait for each other."""
    from helpers import fake_cupy as fake

    fake.state.reset()
    x = fake.cupy.zeros((4,), np.float64)
    write = fake.ElementwiseKernel("", "raw float64 x_", "x_[i] = 1;", "write")
    main, side = (fake.cuda.Stream(non_blocking=True) for _ in range(2))
    main.begin_capture()
    try:
        event = fake.cuda.Event(disable_timing=True)
        main.record(event)
        side.wait_event(event)
        with main:
            write(x, size=4)
        with side, pytest.raises(RuntimeError, match="race"):
            write(x, size=4)
    finally:
        fake.state.reset()


# --- streams ----------------------------------------------------------------------------------------------------------


def _launch(reads, writes, product=False):
    return DeviceLaunch([lambda: None], reads, writes, needs_workspace=product)


def _schedule(*launches):
    scheduled, sinks = stream_scheduler.assign_streams(launches)
    return [(p.stream, p.after) for p in scheduled], sinks


def test_products_of_adjacent_layers_run_concurrently(fake_cupy):
    """∂W = a_prevᵀ δ and δ_prev = δ Wᵀ run concurrently, and the update waits for both."""
    a, delta, W, dW, delta_prev, theta = (fake_cupy.zeros((4, 4), np.float64) for _ in range(6))
    found, sinks = _schedule(
        _launch([], [delta]),
        _launch([a, delta], [dW], product=True),
        _launch([delta, W], [delta_prev], product=True),
        _launch([dW, delta_prev], [theta]),
    )
    assert found == [(0, ()), (0, ()), (1, (0,)), (1, (1,))] and sinks == (3,)


def test_a_launch_waits_once_for_each_dependency(fake_cupy):
    """The third depends on both; the fourth on the first, which has finished by then; the last on nothing."""
    a, b, c, d, e = (fake_cupy.zeros((4, 4), np.float64) for _ in range(5))
    found, sinks = _schedule(
        _launch([], [a]), _launch([], [b]), _launch([a, b], [c]), _launch([a, c], [d]), _launch([], [e])
    )
    assert found == [(0, ()), (1, (START,)), (1, (0,)), (1, ()), (2, (START,))] and sinks == (4, 3)


def test_with_all_streams_in_use_the_least_recently_used_one_is_chosen(fake_cupy):
    arrays = [fake_cupy.zeros((4, 4), np.float64) for _ in range(6)]
    found, sinks = _schedule(*(_launch([], [x]) for x in arrays))
    assert [stream for stream, _ in found] == [0, 1, 2, 3, 0, 1] and sinks == (5, 3, 2)
    assert [after for _, after in found] == [(), (START,), (START,), (START,), (), ()]


def test_launches_that_fill_the_gpu_do_not_overlap(fake_cupy, monkeypatch):
    limits.set(monkeypatch, "launch_elements", 16)
    a, b, c, d = (fake_cupy.zeros((4, 4), np.float64) for _ in range(4))
    small = fake_cupy.zeros((4,), np.float64)
    found, sinks = _schedule(_launch([a], [b], product=True), _launch([], [small]), _launch([c], [d], product=True))
    assert found == [(0, ()), (1, (START,)), (0, ())] and sinks == (1,)


@pytest.mark.parametrize("kind", ["reads what was written", "writes what was read", "writes what was written"])
def test_dependent_launches_keep_their_order(fake_cupy, kind):
    a, b, c = (fake_cupy.zeros((4, 4), np.float64) for _ in range(3))
    follower = {
        "reads what was written": _launch([b], [c]),
        "writes what was read": _launch([c], [a]),
        "writes what was written": _launch([c], [b]),
    }[kind]
    assert _schedule(_launch([a], [b], product=True), follower) == ([(0, ()), (0, ())], ())


def test_disjoint_views_are_independent(fake_cupy):
    x = fake_cupy.zeros((8, 4), np.float64)
    y = fake_cupy.zeros((8, 4), np.float64)
    found, _ = _schedule(_launch([y], [x[:4]]), _launch([x[4:]], [y[4:][::-1][:0]]))
    assert [stream for stream, _ in found] == [0, 1]
    found, _ = _schedule(_launch([y], [x[:5]]), _launch([x[7:3:-1]], [y[:0]]))
    assert [stream for stream, _ in found] == [0, 0], "a reversed view extends to lower addresses"


def test_launches_on_different_state_entries_are_independent(fake_cupy):
    state = fake_cupy.zeros((SIZE,), np.float64)
    begin = kernels.get("start_batch").bind(out=state, count=1, rows=4)
    move = kernels.get("advance_offset").bind(out=state, count=1, rows=4)
    assert {int(a.data.ptr - state.data.ptr) // 8 for a in begin.writes} == {
        StateEntry.WEIGHT,
        StateEntry.EMPTY_BATCH,
        StateEntry.PENALTY,
    }
    assert begin.reads == () and [a.data.ptr for a in move.reads] == [a.data.ptr for a in move.writes]
    assert [stream for stream, _ in _schedule(begin, move)[0]] == [0, 1]
    assert _schedule(begin, begin)[0] == [(0, ()), (0, ())]


def test_the_critical_path_of_a_step_is_short(several):
    """Launches that do not depend on δ (labels, loss reduction, Adam's bias correction) overlap with those that do, so
    few launches of a step wait for each other. The fake raises if two of the others race."""
    rng = np.random.default_rng(0)
    net = gpunn.Sequential([gpunn.Dense(8, "relu"), gpunn.Dense(8, "relu"), gpunn.Dense(3, "softmax")], seed=0)
    net.compile("adam", "sparse_categorical_crossentropy", device="cuda")
    seen = []
    original = graph.assign_streams
    try:
        graph.assign_streams = lambda launches: seen.append(original(launches)) or seen[-1]
        net.fit(rng.normal(size=(64, 3)), rng.integers(0, 3, 64), batch_size=8, epochs=2, verbose=0)
    finally:
        graph.assign_streams = original
    scheduled, _ = max(seen, key=lambda found: len(found[0]))
    longest, on = [], {}
    for p in scheduled:
        before = [longest[k] for k in p.after if k != START] + [longest[on[p.stream]] if p.stream in on else 0]
        longest.append(max(before) + len(p.launch.calls))
        on[p.stream] = len(longest) - 1
    assert max(longest) <= sum(len(p.launch.calls) for p in scheduled) - 6
