"""The CPU backend: NumPy arrays, BLAS and compiled steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from ..arrays import to_host
from ..base import Backend, Launch, OnFallback
from ..concurrency import EpochCoroutine, run_in_threads
from ..epoch_runner import BufferRebinder, EpochRunner, Section, build_epoch_runner, make_rebinder
from ..matmul import AffineLaunch, bind_xp_matmul, check_operands
from .blas import bind_affine, bind_gemm, single_threaded_blas, thread_count
from .executor import compile_blocks, compile_launches


class CPUBackend(Backend):
    """NumPy."""

    device = "cpu"
    xp = np

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def asarray(self, x: Any, dtype: Any = None) -> Any:
        return np.asarray(to_host(x), dtype=dtype)

    def max_concurrent_fits(self) -> int:
        return thread_count()

    def single_threaded(self) -> AbstractContextManager[Any]:
        return single_threaded_blas()

    def bind_matmul(self, a: Any, b: Any, out: Any, precision: str | None = None) -> Launch:
        launch = bind_xp_matmul(np, a, b, out)
        return bind_gemm(a, b, out) or launch

    def bind_affine(
        self,
        a: Any,
        W: Any,
        b: Any,
        z: Any,
        out: Any,
        activation: str,
        *,
        nan_checked: bool = False,
        save_aux: bool = False,
        precision: str | None = None,
    ) -> AffineLaunch | None:
        check_operands(np, a, W, z)
        found = bind_affine(a, W, b, z, activation if z is out else None)
        if found is None:
            return None
        launch, fused = found
        return AffineLaunch(launch, "a" if fused else "z")

    def lower_precision_error(self, *, explicit: bool) -> str:
        return "is for GPUs, and the device is the CPU; leave precision out" if explicit else ""

    def compile(
        self, launches: Sequence[Launch], *, flush: bool = False, on_fallback: OnFallback | None = None
    ) -> list[Launch]:
        return compile_launches(launches, flush=flush)

    def epoch_runner(self, sections: Sequence[Section], state: Any, *, flush: bool = False) -> EpochRunner:
        return build_epoch_runner(sections, state, flush=flush)

    def make_rebindable(self, runner: EpochRunner, arrays: Sequence[Any]) -> BufferRebinder | None:
        return make_rebinder(runner, arrays)

    def bind_blocks(self, launches: Sequence[Launch], block_arrays: Sequence[Any]) -> Any:
        return compile_blocks(launches, block_arrays)

    def run_concurrently(
        self, coroutines: Sequence[EpochCoroutine], seconds: float, poll_interrupt: Callable[[], None]
    ) -> None:
        run_in_threads(coroutines, seconds, poll_interrupt, min(self.max_concurrent_fits(), len(coroutines)))
