"""The driver's side of a worker: start it with its cores and threads, ask it, and end it."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import queue
import subprocess
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from . import child

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT_SECONDS = 600.0  # seconds for one answer, the compilation of a step included
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


class Unsupported(Exception):
    """A contestant that does not offer what was asked for; the message says what."""


def available_cores() -> list[int]:
    """The cores that this process may use; where the system does not tell, as many as there are."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def cores_for(threads: int) -> list[int]:
    """The cores that a run with so many threads is pinned to: the last ones, since the first serve the system most."""
    return available_cores()[-threads:]


def environment(threads: int, device: str = "cpu") -> dict[str, str]:
    """The environment of a worker."""
    settings = {name: str(threads) for name in THREAD_VARIABLES}
    settings |= {
        "GPUNN_DEVICE": device,
        "JAX_PLATFORMS": device,
        "TF_CPP_MIN_LOG_LEVEL": "3",
        # compiling in a pool of processes pays where Triton tries many ways; they end with the worker's session
        "TORCHINDUCTOR_COMPILE_THREADS": "1" if device == "cpu" else str(min(8, threads)),
    }
    if device == "cpu":
        settings["CUDA_VISIBLE_DEVICES"] = ""
    else:
        # many processes share the GPU: none may take three quarters of its memory in advance
        settings |= {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    if threads == 1:
        flags = os.environ.get("XLA_FLAGS", "")
        settings["XLA_FLAGS"] = f"{flags} --xla_cpu_multi_thread_eigen=false".strip()
    return {**os.environ, **settings}


class JsonProcess:
    """A process that is asked by lines of JSON. A context manager that ends it.

    `start` starts it with the `Popen` options it is given. With `wait` false `greet` must be called before the first
    question.
    """

    def __init__(
        self,
        start: Callable[..., subprocess.Popen[Any]],
        settings: dict[str, str],
        folder: Path = ROOT,
        *,
        wait: bool = True,
    ) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        self.timeout = TIMEOUT_SECONDS
        self._process = start(
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            cwd=folder,
            env=settings,
            text=True,
            encoding="utf-8",
        )
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        # a thread reads, so that a worker which never answers is noticed on every system
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.info: dict[str, Any] = {}
        if wait:
            self.wait_ready()

    def wait_ready(self) -> None:
        """Wait until everything is imported. `Absent` or `Failed` where it cannot be; the process is ended then."""
        if self.info:
            return
        try:
            self.info = self._receive()
        except BaseException:
            self.close()
            raise
        if "absent" in self.info:
            self.close()
            raise Absent(self.info["absent"])

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def request(self, what: str, **arguments: Any) -> dict[str, Any]:
        """The answer to a question. `Failed` where there is none, `Unsupported` where it does not offer it."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"ask": what, **arguments}) + "\n")
            self._process.stdin.flush()
        except OSError:
            raise Failed(self._stderr_tail()) from None
        said = self._receive()
        if "declined" in said:
            raise Unsupported(said["declined"])
        if "error" in said:
            raise Failed(said["error"])
        answer: dict[str, Any] = said["answer"]
        return answer

    def _receive(self) -> dict[str, Any]:
        try:
            line = self._lines.get(timeout=self.timeout)
        except queue.Empty:
            child.end(self._process)
            raise Failed(f"no answer within {self.timeout:.0f} s") from None
        if not line:
            raise Failed(self._stderr_tail())
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _stderr_tail(self) -> str:
        code = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode("utf-8", "replace").split("\n")
        said = next((line.strip() for line in reversed(lines) if line.strip()), "nothing on stderr")
        return f"the process ended with code {code}: {said[:200]}"

    def shutdown(self) -> None:
        """Close the pipe, upon which the process ends when it has done what it is at."""
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()

    def close(self, grace_seconds: float = 5.0) -> None:
        """End the process, by closing its pipe or else by force, and whatever it has started by force."""
        self.shutdown()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=grace_seconds)
        child.end(self._process)
        self._reader.join()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._errors.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Worker(JsonProcess):
    """A contestant in its own process. `Absent` or `Failed` where it cannot be had; a context manager that ends it.

    With `wait` false it is started and not waited for: `greet` does so.
    """

    def __init__(self, module: str, threads: int, device: str = "cpu", *, wait: bool = True) -> None:
        words = ["benchmarks.worker", module, str(threads), *map(str, cores_for(threads))]
        super().__init__(functools.partial(child.start, words), environment(threads, device), wait=wait)
