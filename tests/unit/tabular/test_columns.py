"""Encoded columns, compared with values worked out by hand."""

import re

import numpy as np
import pytest
from helpers.messages import naming
from helpers.tables import encoder_of

from gpunn.tabular import TableEncoder
from gpunn.tabular.columns import CategoricalColumn, NumericColumn

pd = pytest.importorskip("pandas")


def test_numeric_columns_are_standardized_and_missing_cells_take_the_median_and_an_indicator():
    frame = pd.DataFrame({"x": [1.0, 2.0, np.nan, 5.0], "y": [1.5, 2.5, 3.5, 4.5]})
    encoder = encoder_of(frame)
    # median 2; of 1, 2, 2, 5 the mean is 5/2 and the variance (9/4 + 1/4 + 1/4 + 25/4)/4 = 9/4
    assert encoder.columns == [NumericColumn("x", median=2.0, mean=2.5, scale=1.5, indicator=True)]
    X, unknown = encoder.encode(frame)
    np.testing.assert_allclose(X, [[-1, 0], [-1 / 3, 0], [-1 / 3, 1], [5 / 3, 0]], rtol=1e-6)
    assert X.dtype == np.float32 and unknown == []


def test_columns_are_learned_from_the_training_rows_only():
    frame = pd.DataFrame({"x": [1.0, 3.0, 1000.0], "c": ["a", "b", "rare"], "y": [0.5, 1.5, 2.5]})
    encoder = encoder_of(frame, rows=[0, 1])
    assert encoder.columns == [NumericColumn("x", 2.0, 2.0, 1.0, False), CategoricalColumn("c", ("a", "b"))]


def test_categories_are_one_hot_encoded_and_missing_cells_are_a_category():
    frame = pd.DataFrame({"c": ["b", "a", None, "b"], "y": [1.5, 2.5, 3.5, 4.5]})
    encoder = encoder_of(frame)
    assert encoder.columns == [CategoricalColumn("c", ("a", "b", None))]
    X, unknown = encoder.encode(frame)
    assert X.tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 1], [0, 1, 0]] and unknown == []
    X, unknown = encoder.encode(pd.DataFrame({"c": ["z", "a", "q"]}))
    assert X.tolist() == [[0, 0, 0], [1, 0, 0], [0, 0, 0]]
    assert unknown == [
        "column 'c': 2 of 3 cells contain a category that training did not see; they count as no category"
    ]


def test_booleans_are_numeric_and_codes_with_letters_are_categorical():
    frame = pd.DataFrame({"b": [True, False, True, False], "code": ["1", "2", "A", "1"], "y": [1.5, 2.5, 3.5, 4.5]})
    assert encoder_of(frame).columns == [
        NumericColumn("b", 0.5, 0.5, 0.5, False),
        CategoricalColumn("code", ("1", "2", "A")),
    ]


def test_numbers_in_a_categorical_column_match_in_any_type():
    frame = pd.DataFrame({"code": ["1", "2", "A", "1"], "y": [1.5, 2.5, 3.5, 4.5]})
    encoder = encoder_of(frame)
    for cells in ([1, 2], [1.0, 2.0], ["1", " 2 "]):
        X, unknown = encoder.encode(pd.DataFrame({"code": cells}))
        assert X.tolist() == [[1, 0, 0], [0, 1, 0]] and unknown == []


def test_constant_columns_are_left_out_unless_cells_are_missing():
    frame = pd.DataFrame({"k": [7, 7, 7], "w": ["q", "q", "q"], "m": [3.0, np.nan, 3.0], "y": [1.5, 2.5, 3.5]})
    encoder = encoder_of(frame)
    assert encoder.columns == [NumericColumn("m", 3.0, 3.0, None, True)]
    assert encoder.encode(frame)[0].tolist() == [[0], [1], [0]]
    assert encoder.notes == ["left out, the same in every row: 'k', 'w'"]


def test_numbers_whose_squares_overflow_are_standardized():
    frame = pd.DataFrame({"x": [-1e300, 1e300], "y": [1.5, 2.5]})
    assert encoder_of(frame).encode(frame)[0].tolist() == [[-1], [1]]


def test_identifiers_are_left_out_with_a_note():
    n = 60
    frame = pd.DataFrame(
        {
            "name": [f"person {k}" for k in range(n)],
            "day": pd.date_range("2024-01-01", periods=n),
            "x": np.arange(n),
            "y": np.arange(n) / 7,
        }
    )
    encoder = encoder_of(frame)
    assert [column.name for column in encoder.columns] == ["x"]
    assert [note.split(" has ")[0] for note in encoder.notes] == ["left out: column 'name'", "left out: column 'day'"]


def test_only_the_most_frequent_categories_are_used():
    frame = pd.DataFrame({"c": WORDS, "y": np.arange(700) / 3})
    encoder = encoder_of(frame)
    assert set(encoder.columns[0].values) == {f"w{k}" for k in range(100)}
    assert set(encoder.columns[0].rare) == {f"w{k}" for k in range(100, 150)}
    assert encoder.notes == ["column 'c' has 150 categories: the 100 most frequent are used"]


WORDS = [f"w{k % 150}" for k in range(600)] + [f"w{k}" for k in range(100)]


def test_rare_unknown_and_empty_cells_are_counted_apart():
    encoder = encoder_of(pd.DataFrame({"c": WORDS, "y": np.arange(700) / 3}))
    cells = pd.DataFrame({"c": ["w1", "w120", "w130", "w149", "new", "newer", None]})
    X, notes = encoder.encode(cells)
    assert X.sum(axis=1).tolist() == [1, 0, 0, 0, 0, 0, 0]
    assert [re.match(r"column 'c': (\d) of 7 cells (.*)", note).groups() for note in notes] == [
        ("3", "contain a category that was rare in training, and is not among the 100 used; they count as no category"),
        ("2", "contain a category that training did not see; they count as no category"),
        ("1", "are missing, which training did not see; they count as no category"),
    ]


@pytest.mark.parametrize("file", ["an earlier one", "one with long categories"])
def test_categories_may_be_rare_or_unknown_if_the_file_does_not_have_the_rare_ones(file):
    words = WORDS if file == "an earlier one" else [word * 10_000 for word in WORDS]
    config = encoder_of(pd.DataFrame({"c": words, "y": np.arange(700) / 3})).get_config()
    if file == "an earlier one":
        del config["columns"][0]["rare"]
    notes = TableEncoder.from_config(config).encode(pd.DataFrame({"c": words[120:121]}))[1]
    assert len(notes) == 1 and "was rare in training, or that training did not see" in notes[0]


def test_missing_cells_that_training_did_not_see_are_counted():
    encoder = encoder_of(pd.DataFrame({"x": [1.0, 2.0, 4.0], "c": ["a", "b", "a"], "y": [1.5, 2.5, 3.5]}))
    X, notes = encoder.encode(pd.DataFrame({"x": [np.nan, 2.0, np.nan], "c": ["a", None, "new"]}))
    # the median 2 for missing numbers, zeros for missing categories
    assert X[:, 0].tolist() == [X[1, 0]] * 3 and X[:, 1:].tolist() == [[1, 0], [0, 0], [0, 0]]
    assert [re.match(r"column '(.)': (\d) of 3 cells", note).groups() for note in notes] == [
        ("x", "2"),
        ("c", "1"),
        ("c", "1"),
    ]
    assert ["missing" in note for note in notes] == [True, False, True]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("cell", [1e45, -1e45, 1e308, 1.7e308])
def test_numbers_far_outside_the_training_rows_are_refused(cell):
    encoder = encoder_of(pd.DataFrame({"x": [1.0, 2.0, 4.0], "y": [1.5, 2.5, 3.5]}))
    with pytest.raises(ValueError, match=naming("column 'x'", f"{cell:.7g}", "row 8")):
        encoder.encode(pd.DataFrame({"x": [1.0, cell]}, index=[7, 8]))
    assert np.isfinite(encoder.encode(pd.DataFrame({"x": [1e37]}))[0]).all()


@pytest.mark.filterwarnings("error")
def test_subnormal_numbers_are_encoded_as_finite_inputs():
    frame = pd.DataFrame({"x": [5e-324, 0.0, 0.0, 0.0], "z": [1.0, 2.0, 3.0, 5.0], "y": [1.5, 2.5, 3.5, 4.5]})
    assert np.isfinite(encoder_of(frame).encode(frame)[0]).all()


@pytest.mark.parametrize("place", ["target", "column"])
def test_texts_too_long_for_a_model_file_are_refused(place):
    texts = ["a", "b", "q" * 10_000_000, "a"] * 2
    words = {"y": texts, "x": range(8)} if place == "target" else {"y": np.arange(8) / 2, "x": texts}
    frame = pd.DataFrame(words, index=range(1, 9))
    with pytest.raises(
        ValueError, match=rf"10000000 characters, in column '{'y' if place == 'target' else 'x'}', row 3"
    ):
        encoder_of(frame)


def test_names_too_long_for_a_model_file_are_refused():
    name = "q" * 10_000_000
    with pytest.raises(ValueError, match="bytes of the model file"):
        encoder_of(pd.DataFrame({name: [1.0, 2.0], "y": [1.5, 2.5]}))


def test_errors_shorten_long_cells():
    frame = pd.DataFrame({"x": ["1.5", "2.5", "q" * 1_000_000, "4"], "y": [1.5, 2.5, 3.5, 4.5]})
    with pytest.raises(ValueError, match=r"column 'x'.* got 'qqq.* in row 2") as caught:
        encoder_of(frame)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ([np.nan, np.nan, np.nan, np.nan], naming("column 'x'", "no value")),
        ([None, None, None, None], naming("column 'x'", "no value")),
        (["1.5", "2.5", "abc", "4"], naming("column 'x'", "row 2", "'abc'")),
        ([1.0, np.inf, 2.0, -np.inf], naming("column 'x'", "row 1", "'inf'", 2)),
        ([5, 5, 5, 5], naming("'y'", "'x'", "left out")),
    ],
)
def test_invalid_columns_are_refused(cells, message):
    frame = pd.DataFrame({"x": cells, "y": [1.5, 2.5, 3.5, 4.5]})
    with pytest.raises(ValueError, match=message):
        encoder_of(frame)


def test_tables_without_the_training_columns_are_refused():
    encoder = encoder_of(pd.DataFrame({"x": [1.0, 2.0], "z": [3.0, 5.0], "y": [1.5, 2.5]}))
    with pytest.raises(ValueError, match=naming("column 'x', 'z'")):
        encoder.encode(pd.DataFrame({"other": [1]}))


def test_cells_that_are_not_numbers_count_as_missing_in_other_tables():
    encoder = encoder_of(pd.DataFrame({"x": [1.0, 2.0, 6.0], "y": [1.5, 2.5, 3.5]}))
    X, notes = encoder.encode(pd.DataFrame({"x": ["1", "much", np.inf, "-", "6"]}, index=range(3, 8)))
    expected, _ = encoder.encode(pd.DataFrame({"x": [1, 2, 2, 2, 6]}))
    assert X.tolist() == expected.tolist()  # the median
    assert notes == [
        "column 'x': 2 of 5 cells are not numbers, the first is 'much' in row 4; they count as missing, and the median "
        "2 is used",
        "column 'x': 1 of 5 cells are missing, which training did not see; the median 2 is used",
    ]


def test_text_among_the_numbers_of_validation_rows_is_refused():
    frame = pd.DataFrame({"x": [1.0, 2.0, 4.0, np.inf], "y": [1.5, 2.5, 3.5, 4.5]})
    with pytest.raises(ValueError, match=naming("column 'x'", "'inf'", "row 3")):
        encoder_of(frame, rows=[0, 1, 2])
