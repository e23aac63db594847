"""Golden values: computing, storing and comparing them."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from benchmarks.commits import Commit

from ..helpers.tolerances import GOLDEN, sums
from .cases import Case

FOLDER = Path(__file__).resolve().parent.parent / "contracts" / "golden"
MAX_BYTES = 300 * 1024
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Difference:
    """A difference between a computed and an expected array of a case.

    relative  the largest difference between two entries, as a fraction of the largest entry
    allowed   the tolerance, in the same unit
    problem   the reason if the arrays cannot be compared
    """

    case: str
    array: str
    relative: float = 0.0
    allowed: float = 0.0
    problem: str = ""

    def __str__(self) -> str:
        text = self.problem or f"differs by {self.relative:.3g} of the largest entry, allowed {self.allowed:.3g}"
        return f"{self.case}: {self.array}: {text}"


def compute(process: Commit, case: Case, *, more: bool = False) -> Arrays:
    """The arrays of a case, computed by a commit's process. `Failed` or `Unsupported` if it cannot compute them."""
    return {name: _decode(array) for name, array in process.request("golden", case=case, more=more).items()}


def _decode(array: dict[str, Any]) -> np.ndarray:
    data = base64.b64decode(array["data"])
    return np.frombuffer(data, np.dtype(array["dtype"])).reshape(array["shape"])


def compare(case: Case, found: Mapping[str, np.ndarray], stored: Mapping[str, np.ndarray]) -> list[Difference]:
    """The arrays of a case that differ from the stored ones by more than the tolerance.

    float64: GOLDEN of the array's largest entry. float32: 64·u·√K of it, K the longest reduction. Integers: equal.
    """
    differences = list(_mismatches(case["name"], found, stored))
    skipped = {d.array for d in differences}
    for name, wanted in stored.items():
        if name in skipped:
            continue
        allowed = 0.0
        if wanted.dtype.kind == "f":
            allowed = GOLDEN if wanted.dtype == np.float64 else float(sums(np.float32, _longest(case, stored), 1.0))
        relative = _relative_difference(found[name], wanted)
        if not relative <= allowed:
            differences.append(Difference(case["name"], name, relative, allowed))
    return differences


def compare_bits(case: str, found: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray]) -> list[Difference]:
    """The arrays of a case that differ in any bit."""
    differences = list(_mismatches(case, found, wanted))
    skipped = {d.array for d in differences}
    for name, array in wanted.items():
        if name not in skipped and found[name].tobytes() != array.tobytes():
            differences.append(Difference(case, name, _relative_difference(found[name], array)))
    return differences


def _mismatches(case: str, found: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray]) -> Iterable[Difference]:
    """Arrays that exist on one side only, or whose dtypes or shapes differ."""
    for name in sorted({*found, *wanted}):
        if name not in found or name not in wanted:
            yield Difference(case, name, problem="is missing" if name not in found else "is not stored")
            continue
        a, b = found[name], wanted[name]
        if a.dtype != b.dtype or a.shape != b.shape:
            yield Difference(case, name, problem=f"is {a.dtype}{a.shape}, must be {b.dtype}{b.shape}")


def _relative_difference(found: np.ndarray, wanted: np.ndarray) -> float:
    """The largest difference as part of the largest wanted entry; infinite if other entries are not finite."""
    if not wanted.size:
        return 0.0
    a, b = found.astype(np.float64), wanted.astype(np.float64)
    finite = np.isfinite(b)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True) or not np.isfinite(a[finite]).all():
        return float("inf")
    difference = float(np.abs(a[finite] - b[finite]).max(initial=0.0))
    scale = float(np.abs(b[finite]).max(initial=0.0))
    if difference == 0:
        return 0.0
    return difference / scale if scale else float("inf")


def _longest(case: Case, stored: Mapping[str, np.ndarray]) -> int:
    """K, the longest reduction of the first step: over its rows, or over a dimension of a weight matrix."""
    sizes = [n for name, array in stored.items() if name.startswith("float32.gradients") for n in array.shape]
    return max([int(case["first_step_rows"]), *sizes])


# --- files ---


def path_of(name: str, folder: Path = FOLDER) -> Path:
    """The file of a case."""
    return folder / f"{name}.safetensors"


def load(name: str, folder: Path = FOLDER) -> Arrays | None:
    """The stored arrays of a case; None if there are none."""
    path = path_of(name, folder)
    return load_file(path) if path.exists() else None


def store(name: str, arrays: Arrays, folder: Path = FOLDER) -> None:
    """Write the arrays of a case."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({k: np.ascontiguousarray(v) for k, v in arrays.items()}, path_of(name, folder))


def stored_names(folder: Path = FOLDER) -> set[str]:
    """The names of all stored cases."""
    return {path.stem for path in folder.glob("*.safetensors")}


def stored_bytes(folder: Path = FOLDER) -> int:
    """The size of all stored values."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))
