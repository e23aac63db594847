"""A comparison of planted contestants in real processes: missing, wrong and dying ones are reported without times."""

import json
import os
import statistics
import sys

import numpy as np
import pytest

from benchmarks import memory, results
from benchmarks.comparison import Entry, References, Settings, Workers, compare, precision_problem
from benchmarks.contestants import CPU, Contestant
from benchmarks.nets import Net
from benchmarks.process import Absent, Failed, Worker
from benchmarks.worker import reason

pytestmark = pytest.mark.slow

NET = Net("small", (5, 7, 3), 32, 1024)
ROUNDS = 4
HEAD = """
import os
import numpy as np
from benchmarks.peers.numpy_plain import PACKAGES, NumpyPlain

class Planted(NumpyPlain):
    def __init__(self, task):
        super().__init__(task, "pytorch")

def prepare(task, threads):
    return Planted(task)
"""
PLANTED = {
    "wrong": """
def update(self, gradients):
    # the last layer's intercept is not updated
    NumpyPlain.update(self, gradients[:-1] + [0 * gradients[-1]])
Planted.update = update
""",
    "careless": """
def predict(self):
    return NumpyPlain.predict(self)[:, ::-1]
Planted.predict = predict
""",
    "dying": """
def train(self, epochs):
    print("out of luck", flush=True)
    os._exit(7)
Planted.train = train
""",
    "raising": """
def predict(self):
    raise OSError("cannot read /some/where/file.txt")
Planted.predict = predict
""",
    "large": """
def train(self, epochs):
    if not hasattr(self, "array"):
        self.array = np.ones(1 << 23)
    NumpyPlain.train(self, epochs)
Planted.train = train
""",
}


@pytest.fixture(scope="module")
def entries(tmp_path_factory):
    folder = tmp_path_factory.mktemp("planted")
    for name, text in PLANTED.items():
        (folder / f"planted_{name}.py").write_text(HEAD + text, encoding="utf-8")
    (folder / "planted_unimportable.py").write_text("import a_package_that_is_not_there", encoding="utf-8")
    planted = [Contestant(name, f"planted_{name}", "peer") for name in (*PLANTED, "unimportable")]
    settings, versions = Settings(rounds=ROUNDS, seconds=1e-3), {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder))
        workers = Workers(1, {}, versions, lambda line: None)
        try:
            chosen = [CPU["gpunn"], *planted, CPU["numpy"], CPU["floor"], CPU["gpunn-watched"]]
            found = compare(NET, chosen, workers, References(settings, 1), settings, lambda line: None)
        finally:
            workers.close()
    assert {"gpunn", "numpy"} <= set(versions)
    return found


@pytest.fixture(scope="module")
def rows(entries):
    return results.rows(NET, entries, "float32")


def row(rows, contestant, mode):
    (found,) = [r for r in rows if (r["contestant"], r["mode"]) == (contestant, mode)]
    return found


def test_agreeing_contestants_are_measured_in_every_round(entries):
    times = {e.contestant.name: {mode: len(t) for mode, t in e.times.items()} for e in entries}
    for name in ("numpy", "floor", "large"):
        assert times[name] == {"train": ROUNDS, "predict": ROUNDS}
    assert times["gpunn"] == {"train": ROUNDS, "predict": ROUNDS, "setup": ROUNDS}
    assert "gpunn-watched" not in times, "it is measured only on digits"


def test_disagreeing_losses_are_recorded_without_a_time(rows):
    for mode in ("train", "predict"):
        found = row(rows, "wrong", mode)
        assert found["us_per_step"] is None
        assert found["note"].startswith("disagrees (losses differ by")
        # the first loss is before the first step
        assert found["losses"][0] == pytest.approx(found["losses_wanted"][0], rel=1e-6)
        assert len(found["losses"]) == len(found["losses_wanted"]) == 20
        assert found["losses"] != found["losses_wanted"]


def test_disagreeing_predictions_have_no_time(rows):
    assert row(rows, "careless", "train")["us_per_step"] > 0
    found = row(rows, "careless", "predict")
    assert found["us_per_step"] is None and found["note"].startswith("disagrees (predictions differ by")


def test_a_missing_peer_is_reported(rows):
    for mode in ("train", "predict"):
        found = row(rows, "unimportable", mode)
        assert found["us_per_step"] is None
        assert found["note"] == "not run (ModuleNotFoundError: No module named 'a_package_that_is_not_there')"


def test_a_peer_that_dies_or_raises_is_reported_and_the_others_continue(rows):
    for mode in ("train", "predict"):
        assert row(rows, "dying", mode)["note"] == "failed (the process ended with code 7: out of luck)"
    assert row(rows, "raising", "train")["us_per_step"] > 0
    assert row(rows, "raising", "predict")["note"] == "failed (OSError: cannot read file.txt)"


def test_the_schema(rows, tmp_path):
    """Every row has the required keys, and its numbers follow from its rounds."""
    result = {"machine": {"cpu": "…"}, "rows": rows, "goals": []}
    size = results.write(result, tmp_path / "deep" / "cpu.json")
    assert size == (tmp_path / "deep" / "cpu.json").stat().st_size
    text = (tmp_path / "deep" / "cpu.json").read_text(encoding="utf-8")
    assert json.loads(text) == json.loads(json.dumps(result))
    for found in rows:
        assert found.keys() >= {"net", "mode", "contestant", "device", "threads", "precision", "us_per_step"}
        assert (found["net"], found["device"], found["threads"], found["precision"]) == ("small", "cpu", 1, "float32")
        assert ("note" in found) == (found["us_per_step"] is None)
    ours, peers = row(rows, "gpunn", "train"), [r for r in rows if r["mode"] == "train" and r["us_per_step"]]
    peers = [r for r in peers if r["contestant"] not in ("gpunn", "floor")]
    best = min(peers, key=lambda r: statistics.median(r["us_rounds"]))
    assert ours["best_peer"] == best["contestant"]
    assert ours["rounds"] == len(ours["us_rounds"]) == ROUNDS
    for name, against in (("ratio_to_best_peer", best), ("ratio_to_floor", row(rows, "floor", "train"))):
        by_round = [a / b for a, b in zip(ours["us_rounds"], against["us_rounds"], strict=True)]
        assert ours[name] == pytest.approx(statistics.median(by_round), rel=1e-3)
        low, high = ours[f"{name}_quartiles"]
        assert low <= ours[name] <= high
    assert ours["ratios"].keys() == {r["contestant"] for r in peers}
    assert ours["ratios"][best["contestant"]][1] == ours["ratio_to_best_peer"]
    assert ours["samples_per_s"] == pytest.approx(32e6 / ours["us_per_step"], rel=1e-4)
    assert ours["losses_differ"] < 1e-5


def test_time_to_the_first_step_by_hand():
    """20 steps of 1 ms within 1 s leave 981 ms for preparation and the first step; within 20 ms they leave nothing."""
    for seconds, expected in ((1.0, 0.981), (0.02, None)):
        entry = Entry(CPU["numpy"], 1, {"train": [1000.0, 900.0, 1100.0]}, first=(seconds, 20))
        found = row(results.rows(NET, [entry], "float32"), "numpy", "train")
        assert found["us_per_step"] == 1000
        assert found.get("first_step_s") == expected


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems do not separate the two")
def test_the_peak_memory_of_a_worker_excludes_its_parent(rows):
    """The contestant's arrays are part of its peak, those of this process are not."""
    array = np.ones(60_000_000)
    assert memory.peak() > array.nbytes
    with Worker("benchmarks.peers.numpy_plain", 1) as worker:
        worker.request("prepare", net=vars(NET), seed=0, precision="float32")
        assert worker.request("memory")["peak"] < array.nbytes / 2
    large, plain = (row(rows, name, "train")["peak_beyond_imports_mib"] for name in ("large", "numpy"))
    assert 60 < large - plain < 90


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="processes cannot be pinned here")
def test_one_thread_runs_on_one_core(tmp_path, monkeypatch):
    """The worker is pinned and the environment variables are set before anything is imported."""
    text = (
        "import os, sys\n"
        "cores, threads = len(os.sched_getaffinity(0)), os.environ['OMP_NUM_THREADS']\n"
        "raise ImportError(f'{cores} {threads} {\"numpy\" in sys.modules}')\n"
    )
    (tmp_path / "planted_curious.py").write_text(text, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(Absent, match="ImportError: 1 1 False"):
        Worker("planted_curious", 1)


def test_the_error_of_a_product_is_an_answer(tmp_path, monkeypatch):
    text = (
        "PACKAGES = ()\n"
        "class Prepared:\n    def product(self, a, b):\n        return a @ b\n"
        "def prepare(task, threads):\n    if task.seed:\n        raise ValueError('a seed')\n    return Prepared()\n"
    )
    (tmp_path / "planted_product.py").write_text(text, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with Worker("planted_product", 1) as worker:
        worker.request("prepare", net=vars(NET), seed=0, precision="float32")
        assert precision_problem(worker.request("product")["error"], "float32") is None
        with pytest.raises(Failed, match=r"^ValueError: a seed$"):
            worker.request("prepare", net=vars(NET), seed=1, precision="float32")


def test_reasons_contain_no_folders():
    assert reason(ImportError("cannot import x (/home/me/lib/y.py)\nmore")) == "ImportError: cannot import x (y.py)"
    assert reason(OSError("C:\\Users\\me\\z.dll is broken")) == "OSError: z.dll is broken"
    assert reason(ValueError()) == "ValueError"
