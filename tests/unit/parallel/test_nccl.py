"""NCCL all-reduce with a fake of CuPy's interface: calls and their order. Simulated, not run on a GPU."""

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from helpers.messages import naming

from gpunn.backend import DeviceError, get, local_device
from gpunn.backend.cuda.nccl import Nccl


class Calls(list):
    """A fake of CuPy's module `cuda.nccl` that records its calls."""

    NCCL_SUM, NCCL_FLOAT32, NCCL_FLOAT64, NCCL_INT32, NCCL_INT64 = "sum", "f4", "f8", "i4", "i8"

    def get_unique_id(self):
        self.append("id")
        return (1, 2, 3)

    def NcclCommunicator(self, size, identifier, rank):
        self.append(("communicator", size, identifier, rank))
        return SimpleNamespace(allReduce=lambda *arguments: self.append(("allReduce", *arguments)))

    def groupStart(self):
        self.append("begin")

    def groupEnd(self):
        self.append("end")


def processes(rank=0, size=2, local_rank=0, first=(1, 2, 3)):
    allgather = lambda where, value: [first, *[None] * (size - 1)]  # noqa: E731
    return SimpleNamespace(rank=rank, size=size, local_rank=local_rank, allgather=allgather)


def on_a_gpu(place, array):
    return SimpleNamespace(data=SimpleNamespace(ptr=place), size=array.size, dtype=array.dtype)


@pytest.fixture
def nccl(monkeypatch):
    """A separate module, as in CuPy: `cupy.cuda` has no such attribute before its import."""
    cuda = ModuleType("cupy.cuda")
    cuda.__path__ = []
    calls = Calls()
    for name, module in {"cupy": ModuleType("cupy"), "cupy.cuda": cuda, "cupy.cuda.nccl": calls}.items():
        monkeypatch.setitem(sys.modules, name, module)
    return calls


@pytest.fixture
def cupy(nccl):
    stream = SimpleNamespace(ptr=77)
    return SimpleNamespace(cuda=SimpleNamespace(get_current_stream=lambda: stream))


@pytest.mark.parametrize("rank", [0, 1])
def test_all_ranks_use_the_identifier_of_rank_0_and_one_group_call(rank, cupy, nccl):
    adder = Nccl(cupy, processes(rank))
    assert nccl == [*(["id"] if rank == 0 else []), ("communicator", 2, (1, 2, 3), rank)]
    nccl.clear()
    arrays = [on_a_gpu(100, np.zeros((4, 5), np.float32)), on_a_gpu(200, np.zeros(3)), on_a_gpu(0, np.zeros(0))]
    (launch,), last = adder.bind_async_all_reduce(arrays, blocking=True)
    assert last == []
    assert nccl == []
    launch()
    launch()
    step = ["begin", ("allReduce", 100, 100, 20, "f4", "sum", 77), ("allReduce", 200, 200, 3, "f8", "sum", 77), "end"]
    assert nccl == step * 2


def test_no_arrays_need_no_launch(cupy):
    assert Nccl(cupy, processes()).bind_async_all_reduce([], blocking=True) == ([], [])


def test_an_async_all_reduce_has_a_separate_synchronized_stream(cupy, nccl):
    append = nccl.append
    events = iter(["computed", "added"])

    def stream(name, ptr):
        return SimpleNamespace(
            ptr=ptr,
            record=lambda event: append((event.name, "in", name)),
            wait_event=lambda event: append((name, "waits for", event.name)),
        )

    def event(disable_timing):
        return SimpleNamespace(name=next(events))

    compute, separate = stream("compute", 1), stream("separate", 2)
    cupy.cuda.get_current_stream, cupy.cuda.Stream, cupy.cuda.Event = (
        lambda: compute,
        lambda non_blocking: separate,
        event,
    )
    adder = Nccl(cupy, processes())
    nccl.clear()
    (begin,), (finish,) = adder.bind_async_all_reduce([on_a_gpu(100, np.zeros(9, np.float32))], blocking=False)
    begin()
    before = [("computed", "in", "compute"), ("separate", "waits for", "computed")]
    assert nccl == [*before, "begin", ("allReduce", 100, 100, 9, "f4", "sum", 2), "end", ("added", "in", "separate")]
    nccl.clear()
    finish()
    assert nccl == [("compute", "waits for", "added")]


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("module", [None, SimpleNamespace(available=False)], ids=["no module", "an empty one"])
def test_a_missing_nccl_is_reported_with_a_remedy(rank, module, cupy, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy.cuda.nccl", module)
    with pytest.raises(RuntimeError, match=naming("NCCL", "device='cpu'")):
        Nccl(cupy, processes(rank))


def test_each_process_of_a_machine_uses_one_gpu(fake_cupy):
    fake_cupy.state.devices = 2
    backend = get("cuda")
    assert [local_device(backend, processes(k, 2, k)).device for k in range(2)] == ["cuda:0", "cuda:1"]
    with pytest.raises(DeviceError, match=naming("process 5", 3, 2)):
        local_device(backend, processes(5, 6, 2))


def test_all_processes_share_the_cpu():
    backend, us = get("cpu"), processes()
    assert local_device(backend, us) is backend and backend.all_reducer(us) is us


@pytest.mark.parametrize("bucket", [None, 60])
def test_one_process_on_a_simulated_gpu(bucket, fake_cupy, monkeypatch):
    """A whole fit with one process, in which an all-reduce changes nothing. Simulated."""
    import gpunn
    from gpunn.parallel.strategy import DataParallelGroup

    nccl = Calls()
    monkeypatch.setattr(fake_cupy.cuda, "__path__", [], raising=False)
    monkeypatch.setitem(sys.modules, "cupy.cuda.nccl", nccl)
    single = processes(size=1)
    single.allgather = lambda where, value: [value]
    single.call_depth, single.has_synchronized, single.timeout = 0, False, 60
    strategy = gpunn.DataParallel(bucket_bytes=bucket)
    strategy.start = lambda: DataParallelGroup(single, bucket_bytes=bucket)
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(21, 5)).astype("float32"), rng.normal(size=(21, 2)).astype("float32")

    def fitted(device, strategy):
        layers = [gpunn.Dense(8, "relu", l2=0.01), gpunn.BatchNormalization(), gpunn.Dropout(0.2), gpunn.Dense(2)]
        net = gpunn.Sequential(layers, seed=0).compile("adam", "mse", ["r2"], device=device, strategy=strategy)
        history = net.fit(X, Y, batch_size=8, epochs=3, sample_weight=np.ones(21), validation_data=(X, Y), verbose=0)
        assert net.device.startswith(device)
        return net.get_weights(), history.history

    found, wanted = fitted("cuda", strategy), fitted("cuda", None)
    assert all((a == b).all() for a, b in zip(found[0], wanted[0], strict=True))
    assert found[1] == wanted[1]
    sums = sum(call[0] == "allReduce" for call in nccl if isinstance(call, tuple))
    # the gradient of a step, loss, metrics and weight. Buckets divide the gradient: the last layer's weights, 64 bytes;
    # γ, β and the last intercepts, 72 bytes; the first layer's weights, and its intercepts
    assert sums == 9 * (4 if bucket is None else 7)


@pytest.mark.gpu
def test_all_reduce_of_one_process_on_a_gpu():
    from cupy.cuda import nccl

    if not nccl.available:
        pytest.skip("needs NVIDIA's NCCL")
    backend = get("cuda")
    array = backend.asarray(np.arange(6.0))
    single = processes(size=1)
    single.allgather = lambda where, value: [value]
    with backend.activate():
        adder = backend.all_reducer(single)
        for blocking in (True, False):
            begin, finish = adder.bind_async_all_reduce([array], blocking=blocking)
            for launch in (*begin, *finish):
                launch()
    assert (backend.to_host(array) == np.arange(6.0)).all()
