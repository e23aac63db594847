"""The doctor: looks at everything a run depends on, and names one verdict and one remedy."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .cpu import blas, native
from .cuda import cublaslt
from .cuda.errors import Fault, conflicting_wheels, cupy_missing, diagnose, import_failed, no_device
from .cuda.installation import format_version, installed_cupy, system_driver
from .cuda.matmul import MIN_COMPUTE_CAPABILITY
from .cuda.probe import describe, load_cupy, probe
from .devices import DeviceError, choose

WIDTH = 80


@dataclass(frozen=True)
class Check:
    """One thing looked at: its name, whether it is well (None: not there and not needed), what was seen."""

    name: str
    ok: bool | None
    detail: str


@dataclass(frozen=True)
class Report:
    """All checks, one line that sums them up, and the one thing to do ("" if there is none).

    `ok` is False where something that is installed or set does not work; a machine without CuPy is well.
    """

    checks: tuple[Check, ...]
    verdict: str
    remedy: str
    ok: bool

    def __str__(self) -> str:
        import textwrap

        marks = {True: "ok", False: "!!", None: "--"}
        rows = [(f"{marks[c.ok]}  {c.name}", c.detail) for c in self.checks] + [("", "")]
        rows += [("verdict", self.verdict)] + [("remedy", self.remedy)] * bool(self.remedy)
        indent = max(len(head) for head, _ in rows) + 2
        wrap = textwrap.TextWrapper(WIDTH, subsequent_indent=" " * indent, break_on_hyphens=False)
        lines = []
        for head, detail in rows:
            wrap.initial_indent = head.ljust(indent)
            lines.append(wrap.fill(detail))
        return "\n".join(lines)


class _Checks:
    """Collects checks and faults; a question that raises becomes a check that failed."""

    def __init__(self) -> None:
        self.checks: list[Check] = []
        self.faults: list[Fault] = []

    def run(self, name: str, question: Callable[[], str | Check | Fault], cupy: Any = None) -> None:
        try:
            answer = question()
        except Exception as error:
            answer = diagnose(error, cupy) if cupy is not None else Check(name, False, _one_line(error))
        if isinstance(answer, Fault):
            self.faults.append(answer)
            answer = Check(name, False, answer.verdict)
        self.checks.append(Check(name, True, answer) if isinstance(answer, str) else answer)


def doctor() -> Report:
    """Examine Python, NumPy, the CPU's kernels, the cache, CuPy and every GPU. Never raises.

    `print(gpunn.doctor())` and the command `gpunn doctor` show the report at 80 columns. A GPU is probed by
    running a kernel and a matrix product on it, as `device="auto"` does.
    """
    import platform

    look = _Checks()
    with warnings.catch_warnings():
        # CuPy warns at length of two wheels and CUDA_PATH; the report says it in a line
        warnings.simplefilter("ignore")
        look.run("Python", lambda: f"{platform.python_version()} on {platform.system()} {platform.machine()}")
        look.run("NumPy", lambda: f"{np.__version__} with {_blas()}")
        look.run("gpunn", _own_version)
        look.run("CPU kernels", _host_kernels)
        look.run("CPU steps", _host_steps)
        look.run("cache folder", _cache_folder)
        faults_of_the_cpu, look.faults = look.faults, []
        try:
            _examine_gpu(look)
        except Exception as error:
            look.faults.append(import_failed(error))
            look.checks.append(Check("CuPy", False, look.faults[-1].verdict))
        look.run("device", _chosen)
    faults = [*look.faults, *faults_of_the_cpu]
    # that CuPy is absent is news, not a fault: anything else comes first
    faults.sort(key=lambda fault: fault.kind == "absent")
    what, remedy = (faults[0].verdict, faults[0].remedy) if faults else ("all is well", "")
    device = _device_of(look)
    verdict = f"{what}; gpunn uses {device}" if device else what
    return Report(tuple(look.checks), verdict, remedy, all(fault.kind == "absent" for fault in faults))


def _examine_gpu(look: _Checks) -> None:
    installed, cupy = installed_cupy(), load_cupy()
    if isinstance(cupy, Fault):
        cupy = cupy_missing(system_driver()) if cupy.kind == "absent" else cupy
        look.faults.append(cupy)
        look.checks.append(Check("CuPy", None if cupy.kind == "absent" else False, cupy.verdict))
        return
    version = f"{cupy.__version__} ({', '.join(installed) or 'not from a wheel'})"
    look.run("CuPy", lambda: conflicting_wheels(installed) if len(installed) > 1 else version)
    look.run("driver", lambda: _driver(cupy), cupy)
    look.run("devices", lambda: _devices(cupy), cupy)
    look.run("NVRTC", lambda: "{}.{}".format(*cupy.cuda.nvrtc.getVersion()), cupy)
    look.run("cuBLAS", lambda: f"found ({getattr(cupy.cuda.cublas, '__name__', 'cublas')})", cupy)
    look.run("probe", lambda: _probe(cupy), cupy)
    works = look.checks[-1].ok
    look.run(
        "GPU products", lambda: _products(cupy) if works else Check("GPU products", None, "no GPU to ask on"), cupy
    )


def _driver(cupy: Any) -> str | Fault:
    driver, runtime = cupy.cuda.runtime.driverGetVersion(), cupy.cuda.runtime.runtimeGetVersion()
    if driver == 0 or driver < runtime // 1000 * 1000:
        return diagnose(RuntimeError("cudaErrorInsufficientDriver"), cupy)
    return f"supports CUDA {format_version(driver)}; CuPy was built for {format_version(runtime)}"


def _devices(cupy: Any) -> str | Fault:
    count = cupy.cuda.runtime.getDeviceCount()
    if count == 0:
        return no_device("cuda:0", 0)
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    only = f" (CUDA_VISIBLE_DEVICES={seen})" if seen is not None else ""
    return "; ".join(f"cuda:{k} {describe(cupy, k)}" for k in range(count)) + only


def _probe(cupy: Any) -> str | Fault:
    found = probe(cupy, 0)
    return found if isinstance(found, Fault) else "cuda:0 ran a kernel and a matrix product rightly"


def _products(cupy: Any) -> str | Fault:
    """Which library multiplies matrices in a captured step, and in which types."""
    device = cupy.cuda.Device(0)
    with device:
        found = cublaslt.open_cublaslt(cupy)
        if isinstance(found, Fault):
            return found
        kinds: dict[str, list[tuple[str, str | None, str]]] = {t: [(t, None, t)] for t in ("float32", "float64")}
        if int(device.compute_capability) >= MIN_COMPUTE_CAPABILITY:
            kinds |= {"TF32": [("float32", "tf32", "float32")]}
            kinds |= {"bfloat16": [("uint16", "bf16", result) for result in ("uint16", "float32")]}
        types = ", ".join(name for name, each in kinds.items() if all(found.supports(*kind, "none") for kind in each))
        followed = ", ".join(
            e for e in cublaslt.EPILOGUE_CODES if e != "none" and found.supports("float32", None, "float32", e)
        )
    return f"captured with the step, by {found}: {types}; in the same launch: {followed or 'nothing'}"


def _chosen() -> str | Check | Fault:
    try:
        backend, _ = choose("auto")
    except DeviceError as error:
        return Check("device", False, str(error))
    except ValueError as error:
        return Fault("setting", str(error), "unset GPUNN_DEVICE, or set it to one of these")
    return f"{backend.device}: {backend.reason}"


def _blas() -> str:
    config: Any = np.show_config(mode="dicts")
    blas = config["Build Dependencies"]["blas"]
    return f"{blas['name']} {blas.get('version', '')}".strip()


def _own_version() -> str:
    version = getattr(sys.modules.get("gpunn"), "__version__", None)
    if version is None:
        from importlib.metadata import version as installed

        version = installed("gpunn")
    return str(version)


def _host_kernels() -> str | Check:
    from ..kernels._compiler import host

    status = host.status()
    well = True if status.implementation == "compiled" else None
    return Check("CPU kernels", well, f"{status.implementation}: {status.reason}")


def _host_steps() -> str | Check:
    """Whether a whole step runs in compiled code on this CPU."""
    if native.executor_library() is None:
        return Check("CPU steps", None, "launched one by one from Python, since nothing is compiled")
    found = blas.find_gemm("float32")
    if found is None:
        return Check(
            "CPU steps", None, "back to Python for each product: NumPy's BLAS exports none that could be called"
        )
    threads = blas.thread_count()
    return (
        f"compiled, one after another without Python, on {threads} thread{'s' * (threads > 1)} at most; products by "
        f"{found.name}, small ones in registers"
    )


def _cache_folder() -> str | Fault:
    import tempfile

    from ..kernels._compiler import host

    folder = host.cache_folder()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return str(folder)
    except OSError as error:
        what = f"the cache folder {folder} cannot be written ({_one_line(error)})"
        return Fault("cache", what, "set GPUNN_CACHE to a folder that you may write")


def _device_of(look: _Checks) -> str:
    """The device that "auto" takes, out of the check that asked; "" where the choice itself failed."""
    check = look.checks[-1]
    return check.detail.split(": ")[0].replace("cpu", "the CPU") if check.ok else ""


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
