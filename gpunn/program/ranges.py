"""Dependencies by the ranges of memory that are accessed.

One tracker serves the order of a program's ops, the barriers of the CPU's threads and the streams of a GPU.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable

Range = tuple[int, int]  # start and end, in any unit
Access = tuple[Hashable, int, int]  # memory (a variable, a tensor, an address space), start, end


class Tracker:
    """The accesses so far, each with the index of who made it.

    An access must follow an earlier one if it reads what that wrote, or writes what that read or wrote.
    """

    def __init__(self) -> None:
        self._reads: dict[Hashable, list[tuple[int, int, int]]] = {}
        self._writes: dict[Hashable, list[tuple[int, int, int]]] = {}

    def add(self, index: int, reads: Iterable[Access], writes: Iterable[Access]) -> set[int]:
        """Record accesses. Return the indices of earlier ones, other than `index`, that they must follow."""
        found = self.find(reads, writes)
        self.record(index, reads, writes)
        found.discard(index)
        return found

    def find(self, reads: Iterable[Access], writes: Iterable[Access]) -> set[int]:
        """The indices of the recorded accesses that these must follow."""
        found: set[int] = set()
        for accesses, earlier in ((reads, self._writes), (writes, self._writes), (writes, self._reads)):
            for memory, start, end in accesses:
                for low, high, index in earlier.get(memory, ()):
                    if low < end and start < high and start < end:
                        found.add(index)
        return found

    def record(self, index: int, reads: Iterable[Access], writes: Iterable[Access]) -> None:
        """Record accesses."""
        for accesses, into in ((reads, self._reads), (writes, self._writes)):
            for memory, start, end in accesses:
                if start < end:
                    into.setdefault(memory, []).append((start, end, index))


def merge(ranges: Iterable[Range]) -> list[Range]:
    """The same elements in as few ranges as possible, in order."""
    found: list[Range] = []
    for start, end in sorted(ranges):
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(end, found[-1][1])
        else:
            found.append((start, end))
    return found
