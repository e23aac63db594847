"""The Python of docs/architecture.md and docs/extending.md runs, and prints what the pages show."""

import doctest
import os
import re
import subprocess
import sys

import pytest
from helpers import ROOT

import gpunn


def _blocks(page, language="python"):
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)


def test_the_architecture_shows_programs_as_they_are_printed(monkeypatch, capsys):
    # without the products of small matrices, which only some CPUs choose
    monkeypatch.setenv("GPUNN_COMPILE", "0")
    page = "docs/architecture.md"
    for block in _blocks(page):
        exec(compile(block, page, "exec"), {})
    assert capsys.readouterr().out == "".join(_blocks(page, "text")), "run the Python of the page and copy its output"


def test_the_python_of_extending_runs(tmp_path):
    """In a process of its own, because it registers kernels and classes."""
    script = tmp_path / "extending.py"
    blocks = _blocks("docs/extending.md")
    script.write_text("\n".join(blocks), encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "GPUNN_EAGER": "0"}
    done = subprocess.run(
        [sys.executable, "-W", "error", script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for shown in (
        "the derivative is right",
        "leaves the fast path: activation Sine is Python code",
        "t1 (64, 16) float32 = scale_relu(s, b)",
    ):
        assert shown in done.stdout


@pytest.mark.parametrize(
    "cls",
    [
        gpunn.Layer,
        gpunn.activations.Activation,
        gpunn.losses.Loss,
        gpunn.losses.FunctionLoss,
        gpunn.metrics.Metric,
        gpunn.Optimizer,
    ],
)
def test_extending_has_the_examples_of_docstrings(cls):
    page = re.sub(r" +#.*", "", "\n".join(_blocks("docs/extending.md")))
    for example in doctest.DocTestParser().get_examples(cls.__doc__):
        if example.source.startswith(("class", "def")):
            assert example.source in page
