"""Arrays between host and device: on the CPU, on the fake GPU (simulated), and on a real one where there is one."""

import numpy as np
import pytest

from gpunn.backend import array_module, get, is_device_array, to_host


@pytest.fixture(params=["cpu", "simulated", pytest.param("gpu", marks=pytest.mark.gpu)])
def backend(request):
    if request.param == "simulated":
        request.getfixturevalue("fake_cupy")
    return get("cpu" if request.param == "cpu" else "cuda")


def test_what_goes_up_comes_back(backend):
    for dtype in (np.float32, np.float64, np.int64, np.uint8, bool):
        x = np.arange(12).reshape(3, 4).astype(dtype)
        there = backend.asarray(x)
        back = backend.to_host(there)
        assert isinstance(there, backend.xp.ndarray) and type(back) is np.ndarray
        assert back.dtype == x.dtype and np.array_equal(back, x)


def test_a_dtype_casts_on_the_way_up(backend):
    x = np.array([1.0, 1e-300, 0.1])
    there = backend.asarray(x, dtype=np.float32)
    assert there.dtype == np.float32
    assert np.array_equal(to_host(there), np.array([1.0, 0.0, 0.1], dtype=np.float32))


def test_what_is_there_is_not_copied(backend):
    there = backend.asarray(np.ones(3, dtype=np.float32))
    assert backend.asarray(there) is there
    assert backend.asarray(there, dtype=np.float32) is there


def test_lists_and_scalars_go_up(backend):
    assert np.array_equal(to_host(backend.asarray([[1, 2], [3, 4]], dtype=np.float64)), [[1.0, 2.0], [3.0, 4.0]])
    assert to_host(backend.asarray(2.5)).shape == ()


def test_new_arrays_have_the_shape_and_dtype_asked_for(backend):
    for make in (backend.empty, backend.zeros):
        made = make((3, 0, 2), np.float32)
        assert isinstance(made, backend.xp.ndarray) and made.shape == (3, 0, 2) and made.dtype == np.float32
    assert not to_host(backend.zeros(5, np.float64)).any()


def test_array_module_knows_whose_an_array_is(backend):
    there = backend.zeros(3, np.float32)
    assert array_module(there) is backend.xp
    assert array_module(np.zeros(3)) is array_module([1.0]) is np
    assert is_device_array(there) == (backend.device != "cpu") and not is_device_array(np.zeros(3))


def test_the_calls_without_a_result_run(backend):
    with backend.activate():
        x = backend.xp.zeros(3) + 1
    backend.synchronize()
    del x
    backend.release_memory()


def test_an_error_inside_the_context_passes_through(backend):
    with pytest.raises(KeyError, match="mine"), backend.activate():
        raise KeyError("mine")


def test_numpy_shares_memory_where_it_can():
    x = np.ones(3)
    assert get("cpu").asarray(x) is x and to_host(x) is x


def test_an_array_of_the_device_comes_down_to_the_cpu_backend(fake_cupy):
    x = get("cuda").asarray(np.arange(3.0))
    assert np.array_equal(get("cpu").asarray(x, dtype=np.float32), np.arange(3, dtype=np.float32))


def test_an_upload_is_one_transfer(fake_cupy):
    gpu = get("cuda")
    fake_cupy.state.calls.clear()
    gpu.asarray(np.arange(3.0), dtype=np.float32)
    assert fake_cupy.state.calls.count("to_device") == 1


def test_arrays_move_between_devices(monkeypatch):
    from helpers import fake_cupy

    fake_cupy.install(monkeypatch, devices=2)
    first, second = get("cuda:0"), get("cuda:1")
    x = first.asarray(np.arange(3.0))
    y = second.asarray(x)
    assert (x.device.id, y.device.id) == (0, 1) and np.array_equal(to_host(y), np.arange(3.0))
    assert second.zeros(2, np.float32).device.id == 1 and first.asarray(x) is x


def test_memory_that_runs_out_says_needed_free_and_what_to_change(fake_cupy):
    gpu = get("cuda")
    for call in (lambda: gpu.empty(2**31, np.float64), lambda: gpu.zeros((2**16, 2**15), np.float64)):
        with pytest.raises(MemoryError) as ran_out:
            call()
        text = str(ran_out.value)
        assert type(ran_out.value) is MemoryError and "batch_size" in text
        assert "16.0 GiB were needed" in text and "7.0 GiB of 8.0 GiB are free" in text
        assert isinstance(ran_out.value.__cause__, fake_cupy.cuda.memory.OutOfMemoryError)


def test_memory_that_runs_out_in_eager_code_says_it_too(fake_cupy):
    with pytest.raises(MemoryError, match="cuda:0 is out of memory"), get("cuda").activate():
        fake_cupy.zeros(2**31)
    assert fake_cupy.state.current == 0


@pytest.mark.parametrize("said", ["cudaErrorMemoryAllocation: out of memory", "CUBLAS_STATUS_ALLOC_FAILED"])
def test_memory_that_runs_out_elsewhere_than_in_the_pool_says_it_too(said, fake_cupy):
    """An allocator of one's own, a graph that is made ready, page-locked memory."""
    wanted = rf"cuda:0 is out of memory: .*{said}, .* are free.*batch_size"
    with pytest.raises(MemoryError, match=wanted) as ran_out, get("cuda").activate():
        raise RuntimeError(said)
    assert type(ran_out.value.__cause__) is RuntimeError
    with pytest.raises(RuntimeError, match=r"^cudaErrorIllegalAddress$"), get("cuda").activate():
        raise RuntimeError("cudaErrorIllegalAddress")


@pytest.mark.gpu
def test_memory_that_runs_out_on_a_gpu():
    with pytest.raises(MemoryError, match=r"cuda:0 is out of memory: .* GiB were needed, .* are free.*batch_size"):
        get("cuda").empty(2**46, np.uint8)


@pytest.mark.gpu
def test_a_gpu_is_taken_by_auto_when_nothing_else_is_asked(monkeypatch):
    monkeypatch.delenv("GPUNN_DEVICE", raising=False)
    assert get("auto").device == "cuda:0"
