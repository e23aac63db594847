"""Tables: what becomes of columns and targets, by hand, and that a saved model answers in the user's own words."""

import json
import math
import re

import numpy as np
import pytest
from helpers import ROOT
from helpers.messages import naming

import gpunn
from gpunn import tables
from gpunn.tables import CategoricalColumn, ClassTarget, NumericColumn, NumericTarget, TableEncoder, TableModel
from gpunn.training import checkpoint

pd = pytest.importorskip("pandas")
FILES = ROOT / "tests" / "files"


def encoding_of(frame, target="y", rows=None, task="auto"):
    learned, _ = tables.infer_target(frame[target], task)
    return TableEncoder.from_training_rows(frame, learned, np.arange(len(frame)) if rows is None else np.array(rows))


def written(tmp_path, text, name="table.csv"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


# --- columns --------------------------------------------------------------------------------------------------------


def test_numbers_are_standardised_and_missing_ones_are_the_median_with_an_indicator():
    frame = pd.DataFrame({"x": [1.0, 2.0, np.nan, 5.0], "y": [1.5, 2.5, 3.5, 4.5]})
    encoding = encoding_of(frame)
    # median 2; of 1, 2, 2, 5 the mean is 5/2 and the variance (9/4 + 1/4 + 1/4 + 25/4)/4 = 9/4
    assert encoding.columns == [NumericColumn("x", median=2.0, mean=2.5, scale=1.5, indicator=True)]
    X, unknown = encoding.encode(frame)
    np.testing.assert_allclose(X, [[-1, 0], [-1 / 3, 0], [-1 / 3, 1], [5 / 3, 0]], rtol=1e-6)
    assert X.dtype == np.float32 and unknown == []


def test_the_columns_are_learned_from_the_training_rows_alone():
    frame = pd.DataFrame({"x": [1.0, 3.0, 1000.0], "c": ["a", "b", "rare"], "y": [0.5, 1.5, 2.5]})
    encoding = encoding_of(frame, rows=[0, 1])
    assert encoding.columns == [NumericColumn("x", 2.0, 2.0, 1.0, False), CategoricalColumn("c", ("a", "b"))]


def test_categories_become_one_column_each_and_a_missing_one_its_own():
    frame = pd.DataFrame({"c": ["b", "a", None, "b"], "y": [1.5, 2.5, 3.5, 4.5]})
    encoding = encoding_of(frame)
    assert encoding.columns == [CategoricalColumn("c", ("a", "b", None))]
    X, unknown = encoding.encode(frame)
    assert X.tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 1], [0, 1, 0]] and unknown == []
    X, unknown = encoding.encode(pd.DataFrame({"c": ["z", "a", "q"]}))
    assert X.tolist() == [[0, 0, 0], [1, 0, 0], [0, 0, 0]]
    assert unknown == ["column 'c': 2 of 3 cells hold a category that training did not see"]


def test_booleans_are_numbers_and_codes_with_letters_are_categories():
    frame = pd.DataFrame({"b": [True, False, True, False], "code": ["1", "2", "A", "1"], "y": [1.5, 2.5, 3.5, 4.5]})
    assert encoding_of(frame).columns == [
        NumericColumn("b", 0.5, 0.5, 0.5, False),
        CategoricalColumn("code", ("1", "2", "A")),
    ]


def test_a_number_in_a_column_of_categories_is_found_however_it_is_typed():
    frame = pd.DataFrame({"code": ["1", "2", "A", "1"], "y": [1.5, 2.5, 3.5, 4.5]})
    encoding = encoding_of(frame)
    for cells in ([1, 2], [1.0, 2.0], ["1", " 2 "]):
        X, unknown = encoding.encode(pd.DataFrame({"code": cells}))
        assert X.tolist() == [[1, 0, 0], [0, 1, 0]] and unknown == []


def test_constant_columns_are_left_out_unless_cells_are_missing():
    frame = pd.DataFrame({"k": [7, 7, 7], "w": ["q", "q", "q"], "m": [3.0, np.nan, 3.0], "y": [1.5, 2.5, 3.5]})
    encoding = encoding_of(frame)
    assert encoding.columns == [NumericColumn("m", 3.0, 3.0, None, True)]
    assert encoding.encode(frame)[0].tolist() == [[0], [1], [0]]
    assert encoding.notes == ["left out, the same in every row: 'k', 'w'"]


def test_numbers_so_large_that_their_squares_overflow():
    frame = pd.DataFrame({"x": [-1e300, 1e300], "y": [1.5, 2.5]})
    assert encoding_of(frame).encode(frame)[0].tolist() == [[-1], [1]]


def test_identifiers_are_left_out_and_said_to_be():
    n = 60
    frame = pd.DataFrame(
        {
            "name": [f"person {k}" for k in range(n)],
            "day": pd.date_range("2024-01-01", periods=n),
            "x": np.arange(n),
            "y": np.arange(n) / 7,
        }
    )
    encoding = encoding_of(frame)
    assert [column.name for column in encoding.columns] == ["x"]
    assert [note.split(" has ")[0] for note in encoding.notes] == ["left out: column 'name'", "left out: column 'day'"]


def test_of_many_categories_the_most_frequent_are_kept():
    words = [f"w{k % 150}" for k in range(600)] + [f"w{k}" for k in range(100)]
    frame = pd.DataFrame({"c": words, "y": np.arange(700) / 3})
    encoding = encoding_of(frame)
    assert set(encoding.columns[0].values) == {f"w{k}" for k in range(100)}
    assert encoding.notes == ["column 'c' has 150 categories: the 100 most frequent are used"]


def test_missing_cells_that_training_did_not_see_are_counted():
    encoding = encoding_of(pd.DataFrame({"x": [1.0, 2.0, 4.0], "c": ["a", "b", "a"], "y": [1.5, 2.5, 3.5]}))
    X, notes = encoding.encode(pd.DataFrame({"x": [np.nan, 2.0, np.nan], "c": ["a", None, "new"]}))
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
def test_a_number_too_far_from_those_of_training(cell):
    encoding = encoding_of(pd.DataFrame({"x": [1.0, 2.0, 4.0], "y": [1.5, 2.5, 3.5]}))
    with pytest.raises(ValueError, match=rf"column 'x' holds {re.escape(f'{cell:.7g}')} in row 8"):
        encoding.encode(pd.DataFrame({"x": [1.0, cell]}, index=[7, 8]))
    assert np.isfinite(encoding.encode(pd.DataFrame({"x": [1e37]}))[0]).all()


@pytest.mark.filterwarnings("error")
def test_a_column_of_numbers_too_small_for_their_scale():
    frame = pd.DataFrame({"x": [5e-324, 0.0, 0.0, 0.0], "z": [1.0, 2.0, 3.0, 5.0], "y": [1.5, 2.5, 3.5, 4.5]})
    assert np.isfinite(encoding_of(frame).encode(frame)[0]).all()


@pytest.mark.parametrize("place", ["target", "column"])
def test_texts_that_no_model_file_has_space_for_are_refused(place):
    texts = ["a", "b", "q" * 10_000_000, "a"] * 2
    words = {"y": texts, "x": range(8)} if place == "target" else {"y": np.arange(8) / 2, "x": texts}
    frame = pd.DataFrame(words, index=range(1, 9))
    with pytest.raises(
        ValueError, match=rf"10000000 characters, in column '{'y' if place == 'target' else 'x'}', row 3"
    ):
        encoding_of(frame)


def test_names_that_no_model_file_has_space_for_are_refused():
    name = "q" * 10_000_000
    with pytest.raises(ValueError, match="bytes in the model file"):
        encoding_of(pd.DataFrame({name: [1.0, 2.0], "y": [1.5, 2.5]}))


def test_a_long_cell_is_not_shown_in_full():
    frame = pd.DataFrame({"x": ["1.5", "2.5", "q" * 1_000_000, "4"], "y": [1.5, 2.5, 3.5, 4.5]})
    with pytest.raises(ValueError, match=r"column 'x'.* row 2 holds 'qqq") as caught:
        encoding_of(frame)
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
def test_columns_that_are_refused(cells, message):
    frame = pd.DataFrame({"x": cells, "y": [1.5, 2.5, 3.5, 4.5]})
    with pytest.raises(ValueError, match=message):
        encoding_of(frame)


def test_a_table_of_other_columns_is_refused():
    encoding = encoding_of(pd.DataFrame({"x": [1.0, 2.0], "z": [3.0, 5.0], "y": [1.5, 2.5]}))
    with pytest.raises(ValueError, match=naming("column 'x', 'z'")):
        encoding.encode(pd.DataFrame({"other": [1]}))
    with pytest.raises(ValueError, match=naming("column 'z'", "row 4", "'much'")):
        encoding.encode(pd.DataFrame({"x": [1, 2], "z": ["1", "much"]}, index=[3, 4]))


# --- the target -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cells", "labels"),
    [
        (["no", "yes", "no", "yes"], ("no", "yes")),
        ([True, False, True, True], (False, True)),
        ([3, 1, 3, -2], (-2, 1, 3)),
        (list(range(20)) * 2, tuple(range(20))),
    ],
)
def test_classes_by_themselves(cells, labels):
    target, _ = tables.infer_target(pd.Series(cells, name="y"))
    assert isinstance(target, ClassTarget) and target.labels == labels
    assert [target.labels[k] for k in target.encode(pd.Series(cells))] == cells


@pytest.mark.parametrize("cells", [[1.0, 2.0, 1.0, 2.0], list(range(21))])
def test_amounts_by_themselves(cells):
    target, _ = tables.infer_target(pd.Series(cells, name="y"))
    assert isinstance(target, NumericTarget)
    y = target.encode(pd.Series(cells))
    assert y.shape == (len(cells), 1)
    assert math.isclose(y.mean(), 0, abs_tol=1e-12) and math.isclose((y**2).mean(), 1)


def test_the_task_can_be_chosen():
    cells = pd.Series([1, 2, 1, 2], name="y")
    assert tables.infer_target(cells, "regression")[0] == NumericTarget("y", 1.5, 0.5)
    assert tables.infer_target(pd.Series([1.5, 2.5, 1.5], name="y"), "classification")[0].labels == (1.5, 2.5)


def test_integers_stay_integers_where_missing_cells_made_floats_of_them():
    frame, dropped = tables.drop_missing_targets(pd.DataFrame({"y": [1.0, np.nan, 2.0], "x": [1, 2, 3]}), "y")
    assert dropped == 1 and frame["x"].tolist() == [1, 3]
    assert tables.infer_target(frame["y"])[0].labels == (1, 2)


@pytest.mark.parametrize(
    ("cells", "task", "message"),
    [
        (["a", "a"], "auto", naming("column 'y'", "'a'")),
        ([2.5, 2.5], "auto", r"column 'y' holds 2.5 in every row"),
        (
            ["low", "high", "low"],
            "regression",
            naming("column 'y'", "row 0", "'low'", 3),
        ),
        (["1.5", "2.5", "n.a", "3.5"], "auto", r"column 'y' .*row 2 .*'n\.a"),
        ([f"name {k}" for k in range(30)], "auto", r"column 'y' has 30 distinct values in 30 rows: too many"),
        ([k / 2 for k in range(30)], "classification", r"column 'y' has 30 distinct values in 30 rows: too many"),
        ([f"{k:04d}" for k in range(30)], "auto", r"column 'y' has 30 distinct values .* --task regression"),
        ([1e308, -1e308, 0.5], "auto", r"column 'y' holds 1e\+308 in row 0"),
        ([0.5, -1e151, 0.5], "regression", r"column 'y' holds -1e\+151 in row 1"),
    ],
)
def test_targets_that_are_refused(cells, task, message):
    with pytest.raises(ValueError, match=message):
        tables.infer_target(pd.Series(cells, name="y"), task)


def test_rows_without_a_target():
    with pytest.raises(ValueError, match=r"there is no column 'z'; there are 'x', 'y'"):
        tables.drop_missing_targets(pd.DataFrame({"x": [1], "y": [2]}), "z")
    with pytest.raises(ValueError, match=naming("column 'y'", "no value")):
        tables.drop_missing_targets(pd.DataFrame({"x": [1], "y": [np.nan]}), "y")


@pytest.mark.filterwarnings("error")
def test_the_largest_target():
    target, _ = tables.infer_target(pd.Series([1e150, -1e150, 0.5], name="y"))
    a = np.full((1, 1), np.finfo(np.float32).max)
    assert np.isfinite(target.encode(pd.Series([1e150, -1e150, 0.5]))).all() and np.isfinite(target.decode(a)).all()


# --- files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_a_csv_file_is_read_whatever_separates_its_cells(tmp_path, separator):
    lines = [["", " name", "size "], ["0", "a", "1.5"], ["1", "?", ""]]
    path = written(tmp_path, "\ufeff" + "\r\n".join(separator.join(line) for line in lines))
    frame = tables.read_csv(path)
    assert list(frame.columns) == ["name", "size"] and list(frame.index) == [1, 2]
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
def test_a_separator_within_quotes_does_not_count(tmp_path, head, separator, names):
    frame = tables.read_csv(written(tmp_path, f"{head}\n{separator.join('1' for _ in names)}\n"))
    assert list(frame.columns) == names and frame.iloc[0].tolist() == [1] * len(names)


USUAL = ["NA", "N/A", "NaN", "nan", "null", "NULL", "None", "#N/A", "<NA>"]


@pytest.mark.parametrize("word", USUAL)
def test_a_word_for_missing_is_missing_among_numbers_and_a_word_among_words(tmp_path, word):
    lines = ["x,b,c,d", f"1.5,true,red,{word}", f"{word},{word},{word},1", ",,,A", "?,?,?,2", "2.5,false,red,"]
    frame = tables.read_csv(written(tmp_path, "\n".join(lines)))
    assert frame["x"].isna().tolist() == frame["b"].isna().tolist() == [False, True, True, True, False]
    assert frame["x"].dtype == float and frame["b"].tolist()[::4] == [True, False]
    assert frame["c"].isna().tolist() == [False, False, True, True, False] and frame["c"].tolist()[1] == word
    assert frame["d"].isna().tolist() == [False] * 4 + [True] and frame["d"].tolist()[0] == word
    assert tables.read_column(tmp_path / "table.csv", "c").tolist() == ["red", word, "", "?", "red"]
    # a prediction knows what training found
    frame = tables.read_csv(written(tmp_path, f"c\n{word}\n{word}\n"), ("c",))
    assert frame["c"].tolist() == [word, word]


def test_among_numbers_with_a_word_a_word_for_missing_is_not_the_fault(tmp_path):
    frame = tables.read_csv(written(tmp_path, "x,y\nNA,1.5\n1.5,2.5\n2.5,3.5\nabc,4.5\n3.5,5.5\n"))
    with pytest.raises(ValueError, match=naming("column 'x'", "row 4", "'abc'")):
        encoding_of(frame)


def test_an_empty_line_is_a_missing_cell_of_a_single_column(tmp_path):
    assert tables.read_csv(written(tmp_path, "x\n1\n\n3\n"))["x"].isna().tolist() == [False, True, False]
    assert len(tables.read_csv(written(tmp_path, "x,y\n1,2\n\n3,4\n"))) == 2


def test_a_column_without_a_name_is_reported_unless_it_numbers_the_rows(tmp_path, caplog):
    assert list(tables.read_csv(written(tmp_path, ",x,,y,\n0,1,5,2,\n1,3,6,4,\n")).columns) == ["x", "y"]
    assert [re.match(r"column (\d) of .* has no name", message)[1] for message in caplog.messages] == ["3"]


def test_cells_of_categories_are_read_as_they_are_written(tmp_path):
    frame = tables.read_csv(written(tmp_path, "code,x\n01,2\n1.0,3\n"), ("code",))
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
def test_files_that_are_refused(tmp_path, text, message):
    with pytest.raises(ValueError, match=naming("table.csv") + f"(?s:.*{message})"):
        tables.read_csv(written(tmp_path, text))


def test_a_file_that_is_not_text_is_refused(tmp_path):
    path = tmp_path / "table.csv"
    path.write_bytes(b"a,b\n\xff\xfe,1\n")
    with pytest.raises(ValueError, match=naming("table.csv", "UTF-8")):
        tables.read_csv(path)


# --- the model ------------------------------------------------------------------------------------------------------


def fitted(frame, target, epochs=1):
    encoding = encoding_of(frame, target)
    learned = encoding.target
    is_class = isinstance(learned, ClassTarget)
    net = gpunn.Sequential([gpunn.Dense(learned.n_out, activation="softmax" if is_class else "identity")], seed=0)
    net.compile(gpunn.Adam(0.1), "sparse_categorical_crossentropy" if is_class else "half_squared_error")
    net.fit(encoding.encode(frame)[0], learned.encode(frame[target]), epochs=epochs, verbose=0)
    return TableModel(net, encoding, "a test")


FRAME = pd.DataFrame(
    {
        "size": [1.0, 2.0, np.nan, 4.0] * 8,
        "kind": ["a", "b", "a", None] * 8,
        "price": [1000.0, 2000.0, 2500.0, 4000.0] * 8,
        "sort": ["low", "low", "high", "high"] * 8,
        "many": [1, 1, 7, 7] * 8,
        "sold": [False, False, True, True] * 8,
    }
)


@pytest.mark.parametrize("target", ["sort", "many", "sold"])
def test_answers_are_the_users_own_labels(target):
    frame = FRAME[["size", "kind", target]]
    answers = fitted(frame, target, epochs=60).predict(frame)
    assert answers.tolist() == frame[target].tolist()


def test_answers_are_in_the_users_units():
    frame = FRAME[["size", "kind", "price"]]
    answers = fitted(frame, "price", epochs=300).predict(frame)
    np.testing.assert_allclose(answers, frame["price"], rtol=0.02)
    assert answers.dtype == np.float64


@pytest.mark.parametrize("target", ["sort", "many", "sold", "price"])
def test_a_saved_model_gives_the_same_answers(tmp_path, target):
    frame = FRAME[["size", "kind", target]]
    model = fitted(frame, target, epochs=3)
    model.save(tmp_path / "m.safetensors")
    again = gpunn.load(tmp_path / "m.safetensors")
    assert isinstance(again, TableModel) and isinstance(again.net, gpunn.Sequential)
    assert (again.encoder.columns, again.encoder.target) == (model.encoder.columns, model.encoder.target)
    assert again.target == target and again.source == "a test"
    np.testing.assert_array_equal(again.predict(frame), model.predict(frame))
    frame.to_csv(tmp_path / "rows.csv")
    np.testing.assert_array_equal(again.predict(str(tmp_path / "rows.csv")), model.predict(frame))


def test_classes_called_none_or_na_are_classes(tmp_path):
    classes = ["None", "NA", "null", "nan", "A"]
    rows = "".join(f"{word},{word}\n" for word in classes * 20)
    path = written(tmp_path, f"c,y\n{rows}")
    model = fitted(tables.read_csv(path), "y", epochs=100)
    assert sorted(model.encoder.target.labels) == sorted(classes)
    assert model.predict(path).tolist() == classes * 20
    model.save(tmp_path / "m.safetensors")
    assert gpunn.load(tmp_path / "m.safetensors").predict(path).tolist() == classes * 20


def test_a_model_of_the_first_version_reads_none_and_na_as_it_was_trained(tmp_path, caplog):
    """The file was written when NA was missing in every column."""
    model = gpunn.load(FILES / "table1.safetensors")
    expected = json.loads((FILES / "table1.json").read_text(encoding="utf-8"))
    path = written(tmp_path, expected["table"])
    assert model.predict(path).tolist() == expected["answers"] and caplog.messages == []
    X, _ = model.encoder.encode(tables.read_csv(path, ("land",), model.encoder.missing))
    np.testing.assert_allclose(X, expected["inputs"], rtol=1e-6)
    model.save(tmp_path / "again.safetensors")
    again = gpunn.load(tmp_path / "again.safetensors")
    assert again.predict(path).tolist() == expected["answers"] and caplog.messages == []


@pytest.mark.parametrize("target", ["sort", "price"])
def test_an_output_that_is_not_finite_is_no_answer(target):
    model = fitted(FRAME[["size", "kind", target]], target)
    W, *others = model.net.get_weights()
    model.net.set_weights([np.full_like(W, 1e5), *others])
    rows = pd.DataFrame({"size": [1.0, 1e37], "kind": ["a", "b"]}, index=[3, 4])
    assert len(model.predict(rows.iloc[:1])) == 1
    with pytest.raises(ValueError, match="row 4"):
        model.predict(rows)


def test_unknown_categories_are_counted_in_the_log(caplog):
    model = fitted(FRAME[["size", "kind", "price"]], "price")
    model.predict(pd.DataFrame({"size": [1.0, 2.0], "kind": ["a", "new"]}))
    assert caplog.messages == ["column 'kind': 1 of 2 cells hold a category that training did not see"]


def test_what_is_no_table_is_refused():
    model = fitted(FRAME[["size", "kind", "price"]], "price")
    with pytest.raises(TypeError, match=naming("table", "DataFrame", "CSV", "ndarray")):
        model.predict(np.zeros((2, 2)))
    with pytest.raises(ValueError, match="no rows"):
        model.predict(FRAME.iloc[:0])


def test_a_file_whose_columns_do_not_fit_its_network(tmp_path):
    model = fitted(FRAME[["size", "kind", "price"]], "price")
    model.encoder.columns.pop()
    model.save(tmp_path / "m.safetensors")
    with pytest.raises(gpunn.CheckpointError, match=naming("columns", 2, 5)):
        gpunn.load(tmp_path / "m.safetensors")


FORGED = {
    "a label less": ("sort", lambda table: table["target"]["labels"].pop(), "needs 1 outputs"),
    "a label more": ("sort", lambda table: table["target"]["labels"].append("most"), "needs 3 outputs"),
    "numbers for labels": (
        "sort",
        lambda table: table.update(target={"type": "Amounts", **AMOUNTS}),
        "needs 1 outputs",
    ),
    "labels for numbers": (
        "price",
        lambda table: table.update(target={"type": "Classes", **CLASSES}),
        "needs 2 outputs",
    ),
    "labels of another kind": ("sort", lambda table: table["target"].update(labels=[1, 2]), "labels"),
    "an unknown kind": ("sort", lambda table: table["target"].update(kind="word"), "labels"),
    "labels that are lists": ("sort", lambda table: table["target"].update(labels=[["a"], ["b"]]), "labels"),
    "a median that is text": ("sort", lambda table: table["columns"][0].update(median="2"), "median"),
    "a scale of 0": ("sort", lambda table: table["columns"][0].update(scale=0), "scale"),
    "a target's scale of 0": ("price", lambda table: table["target"].update(scale=0), "scale"),
    "a target's mean beyond all": ("price", lambda table: table["target"].update(mean=10**400), "mean"),
    "categories that are numbers": ("sort", lambda table: table["columns"][1].update(values=[1, 2, 3]), "values"),
    "missing cells that are none": ("sort", lambda table: table.update(missing=3), "metadata"),
}
AMOUNTS = {"name": "price", "mean": 1.0, "scale": 2.0}
CLASSES = {"name": "price", "labels": ["a", "b"], "kind": "text"}


@pytest.mark.parametrize("name", FORGED)
def test_forged_tables_are_refused_when_they_are_opened(tmp_path, name):
    """The digest fits, the content does not."""
    target, change, match = FORGED[name]
    path = tmp_path / "m.safetensors"
    fitted(FRAME[["size", "kind", target]], target).save(path)
    tensors, metadata = checkpoint.read(path)
    change(metadata["table"])
    checkpoint.write(path, tensors, metadata)
    with pytest.raises(gpunn.CheckpointError, match=match):
        gpunn.load(path)
