"""Exported table models in onnxruntime: inputs are columns, outputs the user's labels or units, as from `predict`."""

import numpy as np
import pytest
from helpers.messages import naming
from helpers.oracles import oracle

import gpunn
from gpunn.tabular import TableEncoder, TableModel
from gpunn.tabular.columns import CategoricalColumn, NumericColumn
from gpunn.tabular.targets import infer_target

onnx = oracle("onnx")
runtime = oracle("onnxruntime")
pd = pytest.importorskip("pandas")

RNG = np.random.default_rng(11)
ROWS = 60
TABLE = pd.DataFrame(
    {
        "size": np.where(RNG.random(ROWS) < 0.2, np.nan, RNG.normal(100, 30, ROWS)),
        "seen at": 1.7e9 + RNG.integers(0, 5000, ROWS),
        "old": RNG.random(ROWS) < 0.5,
        "gone": [3.0, np.nan] * (ROWS // 2),
        "colour": [["red", "green", "grün", None][k] for k in RNG.integers(0, 4, ROWS)],
        "code": [["1", "2", "A"][k] for k in RNG.integers(0, 3, ROWS)],
    }
)
CLASSES = {
    "text": ["ale", "bock", "cider"],
    "integer": [-3, 5, 10**12],
    "boolean": [False, True],
}


def model_of(frame, y, last=None, loss="sparse_categorical_crossentropy", dtype="float32"):
    """Make a network with random weights for the table's encoding."""
    frame = frame.assign(y=y)
    target, _ = infer_target(frame["y"])
    encoding = TableEncoder.from_training_rows(frame, target, np.arange(len(frame)))
    width = sum(column.width for column in encoding.columns)
    layers = [gpunn.Dense(16, "tanh"), gpunn.Dense(target.n_out, last)]
    net = gpunn.Sequential(layers, input_shape=width, seed=2, dtype=dtype)
    return TableModel(net.compile("adam", loss), encoding)


def feed_of(frame, model):
    """Convert a data frame to inputs of onnxruntime."""
    feed = {}
    for column in model.encoder.columns:
        cells = frame[[column.name]]
        if isinstance(column, CategoricalColumn):
            feed[column.name] = cells.astype(object).where(cells.notna(), "").to_numpy(dtype=object)
        else:
            feed[column.name] = cells.to_numpy(dtype=np.float64, na_value=np.nan)
    return feed


def run_exported(model, path, feed):
    model.export(path)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, feed), strict=True))


def with_unseen_values(frame):
    """Replace cells by categories that training did not see, and by missing numbers."""
    return frame.assign(colour="blue", code=["B"] * len(frame), size=np.nan, old=np.nan, gone=17.5)


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_class_targets(tmp_path, kind, dtype):
    labels = CLASSES[kind]
    y = [labels[k] for k in RNG.permutation(np.arange(ROWS) % len(labels))]
    model = model_of(TABLE, y, dtype=dtype)
    assert {type(c) for c in model.encoder.columns} == {NumericColumn, CategoricalColumn} and len(
        model.encoder.columns
    ) == 6
    for frame in (TABLE, TABLE[:1], with_unseen_values(TABLE)):
        got = run_exported(model, tmp_path / "m.onnx", feed_of(frame, model))
        assert [*got] == ["label", "probabilities"]
        wanted = model.predict(frame)
        assert got["label"].tolist() == wanted.tolist()
        assert got["label"].dtype == (object if kind == "text" else wanted.dtype)
        X, _ = model.encoder.encode(frame)
        np.testing.assert_allclose(got["probabilities"], model.net.predict_proba(X), atol=1e-6, rtol=0)
    assert len({*model.predict(TABLE)}) == len(labels)


@pytest.mark.parametrize("activation", ["softmax", None], ids=["softmax", "logits"])
def test_loaded_model(tmp_path, activation):
    model = model_of(TABLE, ["no", "yes"] * (ROWS // 2), activation)
    model.save(tmp_path / "m.safetensors")
    loaded = gpunn.load(tmp_path / "m.safetensors")
    got = run_exported(loaded, tmp_path / "m.onnx", feed_of(TABLE, loaded))
    assert got["label"].tolist() == model.predict(TABLE).tolist()


def test_numeric_target_in_its_units(tmp_path):
    model = model_of(TABLE, RNG.normal(2e5, 3e4, ROWS), loss="mse")
    for frame in (TABLE, with_unseen_values(TABLE)):
        got = run_exported(model, tmp_path / "m.onnx", feed_of(frame, model))
        assert [*got] == ["variable"] and got["variable"].dtype == np.float64
        np.testing.assert_allclose(got["variable"], model.predict(frame), rtol=1e-6)


def test_column_encoding_by_hand(tmp_path):
    """x = 1, 2, 5 and a missing cell: median 2, mean 5/2, deviation 3/2. The weights separate all encoded columns."""
    frame = pd.DataFrame({"x": [1.0, 2, 5, np.nan], "c": ["a", "b", None, "a"]})
    # the target has mean 4 and deviation ½
    encoding = model_of(frame, [3.5, 4.5, 4.5, 3.5], loss="mse").encoder
    net = gpunn.Sequential([gpunn.Dense(1)], input_shape=5)
    net.set_weights([[[1.5], [10], [100], [1000], [10000]], [2.5]])
    model = TableModel(net.compile("sgd", "mse"), encoding)
    feed = {"x": np.array([[1], [2], [5], [np.nan], [8]]), "c": np.array([["a"], ["b"], [""], ["a"], ["z"]], object)}
    got = run_exported(model, tmp_path / "m.onnx", feed)["variable"]
    # in units of ½, relative to 4
    np.testing.assert_allclose(2 * (got - 4), [1 + 100, 2 + 1000, 5 + 10000, 2 + 10 + 100, 8], rtol=1e-6)


def test_column_names_that_clash_with_graph_names(tmp_path):
    """Inputs keep the columns' names, and outputs and nodes get others."""
    names = ["label", "probabilities", "layers.0.W", "Concat", "label.IsNaN", "X", "N", "ö ä.1"]
    frame = pd.DataFrame(RNG.normal(size=(ROWS, len(names))), columns=names)
    model = model_of(frame, ["no", "yes"] * (ROWS // 2))
    got = run_exported(model, tmp_path / "m.onnx", feed_of(frame, model))
    assert [*got] == ["label_1", "probabilities_1"]
    assert got["label_1"].tolist() == model.predict(frame).tolist()
    inputs = onnx.load(tmp_path / "m.onnx").graph.input
    assert [x.name for x in inputs] == names
    assert {x.doc_string for x in inputs} == {"a number; NaN if missing"}


def test_batch_axis_and_versions(tmp_path):
    model = model_of(TABLE, ["no", "yes"] * (ROWS // 2))
    feed = {name: cells[:0] for name, cells in feed_of(TABLE, model).items()}
    assert run_exported(model, tmp_path / "m.onnx", feed)["label"].shape == (0,)
    written = onnx.load(tmp_path / "m.onnx")
    assert [(o.domain, o.version) for o in written.opset_import] == [("", 17), ("ai.onnx.ml", 3)]
    for value in [*written.graph.input, *written.graph.output]:
        assert value.type.tensor_type.shape.dim[0].dim_param == "N"


def test_empty_string_means_a_missing_cell(tmp_path):
    """If it is a category and cells are missing too, a graph could not distinguish them, and export is refused."""
    y = [1.5, 2.5, 3.5, 4.5]
    both = model_of(pd.DataFrame({"c": ["a", "", None, "a"]}), y, loss="mse")
    with pytest.raises(ValueError, match=naming("'c'", "empty", "missing")):
        both.export(tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())
    model = model_of(pd.DataFrame({"c": ["a", "", "b", "a"]}), y, loss="mse")
    got = run_exported(model, tmp_path / "m.onnx", {"c": np.array([[""], ["b"]], object)})["variable"]
    np.testing.assert_allclose(got, model.predict(pd.DataFrame({"c": ["", "b"]})), rtol=1e-6)


def test_outputs_that_are_no_probabilities_are_refused(tmp_path):
    model = model_of(TABLE, ["no", "yes"] * (ROWS // 2), "tanh", "mse")
    with pytest.raises(ValueError, match=naming("tanh", "probabilities")):
        model.export(tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())
