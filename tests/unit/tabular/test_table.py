"""Tables of every kind are read as the same columns of numbers, texts and dates."""

import datetime
import decimal
from fractions import Fraction

import numpy as np
import pytest
from helpers.messages import naming

from gpunn.tabular.feature_encoder import FeatureEncoder
from gpunn.tabular.table import DATE, read_table

NAN = float("nan")
UTC = datetime.UTC
OSLO = datetime.timezone(datetime.timedelta(hours=2), "Oslo")


def cells_of(column, name="a"):
    """The kind and the values of one column, None for missing cells."""
    cells = read_table({name: column}).columns[name]
    assert cells.kind == "text" or cells.values.dtype == (DATE if cells.kind == "date" else np.float64)
    values = cells.values.tolist()
    return cells.kind, [None if missing else value for value, missing in zip(values, cells.missing, strict=True)]


# --- columns ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "column",
    [
        [1, None, 3],
        (1, NAN, 3.0),
        [1, np.float32("nan"), np.int8(3)],
        [True, None, 3],
        [decimal.Decimal(1), decimal.Decimal("NaN"), Fraction(3)],
        [1, decimal.Decimal("sNaN"), 3],
        np.array([1, NAN, 3], "f2"),
        np.array([1, NAN, 3], "g"),
        np.array([1, None, 3], object),
        np.ma.masked_array([1, 2, 3], mask=[0, 1, 0]),
    ],
    ids=repr,
)
def test_numbers_of_every_type(column):
    assert cells_of(column) == ("number", [1.0, None, 3.0])


@pytest.mark.parametrize(
    "column",
    [
        ["x", None, "y"],
        [" x ", "", "y\n"],
        [np.str_("x"), NAN, "y"],
        np.array(["x", " ", "y"]),
        np.array(["x", "", "y"], np.dtypes.StringDType()),
        np.ma.masked_array(["x", "z", "y"], mask=[0, 1, 0]),
    ],
    ids=repr,
)
def test_texts_of_every_type(column):
    assert cells_of(column) == ("text", ["x", None, "y"])


@pytest.mark.parametrize(
    "column",
    [
        [datetime.datetime(2024, 3, 1, 22, 30), None, datetime.date(1960, 1, 2)],
        [datetime.datetime(2024, 3, 2, 0, 30, tzinfo=OSLO), NAN, datetime.datetime(1960, 1, 2, tzinfo=UTC)],
        [np.datetime64("2024-03-01T22:30"), np.datetime64("NaT"), np.datetime64("1960-01-02")],
        np.array(["2024-03-01T22:30", "NaT", "1960-01-02"], "M8[ns]"),
        np.array(["2024-03-01T22:30", "NaT", "1960-01-02"], "M8[m]"),
    ],
    ids=repr,
)
def test_dates_of_every_type_are_in_utc(column):
    expected = [datetime.datetime(2024, 3, 1, 22, 30), None, datetime.datetime(1960, 1, 2)]
    assert cells_of(column) == ("date", expected)


def test_columns_without_values_are_numbers():
    assert cells_of([None, NAN]) == ("number", [None, None])
    assert cells_of([]) == ("number", [])


@pytest.mark.parametrize(
    ("column", "error", "parts"),
    [
        ([1.0, np.inf, -np.inf], ValueError, ("inf", "row 1", "2 such", "NaN")),
        ([1, 10**400], ValueError, ("inf", "row 1")),
        ([1, -(10**400)], ValueError, ("-inf", "row 1")),
        ([decimal.Decimal("Infinity")], ValueError, ("inf", "row 0")),
        ([1, "x", 2, "y"], TypeError, ("number such as 1", "text such as 'x'", "convert")),
        ([datetime.date(2024, 1, 1), "2024-01-02"], TypeError, ("date such as", "text such as", "convert")),
        ([datetime.time(3)], TypeError, ("time", "convert")),
        ([datetime.timedelta(3)], TypeError, ("timedelta", "convert")),
        (np.array([3], "m8[s]"), TypeError, ("timedelta64[s]",)),
        ([b"x"], TypeError, ("bytes", "convert")),
        (np.array([b"x"]), TypeError, ("S1",)),
        ([1j], TypeError, ("complex",)),
        (np.array([1j]), ValueError, ("real numbers",)),
        ([[1], [2]], ValueError, ("one cell per row",)),
        (np.zeros((2, 2)), ValueError, ("(2, 2)",)),
        (3, TypeError, ("got 3",)),
        ("abc", TypeError, ("got 'abc'",)),
        ((k for k in range(3)), TypeError, ("generator",)),
        (np.array(["300000000-01-01"], "M8[Y]"), ValueError, ("year 300000000",)),
        ([None, np.datetime64(300_000_000, "Y")], ValueError, ("year",)),
    ],
)
def test_invalid_columns_are_refused_by_name(column, error, parts):
    with pytest.raises(error, match=naming("column 'size'", *parts)):
        read_table({"size": column})


def test_long_cells_are_shortened_in_errors():
    with pytest.raises(TypeError, match="column 'a'") as caught:
        read_table({"a": [1, "q" * 1_000_000]})
    assert len(str(caught.value)) < 300


# --- tables -------------------------------------------------------------------------------------------------------


def content(table):
    return {name: cells_of(cells.values) for name, cells in table.columns.items()}


TWO = {"x0": ("number", [1.0, None]), "x1": ("text", ["7", "b"])}


@pytest.mark.parametrize(
    "rows", [[[1, "7"], [None, "b"]], ((1, "7"), (NAN, "b")), np.array([[1, "7"], [None, "b"]], object)]
)
def test_rows_without_names(rows):
    table = read_table(rows)
    assert content(table) == TWO and table.n_rows == 2 and not table.named


def test_texts_that_look_like_numbers_are_texts_in_every_container():
    expected = ("text", ["1", "2"])
    for given in ([["1"], ["2"]], np.array([["1"], ["2"]]), np.array([["1"], ["2"]], object), [["1", 5], ["2", 6]]):
        assert content(read_table(given))["x0"] == expected
    assert content(read_table({"x0": ["1", "2"]}))["x0"] == expected


def test_rows_that_are_dicts_have_the_columns_of_all():
    table = read_table([{"b": 1, "a": "x"}, {"c": None, "b": 2}])
    assert content(table) == {
        "b": ("number", [1.0, 2.0]),
        "a": ("text", ["x", None]),
        "c": ("number", [None, None]),
    }
    assert list(table.columns) == ["b", "a", "c"] and table.named


@pytest.mark.parametrize(
    ("table", "error", "parts"),
    [
        ({"a": [1, 2], "b": [1]}, ValueError, ("2 cells in 'a'", "1 in 'b'")),
        ([[1, 2], [3]], ValueError, ("rows of T", "[1, 2] cells")),
        ([["a", 2], ["b"]], ValueError, ("rows of T", "[1, 2] cells")),
        ([{"a": 1}, [2]], ValueError, ("rows of T", "dict, list")),
        ({1: [1], "1": [2], "b": [3]}, ValueError, ("T", "'1'", "repeatedly")),
        ({}, ValueError, ("T", "empty table")),
        ([[], []], ValueError, ("T", "empty table", "(2, 0)")),
        (np.zeros(3), ValueError, ("(3,)", "T.reshape(-1, 1)")),
        (np.zeros((2, 2, 2)), ValueError, ("(2, 2, 2)",)),
        (None, TypeError, ("T", "NoneType")),
        ("abc", TypeError, ("T", "str")),
        (5, TypeError, ("T", "int")),
    ],
)
def test_invalid_tables_are_refused(table, error, parts):
    with pytest.raises(error, match=naming(*parts)):
        read_table(table, "T")


def test_sparse_matrices_are_refused():
    sparse = pytest.importorskip("scipy.sparse")
    with pytest.raises(TypeError, match=naming("sparse", "X.toarray()")):
        read_table(sparse.csr_matrix(np.eye(2)))


def test_tables_are_taken_and_renamed_with_the_labels_of_their_rows():
    pd = pytest.importorskip("pandas")
    table = read_table(pd.DataFrame({"a": [1.0, 2.0, 3.0], "b": ["x", None, "z"]}, index=[7, 5, 9]))
    part = table.take(np.array([2, 1])).renamed(["c", "d"])
    assert content(part) == {"c": ("number", [3.0, 2.0]), "d": ("text", ["z", None])}
    assert part.columns["d"].name == "d" and part.n_rows == 2
    assert [part.columns["c"].where(k) for k in range(2)] == ["row 9", "row 5"]
    with pytest.raises(ValueError, match=naming("column 'a'", "row 9")):
        read_table(pd.DataFrame({"a": [1.0, 2.0, np.inf]}, index=[7, 5, 9]))


def test_the_lines_of_a_file_are_named_lines():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"a": [1.0, 2.0]}, index=pd.Index([2, 3], name="line"))
    assert read_table(frame).columns["a"].where(1) == "line 3"


# --- pandas, polars, pyarrow --------------------------------------------------------------------------------------

# the same table as lists, with missing cells
LISTS = {
    "whole": [3, None, 1, 2, 5, 1],
    "share": [0.5, 1.5, None, 2.5, -3.0, 0.25],
    "flag": [True, False, None, True, True, False],
    "sure": [True, False, False, True, True, False],
    "word": ["b", "a", None, "b", "a", "c"],
    "level": ["low", "high", "low", None, "high", "low"],
    "day": [datetime.date(2023, 12, 31), None, *(datetime.date(2024, k, 29) for k in (1, 2, 3, 4))],
    "time": [datetime.datetime(2024, 3, k, 5 * k, 30) for k in range(1, 5)] + [None, datetime.datetime(1969, 7, 20)],
    "zone": [
        None if value is None else value.replace(tzinfo=UTC).astimezone(OSLO)
        for value in [datetime.datetime(2024, 3, k, 23) for k in range(1, 6)] + [None]
    ],
}


def encoded(table):
    """The encoding of a table: its description and its numbers."""
    read = read_table(table)
    encoder = FeatureEncoder.fit(read)
    X, notes = encoder.encode(read)
    assert notes == []
    return encoder.get_config(), X.tobytes()


EXPECTED = encoded(LISTS)


def test_rows_that_are_dicts_give_the_encoding_of_columns():
    rows = [dict(zip(LISTS, cells, strict=True)) for cells in zip(*LISTS.values(), strict=True)]
    assert encoded(rows) == EXPECTED


def test_plain_pandas_columns_give_the_encoding_of_lists():
    pd = pytest.importorskip("pandas")
    assert encoded(pd.DataFrame(LISTS)) == EXPECTED
    assert encoded(pd.DataFrame({name: pd.Series(cells, dtype=object) for name, cells in LISTS.items()})) == EXPECTED


def test_pandas_extension_types_give_the_encoding_of_lists():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(
        {
            "whole": pd.array(LISTS["whole"], dtype="Int64"),
            "share": pd.array(LISTS["share"], dtype="Float64"),
            "flag": pd.array(LISTS["flag"], dtype="boolean"),
            "sure": LISTS["sure"],
            "word": pd.array(LISTS["word"], dtype="string"),
            "level": pd.Categorical(LISTS["level"], categories=["unused", "low", "high"], ordered=True),
            "day": pd.to_datetime(pd.Series(LISTS["day"])),
            "time": pd.to_datetime(pd.Series(LISTS["time"])).astype("datetime64[ns]"),
            "zone": pd.to_datetime(pd.Series(LISTS["zone"])).dt.tz_convert("America/New_York"),
        }
    ).set_axis([f"row {k}" for k in range(6)])
    assert str(frame["zone"].dtype).endswith("America/New_York]")
    assert encoded(frame) == EXPECTED
    assert encoded({name: frame[name] for name in frame}) == EXPECTED  # columns as series
    assert encoded({name: frame[name].array for name in frame}) == EXPECTED
    frame["word"] = pd.Categorical(LISTS["word"])
    frame["whole"] = pd.Categorical(LISTS["whole"])
    assert encoded(frame) == EXPECTED


def test_texts_of_pandas_3_give_the_encoding_of_lists():
    pd = pytest.importorskip("pandas", "3.0")
    word = pd.Series(LISTS["word"], dtype="str")
    assert isinstance(word.dtype, pd.StringDtype)
    assert encoded(LISTS | {"word": word}) == EXPECTED


def test_pyarrow_tables_give_the_encoding_of_lists():
    pa = pytest.importorskip("pyarrow")
    plain = pa.table(LISTS)
    assert encoded(plain) == EXPECTED
    assert encoded(pa.concat_tables([plain.slice(0, 2), plain.slice(2)])) == EXPECTED
    types = {
        "whole": pa.int8(), "share": pa.float32(), "word": pa.large_string(), "day": pa.date64(),
        "time": pa.timestamp("ns"), "zone": pa.timestamp("s", tz="Europe/Oslo"),
    }  # fmt: skip
    arrays = {name: pa.array(cells, types.get(name)) for name, cells in LISTS.items()}
    arrays["level"] = arrays["level"].dictionary_encode()
    assert encoded(pa.table(arrays)) == EXPECTED
    assert encoded(pa.record_batch(arrays)) == EXPECTED
    assert encoded(arrays) == EXPECTED  # a dict of arrays


def test_pandas_columns_of_pyarrow_give_the_encoding_of_lists():
    pd, pa = pytest.importorskip("pandas"), pytest.importorskip("pyarrow")
    frame = pd.DataFrame(
        {name: pd.array(cells, dtype=pd.ArrowDtype(pa.array(cells).type)) for name, cells in LISTS.items()}
    )
    assert encoded(frame) == EXPECTED


def test_polars_tables_give_the_encoding_of_lists():
    pl = pytest.importorskip("polars")
    table = pl.DataFrame(LISTS)
    assert encoded(table) == EXPECTED
    types = {"whole": pl.Int8, "share": pl.Float32, "word": pl.Categorical, "level": pl.Enum(["low", "high"])}
    assert encoded(table.with_columns(pl.col(name).cast(kind) for name, kind in types.items())) == EXPECTED
    types = {"whole": pl.Int128, "time": pl.Datetime("ns")}
    assert encoded(table.with_columns(pl.col(name).cast(kind) for name, kind in types.items())) == EXPECTED
    assert encoded({name: table[name] for name in table.columns}) == EXPECTED
    with pytest.raises(TypeError, match=naming("X", "LazyFrame", "X.collect()")):
        read_table(table.lazy())


def test_decimals_of_arrow_and_polars_are_numbers():
    cells = [decimal.Decimal("1.5"), None]
    for package, make in (("pyarrow", "array"), ("polars", "Series")):
        column = getattr(pytest.importorskip(package), make)(cells)
        assert cells_of(column) == ("number", [1.5, None])


def test_repeated_names_are_refused():
    pd = pytest.importorskip("pandas")
    with pytest.raises(ValueError, match=naming("X", "'a', 'b'", "repeatedly")):
        read_table(pd.DataFrame([[1, 2, 3, 4, 5]], columns=["b", "a", "c", "a", "b"]))
