"""The network: parameters, training state, and a pool of plans. It has no training loop."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from .. import backend as backends
from ..backend import Backend
from ..layers import Layer
from ..program.groups import SINGLE_PROCESS, BatchShard
from .plan import Plan
from .state import CompiledState
from .step import StepOptions

MAX_PLANS = 8
BUFFERS = ("theta", "running", "gradient", "state", "metric_sums")


class Network(CompiledState):
    """Layers with their parameters on a device, compiled for training. `seed` determines all random numbers."""

    def __init__(self, layers: Sequence[Layer], seed: int, dtype: np.dtype) -> None:
        super().__init__(layers, seed, dtype)
        self._lock = threading.Lock()  # of the pool of plans

    def move(self, backend: Backend) -> None:
        """Copy every buffer to another device and drop the plans."""
        if backend.device == self.backend.device:
            self.backend = backend  # its reason may differ
            return
        # nothing is replaced before all copies exist: the other device may lack the memory
        arrays = {name: getattr(self, name) for name in BUFFERS if getattr(self, name) is not None}
        moved = {name: backend.asarray(self.backend.to_host(array)) for name, array in arrays.items()}
        slots = {k: backend.asarray(self.backend.to_host(v)) for k, v in self.slots.items()}
        vars(self).update(moved)
        self.slots, self.capture_errors = slots, {}
        self.backend = backend
        self._reset_plans()

    # --- plans ---

    def drop_plans(self) -> None:
        """Release the memory of plans that are not in use."""
        self._reset_plans()

    @contextmanager
    def plan(self, n: int, options: StepOptions, shard: BatchShard | None = None) -> Iterator[Plan]:
        """A plan for n rows and the current attributes, from the pool or new. It is used by one thread at a time."""
        self.apply_attribute_changes()
        key = n, options, shard
        with self._lock:
            pool = self._pool  # a plan made while another thread changes an attribute must not enter the next pool
            free = pool.get(key)
            plan = free.pop() if free else None
        if plan is None:
            with self.backend.activate():
                plan = Plan(self, n, options, shard)
        try:
            yield plan
        finally:
            with self._lock:
                # the pool may have been dropped since; old plans do not return to the new one
                if pool is self._pool:
                    pool.setdefault(key, []).append(plan)
                    while len(pool) > MAX_PLANS:
                        pool.pop(next(iter(pool)))

    def __getstate__(self) -> dict[str, Any]:
        """The state for pickle and deepcopy, with host arrays and without plans."""
        state = {k: v for k, v in vars(self).items() if k not in ("_lock", "_pool", "_recorded", "backend", "group")}
        for name in BUFFERS:
            if state[name] is not None:
                state[name] = np.array(self.backend.to_host(state[name]))
        state["slots"] = {k: np.array(self.backend.to_host(v)) for k, v in self.slots.items()}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore the state on the CPU."""
        vars(self).update(state)
        self.backend, self.group, self.capture_errors = backends.get("cpu"), SINGLE_PROCESS, {}
        self._recorded, self._lock = None, threading.Lock()
        self._reset_plans()
