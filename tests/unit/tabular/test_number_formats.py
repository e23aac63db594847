"""Numbers with decimal comma, thousands separators and units: found in training, read alike in predictions."""

import json
import re

import numpy as np
import pytest
from helpers.messages import naming
from helpers.tables import read_csv, written

from gpunn.tabular.csv_columns import CsvColumns, find_formats
from gpunn.tabular.csv_file import CsvFile
from gpunn.tabular.feature_encoder import FeatureEncoder
from gpunn.tabular.number_formats import NumberFormat, find_format
from gpunn.tabular.table import read_table
from gpunn.tabular.targets import ClassTarget, NumericTarget, infer_target, rows_with_target

pd = pytest.importorskip("pandas")

READ = {
    "decimal comma": (["0,25", "12", "-3,5e2", ",5"], NumberFormat(","), [0.25, 12, -350, 0.5]),
    "comma, not thousands": (["0,123", "1,234"], NumberFormat(","), [0.123, 1.234]),
    "points between thousands": (["1.234,5", "12.345.678", "7"], NumberFormat(","), [1234.5, 12345678, 7]),
    "commas between thousands": (["1,234.5", "12,345,678", "7"], NumberFormat("."), [1234.5, 12345678, 7]),
    "spaces": (["1 234", "12\u00a0345\u202f678", "7"], NumberFormat("."), [1234, 12345678, 7]),
    "spaces and comma": (["1 234,5", "7"], NumberFormat(","), [1234.5, 7]),
    "apostrophes": (["1'234.5", "1\u2019234"], NumberFormat("."), [1234.5, 1234]),
    "currency": (["$12.50", "-$3", "$ -4", "$1,000.00"], NumberFormat(".", "$"), [12.5, -3, -4, 1000]),
    "euro": (["12,50 €", "\u22123\u00a0€"], NumberFormat(",", "€"), [12.5, -3]),
    "percent": (["37%", "0.5 %", "NA", "-"], NumberFormat(".", "%"), [37, 0.5, np.nan, np.nan]),
}


@pytest.mark.parametrize("name", READ)
def test_columns_in_one_format_are_read(name):
    texts, number_format, numbers = READ[name]
    cells = pd.Series([*texts, None, "?"])
    assert find_format(cells) == number_format
    np.testing.assert_array_equal(number_format.read(cells), [*numbers, np.nan, np.nan])


@pytest.mark.parametrize(
    "texts",
    [
        ["1,234", "2,500"],  # 1.234 or 1234
        ["1.234,5", "1,234.5"],
        ["$5", "5 €"],
        ["5%", "0.05"],
        ["0,25", "about 3"],
        ["1,2,3", "4,5"],
        ["01.02.2023", "02.02.2023"],
        ["1,23,456"],
        ["$5$"],
        ["1,5e999"],
        ["red", "blue"],
        ["1", "2.5"],
        [None],
    ],
)
def test_other_columns_are_not_read(texts):
    assert find_format(pd.Series(texts, dtype=object)) is None


def test_predictions_read_the_format_of_the_training_table(tmp_path):
    lines = [f"{k},5;€ 1.{k:03d},50;{k % 7}%;{k / 2}" for k in range(100, 140)]
    frame = read_csv(written(tmp_path, "\n".join(["a;b;c;y", *lines])))
    formats, notes = find_formats(frame, ["a", "b", "c", "y"])
    assert notes == [
        "read as numbers with a decimal comma: 'a'",
        "read as numbers with a decimal comma and €: 'b'",
        "read as numbers with a decimal point and %: 'c'",
        "read with a decimal point, so that 1.234 is less than 2: 'y'",
    ]
    encoder = FeatureEncoder.fit(read_table(CsvColumns(formats=formats).numbers_in(frame)[["a", "b", "c"]]))
    csv = CsvColumns.from_config(json.loads(json.dumps(CsvColumns(formats=formats).get_config())))
    # 1.100 is 1.1 elsewhere; without a currency sign a number is clear, without a percent sign it is not
    path = written(tmp_path, "a;b;c\n1.100;1.100;3%\n100,5;€ 1.100,50;NA\n100.5;$5;0.03\n")
    X, notes = encoder.encode(read_table(csv.read(CsvFile.open(path))))
    plain = {"a": [1100, 100.5, None], "b": [1100, 1100.5, None], "c": [3, None, None]}
    np.testing.assert_array_equal(X, encoder.encode(read_table(plain))[0])
    assert [note[: note.index(";")] for note in notes if "not numbers" in note] == [
        "column 'a': 1 of 3 cells are not numbers, the first is '100.5 (not a number with a decimal comma)' in line 4",
        "column 'b': 1 of 3 cells are not numbers, the first is '$5 (not a number with a decimal comma and €)' in "
        "line 4",
        "column 'c': 1 of 3 cells are not numbers, the first is '0.03 (not a number with a decimal point and %)' in "
        "line 4",
    ]


def test_decimal_points_next_to_decimal_commas_are_reported():
    frame = pd.DataFrame({"a": ["0,5", "1,5"], "b": [1.234, 950.0], "c": [1.0, np.nan]})
    notes = find_formats(frame, ["a", "b", "c"])[1]
    assert notes[1:] == ["read with a decimal point, so that 1.234 is less than 2: 'b'"]
    assert find_formats(frame, ["b", "c"])[1] == []


@pytest.mark.parametrize(
    ("cells", "parts"),
    [
        ([f"{k},234" for k in range(1, 41)], ("'1,234'", 1.234, 1234, "1234.5")),
        ([f"{k},5" for k in range(40)] + ["x"], ("decimal comma", "'x'", "row 40")),
        ([f"{k} €" for k in range(20)] + [f"{k} $" for k in range(20)], ("units", "1234.5")),
    ],
)
def test_text_that_looks_like_numbers_is_reported_with_a_remedy(cells, parts):
    formats, (note,) = find_formats(pd.DataFrame({"a": cells}), ["a"])
    assert formats == {} and re.search(naming("column 'a'", "looks like numbers", *parts), note)
    with pytest.raises(ValueError, match=naming("column 'a'", "looks like numbers", *parts)):
        infer_target(pd.Series(cells, name="a"))


def test_codes_with_letters_do_not_look_like_numbers():
    assert find_formats(pd.DataFrame({"code": ["1", "2", "3", "A"] * 9}), ["code"]) == ({}, [])


def test_rows_without_a_target_are_found_with_the_decimal_mark():
    """Without it, 1,234 is 1234 or 1.234, and the column is text, in which NA is a word."""
    frame = pd.DataFrame({"y": ["1,234", "NA", "5,678", "-"]})
    assert rows_with_target(frame, "y").all()
    assert rows_with_target(frame, "y", ",").tolist() == [True, False, True, False]


def test_targets_in_a_format_are_numbers_or_classes_as_they_are_written():
    prices = pd.Series([f"{k},50 €" for k in range(40)] + ["NA"], name="y")
    frame = prices.to_frame()
    present = rows_with_target(frame, "y")
    frame = frame[present]
    target, description = infer_target(frame["y"])
    assert (
        present.tolist() == [True] * 40 + [False]
        and description == "numbers with a decimal comma and €, 40 distinct values"
    )
    assert target == NumericTarget("y", NumberFormat(",", "€"))
    assert target.read(target.number_format.read(frame["y"]))[:2].tolist() == [0.5, 1.5]
    grades = pd.Series(["10%", "20%"] * 20, name="y")
    assert infer_target(grades)[0] == ClassTarget("y", ("10%", "20%"))
    assert infer_target(grades, "regression")[0] == NumericTarget("y", NumberFormat(".", "%"))
    assert infer_target(prices[:8].repeat(5), "classification")[0].labels[0] == "0,50 €"
