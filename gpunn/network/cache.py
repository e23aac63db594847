"""The cache of executables: networks of one structure share them, and each caller gets its own."""

from __future__ import annotations

import threading
from collections.abc import Hashable

from .batch_io import Arrays
from .executable import Executable, Task, key_of
from .state import CompiledState

MAX_BYTES = 1 << 24  # of the buffers of free executables


class ExecutableCache:
    """Free executables by everything that they depend on, the least recently used first.

    It is limited to MAX_BYTES, but contains at least the last `at_least` keys.
    """

    def __init__(self, at_least: int = 0) -> None:
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
        with self._lock:
            self._free[key] = [*self._free.pop(key, []), executable]
            self._bytes += executable.bytes
            while self._bytes > MAX_BYTES and len(self._free) > self._at_least:
                oldest = next(iter(self._free))
                self._bytes -= sum(each.bytes for each in self._free.pop(oldest))

    def clear(self) -> None:
        """Drop all executables that are not in use."""
        with self._lock:
            self._free.clear()
            self._bytes = 0

    def __len__(self) -> int:
        return sum(map(len, self._free.values()))


SHARED = ExecutableCache()


class Loan:
    """A context with an executable for a network and a caller's arrays.

    Networks of one structure share executables that are bound to a caller's arrays, if these can be exchanged. Those
    without such arrays are in the network's `own` cache.
    """

    def __init__(self, net: CompiledState, own: ExecutableCache, task: Task, arrays: Arrays) -> None:
        self._net, self._task, self._arrays = net, task, arrays
        self._cache = SHARED if arrays else own
        self._key: Hashable = key_of(net, task, arrays) if arrays else task

    def __enter__(self) -> Executable:
        net, arrays = self._net, self._arrays
        found = None if self._key is None else self._cache.take(self._key)
        if found is None or arrays:
            with net.backend.activate():
                found = found or Executable(net, self._task, arrays)
                found.bind(net, arrays)
        self._executable = found
        return found

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        # after an error it may be in the middle of a step; an eager step refers to the network
        found = self._executable
        if kind is not None or self._key is None or self._net.eager:
            return
        if self._cache is SHARED:
            if not found.rebindable:
                return
            found.release()
        self._cache.put(self._key, found)
