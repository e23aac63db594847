"""Datasets that exceed the device's memory: the same fit, in blocks."""

import numpy as np
import pytest
from helpers import internals, limits
from helpers.networks import build_network

import gpunn
from gpunn import backend
from gpunn.training import datasets, inputs

N = 53


def _set(task, rows=N, kind=np.float64):
    rng = np.random.default_rng(3)
    X = rng.normal(size=(rows, 3)) * 20
    X = X.astype(kind)
    y = rng.integers(0, 4, size=rows) if task == "classes" else rng.normal(size=(rows, 2))
    return X, y, rng.uniform(0.5, 2, size=rows)


def _net(task, device, **options):
    last, loss = gpunn.Dense(2), "half_squared_error"
    if task == "classes":
        last, loss = gpunn.Dense(4, "softmax"), "sparse_categorical_crossentropy"
    options = {"seed": 5, "dtype": "float64", "optimizer": gpunn.Adam(0.01), "loss": loss, "device": device} | options
    return build_network(gpunn.Dense(6, "tanh", l2=0.01), gpunn.Dropout(0.2), last, **options)


@pytest.fixture
def small_blocks(monkeypatch):
    """Use blocks of two batches of five rows, and several blocks per dataset."""
    limits.set(monkeypatch, "transfer_bytes", 500)
    limits.set(monkeypatch, "evaluation_rows", 8)


@pytest.fixture
def no_room(small_blocks, monkeypatch):
    """A device without memory for a dataset, but with memory for its blocks."""

    def on(where):
        monkeypatch.setattr(type(backend.get(where)), "fits_in_memory", lambda self, size: False)

    return on


@pytest.fixture(params=["cpu", "simulated", pytest.param("gpu", marks=pytest.mark.gpu)])
def device(request):
    if request.param == "simulated":
        request.getfixturevalue("fake_cupy")
    return "cpu" if request.param == "cpu" else "cuda"


@pytest.mark.slow
@pytest.mark.parametrize("kind", [np.float64, np.float32, np.int8])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("task", ["classes", "values"])
def test_the_fit_is_bit_identical(device, no_room, task, weighted, kind):
    X, y, w = _set(task, kind=kind)
    options = {"batch_size": 5, "epochs": 3, "verbose": 0, "sample_weight": w if weighted else None}
    resident = _net(task, device)
    expected = resident.fit(X, y, **options).history
    no_room(device)
    net = _net(task, device)
    found = net.fit(X, y, **options).history
    assert found["loss"] == expected["loss"]
    for a, b in zip(net.get_weights(), resident.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_counts_of_rows_are_exact(device, no_room, dtype):
    """24 correct of 53 rows are 24/53 for any blocks, in the history and for the validation data."""
    y = np.arange(N) % 3
    X = np.eye(3)[np.where(np.arange(N) < 24, y, (y + 1) % 3)]
    net = gpunn.Sequential([gpunn.Dense(3)], input_shape=3, dtype=dtype)
    net.compile("sgd", "sparse_categorical_crossentropy", ["accuracy"], device=device)
    net.set_weights([np.eye(3), np.zeros(3)])
    net.layers[0].trainable = False
    no_room(device)
    history = net.fit(X, y, batch_size=5, validation_data=(X, y), verbose=0).history
    assert history["accuracy"] == history["val_accuracy"] == [24 / N]


@pytest.mark.parametrize("rows", [4, 5, 6, 10, 11, 20, 21])
def test_every_remainder_of_a_block(device, no_room, rows):
    X, y, _ = _set("values", rows)
    resident = _net("values", device)
    expected = resident.fit(X, y, batch_size=5, epochs=2, verbose=0).history["loss"]
    no_room(device)
    assert _net("values", device).fit(X, y, batch_size=5, epochs=2, verbose=0).history["loss"] == expected


def test_validation_evaluation_and_prediction_use_blocks_too(device, no_room):
    X, y, w = _set("classes", 40)
    found = []
    for _ in range(2):
        net = _net("classes", device, metrics=["accuracy"])
        history = net.fit(X, y, batch_size=8, epochs=2, verbose=0, validation_data=(X[:19], y[:19])).history
        found.append((history["val_loss"], net.evaluate(X, y, sample_weight=w), net.predict(X)))
        no_room(device)
    np.testing.assert_allclose(found[1][0], found[0][0], rtol=1e-13)
    for name, value in found[0][1].items():
        np.testing.assert_allclose(found[1][1][name], value, rtol=1e-13)
    np.testing.assert_array_equal(found[1][2], found[0][2])


def test_metrics_of_all_rows_are_computed_for_the_validation_data_only(device, no_room):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(40, 3)), rng.integers(0, 2, size=40)
    found = []
    for _ in range(2):
        net = gpunn.Sequential([gpunn.Dense(4, "tanh"), gpunn.Dense(1, "sigmoid")], seed=1, dtype="float64")
        net.compile("adam", "binary_crossentropy", metrics=["auc"], device=device)
        history = net.fit(X, y[:, None], batch_size=8, epochs=2, verbose=0, validation_data=(X[:21], y[:21, None]))
        found.append(history.history)
        no_room(device)
    assert found[1]["val_auc"] == found[0]["val_auc"]
    assert "auc" in found[0] and "auc" not in found[1]


def test_a_dataset_that_fits_is_copied_to_the_device(fake_cupy, small_blocks):
    X, y, _ = _set("values")
    assert (
        type(inputs.to_device_or_host(internals.network(_net("values", "cuda")), (X, y, None)))
        is gpunn.training.datasets.DeviceDataset
    )


def test_a_dataset_may_use_most_of_the_free_memory(fake_cupy):
    device = backend.get("cuda")
    fake_cupy.state.free = 1000
    assert device.fits_in_memory(750) and not device.fits_in_memory(751)
    fake_cupy.get_default_memory_pool().free_bytes = lambda: 1000
    try:
        assert device.fits_in_memory(1500) and not device.fits_in_memory(1501)
    finally:
        fake_cupy.get_default_memory_pool().free_bytes = lambda: 0


def test_a_dataset_on_the_gpu_stays_there(fake_cupy, no_room):
    no_room("cuda")
    X, y, _ = _set("values")
    there = fake_cupy.asarray(X)
    placed = inputs.to_device_or_host(internals.network(_net("values", "cuda")), (there, y, None))
    assert placed.X is there


def test_a_memory_map_is_read_block_by_block(no_room, tmp_path):
    """It is never read as a whole."""
    X, y, _ = _set("values")
    np.save(tmp_path / "X.npy", X)
    resident = _net("values", "cpu")
    expected = resident.fit(X, y, batch_size=5, epochs=2, verbose=0).history["loss"]
    no_room("cpu")
    net = _net("values", "cpu")
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    assert net.fit(mapped, y, batch_size=5, epochs=2, verbose=0).history["loss"] == expected


def test_an_error_while_reading_reaches_the_caller(no_room, monkeypatch):
    no_room("cpu")
    X, y, _ = _set("values")
    net = _net("values", "cpu")
    net.fit(X, y, batch_size=5, epochs=1, verbose=0)
    before = net.get_weights()
    calls = []

    def take(*arguments, **options):
        calls.append(1)
        if len(calls) == 1:
            raise OSError("the disk is gone")

    monkeypatch.setattr(datasets.np, "take", take)
    with pytest.raises(OSError, match="the disk is gone"):
        net.fit(X, y, batch_size=5, epochs=1, verbose=0)
    for a, b in zip(before, net.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("look", ["nothing", "predict", "evaluate"])
@pytest.mark.parametrize("hook", ["on_epoch_end", "on_train_batch_begin", "on_train_batch_end"])
@pytest.mark.parametrize("setting", ["trainable", "l2", "learning_rate_factor"])
def test_a_change_by_a_callback_takes_effect_at_the_next_step(no_room, fake_cupy, setting, hook, look):
    """As for a dataset on the device, also if the model is used after the change."""

    def change(number, *_):
        if number == 1 and not seen:
            setattr(net.layers[0], setting, {"trainable": False, "l2": 0.5, "learning_rate_factor": 2.0}[setting])
            {"nothing": lambda: None, "predict": lambda: net.predict(X), "evaluate": lambda: net.evaluate(X, y)}[look]()
            seen.append(net.get_weights()[0])

    X, y, _ = _set("values")
    found = []
    for resident in (True, False):
        if not resident:
            no_room("cuda")
        net, callback, seen = _net("values", "cuda"), gpunn.Callback(), []
        setattr(callback, hook, change)
        net.fit(X, y, batch_size=5, epochs=4, verbose=0, callbacks=[callback])
        found.append(net.get_weights())
        if setting == "trainable":
            np.testing.assert_array_equal(found[-1][0], seen[0])
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_steps_wait_until_their_block_is_copied(fake_cupy):
    """The fake copies only on a wait: a block used without waiting would still have its old content."""
    device = backend.get("cuda")
    (buffer,) = device.transfer_buffers([((4, 2), np.float32)])
    buffer.device.fill(7)
    buffer.wait_reusable()
    buffer.host[...] = 1
    buffer.copy_async(3)
    assert (buffer.device.get() == 7).all()
    buffer.wait_on_stream()
    np.testing.assert_array_equal(buffer.device.get(), [[1, 1]] * 3 + [[7, 7]])
