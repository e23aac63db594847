"""Arrays of other libraries in `predict`: the same bits as NumPy's, a NumPy array of the caller's own out, nothing
written to what came in. `tests/unit/test_input_checks.py` asks the same of every other call."""

import numpy as np
import pytest
from helpers.messages import naming
from helpers.oracles import oracle
from helpers.snapshots import bits, read_only_copy

import gpunn

X = np.random.default_rng(7).normal(size=(6, 3)).astype(np.float32)
NET = gpunn.Sequential([gpunn.Dense(5, "tanh"), gpunn.BatchNormalization(), gpunn.Dense(2)], input_shape=3, seed=2)
WANTED = bits(NET.predict(X))


class OnlyDLPack:
    """The exchange protocol and nothing else, with whatever NumPy asks for."""

    def __init__(self, array):
        self.array = array

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


class OldDLPack(OnlyDLPack):
    """The exchange protocol as it was before it knew versions."""

    def __dlpack__(self, stream=None):
        return self.array.__dlpack__()


class OnlyArray:
    """`__array__` and nothing else, with the arguments that NumPy 2 asks for."""

    def __init__(self, array):
        self.array = array

    def __array__(self, dtype=None, copy=None):
        return self.array


def assert_taken(given):
    """X in another library's hands."""
    got = NET.predict(given)
    assert type(got) is np.ndarray and got.flags.writeable and bits(got) == WANTED
    assert bits(NET.predict(given, batch_size=4)) == WANTED
    got[...] = 17
    assert bits(NET.predict(given)) == WANTED


@pytest.mark.parametrize("holder", [OnlyDLPack, OldDLPack, OnlyArray])
@pytest.mark.parametrize("order", ["C", "F"])
def test_the_protocols_alone(holder, order):
    source = np.array(X, order=order)
    assert_taken(holder(source))
    assert bits(source) == bits(X)


def test_read_only_arrays():
    assert_taken(read_only_copy(X))
    assert_taken(OnlyArray(read_only_copy(X)))
    if np.lib.NumpyVersion(np.__version__) >= "2.1.0":
        # the exchange protocol of older ones refuses to give them out
        assert_taken(OnlyDLPack(read_only_copy(X)))


def test_an_exporter_that_fails_is_named():
    class Elsewhere(OnlyDLPack):
        def __dlpack__(self, **options):
            raise BufferError("the array is on another device")

    with pytest.raises(TypeError, match=naming("X", "Elsewhere", "the array is on another")):
        NET.predict(Elsewhere(X))


def test_tables_of_pandas():
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame(X, columns=list("abc"))
    assert_taken(table)
    assert_taken(table.set_index(pandas.Index(range(6, 0, -1))))
    assert_taken(table.astype({"a": "Float32", "b": "float64", "c": object}))
    assert_taken(table.astype(pandas.SparseDtype("float32")))
    assert bits(table.to_numpy()) == bits(X)


def test_tables_of_polars():
    polars = pytest.importorskip("polars")
    table = polars.DataFrame(X, schema=list("abc"))
    assert_taken(table)
    assert_taken(table.with_columns(polars.col("a").cast(polars.Float64)))
    with pytest.raises(TypeError, match="got LazyFrame"):
        NET.predict(table.lazy())
    with pytest.raises(ValueError, match=naming("X", "NaN", "row 0", "column 1")):
        NET.predict(table.with_columns(polars.lit(None).cast(polars.Float32).alias("b")))


def test_tensors_of_torch():
    torch = oracle("torch")
    tensor = torch.from_numpy(X.copy())
    assert_taken(tensor)
    assert_taken(tensor.clone().requires_grad_())
    assert_taken(torch.nn.Parameter(tensor))
    assert_taken(tensor.T.contiguous().T)
    assert_taken(tensor.double())
    assert_taken([*tensor])
    assert_taken(OnlyDLPack(tensor))
    assert bits(tensor.numpy()) == bits(X)
    half = tensor.half()
    assert bits(NET.predict(half)) == bits(NET.predict(half.float()))
    for refused in (tensor.to_sparse(), tensor.bfloat16(), tensor.to("meta")):
        with pytest.raises(TypeError, match=naming("X", "Tensor")):
            NET.predict(refused)


def test_arrays_of_jax():
    """They are read-only."""
    jax = oracle("jax")
    array = jax.numpy.asarray(X)
    assert_taken(array)
    assert_taken([*array])
    assert_taken(OnlyDLPack(array))
    with jax.enable_x64(True):
        assert_taken(jax.numpy.asarray(X, dtype="float64"))
    with pytest.raises(TypeError, match=naming("X", "bfloat16")):
        NET.predict(array.astype("bfloat16"))
