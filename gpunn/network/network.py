"""The network: parameters, training state, and executables of its steps. It has no training loop."""

from __future__ import annotations

import numpy as np

from .. import backend as backends
from ..backend import Backend
from ..program.groups import SINGLE_PROCESS
from .batch_io import Arrays
from .cache import MAX_OWN_BYTES, ExecutableCache, Loan
from .executable import ExecutableSpec
from .state import CompiledState

BUFFERS = ("theta", "running", "gradient", "state", "metric_sums")


class Network(CompiledState):
    """Layers with their parameters on a device, compiled for training. `seed` determines all random numbers."""

    def move(self, backend: Backend) -> None:
        """Copy every buffer to another device and drop the executables."""
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
        self._reset_executables()

    # --- executables ---

    def _reset_executables(self) -> None:
        super()._reset_executables()
        self._own = ExecutableCache(MAX_OWN_BYTES, at_least=2)  # of a full batch, and of the rest

    def executable(self, spec: ExecutableSpec, arrays: Arrays | None = None) -> Loan:
        """A context with an executable for the current attributes. It is used by one thread at a time."""
        self.apply_attribute_changes()
        return Loan(self, self._own, spec, arrays or {})

    def drop_executables(self) -> None:
        """Release the memory of the executables that no other network shares."""
        self._own.clear()

    def __getstate__(self) -> dict[str, object]:
        """The state for pickle and deepcopy, with host arrays and without executables."""
        left_out = ("_own", "structures", "_recorded", "_versions", "backend", "group")
        state = {k: v for k, v in vars(self).items() if k not in left_out}
        for name in BUFFERS:
            if state[name] is not None:
                state[name] = np.array(self.backend.to_host(state[name]))
        state["slots"] = {k: np.array(self.backend.to_host(v)) for k, v in self.slots.items()}
        return state

    def __setstate__(self, state: dict[str, object]) -> None:
        """Restore the state on the CPU."""
        vars(self).update(state)
        self.backend, self.group, self.capture_errors = backends.get("cpu"), SINGLE_PROCESS, {}
        self._recorded = self._versions = None
        self._reset_executables()
