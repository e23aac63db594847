"""Existing files are overwritten only with --force."""

import os
import stat
from pathlib import Path

import pytest
from helpers.command_line import QUICK, flower_table

import gpunn

pytest.importorskip("pandas")
pytest.importorskip("matplotlib")
pytest.importorskip("tqdm")


@pytest.mark.parametrize("name", ["flowers.safetensors", "flowers.png"])
def test_existing_files_are_overwritten_only_with_force(run, table, name):
    Path(name).write_text("precious", encoding="utf-8")
    status, out, err = run("train", table, "--target", "sort", *QUICK)
    assert (status, out) == (2, "")
    assert err == f"gpunn train: error: {name} exists: --force overwrites it, --out FILE takes another name\n"
    assert Path(name).read_text(encoding="utf-8") == "precious"
    assert run("train", table, "--target", "sort", "--force", *QUICK)[0] == 0
    assert Path(name).read_bytes() != b"precious"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["wine.safetensors", "wine.png"])
def test_a_bundled_data_set_replaces_only_its_own_output(run, name):
    pytest.importorskip("sklearn")
    Path(name).write_text("precious", encoding="utf-8")
    assert run("train", "wine", *QUICK)[0] == 2
    assert Path(name).read_text(encoding="utf-8") == "precious"
    Path(name).unlink()
    assert run("train", "wine", "--out", "wine.safetensors", *QUICK)[0] == 0
    assert run("train", "wine", "--out", "wine.safetensors", *QUICK)[0] == 2
    # the model of another table under the same name is not its own output either
    flower_table().to_csv("wine.csv", index=False)
    assert run("train", "wine.csv", "--target", "sort", "--force", *QUICK)[0] == 0
    assert run("train", "wine", *QUICK)[0] == 2


def test_predictions_do_not_overwrite_files(run, table):
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
    """Model, picture and predictions refuse a pipe before any training, with --force too."""
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
