"""ModelCheckpoint: epochs and paths that it writes, and failing writes."""

import errno
import os
import pickle
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from helpers import ROOT, internals
from helpers.messages import naming
from helpers.networks import classifier_builder
from helpers.snapshots import bits, state_of, weights_of

import gpunn
from gpunn.training import checkpoint

RNG = np.random.default_rng(6)
X, Y = RNG.normal(size=(20, 4)), RNG.integers(0, 3, size=20)
posix = pytest.mark.skipif(os.name != "posix", reason="POSIX files")


_net = classifier_builder(gpunn.Dense(6, "relu"), gpunn.BatchNormalization(), optimizer=gpunn.Adam(0.01))


def _fit(net, *callbacks, epochs=5, **options):
    return net.fit(X, Y, epochs=epochs, batch_size=8, callbacks=callbacks, verbose=0, **options)


def _epochs(file):
    return checkpoint.read(file)[1]["training"]["epochs_done"]


def _after(epochs):
    net = _net()
    _fit(net, epochs=epochs)
    return net


class SetLogs(gpunn.Callback):
    """Sets the logs of each epoch to given values."""

    passive = True

    def __init__(self, values):
        self.values = values

    def on_epoch_end(self, epoch, logs=None):
        logs["val_loss"] = self.values[epoch]


# --- which epochs, where ----------------------------------------------------------------------------------------------


def test_every_epoch_replaces_the_last_file(file):
    seen = []

    class Inspect(gpunn.Callback):
        runs_last = True

        def on_epoch_complete(self, epoch, logs=None):
            seen.append((_epochs(file), weights_of(gpunn.load(file)) == weights_of(self.model)))

    _fit(_net(), gpunn.ModelCheckpoint(file), Inspect())
    assert seen == [(k, True) for k in range(1, 6)] and list(file.parent.iterdir()) == [file]


def test_saving_does_not_change_the_fit(file):
    plain, saved = _net(), _net()
    assert _fit(plain).history == _fit(saved, gpunn.ModelCheckpoint(file)).history
    assert state_of(plain) == state_of(saved)


@pytest.mark.parametrize(
    ("every", "epochs", "written"), [(2, 5, [2, 4, 5]), (2, 4, [2, 4]), (9, 5, [5]), (1, 2, [1, 2])]
)
def test_every_n_epochs_and_after_the_last(tmp_path, every, epochs, written):
    _fit(_net(), gpunn.ModelCheckpoint(tmp_path / "run-{epoch:02d}.safetensors", every), epochs=epochs)
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"run-{k:02d}.safetensors" for k in written]
    for k in written:
        opened = gpunn.load(tmp_path / f"run-{k:02d}.safetensors")
        assert weights_of(opened) == weights_of(_after(k)) and bits(opened.predict(X)) == bits(_after(k).predict(X))


def test_the_last_epoch_of_a_stopped_fit_is_written(file):
    values = [1, 2, 3, 4, 5]
    for order in ([0, 1, 2], [2, 1, 0], [1, 2, 0]):
        callbacks = [SetLogs(values), gpunn.EarlyStopping(patience=3), gpunn.ModelCheckpoint(file, every=3)]
        # the callback that stops may follow the checkpoint; the logs are set before they are read
        callbacks = [callbacks[0], *(callbacks[k] for k in order if k)]
        assert len(_fit(_net(), *callbacks).epoch) == 4
        assert _epochs(file) == 4
        file.unlink()


def test_the_path_may_contain_the_epoch_and_its_logs(tmp_path):
    history = _fit(
        _net(),
        gpunn.ModelCheckpoint(str(tmp_path / "{epoch}-{loss:.4f}-{val_accuracy:.2f}{{}}.st")),
        validation_data=(X, Y),
    ).history
    assert {p.name for p in tmp_path.iterdir()} == {
        f"{k + 1}-{history['loss'][k]:.4f}-{history['val_accuracy'][k]:.2f}{{}}.st" for k in range(5)
    }


def test_save_best_only(file):
    values = [5, 6, 3, 4, 2.5]
    seen = []

    class Inspect(gpunn.Callback):
        runs_last = True

        def on_epoch_complete(self, epoch, logs=None):
            seen.append(_epochs(file))

    _fit(_net(), SetLogs(values), gpunn.ModelCheckpoint(file, monitor="val_loss", save_best_only=True), Inspect())
    assert seen == [1, 1, 3, 3, 5]
    seen.clear()
    largest = gpunn.ModelCheckpoint(file, monitor="val_loss", mode="max", save_best_only=True)
    _fit(_net(), SetLogs(values), largest, Inspect())
    assert seen == [1, 2, 2, 2, 2]


@pytest.mark.parametrize("stopped", range(1, 6))
@pytest.mark.parametrize("source", ["last", "best"])
def test_a_resumed_fit_knows_the_best_value(tmp_path, stopped, source):
    """From either file: the callback that saves the best decides before any file is written."""
    values = [5, 2, 4, 3, 1.5, 9]
    last, best = tmp_path / "last.safetensors", tmp_path / "best.safetensors"

    def fit(epochs, **options):
        keeper = gpunn.ModelCheckpoint(best, monitor="val_loss", save_best_only=True)
        _fit(_net(), SetLogs(values), gpunn.ModelCheckpoint(last), keeper, epochs=epochs, **options)

    fit(stopped)
    assert (_epochs(last), _epochs(best)) == (stopped, 1 + int(np.argmin(values[:stopped])))
    file = tmp_path / f"{source}.safetensors"
    for epochs in range(_epochs(file), 7):
        fit(epochs, resume=file)
        assert _epochs(best) == 1 + int(np.argmin(values[:epochs]))


def test_the_best_is_written_before_the_checkpoint_that_records_it(tmp_path):
    """A crash between the two files must not leave a checkpoint that records an unwritten best file."""
    last, best = tmp_path / "last.safetensors", tmp_path / "best.safetensors"
    keeper = gpunn.ModelCheckpoint(best, monitor="val_loss", save_best_only=True)

    class Crash(gpunn.Callback):
        passive = True

        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                best.unlink()
                best.mkdir()

    with pytest.raises(OSError):
        _fit(_net(), SetLogs([3, 4, 1]), gpunn.ModelCheckpoint(last), keeper, Crash(), epochs=3)
    assert _epochs(last) == 2
    best.rmdir()
    keeper = gpunn.ModelCheckpoint(best, monitor="val_loss", save_best_only=True)
    _fit(_net(), SetLogs([3, 4, 1]), gpunn.ModelCheckpoint(last), keeper, epochs=3, resume=last)
    assert _epochs(best) == _epochs(last) == 3


# --- where it cannot write --------------------------------------------------------------------------------------------


def _fails(net, file, error, **fits):
    before = {p.name: p.read_bytes() for p in file.parent.iterdir()} if file.parent.exists() else {}
    with pytest.raises(OSError) as caught:
        _fit(net, gpunn.ModelCheckpoint(file), **fits)
    assert caught.value.errno == error
    return before


@pytest.mark.parametrize("call", ["fsync", "replace", "chmod"])
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_a_disk_error_ends_the_fit_after_a_complete_step(file, monkeypatch, call, error):
    """The old file is complete, no temporary file is left, and the fit can be resumed."""
    _fit(_net(), gpunn.ModelCheckpoint(file), epochs=2)
    before = file.read_bytes()
    real, calls, ended = getattr(os, call), [], []

    def fail(*arguments, **options):
        calls.append(1)
        if len(calls) > (2 if call == "fsync" else 1):  # the first save succeeds, including the sync of the folder
            raise OSError(error, os.strerror(error))
        return real(*arguments, **options)

    monkeypatch.setattr(os, call, fail)
    watch = gpunn.Callback()
    watch.passive = True
    watch.on_train_end = lambda logs=None: ended.append(logs)
    net = _net()
    with pytest.raises(OSError) as caught:
        _fit(net, gpunn.ModelCheckpoint(file), watch, resume=file)
    assert caught.value.errno == error and len(ended) == 1
    monkeypatch.undo()
    assert list(file.parent.iterdir()) == [file] and file.read_bytes() != before
    assert _epochs(file) == 3 and state_of(net) == state_of(_after(4))
    _fit(net)
    again = _net()
    _fit(again, gpunn.ModelCheckpoint(file), resume=file)
    assert state_of(again) == state_of(_after(5))


def test_a_missing_folder_raises_before_the_first_step(tmp_path):
    net = _net()
    before = state_of(net)
    with pytest.raises(FileNotFoundError, match="no such folder") as caught:
        _fit(net, gpunn.ModelCheckpoint(tmp_path / "none" / "run.safetensors"))
    assert caught.value.filename == str(tmp_path / "none")
    assert {name: state_of(net)[name] for name in before} == before


def test_a_folder_that_is_removed_during_the_fit(tmp_path):
    folder = tmp_path / "runs"
    folder.mkdir()

    class Remove(gpunn.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                shutil.rmtree(folder)

    net = _net()
    with pytest.raises(FileNotFoundError):
        _fit(net, gpunn.ModelCheckpoint(folder / "run.safetensors"), Remove())
    assert not folder.exists() and state_of(net) == state_of(_after(2))


def test_a_folder_without_write_permission(file, monkeypatch):
    """Simulated, since root ignores permissions."""
    _fit(_net(), gpunn.ModelCheckpoint(file), epochs=1)
    before = file.read_bytes()

    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied", str(file.parent))

    monkeypatch.setattr("tempfile.mkstemp", refuse)
    net = _net()
    with pytest.raises(PermissionError):
        _fit(net, gpunn.ModelCheckpoint(file))
    assert file.read_bytes() == before and list(file.parent.iterdir()) == [file]
    assert state_of(net) == state_of(_after(1))


@posix
@pytest.mark.skipif(os.name == "posix" and os.geteuid() == 0, reason="needs a user other than root")
def test_a_folder_with_real_permissions(file):
    _fit(_net(), gpunn.ModelCheckpoint(file), epochs=1)
    before = file.read_bytes()
    file.parent.chmod(0o500)
    try:
        with pytest.raises(PermissionError):
            _fit(_net(), gpunn.ModelCheckpoint(file))
        assert file.read_bytes() == before and list(file.parent.iterdir()) == [file]
    finally:
        file.parent.chmod(0o700)


DISK_FULL = """
import os, resource, signal, sys
import numpy as np, gpunn
sys.path.insert(0, sys.argv[2])
from test_model_checkpoint import _fit, _net
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
file = sys.argv[1]

class Fill(gpunn.Callback):
    passive = True
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            resource.setrlimit(resource.RLIMIT_FSIZE, (600, 600))

net = _net()
try:
    _fit(net, gpunn.ModelCheckpoint(file), Fill())
except OSError as error:
    print("OSError", error.errno, sorted(os.listdir(os.path.dirname(file))))
"""


@posix
def test_a_disk_becomes_full(file):
    """With a real limit: from the third epoch the process may write at most 600 bytes to a file."""
    command = [sys.executable, "-c", DISK_FULL, str(file), str(ROOT / "tests" / "unit" / "training")]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.stdout == f"OSError {errno.EFBIG} ['run.safetensors']\n", done.stderr
    assert _epochs(file) == 2
    net = _net()
    _fit(net, gpunn.ModelCheckpoint(file), resume=file)
    assert state_of(net) == state_of(_after(5))


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root to mount a small tmpfs")
def test_a_small_file_system_is_full(tmp_path):
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("a tmpfs cannot be mounted here")
    try:
        file = folder / "run.safetensors"
        _fit(_net(), gpunn.ModelCheckpoint(file), epochs=2)
        before = file.read_bytes()
        space = os.statvfs(folder)
        (folder / "other").write_bytes(b"x" * (space.f_bavail * space.f_frsize - 4096))
        net = _net()
        with pytest.raises(OSError) as caught:
            _fit(net, gpunn.ModelCheckpoint(file), resume=file)
        assert caught.value.errno == errno.ENOSPC
        assert {p.name for p in folder.iterdir()} == {"run.safetensors", "other"} and file.read_bytes() == before
        assert state_of(net) == state_of(_after(3))
        (folder / "other").unlink()
        _fit(again := _net(), gpunn.ModelCheckpoint(file), resume=file)
        assert state_of(again) == state_of(_after(5))
    finally:
        subprocess.run(["umount", str(folder)], check=True)


# --- Ctrl-C -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hook", ["on_train_batch_begin", "on_epoch_begin", "on_epoch_end", "on_epoch_complete"])
def test_ctrl_c_keeps_complete_steps_and_the_last_checkpoint_resumes(file, hook):
    """At any time, also during a save, which then completes."""

    class Press(gpunn.Callback):
        passive = True
        epoch = 0

        def on_epoch_begin(self, epoch, logs=None):
            self.epoch = epoch

    press = Press()

    def interrupt(*_):
        if press.epoch == 2:
            signal.raise_signal(signal.SIGINT)

    plain = press.on_epoch_begin
    setattr(press, hook, (lambda e, logs=None: (plain(e), interrupt())) if hook == "on_epoch_begin" else interrupt)
    net = _net()
    stopping = gpunn.EarlyStopping("accuracy", mode="min", patience=9)
    with pytest.raises(KeyboardInterrupt):
        _fit(net, press, gpunn.ModelCheckpoint(file), stopping)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    ended = hook in ("on_epoch_end", "on_epoch_complete")
    assert _epochs(file) == (3 if ended else 2) and list(file.parent.iterdir()) == [file]
    # with three steps per epoch, it arrives between two steps of the next epoch
    steps = internals.steps_taken(net)
    assert 10 <= steps <= 12 if ended else 7 <= steps <= 9
    reference = _net()
    for epoch in range(4):
        order = np.random.Generator(np.random.Philox(key=np.array([3, epoch], dtype=np.uint64))).permutation(20)
        for k in (0, 8, 16):
            if internals.steps_taken(reference) < steps:
                reference.train_on_batch(X[order[k : k + 8]], Y[order[k : k + 8]])
    assert weights_of(net) == weights_of(reference)
    again = _net()
    stopping = gpunn.EarlyStopping("accuracy", mode="min", patience=9)
    history = _fit(again, gpunn.ModelCheckpoint(file), stopping, resume=file)
    whole = _net()
    assert history.history == _fit(whole, gpunn.EarlyStopping("accuracy", mode="min", patience=9)).history
    assert state_of(again) == state_of(whole)


# --- what it refuses --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "match", "arguments", "options"),
    [
        (TypeError, "expected str, bytes or os.PathLike", (3,), {}),
        (TypeError, naming("path", "b'run'"), (b"run",), {}),
        (ValueError, naming("every", 0), ("run", 0), {}),
        (TypeError, naming("every", 1.5), ("run", 1.5), {}),
        (ValueError, "save_best_only=True needs monitor", ("run",), {"save_best_only": True}),
        (ValueError, naming("save_best_only", 1.5), ("run",), {"save_best_only": 1.5}),
        (ValueError, "monitor='val_loss' needs save_best_only=True", ("run",), {"monitor": "val_loss"}),
        (
            ValueError,
            "mode='auto' cannot infer if 'profit'",
            ("run",),
            {"monitor": "profit", "save_best_only": True},
        ),
    ],
)
def test_invalid_arguments(error, match, arguments, options):
    with pytest.raises(error, match=match):
        gpunn.ModelCheckpoint(*arguments, **options)


@pytest.mark.parametrize("path", ["run-{val_loss}.st", "run-{}.st", "run-{epoch:x.y}.st", "run-{epoch", "{loss.no}"])
def test_a_path_with_an_unknown_field(tmp_path, path):
    with pytest.raises(ValueError, match=naming("epoch, loss, accuracy")):
        _fit(_net(), gpunn.ModelCheckpoint(str(tmp_path / path)))
    assert not list(tmp_path.iterdir())


def test_a_missing_monitored_value(file):
    with pytest.raises(ValueError, match=naming("monitor='val_loss'", "loss, accuracy")):
        _fit(_net(), gpunn.ModelCheckpoint(file, monitor="val_loss", save_best_only=True))


def test_save_checkpoint_needs_a_complete_epoch_of_a_fit(file):
    net = _net()
    with pytest.raises(RuntimeError, match=naming("save_checkpoint", "fit")):
        net.save_checkpoint(file)
    for hook in ("on_train_begin", "on_epoch_begin", "on_train_batch_end", "on_epoch_end", "on_train_end"):
        callback = gpunn.Callback()
        setattr(callback, hook, lambda *_: net.save_checkpoint(file))
        with pytest.raises(RuntimeError, match="complete epoch"):
            _fit(net, callback)
    assert not file.exists()
    callback = gpunn.Callback()
    callback.on_epoch_complete = lambda *_: net.save_checkpoint(file)
    _fit(net, callback)
    assert _epochs(file) == 5


def test_a_network_copied_or_pickled_in_a_fit_is_not_being_fitted(file):
    copies = []
    callback = gpunn.Callback()
    callback.on_epoch_complete = lambda *_: copies.append(pickle.loads(pickle.dumps(callback.model)))
    net = _net()
    _fit(net, callback, epochs=1)
    with pytest.raises(RuntimeError, match="only during fit"):
        copies[0].save_checkpoint(file)
    _fit(copies[0])
