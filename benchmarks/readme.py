"""`python -m benchmarks readme`: write the comparison in README.md from results/cpu.json."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from . import report
from .results import Row

HELP = "write the results into README.md, between its two markers"
ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
BEGIN, END = "<!-- python -m benchmarks readme -->", "<!-- until here -->"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command, which has no arguments."""
    parser.description = f"{HELP[0].upper()}{HELP[1:]}, from results/cpu.json."


def run(arguments: argparse.Namespace) -> int:
    """Update README.md."""
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    result = json.loads((RESULTS / "cpu.json").read_text(encoding="utf-8"))
    readme.write_text(replaced(text, result), encoding="utf-8")
    return 0


def replaced(text: str, result: dict[str, Any]) -> str:
    """README's text with the result between its markers. ValueError unless both markers occur once, in order."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in after or END in after:
        raise ValueError(f"README.md must contain {BEGIN} and then {END}, once each")
    return f"{before}{BEGIN}\n{part(result)}\n{END}{after}"


def part(result: dict[str, Any]) -> str:
    """README's part of a result: its origin, a table of ratios, and the number of goals that were met."""
    m = result["machine"]
    head = f"Measured on {m['cpu']} ({m['cores']} cores, {m['date']}, commit {m['commit']}), float32:"
    return "\n".join([head, "", ratios(result["rows"]), "", goals(result["goals"])])


def ratios(rows: list[Row]) -> str:
    """A table of gpunn's time relative to the others, by net, mode and number of threads."""
    lines = []
    for row in rows:
        ours = row["contestant"] == ("gpunn-estimator" if row["mode"] == "fit" else "gpunn")
        if not ours or row["us_per_step"] is None or row["mode"] == "setup":
            continue
        best = f"{row['best_peer']} {_interval(row, 'ratio_to_best_peer')}" if row.get("best_peer") else "–"
        others = [_against(row, names) for names in (("torch-eager", "torch-compiled"), ("scikit-learn",))]
        floor = _interval(row, "ratio_to_floor")
        time = report.number(row["us_per_step"])
        lines.append((row["net"], row["mode"], str(row["threads"]), time, best, *others, floor))
    head = ("net", "mode", "threads", "µs per step", "÷ best peer", "÷ PyTorch", "÷ scikit-learn", "÷ products alone")
    return report.table(head, lines)


def _against(row: Row, names: tuple[str, ...]) -> str:
    """The ratio to the fastest of several contestants."""
    found = [row["ratios"][name][1] for name in names if name in row.get("ratios", {})]
    return report.number(max(found), 2) if found else "–"


def _interval(row: Row, name: str) -> str:
    if row.get(name) is None:
        return "–"
    low, high = row[f"{name}_quartiles"]
    return f"{report.number(row[name], 2)} ({report.number(low, 2)}–{report.number(high, 2)})"


def goals(verdicts: list[dict[str, Any]]) -> str:
    """The number of goals that the run met, and where the others are listed."""
    measured = [goal for goal in verdicts if goal["said"] != "not measured"]
    met = sum(goal["said"] == "met" for goal in measured)
    where = "[the results](benchmarks/results/cpu.md) list them all"
    return f"Of the {len(measured)} goals measured, {met} were met; {where}."
