"""fit on a stream: the same steps as on arrays, one batch in memory, streams that end early, bounded memory."""

import gc
import tracemalloc
import weakref

import numpy as np
import pytest
from helpers import internals, limits
from helpers.messages import naming
from helpers.networks import classifier_builder
from helpers.oracles import oracle
from helpers.snapshots import state_of, weights_of

import gpunn
from gpunn.training import stream

RNG = np.random.default_rng(4)
X, Y = RNG.normal(size=(23, 4)), RNG.integers(0, 3, size=23)
W = np.linspace(0, 2, 23)


HIDDEN = gpunn.Dense(6, "tanh"), gpunn.BatchNormalization(), gpunn.Dropout(0.3)
_net = classifier_builder(
    *HIDDEN, input_shape=None, dtype="float64", optimizer=gpunn.Adam(0.01), metrics=["accuracy", "f1"]
)


def _batches(*arrays, size=5):
    for start in range(0, len(arrays[0]), size):
        yield tuple(a[start : start + size] for a in arrays)


class Table:
    """An iterable of batches with a length."""

    def __iter__(self):
        return _batches(X, Y)

    def __len__(self):
        return 5


def _forever():
    while True:
        yield from _batches(X, Y)


def _wanted(epochs=3, **options):
    net = _net()
    return net, net.fit(X, Y, batch_size=5, shuffle=False, epochs=epochs, verbose=0, **options).history


class Loader:
    """An iterable of batches without a length."""

    def __iter__(self):
        return _batches(X, Y)


@pytest.mark.parametrize(
    "batches", [lambda: _batches(X, Y), _batches(X, Y), Table(), Loader()], ids=lambda b: type(b).__name__
)
def test_a_stream_with_separate_targets_is_refused(batches):
    with pytest.raises(TypeError, match=r"X is a stream \((function|generator|Table|Loader)\).*: leave y out"):
        _net().fit(batches, Y, verbose=0)


# --- the same as on arrays --------------------------------------------------------------------------------------------

STREAMS = {
    "a function that returns a generator": (lambda: lambda: _batches(X, Y), {}),
    "a function that returns a list": (lambda: lambda: list(_batches(X, Y)), {}),
    "an iterable": (Table, {}),
    "an endless generator": (_forever, {"steps_per_epoch": 5}),
    "a function with steps_per_epoch": (lambda: lambda: _batches(X, Y), {"steps_per_epoch": 5}),
    "an endless function with steps_per_epoch": (lambda: _forever, {"steps_per_epoch": 5}),
}


@pytest.mark.parametrize(("make", "options"), STREAMS.values(), ids=STREAMS)
def test_it_equals_the_fit_on_arrays_of_the_same_batches(make, options):
    """Bit-identical with batches of 5, 5, 5, 5 and 3 rows, dropout and running statistics."""
    reference, wanted = _wanted(validation_data=(X[:7], Y[:7]))
    net = _net()
    history = net.fit(make(), epochs=3, validation_data=(X[:7], Y[:7]), verbose=0, **options)
    assert history.history == wanted and list(history.epoch) == [0, 1, 2]
    assert weights_of(net) == weights_of(reference)
    assert internals.step_state(net)[:2].tolist() == internals.step_state(reference)[:2].tolist()
    # a second fit continues
    second = net.fit(make(), epochs=2, verbose=0, **options).history
    assert second == reference.fit(X, Y, batch_size=5, shuffle=False, epochs=2, verbose=0).history


def test_sample_weights_in_batches_multiply_with_class_weights():
    reference, wanted = _wanted(sample_weight=W, class_weight={0: 3.0, 2: 0.5})
    net = _net()
    history = net.fit(lambda: _batches(X, Y, W), epochs=3, class_weight={0: 3.0, 2: 0.5}, verbose=0).history
    for name, values in wanted.items():
        np.testing.assert_allclose(history[name], values, rtol=1e-13)
    np.testing.assert_allclose(internals.parameters(net), internals.parameters(reference), rtol=1e-11)
    # some batches may have no weights, and in others all may be zero
    _net().fit(iter([(X, Y, W), (X, Y), [X, Y, None], (X, Y, 0 * W), (X, Y, W)]), verbose=0)
    net, reference = _net(), _net()
    net.fit(iter([(X, Y), (X[:4], Y[:4], np.zeros(4)), (X, Y)]), verbose=0)
    reference.fit(iter([(X, Y), (X, Y)]), verbose=0)
    assert weights_of(net) == weights_of(reference), "a batch without weight changes nothing"


def test_batches_may_have_any_type_that_fit_accepts():
    scipy = oracle("scipy.sparse")
    pandas = oracle("pandas")
    wanted = _wanted(1)[1]
    for table in (lambda x: x.tolist(), scipy.csr_matrix, pandas.DataFrame, np.asfortranarray):
        batches = ((table(x), y) for x, y in _batches(X, Y))
        found = _net().fit(batches, verbose=0).history
        for name, values in wanted.items():
            assert found[name] == pytest.approx(values, rel=1e-12)
    found = _net(dtype="float32").fit(iter([(X.astype(np.float16), Y.astype(np.uint8))]), verbose=0).history
    assert found["loss"][0] == pytest.approx(_net(dtype="float32").evaluate(X, Y)["loss"], rel=0.5)


def test_batches_of_torch_loaders():
    torch = oracle("torch")
    from torch.utils.data import DataLoader, TensorDataset

    loader = DataLoader(TensorDataset(torch.tensor(X), torch.tensor(Y)), batch_size=5)
    net = _net()
    reference, wanted = _wanted()
    assert net.fit(loader, epochs=3, verbose=0).history == wanted
    assert weights_of(net) == weights_of(reference)


def test_batches_on_a_device(fake_cupy):
    """Simulated, no GPU result. Batches are NumPy or device arrays."""
    wanted = _wanted(2)[1]
    for put in (np.asarray, fake_cupy.asarray):
        net = _net()
        net.compile(gpunn.Adam(0.01), "sparse_categorical_crossentropy", ["accuracy", "f1"], device="cuda")
        found = net.fit(lambda put=put: ((put(x), put(y)) for x, y in _batches(X, Y)), epochs=2, verbose=0).history
        for name, values in wanted.items():
            np.testing.assert_allclose(found[name], values, rtol=1e-10)


def test_callbacks_get_the_same_logs_as_with_arrays():
    seen = []

    class Watch(gpunn.Callback):
        def on_train_begin(self, logs=None):
            seen.append(self.params["steps"])

        def on_train_batch_end(self, batch, logs=None):
            seen.append((batch, dict(logs)))

        def on_epoch_end(self, epoch, logs=None):
            seen.append((epoch, dict(logs)))

    runs = []
    for given in ((X, Y), (Table(),), (lambda: _batches(X, Y),)):
        seen.clear()
        options = {"batch_size": 5, "shuffle": False} if len(given) == 2 else {}
        _net().fit(*given, epochs=2, callbacks=[Watch()], verbose=0, **options)
        runs.append(list(seen))
    assert runs[0] == runs[1] and runs[0][1:] == runs[2][1:]
    assert [run[0] for run in runs] == [5, 5, None]


def test_frozen_layers_and_stopping():
    class Unfreeze(gpunn.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.model[0].trainable = epoch > 0

        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = epoch == 2

    reference, wanted = _wanted(9, callbacks=[Unfreeze()])
    net = _net()
    assert net.fit(Table(), epochs=9, callbacks=[Unfreeze()], verbose=0).history == wanted
    assert len(wanted["loss"]) == 3 and weights_of(net) == weights_of(reference)


def test_metrics_of_all_rows_are_computed_for_the_validation_data_only():
    net = _net(metrics=["auc", "accuracy"])
    history = net.fit(Table(), validation_data=(X, Y), verbose=0).history
    assert list(history) == ["loss", "accuracy", "val_loss", "val_auc", "val_accuracy"]
    assert history["val_auc"][0] == net.evaluate(X, Y)["auc"]


def test_a_resumed_fit_iterates_the_next_epoch_from_its_beginning(tmp_path):
    reference, wanted = _wanted(5)
    path = tmp_path / "run.safetensors"
    options = {"callbacks": [gpunn.ModelCheckpoint(path)], "verbose": 0}
    _net().fit(Table(), epochs=2, **options)
    net = _net()
    history = net.fit(lambda: _batches(X, Y), epochs=5, resume=path, **options)
    assert history.history == wanted and weights_of(net) == weights_of(reference)
    with pytest.raises(gpunn.CheckpointError, match="training data"):
        _net().fit(X, Y, epochs=5, resume=path, **options)


# --- what goes wrong --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [None, 3])
def test_a_non_finite_step_is_reported_with_its_number(steps):
    net = gpunn.Sequential([gpunn.Dense(1)], seed=0).compile("sgd", "mse", device="cpu")
    huge = [(X, X[:, :1]), (X, X[:, :1]), (X, 1e30 * X[:, :1]), (X, X[:, :1])]
    with pytest.raises(gpunn.DivergenceError, match=r"epoch 1, step 3 \(update 2"):
        net.fit(lambda: iter(huge), epochs=2, steps_per_epoch=steps, verbose=0)
    reference = gpunn.Sequential([gpunn.Dense(1)], seed=0).compile("sgd", "mse", device="cpu")
    for batch in huge[:2]:
        reference.train_on_batch(*batch)
    assert weights_of(net) == weights_of(reference)


def test_a_generator_that_ends_early_raises_with_a_remedy():
    net = _net()
    with pytest.raises(ValueError, match=naming("X", 2, "steps_per_epoch=3", "iterator")):
        net.fit(_batches(X, Y), epochs=3, steps_per_epoch=3, verbose=0)
    # earlier steps were taken, and training can continue
    assert internals.steps_taken(net) == 5
    net.fit(Table(), verbose=0)
    with pytest.raises(ValueError, match=naming(5, "steps_per_epoch=6")):
        net.fit(Table(), steps_per_epoch=6, verbose=0)
    used = _batches(X, Y)
    net.fit(used, verbose=0)
    with pytest.raises(ValueError, match=naming("X", "at least one batch", "pass a function")):
        net.fit(used, verbose=0)


def test_a_function_that_returns_the_same_iterator_twice():
    once = _batches(X, Y)
    with pytest.raises(ValueError, match=naming("X", "at least 1 batch", 0)):
        _net().fit(lambda: once, epochs=2, verbose=0)


def test_an_error_in_the_stream_is_raised():
    def broken():
        yield X, Y
        raise OSError("the disk is gone")

    net = _net()
    with pytest.raises(OSError, match="the disk is gone"):
        net.fit(broken, verbose=0)
    net.fit(Table(), verbose=0)


BAD = {
    "no batch": (lambda: iter([]), {}, ValueError, "X must yield at least one batch"),
    "no pairs": (lambda: iter([X, X]), {}, TypeError, r"batch 1 of X must be \(x, y\) or .*got ndarray"),
    "four items": (lambda: iter([(X, Y, W, W)]), {}, TypeError, "batch 1 of X must be .*got 4 items"),
    "NaN": (lambda: iter([(X * np.nan, Y)]), {}, ValueError, naming("batch 1", "x", "NaN", "row 0")),
    "labels out of range": (lambda: iter([(X, Y + 5)]), {}, ValueError, "batch 1: y holds label"),
    "too few labels": (lambda: iter([(X, Y[1:])]), {}, ValueError, "batch 1: y has 22 rows, but X has 23"),
    "negative weights": (lambda: iter([(X, Y, -W)]), {}, ValueError, "batch 1: sample_weight holds negative"),
    "a function that returns a number": (lambda: lambda: 3, {}, TypeError, r"X\(\) must return an iterator .*got int"),
    "an iterator without steps": (_forever, {"epochs": 2}, ValueError, naming("steps_per_epoch", "function")),
    "an iterator and resume": (_forever, {"resume": "x", "steps_per_epoch": 2}, ValueError, "resume needs batches"),
    "steps 0": (Table, {"steps_per_epoch": 0}, ValueError, naming("steps_per_epoch", 0)),
    "steps 1.5": (Table, {"steps_per_epoch": 1.5}, TypeError, naming("steps_per_epoch", 1.5)),
    "separate weights": (Table, {"sample_weight": W}, ValueError, naming("sample_weight", "batches")),
    "a validation split": (Table, {"validation_split": 0.5}, ValueError, "validation_split needs all rows"),
    "balanced": (Table, {"class_weight": "balanced"}, ValueError, naming("class_weight='balanced'", "X")),
    "validation": (Table, {"validation_data": (X[:, :2], Y)}, ValueError, "validation X has 2 columns"),
    "a validation stream": (Table, {"validation_data": Table()}, ValueError, r"validation_data must be \(X, y\)"),
}


@pytest.mark.parametrize("built", [False, True])
@pytest.mark.parametrize(("make", "options", "error", "message"), BAD.values(), ids=BAD)
def test_invalid_input_is_refused_before_anything_changes(make, options, error, message, built):
    net = _net(**({"input_shape": 4} if built else {}))
    before = state_of(net)
    with pytest.raises(error, match=message):
        net.fit(make(), verbose=0, **options)
    assert state_of(net) == before


def test_a_later_invalid_batch_is_named():
    net = _net()
    with pytest.raises(ValueError, match=naming("batch 3", "x", 2, 4)):
        net.fit(iter([(X, Y), (X, Y), (X[:, :2], Y)]), verbose=0)
    assert internals.steps_taken(net) == 2


def test_arrays_are_not_streams():
    class Frame:
        """The common interface of pandas and polars tables."""

        to_numpy = __iter__ = lambda self: iter(X)

    for given in (X, X.tolist(), (1, 2), range(3), memoryview(X), {1: 2}, {1}, "text", b"x", None, 3, Frame()):
        assert not stream.is_stream(given)
    for given in (iter(X), (x for x in X), Table(), lambda: X, map(len, []), np.nditer(X)):
        assert stream.is_stream(given)
    with pytest.raises(ValueError, match="steps_per_epoch needs a stream"):
        _net().fit(X, Y, steps_per_epoch=3)
    with pytest.raises(TypeError, match=naming("y", "NoneType")):
        _net().fit(X)
    with pytest.raises(TypeError, match=naming("X", "generator")):
        _net().fit(_batches(X, Y), Y)


# --- bounded memory ---------------------------------------------------------------------------------------------------

ROWS = 400
BIG, LABELS = RNG.normal(size=(ROWS, 50)), RNG.integers(0, 3, size=ROWS)


def _odd(count, seed):
    sizes = np.random.default_rng(seed).integers(1, ROWS, size=count)
    return ((BIG[:n].copy(), LABELS[:n].copy()) for n in sizes)


def _wide():
    net = gpunn.Sequential([gpunn.Dense(64, "relu"), gpunn.Dense(3, "softmax")], seed=3)
    return net.compile("adam", "sparse_categorical_crossentropy", ["accuracy"], device="cpu")


def _growth(train):
    """Return the growth of allocated bytes from some batches of odd sizes to many, and the peak."""
    train(_odd(40, 1))
    gc.collect()
    tracemalloc.start()
    try:
        train(_odd(40, 2))
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        train(_odd(160, 3))
        gc.collect()
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return after - before, peak - before


def _by_fit(net):
    return lambda batches: net.fit(batches, verbose=0)


def _by_batches(net):
    return lambda batches: [net.train_on_batch(x, y) for x, y in batches]


@pytest.mark.slow
@pytest.mark.parametrize("way", [_by_fit, _by_batches])
def test_batches_of_any_sizes_take_bounded_memory(way, monkeypatch):
    """An executable for 400 rows has about 1 MB: 160 sizes without a bound used 80 MB."""
    limits.set(monkeypatch, "own_executable_bytes", 4_000_000)
    net = _wide()
    grown, peak = _growth(way(net))
    assert grown < 6e6 and peak < 12e6


class Batch(np.ndarray):
    """An array that supports weak references."""


def test_one_batch_is_in_memory_at_a_time():
    """And the previous one, until the stream has yielded the next."""
    made, alive = [], []

    def batches():
        for _ in range(20):
            alive.append(sum(there() is not None for there in made))
            x = np.zeros((50, 50)).view(Batch)
            made.append(weakref.ref(x))
            yield x, np.zeros(50, int)

    _wide().fit(batches(), verbose=0)
    assert len(alive) == 20 and max(alive) <= 2
