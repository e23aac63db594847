"""The files that the documentation names exist."""

import re

import pytest
from helpers import ROOT

PAGES = [
    *(ROOT / "docs").rglob("*.md"),
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "benchmarks/README.md")),
]
FOLDERS = ("gpunn", "kernels", "tests", "benchmarks")
FILES = [path.relative_to(ROOT).as_posix() for folder in FOLDERS for path in (ROOT / folder).rglob("*")]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_named_files_exist(page):
    names = re.findall(r"`((?:[\w.]+/)*\w+\.(?:py|cpp|h))`", page.read_text(encoding="utf-8"))
    assert [name for name in names if not any(f"/{file}".endswith(f"/{name}") for file in FILES)] == []
