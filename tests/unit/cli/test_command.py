"""Help texts, `gpunn doctor`, `python -m gpunn` and missing packages."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT
from helpers.command_line import QUICK, flower_table, gpunn_process

import gpunn
from gpunn import cli
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


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_streams_in_other_encodings(table, monkeypatch, encoding):
    """Reports replace what the stream cannot show; predictions are in UTF-8."""
    streams = [io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2)]
    monkeypatch.setattr("sys.stdout", streams[0])
    monkeypatch.setattr("sys.stderr", streams[1])
    assert cli.main(["train", table, "--target", "weight", *QUICK]) == 0
    streams[0].flush()
    assert b"validation R? " in streams[0].buffer.getvalue() or encoding == "cp1252"
    assert cli.main(["doctor", "--compare"]) in (0, 1)  # δ is in no code page
    Path("t.csv").write_text("x,y\n" + "1,δ\n2,é\n" * 10, encoding="utf-8")
    assert cli.main(["train", "t.csv", "--target", "y", "--out", "t", *QUICK]) == 0
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(io.BytesIO(), encoding=encoding))
    assert cli.main(["predict", "t.safetensors", "t.csv"]) == 0
    assert set(sys.stdout.buffer.getvalue().decode().split()[1:]) <= {"δ", "é"}


@pytest.mark.skipif(os.name != "posix", reason="POSIX shell")
@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_streams_are_harmless(table, folder, closed):
    command = f'"{sys.executable}" -m gpunn train {table} --target sort --hidden 8 --epochs 2 {closed}'
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["sh", "-c", command], capture_output=True, env=environment, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert sorted(os.listdir()) == ["flowers.csv", "flowers.png", "flowers.safetensors"]
    if closed == "2>&-":
        assert done.stdout.startswith(b"task: ")


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
