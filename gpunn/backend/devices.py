"""The backends, NumPy on the CPU and CuPy on a GPU, and the choice between them."""

from __future__ import annotations

import contextlib
import functools
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
from .concurrency import EpochCoroutine, run_in_threads, run_round_robin
from .cpu.blas import bind_affine, bind_gemm, single_threaded_blas, thread_count
from .cpu.executor import compile_blocks, compile_launches
from .cuda import graph
from .cuda.bfloat16 import UNIT_ROUNDOFF, Bfloat16Operands, Operands
from .cuda.errors import Fault, cupy_missing, forked, is_out_of_memory, out_of_memory
from .cuda.installation import installed_cupy, system_driver
from .cuda.matmul import AffineLaunch, GpuMatmul, bind_xp_matmul, check_operands
from .cuda.multi_network import EpochCombiner
from .cuda.nccl import Nccl, ProcessGroup
from .cuda.pinned import PinnedBuffer, TransferBuffer
from .cuda.probe import load_cupy, probe
from .epoch_runner import BufferRebinder, EpochRunner, Section, build_epoch_runner, make_rebinder

MEMORY_FRACTION = 0.75  # of what is free, for a set; the rest is for what is computed with it
ACCEPTED = '"auto", "cpu", "cuda" or "cuda:N" (N = 0, 1, …)'


Launch = Callable[[], Any]
OnFallback = Callable[[str], Any]


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

    def bind_matmul(self, a: Any, b: Any, out: Any, precision: str | None = None) -> Launch:
        """out = a b on fixed buffers, as a callable without arguments; see `gpunn.backend.cuda.matmul`."""
        return bind_xp_matmul(self.xp, a, b, out)

    def lower_precision_error(self, *, explicit: bool) -> str:
        """Why products cannot be in TF32 or bfloat16 on this device, with what to do; "" where they can. `asked` for by
        name for this device, and not brought along by a network from another, to which it matters no more."""
        raise NotImplementedError

    def operand_rounding(self, precision: str | None) -> float:
        """How far, as a part of it, an operand of a product is rounded on this device before it is multiplied."""
        return 0.0

    def operands(self, precision: str | None) -> Operands:
        """What products in that precision read in the place of arrays; see `gpunn.backend.cuda.bfloat16`."""
        return Operands()

    def allocate_workspace(self, stream: Any) -> Any:
        """Make what launches on a stream need, before it captures; to be held as long as the capture is used."""
        return None

    def compile(
        self, launches: Sequence[Launch], *, flush: bool = False, on_fallback: OnFallback | None = None
    ) -> list[Launch]:
        """The same launches in order, as few as this device can make of them; one that has `repeat` runs step after
        step by itself. `flush` allows numbers too small to be normal to be 0 while they run; `tell` hears, later, why
        they run one by one where they were to be one."""
        return list(launches)

    def epoch_runner(self, parts: Sequence[Section], state: Any, *, flush: bool = False) -> EpochRunner:
        """The launches of each part so many times, part after part, as something that runs epoch after epoch by
        itself; `state` is the state array that they write. `flush` as in `compile`."""
        return EpochRunner(parts, state)

    def make_rebindable(self, epochs: EpochRunner, arrays: Sequence[Any]) -> BufferRebinder | None:
        """What gives recorded epochs other arrays in the place of these; None where they stay as they are."""
        return None

    def max_concurrent_fits(self) -> int:
        """How many small jobs, a thread each, this device runs side by side: 1 where each has all of it."""
        return 1

    def single_threaded(self) -> AbstractContextManager[Any]:
        """A context in which what is recorded and run takes one thread of the host, so that jobs may run abreast."""
        return contextlib.nullcontext()

    def run_concurrently(self, courses: Sequence[EpochCoroutine], seconds: float, look: Callable[[], None]) -> None:
        """Take courses to their ends. A course gives epochs to be taken, one after another, and goes on when they are;
        `look`, called every so many seconds, raises what stops them all, Ctrl-C say, in each of them."""
        run_round_robin(courses, seconds, look)

    def bind_blocks(self, launches: Sequence[Launch], moving: Sequence[Any]) -> Any:
        """The launches as one that has `along`, which takes blocks of larger arrays in the place of those in `moving`;
        None where this device cannot."""
        return None

    def bind_affine(
        self,
        a: Any,
        W: Any,
        b: Any,
        z: Any,
        out: Any,
        f: str,
        *,
        nan_checked: bool = False,
        save_aux: bool = False,
        precision: str | None = None,
    ) -> AffineLaunch | None:
        """z = a W + b (E1) on fixed buffers as one launch, with out = f(z) (E2) in it where this device does so; None
        where the product and the sum are two launches. z and `out` may be one buffer, and z need not be written where
        they are.

        nan_checked  a flag looks at what follows, so that a NaN need not pass through f
        save_aux   a product is to apply f′ in the backward pass
        """
        return None

    def bind_dgrad(
        self, delta: Any, W_T: Any, out: Any, f: str, aux: Any, sums: Any = None, precision: str | None = None
    ) -> Launch | None:
        """out = f′(z) ⊙ (δ Wᵀ) (E5), and its sums over rows (E7) where `sums` is there, as one launch; None where this
        device does not. `kept` is what `bind_affine` kept of z."""
        return None

    def bind_wgrad_with_bias_grad(
        self, a: Any, b: Any, out: Any, sums: Any, precision: str | None = None
    ) -> Launch | None:
        """out = a b and b's sums over rows (E6, E7) as one launch; None where these are two."""
        return None

    def fits_in_memory(self, size: int) -> bool:
        """Whether so many bytes find room on the device, and leave some for what is to be computed."""
        return True

    def transfer_buffers(self, like: Sequence[tuple[tuple[int, ...], Any]]) -> list[TransferBuffer]:
        """For each (shape, dtype) an array of the device that the host fills while the device computes."""
        return [TransferBuffer(np.empty(shape, dtype)) for shape, dtype in like]

    def release_memory(self) -> None:
        """Give memory that the array library keeps but does not use back to the device."""

    def local_device(self, processes: ProcessGroup) -> Backend:
        """The device that is this process's own where several on one machine ask for the same. DeviceError where there
        are fewer."""
        return self

    def all_reducer(self, processes: ProcessGroup) -> ProcessGroup | Nccl:
        """What adds arrays of this device over processes, all of which call this: it has `bind_async_all_reduce`."""
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

    def bind_matmul(self, a: Any, b: Any, out: Any, precision: str | None = None) -> Launch:
        launch = bind_xp_matmul(np, a, b, out)
        return bind_gemm(a, b, out) or launch

    def lower_precision_error(self, *, explicit: bool) -> str:
        return "" if not explicit else "is for GPUs, and the device is the CPU; leave precision out"

    def bind_affine(self, a: Any, W: Any, b: Any, z: Any, out: Any, f: str, **how: Any) -> AffineLaunch | None:
        check_operands(np, a, W, z)
        found = bind_affine(a, W, b, z, f if z is out else None)
        return None if found is None else AffineLaunch(found[0], "a" if found[1] else "z")

    def compile(
        self, launches: Sequence[Launch], *, flush: bool = False, on_fallback: OnFallback | None = None
    ) -> list[Launch]:
        return compile_launches(launches, flush=flush)

    def epoch_runner(self, parts: Sequence[Section], state: Any, *, flush: bool = False) -> EpochRunner:
        return build_epoch_runner(parts, state, flush=flush)

    def make_rebindable(self, epochs: EpochRunner, arrays: Sequence[Any]) -> BufferRebinder | None:
        return make_rebinder(epochs, arrays)

    def max_concurrent_fits(self) -> int:
        return thread_count()

    def single_threaded(self) -> AbstractContextManager[Any]:
        return single_threaded_blas()

    def run_concurrently(self, courses: Sequence[EpochCoroutine], seconds: float, look: Callable[[], None]) -> None:
        run_in_threads(courses, seconds, look, min(self.max_concurrent_fits(), len(courses)))

    def bind_blocks(self, launches: Sequence[Launch], moving: Sequence[Any]) -> Any:
        return compile_blocks(launches, moving)


class CUDA(Backend):
    """CuPy on one GPU."""

    def __init__(self, cupy: Any, index: int, reason: str) -> None:
        self.xp, self.index, self.reason = cupy, index, reason
        self.device = f"cuda:{index}"
        self.process = os.getpid()
        self.gpu_matmul = GpuMatmul(cupy, self.device)

    def to_host(self, x: Any) -> np.ndarray:
        self.check_process()
        return to_host(x)

    def check_process(self) -> None:
        """DeviceError in a process that was forked from the one that used the GPU."""
        if os.getpid() != self.process:
            raise DeviceError(f"{self.device} cannot be used: {forked()}")

    def asarray(self, x: Any, dtype: Any = None) -> Any:
        with self.activate():
            # what comes from the host is cast there: half the bytes travel where float64 becomes float32; an array of
            # another GPU would be left there
            if not is_device_array(x):
                x = np.asarray(x, dtype=dtype)
            elif x.device.id != self.index:
                x = x.copy()
            return self.xp.asarray(x, dtype=dtype)

    def synchronize(self) -> None:
        with self.activate():
            self.xp.cuda.runtime.deviceSynchronize()

    def activate(self) -> AbstractContextManager[Any]:
        self.check_process()
        return _DeviceContext(self)

    def bind_matmul(self, a: Any, b: Any, out: Any, precision: str | None = None) -> Launch:
        with self.activate():
            return self.gpu_matmul.bind(a, b, out, precision)

    def bind_affine(
        self,
        a: Any,
        W: Any,
        b: Any,
        z: Any,
        out: Any,
        f: str,
        *,
        nan_checked: bool = False,
        save_aux: bool = False,
        precision: str | None = None,
    ) -> AffineLaunch | None:
        bind = functools.partial(self.gpu_matmul.bind_with_epilogue, a, W, precision=precision, bias=b)
        with self.activate():
            # the library's rectifier makes 0 of NaN
            if f == "relu" and z is out and nan_checked:
                mask = self.gpu_matmul.new_mask(*out.shape) if save_aux else None
                if mask is not None and (launch := bind(out, epilogue="relu_mask", aux=mask)):  # mutate: E2 cublaslt
                    return AffineLaunch(launch, "a", mask)
                if launch := bind(out, epilogue="relu"):
                    return AffineLaunch(launch, "a")
            # how exactly it computes tanh is nowhere written: only where less was asked for by name
            if f == "gelu" and z is not out and precision and (launch := bind(out, epilogue="gelu_z", aux=z)):
                return AffineLaunch(launch, "a", z)
            launch = bind(z, epilogue="bias")
            return None if launch is None else AffineLaunch(launch, "z")

    def bind_dgrad(
        self, delta: Any, W_T: Any, out: Any, f: str, aux: Any, sums: Any = None, precision: str | None = None
    ) -> Launch | None:
        epilogue = f"d{f}" if sums is None else f"d{f}_sums"
        with self.activate():
            return self.gpu_matmul.bind_with_epilogue(delta, W_T, out, precision, epilogue, sums, aux)

    def bind_wgrad_with_bias_grad(
        self, a: Any, b: Any, out: Any, sums: Any, precision: str | None = None
    ) -> Launch | None:
        with self.activate():
            return self.gpu_matmul.bind_with_epilogue(a, b, out, precision, "sums", sums)

    def lower_precision_error(self, *, explicit: bool) -> str:
        with self.activate():
            return self.gpu_matmul.lower_precision_error(self.xp.cuda.Device(self.index).compute_capability)

    def operand_rounding(self, precision: str | None) -> float:
        return UNIT_ROUNDOFF.get(precision or "", 0.0)

    def operands(self, precision: str | None) -> Operands:
        return Bfloat16Operands(self) if precision == "bf16" else Operands()

    def allocate_workspace(self, stream: Any) -> Any:
        with self.activate():
            return self.gpu_matmul.allocate_workspace(stream)

    def compile(
        self, launches: Sequence[Launch], *, flush: bool = False, on_fallback: OnFallback | None = None
    ) -> list[Launch]:
        # CuPy compiles its kernels so that numbers too small to be normal are 0
        return graph.build_graphs(self, launches, on_fallback)

    def run_concurrently(self, courses: Sequence[EpochCoroutine], seconds: float, look: Callable[[], None]) -> None:
        run_round_robin(courses, seconds, look, EpochCombiner(self))

    def fits_in_memory(self, size: int) -> bool:
        with self.activate():
            free = self.xp.cuda.runtime.memGetInfo()[0] + self.xp.get_default_memory_pool().free_bytes()
        return bool(size <= MEMORY_FRACTION * free)

    def transfer_buffers(self, like: Sequence[tuple[tuple[int, ...], Any]]) -> list[TransferBuffer]:
        with self.activate():
            stream = self.xp.cuda.Stream(non_blocking=True)
            return [PinnedBuffer(self.xp, shape, dtype, stream) for shape, dtype in like]

    def local_device(self, processes: ProcessGroup) -> Backend:
        count = int(self.xp.cuda.runtime.getDeviceCount())
        if processes.local_rank >= count:
            raise DeviceError(
                f"process {processes.rank} is number {processes.local_rank + 1} on this machine, which has {count} "
                "GPUs: start one process a GPU, or use device='cpu'"
            )
        return get(f"cuda:{processes.local_rank}")

    def all_reducer(self, processes: ProcessGroup) -> ProcessGroup | Nccl:
        with self.activate():
            return Nccl(self.xp, processes)

    def release_memory(self) -> None:
        with self.activate():
            self.xp.get_default_memory_pool().free_all_blocks()
            self.xp.get_default_pinned_memory_pool().free_all_blocks()


class _DeviceContext:
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
        fault = None
        if error is not None and is_out_of_memory(error, xp):
            fault = out_of_memory(error, xp, self.backend.device)
        self.context.__exit__(kind, error, trace)
        if fault is not None:
            raise MemoryError(str(fault)) from error


@dataclass
class _DeviceRegistry:
    """What was chosen in this process: backends by device or reason, what "auto" took, whether it warned; and the
    process that used a GPU."""

    backends: dict[str, Backend] = field(default_factory=dict)
    auto: tuple[Backend, Fault | None] | None = None
    warned: bool = False
    process: int | None = None


_registry = _DeviceRegistry()
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
    if fault is None or fault.kind == "absent" or (fault.kind == "empty" and not installed_cupy()):
        return backend
    with _lock:
        warned, _registry.warned = _registry.warned, True
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
            if _registry.auto is None or (isinstance(_registry.auto[0], CUDA) and _is_forked()):
                _registry.auto = _find()
            return _registry.auto
        found = _cuda(int(match[1] or 0), f"asked for{by}")
    if isinstance(found, Fault):
        found = cupy_missing(system_driver()) if found.kind == "absent" else found
        raise DeviceError(f"device {device!r} was asked for{by}, but {found}")
    return found, None


def _find() -> tuple[Backend, Fault | None]:
    found = _cuda(0, "found")
    return (_cpu(found.verdict), found) if isinstance(found, Fault) else (found, None)


def _is_forked() -> bool:
    return _registry.process not in (None, os.getpid())


def _cpu(reason: str) -> Backend:
    return _registry.backends.setdefault(reason, CPU(reason))


def _cuda(index: int, why: str) -> Backend | Fault:
    """The backend of one GPU, probed at first use. A fault is not kept: it may pass."""
    key = f"cuda:{index}"
    if _is_forked():
        return forked()
    if key not in _registry.backends:
        cupy = load_cupy()
        about = cupy if isinstance(cupy, Fault) else probe(cupy, index)
        if isinstance(about, Fault):
            return about
        reason = f"{why}, and ran a kernel and a matrix product rightly ({about})"
        _registry.backends[key] = CUDA(cupy, index, reason)
        _registry.process = os.getpid()
    return _registry.backends[key]
