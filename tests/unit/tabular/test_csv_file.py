"""Reading CSV files: separators, missing cells, columns without a name, invalid files."""

import gzip
import io
import re

import pytest
from helpers.messages import naming
from helpers.tables import read_csv, written

from gpunn.tabular.cells import check_numbers
from gpunn.tabular.csv_file import CsvFile

pd = pytest.importorskip("pandas")


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_the_separator_is_detected(tmp_path, separator):
    lines = [["", " name", "size "], ["0", "a", "1.5"], ["1", "?", ""]]
    path = written(tmp_path, "\ufeff" + "\r\n".join(separator.join(line) for line in lines))
    frame = read_csv(path)
    assert list(frame.columns) == ["name", "size"] and list(frame.index) == [2, 3]
    assert frame["size"].iloc[0] == 1.5 and frame.iloc[1].isna().all()


@pytest.mark.parametrize(
    ("head", "separator", "names"),
    [
        ('"size, m2";y', ";", ["size, m2", "y"]),
        ('"a;b","c;d;e"', ",", ["a;b", "c;d;e"]),
        ('x\t"a, ""b"", c"', "\t", ["x", 'a, "b", c']),
        ('5", tall;y;z', ";", ['5", tall', "y", "z"]),
        ('y, "a;b;c"', ",", ["y", "a;b;c"]),
    ],
)
def test_separators_within_quotes_are_ignored(tmp_path, head, separator, names):
    frame = read_csv(written(tmp_path, f"{head}\n{separator.join('1' for _ in names)}\n"))
    assert list(frame.columns) == names and frame.iloc[0].tolist() == [1] * len(names)


SPELLINGS = ["-", "NA", "N/A", "NaN", "nan", "null", "NULL", "None", "#N/A", "<NA>"]


@pytest.mark.parametrize("word", SPELLINGS)
def test_spellings_of_missing_numbers_are_text_in_categorical_columns(tmp_path, word):
    lines = ["x,b,c,d", f"1.5,true,red,{word}", f"{word},{word},{word},1", ",,,A", "?,?,?,2", "2.5,false,red,"]
    frame = read_csv(written(tmp_path, "\n".join(lines)))
    assert frame["x"].isna().tolist() == frame["b"].isna().tolist() == [False, True, True, True, False]
    assert frame["x"].dtype == float and frame["b"].tolist()[::4] == [True, False]
    assert frame["c"].isna().tolist() == [False, False, True, True, False] and frame["c"].tolist()[1] == word
    assert frame["d"].isna().tolist() == [False] * 4 + [True] and frame["d"].tolist()[0] == word
    assert CsvFile.open(tmp_path / "table.csv").column("c").tolist() == ["red", word, "", "?", "red"]
    # in a prediction the categorical columns are known from training
    frame = read_csv(written(tmp_path, f"c\n{word}\n{word}\n"), "c")
    assert frame["c"].tolist() == [word, word]


def test_the_error_names_the_invalid_cell_rather_than_a_missing_one(tmp_path):
    frame = read_csv(written(tmp_path, "x,y\nNA,1.5\n1.5,2.5\n2.5,3.5\nabc,4.5\n3.5,5.5\n"))
    with pytest.raises(ValueError, match=naming("column 'x'", "line 5", "'abc'")):
        check_numbers(frame["x"])


def test_an_empty_line_is_a_missing_cell_if_there_is_one_column(tmp_path):
    assert read_csv(written(tmp_path, "x\n1\n\n3\n"))["x"].isna().tolist() == [False, True, False]
    assert len(read_csv(written(tmp_path, "x,y\n1,2\n\n3,4\n"))) == 2


def test_columns_without_a_name_are_reported_unless_they_number_the_rows(tmp_path, caplog):
    assert list(read_csv(written(tmp_path, ",x,,y,\n0,1,5,2,\n1,3,6,4,\n")).columns) == ["x", "y"]
    assert [re.match(r"column (\d) of .* has no name", message)[1] for message in caplog.messages] == ["3"]


def test_categorical_cells_are_read_as_written(tmp_path):
    frame = read_csv(written(tmp_path, "code,x\n01,2\n1.0,3\n"), "code")
    assert frame["code"].tolist() == ["01", "1.0"] and frame["x"].tolist() == [2, 3]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("\n\n", "is empty"),
        ("a,b\n", "no rows"),
        ("a,b,a\n1,2,3\n", "more than one.*'a'"),
        ("a,b\n1,2,3\n", "more cells"),
        ("a,b\n1,2\n1,2,3\n", "CSV.*line 3"),
    ],
)
def test_invalid_files_are_refused(tmp_path, text, message):
    with pytest.raises(ValueError, match=naming("table.csv") + f"(?s:.*{message})"):
        read_csv(written(tmp_path, text))


def test_files_in_other_encodings_are_refused_with_a_remedy(tmp_path):
    path = tmp_path / "table.csv"
    path.write_bytes(b"a,b\nx,2\n\xff\xfe,1\n")
    with pytest.raises(ValueError, match=naming("table.csv", "UTF-8", "line 3", "Excel", "iconv")):
        read_csv(path)


TEXT = "name,size\nMüller,1.5\n"


@pytest.mark.parametrize(
    "data",
    [TEXT.encode(), gzip.compress(TEXT.encode()), TEXT.encode("utf-16"), b"\xfe\xff" + TEXT.encode("utf-16-be")],
    ids=["utf-8", "gzip", "utf-16", "big-endian"],
)
def test_encodings_and_compression_are_found_by_the_first_bytes(tmp_path, monkeypatch, data):
    (tmp_path / "table").write_bytes(data)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
    for path in (tmp_path / "table", "-"):
        assert read_csv(path).to_dict("list") == {"name": ["Müller"], "size": [1.5]}


def test_damaged_gzip_files_are_refused(tmp_path):
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(TEXT.encode())[:-4])
    with pytest.raises(ValueError, match=naming("t.csv.gz", "gzip", "damaged")):
        read_csv(tmp_path / "t.csv.gz")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize(
    ("lines", "numbers"),
    [
        (["x,y", "1,2", "3,4"], [2, 3]),
        (["x,y", "1,2", "", "  ", "3,4", ""], [2, 5]),
        (['"x', '",y', '1,"two', 'lines"', "3,4"], [3, 5]),
        (["x", "1", "", "3"], [2, 3, 4]),
    ],
)
def test_the_index_has_the_lines_of_the_rows(tmp_path, end, lines, numbers):
    (tmp_path / "t.csv").write_bytes(end.join(lines).encode())
    frame = read_csv(tmp_path / "t.csv")
    assert frame.index.name == "line" and list(frame.index) == numbers
