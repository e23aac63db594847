"""Golden values: they hold with compiled kernels and NumPy references, and the tool reports every difference."""

import os
import shutil
import subprocess

import numpy as np
import pytest
from helpers.oracles import oracle

import gpunn
from benchmarks import adapter
from benchmarks.commits import Commit
from benchmarks.process import ROOT, Failed
from tests.golden import __main__ as command
from tests.golden import values
from tests.golden.cases import CASES

CASE = CASES["schedule-constant"]


@pytest.fixture(scope="module", params=["compiled", "numpy"])
def process(request):
    compiled = request.param == "compiled"
    with Commit(ROOT, compiled=compiled) as process:
        if compiled and not process.compiled:
            pytest.skip("no kernels can be compiled here")
        yield process


def needs(case):
    """Skip unless the libraries of a case are installed."""
    if case["kind"] == "estimator":
        oracle("sklearn")
    if case["input"] == "sparse":
        oracle("scipy")


@pytest.mark.parametrize("name", CASES)
def test_golden_values_hold(name, process):
    needs(CASES[name])
    stored = values.load(name)
    assert stored is not None, f"nothing is stored: python -m tests.golden --write {name}"
    differences = values.compare(CASES[name], values.compute(process, CASES[name]), stored)
    assert not differences, "\n".join(map(str, differences))


def test_every_stored_entry_has_a_case_and_all_are_small():
    assert values.stored_names() == set(CASES)
    assert values.stored_bytes() <= values.MAX_BYTES


# --- what the cases cover --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def networks():
    return [adapter.network(case, "float64") for case in CASES.values() if case["kind"] != "estimator"]


def exported(module, base):
    """The classes of a kind that a module of gpunn exports, without the base and wrappers of a user's function."""
    found = {getattr(module, name) for name in module.__all__}
    classes = {c for c in found if isinstance(c, type) and issubclass(c, base) and c is not base}
    return {c for c in classes if "Function" not in c.__name__}


def made(value, base):
    """All objects of a kind in the data of the cases."""
    if isinstance(value, list | tuple):
        return {thing for v in value for thing in made(v, base)}
    if not isinstance(value, dict):
        return set()
    inner = {thing for v in value.values() for thing in made(v, base)}
    if "new" in value and isinstance(thing := adapter.make(value), base):
        inner.add(type(thing))
    return inner


def test_every_layer_has_a_case(networks):
    classes = exported(gpunn.layers, gpunn.Layer)
    assert classes <= {type(layer) for net in networks for layer in net.layers} and len(classes) >= 5


def test_every_activation_has_a_case(networks):
    classes = exported(gpunn.activations, gpunn.activations.Activation)
    assert classes <= {type(layer.activation) for net in networks for layer in net.layers} and len(classes) >= 11


def test_every_loss_has_a_case(networks):
    classes = exported(gpunn.losses, gpunn.losses.Loss)
    assert classes <= {type(net.loss) for net in networks} and len(classes) >= 9
    assert {gpunn.losses.get(name).name for name in gpunn.losses.built_in()} <= {net.loss.name for net in networks}


def test_every_optimizer_has_a_case(networks):
    classes = exported(gpunn.optimizers, gpunn.Optimizer)
    assert classes <= {type(net.optimizer) for net in networks} and len(classes) >= 7


def test_every_schedule_has_a_case():
    classes = exported(gpunn.schedules, gpunn.schedules.Schedule)
    assert classes <= made(list(CASES.values()), gpunn.schedules.Schedule) and len(classes) >= 7


def test_every_metric_has_a_case():
    base = gpunn.metrics.Metric
    classes = {c for c in exported(gpunn.metrics, base) if c is not gpunn.metrics.NonDecomposableMetric}
    used = {type(gpunn.metrics.get(adapter.make(m))) for case in CASES.values() for m in case.get("metrics", [])}
    assert classes <= used and len(classes) >= 10
    assert {type(gpunn.metrics.get(name)) for name in gpunn.metrics.built_in()} <= used


def test_every_initializer_has_a_case():
    base = gpunn.initializers.Initializer
    initializers = [
        gpunn.initializers.get(adapter.make(layer[argument]))
        for case in CASES.values()
        for layer in case.get("layers", [])
        for argument in ("kernel_initializer", "bias_initializer")
        if argument in layer
    ]
    assert exported(gpunn.initializers, base) <= {type(i) for i in initializers}


def test_every_solver_has_a_case():
    used = {
        (case["estimator"], case["parameters"].get("solver", "adam")) for case in CASES.values() if "estimator" in case
    }
    assert {(e, s) for e in ("MLPClassifier", "MLPRegressor") for s in ("sgd", "adam", "lbfgs")} <= used


def test_training_data_is_exact_in_float32():
    """A case is the same problem in both precisions, on every machine."""
    for case in CASES.values():
        if case["input"] == "dense" and "values" not in case["targets"]:
            x, y, _ = adapter.training_data(case, "float64")
            assert np.array_equal(x, x.astype("float32")) and np.array_equal(y, np.asarray(y, "float32"))


# --- what counts as a difference -------------------------------------------------------------------------------------


def arrays():
    return {
        "weights.0": np.array([[1.0, -4.0], [0.25, 2.0]]),
        "float32.gradients.0": np.array([[0.5, -2.0], [1.0, 0.0]], np.float32),
        "classes": np.array([0, 1, 2]),
    }


@pytest.mark.parametrize("difference, differs", [(0.0, False), (3.9e-11, False), (4.1e-11, True)])
def test_float64_may_differ_by_1e_11_of_the_largest_entry(difference, differs):
    """The largest entry is 4."""
    found = arrays()
    found["weights.0"][1, 0] += difference
    assert [d.array for d in values.compare(CASE, found, arrays())] == ["weights.0"] * differs


@pytest.mark.parametrize("factor, differs", [(0.9, False), (1.1, True)])
def test_float32_may_differ_by_64_u_sqrt_k_of_the_largest_entry(factor, differs):
    """K = 8, the rows of the first step; the largest entry is 2."""
    found = arrays()
    found["float32.gradients.0"][1, 0] += np.float32(factor * 64 * 2.0**-24 * 8**0.5 * 2)
    assert [d.array for d in values.compare(CASE, found, arrays())] == ["float32.gradients.0"] * differs


@pytest.mark.parametrize(
    "name, array",
    [
        ("classes", np.array([0, 1, 1])),
        ("weights.0", np.array([[np.nan, -4.0], [0.25, 2.0]])),
        ("weights.0", np.array([[np.inf, -4.0], [0.25, 2.0]])),
        ("weights.0", np.array([1.0, -4.0, 0.25, 2.0])),
        ("weights.0", arrays()["weights.0"].astype(np.float32)),
        ("weights.0", None),
        ("weights.1", np.zeros(2)),
    ],
)
def test_other_differences_have_no_tolerance(name, array):
    found = arrays() | {name: array}
    found = {k: v for k, v in found.items() if v is not None}
    assert [d.array for d in values.compare(CASE, found, arrays())] == [name]
    assert [d.array for d in values.compare_bits("case", found, arrays())] == [name]


def test_a_comparison_of_bits_allows_nothing():
    found = arrays()
    found["weights.0"][0, 0] = np.nextafter(1.0, 2.0)
    assert not values.compare(CASE, found, arrays())
    assert [d.array for d in values.compare_bits("case", found, arrays())] == ["weights.0"]
    zero = arrays()
    zero["float32.gradients.0"][1, 1] = -0.0
    assert [d.array for d in values.compare_bits("case", zero, arrays())] == ["float32.gradients.0"]


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def compiler():
    with Commit(ROOT) as process:
        if not process.compiled:
            pytest.skip("no kernels can be compiled here")


@pytest.fixture
def few(monkeypatch, compiler):
    """Two cases instead of all."""
    cases = {name: CASES[name] for name in ("schedule-constant", "one-layer")}
    monkeypatch.setattr(command, "CASES", cases)
    return cases


@pytest.mark.slow
def test_written_values_hold_and_a_planted_difference_is_reported(few, tmp_path):
    lines = []
    assert command.main(["--write", "all"], tmp_path, lines.append) == 0
    assert values.stored_names(tmp_path) == set(few)
    assert command.main([], tmp_path, lines.append) == 0
    planted = values.load("one-layer", tmp_path)
    planted["weights.1"] = planted["weights.1"] * (1 + 1e-10)
    values.store("one-layer", planted, tmp_path)
    lines.clear()
    assert command.main([], tmp_path, lines.append) == 1
    assert any("one-layer: weights.1" in line for line in lines)
    assert not any("schedule-constant" in line for line in lines)


@pytest.mark.slow
def test_writing_changes_only_the_named_entries_that_differ(few, tmp_path):
    command.main(["--write", "all"], tmp_path, lambda line: None)
    before = {name: values.path_of(name, tmp_path).read_bytes() for name in few}
    rounded = values.load("one-layer", tmp_path)
    rounded["weights.0"] = np.nextafter(rounded["weights.0"], 9.0)
    values.store("one-layer", rounded, tmp_path)
    kept = values.path_of("one-layer", tmp_path).read_bytes()
    other = values.load("schedule-constant", tmp_path)
    other["weights.0"] = other["weights.0"] + 1
    values.store("schedule-constant", other, tmp_path)
    lines = []
    assert command.main(["--write", "one-layer"], tmp_path, lines.append) == 0
    assert values.path_of("one-layer", tmp_path).read_bytes() == kept != before["one-layer"]
    assert not any("schedule-constant" in line for line in lines)
    assert command.main(["--write", "schedule-constant"], tmp_path, lines.append) == 0
    assert values.path_of("schedule-constant", tmp_path).read_bytes() == before["schedule-constant"]
    assert any("schedule-constant: weights.0: differs by" in line for line in lines)


@pytest.mark.slow
def test_missing_and_superfluous_entries_fail(few, tmp_path):
    command.main(["--write", "all"], tmp_path, lambda line: None)
    values.path_of("one-layer", tmp_path).rename(values.path_of("nothing", tmp_path))
    lines = []
    assert command.main([], tmp_path, lines.append) == 1
    assert any(line.startswith("one-layer") for line in lines) and any(line.startswith("nothing") for line in lines)
    assert command.main(["--write", "all"], tmp_path, lines.append) == 0
    assert values.stored_names(tmp_path) == set(few)


def test_an_unknown_case_is_refused_and_nothing_is_written(few, tmp_path):
    lines = []
    assert command.main(["--write", "one-layer", "two-layers"], tmp_path, lines.append) == 1
    assert "two-layers" in lines[0] and not values.stored_names(tmp_path)


# --- another commit --------------------------------------------------------------------------------------------------


def git(folder, *words):
    identity = ["-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    subprocess.run(["git", *identity, *words], cwd=folder, check=True, capture_output=True, env=environment)


PLANTED = {
    "same": "",
    "slow": "\nrate = Constant.__call__\nConstant.__call__ = lambda self, t: rate(self, t) / 2\n",
    "old": "\ndel CosineDecay\n",
}


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """Three commits: "same" is this gpunn, "slow" halves constant learning rates, "old" lacks a schedule."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    folder = tmp_path_factory.mktemp("repository")
    git(folder, "init", "--quiet")
    leave_out = shutil.ignore_patterns("__pycache__")
    for name, text in PLANTED.items():
        for part in ("gpunn", "kernels"):
            shutil.copytree(ROOT / part, folder / part, ignore=leave_out, dirs_exist_ok=True)
        with open(folder / "gpunn" / "schedules.py", "a", encoding="utf-8") as file:
            file.write(text)
        git(folder, "add", "--all")
        git(folder, "commit", "--quiet", "--message", name)
        git(folder, "tag", name)
    return folder


def worktrees(folder):
    return subprocess.run(["git", "worktree", "list"], cwd=folder, capture_output=True, text=True).stdout.splitlines()


@pytest.mark.slow
@pytest.mark.parametrize("commit, status", [("same", 0), ("slow", 1)])
def test_against_another_commit(commit, status, repository):
    """The commit's gpunn runs: a halved learning rate changes the fits, but not the loss before the first step."""
    lines, cases = [], {name: CASES[name] for name in ("schedule-constant", "schedule-cosine")}
    assert command.against(commit, lines.append, repository=repository, cases=cases, large={}) == status
    differing = {line.split(": ", 1)[1].rsplit(": ", 1)[0] for line in lines if "differs by" in line}
    assert ("schedule-constant: weights.0" in differing) == bool(status)
    assert not any("schedule-cosine" in name or "float32.loss" in name for name in differing)
    assert len(worktrees(repository)) == 1


@pytest.mark.slow
def test_a_case_that_the_commit_cannot_run_does_not_count(repository):
    lines, cases = [], {"schedule-cosine": CASES["schedule-cosine"], CASE["name"]: CASE}
    assert command.against("old", lines.append, repository=repository, cases=cases, large={}) == 0
    assert any("schedule-cosine" in line and "CosineDecay" in line for line in lines)
    del cases[CASE["name"]]
    assert command.against("old", lines.append, repository=repository, cases=cases, large={}) == 1


@pytest.mark.slow
def test_a_case_that_the_working_tree_cannot_run_counts(repository):
    lines, cases = [], {"unknown": {**CASE, "name": "unknown", "optimizer": {"new": "UnknownSGD", "args": [0.1]}}}
    assert command.against("same", lines.append, repository=repository, cases=cases, large={}) == 1
    assert any("unknown" in line and "UnknownSGD" in line for line in lines)


@pytest.mark.slow
def test_an_unknown_commit_is_an_error_and_leaves_no_worktree(repository):
    with pytest.raises(Failed, match="nowhere"):
        command.against("nowhere", print, repository=repository, cases={}, large={})
    assert len(worktrees(repository)) == 1
