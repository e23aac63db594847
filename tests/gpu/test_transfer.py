"""Arrays between host and device: on the CPU, on the fake GPU (simulated), and on a real GPU if there is one."""

import numpy as np
import pytest

from gpunn.backend import array_module, get, is_device_array, to_host


def test_arrays_survive_the_round_trip(backend):
    for dtype in (np.float32, np.float64, np.int64, np.uint8, bool):
        x = np.arange(12).reshape(3, 4).astype(dtype)
        array = backend.asarray(x)
        back = backend.to_host(array)
        assert isinstance(array, backend.xp.ndarray) and type(back) is np.ndarray
        assert back.dtype == x.dtype and np.array_equal(back, x)


def test_asarray_casts_to_a_dtype(backend):
    x = np.array([1.0, 1e-300, 0.1])
    array = backend.asarray(x, dtype=np.float32)
    assert array.dtype == np.float32
    assert np.array_equal(to_host(array), np.array([1.0, 0.0, 0.1], dtype=np.float32))


def test_asarray_does_not_copy_a_device_array(backend):
    array = backend.asarray(np.ones(3, dtype=np.float32))
    assert backend.asarray(array) is array
    assert backend.asarray(array, dtype=np.float32) is array


def test_asarray_accepts_lists_and_scalars(backend):
    assert np.array_equal(to_host(backend.asarray([[1, 2], [3, 4]], dtype=np.float64)), [[1.0, 2.0], [3.0, 4.0]])
    assert to_host(backend.asarray(2.5)).shape == ()


def test_new_arrays_have_the_requested_shape_and_dtype(backend):
    for make in (backend.empty, backend.zeros):
        made = make((3, 0, 2), np.float32)
        assert isinstance(made, backend.xp.ndarray) and made.shape == (3, 0, 2) and made.dtype == np.float32
    assert not to_host(backend.zeros(5, np.float64)).any()


def test_array_module_returns_the_library_of_an_array(backend):
    array = backend.zeros(3, np.float32)
    assert array_module(array) is backend.xp
    assert array_module(np.zeros(3)) is array_module([1.0]) is np
    assert is_device_array(array) == (backend.device != "cpu") and not is_device_array(np.zeros(3))


def test_activate_synchronize_and_release_memory_run(backend):
    with backend.activate():
        x = backend.xp.zeros(3) + 1
    backend.synchronize()
    del x
    backend.release_memory()


def test_an_exception_inside_the_context_propagates(backend):
    with pytest.raises(KeyError, match="mine"), backend.activate():
        raise KeyError("mine")


def test_the_cpu_backend_does_not_copy_numpy_arrays():
    x = np.ones(3)
    assert get("cpu").asarray(x) is x and to_host(x) is x


def test_the_cpu_backend_copies_a_device_array_to_the_host(fake_cupy):
    x = get("cuda").asarray(np.arange(3.0))
    assert np.array_equal(get("cpu").asarray(x, dtype=np.float32), np.arange(3, dtype=np.float32))


def test_an_upload_is_one_copy(fake_cupy):
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


def test_out_of_memory_reports_bytes_needed_and_free_and_the_remedy(fake_cupy):
    gpu = get("cuda")
    for call in (lambda: gpu.empty(2**31, np.float64), lambda: gpu.zeros((2**16, 2**15), np.float64)):
        with pytest.raises(MemoryError) as caught:
            call()
        text = str(caught.value)
        assert type(caught.value) is MemoryError and "batch_size" in text
        assert "16.0 GiB were needed" in text and "7.0 GiB of 8.0 GiB are free" in text
        assert isinstance(caught.value.__cause__, fake_cupy.cuda.memory.OutOfMemoryError)


def test_out_of_memory_in_eager_code_is_reported(fake_cupy):
    with pytest.raises(MemoryError, match="cuda:0 is out of memory"), get("cuda").activate():
        fake_cupy.zeros(2**31)
    assert fake_cupy.state.current == 0


@pytest.mark.parametrize("message", ["cudaErrorMemoryAllocation: out of memory", "CUBLAS_STATUS_ALLOC_FAILED"])
def test_out_of_memory_outside_the_pool_is_reported(message, fake_cupy):
    """A user's allocator, the creation of a graph, pinned memory."""
    wanted = rf"cuda:0 is out of memory: .*{message}, .* are free.*batch_size"
    with pytest.raises(MemoryError, match=wanted) as caught, get("cuda").activate():
        raise RuntimeError(message)
    assert type(caught.value.__cause__) is RuntimeError
    with pytest.raises(RuntimeError, match=r"^cudaErrorIllegalAddress$"), get("cuda").activate():
        raise RuntimeError("cudaErrorIllegalAddress")


@pytest.mark.gpu
def test_out_of_memory_on_a_gpu():
    with pytest.raises(MemoryError, match=r"cuda:0 is out of memory: .* GiB were needed, .* are free.*batch_size"):
        get("cuda").empty(2**46, np.uint8)


@pytest.mark.gpu
def test_auto_selects_a_gpu(monkeypatch):
    monkeypatch.delenv("GPUNN_DEVICE", raising=False)
    assert get("auto").device == "cuda:0"
