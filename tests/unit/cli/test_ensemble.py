"""`gpunn train` without --hidden: ensembles, their scores, and predictions by `gpunn predict` and `gpunn evaluate`."""

import re
from pathlib import Path

import numpy as np
import pytest
from helpers.command_line import QUICK, flower_table

import gpunn
from gpunn.tabular import ensemble
from gpunn.tabular.feature_encoder import FeatureEncoder

pd = pytest.importorskip("pandas")
pytest.importorskip("matplotlib")

FEW = ["--networks", "2"]


def test_classes_are_scored_on_test_rows_and_predicted_as_the_user_wrote_them(run, table):
    status, out, err = run("train", table, "--target", "sort", *FEW)
    lines = out.splitlines()
    assert status == 0 and err == ""
    assert lines[0] == "task: classification of 'sort' (text, 2 distinct values); change it with --task regression"
    assert lines[1] == "data: flowers.csv, 48 training rows, 12 test rows, 3 columns"
    assert float(re.search(r"^test accuracy ([\d.]+) \(\d+ of 12 rows correct\), log loss", out, re.M)[1]) >= 0.9
    assert re.search(r"^always '(iris|rose)': accuracy 0\.5000$", out, re.M)
    assert re.search(r"^importance of columns .*: (length|weight) ", out, re.M)
    assert "trained again on all 60 rows" in lines
    assert lines[-2:] == ["model:   flowers.safetensors", "picture: flowers.png"]
    assert Path("flowers.png").read_bytes().startswith(b"\x89PNG")
    model = gpunn.load("flowers.safetensors")
    assert isinstance(model, gpunn.TabularClassifier) and model.classes_.tolist() == ["iris", "rose"]

    Path("new.csv").write_text("id,color,length,weight\n7,blue,-1,500\n8,red,7,4500\n9,grey,,\n", encoding="utf-8")
    status, out, _ = run("predict", "flowers.safetensors", "new.csv", "--proba", "--keep", "id")
    rows = [line.split(",") for line in out.splitlines()]
    assert status == 0 and rows[0] == ["id", "sort", "probability of iris", "probability of rose"]
    assert [row[:2] for row in rows[1:3]] == [["7", "rose"], ["8", "iris"]] and rows[3][0] == "9"
    np.testing.assert_allclose([float(row[2]) + float(row[3]) for row in rows[1:]], 1, atol=2e-6)
    status, out, _ = run("evaluate", "flowers.safetensors", table)
    assert status == 0 and float(re.match(r"accuracy ([\d.]+) ", out)[1]) >= 0.95


def test_numbers_are_predicted_in_the_users_units(run, table):
    status, out, _ = run("train", table, "--target", "weight", "--drop", "color", "--out", "m", *FEW)
    assert status == 0 and float(re.search(r"^test R² ([\d.]+) \(mean absolute error", out, re.M)[1]) >= 0.5
    assert gpunn.load("m.safetensors").feature_names_in_.tolist() == ["length", "sort"]
    status, out, _ = run("predict", "m.safetensors", table)
    predicted = np.array(out.split()[1:], dtype=float)
    assert status == 0 and np.corrcoef(predicted, flower_table()["weight"])[0, 1] > 0.8
    assert run("evaluate", "m.safetensors", table)[1].startswith("R² 0.")


def test_test_rows_of_a_file_are_only_scored(run, table):
    frame = flower_table()
    frame.iloc[:40].to_csv("a.csv", index=False)
    frame.iloc[40:].to_csv("b.csv", index=False)
    status, out, _ = run("train", "a.csv", "--target", "sort", "--test", "b.csv", *FEW)
    assert status == 0 and "40 training rows, 20 test rows" in out and "trained again" not in out
    frame.iloc[40:].replace("rose", "tulip").to_csv("b.csv", index=False)
    status, _, err = run("train", "a.csv", "--target", "sort", "--test", "b.csv", "--force", *FEW)
    assert status == 2 and "'tulip'" in err and "'sort'" in err


def test_columns_are_read_in_the_same_way_for_predictions(run):
    """Numbers with a decimal comma, zip codes with a leading zero, dates."""
    n = 40
    price = [f"{k // 10},{k % 10}5" for k in range(n)]
    frame = pd.DataFrame({"x": price, "zip": [f"0{k % 3}" for k in range(n)], "y": [k / 2 for k in range(n)]})
    frame["day"] = [str(day.date()) for day in pd.date_range("2026-01-01", periods=n)]
    frame.to_csv("t.csv", index=False, sep=";")
    status, _, err = run("train", "t.csv", "--target", "y", "--decimal", ",", "--categorical", "zip", *FEW)
    assert status == 0 and "read as numbers with a decimal comma: 'x'" in err
    columns = gpunn.load("t.safetensors").columns_
    assert columns["x"].startswith("scaled") and columns["zip"] == "3 categories" and columns["day"].startswith("day: ")
    one = run("predict", "t.safetensors", "t.csv")[1].split()[6]
    frame.iloc[5:6].to_csv("one.csv", index=False)
    status, out, err = run("predict", "t.safetensors", "one.csv")
    assert status == 0 and err == "" and float(out.split()[1]) == pytest.approx(float(one), rel=1e-5)


def test_missing_cells_and_other_text_in_columns_with_a_format_are_read(run, caplog):
    rows = [f"{k},5 €;{k / 2};{k},25" for k in range(40)]
    Path("t.csv").write_text("\n".join(["x;z;y", *rows, "NA;1.5;3,5", "-;2.5;NA"]) + "\n", encoding="utf-8")
    status, _, err = run("train", "t.csv", "--target", "y", *FEW)
    assert status == 0 and "read as numbers with a decimal comma and €: 'x'\n" in err
    assert "1 rows without a value in 'y' are not used: 1 'NA'\n" in err
    assert run("evaluate", "t.safetensors", "t.csv")[1].startswith("R² ")
    Path("new.csv").write_text("x;z\n1,5 €;1\n1.5;2\nNA;3\n", encoding="utf-8")
    assert run("predict", "t.safetensors", "new.csv")[0] == 0
    assert any("'1.5 (not a number with a decimal comma and €)' in line 3" in message for message in caplog.messages)


def test_a_table_is_encoded_once_per_training(run, table, monkeypatch):
    learned, fit = [], FeatureEncoder.fit

    def counted(rows, **options):
        learned.append(rows.n_rows)
        return fit(rows, **options)

    monkeypatch.setattr(FeatureEncoder, "fit", counted)
    assert run("train", table, "--target", "sort", *FEW)[0] == 0
    assert learned == [48, 60]


def test_class_weights_move_predictions_to_the_rare_class(run):
    generator = np.random.default_rng(0)
    x = generator.normal(size=300)
    frame = pd.DataFrame({"x": x, "y": np.where(x + generator.normal(size=300) > 2.0, "rare", "usual")})
    frame.to_csv("t.csv", index=False)
    counts = []
    for weights in ([], ["--class-weight", "balanced"], ["--class-weight", '{"rare": 20}']):
        assert run("train", "t.csv", "--target", "y", "--force", *weights, *FEW)[0] == 0
        counts.append(run("predict", "t.safetensors", "t.csv")[1].count("rare"))
    assert counts[0] < counts[1] and counts[0] < counts[2]


def test_columns_that_are_left_out_are_reported(run, folder):
    flower_table(80).assign(flower_id=range(80), same=1).to_csv("t.csv", index=False)
    status, _, err = run("train", "t.csv", "--target", "sort", *FEW)
    assert status == 0 and "left out, the same in every row: 'same'\n" in err
    assert re.search(r"left out, an identifier.*: 'flower_id'\n", err)


def test_a_model_of_an_ensemble_replaces_its_own_output_only_with_force(run, table):
    assert run("train", table, "--target", "sort", *FEW)[0] == 0
    status, _, err = run("train", table, "--target", "sort", *FEW)
    assert status == 2 and "--force" in err


def test_the_metric_selects_the_networks_and_is_reported(run, table):
    status, out, _ = run("train", table, "--target", "sort", "--metric", "roc_auc", *FEW)
    lines = out.splitlines()
    k = next(k for k, line in enumerate(lines) if line.startswith("test accuracy"))
    assert status == 0 and float(re.fullmatch(r"roc_auc ([\d.]+)", lines[k + 1])[1]) >= 0.9
    assert gpunn.load("flowers.safetensors").metric == "roc_auc"
    for target, metric in (("sort", "accuracy"), ("weight", "absolute_error")):
        status, out, _ = run("train", table, "--target", target, "--metric", metric, "--force", *FEW)
        assert status == 0 and f"\n{metric} " not in out  # it is in the line of the scores
        assert gpunn.load("flowers.safetensors").metric == metric


def test_the_only_row_of_a_label_is_a_training_row(run):
    lines = [f"{k},{'ab'[k % 2]}" for k in range(40)]
    for seed in range(5):  # in sorted order it is the last row, the tenth of a fold
        Path("t.csv").write_text("\n".join(["x,y", *lines[:39], "3,zebra"]) + "\n", encoding="utf-8")
        status, out, err = run("train", "t.csv", "--target", "y", "--seed", str(seed), "--force", *FEW)
        assert status == 0, err
        assert re.search(r"^zebra +0 ", out, re.M)


def test_rows_without_a_number_are_dropped_with_the_decimal_mark(run):
    """Without --decimal, 1,234 may be 1234, and NA would be a word in a column of text."""
    rows = [f"{k};{k // 7},{k % 7}25" for k in range(40)] + ["40;NA", "41;-", "42;"]
    Path("t.csv").write_text("\n".join(["x;y", *rows]) + "\n", encoding="utf-8")
    for options in (FEW, QUICK):
        status, out, err = run("train", "t.csv", "--target", "y", "--decimal", ",", "--force", *options)
        assert status == 0 and "32 training rows, 8 " in out, err
        assert "3 rows without a value in 'y' are not used: 1 'NA', 1 '-', 1 empty" in err
        predicted = [float(line) for line in run("predict", "t.safetensors", "t.csv")[1].split()[1:]]
        assert len(predicted) == 43 and 0 <= min(predicted) < max(predicted) <= 5.425


def test_kept_columns_are_written_as_in_the_file(run):
    rows = [f"{k // 3},{k % 3}5;0{k};{k if k else ''};{k}" for k in range(30)]
    Path("t.csv").write_text("\n".join(["price;code;count;y", *rows]) + "\n", encoding="utf-8")
    assert run("train", "t.csv", "--target", "y", "--task", "regression", "--decimal", ",", *FEW)[0] == 0
    status, out, _ = run("predict", "t.safetensors", "t.csv", "--keep", "price,code,count")
    assert status == 0
    assert out.splitlines()[1].startswith('"0,05",00,,') and out.splitlines()[5].startswith('"1,15",04,4,')


def test_the_time_limit_is_shared_by_the_trainings(run, table, monkeypatch):
    limits = []
    fit = gpunn.TabularClassifier.fit

    def watched(model, *arguments):
        limits.append(model.time_limit)
        return fit(model, *arguments)

    monkeypatch.setattr(gpunn.TabularClassifier, "fit", watched)
    assert run("train", table, "--target", "sort", "--time-limit", "1000", *FEW)[0] == 0
    assert run("train", table, "--target", "sort", "--time-limit", "1000", "--test", table, "--force", *FEW)[0] == 0
    first, second, only = limits
    assert 400 < first <= 500 < 900 < second <= 1000 and 900 < only <= 1000


def test_after_ctrl_c_an_ensemble_is_not_trained_again(run, table, monkeypatch):
    train_group, groups = ensemble._train_group, []

    def interrupted(*arguments):
        groups.append(None)
        if len(groups) == 2:
            raise KeyboardInterrupt
        return train_group(*arguments)

    monkeypatch.setattr(ensemble, "_train_group", interrupted)
    status, out, _ = run("train", table, "--target", "sort", "--networks", "20")
    assert status == 0 and len(groups) == 2 and "of 5 networks are used" in out
    assert "interrupted: not trained again on all rows" in out and "trained again on" not in out.replace(
        "not trained", ""
    )
    assert gpunn.load("flowers.safetensors").interrupted_
