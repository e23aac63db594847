"""The CPU backend: NumPy arrays, BLAS and compiled steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from ...program import Op, Rule
from ..arrays import to_host
from ..base import Backend, Launch, OnFallback
from ..concurrency import EpochCoroutine, run_in_threads
from ..epoch_runner import BufferRebinder, EpochRunner, Section, build_epoch_runner, make_rebinder
from ..matmul import bind_xp_matmul
from . import native, rules
from .blas import bind_gemm, bind_small_gemm, single_threaded_blas, thread_count
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

    def rewrite_rules(self) -> Sequence[Rule]:
        return rules.rewrite_rules()

    def rewrite_key(self) -> Any:
        return self.device, native.gemm_library("float32") is None

    def bind_op(self, op: Op, inputs: Sequence[Any], outputs: Sequence[Any], precision: str | None = None) -> Launch:
        # shapes and layouts were checked when the program was recorded
        if op.name == "matmul" and (launch := bind_gemm(inputs[0], inputs[1], outputs[0])):
            return launch
        if op.name in ("gemm_bias", "gemm_bias_relu"):
            return bind_small_gemm([*inputs[:2], outputs[0], inputs[2]], relu=op.name == "gemm_bias_relu")
        return super().bind_op(op, inputs, outputs, precision)

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
