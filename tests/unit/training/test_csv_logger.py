"""CSVLogger: one line per epoch in full precision, without duplicates after a resume."""

import csv

import numpy as np
import pytest
from helpers.messages import naming
from helpers.networks import classifier_builder

import gpunn

RNG = np.random.default_rng(6)
X, Y = RNG.normal(size=(20, 4)), RNG.integers(0, 3, size=20)


_net = classifier_builder(gpunn.Dense(5, "relu"))


def _fit(net, *callbacks, epochs=3, **options):
    history = net.fit(X, Y, epochs=epochs, validation_split=0.25, callbacks=callbacks, verbose=0, **options)
    return history.history


def _rows(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _columns(rows):
    return {name: [float(row[name]) for row in rows] for name in rows[0]}


def test_one_line_per_epoch_with_exact_values(tmp_path):
    path, seen = tmp_path / "log.csv", []

    class Inspect(gpunn.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append(len(_rows(path)))

    history = _fit(_net(), gpunn.CSVLogger(path), Inspect())
    assert _columns(_rows(path)) == {"epoch": [0, 1, 2], **history}
    assert path.read_text().splitlines()[0] == "epoch,loss,accuracy,val_loss,val_accuracy"
    assert seen == [1, 2, 3], "it can be read while the fit runs"
    assert b"\r" not in path.read_bytes()


def test_a_new_fit_replaces_the_file_or_appends(tmp_path):
    path = tmp_path / "log.csv"
    net, log = _net(), gpunn.CSVLogger(path)
    _fit(net, log)
    second = _fit(net, log, epochs=2)
    assert _columns(_rows(path)) == {"epoch": [0, 1], **second}
    third = _fit(net, gpunn.CSVLogger(path, append=True))
    both = {name: second[name] + third[name] for name in second}
    assert _columns(_rows(path)) == {"epoch": [0, 1, 0, 1, 2], **both}
    assert path.read_text().count("epoch,") == 1


def test_appending_uses_the_existing_header(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("val_accuracy,epoch,accuracy,loss,val_loss\n0.5,0,0.5,1,1", encoding="utf-8")
    history = _fit(_net(), gpunn.CSVLogger(path, append=True), epochs=1)
    rows = _rows(path)
    assert [row["epoch"] for row in rows] == ["0", "0"] and float(rows[1]["val_loss"]) == history["val_loss"][0]
    assert len(path.read_text().splitlines()) == 3
    path.write_text("epoch,loss\n0,1\n", encoding="utf-8")
    with pytest.raises(ValueError, match=naming("columns epoch, loss", "epoch, loss, accuracy")):
        _fit(_net(), gpunn.CSVLogger(path, append=True))
    assert path.read_text() == "epoch,loss\n0,1\n"


class Interrupt(gpunn.Callback):
    """Stops a fit like Ctrl-C at the end of an epoch."""

    def __init__(self, epoch):
        self.epoch = epoch

    def on_epoch_end(self, epoch, logs=None):
        if epoch == self.epoch:
            raise KeyboardInterrupt


def _interrupted(path, run, append, epoch):
    """Run a fit with a checkpoint every second epoch, interrupted in an epoch after it is logged."""
    log = gpunn.CSVLogger(path, append)
    with pytest.raises(KeyboardInterrupt):
        _fit(_net(), log, gpunn.ModelCheckpoint(run, every=2), Interrupt(epoch), epochs=7)
    assert int(_rows(path)[-1]["epoch"]) == epoch


def _resumed(path, run, append):
    log = gpunn.CSVLogger(path, append)
    return _fit(_net(), log, gpunn.ModelCheckpoint(run, every=2), Interrupt(9), epochs=7, resume=run)


EARLIER = "epoch,loss,accuracy,val_loss,val_accuracy\n0,1.0,2.0,3.0,4.0\n"


@pytest.mark.parametrize("append", [False, True])
@pytest.mark.parametrize("epoch", [0, 2, 3, 4])
def test_a_resumed_fit_continues_the_file_without_duplicates(tmp_path, append, epoch):
    """Epochs logged after the last checkpoint are trained again. Without one the fit starts from the beginning."""
    path, run = tmp_path / "log.csv", tmp_path / "run.safetensors"
    path.write_text(EARLIER, encoding="utf-8")
    _interrupted(path, run, append, epoch)
    history = _resumed(path, run, append)
    assert history == _fit(_net(), epochs=7)
    rows = _rows(path)
    earlier = [{"epoch": "0", "loss": "1.0", "accuracy": "2.0", "val_loss": "3.0", "val_accuracy": "4.0"}]
    if append:
        if epoch == 0:
            # without a checkpoint, the interrupted fit and the next one are separate fits
            earlier.append(rows[1])
        assert rows[: len(earlier)] == earlier
        rows = rows[len(earlier) :]
    assert _columns(rows) == {"epoch": [*range(7)], **history}
    assert path.read_text(encoding="utf-8").count("epoch,") == 1


@pytest.mark.parametrize("kept", [0, 50, 200])
def test_a_resumed_fit_accepts_a_lost_or_truncated_file(tmp_path, kept):
    path, run = tmp_path / "log.csv", tmp_path / "run.safetensors"
    _interrupted(path, run, False, 4)
    text = path.read_bytes()
    path.write_bytes(text[:kept])
    if kept == 0:
        path.unlink()
    history = _resumed(path, run, False)
    columns = _columns(_rows(path))
    first = {0: [], 50: [], 200: [0, 1]}[kept]
    assert columns["epoch"] == [*first, 4, 5, 6]
    assert columns["loss"] == [history["loss"][int(epoch)] for epoch in columns["epoch"]]


def test_a_path_that_cannot_be_written_raises_before_the_first_epoch(tmp_path):
    net = _net()
    before = net.get_weights()
    for path in (tmp_path / "nowhere" / "log.csv", tmp_path):
        with pytest.raises(OSError, match=path.name):
            _fit(net, gpunn.CSVLogger(path))
    for a, b in zip(before, net.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((3,), TypeError, "expected str, bytes or os.PathLike"),
        ((b"log.csv",), TypeError, naming("path", "b'log.csv'")),
        (("log.csv", 2), ValueError, naming("append", 2)),
    ],
)
def test_invalid_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        gpunn.CSVLogger(*arguments)
