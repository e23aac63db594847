"""A pytest plugin, `-p benchmarks.pytest_tally`: append the outcome of each test to a file when the test ends.

A stopped run keeps its outcomes, and the next run resumes after them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest


def pytest_addoption(parser: Any) -> None:
    """Add the options for the file and the number of tests to skip."""
    parser.addoption("--tally", type=Path, help="the file")
    parser.addoption("--tally-from", type=int, default=0, help="number of tests that an earlier run has finished")


def pytest_configure(config: Any) -> None:
    """Create the file."""
    config.getoption("--tally").write_text("", encoding="utf-8")
    config.pluginmanager.register(Tally(config), "tally of outcomes")


class Tally:
    """Write one line per test: its name and "passed", "failed", "errors" or "skipped"."""

    def __init__(self, config: Any) -> None:
        self.path = config.getoption("--tally")
        self.n_finished = config.getoption("--tally-from")
        self.outcome = ""

    @pytest.hookimpl(trylast=True)  # after the plugins that select tests
    def pytest_collection_modifyitems(self, config: Any, items: list[Any]) -> None:
        """Deselect the finished tests."""
        config.hook.pytest_deselected(items=items[: self.n_finished])
        items[:] = items[self.n_finished :]

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Remember the outcome of one phase of a test."""
        if report.outcome != "passed":
            self.outcome = "errors" if report.outcome == "failed" and report.when != "call" else report.outcome

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """Write the outcome of a test."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps([nodeid, self.outcome or "passed"]) + "\n")
        self.outcome = ""
