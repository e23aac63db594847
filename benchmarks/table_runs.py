"""Results of methods on folds of tables: their files, what is missing in them, and the processes that measure it."""

from __future__ import annotations

import hashlib
import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import IO, Any

from . import child, command, machine, results
from .process import ROOT, available_cores, environment
from .session import version
from .table_methods import METHODS, OURS

Key = tuple[str, int]  # a table and a fold
DIGITS = 6
POLL_SECONDS = 0.02


@dataclass(frozen=True)
class Piece:
    """A method on a fold of a table."""

    method: str
    table: str
    fold: int


@dataclass
class Store:
    """The results of a method by table and fold, their origin, and their file. Without a path nothing is saved."""

    method: str
    path: Path | None
    machine: dict[str, Any] = field(default_factory=dict)
    rows: dict[Key, dict[str, Any]] = field(default_factory=dict)

    def read(self, path: Path) -> Store:
        """Read a result file; a missing one has no results."""
        if path.exists():
            found = json.loads(path.read_text(encoding="utf-8"))
            self.machine = found["machine"]
            self.rows = {(row["table"], row["fold"]): row for row in found["rows"]}
        return self

    def add(self, key: Key, measured: dict[str, Any]) -> None:
        """Add a result and save the file."""
        numbers = {name: results.rounded(v, DIGITS) if isinstance(v, float) else v for name, v in measured.items()}
        self.rows[key] = {"table": key[0], "fold": key[1], **numbers}
        self.save()

    def save(self, **more: Any) -> None:
        """Save the results, and `more` lists after them."""
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            rows = [self.rows[key] for key in sorted(self.rows)]
            command.write({"machine": self.machine, "rows": rows, **more}, self.path)

    def obstacle(self) -> str | None:
        """The reason why results cannot be added: an absent package, or another version or processor; else None."""
        method = METHODS[self.method]
        try:
            now = {name: version(name) for name in method.packages}
        except metadata.PackageNotFoundError as error:
            return f"{error.name} is not installed"
        if self.rows:
            for name, installed in now.items():
                if (measured := self.machine["versions"].get(name)) != installed:
                    return f"measured with {name} {measured}, and {installed} is installed; --again {self.method}"
            if (cpu := self.machine["cpu"]) != machine.cpu_model():
                return f"measured on {cpu}, and this is {machine.cpu_model()}; --again {self.method}"
        return None

    def record(self, **settings: Any) -> None:
        """Record the origin of the results that follow."""
        versions = {name: version(name) for name in METHODS[self.method].packages}
        self.machine = machine.record(versions, threads=1, **settings)


def file_name(method: str) -> str:
    """The name of a method's result file."""
    return "tables.json" if method == OURS else f"tables-{method}.json"


def fingerprint() -> str:
    """A hash of gpunn's sources: results of other sources are measured again."""
    found = hashlib.sha256()
    for path in sorted(p for folder in ("gpunn", "kernels") for p in (ROOT / folder).rglob("*.*") if p.is_file()):
        if path.suffix in (".py", ".cpp", ".h", ".cu"):
            found.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    return found.hexdigest()[:12]


@dataclass
class Running:
    """A process that measures a piece."""

    piece: Piece
    process: subprocess.Popen[Any]
    errors: IO[bytes]
    begun: float

    def answer(self, limit_seconds: float) -> dict[str, Any] | None:
        """The answer of the process, a failure if it died or exceeded the limit, or None while it runs."""
        spent = time.monotonic() - self.begun
        code = self.process.poll()
        if code is None and spent < limit_seconds:
            return None
        child.end(self.process)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if code is None:
            return {"error": f"no result within {limit_seconds:g} s"}
        if not line:
            self.errors.seek(0)
            last = self.errors.read().decode("utf-8", "replace").strip().rpartition("\n")[2] or "nothing on stderr"
            return {"error": f"the process ended with code {code}: {last[:200]}"}
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End the process."""
        child.end(self.process)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.errors.close()


def start(piece: Piece, core: int, data: Path) -> Running:
    """Start the process of a piece on a core, with one thread."""
    request = {
        "module": METHODS[piece.method].module,
        "table": piece.table,
        "fold": piece.fold,
        "core": core,
        "data": str(data),
    }
    errors = tempfile.TemporaryFile()  # noqa: SIM115
    words = ["benchmarks.table_worker", json.dumps(request)]
    process = child.start(words, stdout=subprocess.PIPE, stderr=errors, cwd=ROOT, env=environment(1))
    return Running(piece, process, errors, time.monotonic())


def measure(
    pieces: Iterable[Piece],
    data: Path,
    finished: Callable[[Piece, dict[str, Any]], None],
    *,
    jobs: int,
    limit_seconds: float,
) -> None:
    """Measure pieces in processes, `jobs` of them concurrently, each on its own core. `finished` is given each answer.

    The first answer that a method is absent ends that method.
    """
    waiting, running, absent = list(pieces), dict[int, Running](), set[str]()
    cores = available_cores()[-jobs:]
    try:
        while waiting or running:
            for core in cores:
                if core not in running and waiting:
                    running[core] = start(waiting.pop(0), core, data)
            for core, each in list(running.items()):
                answer = each.answer(limit_seconds)
                if answer is None:
                    continue
                running.pop(core).close()
                if "absent" in answer:
                    absent.add(each.piece.method)
                    waiting = [piece for piece in waiting if piece.method not in absent]
                finished(each.piece, answer)
            time.sleep(POLL_SECONDS)
    finally:
        for each in running.values():
            each.close()
