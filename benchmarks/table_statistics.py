"""Scores of predictions, and comparisons of methods over tables."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Row = dict[str, Any]
Rows = Mapping[tuple[str, int], Row]  # the rows of a method by table and fold

EPSILON = 1e-7  # probabilities are at least this in a log loss, whatever the method's precision
RESAMPLES, SEED = 10_000, 0
MEASURES = {
    "binary": ("one_minus_auc", "error", "log_loss"),
    "multiclass": ("log_loss", "error"),
    "regression": ("rmse", "r2"),
}


def scores(task: str, y: np.ndarray, found: np.ndarray) -> Row:
    """The primary metric and the others of `MEASURES`, the primary one first. ValueError for invalid predictions.

    The primary metric is 1 − AUC of two classes, log loss of several and RMSE of values: lower is better.
    """
    classes = 0 if task == "regression" else int(y.max()) + 1
    expected_shape = (len(y), classes) if classes else (len(y),)
    if found.shape != expected_shape:
        raise ValueError(f"predictions must have shape {expected_shape}, got {found.shape}")
    if not np.isfinite(found).all():
        raise ValueError(f"{np.count_nonzero(~np.isfinite(found))} predictions are not finite")
    if classes == 0:
        mse = float(np.mean((found - y) ** 2))
        return {"primary": math.sqrt(mse), "r2": 1 - mse / float(np.var(y))}
    p = np.clip(found, EPSILON, None)
    p /= p.sum(axis=1, keepdims=True)
    log_loss = -float(np.log(p[np.arange(len(y)), y]).mean())
    row = {"error": float(np.mean(found.argmax(axis=1) != y)), "log_loss": log_loss}
    return {"primary": 1 - auc(y, found[:, 1]) if task == "binary" else log_loss} | row


def auc(y: np.ndarray, score: np.ndarray) -> float:
    """The area under the ROC curve: the share of pairs of a 1 and a 0 with scores in this order, ties counted half.

    It is (R − n₁(n₁ + 1)/2)/(n₀n₁), with R the sum of the ranks of the n₁ ones. Equal scores have their mean rank.
    """
    n_1 = int(y.sum())
    ranks = mean_ranks_of(score)
    return float((ranks[y == 1].sum() - n_1 * (n_1 + 1) / 2) / (n_1 * (len(y) - n_1)))


def mean_ranks_of(values: np.ndarray) -> np.ndarray:
    """The ranks 1, 2, … of the values; equal values have their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last: np.ndarray = np.cumsum(counts)
    ranks: np.ndarray = (last - (counts - 1) / 2)[inverse]
    return ranks


@dataclass(frozen=True)
class Comparison:
    """Method `a` divided by method `b` over `tables` tables, of which both have `folds` folds in total.

    ratio, lower, upper   the geometric mean of the tables' ratios of the primary metric, with a 95 % interval
    wins                  the share of tables on which `a` is better, ties counted half
    cpu                   the median over tables of the ratio of CPU seconds; None if the processors differ
    """

    a: str
    b: str
    tables: int
    folds: int
    ratio: float
    lower: float
    upper: float
    wins: float
    cpu: float | None


def compare(a: str, b: str, rows: Mapping[str, Rows], tables: Sequence[str], *, same_cpu: bool) -> Comparison | None:
    """Compare two methods on the tables that both have results of; None if there are none."""
    ratios = table_ratios(rows[a], rows[b], tables, "primary")
    if not ratios:
        return None
    values = np.array(list(ratios.values()))
    cpu = list(table_ratios(rows[a], rows[b], tables, "cpu_s").values()) if same_cpu else []
    mean, lower, upper = geometric_mean(values)
    wins = float(np.mean((values < 1) + 0.5 * (values == 1)))
    folds = sum(key[0] in ratios and is_measured(rows[a], rows[b], key) for key in rows[a])
    return Comparison(a, b, len(values), folds, mean, lower, upper, wins, float(np.median(cpu)) if cpu else None)


def table_ratios(a: Rows, b: Rows, tables: Iterable[str], metric: str) -> dict[str, float]:
    """The ratio of two methods per table: the mean of the metric of `a` divided by that of `b`, over common folds.

    The mean of the ratios of single folds is not used, because 1 − AUC of a small fold can be 0.
    """
    found = {}
    for table in tables:
        pairs = [(a[key][metric], b[key][metric]) for key in a if key[0] == table and is_measured(a, b, key)]
        if pairs:
            above, below = (sum(values) for values in zip(*pairs, strict=True))
            # equal zeros are a tie
            found[table] = 1.0 if above == below else above / max(below, EPSILON)
    return found


def is_measured(a: Rows, b: Rows, key: tuple[str, int]) -> bool:
    """True if both methods have a result, not a failure, of this table and fold."""
    return all(key in rows and "failed" not in rows[key] for rows in (a, b))


def geometric_mean(ratios: np.ndarray) -> tuple[float, float, float]:
    """exp of the mean logarithm, and the middle 95 % of it in resamples of the tables."""
    logs = np.log(np.maximum(ratios, EPSILON))
    drawn = np.random.default_rng(SEED).integers(len(logs), size=(RESAMPLES, len(logs)))
    lower, upper = np.quantile(logs[drawn].mean(axis=1), (0.025, 0.975))
    return math.exp(logs.mean()), math.exp(lower), math.exp(upper)


def mean_ranks(rows: Mapping[str, Rows], tables: Sequence[str], folds: Sequence[int]) -> dict[str, float]:
    """The mean over tables of the rank by the primary metric, of the methods that were run on every fold.

    A failure ranks last.
    """
    keys = [(table, fold) for table in tables for fold in folds]
    names = [name for name in rows if keys and all(key in rows[name] for key in keys)]
    if not names:
        return {}

    def mean(name: str, table: str) -> float:
        return sum(rows[name][table, fold].get("primary", math.inf) for fold in folds)

    ranks = [mean_ranks_of(np.array([mean(name, table) for name in names])) for table in tables]
    return dict(zip(names, np.mean(ranks, axis=0).tolist(), strict=True))
