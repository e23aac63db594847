"""`python -m benchmarks many`: ratios and agreement by hand, and a small complete run."""

import json

import pytest
from helpers.oracles import oracle

from benchmarks import __main__ as command
from benchmarks import many

pytestmark = pytest.mark.slow

GOAL = many.Goal((16,), 5.0)
TIMES = {"gpunn": [1.0, 2.0, 1.0], "scikit-learn": [4.0, 12.0, 5.0]}


def test_the_median_of_the_ratios_decides():
    """Ratios 4, 6 and 5: the median is 5, the quartiles 4.5 and 5.5."""
    row = many.row(GOAL, "float32", TIMES, [0.9], [0.9], [0.01])
    assert row["times_as_long"] == [4.5, 5.0, 5.5] and row["met"] is True
    assert many.row(many.Goal((16,), 5.1), "float32", TIMES, [0.9], [0.9], [0.01])["met"] is False


@pytest.mark.parametrize(
    "ours, agree, difference",
    [([0.9, 0.8], True, 0.0), ([0.92, 0.8], True, 2.0), ([0.93, 0.8], False, 3.0), ([0.9, 0.79], False, 99.0)],
)
def test_scores_agree_within_two_standard_errors(ours, agree, difference):
    """Standard errors of 0.01 and 0: with equal scores of all folds, gpunn's score must be equal too."""
    row = many.row(GOAL, "float32", TIMES, ours, [0.9, 0.8], [0.0100001, 0.0])
    assert row["scores_agree"] is agree and row["scores_apart_in_standard_errors"] == pytest.approx(
        difference, rel=0.01
    )


def test_a_small_run_writes_three_files(tmp_path, monkeypatch, capsys):
    oracle("sklearn")
    oracle("matplotlib")
    monkeypatch.setattr(many, "EPOCHS", 2)
    monkeypatch.setattr(many, "FOLDS", 2)
    monkeypatch.setattr(many, "QUICK", (1, 2, ("float64",)))
    assert command.main(["many", "--quick", "--out", str(tmp_path)]) == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["many.json", "many.md", "many.png"]
    result = json.loads((tmp_path / "many.json").read_text(encoding="utf-8"))
    assert result["machine"]["command"] == "python -m benchmarks many --quick" and result["machine"]["rounds"] == 1
    assert [tuple(row["hidden"]) for row in result["rows"]] == [(16,), (100,)]
    for row in result["rows"]:
        # in float64 both fits are equal
        assert row["mean_test_score_gpunn"] == row["mean_test_score_scikit_learn"]
        assert row["scores_agree"] and len(row["gpunn_s"]) == 1 and row["epochs"] == 2
    printed = capsys.readouterr().out
    assert printed.count("standard errors") == 2 and (tmp_path / "many.md").read_text(encoding="utf-8") in printed


def test_help_fits_80_columns(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as stop:
        command.main(["many", "--help"])
    assert stop.value.code == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80
