"""The cache of executables: networks of one structure share them, and each caller gets its own."""

from __future__ import annotations

import threading
from collections.abc import Hashable

from .batch_io import Arrays, compressed_batch
from .executable import Executable, ExecutableSpec, layouts, shared_key
from .state import CompiledState

MAX_SHARED_BYTES = 1 << 24  # of the buffers of free executables
MAX_OWN_BYTES = 1 << 26  # of one network


class ExecutableCache:
    """Free executables by everything that they depend on, the least recently used first.

    It is limited to `max_bytes`, but contains at least the last `at_least` keys.
    """

    def __init__(self, max_bytes: int, at_least: int = 0) -> None:
        self.max_bytes = max_bytes
        self._at_least = at_least
        self._lock = threading.Lock()
        self._free: dict[Hashable, list[Executable]] = {}
        self._bytes = 0

    def take(self, key: Hashable) -> Executable | None:
        """Remove and return an executable, if there is one."""
        with self._lock:
            found = self._free.get(key)
            if not found:
                return None
            executable = found.pop()
            if not found:
                del self._free[key]
            self._bytes -= executable.bytes
            return executable

    def put(self, key: Hashable, executable: Executable) -> None:
        """Add an executable, and drop those that were not used for the longest time if there are too many bytes."""
        if executable.bytes > self.max_bytes and not self._at_least:
            return
        with self._lock:
            self._free[key] = [*self._free.pop(key, []), executable]
            self._bytes += executable.bytes
            while self._bytes > self.max_bytes and len(self._free) > self._at_least:
                oldest = next(iter(self._free))
                self._bytes -= sum(each.bytes for each in self._free.pop(oldest))

    def clear(self) -> None:
        """Drop all executables that are not in use."""
        with self._lock:
            self._free.clear()
            self._bytes = 0

    def __len__(self) -> int:
        return sum(map(len, self._free.values()))


SHARED = ExecutableCache(MAX_SHARED_BYTES)


class Loan:
    """A context with an executable for a network and a caller's arrays.

    Networks of one structure share executables whose arrays can be exchanged. The others, and those without a caller's
    arrays, are in the network's `own` cache.
    """

    def __init__(self, net: CompiledState, own: ExecutableCache, spec: ExecutableSpec, arrays: Arrays) -> None:
        spec = spec.reading(compressed_batch(net, arrays, spec.options))
        self._net, self._own, self._spec, self._arrays = net, own, spec, arrays
        self._own_key = spec, net.backend.executor_key(), layouts(arrays) if arrays else ()
        self._shared_key = shared_key(net, spec, arrays) if arrays else None

    def __enter__(self) -> Executable:
        net, arrays = self._net, self._arrays
        found = self._own.take(self._own_key)
        if found is None and self._shared_key is not None:
            found = SHARED.take(self._shared_key)
        if found is None or arrays:
            with net.backend.activate():
                found = found or Executable(net, self._spec, arrays)
                found.bind(net, arrays)
        self._executable = found
        return found

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        # after an error it may be in the middle of a step; an eager step refers to the network, others to a table
        found = self._executable
        if kind is not None or not found.reusable:
            return
        if self._arrays:
            found.release()
        if self._shared_key is not None and found.rebindable:
            SHARED.put(self._shared_key, found)
        else:
            self._own.put(self._own_key, found)
