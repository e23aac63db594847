"""The result of a run as plain data, and its JSON file. Results are never edited by hand."""

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
DIGITS = 5  # significant digits of measurements


def rows(net: Net, entries: Iterable[Entry], precision: str, device: str = "cpu") -> list[Row]:
    """One row per contestant and mode, measured or not."""
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
    times = entry.times.get(mode)
    if not times:
        row |= {"us_per_step": None, "note": entry.notes.get(mode, "not measured")}
        if "disagrees" in row["note"] and "predictions" not in row["note"]:
            row |= {"losses": rounded(entry.losses, 9), "losses_wanted": rounded(entry.expected_losses, 9)}
        return row
    q = ratios.quartiles(times)
    row |= {"us_per_step": rounded(q.median), "us_quartiles": _outer(q), "rounds": len(times)}
    event_times = entry.event_times.get(mode)
    if event_times:
        row["us_by_events"] = rounded(ratios.quartiles(event_times).median)
    if mode != "setup":
        row["samples_per_s"] = rounded(1e6 * net.batch / q.median)
    row |= _ratios(entry, mode, entries)
    row["us_rounds"] = rounded(times)
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


def _ratios(entry: Entry, mode: str, entries: list[Entry]) -> Row:
    """The ratios of a contestant's times to those of the best peer, the floors and all others."""
    row: Row = {}
    own = entry.times[mode]
    times = {e.contestant.name: e.times[mode] for e in entries if len(e.times.get(mode, ())) == len(own)}
    kinds = {e.contestant.name: e.contestant.kind for e in entries}
    row["best_peer"] = ratios.best({name: t for name, t in times.items() if kinds[name] == "peer"})
    if row["best_peer"] is not None:
        over = ratios.ratio(own, times[row["best_peer"]])
        row |= {"ratio_to_best_peer": rounded(over.median), "ratio_to_best_peer_quartiles": _outer(over)}
    for kind in ("floor", "bytes"):
        # `fit` has the same matrix products per step as `train`
        floors = [e.times.get("train" if mode == "fit" else mode, []) for e in entries if e.contestant.kind == kind]
        if floors and len(floors[0]) == len(own):
            over = ratios.ratio(own, floors[0])
            row |= {f"ratio_to_{kind}": rounded(over.median), f"ratio_to_{kind}_quartiles": _outer(over)}
    if entry.contestant.kind in ("ours", "variant"):
        others = {name: ratios.ratio(own, t) for name, t in times.items() if name != entry.contestant.name}
        bounds = ("floor", "bytes")
        row["ratios"] = {name: rounded(list(over)) for name, over in others.items() if kinds[name] not in bounds}
    return row


def _outer(q: Quartiles) -> Any:
    return rounded([q.lower, q.upper])


def rounded(value: Any, digits: int = DIGITS) -> Any:
    """Numbers with `digits` significant digits, None for numbers that are not finite."""
    if isinstance(value, (list, tuple)):
        return [rounded(v, digits) for v in value]
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.{digits}g}")


def setting(row: Row) -> int | str:
    """The setting that varies for a net: the number of threads on a CPU, the precision on a GPU."""
    found: int | str = row["precision"] if row.get("device", "cpu") != "cpu" else row["threads"]
    return found


def find(result: dict[str, Any], net: str, mode: str, contestant: str, under: int | str) -> Row | None:
    """The row of a contestant measured with this setting, or None."""
    for row in result["rows"]:
        if (row["net"], row["mode"], row["contestant"], setting(row)) == (net, mode, contestant, under):
            return row if row["us_per_step"] is not None else None
    return None


def write(result: dict[str, Any], path: Path) -> int:
    """Write a result as JSON, one row per line so that results can be compared; returns the number of bytes."""
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
