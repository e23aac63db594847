"""A plugin of pytest, `-p benchmarks.pytest_tally`: what a test came to is a line of a file as soon as it is known.

So a run that is cut off has said what it found, and the next one goes on behind it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest


def pytest_addoption(parser: Any) -> None:
    """The file, and how many tests to pass over."""
    parser.addoption("--tally", type=Path, help="the file")
    parser.addoption("--tally-from", type=int, default=0, help="how many tests an earlier run has finished")


def pytest_configure(config: Any) -> None:
    """Begin the file."""
    config.getoption("--tally").write_text("", encoding="utf-8")
    config.pluginmanager.register(Tally(config), "tally of outcomes")


class Tally:
    """A line a test: its name and what became of it, "passed", "failed", "errors" or "skipped"."""

    def __init__(self, config: Any) -> None:
        self.path, self.begin, self.bad = config.getoption("--tally"), config.getoption("--tally-from"), ""

    @pytest.hookimpl(trylast=True)  # behind the plugins that choose among the tests
    def pytest_collection_modifyitems(self, config: Any, items: list[Any]) -> None:
        """Pass over what is finished."""
        config.hook.pytest_deselected(items=items[: self.begin])
        items[:] = items[self.begin :]

    def pytest_runtest_logreport(self, report: Any) -> None:
        """A part of a test is over."""
        if report.outcome != "passed":
            self.bad = "errors" if report.outcome == "failed" and report.when != "call" else report.outcome

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """A test is over."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps([nodeid, self.bad or "passed"]) + "\n")
        self.bad = ""
