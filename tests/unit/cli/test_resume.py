"""`gpunn train --resume` after an interruption."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
from helpers.command_line import QUICK, arrays_in
from helpers.messages import naming

import gpunn
from gpunn.cli import train
from gpunn.training import checkpoint
from gpunn.training.resume import model_tensors

pytest.importorskip("pandas")
pytest.importorskip("matplotlib")
pytest.importorskip("tqdm")


class _Interrupt(gpunn.Callback):
    """Ctrl-C in an epoch."""

    passive = True

    def __init__(self, epoch, error):
        self.epoch, self.error = epoch, error

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epoch:
            raise self.error


@pytest.fixture
def interrupted(run, monkeypatch):
    """A run of the command that is interrupted in an epoch, counted from 0."""
    fit = gpunn.Sequential.fit
    monkeypatch.setattr(train, "CHECKPOINT_SECONDS", 0)

    def command(epoch, *arguments, error=KeyboardInterrupt):
        def stopped(net, *data, callbacks=(), **options):
            return fit(net, *data, callbacks=[*callbacks, _Interrupt(epoch, error)], **options)

        with monkeypatch.context() as patch:
            patch.setattr(gpunn.Sequential, "fit", stopped)
            return run(*arguments)

    return command


def assert_same(arrays, others):
    assert arrays.keys() == others.keys() and all(np.array_equal(arrays[name], others[name]) for name in others)


def test_resume_equals_an_uninterrupted_run(run, interrupted, table, folder, caplog):
    command = ["train", table, "--target", "sort", "--hidden", "8", "--epochs", "7"]
    assert run(*command)[0] == 0
    whole = arrays_in("flowers.safetensors")
    again = [*command, "--out", "again.safetensors", "--resume"]
    for epoch in (2, 5):
        status, out, err = interrupted(epoch, *again)
        assert status == 130
        checkpoint = "again.checkpoint.safetensors"
        message = f"gpunn train: interrupted, the same command with --resume continues from {checkpoint}\n"
        assert err.endswith(message)
        assert ("resuming from again.checkpoint.safetensors\n" in out) == (epoch == 5)
        assert not os.path.exists("again.safetensors")
        assert len(gpunn.load("again.checkpoint.safetensors").get_weights()) == len(whole)
    status, out, _ = run(*again)
    assert (
        status == 0
        and "resuming from again.checkpoint.safetensors" in out
        and caplog.messages[-1].startswith("epoch 7/7: ")
    )
    assert_same(arrays_in("again.safetensors"), whole)
    assert not [name for name in os.listdir(folder) if "checkpoint" in name]


@pytest.mark.parametrize("killed_before", ["the picture", "the removal of the checkpoint"])
@pytest.mark.parametrize("best", ["last", "another"])
def test_resume_after_the_model_was_written_but_the_checkpoint_not_removed(
    run, table, folder, monkeypatch, killed_before, best
):
    options = QUICK if best == "last" else ["--hidden", "64", "--epochs", "40", "--lr", "0.1"]
    command = ["train", table, "--target", "sort", *options, "--resume"]

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(train, "write_bytes" if killed_before == "the picture" else "remove", killed)
        assert run(*command)[0] == 130
    assert Path("flowers.safetensors").exists() and Path("flowers.checkpoint.safetensors").exists()
    weights = arrays_in("flowers.safetensors")
    status, out, _ = run(*command)
    assert status == 0 and ("best epoch: 2 of 2," in out) == (best == "last") and "best epoch: 40 of 40" not in out
    assert_same(arrays_in("flowers.safetensors"), weights)
    assert sorted(os.listdir(folder)) == ["flowers.csv", "flowers.png", "flowers.safetensors"]


@pytest.mark.parametrize("foreign", ["model", "picture"])
def test_resume_overwrites_no_other_file(run, interrupted, table, foreign):
    """A model with other weights, or the user's picture, next to a checkpoint."""
    command = ["train", table, "--target", "sort", *QUICK, "--resume"]
    assert interrupted(1, *command)[0] == 130
    if foreign == "model":
        assert run(*command, "--seed", "1", "--out", "other.safetensors")[0] == 0
        os.rename("other.safetensors", "flowers.safetensors")
    else:
        arrays = model_tensors(*checkpoint.read("flowers.checkpoint.safetensors"))
        checkpoint.write("flowers.safetensors", {f"0.{name}": array for name, array in arrays.items()}, {})
        Path("flowers.png").write_bytes(b"other")
    before = {name: Path(name).read_bytes() for name in os.listdir()}
    status, _, err = run(*command)
    assert status == 2 and "exists: --force" in err
    assert {name: Path(name).read_bytes() for name in os.listdir()} == before


@pytest.mark.skipif(os.name != "posix", reason="POSIX signals")
def test_resume_removes_the_temporary_file_of_a_killed_save(run, interrupted, table, folder):
    command = ["train", table, "--target", "sort", *QUICK, "--resume"]
    assert interrupted(1, *command)[0] == 130
    Path(".flowers.checkpoint.safetensors.abc_4567.tmp").write_bytes(b"half")
    assert run(*command)[0] == 0
    assert sorted(os.listdir(folder)) == ["flowers.csv", "flowers.png", "flowers.safetensors"]


def test_resume_of_another_command_is_refused(run, interrupted, table):
    command = ["train", table, "--target", "sort", "--resume"]
    assert interrupted(1, *command, *QUICK)[0] == 130
    stored = Path("flowers.checkpoint.safetensors").read_bytes()
    status, _, err = run(*command, *QUICK, "--lr", "0.5")
    assert status == 2
    assert err.splitlines()[-1].startswith("gpunn train: error: flowers.checkpoint.safetensors: ")
    assert "optimizer.learning_rate" in err and "delete the file" in err
    assert Path("flowers.checkpoint.safetensors").read_bytes() == stored and not Path("flowers.safetensors").exists()
    assert run(*command, *QUICK)[0] == 0


def test_an_interrupted_run_without_resume_loses_nothing(run, interrupted, table, folder):
    command = ["train", table, "--target", "sort", "--hidden", "8", "--epochs", "7"]
    status, _, err = interrupted(4, *command)
    assert status == 130 and err.endswith("with --resume continues from flowers.checkpoint.safetensors\n")
    stored = Path("flowers.checkpoint.safetensors").read_bytes()
    status, out, err = run(*command)
    assert (status, out) == (2, "") and naming_resume(err)
    assert Path("flowers.checkpoint.safetensors").read_bytes() == stored
    status, out, _ = run(*command, "--resume")
    assert status == 0 and "resuming from flowers.checkpoint.safetensors" in out
    assert sorted(os.listdir(folder)) == ["flowers.csv", "flowers.png", "flowers.safetensors"]


def naming_resume(err):
    return re.search(naming("flowers.checkpoint.safetensors exists", "--resume", "--force"), err)


def test_force_starts_an_interrupted_run_from_the_beginning(run, interrupted, table, folder):
    command = ["train", table, "--target", "sort", *QUICK]
    assert interrupted(1, *command)[0] == 130
    status, out, _ = run(*command, "--force", "--epochs", "3")
    assert status == 0 and "resuming" not in out
    assert sorted(os.listdir(folder)) == ["flowers.csv", "flowers.png", "flowers.safetensors"]


def test_a_checkpoint_is_written_once_per_second(interrupted, table, folder, monkeypatch):
    monkeypatch.setattr(train, "CHECKPOINT_SECONDS", 1000)
    status, _, err = interrupted(1, "train", table, "--target", "sort", *QUICK)
    assert status == 130 and err.endswith("gpunn train: interrupted, nothing was written\n")
    assert os.listdir(folder) == ["flowers.csv"]


def test_a_run_that_diverges_leaves_no_checkpoint(interrupted, table, folder):
    error = gpunn.DivergenceError("the loss is not finite")
    assert interrupted(1, "train", table, "--target", "sort", *QUICK, error=error)[0] == 2
    assert os.listdir(folder) == ["flowers.csv"]
