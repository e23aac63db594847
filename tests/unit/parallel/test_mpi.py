"""Processes started by mpiexec: the same training as one process, and any failure stops the job within 30 s."""

import importlib.util
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT
from helpers.messages import naming
from helpers.oracles import oracle

import gpunn

oracle("mpi4py")
LOCAL_MPIEXEC = Path(sys.executable).parent / "mpiexec"
MPIEXEC = str(LOCAL_MPIEXEC) if LOCAL_MPIEXEC.exists() else shutil.which("mpiexec")
SOON = 30  # seconds within which a failure stops the job

pytestmark = [
    pytest.mark.mpi,
    pytest.mark.slow,
    pytest.mark.skipif(MPIEXEC is None, reason="needs mpiexec: pip install mpich"),
]


def mpiexec(size, *command, timeout=120, cwd=None):
    """Run `mpiexec -n SIZE COMMAND`. Return the finished process and its duration."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1", "GPUNN_DEVICE": "cpu"}
    began = time.monotonic()
    call = [MPIEXEC, "-n", str(size), *map(str, command)]
    done = subprocess.run(call, capture_output=True, text=True, timeout=timeout, env=environment, cwd=cwd)
    return done, time.monotonic() - began


def script(size, name, folder):
    return mpiexec(size, sys.executable, ROOT / "tests" / "helpers" / "mpi_script.py", name, folder)


def answer(rank, name, folder):
    return json.loads(Path(f"{folder}-{name}-{rank}.json").read_text(encoding="utf-8"))


def answers(size, name, folder):
    """Return the results of all ranks, in order."""
    done, _ = script(size, name, folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return [answer(rank, name, folder) for rank in range(size)], done


@pytest.mark.parametrize("size", [2, 3])
def test_the_same_weights_as_one_process(size, tmp_path):
    oracle("sklearn")
    found, _ = answers(size, "same", tmp_path)
    fits = 4 if size == 2 else 0  # of estimators, with verbose=True
    for rank, result in enumerate(found):
        assert max(result["differences"].values()) < 1e-9, result
        # rank 0 displays distributed fits, and each rank the fits of one process
        assert result["outputs"] == {"distributed": [int(rank == 0)] * fits, "single": [1] * fits}


@pytest.mark.parametrize("size, then", [(2, 3), (3, 1)])
def test_rank_0_writes_and_another_number_of_processes_resumes(size, then, tmp_path):
    found, done = answers(size, "first_part", tmp_path)
    assert found[0]["weights"] == found[1]["weights"] and found[0]["files"] == ["run.safetensors"]
    assert done.stderr.count("epoch 4/4: loss") == 1
    for result in answers(then, "second_part", tmp_path)[0]:
        assert result["differences"] < 1e-9 and result["val"] < 1e-9 and result["epochs"] == 8


def test_a_killed_process_ends_all_and_the_checkpoint_is_complete(tmp_path):
    done, seconds = script(3, "killed", tmp_path)
    assert done.returncode != 0 and seconds < SOON
    assert "Killed (signal 9)" in done.stdout + done.stderr
    net = gpunn.load(tmp_path / "run.safetensors")
    assert net.predict(np.zeros((1, 7))).shape == (1, 3)
    assert answers(2, "after_the_kill", tmp_path)[0][0]["epochs"] == 8


@pytest.mark.parametrize(
    "name, message",
    [
        ("failing", naming("process 1 of 3", "KeyError: 'a mistake'")),
        ("stuck", naming("2 s", "stuck")),
    ],
)
def test_no_rank_waits_for_a_failed_or_stuck_one(name, message, tmp_path):
    done, seconds = script(3, name, tmp_path)
    assert done.returncode != 0 and seconds < SOON
    assert re.search(message, done.stderr)


def test_bad_input_is_an_error_on_every_rank(tmp_path):
    found, _ = answers(3, "refused", tmp_path)
    result = [each["messages"] for each in found]
    for name in ("seeds", "shapes", "columns", "few rows", "parts", "random_state"):
        assert len({each[name] for each in result}) == 1, (name, result)
    first = result[0]
    assert re.search(naming("ValueError", "seed", "0 on process 0", "1 on process 1", 2), first["seeds"])
    assert "training data must be the same on every process" in first["shapes"]
    assert re.search(naming("ValueError", "must be the same on every process"), first["columns"])
    assert "1 rows are too few for 3 processes" in first["few rows"]
    assert re.search(naming("y", 50, "X", 53, "parts"), first["parts"])
    assert "random_state= draws them" in first["random_state"]
    nan = result[1]["NaN on one"]
    assert re.search(naming("ValueError", "X", "NaN", "row 18", "column 0"), nan)
    assert re.search(naming("ProcessError", "process 1", nan), first["NaN on one"])
    assert first["no folder on the first"].startswith("FileNotFoundError")
    assert all(
        each["no folder on the first"].startswith("ProcessError: process 0 failed: FileNot") for each in result[1:]
    )
    assert first["other calls"].startswith("ProcessError: process 1 is in fit, process 0 in train_on_batch")
    assert all(each["a good fit"] == "nothing" for each in result)


def test_a_process_that_exits_is_reported(tmp_path):
    _, seconds = script(3, "leaving", tmp_path)
    assert seconds < SOON
    for rank in (0, 2):
        assert answer(rank, "leaving", tmp_path)["messages"].startswith("ProcessError: process 1 has exited")


@pytest.mark.parametrize("size", [2, 3])
def test_a_process_reads_only_its_own_rows(size, tmp_path):
    """The rows of other ranks are NaN, so that reading a single one would be detected."""
    found, _ = answers(size, "own_rows", tmp_path)
    assert all(each["differences"] < 1e-9 for each in found)
    ends = [each["rows"] for each in found]
    assert ends[0][0] == 0 and ends[-1][1] == 53
    assert all(a[1] == b[0] for a, b in itertools.pairwise(ends))


def test_different_mpi_libraries_are_detected():
    """The launcher reports four processes, the library one."""
    code = "import gpunn; gpunn.DataParallel().start()"
    environment = {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "4", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **environment}, timeout=60
    )
    assert re.search(naming("4 processes", "mpi4py", 1), done.stderr)


def test_on_the_command_line_rank_0_prints_and_writes(tmp_path):
    oracle("sklearn")
    for name in ("pandas", "matplotlib"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed")
    train = [sys.executable, "-m", "gpunn", "train", "digits", "--epochs", "2", "--out", "digits.safetensors"]
    done, _ = mpiexec(2, *train, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("task: classification") == done.stdout.count("validation accuracy") == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["digits.png", "digits.safetensors"]
    again, _ = mpiexec(2, *train, cwd=tmp_path)
    assert again.returncode == 2 and again.stderr.count("digits.safetensors exists") == 1


def test_the_script_of_the_readme(tmp_path):
    oracle("sklearn")
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (tmp_path / "train.py").write_text(re.search(r"^```\n(# train.py.*?)^```$", text, re.M | re.S)[1], encoding="utf-8")
    done, _ = mpiexec(2, sys.executable, "train.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(gpunn.load(tmp_path / "run.safetensors").get_weights()) == 4
    search = re.search(r"^```\n(# search.py.*?)^```$", text, re.M | re.S)[1]
    compile(search, "search.py", "exec")
