"""A checkpoint of another network, fit or dataset is refused, and a refusal changes nothing."""

import tracemalloc

import numpy as np
import pytest
from helpers import resume_cases
from helpers.messages import naming
from helpers.networks import build_network
from helpers.resume_cases import CASES, EPOCHS, ROWS, VALUES, VX, X, outcome, run
from helpers.snapshots import assert_unchanged, weights_of

import gpunn
from gpunn.program.groups import SINGLE_PROCESS
from gpunn.training import checkpoint
from gpunn.training.shard import Shard


def _refused(file, match, change=None, net=None, data=(X, VALUES), callbacks=None, **options):
    """Check that resuming the case below raises an error with file and difference, and changes nothing."""
    made, _, theirs, whose = CASES["early stopping"]()
    net = net or made
    if change is not None:
        change(net)
    options = {"epochs": EPOCHS, "batch_size": 8, "verbose": 0, **theirs, **options}
    before = file.read_bytes()
    callbacks = whose if callbacks is None else callbacks
    with assert_unchanged(net), pytest.raises(gpunn.CheckpointError, match=match) as caught:
        net.fit(*data, resume=file, callbacks=callbacks, **options)
    assert str(file) in str(caught.value) and isinstance(caught.value, ValueError)
    assert file.read_bytes() == before
    net.fit(*data, callbacks=callbacks, **{**options, "epochs": 1})


@pytest.fixture
def stopped(file):
    run("early stopping", file, stop=2)
    return file


def _layers(**others):
    """Return the layers of the case below, with some replaced: _0=…"""
    layers = {
        "_0": gpunn.Dense(7, "relu", max_norm=1.5),
        "_1": gpunn.LayerNormalization(),
        "_2": gpunn.Dropout(0.2, form="textbook"),
        "_3": gpunn.Dense(1, l1=0.001),
    }
    return [layer for layer in (layers | others).values() if layer is not None]


def _other(layers=None, optimizer=None, **options):
    """Build the network of the case below, with some options replaced."""
    options = {"dtype": "float64", "loss": "half_squared_error", "metrics": ["mae", "rmse"]} | options
    return build_network(*layers or _layers(), optimizer=optimizer or gpunn.SGD(0.05), **options)


OTHERS = {
    "units": (
        lambda: _other(_layers(_0=gpunn.Dense(9, "relu", max_norm=1.5))),
        r"layers\[0\].set.units is 7 in the file and 9 here",
    ),
    "activation": (
        lambda: _other(_layers(_0=gpunn.Dense(7, "tanh", max_norm=1.5))),
        r"layers\[0\].set.activation.*'relu' in the file.*'tanh' here",
    ),
    "a layer of another kind": (
        lambda: _other(_layers(_1=gpunn.BatchNormalization())),
        naming("layers[1].class", "'LayerNormalization'", "'BatchNormalization'"),
    ),
    "a layer fewer": (
        lambda: _other(_layers(_2=None)),
        naming("layers", 4, 3),
    ),
    "penalty": (
        lambda: _other(_layers(_3=gpunn.Dense(1, l1=0.002))),
        r"layers\[3\].set.l1 is 0.001 in the file and 0.002 here",
    ),
    "seed": (lambda: _other(seed=4), "seed is '3' in the file and '4' here"),
    "dtype": (lambda: _other(dtype="float32"), naming("dtype", "'float64'", "'float32'")),
    "optimizer": (
        lambda: _other(optimizer=gpunn.Momentum(0.05)),
        naming("optimizer.name", "'sgd'", "'momentum'"),
    ),
    "rate": (lambda: _other(optimizer=gpunn.SGD(0.1)), "optimizer.learning_rate.*0.05 in the file and 0.1 here"),
    "clipping": (
        lambda: _other(optimizer=gpunn.SGD(0.05, clipnorm=1.0)),
        naming("optimizer.clipnorm", 1.0, None),
    ),
    "loss": (lambda: _other(loss="mse"), naming("loss.name", "'half_squared_error'", "'mean_squared_error'")),
    "metrics": (lambda: _other(metrics=["mae"]), naming("metrics", 2, 1)),
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_network_or_optimizer_is_refused(stopped, name):
    make, match = OTHERS[name]
    _refused(stopped, match, net=make(), callbacks=[gpunn.EarlyStopping("val_mae")])


def test_a_network_that_is_not_built_yet_resumes(stopped):
    net = _other()
    _, data, options, callbacks = CASES["early stopping"]()
    history = net.fit(*data, epochs=EPOCHS, batch_size=8, verbose=0, resume=stopped, callbacks=callbacks, **options)
    assert outcome(net, history) == outcome(*run("early stopping")[:2])


def _freeze(net):
    net[0].trainable = False


@pytest.mark.parametrize(
    ("match", "options"),
    [
        (naming("layers[0].set.trainable", True, False), {"change": _freeze}),
        ("batch_size is 8 in the file and 9 here", {"batch_size": 9}),
        (naming("shuffle", True, False), {"shuffle": False}),
        ("training data.rows is 29 in the file and 28 here", {"data": (X[:28], VALUES[:28])}),
        (naming("training data.dtype", "'float64'", "'float32'"), {"data": (X.astype("f4"), VALUES)}),
        ("training data.targets is 'float32 .1,.' in .* and 'float64 .1,.'", {"data": (X, VALUES.astype("f8"))}),
        (naming("training data.weights", False, True), {"sample_weight": np.ones(29)}),
        ("validation data.rows is 13 in the file and 12 here", {"validation_data": (VX[:12], VX[:12, :1])}),
        ("validation data.weights is False", {"validation_data": (VX, VX[:, :1], np.ones(13))}),
        ("it holds 2 epochs, more than epochs=1", {"epochs": 1}),
        ("callbacks is .'EarlyStopping'. in the file and .. here", {"callbacks": []}),
        (
            naming("callbacks[0]", "'EarlyStopping'", "'Halve'"),
            {"callbacks": [resume_cases.Halve()]},
        ),
        ("callbacks is .* here", {"callbacks": [gpunn.EarlyStopping("val_loss"), gpunn.EarlyStopping("loss")]}),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_another_fit_is_refused(stopped, match, options):
    _refused(stopped, match, **options)


def _changed(array, row):
    """Return a copy with another value in one row."""
    array = np.array(array)
    array[row] += 1
    return array


VALIDATION = VX, VX[:, :1] - 2 * VX[:, 1:2]
OTHER_VALUES = {
    "all of X": (r"training data\.X is", {"data": (X + 100, VALUES)}),
    "all of y": (r"training data\.y is", {"data": (X, 1 - VALUES)}),
    "the first row of X": (r"training data\.X is", {"data": (_changed(X, 0), VALUES)}),
    "the middle row of X": (r"training data\.X is", {"data": (_changed(X, ROWS // 2), VALUES)}),
    "the last row of y": (r"training data\.y is", {"data": (X, _changed(VALUES, -1))}),
    "rows in another order": (r"training data\.X is", {"data": (X[::-1], VALUES[::-1])}),
    "X of the validation data": (r"validation data\.X is", {"validation_data": (VX + 1, VALIDATION[1])}),
    "y of the validation data": (r"validation data\.y is", {"validation_data": (VX, VALIDATION[1] + 1)}),
}


@pytest.mark.parametrize("name", OTHER_VALUES)
def test_other_values_of_the_same_shape_are_refused(stopped, name):
    match, options = OTHER_VALUES[name]
    _refused(stopped, match, **options)


WEIGHTED = {"sample_weight": np.linspace(0.5, 3, ROWS), "class_weight": {1: 3.0}}


def _weighted(file, stop=None, **options):
    net, data, others, _ = CASES["adam"]()
    callbacks = [gpunn.ModelCheckpoint(file)] + ([] if stop is None else [resume_cases.Stop(stop)])
    options = {"epochs": 4, "batch_size": 8, "verbose": 0, "callbacks": callbacks, **others, **options}
    return net, net.fit(*data, resume=file, **options)


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("sample_weight", np.linspace(0.5, 2, ROWS)),
        ("sample_weight", _changed(WEIGHTED["sample_weight"], -1)),
        ("class_weight", {1: 4.0}),
        ("class_weight", {0: 2.0, 1: 3.0}),
        ("class_weight", "balanced"),
    ],
)
def test_other_weights_are_refused(file, name, other):
    with pytest.raises(resume_cases.Stop.Now):
        _weighted(file, stop=2, **WEIGHTED)
    before = file.read_bytes()
    with pytest.raises(gpunn.CheckpointError, match=rf"training data\..*{name}.* is \d+ in the file and \d+ here"):
        _weighted(file, **WEIGHTED | {name: other})
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    "options",
    [
        WEIGHTED,
        {"class_weight": "balanced"},
        {"class_weight": "balanced", "validation_data": None, "validation_split": 0.3, **WEIGHTED},
        {"shuffle": False, **WEIGHTED},
        {"validation_data": (VX, resume_cases.VLABELS, np.linspace(1, 2, len(VX)))},
    ],
)
def test_equal_values_resume(file, options):
    whole = outcome(*_weighted(file, **options))
    file.unlink()
    with pytest.raises(resume_cases.Stop.Now):
        _weighted(file, stop=2, **options)
    assert outcome(*_weighted(file, **options)) == whole


def test_equal_values_in_other_containers_resume(file, fake_cupy, tmp_path):
    sparse = pytest.importorskip("scipy.sparse")
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "y.npy", VALUES)
    containers = {
        "a list": lambda: (X.tolist(), VALUES),
        "column-major": lambda: (np.asfortranarray(X), VALUES),
        "sparse": lambda: (sparse.csr_array(X), VALUES),
        "sparse columns": lambda: (sparse.csc_array(X), VALUES),
        "memory-mapped": lambda: tuple(np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in "xy"),
        "on disk": lambda: tuple(gpunn.Rows(tmp_path / f"{name}.npy") for name in "xy"),
        "on a GPU": lambda: (fake_cupy.asarray(X), fake_cupy.asarray(VALUES)),
    }
    wanted = outcome(*run("early stopping")[:2])
    for container, made in containers.items():
        file.unlink(missing_ok=True)
        run("early stopping", file, stop=2)
        net, _, options, callbacks = CASES["early stopping"]()
        options = {"epochs": EPOCHS, "batch_size": 8, "verbose": 0, "callbacks": callbacks, **options}
        history = net.fit(*made(), resume=file, **options)
        if not container.startswith("sparse"):
            # with another order of summation
            assert outcome(net, history) == wanted, container


def test_rows_of_other_values_are_refused(file, tmp_path):
    for name, array in {"x": X, "y": VALUES, "other": X + 1, "more": VALUES + 1}.items():
        np.save(tmp_path / f"{name}.npy", array)
    x, y, other, more = (gpunn.Rows(tmp_path / f"{name}.npy") for name in ("x", "y", "other", "more"))

    def fit(epochs, *data, **options):
        net = _other()
        callbacks = [gpunn.ModelCheckpoint(file)]
        return net, net.fit(*data, epochs=epochs, batch_size=8, verbose=0, resume=file, callbacks=callbacks, **options)

    whole = outcome(*fit(4, x, y, validation_data=(x, y)))
    file.unlink()
    fit(2, x, y, validation_data=(x, y))
    for match, data in {
        r"training data\.X": (other, y, (x, y)),
        r"training data\.y": (x, more, (x, y)),
        r"validation data\.X": (x, y, (other, y)),
        r"validation data\.y": (x, y, (x, more)),
    }.items():
        with pytest.raises(gpunn.CheckpointError, match=match):
            fit(4, *data[:2], validation_data=data[2])
    assert outcome(*fit(4, x, y, validation_data=(x, y))) == whole


class Counted:
    """An array that counts the rows read from it."""

    def __init__(self, array):
        self.array, self.read = array, 0
        self.shape, self.ndim, self.dtype = array.shape, array.ndim, array.dtype

    def __getitem__(self, rows):
        found = self.array[rows]
        self.read += len(found)
        return found


@pytest.mark.parametrize("n", [1, 2, 3, 64, 65, 66, 1024, 1025, 1026, 100_000])
def test_a_checksum_reads_few_rows(n):
    """Including the first, the last and the middle rows."""
    x, y = Counted(np.arange(3.0 * n).reshape(n, 3)), Counted(np.arange(n))
    before = Shard(x, y, None).checksums(SINGLE_PROCESS)
    assert x.read == min(n, 65) and y.read == min(n, 1025)
    for array, name in ((x, "X"), (y, "y")):
        for row in (0, (n - 1) // 2, n - 1):
            array.array[row] += 1
            assert Shard(x, y, None).checksums(SINGLE_PROCESS)[name] != before[name]
            array.array[row] -= 1
    assert Shard(x, y, None).checksums(SINGLE_PROCESS) == before


def test_a_stream_is_not_compared(file):
    """Its batches are not known in advance."""
    run("a stream", file, stop=2)
    net, _, options, _ = CASES["a stream"]()

    def others():
        for k in range(0, ROWS, 6):
            yield X[k : k + 6] + 1, resume_cases.LABELS[k : k + 6], resume_cases.WEIGHTS[k : k + 6] + 0.5

    assert len(net.fit(others, epochs=3, verbose=0, resume=file, **options).epoch) == 3


@pytest.mark.parametrize("version", [None, 1, 4, "3"])
def test_a_checkpoint_of_another_version_is_refused_and_its_model_opens(stopped, version):
    """Checkpoints without checksums have no version."""
    tensors, metadata = checkpoint.read(stopped)
    weights = weights_of(gpunn.load(stopped))
    if version is None:
        del metadata["training"]["version"]
    else:
        metadata["training"]["version"] = version
    checkpoint.write(stopped, tensors, metadata)
    _refused(stopped, f"version {1 if version is None else version!r}, but this gpunn resumes version 3")
    assert weights_of(gpunn.load(stopped)) == weights


def test_a_dataset_with_other_columns_is_refused(stopped):
    stopping = gpunn.EarlyStopping("mae")
    options = {"net": _other(), "data": (X[:, :5], VALUES), "validation_data": None, "callbacks": [stopping]}
    _refused(stopped, "inputs is 6 in the file and 5 here", **options)


def test_missing_validation_data_is_refused(stopped):
    options = {"validation_data": None, "callbacks": [gpunn.EarlyStopping("mae")]}
    _refused(stopped, naming("validation data", None), **options)


def test_a_model_file_is_refused(file):
    net = run("early stopping", epochs=1)[0]
    net.save(file)
    _refused(file, naming("resume=", "ModelCheckpoint"))


def test_a_directory_is_refused(tmp_path):
    with pytest.raises(OSError, match="not a regular file"):
        _other().fit(X, VALUES, resume=tmp_path, verbose=0)
    with pytest.raises(TypeError):
        _other().fit(X, VALUES, resume=3.5, verbose=0)


def test_a_callback_that_cannot_restore_its_state_changes_nothing(stopped):
    class EarlyStopping(gpunn.EarlyStopping):
        """A later version with the same name and more state."""

        def on_train_begin(self, logs=None):
            super().on_train_begin(logs)
            self.model.set_weights([0 * w for w in self.model.get_weights()])

        def set_state(self, state):
            raise KeyError("more")

    _refused(
        stopped,
        naming("EarlyStopping", "KeyError('more')"),
        callbacks=[EarlyStopping("val_mae", patience=2)],
    )


def test_a_state_that_cannot_be_saved_ends_the_fit_and_keeps_the_old_file(stopped):
    before = stopped.read_bytes()

    class Odd(gpunn.Callback):
        def get_state(self):
            return {"what": {1, 2}}

    net, data, options, callbacks = CASES["early stopping"]()
    callbacks = [gpunn.ModelCheckpoint(stopped), Odd(), *callbacks]
    with pytest.raises(TypeError, match=naming("state", "set")):
        net.fit(*data, epochs=2, batch_size=8, verbose=0, callbacks=callbacks, **options)
    assert stopped.read_bytes() == before and list(stopped.parent.iterdir()) == [stopped]


class _Leaves(gpunn.Callback):
    """Raises an error before the first step."""

    def on_train_begin(self, logs=None):
        raise FileNotFoundError


def test_wide_sparse_tables_are_not_made_dense(file):
    sparse = pytest.importorskip("scipy.sparse")
    width = 1 << 20
    columns = np.arange(64, dtype=np.int64) * 1009
    wide = sparse.csr_array((np.ones(64, "float32"), (np.arange(64), columns)), shape=(64, width))
    net = gpunn.Sequential([gpunn.Dense(1, kernel_initializer="zeros")], seed=0)
    net.compile("sgd", "half_squared_error", device="cpu")
    net.build(width)
    tracemalloc.start()
    try:
        with pytest.raises(FileNotFoundError):
            net.fit(wide, np.ones((64, 1)), batch_size=1, verbose=0, callbacks=[_Leaves()])
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 64 << 20
