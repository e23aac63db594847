"""Mistakes of the user: one line on stderr, nothing is written."""

import gzip
import re
from pathlib import Path

import pytest
from helpers.command_line import QUICK
from helpers.messages import naming

import gpunn
from gpunn import cli

pytest.importorskip("pandas")
pytest.importorskip("matplotlib")
pytest.importorskip("tqdm")


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
    "not UTF-8": (["train", "latin.csv", "--target", "y"], naming("latin.csv", "UTF-8", "line 2", "Excel", "iconv")),
    "damaged gzip": (["train", "short.csv.gz", "--target", "y"], naming("short.csv.gz", "damaged")),
    "no rows": (["train", "head.csv", "--target", "y"], naming("head.csv", "no rows")),
    "few rows": (["train", "few.csv", "--target", "y"], naming("'y'", "3 rows", 10)),
    "few rows for a network": (["train", "few.csv", "--target", "y", *QUICK], naming("'y'", "3 rows", 5)),
    "text": (["train", "text.csv", "--target", "y"], naming("column 'x'", "line 4", "'abc'")),
    "text target": (["train", "words.csv", "--target", "y", "--task", "regression"], naming("column 'y'", "numbers")),
    "all missing": (["train", "missing.csv", "--target", "y"], naming("no column", "'x'", "no value")),
    "all missing for a network": (
        ["train", "missing.csv", "--target", "y", *QUICK],
        naming("no column", "'x'", "no value"),
    ),
    "target missing": (["train", "missing.csv", "--target", "x"], naming("column 'x'", "no value")),
    "target alone": (["train", "alone.csv", "--target", "y"], naming("'y'", "no column")),
    "activation": (["train", "good.csv", "--target", "y", "--activation", "rleu", "--hidden", "8"], "'rleu'"),
    "optimizer": (["train", "good.csv", "--target", "y", "--optimizer", "adma", "--hidden", "8"], "'adma'"),
    "device": (["train", "good.csv", "--target", "y", "--device", "gpu"], "device must be"),
    "no gpu": (["train", "good.csv", "--target", "y", "--device", "cuda:99"], naming("'cuda:99'")),
    "precision": (
        ["train", "good.csv", "--target", "y", "--device", "cpu", "--precision", "bf16", "--hidden", "8"],
        naming("precision='bf16'", "GPUs", "CPU"),
    ),
    "dropout of an ensemble": (
        ["train", "good.csv", "--target", "y", "--dropout", "0"],
        naming("--dropout", "--hidden"),
    ),
    "epochs of an ensemble": (["train", "good.csv", "--target", "y", "--epochs", "3"], naming("--epochs", "--hidden")),
    "networks of one": (
        ["train", "good.csv", "--target", "y", "--networks", "3", *QUICK],
        naming("--networks", "--hidden"),
    ),
    "test rows of one": (
        ["train", "good.csv", "--target", "y", "--test", "good.csv", *QUICK],
        naming("--test", "--hidden"),
    ),
    "class weights of numbers": (
        ["train", "good.csv", "--target", "y", "--class-weight", "balanced", *QUICK],
        naming("--class-weight", "'y'"),
    ),
    "drop for a network": (["train", "good.csv", "--target", "y", "--drop", "z", *QUICK], naming("--drop", "'z'")),
    "drop": (["train", "good.csv", "--target", "y", "--drop", "z"], naming("--drop", "'z'")),
    "drop the target": (["train", "good.csv", "--target", "y", "--drop", "y"], naming("--drop", "'y'")),
    "date": (["train", "good.csv", "--target", "y", "--date", "x"], naming("column 'x'", "dates")),
    "encoding": (["train", "good.csv", "--target", "y", "--encoding", "klingon"], naming("encoding", "'klingon'")),
    "class weight": (
        ["train", "words.csv", "--target", "y", "--class-weight", '{"medium": 2}'],
        naming("--class-weight", "'medium'"),
    ),
    "class weights": (
        ["train", "words.csv", "--target", "y", "--class-weight", "high"],
        naming("--class-weight", "JSON"),
    ),
    "metric of numbers": (
        ["train", "words.csv", "--target", "y", "--metric", "absolute_error"],
        naming("--metric", "classes", "'balanced_accuracy'", "'absolute_error'"),
    ),
    "metric of classes": (
        ["train", "good.csv", "--target", "y", "--metric", "accuracy"],
        naming("--metric", "numbers", "'squared_error'", "'accuracy'"),
    ),
    "metric of one network": (
        ["train", "good.csv", "--target", "y", "--metric", "squared_error", *QUICK],
        naming("--metric", "--hidden"),
    ),
    "test file": (["train", "good.csv", "--target", "y", "--test", "none.csv"], naming("none.csv", "No such file")),
    "test columns": (["train", "good.csv", "--target", "y", "--test", "words.csv"], naming("--test", "'x'")),
    "no such precision": (["train", "good.csv", "--precision", "fp16"], naming("--precision", "'fp16'")),
    "diverges": (
        ["train", "good.csv", "--target", "y", "--optimizer", "sgd", "--lr", "1e30", "--hidden", "8"],
        "training diverged in epoch",
    ),
    "no folder": (["train", "good.csv", "--target", "y", "--out", "no/m"], naming("folder no", "m")),
    "out is a folder": (["train", "good.csv", "--target", "y", "--out", "folder"], naming("folder is a folder")),
    "out has another suffix": (
        ["train", "good.csv", "--target", "y", "--out", "m.pkl"],
        naming("--out", "m.pkl", ".safetensors", "m.safetensors"),
    ),
    "out is the table": (
        ["train", "table.safetensors", "--target", "y", "--out", "table", "--force"],
        naming("table.safetensors", "read"),
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
        ["predict", "model.safetensors", "wrong.csv"],
        naming("column 'x'", "numbers", "'abc'", "line 2"),
    ),
    "evaluate: text": (["evaluate", "model.safetensors", "wrong.csv"], naming("column 'y'", "'low'", "line 2")),
    "predict: keep": (["predict", "model.safetensors", "good.csv", "--keep", "z"], naming("--keep", "'z'")),
    "predict: probabilities": (["predict", "model.safetensors", "good.csv", "--proba"], naming("--proba", "numbers")),
    "infinite class": (
        ["train", "infinite.csv", "--target", "y", "--task", "classification"],
        naming("column 'y'", "line 4", "'inf'"),
    ),
    "huge target": (["train", "huge.csv", "--target", "y"], naming("column 'y'", "1e+308", "line 2")),
    "long target": (["train", "long.csv", "--target", "y"], naming("characters", "column 'y'", "line 4")),
    "long category": (["train", "long.csv", "--target", "x"], naming("characters", "column 'y'", "line 4")),
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
def test_a_mistake_is_reported_in_one_line_and_nothing_is_written(run, folder, model_file, mistake):
    long = "q" * (10_000_000 if mistake.startswith("long") else 5)
    for name, text in {
        "good": "x,y\n" + "".join(f"{k},{k / 2}\n" for k in range(10)),
        "empty": "",
        "head": "x,y\n",
        "few": "x,y\n1,2\n2,3\n3,4\n",
        "text": "x,y\n1.5,1\n2.5,2\nabc,3\n4.5,4\n5.5,5\n" + "6.5,6\n" * 5,
        "words": "z,y\n" + "1,low\n2,high\n" * 6,
        "missing": "x,y\n" + ",1\n,2\n,3\n,4\n,5\n" * 2,
        "infinite": "x,y\n" + "".join(f"{k},{[0.5, 1.5, 'inf'][k % 3]}\n" for k in range(10)),
        "wrong": "x,y\nabc,low\nde,high\n",
        "huge": "x,y\n" + "1,1e308\n2,-1e308\n3,1e308\n4,-1e308\n5,1e308\n" * 2,
        "long": "x,y\n" + "".join(f"{k / 2},{long if k % 5 == 2 else 'ab'[k % 2]}\n" for k in range(10)),
        "alone": "y\n" + "1.5\n2.5\n3\n4\n5\n" * 2,
    }.items():
        Path(f"{name}.csv").write_text(text, encoding="utf-8")
    Path("latin.csv").write_bytes("x,y\né,1\n".encode("latin-1"))
    Path("short.csv.gz").write_bytes(gzip.compress(Path("good.csv").read_bytes())[:-9])
    Path("table.safetensors").write_bytes(Path("good.csv").read_bytes())
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
