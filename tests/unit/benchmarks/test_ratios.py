"""Medians and quartiles, compared with hand calculations."""

import pytest

from benchmarks import ratios


@pytest.mark.parametrize(
    "values, expected",
    [
        ([5, 1, 4, 2, 3], (2, 3, 4)),
        ([1, 2, 3, 4], (1.75, 2.5, 3.25)),
        ([9, 1, 2, 8, 3, 7, 4, 6, 5], (3, 5, 7)),
        ([7, 3], (4, 5, 6)),
        ([6], (6, 6, 6)),
    ],
)
def test_quartiles(values, expected):
    assert ratios.quartiles(values) == expected


def test_quartiles_of_no_values_are_refused():
    with pytest.raises(ValueError, match="no values"):
        ratios.quartiles([])


def test_ratios_are_computed_round_by_round():
    """Slow rounds affect both: the ratio of medians would be 1, the median of ratios is 1/2."""
    ours, theirs = [1, 10, 100, 2, 4], [2, 20, 200, 4, 4]
    assert ratios.ratio(ours, theirs) == (0.5, 0.5, 0.5)
    with pytest.raises(ValueError):
        ratios.ratio(ours, theirs[:-1])


def test_the_best_has_the_smallest_median():
    assert ratios.best({"a": [1, 9, 9], "b": [5, 5, 5], "c": [6, 6, 0]}) == "b"
    assert ratios.best({}) is None
