"""Cells of CSV files: numbers with text among them, codes, and means of extreme numbers."""

import numpy as np
import pytest
from helpers.messages import naming

from gpunn.tabular.cells import as_floats, check_numbers

pd = pytest.importorskip("pandas")


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (["1.5", "2.5", "abc", "4"], naming("column 'x'", "row 2", "'abc'")),
        ([*map(str, range(30)), "A", "B"], naming("column 'x'", "row 30", "'A'", 2)),
        (["1.5", "-", "2.5", "inf", "3"], naming("column 'x'", "row 3", "'inf'")),
    ],
)
def test_text_among_numbers_is_refused(cells, message):
    with pytest.raises(ValueError, match=message):
        check_numbers(pd.Series(cells, name="x"))


@pytest.mark.parametrize(
    "cells",
    [
        ["1", "2", "A", "1"],
        ["1.5", "red", "blue"],
        ["2026-01-31", "2026-02-01"],
        [True, None, False],
        [1.5, np.nan],
        [None, None],
        ["1.5", "2.5", "NA"],
    ],
)
def test_codes_categories_and_numbers_are_accepted(cells):
    check_numbers(pd.Series(cells, name="x"))


def test_errors_shorten_long_cells():
    with pytest.raises(ValueError, match=r"column 'x'.* got 'qqq.* in row 2") as caught:
        as_floats(pd.Series(["1.5", "2.5", "q" * 1_000_000, "4"], name="x"))
    assert len(str(caught.value)) < 300
