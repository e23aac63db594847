"""`python -m tests.golden`, from the root of the checkout: compare, write, or compare with another commit."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks import child
from benchmarks.commits import Commit, checkout, describe
from benchmarks.process import ROOT, Absent, Failed, Unsupported

from . import values
from .cases import CASES, LARGE, Case
from .values import FOLDER, MAX_BYTES, Arrays, Difference

EPILOG = """
Without options all cases are computed, by compiled kernels and by their NumPy
references, and compared with the stored values: float64 to 1e-11 of an array's
largest entry, float32 to 64·u·√K of it.

--write computes the named cases again, or all of them; an entry that still
agrees within the tolerance keeps its bits. A refactoring must not write; a fix writes
the entries it changes and lists them in its commit.

--against runs all cases and some larger networks on the working tree and on the
commit, each in its own process, and compares bit for bit.

Exit status 1 means that something differs.
"""
Say = Callable[[str], None]
Results = dict[str, Arrays]


def main(argv: Sequence[str] | None = None, folder: Path = FOLDER, say: Say = print) -> int:
    """Run the command; its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.golden",
        description="Compare what gpunn computes with the golden values.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    either = parser.add_mutually_exclusive_group()
    either.add_argument("--write", nargs="+", metavar="NAME", help='compute these cases again; "all" for all of them')
    either.add_argument("--against", metavar="COMMIT", help="compare the working tree with the commit bit for bit")
    arguments = parser.parse_args(argv)
    try:
        if arguments.write:
            return write(arguments.write, folder, say)
        if arguments.against:
            return against(arguments.against, say)
        return check(folder, say)
    except (Absent, Failed) as error:
        say(f"error: {error}")
        return 1


# --- compare with the stored values ---


def check(folder: Path = FOLDER, say: Say = print) -> int:
    """Compare all cases, computed by both implementations, with the stored values; 1 if something differs."""
    differences = [Difference(name, "all", problem="has no case") for name in values.stored_names(folder) - set(CASES)]
    found = _concurrently({"compiled": lambda: _compute(CASES), "NumPy": lambda: _compute(CASES, compiled=False)}, say)
    for name, case in CASES.items():
        stored = values.load(name, folder)
        if stored is None:
            differences.append(Difference(name, "all", problem=f"is not stored: python -m tests.golden --write {name}"))
            continue
        for implementation, computed in found.items():
            for difference in values.compare(case, computed[name], stored):
                differences.append(difference)
                say(f"{implementation}: {difference}")
    for difference in differences:
        if difference.array == "all":
            say(str(difference))
    say(f"{len(CASES)} cases, {' and '.join(found)}: {_count(differences)}")
    return int(bool(differences))


def _concurrently(
    calls: Mapping[str, Callable[[], dict[str, Arrays] | None]], say: Say
) -> dict[str, dict[str, Arrays]]:
    """The results of calls made at the same time, without those that are None."""
    with ThreadPoolExecutor(len(calls)) as pool:
        started = {name: pool.submit(call) for name, call in calls.items()}
    found = {}
    for name, future in started.items():
        result = future.result()
        if result is None:
            say(f"{name} not run: no kernels can be compiled here")
        else:
            found[name] = result
    return found


def _compute(cases: Mapping[str, Case], compiled: bool = True) -> Results | None:
    """The arrays of the cases in this working tree; None if compiled kernels are asked for and cannot run."""
    with Commit(ROOT, compiled=compiled) as process:
        if compiled and not process.compiled:
            return None
        try:
            return {name: values.compute(process, case) for name, case in cases.items()}
        except Unsupported as error:
            raise Failed(str(error)) from error


def _count(differences: Sequence[Difference]) -> str:
    if not differences:
        return "no difference"
    return f"{len(differences)} differences in {len({d.case for d in differences})} cases"


# --- write ---


def write(names: Iterable[str], folder: Path = FOLDER, say: Say = print) -> int:
    """Compute the named cases and store those that differ from what is stored; 1 if a case cannot be stored.

    The values are the compiled kernels'; the NumPy references must agree with them.
    """
    names = list(dict.fromkeys(names))
    everything = "all" in names
    cases = CASES if everything else {name: CASES[name] for name in names if name in CASES}
    unknown = [] if everything else [name for name in names if name not in CASES]
    for name in unknown:
        say(f"error: there is no case {name!r}")
    if unknown:
        return 1
    calls = {"compiled": lambda: _compute(cases), "NumPy": lambda: _compute(cases, compiled=False)}
    found = _concurrently(calls, say)
    if "compiled" not in found:
        return 1
    status = 0
    for name, case in cases.items():
        status |= _write_one(case, found["compiled"][name], found["NumPy"][name], folder, say)
    if everything:
        for name in sorted(values.stored_names(folder) - set(CASES)):
            values.path_of(name, folder).unlink()
            say(f"{name}: deleted, it has no case")
    size = values.stored_bytes(folder)
    say(f"{len(values.stored_names(folder))} entries, {size / 1024:.0f} of {MAX_BYTES // 1024} KiB")
    return status | int(size > MAX_BYTES)


def _write_one(case: Case, computed: Arrays, reference: Arrays, folder: Path, say: Say) -> int:
    name = case["name"]
    disagreeing = values.compare(case, reference, computed)
    for difference in disagreeing:
        say(f"error: compiled kernels and NumPy references disagree: {difference}")
    if disagreeing:
        return 1
    stored = values.load(name, folder)
    differences = [] if stored is None else values.compare(case, computed, stored)
    if stored is not None and not differences:
        say(f"{name}: unchanged")
        return 0
    values.store(name, computed, folder)
    if stored is None:
        say(f"{name}: new")
    for difference in differences:
        say(str(difference))
    return 0


# --- compare with another commit ---


def against(
    commit: str,
    say: Say = print,
    *,
    repository: Path = ROOT,
    cases: Mapping[str, Case] = CASES,
    large: Mapping[str, Case] = LARGE,
) -> int:
    """Compare the working tree with a commit of the repository bit for bit; 1 if something differs.

    A case that only the commit cannot run is named and does not count, unless no case could be compared.
    """
    differences: list[Difference] = []
    with checkout(commit, repository) as other:
        say(f"the working tree against {describe(repository, commit)}")
        everything = {**cases, **large}
        several = max(2, min(4, os.cpu_count() or 1))
        for label, compiled, threads, chosen in (
            ("compiled", True, 1, everything),
            (f"compiled, {several} threads", True, several, large),
            ("NumPy", False, 1, everything),
        ):
            found, compared = _bits(other, chosen, compiled, threads, label, say)
            if chosen and not compared:
                found.append(Difference("all", "all", problem="no case could be compared"))
            differences += found
            say(f"{label}: {compared} of {len(chosen)} cases compared, {_count(found)}")
    return int(bool(differences))


def _bits(
    other: Path, cases: Mapping[str, Case], compiled: bool, threads: int, label: str, say: Say
) -> tuple[list[Difference], int]:
    """The differences between the working tree and the other checkout, each printed; the number of cases compared."""
    differences: list[Difference] = []
    compared = 0
    if not cases:
        return differences, compared
    with (
        Commit(ROOT, threads, compiled=compiled) as here,
        Commit(other, threads, compiled=compiled) as there,
        ThreadPoolExecutor(2) as pool,
    ):
        if here.compiled != there.compiled:
            problem = f"compiled kernels run {'here' if here.compiled else 'there'} only"
            differences.append(Difference("all", "all", problem=problem))
        for name, case in cases.items():
            both = [pool.submit(_try, process, case) for process in (here, there)]
            mine, theirs = (future.result() for future in both)
            if isinstance(mine, str):
                differences.append(Difference(name, "all", problem=f"fails here: {mine}"))
            elif isinstance(theirs, str):
                say(f"{label}: {name}: not compared, fails there: {theirs}")
            else:
                compared += 1
                differences += values.compare_bits(name, mine, theirs)
    for difference in differences:
        say(f"{label}: {difference}")
    return differences, compared


def _try(process: Commit, case: Case) -> Arrays | str:
    """The arrays of a case, or why there are none."""
    try:
        return values.compute(process, case, more=True)
    except (Unsupported, Failed) as error:
        return str(error)


if __name__ == "__main__":
    child.exit_on_sigterm()
    sys.exit(main())
