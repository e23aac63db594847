"""Dependencies by ranges: the tracker finds exactly the accesses that conflict."""

import itertools

import numpy as np
import pytest

from gpunn.program.ranges import Tracker, merge


def conflict(later, earlier):
    """True if two accesses, each (reads, writes) as sets of elements, must keep their order."""
    (reads, writes), (read, written) = later, earlier
    return bool(reads & written or writes & written or writes & read)


@pytest.mark.parametrize("seed", range(20))
def test_dependencies_equal_those_of_sets_of_elements(seed):
    rng = np.random.default_rng(seed)

    def ranges():
        starts = rng.integers(0, 12, rng.integers(0, 3))
        return [(str(rng.integers(2)), int(s), int(s + rng.integers(0, 4))) for s in starts]

    accesses = [(ranges(), ranges()) for _ in range(30)]
    elements = [[{(m, k) for m, a, b in each for k in range(a, b)} for each in pair] for pair in accesses]
    tracker = Tracker()
    for k, (reads, writes) in enumerate(accesses):
        wanted = {j for j in range(k) if conflict(elements[k], elements[j])}
        assert tracker.find(reads, writes) == wanted
        assert tracker.add(k, reads, writes) == wanted


def test_an_access_does_not_depend_on_its_own_index():
    tracker = Tracker()
    tracker.record(0, [], [("x", 0, 4)])
    tracker.record(1, [("x", 4, 8)], [])
    assert tracker.find([], [("x", 3, 5)]) == {0, 1}
    assert tracker.add(1, [], [("x", 3, 5)]) == {0}
    assert tracker.add(2, [("x", 4, 5)], []) == {1}  # two reads do not conflict


def test_empty_ranges_and_other_memory_do_not_conflict():
    tracker = Tracker()
    tracker.record(0, [], [("x", 0, 4), ("y", 2, 2)])
    assert tracker.find([("x", 4, 8), ("z", 0, 4)], [("y", 0, 9)]) == set()


def test_merged_ranges_have_the_same_elements():
    rng = np.random.default_rng(0)
    for _ in range(50):
        given = [(int(s), int(s + rng.integers(1, 5))) for s in rng.integers(0, 30, 8)]
        found = merge(given)
        assert {k for a, b in found for k in range(a, b)} == {k for a, b in given for k in range(a, b)}
        assert all(a[1] < b[0] for a, b in itertools.pairwise(found))
    assert merge([]) == []
