"""Arrays of more than 2³¹ elements: addresses are computed with 64 bits.

The CPU tests use sparse files of which a few pages exist, the GPU tests need enough memory.
"""

import numpy as np
import pytest
from helpers.kernel_cases import state_array

from gpunn import kernels
from gpunn.kernels._compiler import cuda_launch

pytestmark = pytest.mark.slow

COLUMNS = 64
ROWS = 2**31 // COLUMNS + 5
PICKED = np.array([ROWS - 1, 0, ROWS - 3, 2**30 // COLUMNS, ROWS - 2], np.int64)
CONTENT = np.arange(len(PICKED) * COLUMNS).reshape(len(PICKED), COLUMNS).astype(np.int8)


@pytest.fixture(params=["C", "F"])
def table(request, tmp_path):
    """A table of int8 whose picked rows are nonzero."""
    x = np.memmap(tmp_path / "table", np.int8, "w+", shape=(ROWS, COLUMNS), order=request.param)
    assert x.size > 2**31
    x[PICKED] = CONTENT
    return x


def _steps(x):
    return {"row_step": x.strides[0], "column_step": x.strides[1]}


@pytest.mark.parametrize("implementation", ["numpy", "compiled", "simulated"])
def test_rows_after_element_2_31(implementation, table, request):
    state, order = state_array(OFFSET=0), PICKED
    out, last = np.empty((len(PICKED), COLUMNS), np.float32), np.empty((3, COLUMNS), np.float32)
    state_of_last = state_array(OFFSET=ROWS - 3)
    source = table
    if implementation == "simulated":
        fake = request.getfixturevalue("fake_cupy")
        from helpers import fake_cupy

        source = fake_cupy.wrap(table)
        order, state, state_of_last, out, last = map(fake.asarray, (order, state, state_of_last, out, last))
    how = {"numpy": "bind_numpy", "compiled": "bind_compiled", "simulated": "bind"}[implementation]
    if implementation == "compiled":
        request.getfixturevalue("compiled_kernels")
    getattr(kernels.get("gather"), how)(source, order, state, out=out, **_steps(table))()
    getattr(kernels.get("copy_rows"), how)(source, state_of_last, out=last, **_steps(table))()
    out, last = (a if isinstance(a, np.ndarray) else a.get() for a in (out, last))
    np.testing.assert_array_equal(out, CONTENT)
    np.testing.assert_array_equal(last, CONTENT[[2, 4, 0]])


@pytest.mark.parametrize(("rows", "index"), [(2**31 - 8, "const int flat_m"), (2**31, "const long long flat_m")])
def test_indices_have_64_bits_if_32_do_not_suffice(rows, index, fake_cupy, tmp_path):
    from helpers import fake_cupy as fake

    fake_cupy.state.free = 64 << 30
    x = fake.wrap(np.memmap(tmp_path / "x", np.float32, "w+", shape=(rows,)))
    (call,) = kernels.get("relu").bind(x, out=x).calls
    assert index in call.func.operation


@pytest.mark.gpu
def test_rows_after_element_2_31_on_a_gpu():
    import cupy

    x = cupy.zeros((ROWS, COLUMNS), np.int8)
    for r, row in zip(PICKED, CONTENT, strict=True):
        x[int(r)] = cupy.asarray(row)
    out = cupy.empty((len(PICKED), COLUMNS), np.float32)
    steps = _steps(x)
    kernels.get("gather")(x, cupy.asarray(PICKED), cupy.asarray(state_array(OFFSET=0)), out=out, **steps)
    np.testing.assert_array_equal(out.get(), CONTENT)
    last = out[:3]
    kernels.get("copy_rows")(x, cupy.asarray(state_array(OFFSET=ROWS - 3)), out=last, **steps)
    np.testing.assert_array_equal(last.get(), CONTENT[[2, 4, 0]])


@pytest.mark.gpu
def test_elements_after_2_31_on_a_gpu():
    """A sum over all elements, an elementwise kernel and column sums."""
    import cupy

    size = 2**31 + 5
    if cupy.cuda.runtime.memGetInfo()[0] < 5 * size:
        pytest.skip("needs 10 GiB of free memory on the GPU")
    x = cupy.zeros((size,), np.float32)
    x[0], x[2**31 - 1], x[2**31], x[-1] = -1, -2, 4, 8
    s = cupy.empty((1,), np.float64)
    kernels.get("sum_all")(x, out=s)
    assert float(s[0]) == 9
    kernels.get("relu")(x, out=x)
    assert [float(x[k]) for k in (0, 2**31 - 1, 2**31, size - 1)] == [0, 0, 4, 8]
    sums = cupy.empty((5,), np.float32)
    kernels.get("column_sum")(x[: size // 5 * 5].reshape(-1, 5), out=sums)
    assert float(sums.sum()) == float(x[: size // 5 * 5].sum()) == 4
    del x
    cupy.get_default_memory_pool().free_all_blocks()


def test_the_number_of_threads_is_within_cupys_limit():
    """CuPy launches up to 2³¹ − 1 blocks of 128 threads, with one element per thread."""
    assert cuda_launch.WARP * 2**31 < (2**31 - 1) * 128
