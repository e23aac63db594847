"""What the README shows in Python, run letter by letter, in its order and in a folder of its own."""

import re
from pathlib import Path

import pytest
from oracles import oracle

for name in ("sklearn", "matplotlib", "pandas", "onnx"):
    oracle(name)

TEXT = (Path(__file__).resolve().parent.parent / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", TEXT, flags=re.DOTALL | re.MULTILINE)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_the_readmes_python_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {}
    assert len(BLOCKS) >= 5
    for block in BLOCKS:
        exec(compile(block, f"README.md: {block.splitlines()[0]}", "exec"), names)
    assert "accuracy" in capsys.readouterr().out
