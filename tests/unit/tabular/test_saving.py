"""Files of `TabularClassifier` and `TabularRegressor`: equal predictions, parameters, and damaged files."""

import copy
import datetime

import numpy as np
import pytest
from helpers.messages import naming

import gpunn
from gpunn.training import checkpoint

N = 48
RNG = np.random.default_rng(0)
TABLE = {
    "size": [None if k % 7 == 3 else float(x) for k, x in enumerate(RNG.normal(size=N))],
    "kind": (["ale", "bock", None, "cider"] * N)[:N],
    "day": np.datetime64("2024-01-01T06") + np.arange(N) * np.timedelta64(7, "h"),
    "same": [1] * N,
}
ARRAY = RNG.normal(size=(N, 3))
LABELS = np.array(["low", "middle", "high"])[np.arange(N) % 3]
VALUES = np.linspace(-5, 9, N)
NEW = {"size": [None, 1e6], "kind": ["stout", None], "day": [None, datetime.date(1950, 1, 1)], "same": [2, 3]}


def saved(model, folder, name="m.safetensors"):
    model.save(folder / name)
    return gpunn.load(folder / name)


@pytest.mark.parametrize("table", [TABLE, ARRAY], ids=["table", "array"])
def test_a_loaded_classifier_is_the_saved_one(tmp_path, table):
    model = gpunn.TabularClassifier(n_networks=3, random_state=5, time_limit=1e6).fit(table, LABELS)
    again = saved(model, tmp_path)
    assert type(again) is gpunn.TabularClassifier and again.get_params() == model.get_params()
    np.testing.assert_array_equal(again.predict_proba(table), model.predict_proba(table))
    np.testing.assert_array_equal(again.predict(table), model.predict(table))
    assert again.classes_.tolist() == model.classes_.tolist() and again.classes_.dtype == model.classes_.dtype
    assert_same_attributes(again, model)
    if table is TABLE:
        np.testing.assert_array_equal(again.predict_proba(NEW), model.predict_proba(NEW))


@pytest.mark.parametrize("table", [TABLE, ARRAY], ids=["table", "array"])
def test_a_loaded_regressor_is_the_saved_one(tmp_path, table):
    model = gpunn.TabularRegressor(n_networks=3).fit(table, VALUES)
    again = saved(model, tmp_path)
    assert type(again) is gpunn.TabularRegressor and again.residual_std_ == model.residual_std_
    for found, expected in zip(
        again.predict(table, return_std=True), model.predict(table, return_std=True), strict=True
    ):
        np.testing.assert_array_equal(found, expected)
    assert_same_attributes(again, model)


def assert_same_attributes(again, model):
    assert vars(again).keys() == vars(model).keys()
    assert again.leaderboard_ == model.leaderboard_ and again.columns_ == model.columns_
    assert again.n_features_in_ == model.n_features_in_
    assert hasattr(again, "feature_names_in_") == hasattr(model, "feature_names_in_")
    if hasattr(model, "feature_names_in_"):
        assert again.feature_names_in_.tolist() == model.feature_names_in_.tolist()


def test_a_model_of_a_gpu_machine_predicts_on_a_cpu(tmp_path):
    model = gpunn.TabularClassifier(n_networks=2).fit(TABLE, LABELS)
    model.device = "cuda"  # as on a GPU machine; the file contains no device of the networks
    again = saved(model, tmp_path)
    assert again.device == "cuda" and {net._net.backend.device for net in again._networks} == {"cpu"}
    np.testing.assert_array_equal(again.predict_proba(TABLE), model.predict_proba(TABLE))


def test_a_loaded_model_is_saved_fitted_and_refused_as_the_first(tmp_path):
    model = gpunn.TabularClassifier(n_networks=2).fit(TABLE, LABELS)
    again = saved(saved(model, tmp_path), tmp_path, "again.safetensors")
    np.testing.assert_array_equal(again.predict_proba(TABLE), model.predict_proba(TABLE))
    with pytest.raises(ValueError, match="feature names should match"):
        again.predict({"size": [1.0]})
    np.testing.assert_array_equal(again.fit(TABLE, LABELS).predict_proba(TABLE), model.predict_proba(TABLE))


@pytest.mark.parametrize(
    "labels",
    [[0, 1], np.array([-3, 7], "i1"), [True, False], [0.0, 2.0], ["é", "a'b\"c"], np.array([1, 200], "u1")],
    ids=repr,
)
def test_labels_of_every_type_are_saved(tmp_path, labels):
    y = np.asarray(labels)[np.arange(N) % 2]
    model = gpunn.TabularClassifier(n_networks=1).fit(TABLE, y)
    found = saved(model, tmp_path).predict(TABLE)
    np.testing.assert_array_equal(found, model.predict(TABLE))
    assert found.dtype == model.predict(TABLE).dtype == y.dtype


def test_numbers_of_numpy_are_saved_as_parameters(tmp_path):
    model = gpunn.TabularRegressor(n_networks=np.int64(1), random_state=np.int32(4), time_limit=np.float32(1e6))
    again = saved(model.fit(TABLE, VALUES), tmp_path)
    assert again.get_params() == {
        "n_networks": 1, "time_limit": 1e6, "categorical": (), "dates": (), "random_state": 4, "device": "auto",
        "n_jobs": None, "verbose": 0, "metric": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("state", "y", "match"),
    [
        (np.random.default_rng(0), LABELS, naming("random_state", "integer or None", "set_params(random_state=None)")),
        (
            0,
            np.array([datetime.date(2024, 1, k) for k in (1, 2)], object)[np.arange(N) % 2],
            naming("labels", "object"),
        ),
    ],
)
def test_models_that_a_file_cannot_contain_are_refused(tmp_path, state, y, match):
    path = tmp_path / "m.safetensors"
    path.write_bytes(b"before")
    model = gpunn.TabularClassifier(n_networks=1, random_state=state).fit(TABLE, y)
    with pytest.raises(TypeError, match=match):
        model.save(path)
    assert path.read_bytes() == b"before" and list(tmp_path.iterdir()) == [path]


# --- damaged files ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def contents(tmp_path_factory):
    """Arrays and metadata of one file of each kind."""
    folder, found = tmp_path_factory.mktemp("files"), {}
    for cls, y in ((gpunn.TabularClassifier, LABELS), (gpunn.TabularRegressor, VALUES)):
        cls(n_networks=2).fit(TABLE, y).save(folder / cls.__name__)
        found[cls.__name__] = checkpoint.read(folder / cls.__name__)
    return found


C, R = "TabularClassifier", "TabularRegressor"


CSV = {"as_written": [], "formats": {}}


def first(metadata):
    return metadata["encoder"]["columns"][0]


FORGED = {
    "an unknown class": (C, lambda t, m: m.update({"class": "Sequential"})),
    "another class": (C, lambda t, m: m.update({"class": R})),
    "a regressor's file as a classifier's": (R, lambda t, m: m.update({"class": C})),
    "no class": (C, lambda t, m: m.pop("class")),
    "no parameters": (C, lambda t, m: m.pop("parameters")),
    "an unknown parameter": (C, lambda t, m: m["parameters"].update(callbacks=1)),
    "parameters that are a list": (C, lambda t, m: m.update(parameters=[1])),
    "no encoder": (C, lambda t, m: m.pop("encoder")),
    "an encoder that is a list": (C, lambda t, m: m.update(encoder=[])),
    "columns that are numbers": (C, lambda t, m: m["encoder"].update(columns=[1, 2])),
    "a column less": (C, lambda t, m: m["encoder"]["columns"].pop()),
    "a scale of 0": (C, lambda t, m: first(m).update(scale=0)),
    "a median that is text": (R, lambda t, m: first(m).update(median="x")),
    "a bin less": (C, lambda t, m: first(m)["edges"].pop()),
    "a name less": (C, lambda t, m: m["encoder"]["names"].pop()),
    "no labels": (C, lambda t, m: m.update(fitted={})),
    "a label less": (C, lambda t, m: m["fitted"]["classes"]["values"].pop()),
    "a label more": (C, lambda t, m: m["fitted"]["classes"]["values"].append("most")),
    "a label twice": (C, lambda t, m: m["fitted"]["classes"].update(values=["low", "low", "high"])),
    "labels that are lists": (C, lambda t, m: m["fitted"]["classes"].update(values=[["a"], ["b"], ["c"]])),
    "labels of unequal lists": (C, lambda t, m: m["fitted"]["classes"].update(values=[["a"], "b", "c"])),
    "labels of another type": (C, lambda t, m: m["fitted"]["classes"].update(dtype="<i8")),
    "labels that are objects": (C, lambda t, m: m["fitted"]["classes"].update(dtype="O")),
    "an unknown type of labels": (C, lambda t, m: m["fitted"]["classes"].update(dtype="int9")),
    "a mean that is text": (R, lambda t, m: m["fitted"].update(mean="1")),
    "a mean beyond all": (R, lambda t, m: m["fitted"].update(mean=10**400)),
    "a target's scale of 0": (R, lambda t, m: m["fitted"].update(scale=0)),
    "a range of three": (R, lambda t, m: m["fitted"].update(range=[0, 1, 2])),
    "a range of one": (R, lambda t, m: m["fitted"].update(range=[0])),
    "a range that decreases": (R, lambda t, m: m["fitted"].update(range=[1, 0])),
    "a range that is a number": (R, lambda t, m: m["fitted"].update(range=3)),
    "a negative deviation": (R, lambda t, m: m["fitted"].update(residual_std=-1)),
    "no members": (C, lambda t, m: m.update(members=[])),
    "a member less": (C, lambda t, m: m["members"].pop()),
    "a negative weight": (C, lambda t, m: [x.update(weight=w) for x, w in zip(m["members"], (1.5, -0.5), strict=True)]),
    "a weight that is text": (C, lambda t, m: m["members"][0].update(weight="much")),
    "weights that are too large": (R, lambda t, m: m["members"][0].update(weight=2.0)),
    "no network": (C, lambda t, m: m["members"][0].pop("net")),
    "no arrays": (C, lambda t, m: t.clear()),
    "an array less": (R, lambda t, m: t.pop(next(iter(t)))),
    "no leaderboard": (C, lambda t, m: m.pop("leaderboard")),
    "a reading of its file that is none": (C, lambda t, m: m.update(table_file={})),
    "columns as written that are a number": (C, lambda t, m: m.update(table_file={"csv": CSV | {"as_written": 3}})),
    "a number format that is none": (
        R,
        lambda t, m: m.update(table_file={"csv": CSV | {"formats": {"size": {"decimal": ";"}}}}),
    ),
}


@pytest.mark.parametrize("name", FORGED)
def test_files_whose_content_is_invalid_are_refused(tmp_path, contents, name):
    """The digest fits, the content does not."""
    kind, change = FORGED[name]
    tensors, metadata = contents[kind]
    tensors, metadata = dict(tensors), copy.deepcopy(metadata)
    path = tmp_path / "m.safetensors"
    checkpoint.write(path, tensors, metadata)
    assert type(gpunn.load(path)).__name__ == kind
    change(tensors, metadata)
    checkpoint.write(path, tensors, metadata)
    with pytest.raises(gpunn.CheckpointError):
        gpunn.load(path)


def test_a_label_type_of_a_billion_characters_takes_no_memory(tmp_path, contents):
    tensors, metadata = contents[C]
    metadata = copy.deepcopy(metadata)
    metadata["fitted"]["classes"]["dtype"] = "<U500000000"
    checkpoint.write(tmp_path / "m.safetensors", tensors, metadata)
    assert gpunn.load(tmp_path / "m.safetensors").classes_.dtype == "<U6"


@pytest.mark.parametrize("place", [0.1, 0.5, 0.9, -1])
def test_damaged_and_shortened_files_are_refused(tmp_path, place):
    path = tmp_path / "m.safetensors"
    gpunn.TabularClassifier(n_networks=1).fit(TABLE, LABELS).save(path)
    content = bytearray(path.read_bytes())
    k = int(place * len(content)) if place > 0 else len(content) - 1
    content[k] ^= 1
    path.write_bytes(content)
    with pytest.raises(gpunn.CheckpointError, match=r"m\.safetensors"):
        gpunn.load(path)
    path.write_bytes(content[:k])
    with pytest.raises(gpunn.CheckpointError, match=r"m\.safetensors"):
        gpunn.load(path)
