"""Diagnosis of a CUDA installation: the fault and the remedy for each exception of CuPy.

Types and messages are those of CuPy 14, and of CuPy 13 where they differ. Without a driver every call raises
`cudaErrorInsufficientDriver`, and the driver's version is 0. A missing NVRTC raises `DynamicLibNotFoundError` at the
first kernel, a missing cuBLAS an `ImportError` at the first product. Messages are matched as text, because nothing of
CuPy may be importable.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from ..errors import Fault, brief
from .installation import format_version, installed_cupy, pip_add_libraries, pip_install, pip_reinstall
from .memory import OUT_OF_MEMORY, out_of_memory

DRIVER = ("insufficientdriver", "libcuda.so", "nvcuda.dll", "stublibrary", "stub_library")
DRIVER_MISMATCH = ("drivermismatch", "driver_mismatch", "unsupportedptx", "unsupported_ptx")
NO_DEVICE = ("errornodevice", "error_no_device", "errorinvaliddevice", "error_invalid_device")
ARCHITECTURE = ("gpu-architecture", "nokernelimage", "no_binary_for_gpu")
HEADERS = ("cuda headers", "cannot open source file", "could not open source file")
MISSING = ("failure finding", "failed to load", "cannot open", "no such file")


def diagnose(error: BaseException, cupy: Any = None, device: str = "cuda:0") -> Fault:
    """Identify the fault that made CuPy raise an exception while it was imported or used."""
    text = " | ".join(f"{type(e).__name__}: {e}" for e in _causes(error)).lower()

    def says(parts: tuple[str, ...]) -> bool:
        return any(part in text for part in parts)

    if isinstance(error, MemoryError) or says(OUT_OF_MEMORY):
        return out_of_memory(error, cupy, device)
    if says(DRIVER + DRIVER_MISMATCH):
        return _driver_fault(error, cupy)
    if says(NO_DEVICE):
        return no_device(device, 0)
    if says(ARCHITECTURE):
        other = 12000 if any("cuda13" in package for package in installed_cupy()) else 13000
        verdict = f"CuPy's CUDA compiles no kernels for the architecture of {device} ({brief(error)})"
        return Fault("architecture", verdict, pip_reinstall(other))
    state = "is missing" if says(MISSING) else "does not work"
    if says(HEADERS):
        return Fault("headers", f"the headers of CUDA are missing ({brief(error)})", pip_add_libraries())
    if says(("nvrtc",)):
        return Fault("nvrtc", f"NVRTC, which compiles the kernels, {state} ({brief(error)})", pip_add_libraries())
    if says(("cublas",)):
        return Fault("cublas", f"cuBLAS, which multiplies matrices, {state} ({brief(error)})", pip_add_libraries())
    if isinstance(error, OSError) and error.filename:
        verdict = f"CuPy cannot write its kernel cache ({brief(error)})"
        return Fault("cache", verdict, "set CUPY_CACHE_DIR to a folder that you may write")
    if isinstance(error, (ImportError, AttributeError)):
        return import_failed(error)
    verdict = f"{device} does not work ({brief(error)})"
    return Fault("unknown", verdict, 'check the GPU with nvidia-smi, and use device="cpu" until it works')


def cupy_missing(driver: int = 0) -> Fault:
    """Report that CuPy is not installed. Nothing is broken: gpunn runs on the CPU. `driver` is the version of CUDA that
    the system's driver supports, 0 if unknown."""
    found = f", although a driver for CUDA {format_version(driver)} is" if driver else ""
    return Fault("absent", f"CuPy is not installed{found}", f"for an NVIDIA GPU: {pip_install(driver)}")


def conflicting_wheels(installed: list[str]) -> Fault:
    """Report several wheels that write into one folder: the last one installed overwrote the others."""
    verdict = f"several CuPy packages are installed and overwrite each other: {', '.join(installed)}"
    return Fault("wheels", verdict, pip_reinstall())


def namespace_package(folders: list[str]) -> Fault:
    """Report a folder `cupy` without a package in it, which Python imports as a namespace package."""
    verdict = f"CuPy is broken: {', '.join(folders) or 'cupy'} is an empty folder left by an uninstall"
    return Fault("empty", verdict, f"delete that folder, then {pip_reinstall()}")


def import_failed(error: BaseException) -> Fault:
    """Report a CuPy that is installed and cannot be imported."""
    return Fault("broken", f"CuPy is broken: it cannot be imported ({brief(error)})", pip_reinstall())


def forked() -> Fault:
    """Report that this process was forked after its parent used the GPU.

    The CUDA context belongs to the process that created it: in a forked process calls fail or block forever.
    """
    verdict = "this process was forked from one that had used the GPU, and CUDA does not work in it"
    remedy = (
        'start workers with multiprocessing.get_context("spawn") '
        '(ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn"))), or use the GPU only after forking'
    )
    return Fault("forked", verdict, remedy)


def no_device(device: str, visible: int) -> Fault:
    """Report that the driver works and the device does not exist; `visible` devices do."""
    if visible:
        count = "1 device is" if visible == 1 else f"{visible} devices are"
        names = [f"cuda:{k}" for k in range(visible)]
        return Fault(
            "device", f"there is no {device}: {count} visible ({', '.join(names)})", f'use device="{names[0]}"'
        )
    setting = os.environ.get("CUDA_VISIBLE_DEVICES")
    if setting is not None:
        verdict = f'no CUDA device is visible: CUDA_VISIBLE_DEVICES is "{setting}"'
        return Fault("device", verdict, "unset CUDA_VISIBLE_DEVICES, or name a device that nvidia-smi lists")
    remedy = "make nvidia-smi list a device here (in a container: docker run --gpus all)"
    return Fault("device", "no CUDA device is visible to the driver", remedy)


def wrong_numbers(device: str, operation: str) -> Fault:
    """Report a device that ran something with results that differ from the CPU's."""
    remedy = 'delete CuPy\'s kernel cache (~/.cupy/kernel_cache) and try again; until then use device="cpu"'
    return Fault("numbers", f"{device} ran {operation}, but its numbers are wrong", remedy)


def cublaslt_missing(details: str) -> Fault:
    """Report that cuBLASLt cannot be loaded."""
    verdict = f"cuBLASLt, which multiplies matrices in a captured step, is missing ({details})"
    return Fault("products", verdict, pip_add_libraries())


def cublaslt_failed(details: str) -> Fault:
    """Report that cuBLASLt was loaded and does not work."""
    verdict = f"cuBLASLt, which multiplies matrices in a captured step, does not work ({details})"
    return Fault("products", verdict, pip_reinstall())


def _driver_fault(error: BaseException, cupy: Any) -> Fault:
    driver = _version(cupy, "driverGetVersion")
    runtime = _version(cupy, "runtimeGetVersion")
    update = "update the NVIDIA driver (https://www.nvidia.com/drivers)"
    if driver == 0:
        remedy = "install one (https://www.nvidia.com/drivers) if this machine has an NVIDIA GPU"
        return Fault("driver", "no NVIDIA driver was found", remedy)
    if driver >= runtime // 1000 * 1000:
        return Fault("driver", f"the NVIDIA driver does not fit CuPy's CUDA ({brief(error)})", update)
    supported = format_version(driver)
    verdict = f"the NVIDIA driver is too old: it supports CUDA {supported}, CuPy needs {format_version(runtime)}"
    return Fault("driver", verdict, pip_reinstall(12000) if driver >= 12000 else update)


def _version(cupy: Any, name: str) -> int:
    """The version that a function of CUDA's runtime returns, 0 if it fails."""
    try:
        return int(getattr(cupy.cuda.runtime, name)())
    except Exception:
        return 0


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The exception, and all that caused it."""
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        seen.append(error)
        yield error
        error = error.__cause__ or error.__context__
