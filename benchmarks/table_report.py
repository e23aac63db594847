"""The report of `python -m benchmarks tables`: comparisons, goals and results per table, as Markdown, JSON and plot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from . import results, table_goals
from .command import progress
from .table_methods import BASELINE, METHODS, OURS
from .table_runs import Store
from .table_sets import CONFIRMATION, TABLES
from .table_statistics import Comparison, compare, mean_ranks, table_ratios

PRIMARY = {"binary": "1 − AUC", "multiclass": "log loss", "regression": "RMSE"}
EXPLANATION = """\
Every method has its defaults and one thread. The primary metric is 1 − AUC (binary), log loss (multiclass) or RMSE
(regression). The ratio of a table is the mean of the first method over the folds that both have, divided by that of the
second. Ratios are geometric means over tables with 95 % bootstrap intervals over tables; below 1 the first method is
better. CPU is the median ratio of the CPU seconds of `fit`. Ranks are means over tables, of the methods with results on
all folds."""


@dataclass
class Report:
    """The results of all methods on these tables and folds. `notes` has the methods that were not run, with reasons."""

    stores: dict[str, Store]
    tables: Sequence[str]
    folds: Sequence[int]
    notes: dict[str, str]

    def __post_init__(self) -> None:
        keys = {(table, fold) for table in self.tables for fold in self.folds}
        self.rows = {
            name: {key: row for key, row in store.rows.items() if key in keys} for name, store in self.stores.items()
        }

    @cached_property
    def measured(self) -> list[str]:
        """The methods with results."""
        return [name for name in METHODS if any("failed" not in row for row in self.rows.get(name, {}).values())]

    @property
    def groups(self) -> dict[str, list[str]]:
        """The groups of tables that are reported apart."""
        chosen, confirmation = ([t for t in self.tables if (t in CONFIRMATION) is which] for which in (False, True))
        everything = {f"all {len(self.tables)} tables": list(self.tables)}
        if not chosen or not confirmation:
            return everything
        return everything | {
            f"the {len(chosen)} tables for choices": chosen,
            f"the {len(confirmation)} tables for confirmation": confirmation,
        }

    def compare(self, a: str, b: str, tables: Sequence[str]) -> Comparison | None:
        """Compare two methods; None without common results."""
        if a not in self.measured or b not in self.measured:
            return None
        same_cpu = self.stores[a].machine["cpu"] == self.stores[b].machine["cpu"]
        return compare(a, b, self.rows, tables, same_cpu=same_cpu)

    def comparisons(self, tables: Sequence[str]) -> list[Comparison]:
        """gpunn with each peer, and each peer with LightGBM."""
        pairs = [(OURS, peer) for peer in METHODS if peer != OURS]
        pairs += [(peer, BASELINE) for peer in METHODS if peer not in (OURS, BASELINE)]
        return [found for a, b in pairs if (found := self.compare(a, b, tables)) is not None]

    @cached_property
    def verdicts(self) -> list[table_goals.Verdict]:
        """The outcomes of the goals, which are for all tables, on the folds that gpunn and the peer have."""
        ours = {c.b: c for c in self.comparisons(self.tables) if c.a == OURS}
        return table_goals.verdicts(ours, len(TABLES))

    def to_json(self) -> dict[str, Any]:
        """Comparisons and goals as lists of JSON data."""
        found = [
            {"of": title, **{k: results.rounded(v) if isinstance(v, float) else v for k, v in asdict(each).items()}}
            for title, tables in self.groups.items()
            for each in self.comparisons(tables)
        ]
        return {"comparisons": found, "goals": [table_goals.to_json(v) for v in self.verdicts]}

    def markdown(self) -> str:
        """The report."""
        lines = ["# Predictions on tables", "", *self._origins(), "", EXPLANATION, ""]
        for title, tables in self.groups.items():
            lines += [f"## {title[0].upper()}{title[1:]}", "", *self._comparison_lines(tables), ""]
        lines += ["## Goals", "", *self._goal_lines(), "", "## Per table", "", *self._table_lines(), ""]
        lines += ["## Means per method", "", *self._method_lines(), ""]
        if problems := self._problems():
            lines += ["## Not run and failed", "", *problems, ""]
        return "\n".join(lines)

    def _origins(self) -> list[str]:
        """One line per method: processor, versions, commit and date."""
        lines = []
        for name in self.measured:
            about = self.stores[name].machine
            versions = ", ".join(f"{p} {about['versions'][p]}" for p in METHODS[name].packages)
            lines.append(
                f"- {METHODS[name].label}: {versions}, {about['cpu']}, {about['date']}, commit {about['commit']}, "
                f"{len(self.rows[name])} of {len(self.tables) * len(self.folds)} folds"
            )
        return lines or ["No results."]

    def _comparison_lines(self, tables: Sequence[str]) -> list[str]:
        ranks = mean_ranks({name: self.rows[name] for name in self.measured}, tables, self.folds)
        lines = [
            "| A / B | tables | folds | primary metric | A is better on | CPU | rank of A | rank of B |",
            "| --- " + "| ---: " * 7 + "|",
        ]
        for c in self.comparisons(tables):
            cpu = "–" if c.cpu is None else f"{c.cpu:.3g}"
            shown = [f"{ranks[name]:.2f}" if name in ranks else "–" for name in (c.a, c.b)]
            lines.append(
                f"| {METHODS[c.a].label} / {METHODS[c.b].label} | {c.tables} | {c.folds} | {c.ratio:.3f} "
                f"[{c.lower:.3f}, {c.upper:.3f}] | {100 * c.wins:.0f} % | {cpu} | {' | '.join(shown)} |"
            )
        return lines

    def _goal_lines(self) -> list[str]:
        words = {"ratio": "ratio ≤", "upper": "upper bound ≤", "wins": "better on ≥", "cpu": "CPU ≤"}
        lines = ["| against | goal | measured | folds | outcome |", "| --- | --- | ---: | ---: | --- |"]
        for v in self.verdicts:
            goal, value = v.goal, "–" if v.value is None else f"{v.value:.3g}"
            if goal.what == "other":
                lines.append(f"| – | {goal.against} {goal.limit:,g} | {value} | {v.folds} | {v.outcome} |")
                continue
            word = "upper bound <" if goal.what == "upper" and goal.limit == 1 else words[goal.what]
            lines.append(
                f"| {METHODS[goal.against].label} | {word} {goal.limit:g} | {value} | {v.folds} | {v.outcome} |"
            )
        return lines

    def _table_lines(self) -> list[str]:
        """The primary metric of every method, as a mean over its folds; the best one is bold."""
        labels = " | ".join(METHODS[name].label for name in self.measured)
        lines = [f"| table | rows | metric | {labels} |", "| --- | ---: | --- |" + " ---: |" * len(self.measured)]
        for table in self.tables:
            means = {name: self._mean(name, table, "primary") for name in self.measured}
            least = min((v for v in means.values() if v is not None), default=None)
            cells = []
            for value in means.values():
                text = "–" if value is None else f"{value:.4g}"
                cells.append(f"**{text}**" if value is not None and value == least else text)
            star = "*" if table in CONFIRMATION else ""
            about = TABLES[table]
            lines.append(f"| {table}{star} | {about.rows} | {PRIMARY[about.task]} | {' | '.join(cells)} |")
        return [*lines, "", "\\* a table for confirmation"]

    def _method_lines(self) -> list[str]:
        """Means over tables per method: error, log loss, R², CPU seconds, prediction speed and memory."""
        lines = [
            "| method | error | log loss | R² | CPU s | rows predicted per s | peak MiB | beyond imports MiB |",
            "| --- " + "| ---: " * 7 + "|",
        ]
        for name in self.measured:
            cells = []
            for metric in ("error", "log_loss", "r2", "cpu_s", "rows_per_s", "peak_mib", "peak_beyond_imports_mib"):
                means = [m for t in self.tables if (m := self._mean(name, t, metric)) is not None]
                cells.append(f"{sum(means) / len(means):.4g}" if means else "–")
            lines.append(f"| {METHODS[name].label} | {' | '.join(cells)} |")
        return lines

    def _mean(self, name: str, table: str, metric: str) -> float | None:
        """The mean of a metric over the folds that the method has."""
        values = [row[metric] for (t, _), row in self.rows[name].items() if t == table and metric in row]
        return sum(values) / len(values) if values else None

    def _problems(self) -> list[str]:
        lines = [f"- {METHODS[name].label} was not run: {reason}" for name, reason in self.notes.items()]
        for name, rows in self.rows.items():
            missing = len(self.tables) * len(self.folds) - len(rows)
            if missing and name not in self.notes:
                lines.append(f"- {METHODS[name].label}: {missing} folds are not measured")
            failed = [(key, row["failed"]) for key, row in rows.items() if "failed" in row]
            lines += [f"- {METHODS[name].label} failed on {t}, fold {fold}: {why}" for (t, fold), why in failed]
        return lines

    def draw(self, path: Path) -> None:
        """Draw the ratio per table to LightGBM; nothing without matplotlib."""
        others = [name for name in self.measured if name != BASELINE]
        if BASELINE not in self.measured or not others:
            return
        try:
            from . import table_plot
        except ImportError as error:
            progress(f'no plot: {error}; pip install -e ".[plot]"')
            return
        baseline = self.rows[BASELINE]
        table_plot.draw({n: table_ratios(self.rows[n], baseline, self.tables, "primary") for n in others}, path)
