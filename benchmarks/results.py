"""A run's result as plain data, made from the entries, and its file. Never written by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from . import ratios
from .comparison import Entry
from .nets import Net
from .ratios import Quartiles

Row = dict[str, Any]
DIGITS = 5  # significant digits of what was measured


def rows(net: Net, entries: Iterable[Entry], precision: str, device: str = "cpu") -> list[Row]:
    """A row for every contestant and mode, measured or not."""
    listed = list(entries)
    return [_row(net, entry, mode, listed, precision, device) for entry in listed for mode in entry.contestant.modes]


def _row(net: Net, entry: Entry, mode: str, entries: list[Entry], precision: str, device: str) -> Row:
    row: Row = {
        "net": net.name,
        "mode": mode,
        "contestant": entry.contestant.name,
        "device": device,
        "threads": entry.threads,
        "precision": precision,
    }
    mine = entry.times.get(mode)
    if not mine:
        row |= {"us_per_step": None, "note": entry.notes.get(mode, "not measured")}
        if "disagrees" in row["note"] and "predictions" not in row["note"]:
            row |= {"losses": rounded(entry.losses, 9), "losses_wanted": rounded(entry.expected_losses, 9)}
        return row
    q = ratios.quartiles(mine)
    row |= {"us_per_step": rounded(q.median), "us_quartiles": _outer(q), "rounds": len(mine)}
    event_times = entry.event_times.get(mode)
    if event_times:
        row["us_by_events"] = rounded(ratios.quartiles(event_times).median)
    if mode != "setup":
        row["samples_per_s"] = rounded(1e6 * net.batch / q.median)
    times = {e.contestant.name: e.times[mode] for e in entries if len(e.times.get(mode, ())) == len(mine)}
    kinds = {e.contestant.name: e.contestant.kind for e in entries}
    row["best_peer"] = ratios.best({name: t for name, t in times.items() if kinds[name] == "peer"})
    if row["best_peer"] is not None:
        over = ratios.ratio(mine, times[row["best_peer"]])
        row |= {"ratio_to_best_peer": rounded(over.median), "ratio_to_best_peer_quartiles": _outer(over)}
    for kind in ("floor", "bytes"):
        # the products of a step are the same whether `fit` begins from nothing or goes on
        floors = [e.times.get("train" if mode == "fit" else mode, []) for e in entries if e.contestant.kind == kind]
        if floors and len(floors[0]) == len(mine):
            over = ratios.ratio(mine, floors[0])
            row |= {f"ratio_to_{kind}": rounded(over.median), f"ratio_to_{kind}_quartiles": _outer(over)}
    if entry.contestant.kind in ("ours", "variant"):
        others = {name: ratios.ratio(mine, t) for name, t in times.items() if name != entry.contestant.name}
        bounds = ("floor", "bytes")
        row["ratios"] = {name: rounded(list(over)) for name, over in others.items() if kinds[name] not in bounds}
    row["us_rounds"] = rounded(mine)
    if entry.disagreement is not None and mode in ("train", "fit"):
        row["losses_differ"] = rounded(entry.disagreement, 2)
        if entry.product_error is not None:
            row["product_error"] = rounded(entry.product_error, 2)
    if entry.first is not None and mode == "train":
        seconds, steps = entry.first
        first = seconds - (steps - 1) * q.median / 1e6
        # a small difference of large times would be noise
        if first > 0.1 * seconds:
            row["first_step_s"] = rounded(first, 3)
    if entry.memory is not None and entry.memory["peak"] is not None and mode in ("train", "fit"):
        peak, imports = entry.memory["peak"], entry.memory["imports"] or 0
        row |= {"peak_mib": rounded(peak / 2**20), "peak_beyond_imports_mib": rounded((peak - imports) / 2**20)}
    return row


def _outer(q: Quartiles) -> Any:
    return rounded([q.lower, q.upper])


def rounded(value: Any, digits: int = DIGITS) -> Any:
    """Numbers to so many significant digits; None for what is not finite."""
    if isinstance(value, (list, tuple)):
        return [rounded(v, digits) for v in value]
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.{digits}g}")


def setting(row: Row) -> int | str:
    """What a net is measured under more than once: numbers of threads on a CPU, precisions on a GPU."""
    found: int | str = row["precision"] if row.get("device", "cpu") != "cpu" else row["threads"]
    return found


def find(result: dict[str, Any], net: str, mode: str, contestant: str, under: int | str) -> Row | None:
    """The row of a contestant that was measured under that setting, or None."""
    for row in result["rows"]:
        if (row["net"], row["mode"], row["contestant"], setting(row)) == (net, mode, contestant, under):
            return row if row["us_per_step"] is not None else None
    return None


def write(result: dict[str, Any], path: Path) -> int:
    """As JSON, one row a line, so that two results can be compared line by line; how many bytes it takes."""
    parts = []
    for name, value in result.items():
        if isinstance(value, list):
            lines = ",\n".join("  " + json.dumps(v, ensure_ascii=False, allow_nan=False) for v in value)
            parts.append(f'"{name}": [\n{lines}\n]')
        else:
            parts.append(f'"{name}": ' + json.dumps(value, ensure_ascii=False, allow_nan=False))
    text = "{\n" + ",\n".join(parts) + "\n}\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.write_bytes(text.encode())
