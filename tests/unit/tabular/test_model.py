"""Table models: predictions in the user's labels and units, saving and loading, invalid files."""

import json

import numpy as np
import pytest
from helpers import ROOT
from helpers.messages import naming
from helpers.tables import encoder_of, written

import gpunn
from gpunn.tabular import TableModel
from gpunn.tabular.csv_file import read_csv
from gpunn.tabular.targets import ClassTarget
from gpunn.training import checkpoint

pd = pytest.importorskip("pandas")
FILES = ROOT / "tests" / "files"


def fitted(frame, target, epochs=1):
    encoder = encoder_of(frame, target)
    learned = encoder.target
    is_class = isinstance(learned, ClassTarget)
    net = gpunn.Sequential([gpunn.Dense(learned.n_out, activation="softmax" if is_class else "identity")], seed=0)
    net.compile(gpunn.Adam(0.1), "sparse_categorical_crossentropy" if is_class else "half_squared_error")
    net.fit(encoder.encode(frame)[0], learned.encode(frame[target]), epochs=epochs, verbose=0)
    return TableModel(net, encoder, "a test")


FRAME = pd.DataFrame(
    {
        "size": [1.0, 2.0, np.nan, 4.0] * 8,
        "kind": ["a", "b", "a", None] * 8,
        "price": [1000.5, 2000.0, 2500.0, 4000.0] * 8,
        "sort": ["low", "low", "high", "high"] * 8,
        "many": [1, 1, 7, 7] * 8,
        "sold": [False, False, True, True] * 8,
    }
)


@pytest.mark.parametrize("target", ["sort", "many", "sold"])
def test_predictions_are_the_users_labels(target):
    frame = FRAME[["size", "kind", target]]
    answers = fitted(frame, target, epochs=60).predict(frame)
    assert answers.tolist() == frame[target].tolist()


def test_predictions_are_in_the_users_units():
    frame = FRAME[["size", "kind", "price"]]
    answers = fitted(frame, "price", epochs=300).predict(frame)
    np.testing.assert_allclose(answers, frame["price"], rtol=0.02)
    assert answers.dtype == np.float64


@pytest.mark.parametrize("target", ["sort", "many", "sold", "price"])
def test_a_saved_model_gives_the_same_predictions(tmp_path, target):
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


def test_classes_may_be_named_none_or_na(tmp_path):
    classes = ["None", "NA", "null", "nan", "A"]
    rows = "".join(f"{word},{word}\n" for word in classes * 20)
    path = written(tmp_path, f"c,y\n{rows}")
    model = fitted(read_csv(path), "y", epochs=100)
    assert sorted(model.encoder.target.labels) == sorted(classes)
    assert model.predict(path).tolist() == classes * 20
    model.save(tmp_path / "m.safetensors")
    assert gpunn.load(tmp_path / "m.safetensors").predict(path).tolist() == classes * 20


def test_a_model_file_of_the_first_version_opens(tmp_path, caplog):
    """The file was written when NA was missing in every column."""
    model = gpunn.load(FILES / "table1.safetensors")
    expected = json.loads((FILES / "table1.json").read_text(encoding="utf-8"))
    path = written(tmp_path, expected["table"])
    assert model.predict(path).tolist() == expected["answers"] and caplog.messages == []
    X, _ = model.encoder.encode(read_csv(path, ("land",), model.encoder.missing))
    np.testing.assert_allclose(X, expected["inputs"], rtol=1e-6)
    model.save(tmp_path / "again.safetensors")
    again = gpunn.load(tmp_path / "again.safetensors")
    assert again.predict(path).tolist() == expected["answers"] and caplog.messages == []


def test_old_class_names_in_a_model_file_are_replaced_on_saving(tmp_path):
    """The reader accepts the class names that earlier commits wrote."""

    def types(path):
        table = checkpoint.read(path)[1]["table"]
        return {part["type"] for part in (*table["columns"], table["target"])}

    assert types(FILES / "table1.safetensors") == {"Numbers", "Categories", "Classes"}
    gpunn.load(FILES / "table1.safetensors").save(tmp_path / "m.safetensors")
    assert types(tmp_path / "m.safetensors") == {"NumericColumn", "CategoricalColumn", "ClassTarget"}


@pytest.mark.parametrize("target", ["sort", "price"])
def test_non_finite_outputs_are_refused(target):
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
    assert caplog.messages == [
        "column 'kind': 1 of 2 cells contain a category that training did not see; they count as no category"
    ]


def test_arguments_that_are_not_tables_are_refused():
    model = fitted(FRAME[["size", "kind", "price"]], "price")
    with pytest.raises(TypeError, match=naming("table", "DataFrame", "CSV", "ndarray")):
        model.predict(np.zeros((2, 2)))
    with pytest.raises(ValueError, match="no rows"):
        model.predict(FRAME.iloc[:0])


def test_a_file_whose_columns_do_not_fit_its_network_is_refused(tmp_path):
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
        lambda table: table.update(target={"type": "NumericTarget", **NUMERIC}),
        "needs 1 outputs",
    ),
    "labels for numbers": (
        "price",
        lambda table: table.update(target={"type": "ClassTarget", **CLASSES}),
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
    "a format that is none": (
        "price",
        lambda table: table["target"].update(number_format={"decimal": ";", "unit": ""}),
        "decimal mark",
    ),
    "rare categories that are numbers": ("sort", lambda table: table["columns"][1].update(rare=[1]), "rare"),
    "missing cells that are none": ("sort", lambda table: table.update(missing=3), "metadata"),
}
NUMERIC = {"name": "price", "mean": 1.0, "scale": 2.0}
CLASSES = {"name": "price", "labels": ["a", "b"], "kind": "text"}


@pytest.mark.parametrize("name", FORGED)
def test_invalid_encoders_in_a_file_are_refused(tmp_path, name):
    """The digest fits, the content does not."""
    target, change, match = FORGED[name]
    path = tmp_path / "m.safetensors"
    fitted(FRAME[["size", "kind", target]], target).save(path)
    tensors, metadata = checkpoint.read(path)
    change(metadata["table"])
    checkpoint.write(path, tensors, metadata)
    with pytest.raises(gpunn.CheckpointError, match=match):
        gpunn.load(path)
