"""The command line, as a user has it: what it says, what it writes, and what it does with a user's mistakes."""

import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT
from helpers.messages import naming

import gpunn
from gpunn import cli
from gpunn.kernels._compiler import host as kernel_compiler
from gpunn.training import checkpoint

pd = pytest.importorskip("pandas")
pytest.importorskip("matplotlib")
pytest.importorskip("tqdm")

QUICK = ["--hidden", "8", "--epochs", "2"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(capsys):
    """Run a command: its exit status, what it wrote to stdout and to stderr."""

    def command(*arguments):
        try:
            status = cli.main([str(a) for a in arguments])
        except SystemExit as stop:
            status = stop.code
        return status, *capsys.readouterr()

    return command


def flowers(n=60):
    """A table of two sorts that are told apart easily, with a word and a missing cell among the columns."""
    rng = np.random.default_rng(0)
    sort = np.arange(n) % 2
    frame = pd.DataFrame(
        {"length": sort * 6 + rng.normal(size=n), "colour": np.where(rng.random(n) < 0.5, "red", "blue")}
    )
    frame.loc[3, "length"] = np.nan
    return frame.assign(weight=1000 + 500 * frame["length"].fillna(2), sort=np.where(sort, "iris", "rose"))


@pytest.fixture
def table(folder):
    flowers().to_csv(folder / "flowers.csv", index=False)
    return "flowers.csv"


# --- training and predicting ----------------------------------------------------------------------------------------


def test_classes_are_learned_saved_and_answered_in_the_users_labels(run, table, folder):
    status, out, err = run("train", table, "--target", "sort")
    assert status == 0
    lines = out.splitlines()
    assert lines[0] == "task: classification of 'sort' (text, 2 distinct values); change it with --task regression"
    assert lines[1] == "data: flowers.csv, 48 rows to learn from, 12 held out, 5 inputs"
    assert re.search(r"^device (cpu|cuda:0): ", out, re.M) and "Dense(128, activation='relu')" in out
    assert float(re.search(r"held-out accuracy ([\d.]+) \(\d+ of 12 rows right\)", out)[1]) >= 0.9
    assert lines[-2:] == ["model:   flowers.safetensors", "picture: flowers.png"]
    assert "100/100" in err and "loss" in err and "accuracy" in err
    assert (folder / "flowers.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(os.listdir()) == ["flowers.csv", "flowers.png", "flowers.safetensors"]

    pd.DataFrame({"colour": ["blue", "red", "grey"], "length": [-1.0, 7.0, 6.5], "weight": [500, 4500, 4250]}).to_csv(
        "new.csv"
    )
    status, out, err = run("predict", "flowers.safetensors", "new.csv")
    assert (status, out) == (0, "sort\nrose\niris\niris\n")
    model = gpunn.load("flowers.safetensors")
    assert model.predict("new.csv").tolist() == ["rose", "iris", "iris"]
    assert isinstance(model.net, gpunn.Sequential)


def test_labels_written_with_leading_zeros_come_back_as_written(run, folder):
    rows = [f"{x},{'01' if x < 15 else '02'}" for x in range(30)]
    Path("codes.csv").write_text("x,code\n" + "\n".join(rows) + "\n", encoding="utf-8")
    status, out, _ = run("train", "codes.csv", "--target", "code", *QUICK)
    assert status == 0 and "classification of 'code' (text, 2 distinct values)" in out
    Path("new.csv").write_text("x\n1\n29\n", encoding="utf-8")
    _, out, _ = run("predict", "codes.safetensors", "new.csv")
    assert set(out.split()) <= {"code", "01", "02"} and len(out.split()) == 3


@pytest.mark.slow
@pytest.mark.parametrize("whole", ["0012", "-003", "00"])
def test_amounts_with_leading_zeros_are_numbers(run, whole):
    rows = [f"{x},{whole}.{x:02d}" for x in range(30)]
    Path("t.csv").write_text("x,amount\n" + "\n".join(rows) + "\n", encoding="utf-8")
    status, out, _ = run("train", "t.csv", "--target", "amount", *QUICK)
    assert status == 0 and out.startswith("task: regression of 'amount' (numbers, 30 distinct values)")


def test_many_codes_with_leading_zeros_are_numbers_if_the_user_says_so(run):
    Path("t.csv").write_text("x,n\n" + "".join(f"{x},{x:04d}\n" for x in range(30)) + ",\n", encoding="utf-8")
    status, out, err = run("train", "t.csv", "--target", "n", *QUICK)
    assert (status, out) == (2, "") and "column 'n'" in err and "--task regression" in err
    status, out, err = run("train", "t.csv", "--target", "n", "--task", "regression", *QUICK)
    assert status == 0 and "held-out R²" in out and "1 rows without a value in 'n' are not used\n" in err


def test_classes_called_none_are_learned_and_the_reason_for_a_missing_target_is_told(run):
    words = ["None", "A", "B"]
    rows = [f"{x % 3},{words[x % 3]},{x if x % 7 else 'NA'}" for x in range(60)]
    Path("t.csv").write_text("x,word,number\n" + "\n".join(rows) + "\n1,?,\n", encoding="utf-8")
    status, out, err = run("train", "t.csv", "--target", "word", "--epochs", "100", "--out", "w")
    assert status == 0 and out.startswith("task: classification of 'word' (text, 3 distinct values)")
    assert "1 rows without a value in 'word' are not used: 1 '?'\n" in err
    Path("new.csv").write_text("x,number\n0,1\n1,NA\n2,\n", encoding="utf-8")
    assert run("predict", "w", "new.csv")[:2] == (0, "word\nNone\nA\nB\n")
    status, out, err = run("train", "t.csv", "--target", "number", *QUICK)
    assert status == 0 and out.startswith("task: regression of 'number' (integers, 51 distinct values)")
    assert "10 rows without a value in 'number' are not used: 9 'NA', 1 empty\n" in err


def test_labels_that_are_numbers_are_written_with_all_their_digits(run):
    labels = ["1234567.125", "0.123456789"]
    rows = [f"{x},{labels[x >= 15]}" for x in range(30)]
    Path("t.csv").write_text("x,y\n" + "\n".join(rows) + "\n", encoding="utf-8")
    assert run("train", "t.csv", "--target", "y", "--task", "classification", *QUICK)[0] == 0
    answers = run("predict", "t.safetensors", "t.csv")[1].splitlines()
    assert answers[0] == "y" and len(answers) == 31 and set(answers[1:]) <= set(labels)


def test_labels_of_many_digits_keep_them_beside_missing_cells(run):
    labels = ["9007199254740993", "9007199254740995"]
    rows = [f"{x},{labels[x >= 15]}" for x in range(30)]
    Path("t.csv").write_text("x,y\n" + "\n".join(rows) + "\n3,\n", encoding="utf-8")
    status, out, _ = run("train", "t.csv", "--target", "y", *QUICK)
    assert status == 0 and out.startswith("task: classification")
    assert set(run("predict", "t.safetensors", "t.csv")[1].split()[1:]) <= set(labels)


def test_names_with_dollar_signs_are_no_formulas(run):
    rows = [f"{x},{x / 2}" for x in range(30)]
    Path("$_$.csv").write_text("x,price $_$ or $\n" + "\n".join(rows) + "\n", encoding="utf-8")
    assert run("train", "$_$.csv", "--target", "price $_$ or $", *QUICK)[0] == 0
    assert Path("$_$.safetensors").exists() and Path("$_$.png").exists()


@pytest.mark.slow
@pytest.mark.parametrize("labels", [("TRUE", "FALSE"), ("true", "false"), ("True", "False")])
def test_true_and_false_are_answered_as_they_are_written(run, labels):
    rows = [f"{x},{labels[x >= 15]}" for x in range(30)]
    Path("t.csv").write_text("x,y\n" + "\n".join(rows) + "\n3,\n", encoding="utf-8")
    assert run("train", "t.csv", "--target", "y", *QUICK)[0] == 0
    assert set(run("predict", "t.safetensors", "t.csv")[1].split()[1:]) <= set(labels)
    assert run("train", "t.csv", "--target", "y", "--task", "regression", "--force", *QUICK)[0] == 0


def test_an_amount_so_small_that_its_square_vanishes_has_a_score(run):
    Path("t.csv").write_text("x,y\n" + "".join(f"{x},{x}e-200\n" for x in range(30)), encoding="utf-8")
    Path("s.csv").write_text("x,y\n" + "".join(f"{x},{x}\n" for x in range(30)), encoding="utf-8")
    small, plain = (
        re.search(r"held-out R² (-?[\d.]+) ", run("train", name, "--target", "y", *QUICK)[1])
        for name in ("t.csv", "s.csv")
    )
    assert float(small[1]) == pytest.approx(float(plain[1]), abs=1e-3)


@pytest.mark.slow
def test_unknown_categories_are_counted_on_stderr(table):
    gpunn_("train", table, "--target", "sort", *QUICK)
    Path("new.csv").write_text("colour,length,weight\ngrey,1,1000\nred,2,1000\n", encoding="utf-8")
    done = gpunn_("predict", "flowers.safetensors", "new.csv")
    assert done.stderr == "column 'colour': 1 of 2 cells hold a category that training did not see\n"
    assert done.stdout.splitlines()[0] == "sort" and len(done.stdout.splitlines()) == 3


def test_amounts_are_answered_in_the_users_units(run, table):
    status, out, _ = run("train", table, "--target", "weight", "--epochs", "100", "--dropout", "0", "--out", "m")
    assert status == 0
    assert out.startswith("task: regression of 'weight' (numbers, 60 distinct values); change it with --task class")
    assert float(re.search(r"held-out R² ([\d.]+) \(mean absolute error", out)[1]) >= 0.9
    status, out, _ = run("predict", "m", table, "--out", "answers.csv")
    assert (status, out) == (0, "")
    answers = pd.read_csv("answers.csv")
    assert list(answers.columns) == ["weight"]
    assert np.abs(answers["weight"] - flowers()["weight"]).mean() < 0.1 * flowers()["weight"].std()
    assert Path("m.png").exists()


def test_the_task_can_be_changed(run):
    pd.DataFrame({"x": range(40), "stars": [k % 5 for k in range(40)]}).to_csv("t.csv", index=False)
    assert run("train", "t.csv", "--target", "stars", *QUICK)[1].startswith(
        "task: classification of 'stars' (integers, 5"
    )
    status, out, _ = run("train", "t.csv", "--target", "stars", "--task", "regression", "--force", *QUICK)
    assert status == 0 and out.startswith("task: regression of 'stars'") and "R²" in out


def test_simulated_training_in_less_precision(run, table, fake_cupy):
    """Products of a GPU in bfloat16; the model answers on a CPU too, in float32."""
    status, out, _ = run("train", table, "--target", "sort", "--device", "cuda", "--precision", "bf16")
    assert status == 0 and "\nproducts in bf16\n" in out
    assert float(re.search(r"held-out accuracy ([\d.]+)", out)[1]) >= 0.9
    assert gpunn.load("flowers.safetensors").net.precision == "bf16"
    assert run("predict", "flowers.safetensors", table, "--device", "cpu")[1].startswith("sort\nrose\niris\n")


def test_what_is_not_used_is_said(run):
    frame = flowers()
    frame.loc[[5, 6], "sort"] = None
    frame = frame.assign(name=[f"flower {k}" for k in range(60)], same=1)
    frame.to_csv("t.csv", index=False)
    status, out, err = run("train", "t.csv", "--target", "sort", *QUICK)
    assert status == 0 and "47 rows to learn from, 11 held out" in out
    assert "2 rows without a value in 'sort' are not used\n" in err
    assert "left out: column 'name' has 47 distinct texts" in err
    assert "left out, the same in every row: 'same'\n" in err


def test_the_same_seed_gives_the_same_model_and_another_seed_another(run, table):
    for name, seed in [("a", 1), ("b", 1), ("c", 2)]:
        assert run("train", table, "--target", "sort", "--seed", seed, "--out", f"{name}.safetensors", *QUICK)[0] == 0
    a, b, c = (
        np.concatenate([w.ravel() for w in gpunn.load(f"{name}.safetensors").net.get_weights()]) for name in "abc"
    )
    assert (a == b).all() and (a != c).any()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["digits", "breast_cancer", "wine", "diabetes"])
def test_bundled_sets_need_nothing_and_replace_their_own_output(run, name):
    pytest.importorskip("sklearn")
    for _ in range(2):
        status, out, _ = run("train", name, *QUICK)
        assert status == 0
    assert out.splitlines()[-2:] == [f"model:   {name}.safetensors", f"picture: {name}.png"]
    labels = {"digits": "[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]", "breast_cancer": "['benign', 'malignant']"}
    target = gpunn.load(f"{name}.safetensors").encoder.target
    assert str(list(getattr(target, "labels", ()))) == labels.get(name, str(list(getattr(target, "labels", ()))))


@pytest.mark.slow
def test_digits_over_ten_splits(run):
    pytest.importorskip("sklearn")
    found = []
    for seed in range(10):
        status, out, _ = run("train", "digits", "--seed", seed)
        assert status == 0
        found.append(float(re.search(r"held-out accuracy ([\d.]+)", out)[1]))
    assert np.mean(found) >= 0.97 and min(found) >= 0.95, found


# --- mistakes -------------------------------------------------------------------------------------------------------


MISTAKES = {
    "no file": (["train", "none.csv", "--target", "y"], naming("none.csv", "no file")),
    "no set": (
        ["train", "iris"],
        naming("iris", "digits", "breast_cancer", "wine"),
    ),
    "a folder": (["train", ".", "--target", "y"], ".: Is a directory"),
    "no target": (
        ["train", "good.csv"],
        naming("--target", "missing", "x, y"),
    ),
    "unknown column": (["train", "good.csv", "--target", "z"], naming("good.csv", "'z'", "x, y")),
    "empty": (["train", "empty.csv", "--target", "y"], naming("empty.csv", "empty")),
    "no rows": (["train", "head.csv", "--target", "y"], naming("head.csv", "no rows")),
    "few rows": (["train", "few.csv", "--target", "y"], naming("'y'", "3 rows", 5)),
    "text": (["train", "text.csv", "--target", "y"], naming("column 'x'", "row 3", "'abc'")),
    "text target": (["train", "words.csv", "--target", "y", "--task", "regression"], naming("column 'y'", "numbers")),
    "all missing": (["train", "missing.csv", "--target", "y"], naming("column 'x'", "no value")),
    "target missing": (["train", "missing.csv", "--target", "x"], naming("column 'x'", "no value")),
    "target alone": (["train", "alone.csv", "--target", "y"], naming("'y'", "no column")),
    "activation": (["train", "good.csv", "--target", "y", "--activation", "rleu"], "'rleu'"),
    "optimizer": (["train", "good.csv", "--target", "y", "--optimizer", "adma"], "'adma'"),
    "device": (["train", "good.csv", "--target", "y", "--device", "gpu"], "device must be"),
    "no gpu": (["train", "good.csv", "--target", "y", "--device", "cuda:99"], naming("'cuda:99'")),
    "precision": (
        ["train", "good.csv", "--target", "y", "--device", "cpu", "--precision", "bf16"],
        naming("precision='bf16'", "GPUs", "CPU"),
    ),
    "no such precision": (["train", "good.csv", "--precision", "fp16"], naming("--precision", "'fp16'")),
    "diverges": (
        ["train", "good.csv", "--target", "y", "--optimizer", "sgd", "--lr", "1e30"],
        "training diverged in epoch",
    ),
    "no folder": (["train", "good.csv", "--target", "y", "--out", "no/m"], naming("folder no", "m")),
    "out is a folder": (["train", "good.csv", "--target", "y", "--out", "folder"], naming("folder is a folder")),
    "out is a picture": (["train", "good.csv", "--target", "y", "--out", "m.png"], naming("--out m.png")),
    "out is the table": (
        ["train", "good.csv", "--target", "y", "--out", "good.csv", "--force"],
        naming("good.csv", "read"),
    ),
    "target of a set": (
        ["train", "wine", "--target", "y"],
        naming("--target", "wine"),
    ),
    "predict: no model": (["predict", "none", "good.csv"], naming("none", "No such file")),
    "predict: no such model": (["predict", "good.csv", "good.csv"], naming("good.csv", "is not")),
    "predict: a bare net": (
        ["predict", "net.safetensors", "good.csv"],
        naming("net.safetensors", "columns"),
    ),
    "predict: no table": (["predict", "model.safetensors", "none.csv"], naming("none.csv", "No such file")),
    "predict: columns": (
        ["predict", "model.safetensors", "words.csv"],
        naming("table", "lacks", "column 'x'"),
    ),
    "predict: text": (
        ["predict", "model.safetensors", "text.csv"],
        naming("column 'x'", "row 3", "'abc'"),
    ),
    "predict: too far": (
        ["predict", "model.safetensors", "far.csv"],
        naming("column 'x'", "1e+45", "row 3"),
    ),
    "infinite class": (
        ["train", "infinite.csv", "--target", "y", "--task", "classification"],
        naming("column 'y'", "row 3", "'inf'"),
    ),
    "huge target": (["train", "huge.csv", "--target", "y"], naming("column 'y'", "1e+308", "row 1")),
    "long target": (["train", "long.csv", "--target", "y"], naming("characters", "column 'y'", "row 3")),
    "long category": (["train", "long.csv", "--target", "x"], naming("characters", "column 'y'", "row 3")),
    "predict: out": (
        ["predict", "model.safetensors", "good.csv", "--out", "good.csv", "--force"],
        naming("good.csv", "read"),
    ),
    "epochs": (["train", "good.csv", "--epochs", "0"], naming("--epochs", "'0'")),
    "hidden": (["train", "good.csv", "--hidden", "8,x"], naming("--hidden", "'x'")),
    "dropout": (["train", "good.csv", "--dropout", "1"], naming("--dropout", "'1'")),
    "lr": (["train", "good.csv", "--lr", "nan"], naming("--lr", "'nan'")),
    "seed": (["train", "good.csv", "--seed", "-1"], naming("--seed", "'-1'")),
    "option": (["train", "good.csv", "--traget", "y"], naming("--traget y")),
    "command": (["trian"], naming("'trian'")),
    "nothing": ([], naming("required", "COMMAND")),
}


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    (path / "t.csv").write_text("x,y\n" + "".join(f"{k},{k / 2}\n" for k in range(10)), encoding="utf-8")
    model = path / "model.safetensors"
    assert cli.main(["train", str(path / "t.csv"), "--target", "y", "--out", str(model), *QUICK]) == 0
    return model.read_bytes()


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_on_stderr_and_nothing_is_written(run, folder, model_file, mistake):
    long = "q" * (10_000_000 if mistake.startswith("long") else 5)
    for name, text in {
        "good": "x,y\n" + "".join(f"{k},{k / 2}\n" for k in range(10)),
        "empty": "",
        "head": "x,y\n",
        "few": "x,y\n1,2\n2,3\n3,4\n",
        "text": "x,y\n1.5,1\n2.5,2\nabc,3\n4.5,4\n5.5,5\n",
        "words": "z,y\n1,low\n2,high\n3,low\n4,high\n5,low\n",
        "missing": "x,y\n,1\n,2\n,3\n,4\n,5\n",
        "infinite": "x,y\n" + "".join(f"{k},{[0.5, 1.5, 'inf'][k % 3]}\n" for k in range(10)),
        "far": "x\n1\n2\n1e45\n4\n",
        "huge": "x,y\n1,1e308\n2,-1e308\n3,1e308\n4,-1e308\n5,1e308\n",
        "long": "x,y\n" + "".join(f"{k / 2},{long if k % 5 == 2 else 'ab'[k % 2]}\n" for k in range(10)),
        "alone": "y\n1.5\n2.5\n3\n4\n5\n",
    }.items():
        Path(f"{name}.csv").write_text(text, encoding="utf-8")
    Path("folder").mkdir()
    Path("model.safetensors").write_bytes(model_file)
    gpunn.Sequential([gpunn.Dense(1)], input_shape=1, seed=0).save("net.safetensors")
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}

    arguments, message = MISTAKES[mistake]
    status, out, err = run(*arguments)
    last = err.splitlines()[-1]
    assert status == 2
    assert re.match(r"gpunn( \w+)?: error: ", last) and re.search(message, last), err
    assert mistake == "diverges" or (out == "" and len(err.splitlines()) == 1)
    assert {path: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before


@pytest.mark.parametrize("name", ["flowers.safetensors", "flowers.png"])
def test_files_that_exist_are_overwritten_by_force_alone(run, table, name):
    Path(name).write_text("precious", encoding="utf-8")
    status, out, err = run("train", table, "--target", "sort", *QUICK)
    assert (status, out) == (2, "")
    assert err == f"gpunn train: error: {name} exists: --force overwrites it, --out FILE takes another name\n"
    assert Path(name).read_text(encoding="utf-8") == "precious"
    assert run("train", table, "--target", "sort", "--force", *QUICK)[0] == 0
    assert Path(name).read_bytes() != b"precious"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["wine.safetensors", "wine.png"])
def test_a_bundled_set_replaces_its_own_output_alone(run, name):
    pytest.importorskip("sklearn")
    Path(name).write_text("precious", encoding="utf-8")
    assert run("train", "wine", *QUICK)[0] == 2
    assert Path(name).read_text(encoding="utf-8") == "precious"
    Path(name).unlink()
    assert run("train", "wine", "--out", "wine.safetensors", *QUICK)[0] == 0
    assert run("train", "wine", "--out", "wine.safetensors", *QUICK)[0] == 2
    # the model of another table under the same name is not its own output either
    flowers().to_csv("wine.csv", index=False)
    assert run("train", "wine.csv", "--target", "sort", "--force", *QUICK)[0] == 0
    assert run("train", "wine", *QUICK)[0] == 2


def test_answers_do_not_overwrite(run, table):
    assert run("train", table, "--target", "sort", *QUICK)[0] == 0
    Path("answers.csv").write_text("precious", encoding="utf-8")
    arguments = ["predict", "flowers.safetensors", table, "--out", "answers.csv"]
    assert run(*arguments)[0] == 2
    assert Path("answers.csv").read_text(encoding="utf-8") == "precious"
    assert run(*arguments, "--force")[0] == 0
    assert Path("answers.csv").read_text(encoding="utf-8").startswith("sort\n")


def test_ctrl_c_writes_nothing(run, table, folder, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(gpunn.Sequential, "fit", interrupted)
    status, _, err = run("train", table, "--target", "sort", *QUICK)
    assert (status, err) == (130, "gpunn train: interrupted, nothing was written\n")
    assert os.listdir(folder) == ["flowers.csv"]


@pytest.mark.skipif(os.name != "posix", reason="POSIX files")
@pytest.mark.parametrize("link", [False, True])
@pytest.mark.parametrize("name", ["node.safetensors", "node.png"])
def test_a_pipe_is_never_replaced(run, table, folder, name, link):
    """Neither by a model nor by its picture nor by answers, with --force and without, and before any training."""
    assert run("train", table, "--target", "sort", *QUICK)[0] == 0
    os.mkfifo("pipe")
    os.symlink("pipe", name) if link else os.rename("pipe", name)
    before = {p.name: (p.lstat().st_ino, stat.S_IFMT(p.lstat().st_mode)) for p in folder.iterdir()}
    for force in ([], ["--force"]):
        for command in (
            ["train", table, "--target", "sort", "--out", "node.safetensors"],
            ["predict", "flowers.safetensors", table, "--out", name],
        ):
            status, out, err = run(*command, *force)
            assert (status, out) == (2, "") and f"error: {name} is a device, a pipe or a socket" in err
    assert {p.name: (p.lstat().st_ino, stat.S_IFMT(p.lstat().st_mode)) for p in folder.iterdir()} == before


# --- going on after an interruption ---------------------------------------------------------------------------------


class _Interrupt(gpunn.Callback):
    """Ctrl-C in an epoch."""

    passive = True

    def __init__(self, epoch):
        self.epoch = epoch

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epoch:
            raise KeyboardInterrupt


@pytest.fixture
def interrupted(run, monkeypatch):
    """A run of the command that is interrupted in an epoch, counted from 0."""
    fit = gpunn.Sequential.fit

    def command(epoch, *arguments):
        def stopped(net, *data, callbacks=(), **options):
            return fit(net, *data, callbacks=[*callbacks, _Interrupt(epoch)], **options)

        with monkeypatch.context() as patch:
            patch.setattr(gpunn.Sequential, "fit", stopped)
            return run(*arguments)

    return command


def test_resume_goes_on_with_what_was_interrupted(run, interrupted, table, folder):
    command = ["train", table, "--target", "sort", "--hidden", "8", "--epochs", "7"]
    assert run(*command)[0] == 0
    whole = gpunn.load("flowers.safetensors").net.get_weights()
    again = [*command, "--out", "again.safetensors", "--resume"]
    for epoch in (2, 5):
        status, out, err = interrupted(epoch, *again)
        assert status == 130
        assert err.endswith("gpunn train: interrupted, the same command goes on after the last whole epoch\n")
        assert ("going on from again.checkpoint.safetensors\n" in out) == (epoch == 5)
        assert not os.path.exists("again.safetensors")
        assert len(gpunn.load("again.checkpoint.safetensors").get_weights()) == len(whole)
    status, out, err = run(*again)
    assert status == 0 and "going on from again.checkpoint.safetensors" in out and "7/7" in err
    for a, b in zip(gpunn.load("again.safetensors").net.get_weights(), whole, strict=True):
        assert np.array_equal(a, b)
    assert not [name for name in os.listdir(folder) if "checkpoint" in name]


@pytest.mark.parametrize("killed_before", ["the picture", "the removal of the checkpoint"])
def test_resume_goes_on_where_the_model_was_written_and_the_checkpoint_not_removed(
    run, table, folder, monkeypatch, killed_before
):
    command = ["train", table, "--target", "sort", *QUICK, "--resume"]

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(cli.checkpoint, "write_bytes" if killed_before == "the picture" else "remove", killed)
        assert run(*command)[0] == 130
    assert Path("flowers.safetensors").exists() and Path("flowers.checkpoint.safetensors").exists()
    weights = gpunn.load("flowers.safetensors").net.get_weights()
    assert run(*command)[0] == 0
    for a, b in zip(gpunn.load("flowers.safetensors").net.get_weights(), weights, strict=True):
        assert np.array_equal(a, b)
    assert sorted(os.listdir(folder)) == ["flowers.csv", "flowers.png", "flowers.safetensors"]


@pytest.mark.parametrize("foreign", ["model", "picture"])
def test_resume_overwrites_no_other_file(run, interrupted, table, foreign):
    """A model of other weights, or a picture that is not ours, beside a checkpoint."""
    command = ["train", table, "--target", "sort", *QUICK, "--resume"]
    assert interrupted(1, *command)[0] == 130
    if foreign == "model":
        assert run(*command, "--seed", "1", "--out", "other.safetensors")[0] == 0
        os.rename("other.safetensors", "flowers.safetensors")
    else:
        checkpoint.write("flowers.safetensors", checkpoint.read("flowers.checkpoint.safetensors")[0], {})
        Path("flowers.png").write_bytes(b"mine")
    before = {name: Path(name).read_bytes() for name in os.listdir()}
    status, _, err = run(*command)
    assert status == 2 and "exists: --force" in err
    assert {name: Path(name).read_bytes() for name in os.listdir()} == before


@pytest.mark.skipif(os.name != "posix", reason="POSIX signals")
def test_a_killed_save_of_a_checkpoint_leaves_nothing_after_the_resumed_run(run, interrupted, table, folder):
    command = ["train", table, "--target", "sort", *QUICK, "--resume"]
    assert interrupted(1, *command)[0] == 130
    Path(".flowers.checkpoint.safetensors.abc_4567.tmp").write_bytes(b"half")
    assert run(*command)[0] == 0
    assert sorted(os.listdir(folder)) == ["flowers.csv", "flowers.png", "flowers.safetensors"]


def test_resume_of_another_command_is_refused(run, interrupted, table):
    command = ["train", table, "--target", "sort", "--resume"]
    assert interrupted(1, *command, *QUICK)[0] == 130
    kept = Path("flowers.checkpoint.safetensors").read_bytes()
    status, _, err = run(*command, *QUICK, "--lr", "0.5")
    assert status == 2
    assert err.splitlines()[-1].startswith("gpunn train: error: flowers.checkpoint.safetensors: ")
    assert "optimizer.learning_rate" in err and "delete the file" in err
    assert Path("flowers.checkpoint.safetensors").read_bytes() == kept and not Path("flowers.safetensors").exists()
    assert run(*command, *QUICK)[0] == 0


def test_without_resume_there_is_no_checkpoint(interrupted, table, folder):
    status, _, err = interrupted(1, "train", table, "--target", "sort", *QUICK)
    assert status == 130 and err.endswith("gpunn train: interrupted, nothing was written\n")
    assert os.listdir(folder) == ["flowers.csv"]


@pytest.mark.parametrize(
    ("module", "arguments", "extra"),
    [
        ("pandas", ["train", "flowers.csv", "--target", "sort"], "cli"),
        ("matplotlib.figure", ["train", "flowers.csv", "--target", "sort"], "plot"),
        ("sklearn", ["train", "digits"], "sklearn"),
    ],
)
def test_an_absent_package_is_named_with_its_extra(run, table, monkeypatch, module, arguments, extra):
    monkeypatch.setitem(sys.modules, module, None)
    status, out, err = run(*arguments)
    assert (status, out) == (2, "") and len(err.splitlines()) == 1
    assert f'pip install "gpunn[{extra}]"' in err


# --- help, the doctor, and the command itself -----------------------------------------------------------------------


def gpunn_(*arguments, check=True):
    """`python -m gpunn` in a process of its own, warnings being errors."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "80"}
    command = [sys.executable, "-W", "error", "-m", "gpunn", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=120)
    assert done.returncode == 0 or not check, done.stderr
    return done


@pytest.mark.parametrize("arguments", [[], ["train"], ["predict"], ["doctor"]])
def test_help_fits_80_columns(run, monkeypatch, arguments):
    monkeypatch.setenv("COLUMNS", "80")
    status, out, _ = run(*arguments, "--help")
    assert status == 0 and out.startswith("usage: gpunn")
    assert max(map(len, out.splitlines())) <= 80


def test_train_help_names_every_option(run):
    out = run("train", "--help")[1]
    options = (
        "target task hidden activation dropout epochs batch-size optimizer lr seed device precision out force resume"
    )
    assert all(f"--{option}" in out for option in options.split())


def test_the_doctor_compares(run):
    if kernel_compiler.status().implementation != "compiled":
        status, out, _ = run("doctor", "--compare")
        assert status == 1 and "nothing to compare" in out
        return
    status, out, _ = run("doctor", "--compare")
    assert status == 0 and "cpu against numpy, float32" in out and out.rstrip().endswith("the same to rounding")
    assert max(map(len, out.splitlines()[-9:])) <= 80


def test_the_doctor_speaks(run):
    status, out, _ = run("doctor")
    assert status in (0, 1) and "NumPy" in out and "verdict" in out


@pytest.mark.slow
def test_python_m_gpunn_is_the_command(table):
    assert gpunn_("--version").stdout == f"gpunn {gpunn.__version__}\n"
    assert "held-out accuracy" in gpunn_("train", table, "--target", "sort", *QUICK).stdout
    done = gpunn_("train", "none.csv", "--target", "y", check=False)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "gpunn train: error: there is no file none.csv\n")


@pytest.mark.slow
def test_a_reader_that_leaves_early_is_no_error(table):
    gpunn_("train", table, "--target", "sort", *QUICK)
    pd.concat([flowers()] * 2000).to_csv("many.csv", index=False)
    command = f'"{sys.executable}" -m gpunn predict flowers.safetensors many.csv | head -n 1'
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["sh", "-c", command], capture_output=True, text=True, env=environment, check=True, timeout=120
    )
    assert (done.stdout, done.stderr) == ("sort\n", "")
