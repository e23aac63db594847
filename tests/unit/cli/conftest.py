"""Fixtures: an empty current folder, a table in it, and commands run in this process."""

import pytest
from helpers.command_line import flower_table

from gpunn import cli


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(capsys):
    """Run a command; returns its exit status, stdout and stderr."""

    def command(*arguments):
        try:
            status = cli.main([str(a) for a in arguments])
        except SystemExit as stop:
            status = stop.code
        return status, *capsys.readouterr()

    return command


@pytest.fixture
def table(folder):
    """The name of a CSV file."""
    flower_table().to_csv(folder / "flowers.csv", index=False)
    return "flowers.csv"
