"""`python -m benchmarks gpu-check` with planted stages: pending, stopped and resumed stages; no process remains."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from helpers.processes import run_python

from benchmarks import gpu, gpu_check, stages
from benchmarks.process import ROOT, Worker
from benchmarks.stages import Outcome, Stage

pytestmark = pytest.mark.slow
FACTS = {"gpu": "Simulated GPU", "gpu_memory_gib": 8.0, "driver": "1", "cuda": "12.9", "cupy": "14.2.0"}
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux ends a process with its parent")


def outcome_of(status):
    return {0: "done", 2: "incomplete"}.get(status, "failed")


def stage(name, min_seconds=10.0, max_seconds=100.0, read=lambda folder: {}):
    return Stage(name, lambda seconds, folder: ["x"], min_seconds, max_seconds, outcome_of, read)


class Machine:
    """Run stages with planted durations and statuses on a simulated clock."""

    def __init__(self, **takes):
        self.now, self.takes, self.ran = 0.0, takes, []

    def seconds_left(self, budget):
        end = self.now + budget
        return lambda: end - self.now

    def __call__(self, stage, seconds, folder):
        self.ran.append(stage.name)
        took, status = self.takes.get(stage.name, (10.0, 0))
        if isinstance(status, BaseException):
            raise status
        self.now += min(took, seconds)
        return Outcome(None if took > seconds else status, f"first\noutput of {stage.name}", min(took, seconds))


def check(machine, known_stages, out, budget, **more):
    options = {"only": None, "fresh": False, **more}
    return gpu_check.check(
        known_stages,
        out,
        machine.seconds_left(budget),
        options["only"],
        options["fresh"],
        machine,
        options.get("facts", FACTS),
    )


def states(out):
    state = json.loads((out / gpu_check.FILE).read_text(encoding="utf-8"))
    return {name: record["state"] for name, record in state["stages"].items()}


THREE = [stage("a"), stage("b"), stage("c")]


def test_stages_run_in_order_and_only_once(tmp_path, capsys):
    machine = Machine()
    assert check(machine, THREE, tmp_path, 1000) == 0
    assert machine.ran == ["a", "b", "c"] and set(states(tmp_path).values()) == {"done"}
    assert check(machine, THREE, tmp_path, 1000) == 0 and len(machine.ran) == 3
    text = (tmp_path / "gpu-check.md").read_text(encoding="utf-8")
    assert "No stage remains." in text and "| b | done | 10.0 |" in text and "output of b" in text
    assert check(machine, THREE, tmp_path, 1000, only=["b"], fresh=True) == 0
    assert machine.ran[3:] == ["b"]


def test_a_stage_without_enough_time_is_skipped_and_shorter_ones_run(tmp_path):
    machine = Machine()
    known_stages = [stage("a", 10), stage("long", 50), stage("c", 5)]
    assert check(machine, known_stages, tmp_path, 40) == gpu_check.INCOMPLETE
    assert machine.ran == ["a", "c"]
    assert "Remaining: long. The same command resumes there." in (tmp_path / "gpu-check.md").read_text(encoding="utf-8")
    assert check(machine, known_stages, tmp_path, 90) == 0
    assert machine.ran == ["a", "c", "long"]


def test_a_stopped_stage_is_saved_and_runs_last(tmp_path):
    machine = Machine(a=(500.0, 0))
    assert check(machine, THREE, tmp_path, 300) == gpu_check.INCOMPLETE
    assert machine.ran == ["a", "b", "c"] and states(tmp_path) == {"a": "stopped", "b": "done", "c": "done"}
    assert machine.now == 120, "it may take at most 100 s"
    machine.takes = {}
    assert check(machine, THREE, tmp_path, 300) == 0
    assert machine.ran[3:] == ["a"]


def test_a_stage_that_never_ends_finally_fails(tmp_path):
    machine = Machine(a=(500.0, 0))
    for expected in (gpu_check.INCOMPLETE, gpu_check.INCOMPLETE, gpu_check.FAILED):
        assert check(machine, THREE, tmp_path, 1000) == expected
    assert states(tmp_path)["a"] == "failed"
    assert check(machine, THREE, tmp_path, 1000) == gpu_check.FAILED
    assert machine.ran.count("a") == stages.MAX_TRIES


def test_an_incomplete_stage_runs_until_it_is_done(tmp_path):
    machine = Machine(b=(10.0, 2))
    for _ in range(stages.MAX_TRIES + 2):  # it makes progress every time, so it never counts as failed
        assert check(machine, THREE, tmp_path, 1000) == gpu_check.INCOMPLETE
    machine.takes = {}
    assert check(machine, THREE, tmp_path, 1000) == 0


def test_a_crashed_stage_is_tried_again_and_keeps_its_output(tmp_path):
    machine = Machine(b=(1.0, -11))
    assert check(machine, THREE, tmp_path, 1000) == gpu_check.INCOMPLETE
    record = json.loads((tmp_path / gpu_check.FILE).read_text(encoding="utf-8"))["stages"]["b"]
    assert (record["state"], record["exit"], record["tries"]) == ("crashed", -11, 1)
    assert record["printed"].endswith("output of b")
    machine.takes = {}
    assert check(machine, THREE, tmp_path, 1000) == 0


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), SystemExit(143)])
def test_an_interruption_is_saved_and_raised_again(stop, tmp_path):
    machine = Machine(b=(1.0, stop))
    with pytest.raises(type(stop)):
        check(machine, THREE, tmp_path, 1000)
    assert states(tmp_path) == {"a": "done", "b": "stopped"}
    machine.takes = {}
    assert check(machine, THREE, tmp_path, 1000) == 0
    assert machine.ran == ["a", "b", "c", "b"]


def test_a_stages_output_is_stored_and_invalid_output_reported(tmp_path):
    def invalid(folder):
        raise ValueError("no JSON")

    known_stages = [stage("a", read=lambda folder: {"launches": []}), stage("b", read=invalid)]
    assert check(Machine(), known_stages, tmp_path, 1000) == gpu_check.INCOMPLETE
    state = json.loads((tmp_path / gpu_check.FILE).read_text(encoding="utf-8"))
    assert state["launches"] == [] and state["stages"]["b"]["message"] == "its output is not readable: ValueError"


def test_another_gpu_or_a_broken_file_starts_again(tmp_path):
    machine = Machine()
    check(machine, THREE, tmp_path, 1000)
    check(machine, THREE, tmp_path, 1000, facts={**FACTS, "gpu": "another"})
    assert len(machine.ran) == 6
    check(machine, THREE, tmp_path, 1000)
    assert len(machine.ran) == 6, "the results of the first GPU are still stored"
    assert {p.name for p in tmp_path.glob("*.json")} == {"gpu-check.json", "gpu-check-another.json"}
    (tmp_path / gpu_check.FILE).write_text("{", encoding="utf-8")
    check(machine, THREE, tmp_path, 1000)
    assert len(machine.ran) == 9


def test_failed_tests_and_differing_devices_fail(tmp_path):
    counts = {"failed": 1, "errors": 0, "passed": 3, "skipped": 0, "names": ["x::y"]}
    tests = stage("tests", read=lambda folder: {"tests": counts})
    assert check(Machine(), [tests], tmp_path / "one", 1000) == gpu_check.FAILED
    assert "3 passed, 1 failed" in (tmp_path / "one" / "gpu-check.md").read_text(encoding="utf-8")
    different = stage("devices", read=lambda folder: {"devices": [{"net": "x", "same": False, "note": "failed (…)"}]})
    assert check(Machine(), [different], tmp_path / "two", 1000) == gpu_check.FAILED


# --- the real stages --------------------------------------------------------------------------------------------------


def test_all_stages(tmp_path):
    pending = gpu_check.all_stages(tmp_path)
    names = [s.name for s in pending]
    assert names == ("doctor tests-short devices launches kernels comparison out-of-core tests comparison-rest".split())
    assert all(s.min_seconds < s.max_seconds for s in pending)
    # short stages come first: within ten minutes all stages before the comparison have started
    assert sum(s.min_seconds for s in pending[:6]) < 200
    commands = {s.name: list(s.command(300.0, tmp_path)) for s in pending}
    assert commands["comparison"] == ["benchmarks", "gpu", "--goals", "--out", str(tmp_path), "--budget", "285"]
    assert "--goals" not in commands["comparison-rest"]
    for name in ("devices", "launches", "kernels", "out-of-core"):
        assert commands[name] == ["benchmarks", name, "--json", str(tmp_path / "result.json")]
    for name in gpu_check.SHORT:
        assert (ROOT / name).exists() and name in commands["tests-short"]
        assert "mark" in (ROOT / name).read_text(encoding="utf-8")
    assert {pending[1].environment[k] for k in ("GPUNN_REQUIRE_GPU", "PYTEST_DISABLE_PLUGIN_AUTOLOAD")} == {"1"}
    assert [pending[5].outcome_of(status) for status in (0, 1, 2, 3, -9)] == [
        "done",
        "done",
        "incomplete",
        "failed",
        "failed",
    ]
    assert (gpu.DISAGREED, gpu.INCOMPLETE) == (1, 2)


def test_pytest_runs_as_a_stage_and_outcomes_are_counted(tmp_path):
    """The real command, with a file of tests."""
    (tmp_path / "test_it.py").write_text(
        "import pytest\n"
        "@pytest.mark.gpu\ndef test_good(): pass\n"
        "@pytest.mark.gpu\ndef test_bad(): assert 0\n"
        "@pytest.mark.gpu\ndef test_skipped(): pytest.skip('x')\n"
        "def test_other(): assert 0\n",
        encoding="utf-8",
    )
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = gpu\n", encoding="utf-8")
    made = gpu_check.run_tests("tests", [str(tmp_path / "test_it.py"), "-c", str(tmp_path / "pytest.ini")], 1, 60)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")}
    outcome = stages.process(made, 60.0, tmp_path, environment)
    assert outcome.status == 1 and stages.stage_record(made, outcome, 1)["state"] == "done", outcome
    found = made.read(tmp_path)["tests"]
    assert [found[kind] for kind in gpu_check.KINDS] == [1, 1, 0, 1] and found["finished"] == 3
    assert [name.partition("::")[2] for name in found["names"]] == ["test_bad"] and found["commit"]
    assert str(tmp_path.parent) not in outcome.printed
    (tmp_path / "tally").write_text("[broken", encoding="utf-8")
    with pytest.raises(ValueError, match="Expecting"):
        gpu_check.count_outcomes(tmp_path / "tally", {})


# --- no process remains ------------------------------------------------------------------------------------------

SLEEPER = """
import subprocess, sys, time, pathlib
inner = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
pathlib.Path(sys.argv[1]).write_text(f"{inner.pid}")
time.sleep(100)
"""


@pytest.fixture
def sleeper(tmp_path, monkeypatch):
    """A module that starts a process and sleeps, and the file for that process's id."""
    (tmp_path / "planted_sleeper.py").write_text(SLEEPER, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path / "pid"


def pid_in(path):
    for _ in range(400):
        with contextlib.suppress(OSError, ValueError):
            return int(path.read_text(encoding="utf-8"))
        time.sleep(0.05)
    raise AssertionError("no process was started")


def is_gone(pid):
    """True if a process ends within 5 s; a zombie counts as ended."""
    for _ in range(100):
        try:
            state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state in "ZX":
            return True
        time.sleep(0.05)
    return False


@linux
def test_a_stage_past_its_time_is_ended_with_its_children(sleeper, tmp_path):
    long = Stage("long", lambda s, f: ["planted_sleeper", str(sleeper)], 1, 100, lambda status: "failed", lambda f: {})
    start = time.monotonic()
    outcome = stages.process(long, 3.0, tmp_path, dict(os.environ))
    assert outcome.status is None and time.monotonic() - start < 30
    assert stages.stage_record(long, outcome, 1) == {"seconds": round(outcome.seconds, 1), "state": "stopped"} | {
        "message": f"stopped after {outcome.seconds:.0f} s"
    }
    assert is_gone(pid_in(sleeper))


TESTS = """
import time
import pytest

pytestmark = pytest.mark.gpu

def test_first():
    pass

def test_second():
    assert 1 + 1 == 3

def test_slow():
    time.sleep(60)
"""


@linux
def test_stopped_tests_keep_their_outcomes_and_resume(tmp_path):
    (tmp_path / "test_planted.py").write_text(TESTS, encoding="utf-8")
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = gpu", encoding="utf-8")
    path, environment = tmp_path / gpu_check.FILE, os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    made = gpu_check.run_tests(
        "tests",
        [str(tmp_path / "test_planted.py"), "-c", str(tmp_path / "pytest.ini")],
        1,
        100,
        lambda: gpu_check.previous_counts(path, "tests"),
    )
    outcome = stages.process(made, 20.0, tmp_path, environment)
    assert outcome.status is None
    state = stages.read_output(made, tmp_path, stages.stage_record(made, outcome, 1))
    found = state["tests"]
    assert (found["passed"], found["failed"], found["finished"]) == (1, 1, 2)
    assert [name.rpartition("::")[2] for name in found["names"]] == ["test_second"]
    path.write_text(json.dumps(state), encoding="utf-8")
    (tmp_path / "test_planted.py").write_text(TESTS.replace("sleep(60)", "sleep(0)"), encoding="utf-8")
    outcome = stages.process(made, 60.0, tmp_path, environment)
    found = stages.read_output(made, tmp_path, stages.stage_record(made, outcome, 2))["tests"]
    assert (found["passed"], found["failed"], found["finished"]) == (2, 1, 3) and outcome.status == 0
    state["tests"]["commit"] = "another"
    path.write_text(json.dumps(state), encoding="utf-8")
    assert gpu_check.previous_counts(path, "tests") == {}


DRIVER = """
import sys
from pathlib import Path
from benchmarks import child, stages
child.exit_on_sigterm()
stage = stages.Stage("s", lambda s, f: ["planted_sleeper", sys.argv[1]], 1, 100, lambda status: "done", lambda f: {})
import os
stages.process(stage, 60.0, Path("."), dict(os.environ))
"""


@linux
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_stage_too(number, sleeper):
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, str(sleeper)], cwd=ROOT, stderr=subprocess.DEVNULL)
    pid = pid_in(sleeper)
    driver.send_signal(number)
    assert driver.wait(timeout=30) != 0
    assert is_gone(pid)


@linux
def test_a_process_ends_with_its_killed_parent(tmp_path, monkeypatch):
    text = "import pathlib, os, sys, time\npathlib.Path(sys.argv[1]).write_text(str(os.getpid()))\ntime.sleep(100)\n"
    (tmp_path / "planted_process.py").write_text(text, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER.replace("planted_sleeper", "planted_process"), str(tmp_path / "pid")],
        cwd=ROOT,
        stderr=subprocess.DEVNULL,
    )
    pid = pid_in(tmp_path / "pid")
    assert Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] not in "ZX"
    driver.kill()
    driver.wait()
    assert is_gone(pid)


PREPARING = """
import sys
from benchmarks import comparison
from benchmarks.contestants import Contestant
from benchmarks.nets import NETS
workers = comparison.Workers(1, {}, {}, lambda line: None)
entries = [comparison.Entry(Contestant(name, "planted_slow", "peer"), 1) for name in "ab"]
settings = comparison.Settings(concurrent=True)
comparison.prepare_all(entries, NETS["digits"], {}, workers, settings, lambda line: None)
"""


@linux
def test_an_interrupted_preparation_ends_immediately(tmp_path, monkeypatch):
    text = textwrap.dedent(f"""
        import os, pathlib, time
        PACKAGES = ()
        def prepare(task, threads):
            pathlib.Path({str(tmp_path / "pid")!r}).write_text(str(os.getpid()))
            time.sleep(100)
    """)
    (tmp_path / "planted_slow.py").write_text(text, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    driver = subprocess.Popen([sys.executable, "-c", PREPARING], cwd=ROOT, stderr=subprocess.DEVNULL)
    pid = pid_in(tmp_path / "pid")
    start = time.monotonic()
    driver.send_signal(signal.SIGINT)
    assert driver.wait(timeout=60) != 0 and time.monotonic() - start < 30
    assert is_gone(pid)


@linux
def test_a_worker_is_ended_with_its_children(tmp_path, monkeypatch):
    text = textwrap.dedent(f"""
        import pathlib, subprocess, sys
        PACKAGES = ()
        inner = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
        pathlib.Path({str(tmp_path / "pid")!r}).write_text(str(inner.pid))
    """)
    (tmp_path / "planted_pool.py").write_text(text, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with Worker("planted_pool", 1):
        pid = pid_in(tmp_path / "pid")
    assert is_gone(pid)


def test_a_child_without_its_parent_ends_immediately():
    if not sys.platform.startswith("linux"):
        pytest.skip("only Linux ends a process with its parent")
    code = "from benchmarks import child; child.die_with_parent(1 << 30); print('running')"
    done = run_python(code, timeout=60)
    assert done.returncode == 1 and done.stdout == ""
