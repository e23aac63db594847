"""Permutation importance by original column."""

import numpy as np
import pytest
from helpers.messages import naming
from helpers.tabular_cases import LABELS, TABLE, VALUES, classifier, regressor

import gpunn


def test_the_column_that_determines_the_target_is_the_most_important():
    generator = np.random.default_rng(0)
    n = 300
    table = {
        "noise": generator.normal(size=n),
        "kind": np.array(["a", "b", "c"])[generator.integers(0, 3, n)],
        "x": generator.normal(size=n),
        "same": np.ones(n),
    }
    y = 3 * table["x"] + (table["kind"] == "b")
    model = gpunn.TabularRegressor(5).fit(table, y)
    found = model.permutation_importance(table, y)
    assert list(found)[:2] == ["x", "kind"] and set(found) == set(table)
    assert found["same"] == (0.0, 0.0)
    # permuting x among the rows makes independent draws of it: the error grows by E(3x − 3x')² = 18 of variance
    expected = 18 * np.var(table["x"]) / np.var(y)
    assert found["x"].mean == pytest.approx(expected, rel=0.15)
    assert abs(found["noise"].mean) < 0.05 * expected and 0 < found["x"].standard_error < 0.2 * expected


@pytest.mark.parametrize(("make", "y"), [(classifier, LABELS), (regressor, VALUES)])
def test_a_new_order_of_equal_cells_changes_nothing(make, y):
    model = make().fit(TABLE, y)
    again = TABLE | {"kind": ["ale"] * len(y)}
    assert model.permutation_importance(again, y)["kind"] == (0.0, 0.0)
    once = model.permutation_importance(TABLE, y, n_repeats=1, random_state=3)
    assert once == model.permutation_importance(TABLE, y, n_repeats=1, random_state=3) or any(
        np.isnan(each.standard_error) for each in once.values()
    )
    assert np.isnan(once["size"].standard_error)


def test_mistakes_are_refused_by_name():
    model = classifier().fit(TABLE, LABELS)
    with pytest.raises(ValueError, match=naming("y", "'perhaps'")):
        model.permutation_importance(TABLE, np.where(LABELS == "yes", "perhaps", LABELS))
    with pytest.raises(ValueError, match=naming("n_repeats", 0)):
        model.permutation_importance(TABLE, LABELS, n_repeats=0)
    with pytest.raises(ValueError, match="one target per row"):
        model.permutation_importance(TABLE, LABELS[:-1])
    with pytest.raises(ValueError, match="not fitted"):
        classifier().permutation_importance(TABLE, LABELS)
