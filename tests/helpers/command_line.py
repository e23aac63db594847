"""Runs of the command line, for the tests of `gpunn.cli`."""

import os
import subprocess
import sys

import numpy as np

from gpunn.tabular.cells import pandas
from gpunn.training import checkpoint

from . import ROOT

QUICK = ["--hidden", "8", "--epochs", "2"]


def flower_table(n=60):
    """A table of two well separated sorts, with a categorical column and a missing cell."""
    rng = np.random.default_rng(0)
    sort = np.arange(n) % 2
    frame = pandas().DataFrame(
        {"length": sort * 6 + rng.normal(size=n), "color": np.where(rng.random(n) < 0.5, "red", "blue")}
    )
    frame.loc[3, "length"] = np.nan
    return frame.assign(weight=1000 + 500 * frame["length"].fillna(2), sort=np.where(sort, "iris", "rose"))


def gpunn_process(*arguments, check=True):
    """Run `python -m gpunn` in a process with warnings as errors."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "80"}
    command = [sys.executable, "-W", "error", "-m", "gpunn", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=120)
    assert done.returncode == 0 or not check, done.stderr
    return done


def arrays_in(path):
    """The arrays of a model's file by name, sorted."""
    return dict(sorted(checkpoint.read(path)[0].items()))
