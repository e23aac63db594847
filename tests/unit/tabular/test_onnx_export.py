"""Ensembles exported to ONNX return what `predict` returns, in the library's own interpreter and in onnxruntime."""

import datetime

import numpy as np
import pytest
from helpers.messages import naming
from helpers.oracles import oracle
from helpers.tabular_cases import LABELS, TABLE, VALUES, N, classifier, regressor

from gpunn.tabular import features, onnx_export

pytest.importorskip("onnx")
import onnx
from onnx.reference import ReferenceEvaluator

START = datetime.datetime(1999, 11, 28)
TIMES = [None if k == 3 else START + datetime.timedelta(days=37 * k, hours=5 * k, minutes=k) for k in range(N)]
WIDE = TABLE | {
    "time": TIMES,
    "rare": [f"w{k}" if k % 4 == 0 else "common" if k % 4 == 1 else "other" for k in range(N)],
}


def fed(model, table):
    """The table as inputs of the graph."""
    found = {}
    for column in model._encoder.columns:
        cells = table[column.name]
        if isinstance(column, features.DateColumn):
            days = np.array([np.datetime64("NaT") if cell is None else np.datetime64(cell, "us") for cell in cells])
            x = (days - np.datetime64(0, "us")) / np.timedelta64(1, "D")
            found[column.name] = x[:, None]
        elif isinstance(column, features.CategoricalColumn):
            found[column.name] = np.array([[cell or ""] for cell in cells], dtype=object)
        else:
            found[column.name] = np.array([[np.nan if cell is None else float(cell)] for cell in cells])
    return found


def interpreter(path):
    evaluator = ReferenceEvaluator(str(path))
    return lambda inputs: evaluator.run(None, inputs)


def onnxruntime(path):
    session = oracle("onnxruntime").InferenceSession(str(path))
    return lambda inputs: session.run(None, inputs)


@pytest.mark.parametrize("runtime", [interpreter, onnxruntime])
@pytest.mark.parametrize("table", [TABLE, WIDE], ids=["plain", "times and rare categories"])
def test_a_classifier_in_onnx_predicts_the_same(tmp_path, runtime, table):
    model = classifier(n_networks=5).fit(table, LABELS)
    model.export(tmp_path / "m.onnx")
    new = table | {"kind": ["stout", None, *table["kind"][2:]], "size": [None, 1e9, -1e300, *table["size"][3:]]}
    for rows in (table, new):
        label, p = runtime(tmp_path / "m.onnx")(fed(model, rows))
        np.testing.assert_allclose(p, model.predict_proba(rows), rtol=0, atol=2e-6)
        assert label.tolist() == model.predict(rows).tolist()


@pytest.mark.parametrize("runtime", [interpreter, onnxruntime])
def test_a_regressor_in_onnx_predicts_the_same(tmp_path, runtime):
    model = regressor(n_networks=5).fit(WIDE, VALUES)
    model.export(tmp_path / "m.onnx")
    (values,) = runtime(tmp_path / "m.onnx")(fed(model, WIDE))
    np.testing.assert_allclose(values, model.predict(WIDE), rtol=0, atol=1e-5 * np.ptp(VALUES))
    limits = VALUES.min(), VALUES.max()
    (values,) = runtime(tmp_path / "m.onnx")(fed(model, WIDE | {"size": [1e300] * 30 + [-1e300] * 30}))
    assert limits[0] <= values.min() and values.max() <= limits[1]


@pytest.mark.parametrize("key", ["year", "month", "weekday", "hour"])
def test_the_calendar_of_the_graph_is_numpys(key):
    """All days from 1899 to 2105, with leap years and centuries, and dates before 1970."""
    first, last = np.datetime64("1899-12-25", "D"), np.datetime64("2105-03-05", "D")
    days = np.arange(first, last).astype("datetime64[us]")
    times = days + (np.arange(len(days)) * 7919 % 86_400).astype("timedelta64[s]")
    graph = onnx_export.Graph(np.dtype(np.float32))
    x = graph.input("x", np.float64, 1)
    graph.output("quantity", onnx_export._quantity(graph, x, key), np.float64, 1)
    evaluator = ReferenceEvaluator(graph.model())
    inputs = (times - np.datetime64(0, "us")) / np.timedelta64(1, "D")
    (found,) = evaluator.run(None, {"x": inputs[:, None]})
    whole = times.astype("datetime64[D]")
    expected = {
        "year": times.astype("datetime64[Y]").astype(int) + 1970,
        "month": times.astype("datetime64[M]").astype(int) % 12 + 1,
        "weekday": np.array([day.isoweekday() for day in whole.astype(object)]),
        "hour": ((times - whole) // np.timedelta64(1, "h")).astype(int),
    }
    np.testing.assert_array_equal(found[:, 0], expected[key])


def test_empty_texts_and_missing_cells_cannot_be_exported_together(tmp_path):
    model = classifier().fit(TABLE, LABELS)
    column = features.CategoricalColumn("kind", ("", "ale", None))
    model._encoder.columns[[c.name for c in model._encoder.columns].index("kind")] = column
    with pytest.raises(ValueError, match=naming("'kind'", "empty strings", "missing")):
        model.export(tmp_path / "m.onnx")
    assert not (tmp_path / "m.onnx").exists()


def test_a_model_is_fitted_before_it_is_exported(tmp_path):
    with pytest.raises(ValueError, match="not fitted"):
        classifier().export(tmp_path / "m.onnx")


def test_column_names_that_clash_with_graph_names(tmp_path):
    """Inputs keep the columns' names, and outputs and nodes get others. The batch axis has any length."""
    names = ["label", "probabilities", "layers.0.W", "Concat", "label.IsNaN", "X", "N", "ö ä.1"]
    table = dict(zip(names, np.random.default_rng(1).normal(size=(len(names), N)), strict=True))
    model = classifier().fit(table, LABELS)
    model.export(tmp_path / "m.onnx")
    graph = onnx.load(tmp_path / "m.onnx").graph
    assert [x.name for x in graph.input] == names and [x.name for x in graph.output] == ["label_1", "probabilities_1"]
    assert {x.doc_string for x in graph.input} == {"a number; NaN if missing"}
    for value in (*graph.input, *graph.output):
        assert value.type.tensor_type.shape.dim[0].dim_param == "N"
    label, _ = interpreter(tmp_path / "m.onnx")(fed(model, table))
    assert label.tolist() == model.predict(table).tolist()
