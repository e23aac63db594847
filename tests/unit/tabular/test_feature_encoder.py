"""Encodings of whole tables: kinds of columns, columns left out, configurations, and other tables."""

import copy
import datetime
import json

import numpy as np
import pytest
from helpers.messages import naming

from gpunn.tabular.feature_encoder import FeatureEncoder
from gpunn.tabular.features import CategoricalColumn, DateColumn, NumericColumn
from gpunn.tabular.table import read_table

N = 60
TABLE = {
    "x": np.linspace(-1, 1, N) ** 3,
    "c": [["low", "high", None][k % 3] for k in range(N)],
    "d": np.datetime64("2024-01-01") + np.arange(N),
    "b": np.arange(N) % 2 == 0,
}


def encoder_of(table, **options):
    return FeatureEncoder.fit(read_table(table), **options)


def kinds(encoder):
    return {column.name: type(column).__name__.removesuffix("Column") for column in encoder.columns}


def test_inputs_are_those_of_the_columns_in_order():
    table = read_table(TABLE)
    encoder = FeatureEncoder.fit(table)
    assert kinds(encoder) == {"x": "Numeric", "c": "Categorical", "d": "Date", "b": "Numeric"}
    X, notes = encoder.encode(table)
    assert X.dtype == np.float32 and X.shape == (N, encoder.width) and notes == []
    left = 0
    for column in encoder.columns:
        alone = np.empty((N, column.width), np.float32)
        column.encode(table.columns[column.name], alone)
        np.testing.assert_array_equal(X[:, left : left + column.width], alone)
        left += column.width
    assert left == encoder.width


def test_columns_are_described():
    encoder = encoder_of(TABLE | {"k": [1] * N, "e": [None] * N})
    found = encoder.describe()
    assert list(found) == ["x", "c", "d", "b", "k", "e"]
    assert found["x"] == "scaled and clipped, 16 bins" and found["c"] == "3 categories"
    assert found["d"].startswith("day: scaled and clipped") and found["b"] == "scaled"
    assert found["k"] == "left out: the same in every row" and found["e"] == "left out: no value in any row"


def test_columns_without_information_are_left_out_with_a_note():
    table = {
        "x": [1.0, 2.0, 4.0, 8.0], "same": [7] * 4, "text": ["q"] * 4, "day": [datetime.date(2024, 1, 1)] * 4,
        "none": [None] * 4, "blank": ["", " ", "", ""], "different": list("abcd"),
    }  # fmt: skip
    encoder = encoder_of(table)
    assert kinds(encoder) == {"x": "Numeric"}
    assert encoder.notes == [
        "left out, the same in every row: 'same', 'text', 'day'",
        "left out, no value in any row: 'none', 'blank'",
        "left out, different texts in all rows: 'different'",
    ]
    X, _ = encoder.encode(read_table(table))
    assert X.shape == (4, encoder.width)


@pytest.mark.parametrize(
    ("name", "left_out"),
    [
        ("id", True), ("ID", True), ("Id", True), ("key", True), ("index", True), ("PassengerId", True),
        ("customerID", True), ("user_id", True), ("row id", True), ("order-ID", True),
        ("paid", False), ("x", False), ("grid", False), ("GRID", False), ("ids", False), ("monkey", False),
    ],
)  # fmt: skip
def test_identifiers_are_recognized_by_name(name, left_out):
    """Different whole numbers in all rows."""
    numbers = np.arange(N) * 7
    encoder = encoder_of({"z": TABLE["x"], name: numbers})
    assert (name in encoder.left_out) == left_out
    for other in (
        np.append(numbers[:-1], numbers[0]),  # repeated
        numbers + 0.5,
        np.append(numbers[:-1].astype(float), np.nan),
    ):
        assert name not in encoder_of({"z": TABLE["x"], name: other}).left_out
    assert name not in encoder_of({"z": TABLE["x"][:49], name: numbers[:49]}).left_out


@pytest.mark.parametrize("name", ["row", "rownames", "Unnamed: 0", ""])
def test_row_numbers_are_left_out(name):
    order = np.random.default_rng(0).permutation(N)
    assert encoder_of({"z": TABLE["x"], name: order + 1}).left_out[name].startswith("an identifier")
    assert name not in encoder_of({"z": TABLE["x"], name: order * 2}).left_out  # with gaps
    assert f"{name}s" not in encoder_of({"z": TABLE["x"], f"{name}s": order}).left_out


def test_texts_that_mostly_differ_are_left_out():
    assert encoder_of({"z": range(N), "name": [f"person {k // 1.9:.0f}" for k in range(N)]}).left_out == {
        "name": "32 distinct texts in 60 rows, such as names or identifiers"
    }
    assert "name" not in encoder_of({"z": range(N), "name": [f"person {k // 2}" for k in range(N)]}).left_out
    # up to 20 distinct texts may be categories
    assert "name" not in encoder_of({"z": range(25), "name": [f"{min(k, 19)}" for k in range(25)]}).left_out
    assert "name" in encoder_of({"z": range(25), "name": [f"{min(k, 20)}" for k in range(25)]}).left_out


def test_texts_that_are_dates_are_dates_unless_one_is_none():
    days = [f"2024-01-{1 + k % 28:02}" for k in range(N)]
    assert kinds(encoder_of({"d": days})) == {"d": "Date"}
    assert kinds(encoder_of({"d": [*days[:-1], None]})) == {"d": "Date"}
    # 29 of 60 texts differ
    assert kinds(encoder_of({"d": [*days[:-1], "soon"]})) == {"d": "Categorical"}
    assert kinds(encoder_of({"d": days}, categorical=("d",))) == {"d": "Categorical"}


def test_the_user_names_categories_and_dates():
    table = TABLE | {"code": np.arange(N) % 3}
    assert kinds(encoder_of(table))["code"] == "Numeric"
    encoder = encoder_of(table, categorical=("code",), dates=("d",))
    assert encoder.columns[-1] == CategoricalColumn("code", ("0", "1", "2"))
    with pytest.raises(ValueError, match=naming("column 'x'", "dates", "row 0")):
        encoder_of(table, dates=("x",))
    for argument in ("categorical", "dates"):
        with pytest.raises(ValueError, match=naming(argument, "'none'")):
            encoder_of(table, **{argument: ("none",)})


def test_wide_tables_have_fewer_bins():
    for count, bins in ((50, 16), (100, 8), (333, 1), (1001, 1)):
        X = np.random.default_rng(0).normal(size=(40, count))
        encoder = encoder_of(X)
        widths = {column.width for column in encoder.columns}
        assert widths == {1 + bins if bins > 1 else 1}
        assert encoder.width <= max(1000, count)


def test_many_columns_of_text_have_fewer_categories():
    generator = np.random.default_rng(0)
    for count, categories in ((5, 100), (20, 50), (100, 10), (400, 5)):
        table = {f"c{k}": generator.integers(0, 120, 2000).astype(str).tolist() for k in range(count)}
        widths = {column.width for column in encoder_of(table).columns}
        assert widths == {categories + 1}  # and one for the rare ones


def test_tables_without_information_are_refused():
    with pytest.raises(ValueError, match=naming("no column", "the same in every row", "'a', 'b'")):
        encoder_of({"a": [1, 1], "b": ["x", "x"]})
    with pytest.raises(ValueError, match=naming("other than 'y'", "no value")):
        encoder_of({"a": [None, None]}, target="y")


def test_texts_too_long_for_a_model_file_are_refused_by_name():
    texts = ["a", "b", "q" * 10_000_000, "a"] * 2
    with pytest.raises(ValueError, match=naming("10000000 characters", "column 'c'", "row 2", "shorten")):
        encoder_of({"z": range(8), "c": texts})


def test_many_rare_categories_are_not_stored():
    texts = [f"{k % 40:0100}" for k in range(160)] + [f"{k:0100}" * 500 for k in range(1000, 1030)]
    encoder = encoder_of({"c": texts})
    assert encoder.columns[0].rare == () and encoder.columns[0].rare_input and encoder.width == 41
    X, notes = encoder.encode(read_table({"c": ["new", texts[0]]}))
    assert X[0].nonzero()[0].tolist() == [40] and X[1].nonzero()[0].tolist() == [0] and notes == []


# --- other tables -------------------------------------------------------------------------------------------------


def test_columns_are_found_by_name():
    encoder, table = encoder_of(TABLE), read_table(TABLE)
    turned = read_table({"more": [1] * N} | {name: TABLE[name] for name in reversed(TABLE)})
    np.testing.assert_array_equal(encoder.encode(turned)[0], encoder.encode(table)[0])


def test_missing_columns_are_named():
    encoder = encoder_of(TABLE)
    with pytest.raises(ValueError, match=naming("lacks column 'c', 'd'")):
        encoder.encode(read_table({"x": TABLE["x"], "b": TABLE["b"]}))


@pytest.mark.parametrize(
    ("name", "column", "parts"),
    [
        ("x", ["much"], ("column 'x'", "numbers", "'much'")),
        ("x", [datetime.date(2024, 1, 1)], ("column 'x'", "numbers", "dates")),
        ("d", [3.5], ("column 'd'", "dates", "numbers")),
        ("d", ["soon"], ("column 'd'", "dates", "'soon'")),
    ],
)
def test_columns_of_another_type_are_refused_by_name(name, column, parts):
    encoder = encoder_of(TABLE)
    with pytest.raises(TypeError, match=naming(*parts)):
        encoder.encode(read_table({key: cells[:1] for key, cells in TABLE.items()} | {name: column}))


def test_the_notes_of_all_columns_are_returned():
    row = {"x": [None], "c": ["new"], "d": [None], "b": [None]}
    X, notes = encoder_of(TABLE).encode(read_table(row))
    assert [note.split(":")[0] for note in notes] == ["column 'x'", "column 'c'", "column 'd'", "column 'b'"]
    assert np.isfinite(X).all()


def test_a_row_has_the_same_inputs_in_every_table():
    encoder, table = encoder_of(TABLE), read_table(TABLE)
    X, _ = encoder.encode(table)
    for rows in ([5], [7, 3, 3], range(30, 60)):
        np.testing.assert_array_equal(encoder.encode(table.take(np.array(rows)))[0], X[rows])


# --- files --------------------------------------------------------------------------------------------------------


def config_of(table=TABLE):
    return json.loads(json.dumps(encoder_of(table).get_config()))


def test_an_encoder_equals_its_config():
    table = TABLE | {"k": [1] * N, "rare": ["a", "b", "c"] * 19 + ["d", "e", "f"]}
    encoder = encoder_of(table)
    again = FeatureEncoder.from_config(config_of(table))
    assert again == encoder
    assert [type(column) for column in again.columns] == [
        NumericColumn, CategoricalColumn, DateColumn, NumericColumn, CategoricalColumn
    ]  # fmt: skip
    read = read_table(table)
    assert again.encode(read)[0].tobytes() == encoder.encode(read)[0].tobytes()
    assert again.describe() == encoder.describe() and again.notes == ["left out, the same in every row: 'k'"]


NO_DATE = {"type": "DateColumn", "name": "d", "parts": []}
FORGED = {
    "an unknown type": lambda c: c["columns"][0].update(type="Eval"),
    "no type": lambda c: c["columns"][0].pop("type"),
    "no columns": lambda c: c.pop("columns"),
    "no names": lambda c: c.pop("names"),
    "an unknown field": lambda c: c["columns"][0].update(more=1),
    "a missing field": lambda c: c["columns"][0].pop("median"),
    "a median that is text": lambda c: c["columns"][0].update(median="2"),
    "a scale of 0": lambda c: c["columns"][0].update(scale=0),
    "edges that decrease": lambda c: c["columns"][0]["edges"].reverse(),
    "edges that are texts": lambda c: c["columns"][0].update(edges=["a", "b"]),
    "an infinite edge": lambda c: c["columns"][0].update(edges=[0.0, float("inf")]),
    "categories that are numbers": lambda c: c["columns"][1].update(values=[1, 2]),
    "categories that are lists": lambda c: c["columns"][1].update(values=[["a"], ["b"]]),
    "repeated categories": lambda c: c["columns"][1].update(values=["a", "a", None]),
    "an unknown part of a date": lambda c: c["columns"][2]["parts"].append(["second", c["columns"][2]["parts"][0][1]]),
    "a date in a date": lambda c: c["columns"][2].update(
        parts=[["day", {"type": "DateColumn", "name": "d", "parts": []}]]
    ),
    "an invalid part of a date": lambda c: c["columns"][2]["parts"][0][1].update(scale=-1),
    "a name less": lambda c: c["names"].pop(),
    "a name more": lambda c: c["names"].append("more"),
    "a name twice": lambda c: c["names"].append("x"),
    "another name": lambda c: c["names"].__setitem__(0, "other"),
    "a column twice": lambda c: c["columns"].append(c["columns"][0]),
    "a column that is also left out": lambda c: c["left_out"].update(x="a reason"),
}


@pytest.mark.parametrize("name", FORGED)
def test_invalid_configs_are_refused(name):
    config = copy.deepcopy(config_of())
    FORGED[name](config)
    with pytest.raises((ValueError, KeyError, TypeError)):
        FeatureEncoder.from_config(config)
