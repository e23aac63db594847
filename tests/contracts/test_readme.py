"""The README's and the package description's Python, executed in its order and in a temporary folder."""

import re

import pytest
from helpers import ROOT
from helpers.oracles import oracle

for name in ("sklearn", "matplotlib", "pandas", "onnx"):
    oracle(name)


def _blocks(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(("page", "least"), [("README.md", 5), ("docs/package.md", 1)])
def test_the_python_of_a_page_runs(tmp_path, monkeypatch, capsys, page, least):
    monkeypatch.chdir(tmp_path)
    names = {}
    blocks = _blocks(page)
    assert len(blocks) >= least
    for block in blocks:
        exec(compile(block, f"{page}: {block.splitlines()[0]}", "exec"), names)
    assert "accuracy" in capsys.readouterr().out
