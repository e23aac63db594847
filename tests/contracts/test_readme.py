"""The Python of the README and of the package description, executed in its order and in a temporary folder.

Inline code of the README runs after all blocks, in their namespace.
"""

import os
import re

import numpy as np
import pytest
from helpers import ROOT
from helpers.oracles import oracle

for name in ("sklearn", "matplotlib", "pandas", "onnx"):
    oracle(name)

# `compare_devices` compares compiled kernels with their NumPy references
compiled_only = pytest.mark.skipif(os.environ.get("GPUNN_COMPILE") == "0", reason="the README needs compiled kernels")


def _text(page):
    return (ROOT / page).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("page", "n_blocks", "n_inline"),
    [pytest.param("README.md", 5, 4, marks=compiled_only), ("docs/package.md", 1, 0)],
)
def test_the_python_of_a_page_runs(tmp_path, monkeypatch, capfd, page, n_blocks, n_inline):
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.eye(3))  # the only file that inline code reads and no block writes
    names = {}
    blocks = re.findall(r"^```python\n(.*?)^```$", _text(page), flags=re.DOTALL | re.MULTILINE)
    inline = {code for code in re.findall(r"`((?:gpunn|net)\.\w+\([^`]*\))`", _text(page)) if "…" not in code}
    assert len(blocks) >= n_blocks and len(inline) >= n_inline
    for block in [*blocks, *sorted(inline)]:
        exec(compile(block, f"{page}: {block.splitlines()[0]}", "exec"), names)
    shown = capfd.readouterr()
    assert "accuracy" in shown.out
    assert "Warning" not in shown.err, "also in processes of a search"


def test_the_install_line_brings_what_the_blocks_import():
    project = _text("pyproject.toml")
    extras = dict(re.findall(r"^([\w-]+) = \[\"(.*)\"\]$", project, re.MULTILINE))
    assert set(re.search(r"gpunn\[(.*)\]", extras["all"])[1].split(",")) >= {
        "sklearn",
        "cli",
        "plot",
        "onnx",
        "threads",
    }
