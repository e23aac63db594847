"""ProgressBar: content and times of its drawings, in a terminal and a notebook, and that it is always closed."""

import io
import os
import subprocess
import sys
import time

import numpy as np
import pytest
from helpers import ROOT, internals, limits
from helpers.networks import classifier_builder

import gpunn
from gpunn.training.callbacks import CallbackList, EpochLogger

tqdm = pytest.importorskip("tqdm")
RNG = np.random.default_rng(6)
X, Y = RNG.normal(size=(40, 4)), RNG.integers(0, 3, size=40)


_net = classifier_builder(gpunn.Dense(5, "relu"), optimizer=gpunn.SGD(0.1))


class Drawn:
    """Replaces tqdm and stores (n, title, values) of every drawing."""

    def __init__(self, total, initial, desc, **options):
        self.total, self.n, self.desc, self.initial, self.numbers = total, initial, desc, initial, ""
        self.drawn, self.closed = [], 0

    def set_description_str(self, desc, refresh=True):
        self.desc = desc

    def set_postfix_str(self, numbers, refresh=True):
        self.numbers = numbers

    def refresh(self):
        assert not self.closed
        self.drawn.append((self.n, self.desc, self.numbers))

    def close(self):
        self.closed += 1


@pytest.fixture
def bar(monkeypatch):
    """A ProgressBar that uses `Drawn`, at `bar.drawn`, and is redrawn after every step and epoch."""

    limits.set(monkeypatch, "compiled_seconds", -1.0)
    limits.set(monkeypatch, "progress_seconds", -1.0)
    made = gpunn.ProgressBar()

    def make(**options):
        made.drawn = Drawn(**options)
        return made.drawn

    internals.draw_with(made, make)
    return made


def test_it_shows_steps_within_an_epoch_and_pairs_of_values(bar):
    net = _net()
    history = net.fit(X, Y, batch_size=8, epochs=2, validation_data=(X[:9], Y[:9]), callbacks=[bar], verbose=0).history
    places = [n for n, _, _ in bar.drawn.drawn]
    assert places == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1, 1.2, 1.4, 1.6, 1.8, 2, 2, 2])
    assert {title for n, title, _ in bar.drawn.drawn[:6]} == {"epoch 1/2"}
    assert {title for n, title, _ in bar.drawn.drawn[6:]} == {"epoch 2/2"}
    loss, accuracy, val_loss, val_accuracy = (f"{values[-1]:.4g}" for values in history.values())
    assert bar.drawn.drawn[-1][2] == f"loss {loss} ({val_loss}), accuracy {accuracy} ({val_accuracy})"
    # the first epoch has no validation values yet, later ones show those of the previous epoch
    assert "(" not in bar.drawn.drawn[0][2]
    assert f"({history['val_loss'][0]:.4g})" in bar.drawn.drawn[7][2]
    assert bar.drawn.total == 2 and bar.drawn.closed == 1


def test_values_are_multiplied_by_their_scales(caplog):
    net = _net()
    logger = EpochLogger({"accuracy": 100})
    values = net.fit(X, Y, validation_data=(X[:9], Y[:9]), callbacks=[logger], verbose=0).history
    expected = {name: v[0] * (100 if "accuracy" in name else 1) for name, v in values.items()}
    assert caplog.messages == ["epoch 1/1: " + ", ".join(f"{name} {v:.4g}" for name, v in expected.items())]


def test_it_has_no_batch_hooks():
    assert not CallbackList([gpunn.ProgressBar()], None, {}).has_batch_hooks


def test_short_epochs_are_not_all_drawn(monkeypatch):
    seen = []
    made = gpunn.ProgressBar()
    internals.draw_with(made, lambda **options: seen.append(Drawn(**options)) or seen[-1])
    start = time.monotonic()
    _net().fit(X, Y, epochs=300, callbacks=[made], verbose=0)
    assert len(seen[0].drawn) <= 2 + (time.monotonic() - start) / 0.1
    assert seen[0].drawn[-1][:2] == (300, "epoch 300/300")


def test_a_stopped_fit_is_complete_and_a_resumed_one_starts_at_its_epoch(bar, tmp_path):
    path = tmp_path / "run.safetensors"
    stop = gpunn.EarlyStopping("loss", patience=0, min_delta=1e9)
    _net().fit(X, Y, epochs=9, callbacks=[bar, stop, gpunn.ModelCheckpoint(path)], verbose=0)
    assert (bar.drawn.total, bar.drawn.n, bar.drawn.closed) == (2, 2, 1)
    _net().fit(X, Y, epochs=1, callbacks=[gpunn.ModelCheckpoint(path)], verbose=0)
    _net().fit(X, Y, epochs=3, callbacks=[bar], verbose=0, resume=path)
    assert bar.drawn.initial == 1 and bar.drawn.drawn[0][1] == "epoch 2/3"


def test_a_stream_of_unknown_length_shows_the_step(bar):
    batches = ((X[k : k + 8], Y[k : k + 8]) for k in range(0, 40, 8))
    _net().fit(batches, callbacks=[bar], verbose=0)
    titles = [(n, title) for n, title, _ in bar.drawn.drawn]
    assert titles[:5] == [(0, f"epoch 1/1, step {k + 1}") for k in range(5)]
    assert titles[-1] == (1, "epoch 1/1")


@pytest.mark.parametrize("how", ["divergence", "an error in a callback", "Ctrl-C", "an error at the beginning"])
def test_it_is_closed_after_any_error(bar, how):
    class Fail(gpunn.Callback):
        def on_train_begin(self, logs=None):
            if how == "an error at the beginning":
                raise LookupError

        def on_epoch_end(self, epoch, logs=None):
            if how == "Ctrl-C":
                raise KeyboardInterrupt
            raise LookupError

    net = _net(optimizer=gpunn.SGD(1e30)) if how == "divergence" else _net()
    with pytest.raises((LookupError, KeyboardInterrupt, gpunn.DivergenceError)):
        net.fit(1e10 * X, Y, epochs=3, callbacks=[bar, Fail()], verbose=0)
    if how == "an error at the beginning":
        assert not hasattr(bar, "drawn")
    else:
        assert bar.drawn.closed == 1 and bar.drawn.total == 3


def test_an_error_closes_the_bar_and_starts_a_new_line(capfd):
    with pytest.raises(gpunn.DivergenceError):
        _net(optimizer=gpunn.SGD(1e30)).fit(1e10 * X, Y, epochs=3)
    assert not list(getattr(tqdm.tqdm, "_instances", []))
    assert capfd.readouterr().err.endswith("\n")


NARROW = """
import fcntl, numpy as np, struct, sys, termios
fcntl.ioctl(2, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
import gpunn
sys.path.insert(0, "tests")
import pytest
from helpers import limits
for name in ("compiled_seconds", "progress_seconds"):
    limits.set(pytest.MonkeyPatch(), name, -1.0)
net = gpunn.Sequential([gpunn.Dense(8, "relu"), gpunn.Dense(6, "softmax")], seed=0)
net.compile("adam", "sparse_categorical_crossentropy", ["accuracy", "top_k_categorical_accuracy"], device="cpu")
rng = np.random.default_rng(0)
net.fit(rng.normal(size=(90, 4)), rng.integers(0, 6, size=90), epochs=10, validation_split=0.2)
"""


def test_a_terminal_of_80_columns_has_one_line():
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    process = subprocess.Popen([sys.executable, "-c", NARROW], stderr=theirs, stdout=subprocess.PIPE, cwd=ROOT)
    os.close(theirs)
    text = io.BytesIO()
    try:
        while part := os.read(ours, 4096):
            text.write(part)
    except OSError:
        pass  # a terminal reports in this way that the other side is closed
    finally:
        os.close(ours)
    assert process.communicate()[0] == b"" and process.returncode == 0
    drawn = [line.rstrip() for line in text.getvalue().decode().replace("\n", "\r").split("\r") if line.strip()]
    assert len(drawn) > 10 and all(len(line) <= 80 for line in drawn)
    assert drawn[-1].startswith("epoch 10/10 |█") and "loss " in drawn[-1] and "accuracy " in drawn[-1]


def test_it_is_a_widget_in_a_notebook():
    """tqdm.auto uses the widget if ipywidgets is installed. The test checks its container and display."""
    notebook = pytest.importorskip("tqdm.notebook")
    pytest.importorskip("ipywidgets")
    bar = gpunn.ProgressBar()
    made = []
    internals.draw_with(bar, lambda **options: made.append(notebook.tqdm(display=False, **options)) or made[-1])
    _net().fit(X, Y, epochs=3, callbacks=[bar], verbose=0)
    left, middle, right = made[0].container.children
    assert middle.value == 3 and middle.bar_style == "success"
    assert "epoch 3/3" in left.value and "loss " in right.value
