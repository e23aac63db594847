"""Help texts, `gpunn doctor`, `python -m gpunn` and missing packages."""

import os
import subprocess
import sys

import pytest
from helpers import ROOT
from helpers.command_line import QUICK, flower_table, gpunn_process

import gpunn
from gpunn.kernels._compiler import cpu_cache

pd = pytest.importorskip("pandas")
pytest.importorskip("matplotlib")
pytest.importorskip("tqdm")


@pytest.mark.parametrize("arguments", [[], ["train"], ["predict"], ["doctor"]])
def test_help_fits_80_columns(run, monkeypatch, arguments):
    monkeypatch.setenv("COLUMNS", "80")
    status, out, _ = run(*arguments, "--help")
    assert status == 0 and out.startswith("usage: gpunn")
    assert max(map(len, out.splitlines())) <= 80


def test_train_help_names_every_option(run):
    out = run("train", "--help")[1]
    options = (
        "target task hidden activation dropout epochs batch-size optimizer lr seed device precision out force resume"
    )
    assert all(f"--{option}" in out for option in options.split())


def test_doctor_compares_devices(run):
    if cpu_cache.status().implementation != "compiled":
        status, out, _ = run("doctor", "--compare")
        assert status == 1 and "no devices to compare" in out
        return
    status, out, _ = run("doctor", "--compare")
    assert status == 0 and "cpu against numpy, float32" in out and out.rstrip().endswith("the same to rounding")
    assert max(map(len, out.splitlines()[-9:])) <= 80


def test_doctor_prints_a_report(run):
    status, out, _ = run("doctor")
    assert status in (0, 1) and "NumPy" in out and "verdict" in out


@pytest.mark.slow
def test_python_m_gpunn_is_the_command(table):
    assert gpunn_process("--version").stdout == f"gpunn {gpunn.__version__}\n"
    assert "validation accuracy" in gpunn_process("train", table, "--target", "sort", *QUICK).stdout
    done = gpunn_process("train", "none.csv", "--target", "y", check=False)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "gpunn train: error: there is no file none.csv\n")


@pytest.mark.slow
def test_a_closed_pipe_is_not_an_error(table):
    gpunn_process("train", table, "--target", "sort", *QUICK)
    pd.concat([flower_table()] * 2000).to_csv("many.csv", index=False)
    command = f'"{sys.executable}" -m gpunn predict flowers.safetensors many.csv | head -n 1'
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["sh", "-c", command], capture_output=True, text=True, env=environment, check=True, timeout=120
    )
    assert (done.stdout, done.stderr) == ("sort\n", "")


@pytest.mark.parametrize(
    ("module", "arguments", "extra"),
    [
        ("pandas", ["train", "flowers.csv", "--target", "sort"], "cli"),
        ("matplotlib.figure", ["train", "flowers.csv", "--target", "sort"], "plot"),
        ("sklearn", ["train", "digits"], "sklearn"),
    ],
)
def test_a_missing_package_is_reported_with_its_extra(run, table, monkeypatch, module, arguments, extra):
    monkeypatch.setitem(sys.modules, module, None)
    status, out, err = run(*arguments)
    assert (status, out) == (2, "") and len(err.splitlines()) == 1
    assert f'pip install "gpunn[{extra}]"' in err
