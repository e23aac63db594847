"""Forks of a process that has used the GPU: an error recommends spawn. On the fake CuPy."""

import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from helpers import ROOT
from helpers.networks import network_builder

import gpunn
from gpunn.backend import DeviceError, DeviceFallbackWarning, get

X, Y = np.ones((6, 3)), np.ones((6, 1))
ERROR = r'forked from one that had used the GPU.*multiprocessing.get_context\("spawn"\)'


_net = network_builder(gpunn.Dense(1), seed=1, input_shape=3, optimizer="sgd", loss="mse")


@pytest.fixture
def forked(monkeypatch):
    """A function that changes this process's id, as a fork would."""
    return lambda: monkeypatch.setattr(os, "getpid", lambda: -7)


@pytest.mark.parametrize(
    "call",
    [
        lambda net: net.predict(X),
        lambda net: net.fit(X, Y, verbose=0),
        lambda net: net.train_on_batch(X, Y),
        lambda net: net.evaluate(X, Y),
        lambda net: net.get_weights(),
        lambda net: net.set_weights(SAVED),
        lambda net: net.to("cpu"),
        lambda net: pickle.dumps(net),
        lambda net: net.to_tensors(),
        lambda net: net.loss_and_gradients(X, Y),
        lambda net: net.trace(X),
        lambda net: get("cuda"),
        lambda net: _net(device="cuda"),
    ],
)
def test_every_use_of_the_gpu_raises(fake_cupy, forked, call):
    net = _net(device="cuda")
    net.fit(X, Y, verbose=0)
    forked()
    seen = len(fake_cupy.state.calls)
    with pytest.raises(DeviceError, match=ERROR):
        call(net)
    assert fake_cupy.state.calls[seen:] == [], "the parent's context must not be used"


SAVED = [np.ones((3, 1)), np.ones(1)]


def test_auto_falls_back_to_the_cpu_with_the_reason(fake_cupy, forked, monkeypatch):
    monkeypatch.delenv("GPUNN_DEVICE", raising=False)
    assert get("auto").device == "cuda:0"
    forked()
    with pytest.warns(DeviceFallbackWarning, match=ERROR):
        assert get("auto").device == "cpu"
    net = _net(device="auto")
    net.fit(X, Y, verbose=0)
    assert net.device == "cpu"


def test_the_cpu_works_in_a_fork(fake_cupy, forked):
    on_cpu, pickled = _net(device="cpu"), pickle.dumps(_net(device="cuda"))
    forked()
    on_cpu.fit(X, Y, verbose=0)
    pickle.loads(pickled).predict(X)


def test_a_fork_may_use_the_gpu_if_its_parent_did_not(fake_cupy, forked):
    forked()
    net = _net(device="cuda")
    net.fit(X, Y, verbose=0)
    assert net.device == "cuda:0"


def test_a_missing_gpu_is_reported_in_a_fork_too(monkeypatch, forked):
    monkeypatch.setitem(sys.modules, "cupy", None)
    for _ in range(2):
        with pytest.raises(DeviceError, match="CuPy is not installed"):
            get("cuda")
        forked()


SCRIPT = """
import os, sys, pytest, numpy as np
from helpers import fake_cupy
with pytest.MonkeyPatch.context() as patch:
    fake_cupy.install(patch)
    import gpunn
    net = gpunn.Sequential([gpunn.Dense(1)], seed=1, input_shape=3).compile("sgd", "mse", device="cuda")
    X = np.ones((6, 3))
    before = net.predict(X)
    child = os.fork()
    if child == 0:
        try:
            net.predict(X)
        except gpunn.DeviceError as error:
            os._exit(17 if 'get_context("spawn")' in str(error) else 1)
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 17
    assert np.array_equal(net.predict(X), before)
    print("raised")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.usefixtures("fake_cupy")
def test_a_real_fork_raises():
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, env=environment)
    assert done.stdout == "raised\n", done.stderr


SPAWNED = """
import multiprocessing, sys
import numpy as np, gpunn

def predict(net):
    return net.predict(np.ones((2, 3))).tolist()

if __name__ == "__main__":
    net = gpunn.Sequential([gpunn.Dense(1)], seed=1, input_shape=3)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(predict, [net]) == [predict(net)]
    print("spawned")
"""


def test_a_spawned_worker_predicts(tmp_path):
    """The remedy in the error works: a network is pickled into a spawned worker."""
    (tmp_path / "main.py").write_text(SPAWNED, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(tmp_path / "main.py")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.stdout == "spawned\n", done.stderr
