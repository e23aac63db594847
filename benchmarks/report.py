"""A result as Markdown: tables of times and ratios, missing measurements, and the goals."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from .contestants import CPU, GPU
from .goals import Verdict
from .nets import GPU_NETS, NETS, PREDICTION_ROWS
from .results import Row, setting

TITLES = {
    "train": "Training, µs per step",
    "fit": "Complete `fit`, µs per step",
    "predict": "Prediction, µs for the rows of one batch",
    "setup": "A new model and its first step, µs",
}


def markdown(result: dict[str, Any], verdicts: Sequence[Verdict], pictures: Sequence[str] = ()) -> str:
    """The report as Markdown."""
    rows = result["rows"]
    parts = [_head(result)]
    parts += [f"![{name}]({name})" for name in pictures]
    parts += ["## gpunn compared with the best peer and the floor", _summary(rows)]
    for mode, title in TITLES.items():
        for value in dict.fromkeys(setting(row) for row in rows):
            of = [row for row in rows if row["mode"] == mode and setting(row) == value]
            if any(row["us_per_step"] is not None for row in of):
                parts += [f"## {title}, {under(value)}", _times(of)]
    for name, title, note in (
        ("first_step_s", "Time to the first step, s", "From the weights to the end of the first step, including "
         "compilation (with existing caches of compiled code) but not imports; a dash if later steps dominate."),
        ("peak_mib", "Peak memory of a training process, MiB", "Including imports; in brackets without them."),
    ):  # fmt: skip
        table = _by_contestant(rows, name)
        if table:
            parts += [f"## {title}", note, table]
    for sweep in dict.fromkeys(row["sweep"] for row in result.get("sweeps", [])):
        parts += [f"## By {sweep}, µs per training step", _sweep(result["sweeps"], sweep)]
    parts += ["## Not measured", _unmeasured([*rows, *result.get("sweeps", [])])]
    parts += ["## Goals", _goals(verdicts)]
    return "\n\n".join(parts) + "\n"


def table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A Markdown table with the first column left-aligned."""
    rule = ["---"] + ["---:"] * (len(head) - 1)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, rule, *lines))


def number(value: float | None, digits: int = 3) -> str:
    """A number with `digits` significant digits and no exponent; a dash for None."""
    if value is None:
        return "–"
    if value == 0:
        return "0"
    rounded = float(f"{value:.{digits}g}")
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(rounded))))
    return f"{rounded:,.{decimals}f}".replace(",", " ")


def under(value: int | str) -> str:
    """A number of threads or a precision, in words."""
    if isinstance(value, str):
        return value
    return "one thread" if value == 1 else f"{value} threads"


def _head(result: dict[str, Any]) -> str:
    m = result["machine"]
    versions = ", ".join(f"{name} {v}" for name, v in m["versions"].items())
    lines = [
        "# Benchmarks on the CPU" if m.get("gpu") is None else "# Benchmarks on a GPU",
        "",
        f"Written by `{m['command']}`; do not edit.",
        "",
        *([] if m.get("gpu") is None else [f"{m['gpu']}, driver {m['driver']}. ", ""]),
        f"{m['cpu']}, {m['cores']} cores, {m['system']} {m['architecture']}. Python {m['python']}; {versions}. "
        f"BLAS {m['blas']}; compiler {m['compiler']}. {m['precision']}, seed {m['seed']}, commit {m['commit']}, "
        f"{m['date']}. {m['rounds']} rounds of windows of at least {m['seconds']} s.",
    ]
    fewest = min([m["rounds"], *(row["rounds"] for row in result["rows"] if row["us_per_step"] and "rounds" in row)])
    if fewest < 9:
        lines += ["", f"**A quick run: {fewest} rounds, but quotable figures need 9.**"]
    known = {**NETS, **GPU_NETS}
    nets = [known[name] for name in dict.fromkeys(row["net"] for row in result["rows"]) if name in known]
    shown = [
        (n.name, "-".join(map(str, n.sizes)), str(n.batch), str(n.rows), "SGD" if n.rule == "sgd" else "Adam", n.loss)
        for n in nets
    ]
    lines += ["", table(("net", "sizes", "batch", "rows", "optimizer", "loss"), shown), ""]
    blocks = sorted({n.block for n in nets}) or [PREDICTION_ROWS]
    lines.append(
        "Ratios are medians of per-round ratios with quartiles in brackets; below 1 gpunn is faster. The floor is "
        "the matrix products of a step only. A prediction covers all rows, in blocks of "
        f"{' or '.join(map(str, blocks))} rows."
    )
    if any("ratio_to_bytes" in row for row in result["rows"]):
        lines.append(
            "`bytes` is a copy of the bytes that a step must move through the memory if no equations are fused "
            "(`nets.py`). In bf16 all contestants have float32 parameters and moments."
        )
    return "\n".join(lines)


def _summary(rows: Sequence[Row]) -> str:
    lines = []
    with_bytes = any("ratio_to_bytes" in row for row in rows)
    for row in rows:
        if row["contestant"] not in ("gpunn", "gpunn-estimator") or row["us_per_step"] is None:
            continue
        if row["contestant"] == "gpunn-estimator" and row["mode"] != "fit":
            continue
        lines.append(
            (
                row["net"],
                row["mode"],
                str(setting(row)),
                number(row["us_per_step"]),
                row.get("best_peer") or "–",
                _ratio(row, "ratio_to_best_peer"),
                _ratio(row, "ratio_to_floor"),
                *([_ratio(row, "ratio_to_bytes")] if with_bytes else []),
            )
        )
    head = ("net", "mode", _column(rows), "gpunn, µs", "best peer", "ratio to it", "ratio to the floor")
    return table((*head, "ratio to bytes") if with_bytes else head, lines)


def _column(rows: Iterable[Row]) -> str:
    """The name of the setting."""
    return "precision" if any(isinstance(setting(row), str) for row in rows) else "threads"


def _ratio(row: Row, name: str) -> str:
    if row.get(name) is None:
        return "–"
    low, high = row[f"{name}_quartiles"]
    return f"{number(row[name])} ({number(low)}–{number(high)})"


def _names(rows: Sequence[Row]) -> list[str]:
    """The contestants of the rows, in the order of the lists of contestants."""
    there = dict.fromkeys(row["contestant"] for row in rows)
    known = dict.fromkeys([*CPU, *GPU])
    return [name for name in known if name in there] + [name for name in there if name not in known]


def _times(rows: Sequence[Row]) -> str:
    names = _names(rows)
    nets = list(dict.fromkeys(row["net"] for row in rows))
    cells = {(row["net"], row["contestant"]): row for row in rows}
    return table(("net", *names), [(net, *(_time(cells.get((net, name))) for name in names)) for net in nets])


def _time(row: Row | None) -> str:
    """A time, or one word for the reason of its absence."""
    if row is None:
        return "–"
    if row["us_per_step"] is None:
        return str(row["note"]).partition(" (")[0]
    return number(row["us_per_step"])


def _by_contestant(rows: Sequence[Row], name: str) -> str:
    found = [row for row in rows if row.get(name) is not None]
    if not found:
        return ""
    names = _names(found)
    lines = []
    for net, threads in dict.fromkeys((row["net"], setting(row)) for row in found):
        cells = {row["contestant"]: row for row in found if (row["net"], setting(row)) == (net, threads)}
        lines.append((net, str(threads), *(_amount(cells.get(c), name) for c in names)))
    return table(("net", _column(found), *names), lines)


def _amount(row: Row | None, name: str) -> str:
    if row is None:
        return "–"
    if name == "first_step_s":
        return number(row[name], 2)
    return f"{number(row[name])} ({number(row['peak_beyond_imports_mib'])})"


def _sweep(rows: Sequence[Row], sweep: str) -> str:
    of = [row for row in rows if row["sweep"] == sweep]
    names = _names(of)
    cells = {(row["at"], row["contestant"]): row for row in of}
    points = list(dict.fromkeys(row["at"] for row in of))
    return table((sweep, *names), [(str(at), *(_time(cells.get((at, name))) for name in names)) for at in points])


def _unmeasured(rows: Sequence[Row]) -> str:
    """Every reason once, with its contestants, nets and modes."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row["us_per_step"] is None:
            where = f"{row['net']} {row['mode']} ({under(setting(row))})"
            reasons.setdefault((row["contestant"], row["note"]), []).append(where)
    if not reasons:
        return "Nothing: every contestant was measured at every net."
    lines = []
    for (contestant, note), places in reasons.items():
        all_of = len(places) == sum(row["contestant"] == contestant for row in rows)
        lines.append(f"- **{contestant}**: {note}{'' if all_of else ': ' + ', '.join(places)}")
    return "\n".join(lines)


def _goals(verdicts: Sequence[Verdict]) -> str:
    lines = []
    for v in verdicts:
        g = v.goal
        limit = f"{number(g.limit / 1e3)} ms" if g.against is None else f"{g.limit:.2f} × {_against(v)}"
        what = "memory" if g.what == "memory" else g.mode
        scale = 1e3 if g.against is None else 1.0
        shown = [number(None if value is None else value / scale) for value in (v.median, v.upper)]
        outcome = {"met": "met", "missed": "**missed**", "not measured": "not measured"}[v.outcome]
        lines.append((str(g.number), g.net, what, str(v.under), g.contestant, limit, *shown, outcome))
    column = "precision" if any(isinstance(v.under, str) for v in verdicts) else "threads"
    head = ("goal", "net", "mode", column, "contestant", "at most", "median", "upper quartile", "outcome")
    note = "A ratio of 1 is met if the median is ≤ 1.00 and the upper quartile ≤ 1.02, in two runs."
    return table(head, lines) + "\n\n" + note


def _against(v: Verdict) -> str:
    """The contestant that a goal compares with."""
    if v.goal.against not in ("best peer", "best compiled"):
        return str(v.whom or v.goal.against)
    best = "the best peer" if v.goal.against == "best peer" else "the best compiled"
    return best + (f" ({v.whom})" if v.whom else "")
