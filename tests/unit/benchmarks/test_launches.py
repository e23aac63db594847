"""Overhead of launches and bandwidth of kernels on the fake CuPy: simulated, the times have no meaning."""

import json

import numpy as np
import pytest
from helpers import internals

from benchmarks import __main__ as command
from benchmarks import command as shared
from benchmarks import devices, gpu_presence, kernels, launches, out_of_core, timing
from benchmarks.clocks import Clock, Span
from gpunn import backend

FACTS = {"gpu": "Simulated GPU", "gpu_memory_gib": 8.0, "driver": "1", "cuda": "12.9", "cupy": "14.2.0"}
FEW = {"rounds": 3, "seconds": 1e-4}


class Recorded:
    """A stream that counts launches during capture."""

    capturing = None

    def __init__(self, non_blocking=False):
        assert non_blocking, "the default stream cannot be captured"
        self.ptr = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def begin_capture(self):
        Recorded.capturing = []

    def end_capture(self):
        made, Recorded.capturing = Graph(len(Recorded.capturing)), None
        return made


class Graph:
    launched = 0

    def __init__(self, nodes):
        self.nodes = nodes

    def launch(self):
        Graph.launched += 1


class Event:
    def __init__(self, *how, **more):
        pass

    def record(self, stream=None):
        return self


@pytest.fixture
def cuda(fake_cupy, monkeypatch):
    """The fake CuPy with the streams, events and raw kernels that these tests need."""

    class Kernel(fake_cupy.ElementwiseKernel):
        def __call__(self, *arguments, **options):
            if Recorded.capturing is not None:
                Recorded.capturing.append(self.name)
                return None
            return super().__call__(*arguments, **options)

    def raw(text, name):
        assert f"void {name}(" in text

        def call(grid, block, arguments):
            assert grid[0] * block[0] == launches.SIZE
            fake_cupy.state.record(f"kernel {name}")

        return call

    monkeypatch.setattr(fake_cupy, "ElementwiseKernel", Kernel)
    monkeypatch.setattr(fake_cupy, "RawKernel", raw, raising=False)
    monkeypatch.setattr(fake_cupy.cuda, "Stream", Recorded)
    monkeypatch.setattr(fake_cupy.cuda, "Event", Event, raising=False)
    monkeypatch.setattr(fake_cupy.cuda, "get_elapsed_time", lambda first, last: 1.0, raising=False)
    return fake_cupy


def test_all_launches_are_timed_and_failures_reported(cuda, monkeypatch):
    internals.hide_cublaslt(monkeypatch)
    rows = {row["what"]: row for row in launches.measure(backend.get("cuda"), **FEW)}
    assert rows.pop("cuBLASLt, 64×64")["note"].startswith("not measured (RuntimeError: cuBLASLt")
    assert list(rows) == [
        "ElementwiseKernel",
        "RawKernel",
        "matmul with out, 64×64",
        "graph of 1 node",
        "graph of 20 nodes",
        "graph of 640 nodes",
    ]
    for row in rows.values():
        assert row["us"] > 0 and row["us_launching"] > 0 and row["us_by_events"] > 0 and row["rounds"] == 3
    assert rows["graph of 640 nodes"]["us_per_node"] == pytest.approx(rows["graph of 640 nodes"]["us"] / 640, rel=1e-4)


def test_a_graph_has_the_number_of_nodes_in_its_name(cuda):
    made = launches.kinds(backend.get("cuda"))
    for n in launches.NODES:
        name = f"graph of {n} node{'s' * (n > 1)}"
        assert made[name]().call.__self__.nodes == n


def test_kernels_are_compared_with_a_copy(cuda):
    rows = kernels.measure(backend.get("cuda"), 4096, (64, 32), **FEW)
    assert [(r["kernel"], r["dtype"]) for r in rows] == [
        (name, dtype)
        for dtype in ("float32", "bfloat16")
        for name in ("Adam", "bias + ReLU", "derivative + column sum")
    ]
    for row in rows:
        assert row["outcome"] in ("met", "missed") and (row["outcome"] == "met") == (row["of_copy"] >= 0.85)
        low, high = row["of_copy_quartiles"]
        assert 0 < low <= row["of_copy"] <= high
        assert row["gb_per_s"] == pytest.approx(row["bytes"] / row["us"] / 1e3, rel=1e-3)
    matrix = 64 * 32
    parameters = 28 * 4096, 30 * 4096
    assert [row["bytes"] for row in rows[:3]] == [parameters[0], 8 * matrix, 12 * matrix]
    assert [row["bytes"] for row in rows[3:]] == [parameters[1], 4 * matrix, 6 * matrix]


def test_bfloat16_kernels_read_and_write_two_bytes_per_element(cuda):
    device = backend.get("cuda")
    for make, arrays in ((kernels.bias, 2), (kernels.derivative, 3)):
        launch, moved = make(device, "bfloat16", 0, (64, 32))
        assert moved == arrays * 64 * 32 * 2
        assert {a.dtype.name for a in (*launch.reads, *launch.writes) if a.ndim == 2} == {"uint16"}
        launch()


def test_random_numbers_are_repeated_tiles_without_zeros(cuda, monkeypatch):
    monkeypatch.setattr(kernels, "TILE", 7)
    found = backend.to_host(kernels.random(backend.get("cuda"), (4, 5))).ravel()
    np.testing.assert_array_equal(found[:7], found[7:14])
    np.testing.assert_array_equal(found[14:], found[:6])
    assert (found != 0).all()


def test_rounds_are_interleaved_and_windows_are_long_enough():
    order, now = [], [0.0]

    class Ticking(Clock):
        def begin(self):
            self.at = now[0]

        def end(self):
            return Span(now[0] - self.at)

    def operation(name, cost):
        def call():
            order.append(name)
            now[0] += cost

        return timing.Timed(call, 4)

    found = timing.interleaved(
        {"a": operation("a", 0.001), "b": operation("b", 0.01)}, Ticking(), rounds=5, seconds=0.1
    )
    assert [round(s.host, 9) for s in found["a"]] == [0.001] * 5
    assert [round(s.host, 9) for s in found["b"]] == [0.01] * 5
    windows = [name for k, name in enumerate(order) if k == 0 or order[k - 1] != name]
    assert len(windows) >= 8, "windows of both alternate"
    assert order.count("a") >= 5 * 100 and order.count("b") >= 5 * 10


def test_six_nets_agree_on_two_devices():
    """The NumPy references and the compiled kernels, which every machine has."""
    from gpunn.kernels._compiler import cpu_cache

    if cpu_cache.status().implementation != "compiled":
        pytest.skip("no compiler")
    rows = devices.measure(("numpy", "cpu"))
    assert len(rows) == 6 and all(row["same"] for row in rows), rows
    assert all(row["largest"] <= row["allowed"] for row in rows)
    different, broken = rows[1] | {"same": False}, {"net": "x", "same": False, "note": "no"}
    text = devices.markdown({"devices": [rows[0], different, broken]})
    assert text.count("equal up to rounding") == 1 and "**different**" in text
    assert "| x | – | – | – | – | no |" in text


def test_data_on_the_host_is_compared_with_resident_data():
    rows = out_of_core.measure(backend.get("cpu"), (6, 5, 3), 16, 3, 2)
    assert [row["set"] for row in rows] == ["on the GPU", "memory-mapped", "in blocks", "a stream"]
    assert all(row["us_per_step"] > 0 and row["rounds"] == 2 for row in rows)
    for row in rows[1:]:
        low, high = row["quartiles"]
        assert low <= row["over_resident"] <= high
    assert rows[2]["remark"].startswith("pinned double buffers and a copy stream: not measured (")


def test_allocations_of_pinned_memory_are_counted():
    real = object()
    cuda = type("Cuda", (), {"alloc_pinned_memory": staticmethod(lambda size: real)})
    device = type("Device", (), {"xp": type("Xp", (), {"cuda": cuda})})
    with out_of_core.counted(device) as count:
        assert cuda.alloc_pinned_memory(8) is real
    cuda.alloc_pinned_memory(8)
    assert count == [1]


@pytest.mark.parametrize("name", ["gpu", "gpu-check", "launches", "kernels", "devices", "out-of-core"])
def test_without_a_gpu_a_command_prints_one_line_and_writes_nothing(name, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpu_presence, "why_no_gpu", lambda: "CuPy is not installed")
    monkeypatch.setattr(shared, "FOLDER", tmp_path)
    given = ["--out", str(tmp_path)] if name.startswith("gpu") else ["--json", str(tmp_path / "x.json")]
    with pytest.raises(SystemExit) as stop:
        command.main([name, *given])
    assert stop.value.code == gpu_presence.NO_GPU == 3
    printed = capsys.readouterr()
    assert printed.out == "" and len(printed.err.splitlines()) == 1
    assert printed.err.startswith(f"no GPU here (CuPy is not installed): python -m benchmarks {name} would ")
    assert not list(tmp_path.iterdir())


def test_the_reason_for_a_missing_gpu_is_that_of_gpunn(monkeypatch):
    def refuse(device):
        raise backend.DeviceError("device 'cuda' was asked for, but the driver\nis old. Remedy: a new one")

    monkeypatch.setattr(backend, "get", refuse)
    assert gpu_presence.why_no_gpu() == "the driver is old"


def test_commands_print_and_write_their_measurements(cuda, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpu_presence, "facts", lambda: FACTS)
    few = timing.interleaved
    monkeypatch.setattr(timing, "interleaved", lambda operations, clock: few(operations, clock, **FEW))
    monkeypatch.setattr(kernels, "SHAPE", (64, 32))
    measure = kernels.measure
    monkeypatch.setattr(kernels, "measure", lambda device: measure(device, 4096, (64, 32)))
    for name, status, title in (("launches", 0, "Launch overhead"), ("kernels", 0, "Kernels compared with a copy")):
        path = tmp_path / f"{name}.json"
        assert command.main([name, "--json", str(path)]) == status
        assert title in capsys.readouterr().out
        found = json.loads(path.read_text(encoding="utf-8"))
        assert found["machine"] == FACTS and found[name]
    pytest.importorskip("matplotlib")
    from benchmarks import plots

    found |= json.loads((tmp_path / "launches.json").read_text(encoding="utf-8"))
    assert plots.draw(found, tmp_path, "gpu-check") == ["gpu-check.png"]
    assert 0 < (tmp_path / "gpu-check.png").stat().st_size < shared.MAX_FILE_BYTES


def test_facts_of_the_fake_cupy(fake_cupy, monkeypatch):
    monkeypatch.setattr(gpu_presence, "driver_version", lambda: "580.1")
    assert gpu_presence.facts() == FACTS | {"driver": "580.1"}


def test_data_on_the_host_is_copied_through_pinned_memory(fake_cupy, monkeypatch):
    """Simulated: training on data that does not fit into the GPU's memory."""
    monkeypatch.setattr(fake_cupy.cuda.Event, "record", lambda self, stream=None: None, raising=False)
    monkeypatch.setattr(fake_cupy.cuda, "get_elapsed_time", lambda first, last: 1.0, raising=False)
    rows = {row["set"]: row for row in out_of_core.measure(backend.get("cuda"), (6, 5, 3), 16, 3, 1)}
    found = rows[out_of_core.BLOCKS]
    assert found["us_per_step"] is not None, found
    assert found["pinned"] and "remark" not in found
