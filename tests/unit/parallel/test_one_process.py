"""A script with DataParallel() that mpiexec did not start is a group of one process."""

import os
import subprocess
import sys

import numpy as np
import pytest
from helpers import ROOT

import gpunn
from gpunn.parallel import mpi

SCRIPT = """
import sys
if {absent}:
    sys.modules["mpi4py"] = None
import numpy as np, gpunn
net = gpunn.Sequential([gpunn.Dense(3, "tanh"), gpunn.Dense(1)], seed=0, dtype="float64")
net.compile("adam", "mse", device="cpu", strategy=gpunn.DataParallel())
net.fit(np.eye(4), np.ones((4, 1)), batch_size=3, epochs=2, verbose=0)
print(*(w.tobytes().hex() for w in net.get_weights()))
"""
LAUNCHER = {name for names in mpi.LAUNCHERS for name in names}


def _run(*, absent, **launcher):
    alone = {name: value for name, value in os.environ.items() if name not in LAUNCHER}
    environment = {**alone, **launcher, "PYTHONPATH": str(ROOT)}
    call = [sys.executable, "-c", SCRIPT.format(absent=absent)]
    return subprocess.run(call, capture_output=True, text=True, env=environment, timeout=60)


@pytest.mark.parametrize("absent", [True, False], ids=["without mpi4py", "with mpi4py, if installed"])
def test_a_script_alone_trains_as_without_a_strategy(absent):
    done = _run(absent=absent)
    assert done.returncode == 0, done.stderr
    net = gpunn.Sequential([gpunn.Dense(3, "tanh"), gpunn.Dense(1)], seed=0, dtype="float64")
    net.compile("adam", "mse", device="cpu").fit(np.eye(4), np.ones((4, 1)), batch_size=3, epochs=2, verbose=0)
    assert done.stdout.split() == [w.tobytes().hex() for w in net.get_weights()]


def test_under_a_launcher_mpi4py_must_be_installed():
    done = _run(absent=True, PMI_RANK="0", PMI_SIZE="2")
    assert 'ImportError: DataParallel needs mpi4py and an MPI library: pip install "gpunn[mpi]" mpich' in done.stderr
