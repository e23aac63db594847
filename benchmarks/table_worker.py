"""The process that measures one method on one fold of one table: `benchmarks.table_worker REQUEST`, which is JSON.

It is pinned to its core before NumPy or a peer is imported, and prints one line of JSON.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from typing import TYPE_CHECKING, Any

from .worker import reason

if TYPE_CHECKING:
    import pandas as pd

    from .table_methods import Fit, Predict

WINDOW_SECONDS = 0.1  # of CPU time, in which predictions are repeated


def main() -> None:
    """Answer the request with {"row": …} or {"error": reason}; {"absent": reason} without the method or the table."""
    request = json.loads(sys.argv[1])
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, [request["core"]])
    # stdout carries the answer only; output of libraries goes to stderr
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)
        print(json.dumps(_answer(request)), file=answers)


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    # imported here because it imports NumPy
    from pathlib import Path

    from . import table_sets

    try:
        fit = importlib.import_module(request["module"]).fit
        X, y, task = table_sets.load(request["table"], Path(request["data"]))
    except (ImportError, OSError, ValueError) as error:
        return {"absent": reason(error)}
    try:
        return {"row": measure(fit, X, y, task, request["fold"])}
    except Exception as error:
        return {"error": reason(error)}


def measure(fit: Fit, X: pd.DataFrame, y: pd.Series, task: Any, fold: int) -> dict[str, Any]:
    """Fit on the training rows of a fold, with the fold as the seed, and score predictions of its test rows.

    CPU seconds are those of this process: a compiler of kernels, which runs only once per machine, is not included.
    """
    import numpy as np

    from . import memory, table_sets, table_statistics

    train, test = table_sets.folds(y, task)[fold]
    training, tested = (X.iloc[rows].reset_index(drop=True) for rows in (train, test))
    target = y.to_numpy()
    imports = memory.now()
    begun = time.process_time()
    predict = fit(training, target[train], task, fold)
    seconds = time.process_time() - begun
    found = np.asarray(predict(tested), dtype=np.float64)
    row = {"rows": len(test), **table_statistics.scores(task, target[test], found), "cpu_s": seconds}
    row["rows_per_s"] = len(test) / _prediction_seconds(predict, tested)
    peak = memory.peak()
    if peak is not None:
        row |= {"peak_mib": peak / 2**20, "peak_beyond_imports_mib": (peak - (imports or 0)) / 2**20}
    return row


def _prediction_seconds(predict: Predict, X: pd.DataFrame) -> float:
    """The CPU seconds of one prediction, repeated within a window of `WINDOW_SECONDS`."""
    calls, begun = 0, time.process_time()
    while (spent := time.process_time() - begun) < WINDOW_SECONDS:
        predict(X)
        calls += 1
    return spent / calls


if __name__ == "__main__":
    main()
