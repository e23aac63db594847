"""Accepted kinds of X, y and weights. Every container of the same numbers gives the same results, as copies."""

import array
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
from helpers.array_protocols import OnlyDLPack
from helpers.messages import naming
from helpers.networks import network_builder
from helpers.oracles import strided_tensor
from helpers.snapshots import bits, read_only_copy, weights_of

import gpunn
from gpunn import input_checks, losses

# integers and halves, which every type below represents
X = np.array([[1, -2, 0.5], [0, 3, -1], [2.5, 0, 1], [-1, 1, 4], [3, -0.5, 2]])
WHOLE = np.array([[1, 2, 0], [0, 3, 1], [2, 0, 1], [1, 1, 4], [3, 5, 2]])
Y = np.array([0, 2, 1, 1, 0])
VALUES = np.array([[0.5, 1], [2, -1], [0, 0], [-3, 1.5], [4, 2]])


OPTIONS = {"input_shape": 3, "seed": 1, "dtype": "float64", "optimizer": gpunn.Adam(0.1), "device": "auto"}
_net = network_builder(gpunn.Dense(4, "tanh"), gpunn.Dense(3, "softmax"), **OPTIONS)
_regression = network_builder(gpunn.Dense(4, "tanh"), gpunn.Dense(2), **OPTIONS, loss="mse")


def _every_layout(a):
    """Yield the same numbers in every memory layout of NumPy."""
    wide = np.zeros((2 * a.shape[0], 3 * a.shape[1]), a.dtype)
    wide[::2, ::3] = a
    record = np.zeros(a.shape, dtype=[("flag", "i1"), ("value", a.dtype), ("more", "i4")])
    record["value"] = a
    shifted = np.empty(a.nbytes + 1, np.uint8)[1:].view(a.dtype).reshape(a.shape)
    shifted[...] = a
    return {
        "C": np.ascontiguousarray(a),
        "Fortran": np.asfortranarray(a),
        "strided": wide[::2, ::3],
        "reversed": np.ascontiguousarray(a[::-1, ::-1])[::-1, ::-1],
        "transposed": np.ascontiguousarray(a.T).T,
        "field of records": record["value"],
        "not aligned": shifted,
        "read-only": read_only_copy(a),
        "big-endian": a.astype(a.dtype.newbyteorder(">")),
        "little-endian": a.astype(a.dtype.newbyteorder("<")),
        "matrix": np.ascontiguousarray(a).view(np.matrix),
        "object": a.astype(object),
    }


@pytest.mark.slow
@pytest.mark.parametrize("layout", _every_layout(X))
@pytest.mark.parametrize("kind", ["float64", "float32", "int64", "int16", "uint8"])
def test_the_layout_in_memory_does_not_matter(layout, kind):
    plain = (X if kind.startswith("f") else WHOLE).astype(kind)
    given = _every_layout(plain)[layout]
    net, twin = _net(), _net()
    assert bits(net.predict(given)) == bits(net.predict(plain))
    assert bits(net.predict(given, batch_size=2)) == bits(net.predict(plain, batch_size=2))
    a = net.fit(given, Y, batch_size=2, epochs=2, verbose=0).history
    assert twin.fit(plain, Y, batch_size=2, epochs=2, verbose=0).history == a
    assert weights_of(net) == weights_of(twin)


@pytest.mark.parametrize("layout", _every_layout(VALUES))
def test_the_layout_of_targets_does_not_matter(layout):
    net, twin = _regression(), _regression()
    a = net.fit(X, _every_layout(VALUES)[layout], batch_size=2, epochs=2, verbose=0).history
    assert twin.fit(X, VALUES, batch_size=2, epochs=2, verbose=0).history == a


@pytest.mark.parametrize(
    "kind", "float16 float32 float64 longdouble int8 uint8 int16 int32 uint32 int64 uint64".split()
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_numeric_type_gives_the_same_values(kind, dtype):
    net = _net(dtype=dtype)
    given = WHOLE.astype(kind)
    assert bits(net.predict(given)) == bits(net.predict(WHOLE.astype(dtype)))
    assert net.evaluate(given, Y.astype(kind)) == net.evaluate(WHOLE.astype(dtype), Y)
    assert net.predict(given).dtype == dtype
    w = np.array([1, 2, 0, 1, 3])
    assert net.evaluate(X, Y, sample_weight=w.astype(kind)) == net.evaluate(X, Y, sample_weight=w.astype(float))


def test_booleans_are_numbers():
    net = _net()
    yes = WHOLE > 1
    assert bits(net.predict(yes)) == bits(net.predict(yes.astype(float)))
    assert net.evaluate(X, Y > 0) == net.evaluate(X, (Y > 0).astype(int))
    w = np.array([True, False, True, True, False])
    assert net.evaluate(X, Y, sample_weight=w) == pytest.approx(net.evaluate(X[w], Y[w]), rel=1e-14)


def test_integers_too_large_for_float32_are_rounded_as_in_numpy():
    net = gpunn.Sequential([gpunn.Dropout(0.5)], input_shape=2)
    big = np.array([[2**24 + 1, 2**53 + 1], [-(2**31), 2**63 - 1]])
    assert bits(net.predict(big)) == bits(big.astype(np.float32))
    assert bits(net.predict([[10**25, 1.0]])) == bits(np.array([[1e25, 1]], np.float32))


class TableLike:
    """A stand-in for a pandas or polars table."""

    def __init__(self, a):
        self.a = a

    def to_numpy(self):
        return self.a


class TorchLike(OnlyDLPack):
    """A stand-in for a tensor that requires gradients and must be detached for NumPy."""

    def detach(self):
        return SimpleNamespace(cpu=lambda: SimpleNamespace(numpy=lambda: self.array))

    def __array__(self, *_, **__):
        raise RuntimeError("Can't call numpy() on Tensor that requires grad.")


class OnlyArray:
    """An object that has `__array__` only."""

    def __init__(self, a):
        self.a = a

    def __array__(self, dtype=None, copy=None):
        return np.array(self.a, dtype=dtype)


HOLDERS = {
    "list": np.ndarray.tolist,
    "tuple": lambda a: tuple(map(tuple, a.tolist())) if a.ndim == 2 else tuple(a.tolist()),
    "list of arrays": list,
    "to_numpy": TableLike,
    "__dlpack__": OnlyDLPack,
    "like torch": TorchLike,
    "__array__": OnlyArray,
    "memoryview": memoryview,
}


def _assert_same_results(holder):
    net, twin = _net(), _net()
    given, labels, w = holder(X), holder(Y), holder(np.array([1.0, 2, 0.5, 1, 1]))
    p = net.predict(given)
    assert type(p) is np.ndarray and bits(p) == bits(net.predict(X))
    assert type(net.predict_classes(given)) is np.ndarray
    a = net.fit(given, labels, sample_weight=w, validation_data=(given, labels, w), verbose=0).history
    w = np.array([1.0, 2, 0.5, 1, 1])
    assert twin.fit(X, Y, sample_weight=w, validation_data=(X, Y, w), verbose=0).history == a
    assert weights_of(net) == weights_of(twin)
    values = _regression()
    assert values.evaluate(given, holder(VALUES)) == values.evaluate(X, VALUES)
    assert all(type(g) is np.ndarray for g in values.loss_and_gradients(given, holder(VALUES))[1])
    assert type(values.trace(given)[0].a) is np.ndarray


@pytest.mark.parametrize("holder", HOLDERS.values(), ids=HOLDERS)
def test_containers_of_the_same_numbers_give_the_same_results(holder):
    _assert_same_results(holder)


def test_flat_containers_of_labels():
    net = _net()
    for labels in (array.array("i", Y), memoryview(Y), tuple(Y)):
        assert net.evaluate(X, labels) == net.evaluate(X, Y)
    assert net.evaluate(X[:3], range(3)) == net.evaluate(X[:3], np.arange(3))


def test_pandas():
    pandas = pytest.importorskip("pandas")
    _assert_same_results(
        lambda a: pandas.Series(a) if a.ndim == 1 else pandas.DataFrame(a, columns=list("abc")[: a.shape[1]])
    )
    mixed = pandas.DataFrame({"a": [1, 0, 2, 1, 3], "b": X[:, 1], "c": [True, False, True, True, False]})
    net = _net()
    assert bits(net.predict(mixed)) == bits(net.predict(mixed.to_numpy().astype(float)))
    nullable = pandas.DataFrame(WHOLE, columns=list("abc")).astype("Int64")
    assert bits(net.predict(nullable)) == bits(net.predict(WHOLE))
    # the index does not change the order of rows
    shuffled = pandas.DataFrame(X, index=[4, 2, 0, 1, 3])
    assert bits(net.predict(shuffled)) == bits(net.predict(X))
    assert net.evaluate(shuffled, pandas.Series(Y, index=[0, 1, 2, 3, 4])) == net.evaluate(X, Y)


def test_polars():
    polars = pytest.importorskip("polars")
    _assert_same_results(lambda a: polars.Series(a) if a.ndim == 1 else polars.DataFrame(a))


def test_torch():
    torch = pytest.importorskip("torch")
    _assert_same_results(torch.from_numpy)
    _assert_same_results(strided_tensor)
    # rows that require gradients, as a loop over a data set collects them
    _assert_same_results(lambda a: [torch.tensor(row, requires_grad=a.dtype.kind == "f") for row in a])
    net, row = _net(), torch.tensor([1.0, 2, 3], requires_grad=True)
    with pytest.raises(TypeError, match=r"X, of type list.*detach"):
        net.predict([list(row)])
    with pytest.raises(ValueError, match="X must be rectangular"):
        net.predict([row, row[:2]])
    with pytest.raises(TypeError, match=naming("X", "Tensor", "float32")):
        net.predict(torch.tensor(X, dtype=torch.bfloat16))


def test_jax():
    jax = pytest.importorskip("jax")
    with jax.enable_x64(True):
        _assert_same_results(jax.numpy.asarray)


@pytest.mark.gpu
def test_cupy_in_cupy_out():
    cupy = pytest.importorskip("cupy")
    for device in ("cpu", "cuda"):
        net = _net().compile("adam", "sparse_categorical_crossentropy", device=device)
        given = cupy.asarray(X)
        net.fit(given, cupy.asarray(Y), verbose=0)
        for ask in (net.predict, net.predict_proba, net.predict_classes):
            assert type(ask(given)) is cupy.ndarray
            assert type(ask(X)) is np.ndarray
            np.testing.assert_array_equal(ask(given).get(), ask(X))


def test_fake_cupy_in_fake_cupy_out(fake_cupy):
    net = _net().compile("adam", "sparse_categorical_crossentropy", device="cpu")
    given = fake_cupy.asarray(X)
    assert type(net.predict(given)) is fake_cupy.ndarray
    assert type(net.predict(X)) is np.ndarray


# --- the caller's arrays ---------------------------------------------------------------------------------------------


def test_the_callers_arrays_are_not_written_to():
    """Read-only arrays are accepted, and writable ones do not change."""
    w = np.array([1.0, 2, 0.5, 1, 1])
    for given in ((X.copy(), Y.copy(), w.copy()), tuple(map(read_only_copy, (X, Y, w)))):
        before = [bits(a) for a in given]
        x, y, weights = given
        net = _net()
        net.fit(x, y, sample_weight=weights, validation_data=given, class_weight={0: 2}, epochs=2, verbose=0)
        net.train_on_batch(x, y, sample_weight=weights)
        net.evaluate(x, y, sample_weight=weights), net.predict(x), net.predict_proba(x), net.predict_classes(x)
        net.loss_and_gradients(x, y, sample_weight=weights), net.trace(x, y, sample_weight=weights)
        net.input_gradient(x, y)
        assert [bits(a) for a in given] == before


def test_gradients_and_traces_are_copies():
    net = _net()
    _, gradients = net.loss_and_gradients(X, Y)
    dx = net.input_gradient(X, Y)
    kept = [bits(g) for g in [*gradients, dx]]
    for g in [*gradients, dx]:
        g[...] = 17
    assert [bits(g) for g in [*net.loss_and_gradients(X, Y)[1], net.input_gradient(X, Y)]] == kept


# --- the checks themselves -------------------------------------------------------------------------------------------


def test_features_are_not_converted_or_copied():
    for kind in ("float32", "float64", "int64", "uint8", "bool"):
        given = np.asfortranarray(WHOLE.astype(kind))
        assert input_checks.features(given, 3, np.dtype("float32")) is given


def test_large_arrays_are_checked_in_blocks():
    rows = 3 * input_checks.BLOCK // 4
    given = np.zeros((rows, 4), np.float32)
    for row, column in ((0, 0), (rows - 1, 3), (input_checks.BLOCK // 4, 2)):
        given[row, column] = np.nan
        with pytest.raises(ValueError, match=f"NaN, first in row {row}, column {column}"):
            input_checks.features(given, 4, np.dtype("float32"))
        given[row, column] = 0
    assert input_checks.features(given, 4, np.dtype("float32")) is given


def test_labels_become_int32_and_values_are_unchanged():
    loss, values = losses.SparseCategoricalCrossentropy(), losses.HalfSquaredError()
    assert bits(input_checks.targets([0.0, 2.0], loss, 2, 3, np.dtype("float32"))) == bits(np.array([0, 2], np.int32))
    given = np.array([[1.0], [2.0]])
    assert input_checks.targets(given, values, 2, 1, np.dtype("float32")) is given


@pytest.mark.parametrize("rows", [2, 3, 10, 101])
@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5, 0.9])
def test_a_validation_split_takes_the_last_rows_as_keras_does(rows, fraction):
    """There are ⌊rows (1 − fraction)⌋ training rows, with the fraction as the decimal number that was given."""
    wanted = int(rows * (1 - Fraction(str(fraction))))
    if 0 < wanted < rows:
        assert input_checks.n_training_rows(rows, fraction) == wanted
    else:
        with pytest.raises(ValueError, match=rf"validation_split={fraction} of {rows} rows leaves one side"):
            input_checks.n_training_rows(rows, fraction)
    assert input_checks.n_training_rows(rows, 0) == input_checks.n_training_rows(rows, 0.0) == rows


def test_every_split_with_rows_on_both_sides_is_accepted():
    """Hundredths and sums of tenths: the floats are smaller or larger than the decimal number."""
    for rows in range(2, 130):
        for hundredths in range(1, 100):
            wanted = rows * (100 - hundredths) // 100
            if 0 < wanted < rows:
                assert input_checks.n_training_rows(rows, hundredths / 100) == wanted
    assert input_checks.n_training_rows(10, 0.1 + 0.2) == input_checks.n_training_rows(10, 0.3) == 7
    assert input_checks.n_training_rows(3, 2 / 3) == 1 and input_checks.n_training_rows(3, 1 / 3) == 2


def test_the_rows_of_a_split_of_nine_tenths():
    net, twin = _net(), _net()
    table, y = np.vstack([X, X]), np.r_[Y, Y]
    history = net.fit(table, y, validation_split=0.9, verbose=0).history
    assert history == twin.fit(table[:1], y[:1], validation_data=(table[1:], y[1:]), verbose=0).history
