"""The interface of a backend: allocation, transfer, matrix products and the execution of recorded launches."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar, Protocol

import numpy as np

from ..program import Op, Rule
from .arrays import to_host
from .executor import Executor, Launch, execute

OnFallback = Callable[[str], Any]
_NO_CONTEXT = contextlib.nullcontext()


class Communicator(Protocol):
    """Processes that sum arrays: their ranks, an all-gather of Python objects, and the all-reduce of host arrays."""

    rank: int
    size: int
    local_rank: int

    def allgather(self, where: str, value: Any) -> list[Any]: ...

    def bind_async_all_reduce(self, arrays: Sequence[Any], *, blocking: bool) -> tuple[list[Launch], list[Launch]]: ...


class AllReducer(Protocol):
    """An all-reduce of arrays of one device."""

    def bind_async_all_reduce(self, arrays: Sequence[Any], *, blocking: bool) -> tuple[list[Launch], list[Launch]]: ...


class TransferBuffer:
    """An array of the device, and the host array from which it is filled. On a CPU both are the same array.

    The host writes to `host` between `wait_reusable` and `copy_async`. The device may read `device` between
    `wait_on_stream` and `mark_consumed`.
    """

    def __init__(self, array: np.ndarray) -> None:
        self.host: np.ndarray = array
        self.device: Any = array

    def wait_reusable(self) -> None:
        """Block until the last copy has read `host`."""

    def copy_async(self, count: int) -> None:
        """Start to copy the first `count` rows of `host` to `device`, after the work before `mark_consumed`."""

    def wait_on_stream(self) -> None:
        """Make work that is submitted from now on wait for the last copy."""

    def mark_consumed(self) -> None:
        """Declare that all work on the last copy has been submitted."""


class Backend:
    """A device and its array library. Created by `get`; backends of one device are equal.

    Attributes
    ----------
    device : str
        "cpu" or "cuda:N".
    xp : module
        numpy or cupy.
    reason : str
        The reason for the choice of this device, in one line.
    """

    device: str
    xp: Any
    reason: str
    unpickle: ClassVar[Callable[[str], Backend]]  # `select.get`, set there because this module cannot import it

    # --- arrays ---

    def empty(self, shape: int | tuple[int, ...], dtype: Any) -> Any:
        """An uninitialized array on the device. MemoryError gives the bytes needed, the bytes free and the remedy."""
        with self.activate():
            return self.xp.empty(shape, dtype=dtype)

    def zeros(self, shape: int | tuple[int, ...], dtype: Any) -> Any:
        """An array of zeros on the device. Raises MemoryError like `empty`."""
        with self.activate():
            return self.xp.zeros(shape, dtype=dtype)

    def asarray(self, x: Any, dtype: Any = None) -> Any:
        """Convert `x`, on the host or a device, to an array of this device. An array that is one already is not
        copied."""
        raise NotImplementedError

    def to_host(self, x: Any) -> np.ndarray:
        """`x` as a NumPy array, after the work that computes it has finished."""
        return to_host(x)

    def transfer_buffers(self, like: Sequence[tuple[tuple[int, ...], Any]]) -> list[TransferBuffer]:
        """One buffer per (shape, dtype) that the host fills while the device computes."""
        return [TransferBuffer(np.empty(shape, dtype)) for shape, dtype in like]

    def fits_in_memory(self, size: int) -> bool:
        """True if `size` bytes fit in the device's free memory, with enough left to compute with them."""
        return True

    def release_memory(self) -> None:
        """Return cached memory that the array library does not use to the device."""

    # --- the device ---

    def synchronize(self) -> None:
        """Block until the device has finished all submitted work."""

    def activate(self) -> AbstractContextManager[Any]:
        """A context in which allocations and launches use this device, and MemoryErrors contain the remedy."""
        return _NO_CONTEXT

    def max_concurrent_fits(self) -> int:
        """The number of small fits, one thread each, that run concurrently; 1 if each fit uses the whole device."""
        return 1

    def single_threaded(self) -> AbstractContextManager[Any]:
        """A context in which recorded steps use one host thread, so that several fits can run concurrently."""
        return contextlib.nullcontext()

    def all_reducer(self, group: Communicator) -> AllReducer:
        """The all-reduce of this device's arrays over a process group. Called by all its processes."""
        return group

    # --- matrix products ---

    def bind_matmul(self, a: Any, b: Any, out: Any, precision: str | None = None) -> Launch:
        """Bind out = a b on fixed buffers. See `gpunn.backend.matmul.bind_xp_matmul` for shapes and errors."""
        raise NotImplementedError

    def rewrite_rules(self) -> Sequence[Rule]:
        """The fusions of this device, in the order in which they are applied."""
        return ()

    def rewrite_key(self) -> Any:
        """A key of everything that the rewrite rules depend on, besides the program."""
        return self.device

    def uses_csr_products(self, stored: float, columns: int, width: int, *, gradient: bool) -> bool:
        """True if products of compressed rows with a matrix (columns, width) are faster than those of dense rows.

        `stored` is the mean number of stored values per row. `gradient`: the matrix has a gradient (E6).
        """
        return False

    def bind_op(self, op: Op, inputs: Sequence[Any], outputs: Sequence[Any], precision: str | None = None) -> Launch:
        """Bind an op that is no kernel: a product, or an op that a rewrite rule of this device introduced.

        Parameters
        ----------
        op : Op
        inputs, outputs : sequence of array
            Its operands and its results.
        precision : str or None
            "tf32", "bf16", or None for the operands' dtype.

        Raises
        ------
        ValueError
            If this device has no such op.
        """
        if op.name != "matmul":
            raise ValueError(f"{self.device} has no operation {op.name!r}")
        return self.bind_matmul(inputs[0], inputs[1], outputs[0], precision)

    def lower_precision_error(self, *, explicit: bool) -> str:
        """The reason why products in TF32 or bfloat16 are impossible on this device, with the remedy; "" if they are
        possible. `explicit` is false for a network that was moved here with its precision, which a CPU ignores."""
        raise NotImplementedError

    def operand_rounding(self, precision: str | None) -> float:
        """The unit roundoff of the operands of a product on this device."""
        return 0.0

    def stores_bfloat16(self, precision: str | None) -> bool:
        """True if products in this precision read bfloat16, so that tensors are stored in it."""
        return False

    # --- execution of recorded launches ---

    def executor_key(self) -> Any:
        """A key of everything that an executor depends on, besides its launches."""
        return self.device

    def time_launch(self, launch: Launch, times: int) -> float:
        """Run a launch `times` times and return the seconds until the device has finished."""
        self.synchronize()
        begin = time.perf_counter()
        execute(launch for _ in range(times))
        self.synchronize()
        return time.perf_counter() - begin

    def kernel_report(self) -> str:
        """The implementation of the kernels that runs, and the reason; "" if there is only one."""
        return ""

    def slow_path_reasons(self) -> list[str]:
        """The reasons for which Python code runs where this device has compiled code."""
        return []

    def runs_blocks(self) -> bool:
        """True if executors may run steps on blocks of larger arrays, see `Executor.run_blocks`."""
        return False

    def compile(
        self, launches: Sequence[Launch], *, flush: bool = False, on_fallback: OnFallback | None = None
    ) -> list[Launch]:
        """Combine launches into as few as this device supports, in the same order.

        Parameters
        ----------
        launches : sequence of callables
        flush : bool
            Subnormal numbers may be flushed to 0.
        on_fallback : callable or None
            Called later, with the reason, if the launches run one by one after all.

        Returns
        -------
        list of callables
        """
        return list(launches)

    def executor(
        self,
        sections: Sequence[Sequence[Launch]],
        state: Any,
        end: Sequence[Launch] = (),
        *,
        flush: bool = False,
        arrays: Mapping[str, Any] | None = None,
        on_fallback: OnFallback | None = None,
    ) -> Executor:
        """The executor of these sections.

        Parameters
        ----------
        sections, state, end
            As in `Executor`.
        flush, on_fallback
            As in `compile`.
        arrays : mapping of str to array, optional
            Arrays that the executor's `rebind` and `run_blocks` may exchange, if it has them.

        Returns
        -------
        Executor
        """
        compiled = [self.compile(each, flush=flush, on_fallback=on_fallback) for each in sections]
        return Executor(compiled, state, end)

    # --- identity ---

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by name: a process has one backend per device."""
        return type(self).unpickle, (self.device,)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Backend) and other.device == self.device

    def __hash__(self) -> int:
        return hash(self.device)

    def __repr__(self) -> str:
        return f"<Backend {self.device}: {self.reason}>"
