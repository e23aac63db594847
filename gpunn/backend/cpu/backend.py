"""The CPU backend: NumPy arrays, BLAS and compiled steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from ...kernels._compiler import cpu_cache
from ...kernels._compiler.compiled_launch import CompiledLaunch
from ...program import Op, Rule
from ..arrays import to_host
from ..base import Backend, OnFallback
from ..executor import Executor, Launch
from ..matmul import bind_xp_matmul
from . import native, rules
from .blas import bind_gemm, bind_small_gemm, single_threaded_blas, thread_count, thread_setting
from .executor import build_executor, compile_launches, time_launch


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

    def uses_csr_products(self, stored: float, columns: int, width: int, *, gradient: bool) -> bool:
        pays = rules.csr_products_pay(stored, columns, width, gradient=gradient)
        return pays and native.executor_library() is not None

    def bind_op(self, op: Op, inputs: Sequence[Any], outputs: Sequence[Any], precision: str | None = None) -> Launch:
        # shapes and layouts were checked when the program was recorded
        if op.name == "matmul" and (launch := bind_gemm(inputs[0], inputs[1], outputs[0])):
            return launch
        if op.name in ("gemm_bias", "gemm_bias_relu"):
            return bind_small_gemm([*inputs[:2], outputs[0], inputs[2]], relu=op.name == "gemm_bias_relu")
        return super().bind_op(op, inputs, outputs, precision)

    def lower_precision_error(self, *, explicit: bool) -> str:
        return "is for GPUs, and the device is the CPU; leave precision out" if explicit else ""

    def executor_key(self) -> Any:
        return self.device, thread_setting()

    def kernel_report(self) -> str:
        found = cpu_cache.status()
        return f"{found.implementation}: {found.reason}"

    def slow_path_reasons(self) -> list[str]:
        compiled = cpu_cache.status().implementation == "compiled"
        return [] if compiled else ["the NumPy references of the kernels run, not the compiled kernels"]

    def time_launch(self, launch: Launch, times: int) -> float:
        if isinstance(launch, CompiledLaunch) and native.executor_library() is not None:
            return time_launch(launch, times)
        return super().time_launch(launch, times)

    def runs_blocks(self) -> bool:
        return native.executor_library() is not None

    def compile(
        self, launches: Sequence[Launch], *, flush: bool = False, on_fallback: OnFallback | None = None
    ) -> list[Launch]:
        return compile_launches(launches, flush=flush)

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
        return build_executor(sections, state, end, flush=flush, arrays=arrays or {})
