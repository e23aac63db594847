"""Recording a step: the layers say once what is to be computed, and the launches they leave are run step after step.

A layer's text is imperative — ``ops.matmul(a_prev, W, out=z)`` — and runs once, when a plan is made. Each call binds
its buffers and leaves a launch, a callable without arguments. A step is that list run in order: no shapes are
checked, nothing is allocated, and nothing of it depends on Python beyond the loop over the list.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal

import numpy as np

from .backend import Backend
from .kernels import Kernel, Launch, bind_all
from .kernels import get as kernel

Array = Any
LOOK_AFTER = 0.1  # seconds that compiled code runs at most before Python looks again


class Recorder:
    """What a layer writes to. `keep=True` asks layers to keep z and δ apart from a and ∂C/∂a, for `trace`."""

    def __init__(self, backend: Backend, *, keep: bool = False) -> None:
        self.backend = backend
        self.keep = keep
        self.eager: list[str] = []
        self.bytes = 0
        self._stages: list[list[Any]] = [[]]

    def __call__(self, kernel: Kernel, *inputs: Array, out: Any, count: Any = None, **scalars: float) -> None:
        """Record out = kernel(inputs)."""
        self._stages[-1].append((kernel, inputs, out, count, scalars))

    def new(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """Scratch for what is being recorded; it counts among the plan's bytes."""
        made = self.backend.empty(shape, dtype)
        self.bytes += made.nbytes
        return made

    def matmul(self, a: Array, b: Array, out: Array) -> None:
        """Record out = a b."""
        self._stages[-1].append(self.backend.bind_matmul(a, b, out))

    def affine(self, a: Array, W: Array, b: Array, out: Array, f: str | None = None) -> Literal["", "z", "a"]:
        """Record out = a W + b where this device does so in one launch, and the activation named `f` with it where it
        can; which of them `out` then holds, z or a, or "" where nothing was recorded."""
        found = self.backend.bind_affine(a, W, b, out, f)
        if found is None:
            return ""
        launch, activated = found
        self._stages[-1].append(launch)
        return "a" if activated else "z"

    def with_column_sums(self, kernel: Kernel, *inputs: Array, out: Array, sums: Array, **scalars: float) -> bool:
        """Record out = kernel(inputs) and sums = Σ over the rows of `out` where this device does both in one pass;
        whether it did."""
        launch = kernel.bind_with_column_sums(*inputs, out=out, sums=sums, **scalars)
        if launch is not None:
            self._stages[-1].append(launch)
        return launch is not None

    def copy(self, a: Array, out: Array) -> None:
        """Record out = a."""
        self(kernel("identity"), a, out=out)

    def call(self, function: Callable[..., Any], *arguments: Any, why: str) -> None:
        """Record a call of a Python function on the plan's arrays, which it writes in place.

        Such a step runs eagerly: `why` says what leaves the fast path, and `summary` repeats it.
        """
        self._stages[-1].append(lambda: function(*arguments))
        self.eager.append(why)

    def take(self) -> list[Launch]:
        """The list of what was recorded since the last call; its launches can run after `bind`."""
        stage = self._stages[-1]
        self._stages.append([])
        return stage

    def bind(self) -> None:
        """Bind every kernel recorded so far, in the lists that `take` gave out; texts compile side by side."""
        places = [(stage, k) for stage in self._stages for k, item in enumerate(stage) if isinstance(item, tuple)]
        for (stage, k), launch in zip(places, bind_all(stage[k] for stage, k in places), strict=True):
            stage[k] = launch


def run(launches: Iterable[Launch]) -> None:
    """Run recorded launches in order. Whether numbers stay finite is the flag's to judge, not NumPy's warnings'."""
    with np.errstate(all="ignore"):
        for launch in launches:
            launch()


def is_walk(launches: list[Any]) -> bool:
    """Whether one launch does it all, and may do so again and again by itself."""
    return len(launches) == 1 and hasattr(launches[0], "repeat")


def repeat(launches: list[Any], times: int, state: Array, *, seconds: float, **rates: Any) -> int:
    """Run the same launches again and again; how many times it was: fewer where `seconds` are over or a step was bad.

    `rates` are the learning rates that a `Walk` takes. Launches that are not one walk run once.
    """
    if times > 1 and is_walk(launches):
        return int(launches[0].repeat(times, state, seconds=seconds, **rates))
    run(launches)
    return 1


def repeat_all(launches: list[Any], times: int, state: Array) -> None:
    """Run the same launches so many times; now and then Python looks whether somebody interrupts."""
    while times > 0:
        times -= repeat(launches, times, state, seconds=LOOK_AFTER)
