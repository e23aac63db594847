"""Worker processes, as seen from the driver: start one with its cores and threads, send requests, end it."""

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
# variables that libraries read for their number of threads; NPROC is XLA's
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NPROC",
)


class Absent(Exception):
    """The contestant cannot be imported; the message gives the reason."""


class Failed(Exception):
    """The contestant raised an error, died or did not answer; the message gives the reason."""


class Unsupported(Exception):
    """The contestant does not offer the request; the message gives the reason."""


def available_cores() -> list[int]:
    """The cores that this process may use, or all cores if the system does not report them."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def cores_for(threads: int) -> list[int]:
    """The cores to which a run is pinned: the last ones, because the system uses the first ones most."""
    return available_cores()[-threads:]


def environment(threads: int, device: str = "cpu") -> dict[str, str]:
    """The environment variables of a worker."""
    settings = {name: str(threads) for name in THREAD_VARIABLES}
    settings |= {
        "GPUNN_DEVICE": device,
        "GPUNN_EAGER": "0",
        "JAX_PLATFORMS": device,
        "TF_CPP_MIN_LOG_LEVEL": "3",
        # a pool of compiler processes helps if Triton tries many variants; it ends with the worker's session
        "TORCHINDUCTOR_COMPILE_THREADS": "1" if device == "cpu" else str(min(8, threads)),
    }
    if device == "cpu":
        settings["CUDA_VISIBLE_DEVICES"] = ""
    else:
        # several processes share the GPU, so none may preallocate three quarters of its memory
        settings |= {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    if threads == 1:
        flags = os.environ.get("XLA_FLAGS", "")
        settings["XLA_FLAGS"] = f"{flags} --xla_cpu_multi_thread_eigen=false".strip()
    return {**os.environ, **settings}


class JsonProcess:
    """A process that answers requests as lines of JSON. As a context manager it ends the process.

    `start` starts it with `Popen` options. If `wait` is False, `wait_ready` must be called before the first request.
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
        # read in a thread, so that a timeout works on every system
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.info: dict[str, Any] = {}
        if wait:
            self.wait_ready()

    def wait_ready(self) -> None:
        """Wait until all imports are done. `Absent` or `Failed` if they fail, after which the process is ended."""
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

    def request(self, method: str, **arguments: Any) -> dict[str, Any]:
        """Send a request and return the answer. `Failed` without an answer, `Unsupported` if it is not offered."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"method": method, **arguments}) + "\n")
            self._process.stdin.flush()
        except OSError:
            raise Failed(self._stderr_tail()) from None
        reply = self._receive()
        if "unsupported" in reply:
            raise Unsupported(reply["unsupported"])
        if "error" in reply:
            raise Failed(reply["error"])
        answer: dict[str, Any] = reply["answer"]
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
        """The exit code and the last line on stderr."""
        code = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode("utf-8", "replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "nothing on stderr")
        return f"the process ended with code {code}: {last[:200]}"

    def shutdown(self) -> None:
        """Close the pipe, so that the process ends after its current request."""
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()

    def close(self, grace_seconds: float = 5.0) -> None:
        """End the process by closing its pipe or, after the grace seconds, by force; its children by force."""
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
    """A contestant in a separate process. `Absent` or `Failed` if it cannot be started."""

    def __init__(self, module: str, threads: int, device: str = "cpu", *, wait: bool = True) -> None:
        words = ["benchmarks.worker", module, str(threads), *map(str, cores_for(threads))]
        super().__init__(functools.partial(child.start, words), environment(threads, device), wait=wait)
