"""`python -m benchmarks gpu` with the CPU instead of a GPU: real processes, a simulated machine, no GPU result."""

import dataclasses
import json
import time

import pytest
from helpers.oracles import oracle

from benchmarks import __main__ as command
from benchmarks import comparison, goals, gpu, gpu_presence, report, results
from benchmarks.contestants import COMPILED, GPU
from benchmarks.goals import Goal
from benchmarks.nets import GPU_NETS, Net

pytestmark = pytest.mark.slow

FACTS = {"gpu": "Simulated GPU", "gpu_memory_gib": 8.0, "driver": "1", "cuda": "12.9", "cupy": "14.2.0"}
SMALL = Net("small", (6, 8, 3), 32, 2048, learning_rate=1e-4, orders=2)


@pytest.fixture
def simulated(monkeypatch):
    """A simulated GPU with a small net."""
    monkeypatch.setattr(gpu_presence, "require_gpu", lambda command, purpose: None)
    monkeypatch.setattr(gpu_presence, "facts", lambda: dict(FACTS))
    monkeypatch.setattr(gpu, "DEVICE", "cpu")
    monkeypatch.setitem(GPU_NETS, "small", SMALL)
    monkeypatch.setattr(gpu.child, "exit_on_sigterm", lambda: None)


def parsed(*words):
    return command.parser().parse_args(["gpu", *words])


def test_a_complete_run(simulated, tmp_path, capsys, monkeypatch):
    oracle("torch")
    monkeypatch.delitem(GPU, "gpunn-shuffling")
    monkeypatch.setattr(comparison, "PAUSE", 0.0)
    words = "gpu --nets small --precision float32,bf16 --peers torch-eager --rounds 2".split()
    # contestants that need a GPU fail and are reported
    assert command.main([*words, "--out", str(tmp_path)]) == gpu.DISAGREED
    printed = capsys.readouterr().out
    result = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    assert result["done"] == ["small/float32", "small/bf16"]
    assert result["machine"].items() >= FACTS.items() and result["machine"]["precision"] == "float32, bf16"
    rows = {(r["contestant"], r["mode"], r["precision"]): r for r in result["rows"]}
    assert {r["device"] for r in result["rows"]} == {"cuda"}
    for name in ("gpunn", "torch-eager"):
        assert rows[name, "train", "float32"]["us_per_step"] > 0 and rows[name, "predict", "float32"]["rounds"] == 2
        assert rows[name, "train", "float32"]["losses_differ"] < 1e-5
    assert rows["bytes", "train", "bf16"]["us_per_step"] > 0
    assert rows["gpunn", "train", "float32"]["ratios"].keys() == {"torch-eager"}
    assert rows["gpunn", "train", "float32"]["ratio_to_bytes"] > 0
    assert rows["gpunn", "train", "bf16"]["note"].startswith("not measured (gpunn: precision='bf16' is for GPUs")
    assert rows["floor", "train", "float32"]["note"].startswith("failed (")
    assert rows["torch-eager", "train", "bf16"]["us_per_step"] > 0
    written = {p.name for p in tmp_path.iterdir()}
    assert {"gpu.json", "gpu.md"} <= written and all((tmp_path / n).stat().st_size < 300 * 1024 for n in written)
    assert "# Benchmarks on a GPU" in printed and "Simulated GPU, driver 1." in printed
    assert "| goal | net | mode | precision |" in printed
    # everything is done: the next call measures nothing, and `draw` needs only the JSON
    monkeypatch.setattr(gpu, "compare", None)
    assert command.main([*words, "--out", str(tmp_path)]) == gpu.DISAGREED
    before = (tmp_path / "gpu.md").read_text(encoding="utf-8")
    (tmp_path / "gpu.md").unlink()
    assert command.main(["draw", "--out", str(tmp_path)]) == 0
    assert (tmp_path / "gpu.md").read_text(encoding="utf-8") == before


# --- planted measurements ---


def entries(net, times):
    """The result of a comparison; `times` are µs per step by contestant."""
    made = []
    for name, us in times.items():
        found = comparison.Entry(GPU[name], 4, disagreement=1e-7)
        found.times = {"train": [us * (1 + 0.01 * k) for k in range(9)]}
        found.contestant = dataclasses.replace(GPU[name], modes=("train",))
        made.append(found)
    return made


TIMES = {"gpunn": 10.0, "torch-eager": 25.0, "torch-graph": 12.0, "jax-scan": 14.0, "floor": 8.0, "bytes": 7.0}


def result_of(times, net="mid", precision="bf16"):
    return {"machine": {}, "done": [], "rows": results.rows(GPU_NETS[net], entries(net, times), precision, "cuda")}


def verdicts_of(result):
    return {(v.goal.number, v.goal.net, v.goal.against): v for v in goals.verdicts(result, goals.GPU_GOALS)}


def test_gpu_goals_by_hand():
    found = verdicts_of(result_of(TIMES))
    assert found[1, "mid", "torch-eager"].outcome == "met"  # 2.5 times faster, the goal is 2
    over = found[2, "mid", "best compiled"]
    assert (over.outcome, over.whom) == ("met", "torch-graph") and over.median == pytest.approx(10 / 12, rel=1e-4)
    assert found[3, "mid", "floor"].outcome == "met"  # products take 80 %, the goal is 75
    assert found[3, "mid", "floor"].under == "bf16"
    assert found[1, "small", "torch-eager"].outcome == "not measured"
    slow = verdicts_of(result_of({**TIMES, "gpunn": 13.0}))
    assert {k[0]: v.outcome for k, v in slow.items() if k[1] == "mid"} == {1: "missed", 2: "missed", 3: "missed"}
    narrow = verdicts_of(result_of(TIMES, "narrow"))
    assert narrow[4, "narrow", "bytes"].outcome == "met"  # 1.43 of 1.5
    assert (narrow[2, "narrow", "best compiled"].outcome, narrow[5, "narrow", "best compiled"].outcome) == (
        "missed",
        "missed",
    )
    other = verdicts_of(result_of(TIMES, precision="tf32"))
    assert {v.outcome for v in other.values()} == {"not measured"}, "goals apply to their own precision"


def test_gpu_goals_are_as_specified():
    limits = {(g.net, g.against, g.precision): round(1 / g.limit, 4) for g in goals.GPU_GOALS if g.number < 4}
    assert limits == {
        ("small", "torch-eager", "float32"): 10,
        ("small", "best compiled", "float32"): 1.5,
        ("mid", "torch-eager", "bf16"): 2,
        ("mid", "best compiled", "bf16"): 1.15,
        ("mid", "floor", "bf16"): 0.75,
        ("large", "torch-eager", "bf16"): 1.15,
        ("large", "best compiled", "bf16"): 1.03,
        ("large", "floor", "bf16"): 0.88,
        ("narrow", "torch-eager", "bf16"): 3,
        ("narrow", "best compiled", "bf16"): 1.5,
    }
    assert all(g.net in GPU_NETS and g.contestant in GPU for g in goals.GPU_GOALS)
    assert all(GPU[name].kind == "peer" for name in COMPILED)
    assert set(COMPILED) | {"torch-eager"} == {name for name, c in GPU.items() if c.kind == "peer"}


def test_report_and_plots_of_several_precisions(tmp_path):
    machine = dict.fromkeys("command cpu cores system architecture python blas compiler seed commit date".split(), "…")
    machine |= {"versions": {}, "rounds": 9, "seconds": 0.1, "precision": "float32, bf16", **FACTS}
    result = result_of(TIMES)
    result["rows"] += result_of({**TIMES, "gpunn": 11.0}, precision="float32")["rows"]
    result["rows"] += [
        result["rows"][0] | {"net": "large", "us_per_step": None, "note": "not measured (no such thing)"}
    ]
    result["machine"] = machine
    text = report.markdown(result, goals.verdicts(result, goals.GPU_GOALS))
    assert (
        "| mid | train | bf16 | 10.4 | torch-graph | 0.833 (0.833–0.833) | 1.25 (1.25–1.25) | 1.43 (1.43–1.43) |"
        in text
    )
    assert "## Training, µs per step, bf16" in text and "## Training, µs per step, float32" in text
    assert "| 2 | mid | train | bf16 | gpunn | 0.87 × the best compiled (torch-graph) | 0.833 |" in text
    assert "large train (bf16)" in text and "in blocks of 4096 or 8192 rows" in text
    pytest.importorskip("matplotlib")
    from benchmarks import plots

    assert plots.draw(result, tmp_path, "gpu") == ["gpu.png", "gpu-ratios.png"]


def test_a_goal_without_a_compiled_peer_is_not_measured():
    goal = Goal(2, "mid", "train", "gpunn", "best compiled", 0.9, precision="bf16")
    only = result_of({"gpunn": 1.0, "torch-eager": 2.0})
    assert goals.verdict(goal, only, "bf16").outcome == "not measured"


# --- resuming ---


@pytest.fixture
def compared(monkeypatch, simulated):
    """Planted comparisons; `compared.is_cut` makes the next one incomplete."""

    class Made:
        seen, is_cut = [], False

        def __call__(self, net, contestants, workers, references, settings, progress, **more):
            self.seen.append((net.name, settings.precision))
            found = entries(net.name, TIMES)
            if self.is_cut:
                for entry in found:
                    entry.times = {mode: t[:4] for mode, t in entry.times.items()}
            return found

    made = Made()
    made.seen = []
    monkeypatch.setattr(gpu, "compare", made)
    return made


def test_nets_of_goals_come_first_and_all_are_measured(compared, tmp_path, capsys):
    assert command.main(["gpu", "--out", str(tmp_path)]) == 0
    assert tuple(compared.seen[:4]) == gpu.PRIORITY
    assert len(compared.seen) == len(set(compared.seen)) == 12
    capsys.readouterr()
    assert command.main(["gpu", "--out", str(tmp_path)]) == 0
    assert len(compared.seen) == 12, "nothing is pending"
    assert command.main(["gpu", "--out", str(tmp_path), "--fresh", "--goals"]) == 0
    assert tuple(compared.seen[12:]) == gpu.PRIORITY


def test_an_incomplete_run_resumes(compared, tmp_path):
    path = tmp_path / "gpu.json"
    assert command.main(["gpu", "--goals", "--out", str(tmp_path), "--budget", "30"]) == gpu.INCOMPLETE
    assert compared.seen == [] and not path.exists(), "too little time to start"
    compared.is_cut = True
    assert command.main(["gpu", "--nets", "small", "--precision", "float32", "--out", str(tmp_path)]) == gpu.INCOMPLETE
    stored = json.loads(path.read_text(encoding="utf-8"))
    assert stored["done"] == [] and stored["rows"][0]["rounds"] == 4, "an incomplete measurement is saved and repeated"
    compared.is_cut = False
    assert command.main(["gpu", "--goals", "--out", str(tmp_path)]) == 0
    stored = json.loads(path.read_text(encoding="utf-8"))
    assert compared.seen == [("small", "float32"), *gpu.PRIORITY]
    assert stored["done"] == [f"{net}/{precision}" for net, precision in gpu.PRIORITY]
    assert {row["rounds"] for row in stored["rows"]} == {9}
    assert len([r for r in stored["rows"] if r["net"] == "small"]) == len(TIMES)


def test_another_gpu_or_seed_starts_again(compared, tmp_path, monkeypatch):
    words = ["gpu", "--goals", "--out", str(tmp_path)]
    command.main(words)
    assert command.main([*words, "--seed", "1"]) == 0
    assert len(compared.seen) == 8
    monkeypatch.setattr(gpu_presence, "facts", lambda: {**FACTS, "gpu": "another"})
    assert command.main([*words, "--seed", "1"]) == 0
    assert len(compared.seen) == 12
    (tmp_path / "gpu.json").write_text("{ broken", encoding="utf-8")
    assert command.main([*words, "--seed", "1"]) == 0
    assert len(compared.seen) == 16


def test_a_restricted_run_writes_only_to_given_files(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "FOLDER", tmp_path)
    assert gpu.target(parsed()) == tmp_path / "gpu.json" == gpu.target(parsed("--goals"))
    for words in (["--quick"], ["--nets", "mid"], ["--seed", "1"], ["--precision", "bf16"], ["--rounds", "3"]):
        assert gpu.target(parsed(*words)) is None
        assert gpu.target(parsed(*words, "--out", "x")).name == "gpu.json"
        assert gpu.target(parsed(*words, "--json", "y.json")).name == "y.json"


def test_a_comparison_stops_in_time_with_complete_rounds(monkeypatch):
    """The deadline passes before the third round."""

    class Workers:
        threads, device = 1, "cpu"

        def get(self, contestant):
            return self

        def request(self, what, **more):
            return {"us_per_step": 1.0, "device_us_per_step": 0.5}

    class Ending(comparison.Settings):
        queries = 0

        @property
        def seconds_left(self):
            Ending.queries += 1
            return 4 - Ending.queries

    monkeypatch.setattr(comparison, "PAUSE", 0.0)
    monkeypatch.setattr(comparison, "prepare_all", lambda *given: None)
    floors = [dataclasses.replace(GPU["floor"], modes=("train",)), GPU["bytes"]]
    found = comparison.compare(SMALL, floors, Workers(), None, Ending(new_processes=False), lambda line: None)
    assert [len(e.times["train"]) for e in found] == [2, 2]
    row = results.rows(SMALL, found, "float32", "cuda")[0]
    assert row["us_by_events"] == 0.5 and row["rounds"] == 2


def test_contestants_are_prepared_concurrently_except_exclusive_ones(monkeypatch):
    began, started = [], []

    class Workers:
        run_concurrently = comparison.Workers.run_concurrently

        def start(self, contestant):
            started.append(contestant.name)

    def begin(entry, **given):
        began.append(("begins", entry.contestant.name))
        time.sleep(0.05)
        began.append(("ends", entry.contestant.name))

    monkeypatch.setattr(comparison, "prepare_one", begin)
    made = [comparison.Entry(c, 1) for c in GPU.values()]
    comparison.prepare_all(made, SMALL, {}, Workers(), comparison.Settings(concurrent=True), lambda line: None)
    assert started == list(GPU), "all processes start before the first one is waited for"
    exclusive = [name for name, c in GPU.items() if c.exclusive]
    assert exclusive == ["jax-jit", "jax-scan", "torch-max-autotune"]
    assert began[-6:] == [(what, name) for name in exclusive for what in ("begins", "ends")]
    assert {what for what, _ in began[: len(GPU) - 3]} == {"begins"}
