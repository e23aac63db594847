"""Data-parallel training takes the steps of one process. The ranks are threads here, without MPI."""

import copy

import numpy as np
import pytest
from helpers import internals
from helpers.networks import build_network
from helpers.threaded_group import ThreadedGroup

import gpunn
from gpunn.program.groups import BatchShard, shard_bounds

RNG = np.random.default_rng(5)
ROWS = 53  # batches of 8 leave one of 5, in which each of 5 ranks has one row
X, Y, LABELS = RNG.normal(size=(ROWS, 7)), RNG.normal(size=(ROWS, 3)), RNG.integers(0, 3, ROWS)
W = RNG.uniform(0, 2, ROWS)
W[:11] = 0
STEPS = 50
RULES = ["sgd", "momentum", "nesterov", "rmsprop", "adagrad", "adam", "adamw", gpunn.SGD(0.1, clipnorm=0.1)]
NEAR = 1e-9  # in float64 after 50 steps


def net_of(strategy, optimizer="adam", norm=True, **options):
    layers = [gpunn.Dense(9, "relu", l2=0.01), gpunn.Dropout(0.3), gpunn.Dense(5, "tanh", l1=0.001, max_norm=1.0)]
    layers += [gpunn.BatchNormalization() if norm else gpunn.LayerNormalization(), gpunn.Dense(3)]
    options = {"loss": "mse", "metrics": ["mae", "r2"], "dtype": "float64"} | options
    return build_network(*layers, optimizer=optimizer, strategy=strategy, **options)


def trained(strategy, rule="adam", y=Y, w=None, batch=8, epochs=8, order=slice(None), **how):
    net = net_of(strategy, rule, **how)
    held = (X[:20], y[:20], W[5:25])
    history = net.fit(
        X[order], y[order], batch_size=batch, epochs=epochs, sample_weight=w, validation_data=held, verbose=0
    )
    return net, history


def max_difference(net, other):
    """Return the largest difference between the weights of two networks."""
    return max(float(np.abs(a - b).max()) for a, b in zip(net.get_weights(), other.get_weights(), strict=True))


def assert_one(found, one, near=NEAR):
    """All ranks have identical weights, and weights, history and running statistics of one process."""
    for net, history in found:
        assert max_difference(net, found[0][0]) == 0
        assert max_difference(net, one[0]) < near
        assert np.abs(internals.running(net) - internals.running(one[0])).max(initial=0) < near
        assert history.history.keys() == one[1].history.keys()
        for name, values in history.history.items():
            assert values == pytest.approx(one[1].history[name], rel=1e-7, abs=near), name


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_every_optimizer(rule):
    one = trained(None, rule)
    assert internals.steps_taken(one[0]) >= STEPS
    assert_one(ThreadedGroup(3).run(lambda s: trained(s, rule), synchronized_batch_norm=True), one)


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("weights", [None, W], ids=["plain", "weights"])
def test_any_number_of_processes_and_odd_last_batches(size, weights):
    one = trained(None, w=weights)
    assert_one(ThreadedGroup(size).run(lambda s: trained(s, w=weights), synchronized_batch_norm=True), one)


def test_a_process_without_a_row_in_the_last_batch():
    one = trained(None, batch=26)  # 26, 26 and 1: three ranks, one row
    assert_one(ThreadedGroup(3).run(lambda s: trained(s, batch=26), synchronized_batch_norm=True), one)


@pytest.mark.parametrize("norm", [True, False])
def test_a_process_without_a_row_of_labels(norm):
    metrics = ["accuracy", "auc", "f1", gpunn.metrics.TopKCategoricalAccuracy(2)]
    how = {
        "y": LABELS,
        "loss": "sparse_categorical_crossentropy",
        "metrics": metrics,
        "w": W,
        "batch": 26,
        "norm": norm,
    }
    assert_one(ThreadedGroup(3).run(lambda s: trained(s, **how), synchronized_batch_norm=True), trained(None, **how))


def test_a_loss_and_a_metric_in_python():
    """A rank without rows calls the functions with no rows."""

    def loss(y, a):
        return ((a - y) ** 2).sum(axis=1), 2 * (a - y)

    how = {"loss": loss, "metrics": ["mae"], "batch": 26}
    assert_one(ThreadedGroup(3).run(lambda s: trained(s, **how), synchronized_batch_norm=True), trained(None, **how))


def test_sparse_rows():
    sparse = pytest.importorskip("scipy.sparse")

    def fit(strategy):
        net = net_of(strategy)
        rows = sparse.csr_matrix(np.where(X > 0, X, 0))
        return net, net.fit(rows, Y, batch_size=8, epochs=4, sample_weight=W, verbose=0)

    assert_one(ThreadedGroup(3).run(fit, synchronized_batch_norm=True), fit(None))


def test_labels_and_metrics_of_all_rows():
    how = {"y": LABELS, "loss": "sparse_categorical_crossentropy", "metrics": ["accuracy", "auc", "f1"], "w": W}
    one = trained(None, **how)
    assert_one(ThreadedGroup(3).run(lambda s: trained(s, **how), synchronized_batch_norm=True), one)


def test_unsynchronized_batch_normalization_differs_from_one_process():
    """Shows that the synchronized tests can fail. Running statistics are the mean over ranks."""
    one = trained(None)
    found = ThreadedGroup(2).run(trained)
    assert max_difference(found[0][0], found[1][0]) == 0
    assert max_difference(found[0][0], one[0]) > 1e-3
    assert (internals.running(found[0][0]) == internals.running(found[1][0])).all()
    # without such a layer, the option changes nothing
    assert_one(
        ThreadedGroup(2).run(lambda s: trained(s, norm=False)),
        trained(None, norm=False),
    )


@pytest.mark.slow
@pytest.mark.parametrize("looks", ["none", "rank 0"])
@pytest.mark.parametrize("hook", ["on_epoch_end", "on_train_batch_end"])
@pytest.mark.parametrize(
    "change",
    [
        lambda net: setattr(net[0], "trainable", False),
        lambda net: setattr(net[0], "l2", 0.5),
        lambda net: setattr(net[1], "rate", 0.6),
        lambda net: setattr(net.optimizer, "beta_1", 0.1),
    ],
    ids=["trainable", "l2", "rate", "beta_1"],
)
def test_a_change_by_a_callback_takes_effect_on_all_ranks_at_the_same_step(change, hook, looks):
    """`evaluate` is not distributed, so rank 0 alone may call it."""

    def fit(strategy, looks=looks):
        net, callback = net_of(strategy, gpunn.Adam(0.01)), gpunn.Callback()

        def changing(number, *_):
            if number == 1 and not changed:
                changed.append(number)
                change(net)
                if looks == "rank 0" and internals.process_group(net).rank == 0:
                    net.evaluate(X, Y)

        changed = []
        setattr(callback, hook, changing)
        history = net.fit(X, Y, batch_size=8, epochs=4, callbacks=[callback], validation_data=(X, Y), verbose=0)
        return net, history

    assert_one(ThreadedGroup(3).run(fit, synchronized_batch_norm=True), fit(None, "none"))


@pytest.mark.parametrize("hook", ["on_epoch_end", "on_train_batch_end"])
@pytest.mark.parametrize(
    "change",
    [lambda net: setattr(net[0], "trainable", False), lambda net: setattr(net.optimizer, "clipnorm", 0.1)],
    ids=["trainable", "clipnorm"],
)
def test_a_change_on_one_rank_is_an_error_on_all(change, hook):
    def fit(strategy):
        net, callback = net_of(strategy, gpunn.SGD(0.01)), gpunn.Callback()
        rank = internals.process_group(net).rank
        setattr(callback, hook, lambda number, *_: change(net) if rank == 1 else None)
        with pytest.raises(RuntimeError, match=r"process 1 .*settings of layers, optimizer, loss and metrics"):
            net.fit(X, Y, batch_size=8, epochs=4, callbacks=[callback], verbose=0)

    ThreadedGroup(2).run(fit)


def test_float32_is_within_ten_times_the_difference_of_two_summation_orders():
    """One process that sums the rows of a batch in another order has a similar difference."""

    def full(strategy, order=slice(None)):
        net = net_of(strategy, dtype="float32", norm=False, metrics=())
        net.layers[1].rate = 0.0  # masks depend on the position of the row
        net.fit(X[order], Y[order], batch_size=ROWS, epochs=STEPS, shuffle=False, verbose=0)
        return net

    one, another = full(None), full(None, np.arange(ROWS)[::-1])
    difference = max_difference(one, another)
    assert 0 < difference < 1e-3
    for net in ThreadedGroup(3).run(full):
        assert max_difference(net, one) <= 10 * difference


def test_dropout_masks_are_those_of_one_process():
    """Masks depend on the row in the whole batch. Otherwise each rank would train another network."""

    def net_with(strategy):
        net = gpunn.Sequential([gpunn.Dropout(0.5), gpunn.Dense(1, use_bias=False)], seed=1, dtype="float64")
        net.compile(gpunn.SGD(1.0), "half_squared_error", strategy=strategy, device="cpu")
        net.build(6)
        net.set_weights([np.zeros((6, 1))])
        # ∂C/∂W = −Σ k xᵢ/(1 − p) y/n: with x = yᵢ = 2ⁱ the binary digits are the masks of the rows
        rows = 2.0 ** np.arange(8)
        net.train_on_batch(rows[:, None] * np.ones((8, 6)), np.ones((8, 1)))
        kept = (net.get_weights()[0][:, 0] * 8 / 2).astype(int)
        return [[int(k) >> row & 1 for k in kept] for row in range(8)]

    one = net_with(None)
    assert 0 < np.sum(one) < 48
    assert ThreadedGroup(3).run(net_with) == [one] * 3


def test_one_all_reduce_per_step():
    group = ThreadedGroup(2)

    def steps(strategy):
        net = gpunn.Sequential([gpunn.Dense(4, "relu"), gpunn.Dense(3)], seed=0).compile(
            "sgd", "mse", strategy=strategy
        )
        net.fit(X, Y, batch_size=ROWS, epochs=7, verbose=0)
        return net

    group.run(steps)
    assert [member.sums for member in group.members] == [7, 7]


@pytest.mark.parametrize("size, bucket", [(2, 1), (3, 300), (2, 10**9)])
def test_bucketed_all_reduce(size, bucket):
    """Arrays in flight are NaN until the all-reduce completes, so that any use of them is detected."""
    group = ThreadedGroup(size)
    assert_one(group.run(trained, synchronized_batch_norm=True, bucket_bytes=bucket), trained(None))

    def steps(strategy):
        net = net_of(strategy, metrics=(), norm=False)
        net.fit(X, Y, batch_size=ROWS, epochs=7, verbose=0)

    group.run(steps, bucket_bytes=bucket)
    # weights of three layers (504, 360 and 120 bytes, from the first layer). Those of the first layer are complete last
    # and sent with the rest
    sums = {1: 4, 300: 2, 10**9: 1}[bucket]
    assert [member.sums for member in group.members] == [7 * sums] * size


def test_divergence_is_raised_on_all_ranks_with_the_weights_before():
    def diverge(strategy):
        net = net_of(strategy, gpunn.SGD(1e200), metrics=())
        with pytest.raises(gpunn.DivergenceError) as caught:
            net.fit(X, Y, batch_size=8, epochs=3, verbose=0)
        return str(caught.value), [w.tobytes() for w in net.get_weights()]

    one = diverge(None)
    found = ThreadedGroup(3).run(diverge, synchronized_batch_norm=True)
    assert found[0] == found[1] == found[2]
    assert found[0][0] == one[0]


def test_train_on_batch_evaluate_and_gradients():
    def steps(strategy):
        net = net_of(strategy, metrics=("mae",))
        losses = [net.train_on_batch(X[:10], Y[:10], sample_weight=W[8:18]) for _ in range(3)]
        losses.append(net.evaluate(X, Y)["loss"])
        loss, gradients = net.loss_and_gradients(X, Y)
        return [*losses, loss, *(float(np.abs(g).sum()) for g in gradients)]

    one = steps(None)
    for found in ThreadedGroup(3).run(steps, synchronized_batch_norm=True):
        assert found == pytest.approx(one, rel=1e-9)


def test_one_rank_that_stops_stops_all():
    class Stop(gpunn.Callback):
        def __init__(self, mine):
            self.mine = mine

        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = self.mine and epoch == 2

    def stopped(strategy):
        net = net_of(strategy, metrics=())
        first = internals.process_group(net).rank == 1
        return len(net.fit(X, Y, epochs=9, verbose=0, callbacks=[Stop(first)]).epoch)

    assert ThreadedGroup(3).run(stopped) == [3, 3, 3]


def test_ranks_that_diverge_from_each_other_are_detected():
    class Slow(gpunn.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if internals.process_group(self.model).rank == 1:
                self.model.learning_rate = 1e-4

    def part_ways(strategy):
        net = net_of(strategy, metrics=())
        with pytest.raises(RuntimeError, match="after epoch 1: process 1 and process 0 differ in the learning rate"):
            net.fit(X, Y, epochs=9, verbose=0, callbacks=[Slow()])
        return True

    assert all(ThreadedGroup(2).run(part_ways))


# --- errors -----------------------------------------------------------------------------------------------------------


def refused(call, size=2):
    """Return the error message, which must be the same on all ranks."""

    def work(strategy):
        with pytest.raises((ValueError, TypeError)) as caught:
            call(strategy)
        return str(caught.value)

    said = ThreadedGroup(size).run(work)
    assert set(said) == {said[0]}
    return said[0]


@pytest.mark.parametrize("rows", [ROWS, 1001])
@pytest.mark.parametrize("place", ["first", "middle", "last"])
@pytest.mark.parametrize("which", ["X", "y", "sample_weight"])
@pytest.mark.parametrize("call", ["fit", "train_on_batch"])
def test_a_different_row_on_one_rank_is_an_error_on_all(call, which, place, rows):
    row = {"first": 0, "middle": rows // 2, "last": rows - 1}[place]
    x, y, w = np.resize(X, (rows, 7)), np.resize(Y, (rows, Y.shape[1])), np.ones(rows)

    def other_row(strategy):
        data = {"X": x.copy(), "y": y.copy(), "sample_weight": w.copy()}
        data[which][row] += rank_of(strategy) == 1
        weights = data.pop("sample_weight")
        getattr(net_of(strategy), call)(
            *data.values(), sample_weight=weights, **({"verbose": 0} if call == "fit" else {})
        )

    said = refused(other_row)
    assert said.startswith("checksums of the") and "must be the same on every process" in said and f"{which}" in said


def rank_of(strategy):
    return strategy.start().rank


def test_different_settings_are_named_on_every_rank():
    def seeds(strategy):
        gpunn.Sequential([gpunn.Dense(3)], seed=rank_of(strategy)).compile("sgd", "mse", strategy=strategy)

    assert "seed must be the same on every process, got 0 on process 0 and 1 on process 1" in refused(seeds)

    def rules(strategy):
        net_of(strategy, gpunn.Adam(0.1 + rank_of(strategy)))

    assert "optimizer must be the same on every process, got 'Adam(0.1" in refused(rules)

    def shapes(strategy):
        n = ROWS - rank_of(strategy)
        net_of(strategy).fit(X[:n], Y[:n], verbose=0)

    assert "training data must be the same on every process, got {'rows': 53" in refused(shapes, 3)

    def weights(strategy):
        net = net_of(strategy)
        net.build(7)
        net.set_weights([w + rank_of(strategy) for w in net.get_weights()])
        net.fit(X, Y, verbose=0)

    assert refused(weights).startswith("the weights (seed=")

    def epochs(strategy):
        net_of(strategy).fit(X, Y, verbose=0, epochs=1 + rank_of(strategy))

    assert "epochs must be the same on every process, got 1 on process 0 and 2 on process 1" in refused(epochs)


def test_different_versions_are_named(monkeypatch):
    from gpunn import compile_options

    class Version:
        """A version that differs on every rank."""

        def __repr__(self):
            return "0.1.0"

        def __ne__(self, other):
            return True

    monkeypatch.setattr(compile_options, "__version__", Version())
    assert refused(lambda s: net_of(s)).startswith("gpunn's version must be the same")


def test_more_processes_than_rows():
    assert "2 rows are too few for 3 processes" in refused(lambda s: net_of(s).fit(X[:2], Y[:2], verbose=0), 3)
    said = refused(lambda s: net_of(s).fit(X, Y, batch_size=2, verbose=0), 3)
    assert "batch_size=2 is too small for 3 processes" in said
    assert "1 rows are too few for 3 processes" in refused(lambda s: net_of(s).train_on_batch(X[:1], Y[:1]), 3)


def test_streams_are_refused():
    assert "the batches of a stream cannot be divided" in refused(
        lambda s: net_of(s).fit(lambda: iter([(X, Y)]), verbose=0)
    )


@pytest.mark.parametrize("wrong", ["ddp", gpunn.DataParallel, 4])
def test_invalid_strategies(wrong):
    with pytest.raises(TypeError, match=r"strategy must be gpunn.DataParallel\(\) or None"):
        net_of(wrong)


@pytest.mark.parametrize(
    "name, value", [("timeout", 0), ("timeout", "1"), ("synchronized_batch_norm", "yes"), ("bucket_bytes", 0)]
)
def test_invalid_options(name, value):
    with pytest.raises(ValueError, match=name):
        gpunn.DataParallel(**{name: value})


# --- shards, copies ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows, size", [(0, 3), (1, 3), (7, 3), (8, 8), (9, 4)])
def test_shards_add_up_and_differ_by_at_most_one_row(rows, size):
    parts = [shard_bounds(rows, rank, size) for rank in range(size)]
    counts = [count for _, count in parts]
    assert sum(counts) == rows and max(counts) - min(counts) <= 1
    assert [first for first, _ in parts] == [sum(counts[:k]) for k in range(size)]
    assert BatchShard.of(rows).n == rows


def test_a_copy_is_not_distributed_until_set_strategy():
    def both(strategy):
        net = net_of(strategy, metrics=())
        net.fit(X, Y, epochs=2, verbose=0)
        reference = copy.deepcopy(net)
        assert internals.process_group(reference).size == 1
        reference.set_strategy(strategy)
        for each in (net, reference):
            each.fit(X, Y, epochs=2, verbose=0)
        return max_difference(net, reference)

    assert ThreadedGroup(2).run(both) == [0, 0]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_counts_of_rows_are_exact(dtype):
    """24 correct of 53 rows are 24/53 in the history and for the validation data, for any number of ranks."""
    y = np.arange(ROWS) % 3
    x = np.eye(3)[np.where(np.arange(ROWS) < 24, y, (y + 1) % 3)]

    def watched(strategy):
        net = gpunn.Sequential([gpunn.Dense(3)], input_shape=3, seed=0, dtype=dtype)
        net.compile("sgd", "sparse_categorical_crossentropy", ["accuracy"], strategy=strategy, device="cpu")
        net.set_weights([np.eye(3), np.zeros(3)])
        net.layers[0].trainable = False
        return net.fit(x, y, batch_size=7, validation_data=(x, y), verbose=0).history

    for history in ThreadedGroup(3).run(watched):
        assert history["accuracy"] == history["val_accuracy"] == [24 / ROWS]


def test_an_epoch_without_weight_is_an_error_on_every_rank():
    def trained_without_weight(strategy):
        net = net_of(strategy)
        with pytest.raises(ValueError, match="sample_weight is zero in every row"):
            net.fit(X, Y, batch_size=8, sample_weight=np.full(ROWS, 1e-120), verbose=0)
        net.train_on_batch(X, Y, sample_weight=np.zeros(ROWS))
        return net.get_weights()

    before = net_of(None)
    before.build(7)
    for weights in ThreadedGroup(3).run(trained_without_weight):
        for got, wanted in zip(weights, before.get_weights(), strict=True):
            np.testing.assert_array_equal(got, wanted)
