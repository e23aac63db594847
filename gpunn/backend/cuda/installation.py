"""Queries about the installed CuPy and the NVIDIA driver, and the pip commands that repair them."""

from __future__ import annotations

import ctypes
import sys

# distributions that all write into one folder `cupy`
WHEELS = (
    "cupy",
    "cupy-cuda13x",
    "cupy-cuda12x",
    "cupy-cuda11x",
    "cupy-rocm-7-0",
    "cupy-rocm-7-1",
    "amd-cupy",
)


def installed_cupy() -> list[str]:
    """The installed CuPy distributions, each as "name version"."""
    from importlib.metadata import PackageNotFoundError, version  # slow to import, and rarely needed

    found = []
    for name in WHEELS:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return found


def system_driver() -> int:
    """The version of CUDA that the NVIDIA driver supports (13000 means 13.0); 0 without a driver."""
    try:
        library = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        supported = ctypes.c_int(0)
        return supported.value if library.cuDriverGetVersion(ctypes.byref(supported)) == 0 else 0
    except (OSError, AttributeError):
        return 0


def pip_install(driver: int) -> str:
    """The pip command that installs CuPy with the CUDA libraries that the driver supports (0: unknown driver)."""
    return f'python -m pip install "gpunn[cuda{13 if driver >= 13000 else 12}-ctk]"'


def pip_add_libraries() -> str:
    """The pip command that adds CUDA's libraries to the installed CuPy."""
    return pip_install(13000 if any("cuda13" in package for package in installed_cupy()) else 0)


def pip_reinstall(driver: int | None = None) -> str:
    """The pip commands that remove every CuPy and install one for `driver`, by default for the system's driver."""
    names = " ".join(package.split()[0] for package in installed_cupy())
    install = pip_install(system_driver() if driver is None else driver)
    return f"python -m pip uninstall -y {names} && {install}" if names else install


def format_version(version: int) -> str:
    """Format CUDA's version number: 12090 as "12.9"."""
    return f"{version // 1000}.{version % 1000 // 10}"
