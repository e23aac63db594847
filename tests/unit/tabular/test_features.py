"""Encoded columns, compared with values worked out by hand, by NumPy and by datetime."""

import datetime
import math
import re

import numpy as np
import pytest
from helpers.messages import naming

from gpunn.tabular.features import CategoricalColumn, DateColumn, NumericColumn
from gpunn.tabular.table import read_table

NAN = float("nan")


def cells(column, name="a"):
    return read_table({name: column}).columns[name]


def encode(fitted, column):
    """The inputs of a fitted column and its notes. Every input is written."""
    given = cells(column)
    X = np.full((len(given), fitted.width), np.nan, np.float32)
    notes = fitted.encode(given, X)
    assert np.isfinite(X).all()
    return X, notes


def numeric(column, bins=16):
    return NumericColumn.fit(cells(column), bins)


def categorical(column):
    return CategoricalColumn.fit(cells(column))


# --- numbers ------------------------------------------------------------------------------------------------------


def test_numbers_are_scaled_clipped_and_divided_into_bins():
    """The cells 0, 1, 2, 2, 3, 100 have the median 2 and the quartiles 1 + 1/4 and 2 + 3/4, so that z = (x − 2)/(3/2).

    z/√(1 + (z/3)²) of z = ∓4/3, ∓2/3 and 196/3 is ∓12/√97, ∓6/√85 and 588/√(9² + 196²).
    """
    column = [0.0, 1.0, 2.0, 3.0, NAN, 100.0]
    fitted = numeric(column, bins=2)
    assert fitted == NumericColumn("a", 2.0, 2.0, 1.5, True, edges=(0.0, 2.0, 100.0), clip=3.0)
    X, notes = encode(fitted, column)
    expected = [
        [-12 / math.sqrt(97), 0, 0, 0],
        [-6 / math.sqrt(85), 1 / 2, 0, 0],
        [0, 1, 0, 0],
        [6 / math.sqrt(85), 1, 1 / 98, 0],
        [0, 1, 0, 1],
        [588 / math.sqrt(38497), 1, 1, 0],
    ]
    np.testing.assert_allclose(X, expected, rtol=1e-6)
    assert notes == [] and fitted.description == "scaled and clipped, 2 bins, missing"


def test_bins_are_quantiles_and_shares_sum_to_the_position():
    """Σₜ of the shares is the position of x among the edges, which np.interp computes."""
    x = np.random.default_rng(0).normal(size=200) ** 3
    fitted = numeric(x, bins=8)
    edges = np.quantile(x, np.arange(9) / 8)
    np.testing.assert_array_equal(fitted.edges, edges)
    rows = np.concatenate([x, [x.min() - 1, x.max() + 1]])
    X, _ = encode(fitted, rows)
    assert X.shape == (202, 9) and not fitted.indicator
    np.testing.assert_allclose(X[:, 1:].sum(axis=1), np.interp(rows, edges, np.arange(9)), rtol=1e-5, atol=1e-6)
    by_size = X[np.argsort(rows)]
    assert (np.diff(by_size, axis=0) >= 0).all()  # each input grows with x
    assert (np.diff(by_size[:, 0]) > 0).any() and np.abs(X[:, 0]).max() < 3


def test_one_bin_and_narrow_columns_have_no_bins():
    assert numeric([1.0, 2.0, 4.0], bins=1).edges == ()
    # 0, 0, 0, 0, 1, 2 in two bins: the quantiles 0, 0, 2 are the ends of one bin
    assert numeric([0, 0, 0, 0, 1, 2], bins=2).edges == ()
    assert numeric([0, 0, 0, 0, 1, 2], bins=2).width == 1


def test_a_column_whose_quartiles_are_equal_is_scaled_by_half_its_range():
    fitted = numeric([0] * 7 + [1, 5])
    assert (fitted.center, fitted.scale) == (0.0, 2.5)
    X, _ = encode(fitted, [5.0])
    np.testing.assert_allclose(X[:, 0], 2 / math.sqrt(1 + 4 / 9), rtol=1e-6)


def test_columns_of_two_numbers_become_0_and_1():
    fitted = numeric([3, 5, 5, None])
    assert fitted == NumericColumn("a", 5.0, 3.0, 2.0, True)
    assert encode(fitted, [3, 5, None, 4, 9, 1])[0].tolist() == [[0, 0], [1, 0], [1, 1], [0.5, 0], [3, 0], [-1, 0]]
    assert fitted.description == "scaled, missing"
    assert encode(numeric([True, False, True]), [True, False])[0].tolist() == [[1], [0]]


def test_constant_columns_have_no_input_or_only_the_indicator():
    assert numeric([7, 7, 7]).width == 0
    fitted = numeric([7, None, 7])
    assert fitted == NumericColumn("a", 7.0, 7.0, None, True) and fitted.description == "missing"
    assert encode(fitted, [7, None, 8])[0].tolist() == [[0], [1], [0]]
    assert numeric([None, NAN]) is None


def test_a_missing_cell_takes_the_median_of_the_training_cells():
    fitted = numeric([1.0, 2.0, 4.0, 8.0])
    assert fitted.median == 3.0 and not fitted.indicator
    X, notes = encode(fitted, [None, 3.0])
    assert X[0].tolist() == X[1].tolist()
    assert notes == ["column 'a': 1 of 2 cells are missing, which training did not see; the median 3 is used"]
    assert encode(numeric([1.0, 2.0, 4.0, None]), [None])[1] == []  # training saw one


EXTREMES = [0.0, 1.0, -1.0, 1e308, -1e308, 1.7e308, -1.7e308, 1e37, -1e300, 5e-324, -5e-324, 1e-310]


@pytest.mark.parametrize(
    "column",
    [
        [-1e308, 0.0, 1e308],
        [1e308, 1.5e308, 1.7e308, 1.0],
        [1.1e308, 1.2e308, 1.3e308, 1.4e308],
        [-1.7e308, 1.7e308, -1.7e308, 1.7e308, 3.0],
        [-5e-324, 0.0, 5e-324],
        [0.0, 5e-324, 1e-323, 0.0],
        [0.0] * 9 + [5e-324, 1e308],
        [1e-320, 2e-320, 3e-320, 5e-320],
        [*range(20), 1e308],
    ],
    ids=repr,
)
def test_extreme_numbers_give_inputs_within_bounds(column):
    fitted = numeric(column)
    X, _ = encode(fitted, [*column, *EXTREMES])
    has_scale = fitted.scale is not None
    assert np.abs(X).max(initial=0) <= 3 and (X[:, has_scale:] >= 0).all() and (X[:, has_scale:] <= 1).all()
    order = np.argsort([*column, *EXTREMES], kind="stable")
    assert (np.diff(X[order], axis=0) >= 0).all()
    fitted.check()


def test_two_extreme_numbers_become_0_and_1():
    for low, high in ((-1.7e308, 1.7e308), (0.0, 5e-324), (-5e-324, 1e308)):
        assert encode(numeric([low, high, low]), [low, high])[0].tolist() == [[0], [1]]


@pytest.mark.parametrize("number", [1e45, -1e45, 1.7e308])
def test_numbers_that_float32_cannot_represent_are_refused_by_name(number):
    """Columns of two numbers are not clipped."""
    with pytest.raises(ValueError, match=naming("column 'a'", "row 1", "leave it empty")):
        encode(numeric([0, 1, 1]), [1.0, number])


def test_texts_of_numbers_are_read_and_others_are_counted():
    fitted = numeric([1.0, 2.0, 6.0])
    X, notes = encode(fitted, ["1", "much", " 6.0", "inf", "NA", None, "-", "2e0", "1e999"])
    expected, _ = encode(fitted, [1, 2, 6, 2, 2, 2, 2, 2, 2])
    assert X.tolist() == expected.tolist()
    assert notes == [
        "column 'a': 3 of 9 cells are not numbers, the first is 'much' in row 1; they count as missing, and the median "
        "2 is used",
        "column 'a': 3 of 9 cells are missing, which training did not see; the median 2 is used",
    ]


@pytest.mark.parametrize("column", [["NA", "much", "x"], [datetime.date(2024, 1, 1), None, None]])
def test_columns_without_numbers_are_refused_where_training_had_numbers(column):
    with pytest.raises(TypeError, match=naming("column 'a'", "numbers")) as caught:
        encode(numeric([1.0, 2.0, 6.0]), column)
    assert "NA" not in str(caught.value)
    assert ("'much' in row 1" in str(caught.value)) == isinstance(column[1], str)


def test_columns_without_values_are_missing_whatever_their_type():
    fitted = numeric([1.0, None, 6.0])
    for column in ([None, None], ["", " "], ["NA", "?"], np.array(["NaT", "NaT"], "M8[D]")):
        X, notes = encode(fitted, column)
        assert X[:, -1].tolist() == [1, 1] and notes == []


# --- categories ---------------------------------------------------------------------------------------------------


def test_categories_are_one_hot_and_missing_is_one():
    column = ["b", "a", None, "b", "a"]
    fitted = categorical(column)
    assert fitted == CategoricalColumn("a", ("a", "b", None)) and fitted.description == "3 categories"
    X, notes = encode(fitted, column)
    assert X.tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 1], [0, 1, 0], [1, 0, 0]] and notes == []
    X, notes = encode(fitted, ["z", "a", "q"])
    assert X.tolist() == [[0, 0, 0], [1, 0, 0], [0, 0, 0]]
    assert notes == ["column 'a': 2 of 3 cells contain a category that training did not see; they count as no category"]


@pytest.mark.parametrize(
    ("column", "values", "first"), [(["b", "a", "a"], ("a", "b"), "'a'"), (["b", None, None], ("b", None), "'b'")]
)
def test_two_categories_become_one_input(column, values, first):
    fitted = categorical(column)
    assert fitted == CategoricalColumn("a", values, binary=True) and fitted.width == 1
    assert encode(fitted, list(values))[0].tolist() == [[0], [1]]
    X, notes = encode(fitted, ["new", values[1], "newer"])
    assert X.tolist() == [[0], [1], [0]]
    assert notes == [f"column 'a': 2 of 3 cells contain a category that training did not see; they count as {first}"]


def test_a_missing_cell_in_a_column_of_two_categories_is_counted():
    assert encode(categorical(["b", "a", "a"]), [None, "b"])[1] == [
        "column 'a': 1 of 2 cells are missing, which training did not see; they count as 'a'"
    ]


def test_two_or_more_single_categories_share_an_input():
    column = ["a", "a", "b", "b", None, "once", "one"]
    fitted = categorical(column)
    assert fitted == CategoricalColumn("a", ("a", "b", None), rare=("once", "one"), rare_input=True)
    assert fitted.width == 4 and fitted.description == "3 categories, rare"
    X, notes = encode(fitted, ["a", "once", "one", None])
    assert X.tolist() == [[1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 1, 0]] and notes == []
    X, notes = encode(fitted, ["new", "once", "b"])
    assert X.tolist() == [[0, 0, 0, 1], [0, 0, 0, 1], [0, 1, 0, 0]]
    assert notes == ["column 'a': 1 of 3 cells contain a category that training did not see; they count as rare"]


def test_one_single_category_has_an_input():
    assert categorical(["a", "a", "b", "b", "once"]) == CategoricalColumn("a", ("a", "b", "once"))


def test_missing_cells_count_as_rare_if_training_had_none():
    fitted = categorical(["a", "a", "b", "b", "once", "one"])
    X, notes = encode(fitted, [None])
    assert X.tolist() == [[0, 0, 1]]
    assert notes == ["column 'a': 1 of 1 cells are missing, which training did not see; they count as rare"]


@pytest.mark.parametrize("column", [["a", "a", "a"], ["a", "b", "c"], ["a", "b"]])
def test_columns_of_one_category_or_only_different_ones_have_no_input(column):
    assert categorical(column).width == 0


def test_only_the_100_most_frequent_categories_have_inputs():
    words = [f"w{k:03}" for k in range(150)] * 2 + [f"w{k:03}" for k in range(50, 150)]
    fitted = categorical(words)
    assert fitted.values == tuple(f"w{k:03}" for k in range(50, 150)) and fitted.width == 101
    assert set(fitted.rare) == {f"w{k:03}" for k in range(50)}
    X, notes = encode(fitted, ["w050", "w149", "w000", "new"])
    assert [row.nonzero()[0].tolist() for row in X] == [[0], [99], [100], [100]] and X.max() == 1
    assert [re.search(r"(\d) of 4 cells (\w+ a category that training)", note)[1] for note in notes] == ["1"]


def test_a_missing_cell_is_not_a_single_category():
    """None has its own input, also if one cell is missing and other categories are rare."""
    assert categorical(["a"] * 4 + ["x", "y", None]).values == ("a", None)


def test_categories_match_numbers_dates_and_booleans_by_their_text():
    fitted = categorical(["1", "2", "A", "1", "2", "A"])
    for column in ([1, 2], [1.0, 2.0], ["1", " 2 "]):
        X, notes = encode(fitted, column)
        assert X.tolist() == [[1, 0, 0], [0, 1, 0]] and notes == []
    X, notes = encode(fitted, [datetime.date(2024, 1, 1)])
    assert X.tolist() == [[0, 0, 0]] and "did not see" in notes[0]
    assert encode(categorical(["1.5", "2", "2", "1.5"]), [1.5, 2])[0].tolist() == [[0], [1]]


# --- dates --------------------------------------------------------------------------------------------------------

# each month, weekday and hour occurs at least twice
STEP = datetime.timedelta(days=41, hours=5, minutes=7)
MOMENTS = [datetime.datetime(1961, 1, 1, 0, 59) + k * STEP for k in range(400)]


def blocks(fitted, column):
    """The inputs of a date by quantity."""
    X, _ = encode(fitted, column)
    ends = np.cumsum([part.width for _, part in fitted.parts])
    return {key: block for (key, _), block in zip(fitted.parts, np.split(X, ends[:-1], axis=1), strict=True)}


def test_dates_become_days_years_months_weekdays_and_hours():
    fitted = DateColumn.fit(cells(MOMENTS), 4)
    parts = dict(fitted.parts)
    assert list(parts) == ["day", "year", "month", "weekday", "hour"]
    found = blocks(fitted, MOMENTS)
    for key, of in {
        "month": lambda t: t.month, "weekday": lambda t: t.isoweekday(), "hour": lambda t: t.hour
    }.items():  # fmt: skip
        assert (found[key].sum(axis=1) == 1).all()
        assert [parts[key].values[k] for k in found[key].argmax(axis=1)] == [str(of(t)) for t in MOMENTS]
    epoch = datetime.datetime(1970, 1, 1)
    for key, of in {"day": lambda t: (t - epoch) / datetime.timedelta(days=1), "year": lambda t: t.year}.items():
        x = [of(t) for t in MOMENTS]
        expected = NumericColumn.fit(cells(x), 4)
        assert parts[key] == expected
        np.testing.assert_array_equal(found[key], encode(expected, x)[0])


def test_quantities_that_are_equal_in_all_rows_are_left_out():
    fitted = DateColumn.fit(cells([datetime.date(2024, 5, k) for k in (6, 7, 13, 14)]), 2)
    assert [key for key, _ in fitted.parts] == ["day", "weekday"]
    assert fitted.description == "day: scaled and clipped, 2 bins; weekday: 1 for '2'"
    # weekday 1 or 2, and a Wednesday counts as the first
    assert blocks(fitted, [datetime.date(2024, 5, k) for k in (20, 21, 22)])["weekday"].tolist() == [[0], [1], [0]]
    assert DateColumn.fit(cells([datetime.date(2024, 5, 6)] * 3), 2).width == 0
    assert DateColumn.fit(cells(np.array(["NaT"] * 3, "M8[D]")), 2) is None


def test_missing_dates_have_one_indicator():
    moments = [*MOMENTS, None]
    fitted = DateColumn.fit(cells(moments), 4)
    assert [part.indicator for key, part in fitted.parts if key in ("day", "year")] == [True, False]
    found = blocks(fitted, [None, MOMENTS[0]])
    assert found["day"][:, -1].tolist() == [1, 0]
    for key in ("month", "weekday", "hour"):
        assert found[key].sum(axis=1).tolist() == [0, 1]
    assert encode(fitted, [None, MOMENTS[0]])[1] == []
    (note,) = encode(DateColumn.fit(cells(MOMENTS), 4), [None, MOMENTS[0]])[1]
    assert note.startswith("column 'a': 1 of 2 cells are missing")


def test_dates_of_every_kind_have_the_same_inputs():
    fitted = DateColumn.fit(cells(MOMENTS), 4)
    expected, _ = encode(fitted, [datetime.datetime(2024, 2, 29, 23, 30), datetime.datetime(1969, 12, 31)])
    oslo = datetime.timezone(datetime.timedelta(hours=2))
    for column in (
        ["2024-02-29T23:30", "1969-12-31"],
        ["2024-02-29 23:30:00.000", " 1969-12-31 "],
        ["2024-02-29T23:30:00Z", "1969-12-31T00:00:00+00:00"],
        ["2024-03-01T01:30+02:00", "1969-12-30T20:00-0400"],
        [datetime.datetime(2024, 3, 1, 1, 30, tzinfo=oslo), datetime.date(1969, 12, 31)],
    ):
        np.testing.assert_array_equal(encode(fitted, column)[0], expected)


@pytest.mark.parametrize(
    ("column", "parts"),
    [
        (["2024-01-01", "soon"], ("'soon'", "row 1", "2026-01-31")),
        (["2024-01-01", "2024-02-30"], ("'2024-02-30'", "row 1")),
        (["2024-01-01T00:00:00+99:00"], ("row 0",)),
        ([3.0, None], ("dates", "numbers")),
    ],
    ids=repr,
)
def test_cells_that_are_not_dates_are_refused_where_training_had_dates(column, parts):
    with pytest.raises(TypeError, match=naming("column 'a'", *parts)):
        encode(DateColumn.fit(cells(MOMENTS), 4), column)


def test_dates_without_values_are_missing_whatever_their_type():
    fitted = DateColumn.fit(cells([*MOMENTS, None]), 4)
    for column in ([None, None], ["", " "], np.array(["NaT", "NaT"], "M8[D]")):
        assert blocks(fitted, column)["day"][:, -1].tolist() == [1, 1]


def test_dates_far_from_the_training_rows_have_bounded_inputs():
    X, _ = encode(DateColumn.fit(cells(MOMENTS), 4), [datetime.date(1, 1, 1), datetime.date(9999, 12, 31)])
    assert np.abs(X).max() <= 3


# --- fields of a file ---------------------------------------------------------------------------------------------

NUMERIC = {
    "name": "a", "median": 1.0, "center": 1.0, "scale": 2.0, "indicator": False, "edges": (0.0, 1.0), "clip": 3.0
}  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        {"median": "1"}, {"median": NAN}, {"center": math.inf}, {"center": None}, {"scale": 0}, {"scale": -1.0},
        {"scale": 10**400}, {"indicator": 2}, {"indicator": "yes"}, {"clip": 0.0}, {"clip": NAN}, {"edges": (1.0,)},
        {"edges": (1.0, 1.0)}, {"edges": (2.0, 1.0)}, {"edges": (0.0, NAN)}, {"edges": (0.0, math.inf)},
        {"edges": ("0", "1")},
    ],
    ids=repr,
)  # fmt: skip
def test_invalid_fields_of_numbers_are_refused(change):
    NumericColumn(**NUMERIC).check()
    with pytest.raises(ValueError, match=next(iter(change))):
        NumericColumn(**(NUMERIC | change)).check()


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"values": ("a", 1)}, "values"),
        ({"values": ("a", "a", "b")}, "values"),
        ({"rare": (1,)}, "rare"),
        ({"rare_input": 5}, "rare_input"),
        ({"binary": "yes"}, "binary"),
        ({"binary": True}, "binary"),
        ({"values": ("a", "b"), "binary": True, "rare_input": True}, "binary"),
    ],
)
def test_invalid_fields_of_categories_are_refused(change, word):
    valid = {"name": "a", "values": ("a", "b", None), "rare": ("c",), "rare_input": True, "binary": False}
    CategoricalColumn(**valid).check()
    with pytest.raises(ValueError, match=word):
        CategoricalColumn(**(valid | change)).check()


def test_invalid_parts_of_dates_are_refused():
    day = NumericColumn(**NUMERIC)
    DateColumn("a", (("day", day),)).check()
    for parts in (
        (("second", day),),
        (("day", day), ("day", day)),
        (("day", DateColumn("a", ())),),
        (("day", NumericColumn(**(NUMERIC | {"name": "b"}))),),
        (("day", NumericColumn(**(NUMERIC | {"scale": 0}))),),
    ):
        with pytest.raises(ValueError, match=r"date|scale"):
            DateColumn("a", parts).check()
