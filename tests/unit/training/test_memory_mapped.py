"""Memory-mapped .npy files: the same fit as on arrays, without a copy of the whole file."""

import sys

import numpy as np
import pytest
from helpers.networks import classifier_builder
from helpers.processes import run_python
from helpers.snapshots import weights_of

import gpunn

DTYPES = ["float64", "float32", "int16", "uint8", "bool"]
ORDERS = ["C", "F"]


_net = classifier_builder(gpunn.Dense(8, "relu"), seed=0, input_shape=12)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_memory_map_gives_the_fit_of_its_array(dtype, order, tmp_path):
    rng = np.random.default_rng(0)
    X = np.array(rng.integers(0, 2, size=(50, 12)), dtype, order=order)
    y, w = rng.integers(0, 3, size=50), rng.uniform(0.5, 2, size=50)
    mapped = []
    for k, array in enumerate((X, y, w)):
        np.save(tmp_path / f"{k}.npy", array)
        mapped.append(np.load(tmp_path / f"{k}.npy", mmap_mode="r"))
    assert mapped[0].flags.f_contiguous == (order == "F")
    runs = []
    for inputs, labels, weights in ((X, y, w), mapped):
        net = _net()
        options = {"epochs": 2, "batch_size": 16, "validation_split": 0.2, "verbose": 0}
        history = net.fit(inputs, labels, sample_weight=weights, **options).history
        runs.append((history, weights_of(net), net.predict(inputs).tobytes(), net.evaluate(inputs, labels)))
    assert runs[0] == runs[1]


# the dataset has 256 MiB; the limit is 96 MiB of private memory in addition to that of a small fit
LARGER_THAN_MEMORY = """
import resource, sys
import numpy as np
import gpunn

X = np.load(sys.argv[1] + "/X.npy", mmap_mode="r")
y = np.load(sys.argv[1] + "/y.npy", mmap_mode="r")
loss = sys.argv[2]
last = gpunn.Dense(3, "softmax") if loss.endswith("crossentropy") else gpunn.Dense(1)
net = gpunn.Sequential([gpunn.Dense(8, "relu"), last], seed=0, input_shape=X.shape[1])
net.compile("adam", loss, device="cpu")
options = {"batch_size": 4096, "verbose": 0, "validation_split": 0.1}
net.fit(X[:9000], y[:9000], **options)
net.predict(X[:9000])

used = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmData")) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (used + 96 * 2**20, resource.RLIM_INFINITY))
try:
    np.array(X)
except MemoryError:
    pass
else:
    print("no limit")
    sys.exit()
history = net.fit(X, y, epochs=1, **options).history
assert np.isfinite([history["loss"], history["val_loss"]]).all(), history
assert net.predict(X, batch_size=4096).shape == (len(X), net[-1].units)
assert np.isfinite(net.evaluate(X, y, batch_size=4096)["loss"])
print("fitted", len(X))
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limit of memory is Linux's")
@pytest.mark.parametrize(
    ("dtype", "order", "loss"),
    [
        ("float64", "C", "sparse_categorical_crossentropy"),
        ("float32", "C", "half_squared_error"),
        ("float32", "F", "sparse_categorical_crossentropy"),
        ("int16", "C", "half_squared_error"),
    ],
)
def test_a_dataset_larger_than_memory_is_read_batch_by_batch(dtype, order, loss, tmp_path):
    columns = 256
    rows = 2**28 // (columns * np.dtype(dtype).itemsize)
    # a sparse file reads as 0 and uses no disk space
    create = np.lib.format.open_memmap
    X = create(tmp_path / "X.npy", "w+", dtype, (rows, columns), fortran_order=order == "F")
    X[::1000, :3] = np.random.default_rng(0).integers(-3, 4, size=(len(X[::1000]), 3))
    labels = loss.endswith("crossentropy")
    y = create(tmp_path / "y.npy", "w+", "int64" if labels else "float64", (rows,) if labels else (rows, 1))
    y[::3] = 1
    X.flush(), y.flush()
    del X, y
    done = run_python(LARGER_THAN_MEMORY, tmp_path, loss, timeout=300)
    if done.stdout.strip() == "no limit":
        pytest.skip("this system does not limit the memory of a process")
    assert done.stdout.split() == ["fitted", str(rows)], done.stderr
