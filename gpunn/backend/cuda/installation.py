"""What of CuPy and CUDA is installed here, asked without importing CuPy."""

from __future__ import annotations

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
    """The CuPy distributions that pip knows here, as "name version"."""
    from importlib.metadata import PackageNotFoundError, version

    found = []
    for name in WHEELS:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return found


def system_driver() -> int:
    """The CUDA version that this machine's NVIDIA driver supports (13000 is 13.0); 0 without a driver."""
    import ctypes

    try:
        library = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        version = ctypes.c_int(0)
        return version.value if library.cuDriverGetVersion(ctypes.byref(version)) == 0 else 0
    except (OSError, AttributeError):
        return 0


def pip_install(driver: int) -> str:
    """The pip command for CuPy with CUDA's libraries, as the driver can run them (0: not known)."""
    return f'python -m pip install "gpunn[cuda{13 if driver >= 13000 else 12}-ctk]"'


def pip_add_libraries() -> str:
    """The pip command that adds CUDA's libraries to the CuPy that is here."""
    return pip_install(13000 if any("cuda13" in w for w in installed_cupy()) else 0)


def pip_reinstall(driver: int | None = None) -> str:
    """The pip commands that remove every CuPy and install one, as `driver`, else the driver here, can run it."""
    names = " ".join(w.split()[0] for w in installed_cupy())
    install = pip_install(system_driver() if driver is None else driver)
    return f"python -m pip uninstall -y {names} && {install}" if names else install


def format_version(version: int) -> str:
    """12090 as "12.9"."""
    return f"{version // 1000}.{version % 1000 // 10}"
