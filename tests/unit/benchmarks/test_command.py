"""The command line of `python -m benchmarks`."""

import contextlib
import getpass
import importlib.util
import io
import json
import platform
import re
import tempfile
from pathlib import Path

import pytest
from helpers import ROOT
from helpers.processes import run_python

from benchmarks import __main__ as command
from benchmarks import cpu, machine, results

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", command.COMMANDS)
def test_help_of_every_command_fits_80_columns(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        command.main([name, "--help"])
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


@pytest.mark.parametrize("arguments", [["--help"], ["cpu", "--help"]])
def test_help_fits_80_columns(arguments, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as stop:
        command.main(arguments)
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80
    for option in "--quick --nets --peers --threads --precision --json --rounds --sweep --out".split():
        assert (option in printed) == (arguments[0] == "cpu")


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "COMMAND"),
        (["cpu", "--nets", "seed,narrow"], "must be among seed, tabular, digits, mnist, wide, got 'narrow'"),
        (["cpu", "--peers", "floor"], "must be among scikit-learn, torch-eager"),
        (["cpu", "--threads", "2"], "must be among 1, all, got '2'"),
        (["cpu", "--precision", "bf16"], "invalid choice: 'bf16'"),
        (["cpu", "--rounds", "0"], "must be at least 1, got 0"),
    ],
)
def test_invalid_arguments_are_refused(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        command.main(arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_the_driver_imports_no_peer_and_no_matplotlib():
    code = "import sys, benchmarks.__main__; print(*sys.modules)"
    done = run_python(code, check=True, timeout=60)
    assert not {"torch", "jax", "sklearn", "matplotlib"} & set(done.stdout.split())


@pytest.mark.parametrize(
    "arguments, full",
    [
        ([], True),
        (["--sweep"], True),
        (["--out", "x"], True),
        (["--quick"], False),
        (["--nets", "seed"], False),
        (["--peers", "numpy"], False),
        (["--threads", "1"], False),
        (["--rounds", "20"], False),
        (["--precision", "float64"], False),
        (["--no-sweep"], False),
    ],
)
def test_options_that_restrict_a_run_make_it_not_full(arguments, full):
    assert cpu.is_full(command.parser().parse_args(["cpu", *arguments])) == full


QUICK = ["cpu", "--quick", "--nets", "tabular", "--peers", "numpy", "--rounds", "1"]


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """The folder of a quick run, and its printed output."""
    folder = tmp_path_factory.mktemp("out")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert command.main([*QUICK, "--out", str(folder)]) == 0
    return folder, printed.getvalue()


@pytest.fixture
def result(out):
    return json.loads((out[0] / "cpu.json").read_text(encoding="utf-8"))


def test_a_quick_run(out, result):
    folder, printed = out
    assert printed.rstrip().splitlines()[-1].startswith("A ratio of 1 is met")
    found = result["machine"]
    expected = "cpu cores python versions blas compiler threads precision seed rounds commit date".split()
    assert found.keys() >= {*expected}
    assert found["versions"].keys() >= {"numpy", "gpunn"}
    assert found["command"] == "python -m benchmarks " + " ".join(QUICK)
    assert results.find(result, "tabular", "train", "gpunn", 1)["ratios"].keys() == {"numpy"}
    left_out = [r["note"] for r in result["rows"] if r["contestant"] == "jax-scan"]
    assert left_out == ["not run (not in --peers)"] * 2
    assert {g["said"] for g in result["goals"]} <= {"met", "missed", "not measured"}
    plots = {p.name for p in folder.iterdir()} - {"cpu.json", "cpu.md"}
    # without sweeps and memory there are two plots, if matplotlib is installed
    assert plots == ({"cpu.png", "cpu-ratios.png"} if importlib.util.find_spec("matplotlib") else set())
    assert all((folder / name).stat().st_size < 300 * 1024 for name in plots)


def test_a_limited_blas_is_named(monkeypatch):
    """With OPENBLAS_CORETYPE a contestant without OpenBLAS may use wider vectors than NumPy."""
    monkeypatch.delenv("OPENBLAS_CORETYPE", raising=False)
    name = machine.blas()
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    assert machine.blas() == f"{name} with the kernels of OPENBLAS_CORETYPE=Haswell"


def test_results_contain_no_private_names(out):
    written = "".join((out[0] / name).read_text(encoding="utf-8") for name in ("cpu.json", "cpu.md"))
    for private in {platform.node(), str(ROOT), str(Path.home()), tempfile.gettempdir(), "site-packages"}:
        assert private not in written
    assert getpass.getuser() not in re.findall(r"\w+", written)


def test_a_restricted_run_writes_only_to_given_files(result, tmp_path, monkeypatch):
    monkeypatch.setattr(cpu, "FOLDER", tmp_path / "results")
    monkeypatch.setattr(cpu, "measure", lambda arguments: dict(result))
    command.main(QUICK)
    assert not list(tmp_path.iterdir())
    for arguments in (QUICK, ["cpu"]):
        command.main([*arguments, "--json", str(tmp_path / "a.json")])
        assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
    command.main(["cpu"])
    assert {"cpu.json", "cpu.md"} <= {p.name for p in (tmp_path / "results").iterdir()}


def test_a_run_with_a_disagreement_exits_with_1(result, monkeypatch):
    row = {**result["rows"][0], "us_per_step": None, "note": "disagrees (…)"}
    monkeypatch.setattr(cpu, "measure", lambda arguments: {**result, "rows": [*result["rows"], row]})
    assert command.main(QUICK) == 1
