"""Targets: the inferred task, and the cells as labels or numbers."""

import numpy as np
import pytest
from helpers.messages import naming

from gpunn.tabular.targets import ClassTarget, NumericTarget, infer_target, rows_with_target

pd = pytest.importorskip("pandas")


@pytest.mark.parametrize(
    ("cells", "labels"),
    [
        (["no", "yes", "no", "yes"], ("no", "yes")),
        ([True, False, True, True], (False, True)),
        ([3, 1, 3, -2], (-2, 1, 3)),
        (list(range(20)) * 2, tuple(range(20))),
    ],
)
def test_classification_is_inferred(cells, labels):
    target, _ = infer_target(pd.Series(cells, name="y"))
    assert isinstance(target, ClassTarget) and target.labels == labels
    assert target.read(pd.Series(cells)).tolist() == cells


@pytest.mark.parametrize("cells", [[1.0, 2.5, 1.0, 2.5], list(range(21)), [float(k) for k in range(21)]])
def test_regression_is_inferred(cells):
    target, _ = infer_target(pd.Series(cells, name="y"))
    assert isinstance(target, NumericTarget)
    assert target.read(pd.Series(cells)).tolist() == cells


def test_the_task_can_be_chosen():
    cells = pd.Series([1, 2, 1, 2], name="y")
    assert infer_target(cells, "regression")[0] == NumericTarget("y")
    assert infer_target(pd.Series([1.5, 2.5, 1.5], name="y"), "classification")[0].labels == (1.5, 2.5)


def test_integers_with_missing_cells_stay_integers():
    frame = pd.DataFrame({"y": [1.0, np.nan, 2.0], "x": [1, 2, 3]})
    present = rows_with_target(frame, "y")
    assert present.tolist() == [True, False, True]
    assert infer_target(frame["y"][present])[0].labels == (1, 2)


def test_integers_written_as_floats_are_integers():
    target, description = infer_target(pd.Series([0.0, 1.0, 1.0, 0.0], name="y"))
    assert target == ClassTarget("y", (0, 1)) and description == "integers, 2 distinct values"
    assert [type(label) for label in target.labels] == [int, int]
    for cells in ([1.0, 0.0], [1, 0], ["1", " 0"]):
        assert target.read(pd.Series(cells)).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("cells", "task", "message"),
    [
        (["a", "a"], "auto", naming("column 'y'", "'a'")),
        ([2.5, 2.5], "auto", r"column 'y' contains 2.5 in every row"),
        (
            ["low", "high", "low"],
            "regression",
            naming("column 'y'", "row 0", "'low'", 3),
        ),
        (["1.5", "2.5", "n.a", "3.5"], "auto", r"column 'y' .*'n\.a' in row 2"),
        ([f"name {k}" for k in range(30)], "auto", r"column 'y' has 30 distinct values in 30 rows: too many"),
        ([k / 2 for k in range(30)], "classification", r"column 'y' has 30 distinct values in 30 rows: too many"),
        ([f"{k:04d}" for k in range(30)], "auto", r"column 'y' has 30 distinct values .* --task regression"),
        ([1e308, -1e308, 0.5], "auto", r"column 'y' .* got 1e\+308 in row 0"),
        ([0.5, -1e151, 0.5], "regression", r"column 'y' .* got -1e\+151 in row 1"),
    ],
)
def test_invalid_targets_are_refused(cells, task, message):
    with pytest.raises(ValueError, match=message):
        infer_target(pd.Series(cells, name="y"), task)


def test_tables_without_any_target_are_refused():
    with pytest.raises(ValueError, match=naming("target", "'z'", "'x', 'y'")):
        rows_with_target(pd.DataFrame({"x": [1], "y": [2]}), "z")
    with pytest.raises(ValueError, match=naming("column 'y'", "no value")):
        rows_with_target(pd.DataFrame({"x": [1], "y": [np.nan]}), "y")


@pytest.mark.parametrize(
    ("labels", "cells", "unknown"),
    [
        ([1, 2], [1, 1.5], "'1.5'"),
        ([1, 2], ["2", "two"], "'two'"),
        (["01", "1"], ["01", "001"], "'001'"),
        ([False, True], ["True", "yes"], "'yes'"),
        ([0.5, 2.0], [2, 0.25], "'0.25'"),
    ],
)
def test_labels_that_training_did_not_have_are_refused(labels, cells, unknown):
    target, _ = infer_target(pd.Series(labels * 2, name="y"), "classification")
    assert target.read(pd.Series(cells[:1])).tolist()[0] in labels
    with pytest.raises(ValueError, match=naming("column 'y'", unknown, "row 1")):
        target.read(pd.Series(cells))
