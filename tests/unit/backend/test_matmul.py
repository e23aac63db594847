"""Matrix products on fixed buffers: right results, and invalid operands refused when they are bound."""

import contextlib
import tracemalloc

import numpy as np
import pytest
from helpers.gpu_nets import integers

from gpunn.backend import get, to_host
from gpunn.backend.cuda.matmul import ProductWarning


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_bound_product_reads_its_buffers_at_each_call(backend, dtype):
    a, b = integers(5, 7, dtype=dtype), integers(7, 3, dtype=dtype)
    there, out = backend.asarray(a), backend.zeros((5, 3), dtype)
    run = backend.bind_matmul(there, backend.asarray(b), out)
    assert not to_host(out).any()  # binding runs nothing
    expected = np.einsum("ik,kj->ij", a, b)
    run()
    assert np.array_equal(to_host(out), expected)
    there *= 2
    run()
    assert np.array_equal(to_host(out), 2 * expected)


def test_transposed_views_multiply(backend):
    """Transposed operands of E5 and E6: δ Wᵀ and a_prevᵀ δ."""
    delta, W, a_prev = integers(6, 4), integers(3, 4), integers(6, 3)
    for a, b, expected in (
        (delta, ("T", W), np.einsum("ik,jk->ij", delta, W)),
        (("T", a_prev), delta, np.einsum("ki,kj->ij", a_prev, delta)),
    ):
        a, b = (backend.asarray(x[1]).T if isinstance(x, tuple) else backend.asarray(x) for x in (a, b))
        out = backend.empty(expected.shape, np.float32)
        backend.bind_matmul(a, b, out)()
        assert np.array_equal(to_host(out), expected)


def test_stacks_of_matrices(backend):
    a, b = integers(2, 5, 7), integers(2, 7, 3)
    out = backend.empty((2, 5, 3), np.float32)
    # gpunn uses cuBLASLt for matrices only
    expected = (
        contextlib.nullcontext() if backend.device == "cpu" else pytest.warns(ProductWarning, match="3 dimensions")
    )
    with expected:
        backend.bind_matmul(backend.asarray(a), backend.asarray(b), out)()
    assert np.array_equal(to_host(out), np.einsum("eik,ekj->eij", a, b))


@pytest.mark.parametrize(
    "shapes",
    [
        [(5, 7), (6, 3), (5, 3)],
        [(5, 7), (7, 3), (3, 5)],
        [(5, 7), (7, 3), (5, 1)],
        [(1, 7), (7, 3), (5, 3)],
        [(7,), (7, 3), (3,)],
        [(5, 7), (7,), (5,)],
        [(5, 7), (2, 7, 3), (2, 5, 3)],
        [(1, 5, 7), (2, 7, 3), (2, 5, 3)],
        [(2, 5, 7), (1, 7, 3), (2, 5, 3)],
        [(), (), ()],
    ],
)
def test_shapes_that_do_not_match_are_refused_without_broadcasting(backend, shapes):
    a, b, out = (backend.zeros(s, np.float32) for s in shapes)
    with pytest.raises(ValueError, match="no broadcast") as refused:
        backend.bind_matmul(a, b, out)
    assert all(str(s) in str(refused.value) for s in shapes)


@pytest.mark.parametrize("odd", [0, 1, 2])
def test_different_dtypes_are_refused(backend, odd):
    dtypes = [np.float64 if k == odd else np.float32 for k in range(3)]
    a, b, out = (backend.zeros((2, 2), d) for d in dtypes)
    with pytest.raises(TypeError, match=r"one floating-point dtype.*float64"):
        backend.bind_matmul(a, b, out)


def test_integers_are_refused(backend):
    with pytest.raises(TypeError, match=r"one floating-point dtype.*int64"):
        backend.bind_matmul(*(backend.zeros((2, 2), np.int64) for _ in range(3)))


def test_an_output_that_would_need_a_hidden_copy_is_refused(backend):
    a, b = backend.zeros((4, 3), np.float32), backend.zeros((3, 4), np.float32)
    for out in (backend.zeros((4, 4), np.float32).T, backend.zeros((4, 8), np.float32)[:, ::2]):
        with pytest.raises(ValueError, match="out must be C-contiguous"):
            backend.bind_matmul(a, b, out)


def test_an_output_that_overlaps_an_input_is_refused(backend):
    flat = backend.zeros(24, np.float32)
    a, b = flat[:9].reshape(3, 3), flat[12:21].reshape(3, 3)
    for name, out in (("a", a), ("b", flat[15:].reshape(3, 3))):
        with pytest.raises(ValueError, match=f"out overlaps {name}"):
            backend.bind_matmul(a, b, out)


def test_adjacent_slices_of_one_buffer_do_not_overlap(backend):
    flat = backend.zeros(27, np.float32)
    flat += 1
    a, b, out = (flat[k : k + 9].reshape(3, 3) for k in (0, 9, 18))
    backend.bind_matmul(a, b, out)()
    assert np.array_equal(to_host(flat), np.repeat([1.0, 1.0, 3.0], 9))


def test_a_read_only_output_is_refused():
    out = np.zeros((2, 2))
    out.flags.writeable = False
    with pytest.raises(ValueError, match="out must be writable"):
        get("cpu").bind_matmul(np.ones((2, 2)), np.ones((2, 2)), out)


def test_arrays_of_another_library_are_refused(fake_cupy):
    host, device = np.ones((2, 2), np.float32), get("cuda").zeros((2, 2), np.float32)
    with pytest.raises(TypeError, match=r"b must be a numpy.ndarray, got a cupy.ndarray"):
        get("cpu").bind_matmul(host, device, host.copy())
    with pytest.raises(TypeError, match=r"a must be a cupy.ndarray, got a numpy.ndarray"):
        get("cuda").bind_matmul(host, device, device.copy())
    with pytest.raises(TypeError, match=r"a must be a numpy.ndarray, got a builtins.list"):
        get("cpu").bind_matmul([[1.0]], host, host)


def test_a_bound_product_allocates_nothing_on_the_cpu():
    a, b, out = (np.ones((300, 300), np.float32) for _ in range(3))
    runs = [get("cpu").bind_matmul(x, y, out) for x, y in ((a, b), (a.T, b), (a, b.T))]
    for run in runs:
        run()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        for run in runs:
            run()
        assert tracemalloc.get_traced_memory()[1] - before < 4096  # one temporary would be 360 kB
    finally:
        tracemalloc.stop()
