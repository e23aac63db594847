"""What can be wrong with a GPU: one verdict and one remedy for each fault, told from what CuPy raises.

Types and messages are those of CuPy 14, and of 13 where they differ: without a driver every call raises
`cudaErrorInsufficientDriver` and the driver's version is 0; a missing NVRTC is a `DynamicLibNotFoundError` at
the first kernel, a missing cuBLAS an `ImportError` at the first product. Matching is by text, without imports.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .installation import format_version, installed_cupy, pip_add_libraries, pip_install, pip_reinstall

OUT_OF_MEMORY = ("cudaerrormemoryallocation", "alloc_failed", "cuda_error_out_of_memory")
DRIVER = ("insufficientdriver", "libcuda.so", "nvcuda.dll", "stublibrary", "stub_library")
DRIVER_MISMATCH = ("drivermismatch", "driver_mismatch", "unsupportedptx", "unsupported_ptx")
NO_DEVICE = ("errornodevice", "error_no_device", "errorinvaliddevice", "error_invalid_device")
ARCHITECTURE = ("gpu-architecture", "nokernelimage", "no_binary_for_gpu")
HEADERS = ("cuda headers", "cannot open source file", "could not open source file")


@dataclass(frozen=True)
class Fault:
    """One fault: its kind (a word), what is wrong, and the one thing to do about it."""

    kind: str
    verdict: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.verdict}. Remedy: {self.remedy}"


def diagnose(error: BaseException, cupy: Any = None, device: str = "cuda:0") -> Fault:
    """The fault behind an exception that CuPy raised while it was imported or used."""
    text = " | ".join(f"{type(e).__name__}: {e}" for e in _chain(error)).lower()

    def says(*parts: str) -> bool:
        return any(part in text for part in parts)

    brief = _brief(error)
    if isinstance(error, MemoryError) or says(*OUT_OF_MEMORY):
        return out_of_memory(error, cupy, device)
    if says(*DRIVER, *DRIVER_MISMATCH):
        return _driver(brief, cupy)
    if says(*NO_DEVICE):
        return no_device(device, 0)
    if says(*ARCHITECTURE):
        other = 12000 if any("cuda13" in w for w in installed_cupy()) else 13000
        what = f"CuPy's CUDA makes no kernels for the architecture of {device} ({brief})"
        return Fault("architecture", what, pip_reinstall(other))
    missing = says("failure finding", "failed to load", "cannot open", "no such file")
    there = "is missing" if missing else "does not work"
    if says(*HEADERS):
        return Fault("headers", f"the headers of CUDA are missing ({brief})", pip_add_libraries())
    if says("nvrtc"):
        return Fault("nvrtc", f"NVRTC, which compiles the kernels, {there} ({brief})", pip_add_libraries())
    if says("cublas"):
        return Fault("cublas", f"cuBLAS, which multiplies matrices, {there} ({brief})", pip_add_libraries())
    if isinstance(error, OSError) and error.filename:
        what = f"CuPy cannot write its kernel cache ({brief})"
        return Fault("cache", what, "set CUPY_CACHE_DIR to a folder that you may write")
    if isinstance(error, (ImportError, AttributeError)):
        return import_failed(error)
    what = f"{device} does not work ({brief})"
    return Fault("unknown", what, 'see whether nvidia-smi is well and take device="cpu" until then')


def cupy_missing(driver: int = 0) -> Fault:
    """No CuPy here at all: nothing is broken, gpunn runs on the CPU. `driver` is the system's, if it was asked."""
    found = f", though a driver for CUDA {format_version(driver)} is" if driver else ""
    return Fault("absent", f"CuPy is not installed{found}", f"for an NVIDIA GPU: {pip_install(driver)}")


def conflicting_wheels(installed: list[str]) -> Fault:
    """Two wheels write into one folder: whichever came last overwrote the other."""
    what = f"several CuPy packages are installed at once and overwrite each other: {', '.join(installed)}"
    return Fault("wheels", what, pip_reinstall())


def namespace_package(folders: list[str]) -> Fault:
    """A folder `cupy` without a package in it, which Python imports as a namespace package."""
    what = f"CuPy is broken: {', '.join(folders) or 'cupy'} is an empty folder left by an uninstall"
    return Fault("empty", what, f"delete that folder, then {pip_reinstall()}")


def import_failed(error: BaseException) -> Fault:
    """CuPy is there and cannot be imported."""
    return Fault("broken", f"CuPy is broken: it cannot be imported ({_brief(error)})", pip_reinstall())


def forked() -> Fault:
    """CUDA's context belongs to the process that made it: in a fork of it every call fails, or never returns."""
    what = "this process was forked from one that had used the GPU, and CUDA does not work in it"
    remedy = (
        'start workers with multiprocessing.get_context("spawn") '
        '(ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn"))), or use the GPU only after forking'
    )
    return Fault("forked", what, remedy)


def no_device(asked: str, visible: int) -> Fault:
    """The driver is there, but not the device asked for."""
    if visible:
        devices = "1 device is" if visible == 1 else f"{visible} devices are"
        which = ", ".join(f"cuda:{k}" for k in range(visible))
        return Fault("device", f"there is no {asked}: {devices} visible ({which})", f'ask for "{which[:6]}"')
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        what = f'no CUDA device is visible: CUDA_VISIBLE_DEVICES is "{named}"'
        return Fault("device", what, "unset CUDA_VISIBLE_DEVICES, or name a device that nvidia-smi lists")
    remedy = "make nvidia-smi list a device here (in a container: docker run --gpus all)"
    return Fault("device", "no CUDA device is visible to the driver", remedy)


def wrong_numbers(device: str, what: str) -> Fault:
    """The device ran something, and the numbers are not those of the CPU."""
    remedy = 'delete CuPy\'s kernel cache (~/.cupy/kernel_cache) and try again; until then device="cpu"'
    return Fault("numbers", f"{device} ran {what}, but its numbers are wrong", remedy)


def cublaslt_missing(details: str) -> Fault:
    """cuBLASLt cannot be loaded."""
    return Fault(
        "products",
        f"cuBLASLt, which multiplies matrices in a captured step, is missing ({details})",
        pip_add_libraries(),
    )


def cublaslt_failed(brief: str) -> Fault:
    """cuBLASLt is there and does not work."""
    what = f"cuBLASLt, which multiplies matrices in a captured step, does not work ({brief})"
    return Fault("products", what, pip_reinstall())


def is_out_of_memory(error: BaseException, cupy: Any) -> bool:
    """Whether memory of a device ran out: in CuPy's pool, or where another allocator, a stream, a graph, page-locked
    memory or cuBLAS asked for it."""
    said = isinstance(error, RuntimeError) and any(part in str(error).lower() for part in OUT_OF_MEMORY)
    return said or isinstance(error, cupy.cuda.memory.OutOfMemoryError)


def out_of_memory(error: BaseException, cupy: Any, device: str) -> Fault:
    """Memory of the device ran out: what was needed, what is free, what to change."""
    try:
        free, total = cupy.cuda.runtime.memGetInfo()
        there = f"{format_bytes(free)} of {format_bytes(total)} are free"
    except Exception:
        there = "how much is free cannot be asked"
    needed = getattr(error, "_size", None)
    wanted = f"{format_bytes(needed)} were needed" if isinstance(needed, int) else _brief(error)
    remedy = "use a smaller batch_size or network, or end the other programs that nvidia-smi lists"
    return Fault("memory", f"{device} is out of memory: {wanted}, {there}", remedy)


def format_bytes(size: float) -> str:
    """A number of bytes as "512 bytes" or "1.5 GiB"."""
    for unit in ("bytes", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.{int(unit != 'bytes')}f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


def _driver(brief: str, cupy: Any) -> Fault:
    driver, runtime = _version(cupy, "driverGetVersion"), _version(cupy, "runtimeGetVersion")
    update = "update the NVIDIA driver (https://www.nvidia.com/drivers)"
    if driver == 0:
        remedy = "install one (https://www.nvidia.com/drivers) if this machine has an NVIDIA GPU"
        return Fault("driver", "no NVIDIA driver was found", remedy)
    if driver >= runtime // 1000 * 1000:
        return Fault("driver", f"the NVIDIA driver does not fit CuPy's CUDA ({brief})", update)
    what = (
        f"the NVIDIA driver is too old: it supports CUDA {format_version(driver)}, CuPy needs {format_version(runtime)}"
    )
    return Fault("driver", what, pip_reinstall(12000) if driver >= 12000 else update)


def _version(cupy: Any, name: str) -> int:
    try:
        return int(getattr(cupy.cuda.runtime, name)())
    except Exception:
        return 0


def _brief(error: BaseException) -> str:
    """Type and first line of the message; of CuPy's page of advice on imports, the line with the cause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip("= \t")]
    cause = [line for line in lines if line.startswith(("ImportError:", "ModuleNotFoundError:"))]
    text = cause[0] if cause else f"{type(error).__name__}: {lines[0] if lines else 'without a message'}"
    return text if len(text) <= 120 else text[:117] + "..."


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        seen.append(error)
        yield error
        error = error.__cause__ or error.__context__
