"""The choice of a device: by name, by GPUNN_DEVICE, or the first GPU that passes the probe.

GPUNN_EAGER=1 selects eager mode on any device.
"""

from __future__ import annotations

import os
import re
import threading
from dataclasses import dataclass, field

from ..user_warnings import warn_user
from .base import Backend, Communicator
from .cpu.backend import CPUBackend
from .cuda.backend import CUDABackend
from .cuda.errors import cupy_missing, forked
from .cuda.installation import installed_cupy, system_driver
from .cuda.probe import load_cupy, probe
from .errors import DeviceError, DeviceFallbackWarning, Fault

ACCEPTED = '"auto", "cpu", "cuda" or "cuda:N" (N = 0, 1, …)'


@dataclass
class _DeviceRegistry:
    """The devices that this process chose.

    Attributes
    ----------
    backends : dict
        Backends by device name ("cuda:N") or reason (CPU).
    auto : tuple or None
        The backend of "auto", and the fault that excluded a GPU.
    warned : bool
        The warning about the fallback to the CPU was issued.
    process : int or None
        The process that used a GPU.
    """

    backends: dict[str, Backend] = field(default_factory=dict)
    auto: tuple[Backend, Fault | None] | None = None
    warned: bool = False
    process: int | None = None


_registry = _DeviceRegistry()
_lock = threading.RLock()


def get(device: str | Backend = "auto") -> Backend:
    """Return the backend of a device.

    "auto" selects the device that GPUNN_DEVICE names. Without that variable it selects the first GPU if a kernel and a
    matrix product gave the right numbers there, else the CPU. If CuPy is installed, a `DeviceFallbackWarning` then
    gives the reason, once.

    Parameters
    ----------
    device : str or Backend
        "auto", "cpu", "cuda", "cuda:N", or a Backend, which is returned unchanged.

    Returns
    -------
    Backend

    Raises
    ------
    DeviceError
        If a GPU was requested by name and cannot be used; with the reason and the remedy.
    ValueError, TypeError
        For any other device.
    """
    backend, fault = choose(device)
    if fault is None or _is_expected(fault):
        return backend
    with _lock:
        first = not _registry.warned
        _registry.warned = True
    if first:
        warn_user(f"gpunn uses the CPU: {fault}", DeviceFallbackWarning)
    return backend


def choose(device: str | Backend = "auto") -> tuple[Backend, Fault | None]:
    """Like `get`, without the warning: return the backend, and the fault that excluded a GPU from "auto"."""
    if isinstance(device, Backend):
        return device, None
    if not isinstance(device, str):
        raise TypeError(f"device must be {ACCEPTED}, got {device!r} of type {type(device).__name__}")
    setting = os.environ.get("GPUNN_DEVICE", "").strip() if device == "auto" else ""
    source = f" by GPUNN_DEVICE={setting}" if setting else ""
    device = setting or device
    match = re.fullmatch(r"auto|cpu|cuda(?::(0|[1-9]\d*))?", device, flags=re.ASCII)
    if match is None:
        raise ValueError(f"{'GPUNN_DEVICE' if setting else 'device'} must be {ACCEPTED}, got {device!r}")
    with _lock:
        if device == "cpu":
            return _cpu(f"asked for{source}"), None
        if device == "auto":
            return _auto()
        found = _cuda(int(match[1] or 0), f"asked for{source}")
    if isinstance(found, Fault):
        fault = cupy_missing(system_driver()) if found.kind == "absent" else found
        raise DeviceError(f"device {device!r} was asked for{source}, but {fault}")
    return found, None


def eager_setting() -> bool:
    """True if GPUNN_EAGER=1 selects eager mode for all networks."""
    return os.environ.get("GPUNN_EAGER", "0") not in ("", "0")


def local_device(backend: Backend, group: Communicator) -> Backend:
    """The GPU of this process, if several processes of one machine requested `backend`; a CPU is shared by all.

    Raises
    ------
    DeviceError
        If the machine has fewer GPUs than processes.
    """
    if not isinstance(backend, CUDABackend):
        return backend
    count = backend.device_count()
    if group.local_rank >= count:
        raise DeviceError(
            f"process {group.rank} is number {group.local_rank + 1} on this machine, which has {count} GPUs: start one "
            "process per GPU, or use device='cpu'"
        )
    return get(f"cuda:{group.local_rank}")


def _is_expected(fault: Fault) -> bool:
    """True if CuPy is not installed, so that users expect the CPU. An uninstalled CuPy may leave an empty folder."""
    return fault.kind == "absent" or (fault.kind == "empty" and not installed_cupy())


def _auto() -> tuple[Backend, Fault | None]:
    """The choice of "auto", made once per process."""
    if _registry.auto is None or (isinstance(_registry.auto[0], CUDABackend) and _is_forked()):
        found = _cuda(0, "found")
        _registry.auto = (_cpu(found.verdict), found) if isinstance(found, Fault) else (found, None)
    return _registry.auto


def _is_forked() -> bool:
    return _registry.process not in (None, os.getpid())


def _cpu(reason: str) -> Backend:
    return _registry.backends.setdefault(reason, CPUBackend(reason))


def _cuda(index: int, reason: str) -> Backend | Fault:
    """The backend of one GPU, probed at first use. A fault may be temporary, so only `_auto` stores it."""
    key = f"cuda:{index}"
    if _is_forked():
        return forked()
    if key not in _registry.backends:
        cupy = load_cupy()
        description = cupy if isinstance(cupy, Fault) else probe(cupy, index)
        if isinstance(description, Fault):
            return description
        reason = f"{reason}; ran a kernel and a matrix product correctly ({description})"
        _registry.backends[key] = CUDABackend(cupy, index, reason)
        _registry.process = os.getpid()
    return _registry.backends[key]


Backend.unpickle = get
