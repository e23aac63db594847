"""README's comparison equals the output of the command for the committed result."""

import json

import pytest

from benchmarks import readme


def row(**more):
    base = {"net": "digits", "mode": "train", "contestant": "gpunn", "threads": 1, "us_per_step": 95.0}
    ratios = {"ratio_to_floor": 1.2, "ratio_to_floor_quartiles": [1.1, 1.3], "best_peer": "jax-scan"}
    ratios |= {"ratio_to_best_peer": 0.5, "ratio_to_best_peer_quartiles": [0.45, 0.6]}
    return base | ratios | {"ratios": {"torch-eager": [0.1, 0.2, 0.3], "torch-compiled": [0.2, 0.25, 0.3]}} | more


def test_a_row_of_ratios_uses_the_faster_pytorch_contestant():
    lines = readme.ratios([row(), row(contestant="numpy"), row(mode="setup"), row(us_per_step=None)]).splitlines()
    assert lines[2:] == ["| digits | train | 1 | 95.0 | jax-scan 0.50 (0.45–0.60) | 0.25 | – | 1.2 (1.1–1.3) |"]


def test_the_goals_that_were_met_are_counted():
    said = [{"said": outcome} for outcome in ("met", "missed", "not measured", "missed")]
    assert readme.goals(said).startswith(
        "Of the 3 goals measured, 1 were met; [the results](benchmarks/results/cpu.md)"
    )


def test_the_markers_must_occur_once_and_in_order():
    result = {"machine": dict.fromkeys(("cpu", "cores", "date", "commit"), "x"), "rows": [row()], "goals": []}
    made = readme.replaced(f"a\n{readme.BEGIN}\nold\n{readme.END}\nb\n", result)
    assert made.startswith(f"a\n{readme.BEGIN}\nMeasured on x") and made.endswith(f"\n{readme.END}\nb\n")
    assert "old" not in made and readme.replaced(made, result) == made
    for text in ("nothing", readme.BEGIN, f"{readme.END}{readme.BEGIN}", f"{made}{readme.END}"):
        with pytest.raises(ValueError, match=r"README\.md must contain"):
            readme.replaced(text, result)


def test_the_readme_shows_the_committed_result():
    text = (readme.ROOT / "README.md").read_text(encoding="utf-8")
    result = json.loads((readme.RESULTS / "cpu.json").read_text(encoding="utf-8"))
    assert readme.replaced(text, result) == text
