"""`gpunn train` and `gpunn predict`: output, model files and predictions."""

import gzip
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT
from helpers.command_line import QUICK, arrays_in, flower_table, gpunn_process

import gpunn
from gpunn.cli import training_table

pd = pytest.importorskip("pandas")
pytest.importorskip("matplotlib")
pytest.importorskip("tqdm")

LONG = ["--hidden", "128,64", "--epochs", "100"]


def test_classification_predicts_the_users_labels(run, table, folder, caplog):
    status, out, _ = run("train", table, "--target", "sort", "--hidden", "128,64")
    assert status == 0
    lines = out.splitlines()
    assert lines[0] == "task: classification of 'sort' (text, 2 distinct values); change it with --task regression"
    assert lines[1] == "data: flowers.csv, 48 training rows, 12 validation rows, 3 columns"
    assert re.search(r"^device (cpu|cuda:0): ", out, re.M) and "Dense(128, activation='relu')" in out
    assert float(re.search(r"validation accuracy ([\d.]+) \(\d+ of 12 rows correct\)", out)[1]) >= 0.9
    assert lines[-2:] == ["model:   flowers.safetensors", "picture: flowers.png"]
    assert re.match("epoch 100/100: loss .*, accuracy .*, val_loss .*, val_accuracy", caplog.messages[-1])
    assert (folder / "flowers.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(os.listdir()) == ["flowers.csv", "flowers.png", "flowers.safetensors"]

    pd.DataFrame({"color": ["blue", "red", "grey"], "length": [-1.0, 7.0, 6.5], "weight": [500, 4500, 4250]}).to_csv(
        "new.csv"
    )
    status, out, _ = run("predict", "flowers.safetensors", "new.csv")
    assert (status, out) == (0, "sort\nrose\niris\niris\n")
    model = gpunn.load("flowers.safetensors")
    assert isinstance(model, gpunn.TabularClassifier) and model.classes_.tolist() == ["iris", "rose"]
    (row,) = model.leaderboard_
    assert row["weight"] == 1 and row["hidden"] == [128, 64] and 1 <= row["best_epoch"] <= 100
    p = model.predict_proba(pd.read_csv("new.csv")[["length", "color", "weight"]])
    status, out, _ = run("predict", "flowers.safetensors", "new.csv", "--proba", "--keep", "weight")
    rows = [line.split(",") for line in out.splitlines()]
    assert status == 0 and rows[0] == ["weight", "sort", "probability of iris", "probability of rose"]
    np.testing.assert_allclose(np.array([row[2:] for row in rows[1:]], dtype=float), p, atol=1e-6)
    status, out, _ = run("evaluate", "flowers.safetensors", table)
    assert status == 0 and float(re.match(r"accuracy ([\d.]+) ", out)[1]) >= 0.95


def test_tables_come_compressed_or_from_stdin(run, table, monkeypatch):
    data = Path(table).read_bytes()
    Path("flowers.csv.gz").write_bytes(gzip.compress(data))
    assert run("train", "flowers.csv.gz", "--target", "sort", *QUICK)[1].endswith("picture: flowers.png\n")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
    status, out, _ = run("train", "-", "--target", "sort", *QUICK)
    assert status == 0 and "data: stdin, 48 training rows" in out and out.endswith("picture: stdin.png\n")
    answers = run("predict", "stdin.safetensors", table)[1]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
    assert run("predict", "stdin.safetensors", "-", "--out", "answers.csv")[0] == 0
    assert Path("answers.csv").read_text(encoding="utf-8") == answers and answers.count("\n") == 61


def test_labels_with_leading_zeros_are_kept_as_written(run, folder):
    rows = [f"{x},{'01' if x < 15 else '02'}" for x in range(30)]
    Path("codes.csv").write_text("x,code\n" + "\n".join(rows) + "\n", encoding="utf-8")
    status, out, _ = run("train", "codes.csv", "--target", "code", *QUICK)
    assert status == 0 and "classification of 'code' (text, 2 distinct values)" in out
    Path("new.csv").write_text("x\n1\n29\n", encoding="utf-8")
    _, out, _ = run("predict", "codes.safetensors", "new.csv")
    assert set(out.split()) <= {"code", "01", "02"} and len(out.split()) == 3
    assert run("evaluate", "codes.safetensors", "codes.csv")[1].startswith("accuracy ")


@pytest.mark.slow
@pytest.mark.parametrize("whole", ["0012", "-003", "00"])
def test_decimal_numbers_with_leading_zeros_are_numeric(run, whole):
    rows = [f"{x},{whole}.{x:02d}" for x in range(30)]
    Path("t.csv").write_text("x,amount\n" + "\n".join(rows) + "\n", encoding="utf-8")
    status, out, _ = run("train", "t.csv", "--target", "amount", *QUICK)
    assert status == 0 and out.startswith("task: regression of 'amount' (numbers, 30 distinct values)")


def test_integers_with_leading_zeros_are_numeric_with_task_regression(run):
    Path("t.csv").write_text("x,n\n" + "".join(f"{x},{x:04d}\n" for x in range(30)) + ",\n", encoding="utf-8")
    status, out, err = run("train", "t.csv", "--target", "n", *QUICK)
    assert (status, out) == (2, "") and "column 'n'" in err and "--task regression" in err
    status, out, err = run("train", "t.csv", "--target", "n", "--task", "regression", *QUICK)
    assert status == 0 and "validation R²" in out and "1 rows without a value in 'n' are not used\n" in err


def test_classes_may_be_named_none_and_missing_targets_are_reported(run):
    words = ["None", "A", "B"]
    rows = [f"{x % 3},{words[x % 3]},{x if x % 7 else 'NA'}" for x in range(60)]
    Path("t.csv").write_text("x,word,number\n" + "\n".join(rows) + "\n1,?,\n", encoding="utf-8")
    status, out, err = run("train", "t.csv", "--target", "word", *LONG, "--out", "w")
    assert out.endswith("model:   w.safetensors\npicture: w.png\n")
    assert status == 0 and out.startswith("task: classification of 'word' (text, 3 distinct values)")
    assert "1 rows without a value in 'word' are not used: 1 '?'\n" in err
    Path("new.csv").write_text("x,number\n0,1\n1,NA\n2,\n", encoding="utf-8")
    assert run("predict", "w.safetensors", "new.csv")[:2] == (0, "word\nNone\nA\nB\n")
    status, out, err = run("train", "t.csv", "--target", "number", *QUICK)
    assert status == 0 and out.startswith("task: regression of 'number' (integers, 51 distinct values)")
    assert "10 rows without a value in 'number' are not used: 9 'NA', 1 empty\n" in err


def test_numeric_labels_are_written_with_all_digits(run):
    labels = ["1234567.125", "0.123456789"]
    rows = [f"{x},{labels[x >= 15]}" for x in range(30)]
    Path("t.csv").write_text("x,y\n" + "\n".join(rows) + "\n", encoding="utf-8")
    assert run("train", "t.csv", "--target", "y", "--task", "classification", *QUICK)[0] == 0
    answers = run("predict", "t.safetensors", "t.csv")[1].splitlines()
    assert answers[0] == "y" and len(answers) == 31 and set(answers[1:]) <= set(labels)


def test_long_integer_labels_keep_their_digits_with_missing_cells(run):
    labels = ["9007199254740993", "9007199254740995"]
    rows = [f"{x},{labels[x >= 15]}" for x in range(30)]
    Path("t.csv").write_text("x,y\n" + "\n".join(rows) + "\n3,\n", encoding="utf-8")
    status, out, _ = run("train", "t.csv", "--target", "y", *QUICK)
    assert status == 0 and out.startswith("task: classification")
    assert set(run("predict", "t.safetensors", "t.csv")[1].split()[1:]) <= set(labels)


def test_names_with_dollar_signs_are_not_parsed_as_formulas(run):
    rows = [f"{x},{x / 2}" for x in range(30)]
    Path("$_$.csv").write_text("x,price $_$ or $\n" + "\n".join(rows) + "\n", encoding="utf-8")
    assert run("train", "$_$.csv", "--target", "price $_$ or $", *QUICK)[0] == 0
    assert Path("$_$.safetensors").exists() and Path("$_$.png").exists()


@pytest.mark.slow
@pytest.mark.parametrize("labels", [("TRUE", "FALSE"), ("true", "false"), ("True", "False")])
def test_booleans_are_predicted_as_written(run, labels):
    rows = [f"{x},{labels[x >= 15]}" for x in range(30)]
    Path("t.csv").write_text("x,y\n" + "\n".join(rows) + "\n3,\n", encoding="utf-8")
    assert run("train", "t.csv", "--target", "y", *QUICK)[0] == 0
    assert set(run("predict", "t.safetensors", "t.csv")[1].split()[1:]) <= set(labels)
    assert run("train", "t.csv", "--target", "y", "--task", "regression", "--force", *QUICK)[0] == 0


def test_targets_whose_squares_underflow_have_a_score(run):
    Path("t.csv").write_text("x,y\n" + "".join(f"{x},{x}e-200\n" for x in range(30)), encoding="utf-8")
    Path("s.csv").write_text("x,y\n" + "".join(f"{x},{x}\n" for x in range(30)), encoding="utf-8")
    small, plain = (
        re.search(r"validation R² (-?[\d.]+) ", run("train", name, "--target", "y", *QUICK)[1])
        for name in ("t.csv", "s.csv")
    )
    assert float(small[1]) == pytest.approx(float(plain[1]), abs=1e-3)


@pytest.mark.parametrize("target", ["sort", "weight"])
def test_a_single_network_is_exported_to_onnx(run, table, target):
    reference = pytest.importorskip("onnx.reference")
    assert run("train", table, "--target", target, "--epochs", "20", "--hidden", "8")[0] == 0
    model = gpunn.load("flowers.safetensors")
    model.export("m.onnx")
    frame = flower_table().drop(columns=target)
    inputs = {name: frame[[name]].to_numpy(object if name in ("color", "sort") else float) for name in frame}
    outputs = reference.ReferenceEvaluator("m.onnx").run(None, inputs)
    if target == "sort":
        assert outputs[0].tolist() == model.predict(frame).tolist()
        np.testing.assert_allclose(outputs[1], model.predict_proba(frame), atol=1e-6)
    else:
        np.testing.assert_allclose(outputs[0], model.predict(frame), rtol=1e-5)


def test_options_of_the_table_apply_to_a_single_network(run):
    """Columns that are left out, categories, dates, numbers with a decimal comma, weights of labels."""
    n = 60
    frame = pd.DataFrame({"x": [f"{k // 10},{k % 10}5" for k in range(n)], "zip": [f"0{k % 3}" for k in range(n)]})
    frame["day"] = [str(day.date()) for day in pd.date_range("2026-01-01", periods=n)]
    frame["y"] = [f"{k * 37 % n},5" for k in range(n)]
    frame["sort"] = ["rare" if k > 50 else "usual" for k in range(n)]
    frame.to_csv("t.csv", index=False, sep=";")
    options = ["--decimal", ",", "--categorical", "zip", "--date", "day"]
    status, _, err = run("train", "t.csv", "--target", "y", "--drop", "sort", *options, *QUICK)
    assert status == 0 and "read as numbers with a decimal comma: 'x'\n" in err
    columns = gpunn.load("t.safetensors").columns_
    assert columns["x"].startswith("scaled") and columns["zip"] == "3 categories" and columns["day"].startswith("day: ")
    assert "sort" not in columns
    whole = run("predict", "t.safetensors", "t.csv")[1].split()
    frame.iloc[5:6].to_csv("one.csv", index=False)
    status, out, err = run("predict", "t.safetensors", "one.csv")
    assert status == 0 and err == "" and float(out.split()[1]) == pytest.approx(float(whole[6]), rel=1e-5)
    assert run("evaluate", "t.safetensors", "t.csv")[1].startswith("R² ")  # the target has a decimal comma too

    counts = []
    for weights in ([], ["--class-weight", '{"rare": 1000}']):
        command = ["train", "t.csv", "--target", "sort", "--drop", "x,y,day", "--force", "--lr", "0.1", *weights]
        assert run(*command, "--hidden", "8", "--epochs", "20")[0] == 0
        counts.append(run("predict", "t.safetensors", "t.csv")[1].count("rare"))
    assert counts[0] == 0 and counts[1] > 0


@pytest.mark.slow
def test_unknown_categories_are_counted_on_stderr(table):
    gpunn_process("train", table, "--target", "sort", *QUICK)
    Path("new.csv").write_text("color,length,weight\ngrey,1,1000\nred,2,1000\n", encoding="utf-8")
    done = gpunn_process("predict", "flowers.safetensors", "new.csv")
    assert done.stderr == (
        "column 'color': 1 of 2 cells contain a category that training did not see; they count as 'blue'\n"
    )
    assert done.stdout.splitlines()[0] == "sort" and len(done.stdout.splitlines()) == 3


@pytest.mark.parametrize("terminal", [False, True])
def test_progress_is_in_the_units_of_the_result(run, table, caplog, monkeypatch, terminal):
    """In a terminal a bar, elsewhere one line per epoch and no frame of a bar."""
    monkeypatch.setattr(type(sys.stderr), "isatty", lambda stream: terminal)
    status, out, err = run("train", table, "--target", "weight", *QUICK)
    error = re.search(r"mean absolute error ([\d.e+]+), root", out)[1]
    assert status == 0 and float(error) > 100
    if terminal:
        shown = re.search(r"epoch 2/2 \|█.* mean_absolute_error [\d.e+]+ \(([\d.e+]+)\)", err)[1]
    else:
        assert [line[:11] for line in caplog.messages] == ["epoch 1/2: ", "epoch 2/2: "]
        assert "█" not in err
        shown = re.search(r"val_mean_absolute_error ([\d.e+]+)$", caplog.messages[-1])[1]
    assert float(shown) == pytest.approx(float(error), rel=0.1)  # the result is limited to the training range


def test_regression_predicts_in_the_users_units(run, table):
    status, out, _ = run(
        "train", table, "--target", "weight", "--hidden", "128,64", "--epochs", "100", "--dropout", "0", "--out", "m"
    )
    assert status == 0
    assert out.startswith("task: regression of 'weight' (numbers, 60 distinct values); change it with --task class")
    assert float(re.search(r"validation R² ([\d.]+) \(mean absolute error", out)[1]) >= 0.9
    status, out, _ = run("predict", "m.safetensors", table, "--out", "answers.csv")
    assert (status, out) == (0, "")
    answers = pd.read_csv("answers.csv")
    assert list(answers.columns) == ["weight"]
    assert np.abs(answers["weight"] - flower_table()["weight"]).mean() < 0.1 * flower_table()["weight"].std()
    assert Path("m.png").exists()


def test_the_task_can_be_changed(run):
    pd.DataFrame({"x": range(40), "stars": [k % 5 for k in range(40)]}).to_csv("t.csv", index=False)
    assert run("train", "t.csv", "--target", "stars", *QUICK)[1].startswith(
        "task: classification of 'stars' (integers, 5"
    )
    status, out, _ = run("train", "t.csv", "--target", "stars", "--task", "regression", "--force", *QUICK)
    assert status == 0 and out.startswith("task: regression of 'stars'") and "R²" in out


def test_training_in_bfloat16_on_a_simulated_gpu(run, table, fake_cupy):
    """Train with bfloat16 products on the fake CuPy, and predict on the CPU in float32."""
    status, out, _ = run(
        "train", table, "--target", "sort", "--hidden", "128,64", "--device", "cuda", "--precision", "bf16"
    )
    assert status == 0 and "\nproducts in bf16\n" in out
    assert float(re.search(r"validation accuracy ([\d.]+)", out)[1]) >= 0.9
    assert run("predict", "flowers.safetensors", table, "--device", "cpu")[1].startswith("sort\nrose\niris\n")


def test_unused_rows_and_columns_are_reported(run):
    frame = flower_table()
    frame.loc[[5, 6], "sort"] = None
    frame = frame.assign(name=[f"flower {k}" for k in range(60)], same=1)
    frame.to_csv("t.csv", index=False)
    status, out, err = run("train", "t.csv", "--target", "sort", *QUICK)
    assert status == 0 and "47 training rows, 11 validation rows" in out
    assert "2 rows without a value in 'sort' are not used\n" in err
    assert "left out, 47 distinct texts in 47 rows, such as names or identifiers: 'name'\n" in err
    assert "left out, the same in every row: 'same'\n" in err


def test_the_seed_determines_the_model(run, table):
    for name, seed in [("a", 1), ("b", 1), ("c", 2)]:
        assert run("train", table, "--target", "sort", "--seed", seed, "--out", f"{name}.safetensors", *QUICK)[0] == 0
    a, b, c = (np.concatenate([w.ravel() for w in arrays_in(f"{name}.safetensors").values()]) for name in "abc")
    assert (a == b).all() and (a != c).any()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["digits", "breast_cancer", "wine", "diabetes"])
def test_bundled_data_sets_replace_their_own_output(run, name):
    pytest.importorskip("sklearn")
    for _ in range(2):
        status, out, _ = run("train", name, *QUICK)
        assert status == 0
    assert out.splitlines()[-2:] == [f"model:   {name}.safetensors", f"picture: {name}.png"]
    model = gpunn.load(f"{name}.safetensors")
    labels = {"digits": list(range(10)), "breast_cancer": ["benign", "malignant"], "diabetes": None}
    if name in labels:
        assert (model.classes_.tolist() if hasattr(model, "classes_") else None) == labels[name]


@pytest.mark.slow
def test_digits_accuracy_over_ten_splits(run):
    pytest.importorskip("sklearn")
    found = []
    for seed in range(10):
        status, out, _ = run("train", "digits", "--seed", seed)
        assert status == 0
        found.append(float(re.search(r"validation accuracy ([\d.]+)", out)[1]))
    assert np.mean(found) >= 0.97 and min(found) >= 0.95, found


def test_digits_are_read_as_scikit_learn_reads_them():
    datasets = pytest.importorskip("sklearn.datasets")
    pd.testing.assert_frame_equal(training_table._digits(), datasets.load_digits(as_frame=True).frame)


def test_the_command_line_does_not_import_scikit_learn_for_digits(folder):
    pytest.importorskip("sklearn")
    arguments = ["train", "digits", *QUICK]
    code = f"import sys; from gpunn import cli; cli.main({arguments!r}); print('sklearn' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.splitlines()[-1] == "False"
