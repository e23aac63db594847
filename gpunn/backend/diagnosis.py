"""`gpunn doctor`: checks of everything that a fit depends on, with one verdict and one remedy."""

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
from .cuda.errors import conflicting_wheels, cupy_missing, diagnose, import_failed, no_device
from .cuda.installation import format_version, installed_cupy, system_driver
from .cuda.matmul import MIN_COMPUTE_CAPABILITY
from .cuda.probe import describe, load_cupy, probe
from .errors import DeviceError, Fault
from .select import choose, eager_setting

WIDTH = 80


@dataclass(frozen=True)
class Check:
    """The result of one check.

    Attributes
    ----------
    name : str
    ok : bool or None
        None if the subject is missing and not needed.
    detail : str
        The finding, in one line.
    """

    name: str
    ok: bool | None
    detail: str


@dataclass(frozen=True)
class Report:
    """The results of all checks. `print` shows them in 80 columns.

    Attributes
    ----------
    checks : tuple of Check
    verdict : str
        The summary in one line.
    remedy : str
        The one action to take; "" if there is none.
    ok : bool
        False if something that is installed or set does not work. A machine without CuPy is ok.
    """

    checks: tuple[Check, ...]
    verdict: str
    remedy: str
    ok: bool

    def __str__(self) -> str:
        import textwrap

        marks = {True: "ok", False: "!!", None: "--"}
        rows = [(f"{marks[c.ok]}  {c.name}", c.detail) for c in self.checks] + [("", ""), ("verdict", self.verdict)]
        if self.remedy:
            rows.append(("remedy", self.remedy))
        indent = max(len(head) for head, _ in rows) + 2
        wrap = textwrap.TextWrapper(WIDTH, subsequent_indent=" " * indent, break_on_hyphens=False)
        lines = []
        for head, detail in rows:
            wrap.initial_indent = head.ljust(indent)
            lines.append(wrap.fill(detail))
        return "\n".join(lines)


class _Checks:
    """A collection of checks and faults. A check that raises has failed."""

    def __init__(self) -> None:
        self.checks: list[Check] = []
        self.faults: list[Fault] = []

    def run(self, name: str, check: Callable[[], str | Check | Fault], cupy: Any = None) -> None:
        """Run a check, which returns its finding, a fault, or a complete result."""
        try:
            result = check()
        except Exception as error:
            result = Check(name, False, _first_line(error)) if cupy is None else diagnose(error, cupy)
        if isinstance(result, Fault):
            self.faults.append(result)
            result = Check(name, False, result.verdict)
        self.checks.append(Check(name, True, result) if isinstance(result, str) else result)


def doctor() -> Report:
    """Check Python, NumPy, the CPU's kernels, the cache, CuPy and every GPU. Never raises.

    `print(gpunn.doctor())` and the command `gpunn doctor` show the report. As with `device="auto"`, a GPU is probed
    with a kernel and a matrix product.

    Returns
    -------
    Report
    """
    import platform

    cpu = _Checks()
    gpu = _Checks()
    with warnings.catch_warnings():
        # CuPy warns about conflicting wheels and CUDA_PATH; the report contains that in one line
        warnings.simplefilter("ignore")
        cpu.run("Python", lambda: f"{platform.python_version()} on {platform.system()} {platform.machine()}")
        cpu.run("NumPy", lambda: f"{np.__version__} with {_blas()}")
        cpu.run("gpunn", _own_version)
        cpu.run("CPU kernels", _cpu_kernels)
        cpu.run("CPU steps", _cpu_steps)
        cpu.run("cache folder", _cache_folder)
        try:
            _check_gpu(gpu)
        except Exception as error:
            gpu.faults.append(import_failed(error))
            gpu.checks.append(Check("CuPy", False, gpu.faults[-1].verdict))
        gpu.run("device", _selected_device)
        if eager_setting():
            gpu.run("steps", lambda: Check("steps", None, "eager mode by GPUNN_EAGER: computed from Python, slowly"))
    # the largest speed-up first: kernels, then a GPU that does not work; a missing CuPy is no fault
    order = {"compiler": 0, "absent": 2}
    faults = sorted(gpu.faults + cpu.faults, key=lambda fault: order.get(fault.kind, 1))
    verdict = faults[0].verdict if faults else "everything works"
    remedy = faults[0].remedy if faults else ""
    selected = gpu.checks[-1]
    if selected.ok:
        device = selected.detail.split(": ")[0].replace("cpu", "the CPU")
        verdict += f"; gpunn uses {device}"
    return Report((*cpu.checks, *gpu.checks), verdict, remedy, all(fault.kind == "absent" for fault in faults))


def _first_line(error: BaseException, *, name: bool = True) -> str:
    return (f"{type(error).__name__}: {error}" if name else str(error)).splitlines()[0]


# --- the GPU ---


def _check_gpu(gpu: _Checks) -> None:
    installed = installed_cupy()
    cupy = load_cupy()
    if isinstance(cupy, Fault):
        missing = cupy.kind == "absent"
        fault = cupy_missing(system_driver()) if missing else cupy
        gpu.faults.append(fault)
        gpu.checks.append(Check("CuPy", None if missing else False, fault.verdict))
        return
    version = f"{cupy.__version__} ({', '.join(installed) or 'not from a wheel'})"
    gpu.run("CuPy", lambda: conflicting_wheels(installed) if len(installed) > 1 else version)
    gpu.run("driver", lambda: _driver(cupy), cupy)
    gpu.run("devices", lambda: _devices(cupy), cupy)
    gpu.run("NVRTC", lambda: "{}.{}".format(*cupy.cuda.nvrtc.getVersion()), cupy)
    gpu.run("cuBLAS", lambda: f"found ({getattr(cupy.cuda.cublas, '__name__', 'cublas')})", cupy)
    gpu.run("probe", lambda: _probe(cupy), cupy)
    if gpu.checks[-1].ok:
        gpu.run("GPU products", lambda: _products(cupy), cupy)
    else:
        gpu.checks.append(Check("GPU products", None, "not checked, because the probe failed"))


def _driver(cupy: Any) -> str | Fault:
    driver = cupy.cuda.runtime.driverGetVersion()
    runtime = cupy.cuda.runtime.runtimeGetVersion()
    if driver == 0 or driver < runtime // 1000 * 1000:
        return diagnose(RuntimeError("cudaErrorInsufficientDriver"), cupy)
    return f"supports CUDA {format_version(driver)}; CuPy was built for {format_version(runtime)}"


def _devices(cupy: Any) -> str | Fault:
    count = cupy.cuda.runtime.getDeviceCount()
    if count == 0:
        return no_device("cuda:0", 0)
    setting = os.environ.get("CUDA_VISIBLE_DEVICES")
    source = f" (CUDA_VISIBLE_DEVICES={setting})" if setting is not None else ""
    return "; ".join(f"cuda:{k} {describe(cupy, k)}" for k in range(count)) + source


def _probe(cupy: Any) -> str | Fault:
    found = probe(cupy, 0)
    return found if isinstance(found, Fault) else "cuda:0 ran a kernel and a matrix product correctly"


def _products(cupy: Any) -> str | Fault:
    """The library, the types and the epilogues of matrix products in a captured step."""
    device = cupy.cuda.Device(0)
    with device:
        lt = cublaslt.open_cublaslt(cupy)
        if isinstance(lt, Fault):
            return lt
        types: dict[str, list[tuple[str, str | None, str]]] = {t: [(t, None, t)] for t in ("float32", "float64")}
        if int(device.compute_capability) >= MIN_COMPUTE_CAPABILITY:
            types["TF32"] = [("float32", "tf32", "float32")]
            types["bfloat16"] = [("uint16", "bf16", result) for result in ("uint16", "float32")]
        supported = [name for name, keys in types.items() if all(lt.supports(*key, "none") for key in keys)]
        epilogues = [e for e in cublaslt.EPILOGUE_CODES if e != "none" and lt.supports("float32", None, "float32", e)]
    return f"{lt}, captured with the step: {', '.join(supported)}; fused epilogues: {', '.join(epilogues) or 'none'}"


def _selected_device() -> str | Check | Fault:
    try:
        backend, _ = choose("auto")
    except DeviceError as error:
        return Check("device", False, str(error))
    except ValueError as error:
        return Fault("setting", str(error), "unset GPUNN_DEVICE, or set it to one of these")
    return f"{backend.device}: {backend.reason}"


# --- the CPU ---


def _blas() -> str:
    config: Any = np.show_config(mode="dicts")
    library = config["Build Dependencies"]["blas"]
    return f"{library['name']} {library.get('version', '')}".strip()


def _own_version() -> str:
    version = getattr(sys.modules.get("gpunn"), "__version__", None)
    if version is None:
        from importlib.metadata import version as installed

        version = installed("gpunn")
    return str(version)


def _cpu_kernels() -> str | Check | Fault:
    """Load one kernel, compiled if that is necessary, and run it."""
    from ..kernels import get as kernel
    from ..kernels._compiler import compiler, cpu_cache

    if not cpu_cache.compilation_enabled():
        return Check("CPU kernels", None, "numpy: GPUNN_COMPILE=0")
    try:
        cpu_cache.load_probe()
        x, y = np.arange(5.0), np.empty(5)
        kernel("identity").bind_compiled(x, out=y)()
        if not np.array_equal(x, y):
            raise RuntimeError("the kernel identity returns wrong numbers")
    except Exception as error:
        reason = _first_line(error, name=False).removesuffix(f": {compiler.REMEDY}")
        action = "let CXX name a compiler that works, or unset it" if os.environ.get("CXX") else compiler.REMEDY
        remedy = f"{action}: small networks become up to 50 times faster"
        return Fault("compiler", f"compiled kernels do not run: {reason}", remedy)
    return f"compiled: {cpu_cache.status().reason}"


def _cpu_steps() -> str | Check:
    """The part of a step that runs in compiled code on this CPU."""
    if native.executor_library() is None:
        return Check("CPU steps", None, "run from Python, because nothing is compiled")
    found = blas.find_gemm("float32")
    if found is None:
        return Check("CPU steps", None, "return to Python for each product: NumPy's BLAS exports no usable function")
    threads = blas.thread_count()
    return (
        f"compiled, at most {threads} thread{'s' * (threads > 1)}; large products by {found.name}, small ones by "
        "gpunn's own code"
    )


def _cache_folder() -> str | Check | Fault:
    import tempfile

    from ..kernels._compiler import cpu_cache, prebuilt

    folder = cpu_cache.cache_folder()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return str(folder)
    except OSError as error:
        verdict = f"the cache folder {folder} cannot be written ({_first_line(error)})"
        if prebuilt.bundles():
            return Check("cache folder", None, verdict)
        return Fault("cache", verdict, "set GPUNN_CACHE to a folder that you may write")
