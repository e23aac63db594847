"""Arrays of other libraries in `predict`: the result has the same bits as for NumPy, belongs to the caller, and the
input is unchanged. `tests/unit/test_input_checks.py` tests the other methods."""

import numpy as np
import pytest
from helpers.array_protocols import OnlyDLPack
from helpers.messages import naming
from helpers.oracles import oracle
from helpers.snapshots import bits, read_only_copy

import gpunn

X = np.random.default_rng(7).normal(size=(6, 3)).astype(np.float32)
NET = gpunn.Sequential([gpunn.Dense(5, "tanh"), gpunn.BatchNormalization(), gpunn.Dense(2)], input_shape=3, seed=2)
WANTED = bits(NET.predict(X))


class OldDLPack(OnlyDLPack):
    """An array with the DLPack protocol before version 1.0."""

    def __dlpack__(self, stream=None):
        return self.array.__dlpack__()


class OnlyArray:
    """An array with `__array__` only, with the arguments that NumPy 2 passes."""

    def __init__(self, array):
        self.array = array

    def __array__(self, dtype=None, copy=None):
        return self.array


def assert_accepted(given):
    """Assert that predictions for X in another form are equal, and independent of the input."""
    got = NET.predict(given)
    assert type(got) is np.ndarray and got.flags.writeable and bits(got) == WANTED
    assert bits(NET.predict(given, batch_size=4)) == WANTED
    got[...] = 17
    assert bits(NET.predict(given)) == WANTED


@pytest.mark.parametrize("holder", [OnlyDLPack, OldDLPack, OnlyArray])
@pytest.mark.parametrize("order", ["C", "F"])
def test_dlpack_and_array_protocols(holder, order):
    source = np.array(X, order=order)
    assert_accepted(holder(source))
    assert bits(source) == bits(X)


def test_read_only_arrays():
    assert_accepted(read_only_copy(X))
    assert_accepted(OnlyArray(read_only_copy(X)))
    if np.lib.NumpyVersion(np.__version__) >= "2.1.0":
        # DLPack export of read-only arrays needs NumPy 2.1
        assert_accepted(OnlyDLPack(read_only_copy(X)))


def test_error_names_a_failing_exporter():
    class Elsewhere(OnlyDLPack):
        def __dlpack__(self, **options):
            raise BufferError("the array is on another device")

    with pytest.raises(TypeError, match=naming("X", "Elsewhere", "the array is on another")):
        NET.predict(Elsewhere(X))


def test_pandas_data_frames():
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame(X, columns=list("abc"))
    assert_accepted(table)
    assert_accepted(table.set_index(pandas.Index(range(6, 0, -1))))
    assert_accepted(table.astype({"a": "Float32", "b": "float64", "c": object}))
    assert_accepted(table.astype(pandas.SparseDtype("float32")))
    assert bits(table.to_numpy()) == bits(X)


def test_polars_data_frames():
    polars = pytest.importorskip("polars")
    table = polars.DataFrame(X, schema=list("abc"))
    assert_accepted(table)
    assert_accepted(table.with_columns(polars.col("a").cast(polars.Float64)))
    with pytest.raises(TypeError, match="got LazyFrame"):
        NET.predict(table.lazy())
    with pytest.raises(ValueError, match=naming("X", "NaN", "row 0", "column 1")):
        NET.predict(table.with_columns(polars.lit(None).cast(polars.Float32).alias("b")))


def test_torch_tensors():
    torch = oracle("torch")
    tensor = torch.from_numpy(X.copy())
    assert_accepted(tensor)
    assert_accepted(tensor.clone().requires_grad_())
    assert_accepted(torch.nn.Parameter(tensor))
    assert_accepted(tensor.T.contiguous().T)
    assert_accepted(tensor.double())
    assert_accepted([*tensor])
    assert_accepted(OnlyDLPack(tensor))
    assert bits(tensor.numpy()) == bits(X)
    half = tensor.half()
    assert bits(NET.predict(half)) == bits(NET.predict(half.float()))
    for refused in (tensor.to_sparse(), tensor.bfloat16(), tensor.to("meta")):
        with pytest.raises(TypeError, match=naming("X", "Tensor")):
            NET.predict(refused)


def test_jax_arrays():
    """JAX arrays are read-only."""
    jax = oracle("jax")
    array = jax.numpy.asarray(X)
    assert_accepted(array)
    assert_accepted([*array])
    assert_accepted(OnlyDLPack(array))
    with jax.enable_x64(True):
        assert_accepted(jax.numpy.asarray(X, dtype="float64"))
    with pytest.raises(TypeError, match=naming("X", "bfloat16")):
        NET.predict(array.astype("bfloat16"))
