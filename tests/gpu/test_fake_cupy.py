"""The fake CuPy: as strict as CuPy where gpunn relies on it, and its kernels run the source that they get."""

from pathlib import Path

import numpy as np
import pytest
from helpers import fake_cupy as fake


@pytest.fixture
def cp(fake_cupy):
    return fake_cupy


def test_the_fake_stays_short():
    assert len(Path(fake.__file__).read_text().splitlines()) < 300


MIXED = [
    lambda cp, x, host: np.asarray(x),
    lambda cp, x, host: np.array([x]),
    lambda cp, x, host: np.sum(x),
    lambda cp, x, host: np.concatenate([x, x]),
    lambda cp, x, host: np.add(host, x),
    lambda cp, x, host: x + host,
    lambda cp, x, host: host + x,
    lambda cp, x, host: x * [1.0, 2.0, 3.0],
    lambda cp, x, host: cp.maximum(x, host),
    lambda cp, x, host: cp.where(x > 0, x, host),
    lambda cp, x, host: cp.concatenate([x, host]),
    lambda cp, x, host: x.__setitem__(slice(None), host),
    lambda cp, x, host: x[host.astype(int)],
    lambda cp, x, host: np.copyto(host, x),
    lambda cp, x, host: host.__setitem__(slice(None), x),
    lambda cp, x, host: x.set([1.0, 2.0, 3.0]),
    lambda cp, x, host: x.set(host.astype(np.float32)),
    lambda cp, x, host: cp.matmul(x, host),
    lambda cp, x, host: cp.ElementwiseKernel("T x", "T y", "y = x", "k")(host),
]


@pytest.mark.parametrize("k", range(len(MIXED)))
def test_numpy_and_device_do_not_mix(cp, k):
    with pytest.raises((TypeError, ValueError)):
        MIXED[k](cp, cp.asarray(np.ones(3)), np.ones(3))


@pytest.mark.parametrize("name", ["vectorize", "einsum", "random", "nosuch"])
def test_names_that_gpunn_does_not_use_do_not_exist(cp, name):
    with pytest.raises(AttributeError):
        getattr(cp, name)
    with pytest.raises(AttributeError):
        getattr(cp.zeros(3), name)


def test_strings_and_objects_are_refused(cp):
    for x in (["a"], [None], np.array(["2020-01-01"], dtype="M8[D]"), [1j]):
        with pytest.raises(ValueError, match="Unsupported dtype"):
            cp.asarray(x)


def test_arithmetic_equals_numpy(cp):
    x = np.array([[1.0, -2.0], [3.0, 0.0]], dtype=np.float32)
    a = cp.asarray(x)
    for f in (
        lambda m, v: v + 1,
        lambda m, v: 2 - v,
        lambda m, v: v / v,
        lambda m, v: -(abs(v) ** 2),
        lambda m, v: v @ v.T,
        lambda m, v: np.float64(2) * v,
        lambda m, v: (v > 0) & ~(v == 3),
        lambda m, v: m.exp(v[:, None]),
        lambda m, v: m.where(m.isfinite(v), m.maximum(v, 0), 1),
        lambda m, v: m.sum(v, axis=0),
        lambda m, v: v.sum(axis=1, keepdims=True),
        lambda m, v: v.reshape(-1)[1:3],
        lambda m, v: v.mean(),
        lambda m, v: v.astype(np.float64),
    ):
        with np.errstate(all="ignore"):
            expected = np.asarray(f(np, x))
        got = f(cp, a)
        assert isinstance(got, cp.ndarray) and got.dtype == expected.dtype
        assert np.array_equal(got.get(), expected, equal_nan=True)
    assert float(a[0, 0]) == 1.0 and bool(a[0, 0]) and len(a) == 2


def test_writing_in_place_writes_through_views(cp):
    a = cp.zeros((2, 3))
    view = a[1]
    view += 2
    view[0] = 5
    a.T[2] *= 3
    a[:, 1] = cp.asarray([7.0, 8.0])
    assert np.array_equal(cp.asnumpy(a), [[0, 7, 0], [5, 8, 6]])


def test_indices_out_of_range_wrap_around(cp):
    a = cp.asarray(np.arange(6.0).reshape(2, 3))
    rows, columns = cp.asarray([0, 3]), cp.asarray([4, -1])
    assert np.array_equal(a[rows, columns].get(), [1.0, 5.0])
    assert np.array_equal(a[:, columns].get(), [[1.0, 2.0], [4.0, 5.0]])


def test_calls_are_recorded(cp):
    cp.state.calls.clear()
    a = cp.asarray(np.ones(3))
    b = a[1:]
    b += 1
    cp.matmul(a, a)
    a.get()
    cp.cuda.runtime.deviceSynchronize()
    assert cp.state.calls == ["to_device", "allocate", "matmul", "allocate", "to_host", "synchronize"]


FORBIDDEN = [
    lambda cp, a: cp.zeros(3),
    lambda cp, a: a + 1,
    lambda cp, a: a.copy(),
    lambda cp, a: a.get(),
    lambda cp, a: float(a[0]),
    lambda cp, a: bool(a[0] > 0),
    lambda cp, a: a.set(np.ones(3)),
    lambda cp, a: cp.asarray(np.ones(3)),
    lambda cp, a: cp.cuda.runtime.deviceSynchronize(),
    lambda cp, a: cp.ElementwiseKernel("T x", "T y", "y = x", "k")(a),
]


@pytest.mark.parametrize("k", range(len(FORBIDDEN)))
def test_capture_forbids_allocation_copies_and_synchronization(cp, k, monkeypatch):
    a = cp.zeros(3)
    monkeypatch.setattr(cp.state, "capturing", True)
    with pytest.raises(fake.CUDARuntimeError, match="cudaErrorStreamCaptureUnsupported"):
        FORBIDDEN[k](cp, a)


def test_capture_forbids_cublas_and_allows_kernels_in_place(cp, monkeypatch):
    a, out = cp.zeros((2, 2)), cp.zeros((2, 2))
    add = cp.ElementwiseKernel("T x", "T y", "y = x + (T)1", "add")
    monkeypatch.setattr(cp.state, "capturing", True)
    with pytest.raises(NotImplementedError, match="cuBLAS API during stream capture"):
        cp.matmul(a, a, out=out)
    add(a, out)
    out += 1
    out[0] = 5
    monkeypatch.setattr(cp.state, "capturing", False)
    assert np.array_equal(out.get(), [[5, 5], [2, 2]])


def test_a_kernel_runs_its_source_for_every_type(cp):
    scale = cp.ElementwiseKernel("T x, S y, float64 s", "T z", "z = (T)(x * y * s)", "scale")
    for t in (np.float32, np.float64, np.int32, np.int64, np.uint8):
        for s in (np.float32, np.int16, np.bool_):
            z = scale(cp.asarray(np.arange(4).astype(t)), cp.asarray(np.ones(4, dtype=s)), 2.0)
            assert z.dtype == t and np.array_equal(z.get(), 2 * np.arange(4))


def test_a_kernel_broadcasts_arrays_that_are_not_raw(cp):
    bias = cp.ElementwiseKernel("T z, T b", "T a", "a = z + b", "bias")
    z, b = np.arange(6.0).reshape(2, 3), np.array([10.0, 20.0, 30.0])
    assert np.array_equal(bias(cp.asarray(z), cp.asarray(b)).get(), z + b)
    assert np.array_equal(bias(cp.asarray(z), 1.0).get(), z + 1)
    out = cp.zeros((3, 2)).T  # another layout
    bias(cp.asarray(z), cp.asarray(np.array([[1.0], [2.0]])), out)
    assert np.array_equal(out.get(), z + np.array([[1.0], [2.0]]))
    with pytest.raises(ValueError, match="Out shape is mismatched"):
        bias(cp.asarray(z), cp.asarray(b), cp.zeros(3))


def test_raw_arrays_are_arrays_and_pointers(cp):
    text = "const T* p = &x[0]; y[i] = x[i] + p[0] + (T)width + (T)_ind.size();"
    kernel = cp.ElementwiseKernel("raw T x, int64 width", "raw T y", text, "raws")
    y = cp.zeros(3)
    kernel(cp.asarray(np.array([5.0, 6.0, 7.0])), 100, y, size=3)
    assert np.array_equal(y.get(), [113.0, 114.0, 115.0])
    strided = cp.asarray(np.arange(12.0).reshape(3, 4))[:, 1:3]  # x[k] follows C order, for all strides
    out = cp.zeros(6)
    cp.ElementwiseKernel("raw T x", "raw T y", "y[i] = x[i]", "strided")(strided, out, size=6)
    assert np.array_equal(out.get(), [1, 2, 5, 6, 9, 10])


def test_size_requires_raw_arrays_only(cp):
    mixed = cp.ElementwiseKernel("T x, raw T y", "T z", "z = x + y[i]", "mixed")
    raw = cp.ElementwiseKernel("raw T x", "raw T y", "y[i] = x[i]", "raw_only")
    x = cp.zeros(3)
    with pytest.raises(ValueError, match="only if all of the ndarray are 'raw'"):
        mixed(x, x, x, size=3)
    with pytest.raises(ValueError):
        raw(x, x)
    assert mixed(x, x).shape == (3,)


def test_types_must_match_exactly(cp):
    same = cp.ElementwiseKernel("T x, T y", "T z", "z = x + y", "same")
    fixed = cp.ElementwiseKernel("float64 x", "float64 z", "z = x", "fixed")
    x32, x64 = cp.zeros(2, np.float32), cp.zeros(2)
    for call in (lambda: same(x32, x64), lambda: same(x32, x32, x64), lambda: fixed(x32)):
        with pytest.raises(TypeError, match="Type is mismatched"):
            call()
    assert same(x32, 1.0).dtype == np.float32  # a Python number gets the type of the variable


def test_inputs_are_const_and_bad_source_does_not_compile(cp):
    x = cp.zeros(2)
    for text in ("x = 1; y = 0", "y = nosuch(x)", "y = n"):
        with pytest.raises(fake.CompileException, match="error"):
            cp.ElementwiseKernel("T x", "T y", text, "bad")(x)
    for params in ("T i", "T n", "T _x"):
        with pytest.raises(ValueError, match="Can not use"):
            cp.ElementwiseKernel(params, "T y", "y = 1", "bad")


def test_a_preamble_comes_first_and_empty_arrays_run_nothing(cp):
    kernel = cp.ElementwiseKernel(
        "T x",
        "T y",
        "y = twice(x)",
        "preambled",
        preamble="template <class A> __device__ A twice(A v) { return 2 * v; }",
    )
    assert np.array_equal(kernel(cp.asarray([1.5, 2.0])).get(), [3.0, 4.0])
    assert kernel(cp.zeros((0, 3))).shape == (0, 3)
    two = cp.ElementwiseKernel("T x", "T y, T z", "y = x; z = -x", "two_outputs")
    assert [float(v[0]) for v in two(cp.asarray([2.0]))] == [2.0, -2.0]


# --- the threads of a warp -------------------------------------------------------------------------------------------

EXCHANGE = "{when} y = __shfl_xor_sync({mask}, x, {bits});"


def _in_a_warp(cp, text, count=32):
    x = cp.asarray(np.arange(float(count)))
    y = cp.asarray(np.full(count, -1.0))
    cp.ElementwiseKernel("T x", "T y", text, "exchange")(x, y)
    return y.get()


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_threads_of_a_warp_exchange_values(fake_cupy, bits):
    text = EXCHANGE.format(when="", mask="0xffffffffu", bits=bits)
    np.testing.assert_array_equal(_in_a_warp(fake_cupy, text, 64), np.arange(64) ^ bits)


def test_groups_of_a_warp_synchronize_separately(fake_cupy):
    """Groups of eight threads, one of them twice."""
    text = "const unsigned int group = 0xffu << (i & 24); y = __shfl_xor_sync(group, x, 4);"
    np.testing.assert_array_equal(_in_a_warp(fake_cupy, text), np.arange(32) ^ 4)
    twice = text + " if (i < 8) y = __shfl_xor_sync(group, y, 4);"
    np.testing.assert_array_equal(_in_a_warp(fake_cupy, twice), np.where(np.arange(32) < 8, 0, 4) ^ np.arange(32))


@pytest.mark.parametrize(
    "text",
    [
        EXCHANGE.format(when="if (i != 5)", mask="0xffffffffu", bits=1),
        EXCHANGE.format(when="if (i < 16)", mask="0xffffffffu", bits=1),
        EXCHANGE.format(when="", mask="i < 16 ? 0xffffffffu : 0xffff0000u", bits=1),
        EXCHANGE.format(when="", mask="0xffffu", bits=1),
    ],
)
def test_a_thread_that_misses_a_synchronization(fake_cupy, text):
    with pytest.raises(RuntimeError, match="threads of a warp synchronize at different points"):
        _in_a_warp(fake_cupy, text)


def test_a_value_that_another_thread_has_not_written(fake_cupy):
    """Without synchronization the first thread reads the old contents; with it, what the last thread wrote."""
    for barrier, first in (("", 0.0), ("__syncwarp(0xffffffffu);", 31.0)):
        text = f"shared[i] = x[i]; {barrier} y[i] = shared[31 - i]; /* __shfl */"
        x = fake_cupy.asarray(np.arange(32.0))
        shared, y = fake_cupy.zeros((32,)), fake_cupy.zeros((32,))
        fake_cupy.ElementwiseKernel("raw T x", "raw T shared, raw T y", text, "turns")(x, shared, y, size=32)
        assert float(y.get()[0]) == first
