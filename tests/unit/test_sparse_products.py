"""Products of the stored values of a sparse table: they equal those of dense rows, and programs contain them."""

import numpy as np
import pytest
from helpers import internals, tolerances
from helpers.networks import network_builder
from helpers.oracles import oracle
from helpers.threaded_group import ThreadedGroup

import gpunn
from gpunn.backend.cpu import executor, rules
from gpunn.kernels import get as kernel
from gpunn.kernels.state import SIZE, StateEntry
from gpunn.network import Executable, ExecutableSpec, StepOptions, compressed_batch
from gpunn.program.csr import CompressedBatch
from gpunn.program.groups import BatchShard
from gpunn.training.datasets import STEP

oracle("scipy")
from scipy import sparse  # noqa: E402

RNG = np.random.default_rng(0)
N, D = 41, 300
X = RNG.normal(size=(N, D)) * (RNG.random((N, D)) < 0.03)
X[7] = 0
Y = RNG.integers(0, 3, N)
W = RNG.uniform(0.1, 2, N)
compiled = pytest.mark.skipif(
    not gpunn.backend.get("cpu").kernel_report().startswith("compiled"), reason="needs compiled kernels"
)

net = network_builder(gpunn.Dense(16, "tanh"), gpunn.Dense(3), seed=0, metrics=["accuracy"], dtype="float64")
KINDS = {
    "relu": lambda: [gpunn.Dense(16, "relu"), gpunn.Dense(3)],
    "no bias": lambda: [gpunn.Dense(16, "gelu", use_bias=False), gpunn.Dense(3)],
    "penalties": lambda: [gpunn.Dense(16, "relu", l2=0.1, l1=0.01, max_norm=1.0), gpunn.Dense(3)],
    "one layer": lambda: [gpunn.Dense(33)],
    "normalization": lambda: [gpunn.Dense(16, use_bias=False), gpunn.BatchNormalization(), gpunn.Dense(3)],
    "input dropout": lambda: [gpunn.Dropout(0.2), gpunn.Dense(16, "relu"), gpunn.Dense(3)],
    "input normalization": lambda: [gpunn.BatchNormalization(), gpunn.Dense(16, "relu"), gpunn.Dense(3)],
}
READS_X = ("input dropout", "input normalization")


def launches(made, table=None):
    """The names of the launches of a training step on a table."""
    table = sparse.csr_matrix(X) if table is None else table
    return [name.split()[0] for name, _ in made.profile(table, Y[: table.shape[0]], batch_size=table.shape[0]).rows]


def results(made, table, **fit):
    """Weights, history, predictions and evaluation of a fit."""
    options = {"epochs": 3, "batch_size": 8, "sample_weight": W, "validation_split": 0.2, "verbose": 0} | fit
    history = made.fit(table, Y, **options).history
    return [
        *made.get_weights(),
        np.array([values for _, values in sorted(history.items())]),
        made.predict(table),
        np.array([*made.evaluate(table, Y, sample_weight=W, batch_size=16).values()]),
    ]


def assert_close(found, expected):
    for a, b in zip(found, expected, strict=True):
        tolerances.assert_within(a, b, tolerances.sums(b.dtype, D, max(1, np.abs(b).max())))


# --- the same numbers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layers", KINDS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_fit_equals_that_of_the_dense_matrix(layers, dtype):
    """With sample weights, validation data and a last batch of another size."""
    found, expected = (results(net(*KINDS[layers](), dtype=dtype), table) for table in (sparse.csr_matrix(X), X))
    if dtype == "float32":  # rounding errors grow from step to step
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4)
    else:
        assert_close(found, expected)


@compiled
@pytest.mark.parametrize("layers", KINDS)
def test_the_program_contains_the_products(layers):
    found = launches(net(*KINDS[layers]()))
    assert ("gather_csr_product" in found, "gather_csr_gradient" in found) == (layers not in READS_X,) * 2
    assert ("gather_csr" in found) == (layers in READS_X)


@compiled
def test_a_frozen_layer_has_no_gradient():
    made = net()
    made.layers[0].trainable = False
    found = launches(made)
    assert "gather_csr_product" in found and "gather_csr_gradient" not in found


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint64", "float32", "float64"])
def test_all_types_of_stored_values(dtype):
    table = np.abs(X * 3).astype(dtype)
    assert_close(results(net(), sparse.csr_matrix(table)), results(net(), table.astype("float64")))


def test_duplicate_entries_are_added():
    stored = sparse.csr_matrix(([1.0, 2.0, 4.0, 8.0], [3, 0, 3, 299], [0, 3, 4]), shape=(2, D))
    dense = np.zeros((2, D))
    dense[0, 3], dense[0, 0], dense[1, 299] = 5, 2, 8
    one, other = net(), net()
    for made, table in ((one, stored), (other, dense)):
        made.fit(table, Y[:2], epochs=2, batch_size=2, shuffle=False, verbose=0)
    assert_close([*one.get_weights(), one.predict(stored)], [*other.get_weights(), other.predict(dense)])


@pytest.mark.parametrize("rows", [1, 3, 41, 700])
def test_predictions_of_many_sizes(rows):
    table = np.resize(X, (rows, D))
    made = net()
    made.build(D)
    assert_close([made.predict(sparse.csr_matrix(table))], [made.predict(table)])
    assert_close([made.predict(sparse.csr_matrix(table), batch_size=13)], [made.predict(table, batch_size=13)])


def test_the_gradient_equals_central_differences():
    """E6 by a step of gradient descent with η = 1 on all rows."""
    made = net(optimizer=gpunn.SGD(1.0))
    made.build(D)
    before = made.get_weights()
    table = sparse.csr_matrix(X)
    made.fit(table, Y, sample_weight=W, epochs=1, batch_size=N, shuffle=False, verbose=0)
    gradient = before[0] - made.get_weights()[0]
    rows, columns = np.nonzero(np.abs(gradient) > 1e-5)
    assert len(np.unique(rows)) > 50
    h = 1e-5
    for k in RNG.choice(len(rows), 20, replace=False):
        losses = []
        for change in (h, -h):
            moved = [w.copy() for w in before]
            moved[0][rows[k], columns[k]] += change
            made.set_weights(moved)
            losses.append(made.evaluate(table, Y, sample_weight=W)["loss"])
        difference = (losses[0] - losses[1]) / (2 * h)
        np.testing.assert_allclose(gradient[rows[k], columns[k]], difference, rtol=1e-6, atol=1e-9)


def test_a_column_without_stored_values_has_the_gradient_zero():
    made = net(optimizer=gpunn.SGD(1.0))
    made.build(D)
    before = made.get_weights()[0]
    empty = ~X.any(axis=0)
    assert empty.any()
    made.fit(sparse.csr_matrix(X), Y, epochs=2, batch_size=8, verbose=0)
    np.testing.assert_array_equal(made.get_weights()[0][empty], before[empty])
    assert (made.get_weights()[0][~empty] != before[~empty]).any(axis=1).all()


def test_a_fit_resumes_with_the_same_bits(tmp_path):
    table, file = sparse.csr_matrix(X), str(tmp_path / "checkpoint.safetensors")
    whole = results(net(), table, epochs=4)
    stopped = net()
    results(stopped, table, epochs=2, callbacks=[gpunn.ModelCheckpoint(file)])
    resumed = results(net(), table, epochs=4, resume=file, callbacks=[gpunn.ModelCheckpoint(file)])
    for a, b in zip(resumed[:4], whole[:4], strict=True):
        np.testing.assert_array_equal(a, b)


def test_lbfgs():
    options = {"hidden_layer_sizes": (16,), "solver": "lbfgs", "max_iter": 15, "random_state": 0}
    found, expected = (gpunn.MLPClassifier(**options).fit(t, Y) for t in (sparse.csr_matrix(X), X))
    np.testing.assert_allclose(found.predict_proba(X), expected.predict_proba(X), rtol=1e-3, atol=1e-3)


def test_processes_train_as_one_process():
    def trained(strategy):
        made = net(optimizer=gpunn.SGD(0.5), **({} if strategy is None else {"strategy": strategy}))
        made.fit(sparse.csr_matrix(X), Y, epochs=2, batch_size=16, sample_weight=W, verbose=0)
        return made.get_weights()

    for found in ThreadedGroup(3).run(trained):
        assert_close(found, trained(None))


# --- threads ----------------------------------------------------------------------------------------------------------


@compiled
@pytest.mark.parametrize("threads", [2, 3, 5])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("width", [1, 7, 16, 100])
def test_threads_do_not_change_a_bit(threads, dtype, width):
    table = sparse.csr_matrix(X.astype(dtype))
    state, order = np.zeros(SIZE), RNG.permutation(N)
    state[StateEntry.OFFSET] = 5
    rows = (table.data, table.indices, table.indptr.astype(np.int64), order, state)
    factor, delta = (RNG.normal(size=(k, width)).astype(dtype) for k in (D, 30))
    found = []
    for count in (1, threads):
        z, dW = np.empty((30, width), dtype), np.full((D, width), np.nan, dtype)
        each = [
            kernel("gather_csr_product").bind(*rows, factor, out=z),
            kernel("gather_csr_gradient").bind(*rows, delta, out=dW, rows=30),
        ]
        run = executor.CompiledExecutor([each], state, threads=count)
        run()
        found.append((z, dW))
        assert run.threads == count
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(a, b)
    dense = X[order[5:35]].astype(dtype)
    assert_close(found[0], [dense @ factor, dense.T @ delta])


@compiled
def test_a_fit_in_several_threads_equals_one_in_one_thread(monkeypatch):
    found = []
    for count in (1, 3):
        internals.use_threads(monkeypatch, count)
        found.append(results(net(), sparse.csr_matrix(X)))
    assert_close(*found)


# --- programs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("layers", KINDS)
def test_the_pass_keeps_the_results_of_a_step(layers, ordered, dtype):
    """The step with dense rows, as it was recorded, and the step after the passes."""
    found = []
    for rewritten in (False, True):
        made = net(*KINDS[layers](), dtype=dtype)
        made.build(D)
        network = internals.network(made)
        network.prepare_training()
        arrays = dict(internals.on_device(made, sparse.csr_matrix(X), Y.astype(np.int32)).named())
        if ordered:
            arrays["order"] = np.arange(N)[::-1].copy()
        options = StepOptions(
            training=True,
            loss=True,
            backward=True,
            rewritten=rewritten,
            compressed=CompressedBatch(np.dtype("float64"), ordered),
        )
        step = Executable(network, ExecutableSpec(options, (BatchShard.of(20),)), arrays)
        step.state[StateEntry.OFFSET] = 11
        step.run()
        found.append([np.array(step.gradient), np.array(step.output)])
    assert_close(*found)


def test_a_product_with_another_factor_needs_dense_rows():

    def program(*layers):
        made = net(*layers)
        made.build(D)
        compressed = CompressedBatch(np.dtype("float64"), True)
        found = internals.program_of(
            made, 8, training=True, loss=True, backward=True, update=True, compressed=compressed
        )
        return [op.name for op in found.ops]

    assert "csr_rows" not in program(gpunn.Dense(16, "tanh"), gpunn.Dense(3))
    assert program(gpunn.BatchNormalization(), gpunn.Dense(3)).count("csr_rows") == 1


def test_a_program_shows_the_products():
    made = net()
    made.build(D)
    compressed = CompressedBatch(np.dtype("float32"), True)
    options = {"training": True, "loss": True, "backward": True, "update": True, "compressed": compressed}
    program = internals.program_of(made, 8, **options)
    program.verify()
    text = str(program)
    assert "gather_csr_product(X.values, X.columns, X.starts, order, state, W1)" in text
    assert (
        "dW1 (300, 16) float64 = gather_csr_gradient(X.values, X.columns, X.starts, order, state, δ1, rows=8)" in text
    )
    assert " x " not in text


# --- the choice -------------------------------------------------------------------------------------------------------


def test_the_products_are_used_where_few_values_are_stored():
    pays = rules.csr_products_pay
    assert pays(50, 5000, 100, gradient=True) and pays(100, 20000, 50, gradient=True)
    assert not pays(50, 100, 100, gradient=True) and not pays(4, 13, 6, gradient=True)
    assert not pays(50, 1000, 1, gradient=True) and pays(50, 1000, 1, gradient=False)
    assert not pays(50, 100, 100, gradient=False)


@compiled
def test_dense_rows_and_eager_steps_read_x():
    assert "gather_csr" in launches(net(), sparse.csr_matrix(RNG.normal(size=(N, D))))
    made = net(eager=True)
    assert_close(results(made, sparse.csr_matrix(X)), results(net(), X))
    arrays = internals.on_device(made, sparse.csr_matrix(X), Y.astype(np.int32)).named()
    assert compressed_batch(internals.network(made), arrays, STEP) is None


# --- executables ------------------------------------------------------------------------------------------------------


@compiled
def test_tables_of_any_size_share_an_executable(monkeypatch):
    made = internals.record_executables(monkeypatch, updates=True)
    internals.forget_executables()
    tables = [X, X * (RNG.random(X.shape) < 0.5), X[:, ::-1]]
    for table in tables:
        assert_close(results(net(), sparse.csr_matrix(table)), results(net(), np.ascontiguousarray(table)))
    found = [spec for spec in made if spec.options.compressed is not None]
    assert len(found) == 1 and found[0].options.compressed == CompressedBatch(np.dtype("float64"), True)
    assert STEP.compressed is None


@compiled
def test_an_executable_has_no_dense_rows():
    made = net()
    made.build(D)
    network = internals.network(made)
    network.prepare_training()
    arrays = internals.on_device(made, sparse.csr_matrix(X), Y.astype(np.int32)).named()
    with network.executable(ExecutableSpec(STEP, (BatchShard.of(N),)), arrays) as step:
        assert step.x is None and step.bytes < N * D * 8


def test_a_table_without_values_is_followed_by_one_with_values():
    internals.forget_executables()
    for table in (np.zeros((N, D)), X):
        assert_close(results(net(), sparse.csr_matrix(table)), results(net(), table))


def test_steps_with_python_code_read_the_table_of_their_fit():
    class Own(gpunn.activations.Activation):
        opaque = True

        def f(self, z):
            return np.tanh(z)

        def derivative(self, z, a):
            return 1 - a * a

    made, other = (net(gpunn.Dense(16, Own()), gpunn.Dense(3)) for _ in range(2))
    for table in (X, X[::-1] * 2, X):
        table = np.ascontiguousarray(table)
        assert_close(results(made, sparse.csr_matrix(table)), results(other, table))
