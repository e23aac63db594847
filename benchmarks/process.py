"""The driver's side of a worker: start it with its cores and threads, ask it, and end it."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 600.0  # seconds for one answer, the compilation of a step included
# what the libraries read before they count threads; NPROC is XLA's
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NPROC",
)


class Absent(Exception):
    """A contestant that cannot be imported; the message says why."""


class Failed(Exception):
    """A contestant that raised an error, died or did not answer; the message says how."""


def available_cores() -> list[int]:
    """The cores that this process may use; where the system does not tell, as many as there are."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def cores_for(threads: int) -> list[int]:
    """The cores that a run with so many threads is pinned to: the last ones, since the first serve the system most."""
    return available_cores()[-threads:]


def environment(threads: int) -> dict[str, str]:
    """The environment of a worker."""
    settings = {name: str(threads) for name in THREAD_VARIABLES}
    settings |= {
        "GPUNN_DEVICE": "cpu",
        "JAX_PLATFORMS": "cpu",
        "CUDA_VISIBLE_DEVICES": "",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        # compiling in a pool of processes would leave them behind
        "TORCHINDUCTOR_COMPILE_THREADS": "1",
    }
    if threads == 1:
        flags = os.environ.get("XLA_FLAGS", "")
        settings["XLA_FLAGS"] = f"{flags} --xla_cpu_multi_thread_eigen=false".strip()
    return {**os.environ, **settings}


class Worker:
    """A contestant in its own process. `Absent` or `Failed` where it cannot be had; a context manager that ends it."""

    def __init__(self, module: str, threads: int) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        command = [sys.executable, "-m", "benchmarks.worker", module, str(threads), *map(str, cores_for(threads))]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            cwd=ROOT,
            env=environment(threads),
            text=True,
            encoding="utf-8",
        )
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        # a thread reads, so that a worker which never answers is noticed on every system
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            self.hello = self._answer()
        except BaseException:
            self.close()
            raise
        if "absent" in self.hello:
            self.close()
            raise Absent(self.hello["absent"])

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def ask(self, what: str, **arguments: Any) -> dict[str, Any]:
        """The answer to a question. `Failed` where there is none."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"ask": what, **arguments}) + "\n")
            self._process.stdin.flush()
        except OSError:
            raise Failed(self._last_words()) from None
        answer = self._answer()
        if "error" in answer:
            raise Failed(answer["error"])
        return answer

    def _answer(self) -> dict[str, Any]:
        try:
            line = self._lines.get(timeout=PATIENCE)
        except queue.Empty:
            self._process.kill()
            raise Failed(f"no answer within {PATIENCE:.0f} s") from None
        if not line:
            raise Failed(self._last_words())
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _last_words(self) -> str:
        code = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode("utf-8", "replace").split("\n")
        said = next((line.strip() for line in reversed(lines) if line.strip()), "nothing on stderr")
        return f"the process ended with code {code}: {said[:200]}"

    def close(self) -> None:
        """End the process, by closing its pipe or else by force."""
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._errors.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
