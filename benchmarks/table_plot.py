"""The plot of `python -m benchmarks tables`. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from .plots import PLAIN, plt
from .table_methods import BASELINE, METHODS, OURS
from .table_sets import CONFIRMATION

STYLES = {
    "gpunn": ("#d1495b", "o"),
    "xgboost": ("#2e86ab", "^"),
    "hist-gradient-boosting": ("#5a8f5a", "v"),
    "catboost": ("#222222", "D"),
    "random-forest": ("#8a5a2b", "P"),
    "scikit-learn-mlp": ("#edae49", "s"),
    "realmlp": ("#7a5195", "X"),
}


def draw(ratios: Mapping[str, Mapping[str, float]], path: Path) -> None:
    """Draw the ratio per table to LightGBM, one marker per method; tables in order of gpunn's.

    Without results of gpunn they are in order of the best ratio.
    """
    tables = {table for found in ratios.values() for table in found}
    best = {table: min(found[table] for found in ratios.values() if table in found) for table in tables}
    ours = ratios.get(OURS, {})
    order = sorted(tables, key=lambda table: ours.get(table, best[table]))
    figure, ax = plt.subplots(figsize=(9, 1.3 + 0.27 * len(order)), layout="constrained")
    for name, (color, marker) in STYLES.items():
        points = [(ratios[name][table], k) for k, table in enumerate(order) if table in ratios.get(name, {})]
        if points:
            label = METHODS[name].label
            ax.plot(*zip(*points, strict=True), marker, color=color, label=label, ms=7, alpha=0.8, mec="white", mew=0.5)
    ax.axvline(1, color="#444444", lw=1)
    ax.set_xscale("log")
    ticks = [x for x in (0.25, 0.5, 0.7, 0.8, 0.9, 1, 1.1, 1.25, 1.5, 2, 3, 5, 10) if _shown(x, ratios)]
    ax.set_xticks(ticks)
    ax.xaxis.set_major_formatter(PLAIN)
    ax.minorticks_off()
    ax.set_yticks(range(len(order)), [f"{table}*" if table in CONFIRMATION else table for table in order])
    ax.set_ylim(len(order) - 0.5, -0.5)
    ax.grid(color="#e5e5e5")
    ax.set_axisbelow(True)
    ax.set_xlabel(f"primary metric ÷ {METHODS[BASELINE].label}'s (below 1 is better); * a table for confirmation")
    ax.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=4, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _shown(x: float, ratios: Mapping[str, Mapping[str, float]]) -> bool:
    values = [1.0, *(v for found in ratios.values() for v in found.values())]
    return 0.95 * min(values) <= x <= 1.05 * max(values)
