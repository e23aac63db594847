"""The GPU contestants, as far as a CPU can run them. No GPU result."""

import dataclasses

import numpy as np
import pytest
from helpers.oracles import oracle

from benchmarks import contestants, conventions, nets
from benchmarks.clocks import Clock, EventClock
from benchmarks.comparison import Entry, Settings, precision_problem, reject_inaccurate
from benchmarks.nets import Net
from benchmarks.peers import numpy_plain
from benchmarks.process import Unsupported
from benchmarks.session import Session

pytestmark = pytest.mark.slow

NET = Net("n", (32, 48, 40, 10), 64, 64 * 64, learning_rate=1e-4, orders=2)


def session(module, precision, device="cpu", **options):
    made = Session(module, 1)
    made.prepare(dataclasses.asdict(NET), 0, precision, device=device, **options)
    return made


def reference(precision):
    return numpy_plain.prepare(conventions.task(NET, 0, precision).in_float64(), 1).losses(20)


def torch_peer(name, monkeypatch):
    """The module, with eager replacements for everything that needs a GPU or a compiler."""
    torch = oracle("torch")
    from benchmarks.peers import torch_eager, torch_graph, torch_modes

    compile_options = []
    monkeypatch.setattr(torch, "compile", lambda f, **options: compile_options.append(options) or f)
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: None)
    monkeypatch.setattr(torch_graph, "capture", lambda body: ([body() for _ in range(3)] and body, body()))
    return {"eager": torch_eager, "graph": torch_graph, "modes": torch_modes}[name], compile_options


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("name", ["eager", "graph", "modes"])
def test_pytorch_contestants_compute_the_same_losses(name, precision, monkeypatch):
    module, compile_options = torch_peer(name, monkeypatch)
    options = {"mode": "max-autotune"} if name == "modes" else {}
    one = session(module, precision, **options)
    assert {o["mode"] for o in compile_options} == ({"max-autotune"} if name == "modes" else set())
    agrees(one, precision)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("name", ["jax_jit", "jax_scan"])
def test_jax_contestants_compute_the_same_losses(name, precision):
    oracle("jax")
    import importlib

    agrees(session(importlib.import_module(f"benchmarks.peers.{name}"), precision), precision)


def agrees(one, precision):
    assert precision_problem(one.product()["error"], precision) is None
    losses = one.losses()["losses"]
    difference = conventions.disagreement(losses, reference(precision))
    assert difference <= {"float32": 1e-6, "bf16": 2e-3}[precision]
    assert (difference > 1e-5) == (precision == "bf16"), "bfloat16 was used"
    one.warm("train")
    assert one.window("train", 1e-4)["us_per_step"] > 0
    one.warm("predict")
    assert one.outputs()["disagreement"] < conventions.OUTPUT_TOLERANCE[precision] / 5
    one.release()
    assert one.prepared is None


def test_a_product_of_another_precision_is_detected(monkeypatch):
    """A CPU has no TF32: float32 products are too accurate for it, and bfloat16 products too inaccurate for float32."""
    module, _ = torch_peer("eager", monkeypatch)
    error = session(module, "tf32").product()["error"]
    assert precision_problem(error, "tf32").startswith("disagrees (its product has error ")
    coarse = session(module, "bf16").product()["error"]
    assert (
        precision_problem(coarse, "float32")
        == f"disagrees (its product has error {coarse:.1e}, float32 means 0e+00 to 1e-05)"
    )
    assert precision_problem(None, "float32") == "disagrees (its product is not finite, float32 means 0e+00 to 1e-05)"


def test_the_floor_has_every_product_once(monkeypatch):
    torch_peer("graph", monkeypatch)
    from benchmarks.peers import floor, torch_floor

    theirs, ours = (
        torch_floor.prepare(conventions.task(NET, 0, "bf16"), 1),
        floor.prepare(conventions.task(NET, 0, "float32"), 1),
    )
    for own, other in zip((ours.training, ours.prediction), theirs.lists, strict=True):
        assert [[x.shape for x in p] for p in own] == [[tuple(x.shape) for x in p] for p in other]
    assert len(ours.training) == 3 + 3 + 2 and len(ours.prediction) == 3
    assert {str(x.dtype) for p in theirs.lists[0] for x in p} == {"torch.bfloat16"}
    theirs.train(1)
    assert theirs.predict().shape == (nets.PREDICTION_ROWS, 10)


def test_bytes_of_a_step_by_hand():
    """(2, 3, 1), 4 rows, P = 13; in float32 s = 4: gather 4·2·8, E4 2·4·1·4, E1 and E6 4·(5 + 4)·4 each, E5 of the
    second layer 4·(1 + 6)·4, E8 28·13."""
    net = Net("n", (2, 3, 1), 4, 1024)
    assert net.bytes_of_step("float32") == 64 + 32 + 2 * 144 + 112 + 364
    assert net.bytes_of_step("bf16") == 4 * 2 * 6 + 16 + 2 * 72 + 56 + 364 + 26


def test_the_bytes_floor_copies_all_bytes(monkeypatch):
    oracle("torch")
    from benchmarks.peers import torch_bytes

    task = conventions.task(NET, 0, "bf16")
    monkeypatch.setitem(torch_bytes.CHUNK, "cpu", 1 << 20)
    made = torch_bytes.TorchBytes(task)
    made.train(3)
    assert made.copied == 3 * NET.steps * NET.bytes_of_step("bf16") // 2
    assert (made.target == made.source).all()


def test_resident_gpunn_uses_stored_orders_and_times_the_later_epochs(monkeypatch):
    from benchmarks.peers import gpunn_resident
    from gpunn import input_checks

    drawn = []
    real = input_checks.epoch_permutation
    monkeypatch.setattr(input_checks, "epoch_permutation", lambda *given: drawn.append(given[2]) or real(*given))
    for shuffling in (False, True):
        one = session(gpunn_resident, "float32", shuffling=shuffling)
        agrees_with = conventions.disagreement(one.losses()["losses"], reference("float32"))
        assert agrees_with < 1e-6
        drawn.clear()
        host, device = one.prepared.train(2)
        assert host > 0 and device is None
        assert len(drawn) == (3 if shuffling else 0)
    assert input_checks.epoch_permutation.__name__ == "<lambda>", "the original function is restored"
    assert precision_problem(one.product()["error"], "float32") is None


def test_an_unsupported_precision_is_reported():
    from benchmarks.peers import gpunn_resident

    with pytest.raises(Unsupported, match=r"gpunn: precision='bf16' is for GPUs, and the device is the CPU"):
        session(gpunn_resident, "bf16")


def test_resident_gpunn_trains_on_arrays_of_the_fake_cupy(fake_cupy, monkeypatch):
    """Simulated on the fake CuPy."""
    from benchmarks.peers import gpunn_resident

    events(fake_cupy, monkeypatch)
    net = Net("n", (4, 8, 3), 8, 1024, learning_rate=1e-4, orders=2, block=512)
    task = conventions.task(net, 0, "float32", "cuda")
    made = gpunn_resident.prepare(task, 1)
    expected = numpy_plain.prepare(dataclasses.replace(task, device="cpu").in_float64(), 1).losses(20)
    assert conventions.disagreement(made.losses(20)[:20], expected) < 1e-6
    fake_cupy.state.calls.clear()
    span = made.train(1)
    assert span.device == 0.125 and span.host > 0
    assert fake_cupy.state.calls.count("to_device") < 40, "neither data nor orders are uploaded again"
    assert gpunn_resident.to_host(made.predict()).shape == (1024, 3)
    # the reference uses NumPy on a CPU
    plain = numpy_plain.NumpyPlain(conventions.task(net, 0, "float32"), "pytorch")
    assert plain.xp is np


def test_gpunn_in_bfloat16_passes_the_checks_of_its_peers(fake_cupy, monkeypatch):
    """Simulated, on the fake cuBLASLt."""
    from benchmarks.peers import gpunn_resident

    monkeypatch.setattr(fake_cupy.cuda.Event, "record", lambda self, stream=None: None, raising=False)
    monkeypatch.setattr(fake_cupy.cuda, "get_elapsed_time", lambda first, last: 1.0, raising=False)
    one = session(gpunn_resident, "bf16", "cuda")
    assert precision_problem(one.product()["error"], "bf16") is None
    difference = conventions.disagreement(one.losses()["losses"], reference("bf16"))
    assert 1e-5 < difference < 1e-3
    one.warm("train")
    assert one.window("train", 1e-4)["device_us_per_step"] > 0
    one.warm("predict")
    assert one.outputs()["disagreement"] < conventions.OUTPUT_TOLERANCE["bf16"] / 5
    one.release()


def events(fake, monkeypatch):
    """Replace CUDA events by ones with a difference of 125 ms."""

    class Event:
        def __init__(self, *how, **more):
            pass

        def record(self, stream=None):
            return self

    monkeypatch.setattr(fake.cuda, "Event", Event, raising=False)
    monkeypatch.setattr(fake.cuda, "get_elapsed_time", lambda first, last: 125.0, raising=False)


def test_clocks_synchronize_only_at_both_ends():
    seen = []
    clock = EventClock(
        lambda: seen.append("wait"), lambda: seen.append("event") or len(seen), lambda a, b: 1000.0 * (b - a)
    )
    clock.begin()
    seen.append("work")
    span = clock.end()
    assert seen == ["wait", "event", "work", "event", "wait"]
    assert span.device == 2.0 and span.host >= 0
    plain = Clock()
    plain.begin()
    assert plain.end().device is None


def test_errors_above_three_times_the_smallest_are_rejected():
    def entry(name, error, note=None):
        made = Entry(contestants.GPU[name], 1, disagreement=error)
        if note:
            made.reject(note)
        return made

    entries = [
        entry("gpunn", 3.1e-4),
        entry("torch-eager", 1e-4),
        entry("jax-jit", 2.9e-4),
        entry("jax-scan", 1e-6, "x"),
    ]
    reject_inaccurate(entries, Settings(precision="bf16"))
    notes = [e.notes.get("train") for e in entries]
    assert notes[1:] == [None, None, "x"], "a contestant that already disagrees is not the reference"
    assert notes[0] == (
        "disagrees (losses differ by 3.1e-04 of the largest, 3 times the most accurate one's 1.0e-04 allowed)"
    )
    entries = [entry("gpunn", 9e-6), entry("torch-eager", 1e-7)]
    reject_inaccurate(entries, Settings(precision="float32"))
    assert not entries[0].notes


def test_gpu_nets_are_as_specified():
    found = {n.name: (n.sizes[:-1], n.batch) for n in nets.GPU_NETS.values()}
    assert found == {
        "small": ((784, 512, 512), 128),
        "mid": ((1024,) * 4, 4096),
        "large": ((4096,) * 6, 8192),
        "narrow": ((64,) * 4, 2**18),
    }
    for net in nets.GPU_NETS.values():
        assert net.sizes[-1] == 10
        assert net.orders * net.steps >= 64, "different batches"
        # the data of nine processes together
        assert net.rows * net.sizes[0] * 4 * 9 < 40 << 30


def test_orders_drawn_in_advance_are_cycled():
    task = conventions.task(NET, 3, "float32")
    put = []
    orders = conventions.Orders(task, lambda rows: put.append(rows) or rows)
    assert len(put) == 2
    for epoch in range(5):
        np.testing.assert_array_equal(orders(epoch), task.order(epoch))
        np.testing.assert_array_equal(orders(epoch), task.order(epoch % 2))
    assert len(put) == 2
    unlimited = dataclasses.replace(task, net=dataclasses.replace(NET, orders=0))
    assert not np.array_equal(unlimited.order(0), unlimited.order(2))


def test_cached_data_equals_drawn_data(tmp_path):
    plain = conventions.task(NET, 1, "float32")
    for _ in range(2):
        cached = conventions.task(NET, 1, "float32", store=str(tmp_path))
        np.testing.assert_array_equal(cached.X, plain.X)
        np.testing.assert_array_equal(cached.y, plain.y)
    assert len(list(tmp_path.iterdir())) == 2
    assert type(cached.X) is type(cached.y) is np.ndarray
    cached.X[0] = 0  # does not change the file
    np.testing.assert_array_equal(conventions.task(NET, 1, "bf16", store=str(tmp_path)).X, plain.X)
