"""The backends, NumPy on the CPU and CuPy on a GPU, and the choice between them."""

from __future__ import annotations

import contextlib
import os
import re
import threading
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import numpy as np

from .arrays import is_device_array, to_host
from .blas import bind_affine, bind_product
from .compiled import join, walk_along
from .faults import Fault, absent, forked, out_of_memory
from .installation import system_driver, wheels
from .nccl import Nccl, Processes
from .probe import load_cupy, probe
from .products import bind_matmul

ACCEPTED = '"auto", "cpu", "cuda" or "cuda:N" (N = 0, 1, …)'


class DeviceFallbackWarning(UserWarning):
    """ "auto" found CuPy but no GPU that works, and took the CPU; the message says why. Shown once."""


class DeviceError(RuntimeError):
    """The device asked for cannot be used; the message says why and what to do."""


class Backend:
    """A device and its array library. Made by `get`; backends of one device are equal.

    device  "cpu" or "cuda:N"
    xp      the module numpy or cupy
    reason  one line: why this device was taken
    """

    device: str
    xp: Any
    reason: str

    def empty(self, shape: int | tuple[int, ...], dtype: Any) -> Any:
        """An uninitialised array on the device. Raises MemoryError saying needed, free and what to change."""
        with self.activate():
            return self.xp.empty(shape, dtype=dtype)

    def zeros(self, shape: int | tuple[int, ...], dtype: Any) -> Any:
        """An array of zeros on the device. Raises MemoryError as `empty`."""
        with self.activate():
            return self.xp.zeros(shape, dtype=dtype)

    def asarray(self, x: Any, dtype: Any = None) -> Any:
        """`x`, from host or device, as an array of this device; not copied where it is one of that dtype."""
        raise NotImplementedError

    def to_host(self, x: Any) -> np.ndarray:
        """`x` as a NumPy array, whichever device holds it; waits for the work that makes it."""
        return to_host(x)

    def synchronize(self) -> None:
        """Wait until the device has done all that was asked of it."""

    def activate(self) -> AbstractContextManager[Any]:
        """A context in which arrays and launches go to this device; its MemoryErrors say what to change."""
        return contextlib.nullcontext()

    def bind_matmul(self, a: Any, b: Any, out: Any) -> Callable[[], Any]:
        """out = a b on fixed buffers, as a callable without arguments; see `gpunn.backend.products`."""
        return bind_matmul(self.xp, a, b, out)

    def join(self, launches: Sequence[Callable[[], Any]], *, flush: bool = False) -> list[Callable[[], Any]]:
        """The same launches in order, as few as this device can make of them; one that has `repeat` runs step after
        step by itself. `flush` allows numbers too small to be normal to be 0 while they run."""
        return list(launches)

    def along_rows(self, launches: Sequence[Callable[[], Any]], moving: Sequence[Any]) -> Any:
        """The launches as one that has `along`, which takes blocks of larger arrays in the place of those in `moving`;
        None where this device cannot."""
        return None

    def bind_affine(
        self, a: Any, W: Any, b: Any, out: Any, f: str | None = None
    ) -> tuple[Callable[[], Any], bool] | None:
        """out = a W + b on fixed buffers as one launch, and whether it applies the activation named `f` too; None where
        the product and the sum are two launches."""
        return None

    def free(self) -> None:
        """Give memory that the array library keeps but does not use back to the device."""

    def of_process(self, processes: Processes) -> Backend:
        """The device that is this process's own where several on one machine ask for the same. DeviceError where there
        are fewer."""
        return self

    def adder(self, processes: Processes) -> Processes | Nccl:
        """What adds arrays of this device over processes, all of which call this: it has `bind_begun_sum`."""
        return processes

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Backend) and other.device == self.device

    def __hash__(self) -> int:
        return hash(self.device)

    def __repr__(self) -> str:
        return f"<Backend {self.device}: {self.reason}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return get, (self.device,)


class CPU(Backend):
    """NumPy."""

    device = "cpu"
    xp = np

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def asarray(self, x: Any, dtype: Any = None) -> Any:
        return np.asarray(to_host(x), dtype=dtype)

    def bind_matmul(self, a: Any, b: Any, out: Any) -> Callable[[], Any]:
        launch = bind_matmul(np, a, b, out)
        return bind_product(a, b, out) or launch

    def bind_affine(
        self, a: Any, W: Any, b: Any, out: Any, f: str | None = None
    ) -> tuple[Callable[[], Any], bool] | None:
        bind_matmul(np, a, W, out)  # which checks them
        return bind_affine(a, W, b, out, f)

    def join(self, launches: Sequence[Callable[[], Any]], *, flush: bool = False) -> list[Callable[[], Any]]:
        return join(launches, flush=flush)

    def along_rows(self, launches: Sequence[Callable[[], Any]], moving: Sequence[Any]) -> Any:
        return walk_along(launches, moving)


class CUDA(Backend):
    """CuPy on one GPU."""

    def __init__(self, cupy: Any, index: int, reason: str) -> None:
        self.xp, self.index, self.reason = cupy, index, reason
        self.device = f"cuda:{index}"
        self.process = os.getpid()

    def to_host(self, x: Any) -> np.ndarray:
        self.check_process()
        return to_host(x)

    def check_process(self) -> None:
        """DeviceError in a process that was forked from the one that used the GPU."""
        if os.getpid() != self.process:
            raise DeviceError(f"{self.device} cannot be used: {forked()}")

    def asarray(self, x: Any, dtype: Any = None) -> Any:
        with self.activate():
            # what comes from the host is cast there: half the bytes travel where float64 becomes float32
            return self.xp.asarray(x if is_device_array(x) else np.asarray(x, dtype=dtype), dtype=dtype)

    def synchronize(self) -> None:
        with self.activate():
            self.xp.cuda.runtime.deviceSynchronize()

    def activate(self) -> AbstractContextManager[Any]:
        self.check_process()
        return _Active(self)

    def of_process(self, processes: Processes) -> Backend:
        count = int(self.xp.cuda.runtime.getDeviceCount())
        if processes.local_rank >= count:
            raise DeviceError(
                f"process {processes.rank} is number {processes.local_rank + 1} on this machine, which has {count} "
                "GPUs: start one process a GPU, or use device='cpu'"
            )
        return get(f"cuda:{processes.local_rank}")

    def adder(self, processes: Processes) -> Processes | Nccl:
        with self.activate():
            return Nccl(self.xp, processes)

    def free(self) -> None:
        with self.activate():
            self.xp.get_default_memory_pool().free_all_blocks()
            self.xp.get_default_pinned_memory_pool().free_all_blocks()


class _Active:
    """`cupy.cuda.Device` as a context that also says what to do where memory runs out."""

    def __init__(self, backend: CUDA) -> None:
        self.backend = backend
        self.context = backend.xp.cuda.Device(backend.index)

    def __enter__(self) -> None:
        self.context.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        xp = self.backend.xp
        ran_out = error is not None and isinstance(error, xp.cuda.memory.OutOfMemoryError)
        fault = out_of_memory(error, xp, self.backend.device) if error is not None and ran_out else None
        self.context.__exit__(kind, error, trace)
        if fault is not None:
            raise MemoryError(str(fault)) from error


@dataclass
class _Choice:
    """What was chosen in this process: backends by device or reason, what "auto" took, whether it warned; and the
    process that used a GPU."""

    backends: dict[str, Backend] = field(default_factory=dict)
    auto: tuple[Backend, Fault | None] | None = None
    warned: bool = False
    process: int | None = None


_choice = _Choice()
_lock = threading.RLock()


def get(device: str | Backend = "auto") -> Backend:
    """The backend of `device`: "auto", "cpu", "cuda", "cuda:N", or a Backend, which is returned as it is.

    "auto" takes what GPUNN_DEVICE names, else the first GPU if a kernel and a matrix product gave the right
    numbers there, else the CPU; if CuPy is installed, a `DeviceFallbackWarning` then says why, once.
    Raises DeviceError, with the reason and the remedy, where a GPU was asked for by name and cannot be used;
    ValueError or TypeError for anything else.
    """
    backend, fault = choose(device)
    # who has no CuPy expects the CPU; a bare folder named cupy is no installation either
    if fault is None or fault.kind == "absent" or (fault.kind == "empty" and not wheels()):
        return backend
    with _lock:
        warned, _choice.warned = _choice.warned, True
    if not warned:
        warnings.warn(f"gpunn uses the CPU: {fault}", DeviceFallbackWarning, stacklevel=2)
    return backend


def choose(device: str | Backend = "auto") -> tuple[Backend, Fault | None]:
    """As `get`, without the warning: the backend, and the fault that kept "auto" from a GPU."""
    if isinstance(device, Backend):
        return device, None
    if not isinstance(device, str):
        raise TypeError(f"device must be {ACCEPTED}, got {device!r} of type {type(device).__name__}")
    named = os.environ.get("GPUNN_DEVICE", "").strip() if device == "auto" else ""
    device, by = (named, f" by GPUNN_DEVICE={named}") if named else (device, "")
    match = re.fullmatch(r"auto|cpu|cuda(?::(0|[1-9]\d*))?", device, flags=re.ASCII)
    if match is None:
        raise ValueError(f"{'GPUNN_DEVICE' if by else 'device'} must be {ACCEPTED}, got {device!r}")
    with _lock:
        if device == "cpu":
            return _cpu(f"asked for{by}"), None
        if device == "auto":
            if _choice.auto is None or (isinstance(_choice.auto[0], CUDA) and _is_forked()):
                _choice.auto = _find()
            return _choice.auto
        found = _cuda(int(match[1] or 0), f"asked for{by}")
    if isinstance(found, Fault):
        found = absent(system_driver()) if found.kind == "absent" else found
        raise DeviceError(f"device {device!r} was asked for{by}, but {found}")
    return found, None


def _find() -> tuple[Backend, Fault | None]:
    found = _cuda(0, "found")
    return (_cpu(found.verdict), found) if isinstance(found, Fault) else (found, None)


def _is_forked() -> bool:
    return _choice.process not in (None, os.getpid())


def _cpu(reason: str) -> Backend:
    return _choice.backends.setdefault(reason, CPU(reason))


def _cuda(index: int, why: str) -> Backend | Fault:
    """The backend of one GPU, probed at first use. A fault is not kept: it may pass."""
    key = f"cuda:{index}"
    if _is_forked():
        return forked()
    if key not in _choice.backends:
        cupy = load_cupy()
        about = cupy if isinstance(cupy, Fault) else probe(cupy, index)
        if isinstance(about, Fault):
            return about
        reason = f"{why}, and ran a kernel and a matrix product rightly ({about})"
        _choice.backends[key] = CUDA(cupy, index, reason)
        _choice.process = os.getpid()
    return _choice.backends[key]
