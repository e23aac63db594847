"""Files are written atomically, and only regular files are replaced."""

import contextlib
import errno
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from helpers import ROOT
from helpers.checkpoint_files import METADATA, TENSORS, posix, saved_net
from helpers.processes import run_python

import gpunn
from gpunn.training import checkpoint, files

# --- atomic writes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["os.fsync", "os.replace", "os.chmod"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("existing", [True, False])
def test_a_failed_write_leaves_only_the_complete_old_file(file, monkeypatch, call, error, existing):
    if existing:
        checkpoint.write(file, TENSORS, METADATA)
    before = {p.name: p.read_bytes() for p in file.parent.iterdir()}

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(os, call.removeprefix("os."), fail)
    with pytest.raises(type(error)):
        saved_net().save(file)
    monkeypatch.undo()
    assert {p.name: p.read_bytes() for p in file.parent.iterdir()} == before


@posix
def test_a_full_disk(file):
    """With a real limit: the process may write at most 600 bytes to a file."""
    saved_net().save(file)
    before = file.read_bytes()
    script = (
        "import resource, signal, sys, gpunn\n"
        "net = gpunn.load(sys.argv[1])\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (600, 600))\n"
        "try:\n"
        "    net.save(sys.argv[1])\n"
        "except OSError as error:\n"
        "    print('OSError', error.errno)\n"
    )
    done = run_python(script, file, check=True)
    assert done.stdout == f"OSError {errno.EFBIG}\n"
    assert file.read_bytes() == before and len(before) > 600 and list(file.parent.iterdir()) == [file]


def test_readers_get_the_old_or_the_new_file(file):
    """Every read is complete while another thread writes repeatedly."""
    nets = [{"a": np.full(5000, k, np.float32)} for k in range(2)]
    checkpoint.write(file, nets[0], {})
    stop, seen = threading.Event(), set()

    def write():
        k = 0
        while not stop.is_set():
            k += 1
            checkpoint.write(file, nets[k % 2], {"k": k})

    writer = threading.Thread(target=write)
    writer.start()
    try:
        reads, until = 0, time.monotonic() + 60
        # at least 100 reads, and more until the writer has run, which a busy machine may delay
        while reads < 100 or (len(seen) < 2 and time.monotonic() < until):
            reads += 1
            a = checkpoint.read(file)[0]["a"]
            assert (a == a[0]).all()
            seen.add(float(a[0]))
    finally:
        stop.set()
        writer.join()
    assert seen == {0.0, 1.0}


def _left_by_a_killed_save(file):
    """Kill a process while it writes `file`. Return its temporary file."""
    script = (
        "import os, signal, sys\n"
        "from gpunn.training import files\n"
        "with files.atomic_write(files.Path(sys.argv[1])) as f:\n"
        "    f.write(b'half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    before = {*file.parent.iterdir()}
    assert run_python(script, file).returncode == -signal.SIGKILL
    (left,) = {*file.parent.iterdir()} - before
    return left


@posix
@pytest.mark.parametrize("name", ["run.safetensors", "é" * 100], ids=["short", "long"])
def test_the_temporary_file_of_a_killed_save_is_removed_by_the_next_save(tmp_path, name):
    """Files with other names are kept."""
    file = tmp_path / name
    others = [".run.safetensors.mine.tmp", ".other.safetensors.abc_4567.tmp", "run.safetensors.abc_4567.tmp"]
    others = [tmp_path / name for name in others]
    for path in others:
        path.write_bytes(b"other")
    _left_by_a_killed_save(file)
    checkpoint.write(file, TENSORS, METADATA)
    assert {*tmp_path.iterdir()} == {file, *others}


@posix
@pytest.mark.parametrize("existing", [True, False])
def test_remove_also_removes_the_temporary_files_of_killed_saves(file, existing):
    other = file.with_name("other.safetensors")
    left = _left_by_a_killed_save(other)
    _left_by_a_killed_save(file)
    if existing:
        file.write_bytes(b"content")
    files.remove(file)
    assert [*file.parent.iterdir()] == [left]


@posix
def test_a_temporary_file_that_is_removed_before_it_is_locked_is_created_again(file, monkeypatch):
    """Another process may remove stale files between creation and lock."""
    import fcntl

    lock, swept = fcntl.flock, []

    def sweep_first(handle, operation):
        if not swept:
            (temporary,) = file.parent.iterdir()
            temporary.unlink()
            swept.append(temporary)
        return lock(handle, operation)

    monkeypatch.setattr(fcntl, "flock", sweep_first)
    checkpoint.write(file, TENSORS, METADATA)
    assert swept and checkpoint.read(file)[1] == METADATA and [*file.parent.iterdir()] == [file]


@posix
def test_files_are_written_on_a_file_system_without_locks(file, monkeypatch):
    import fcntl

    def unsupported(*_):
        raise OSError(errno.ENOTSUP, "Operation not supported")

    left = _left_by_a_killed_save(file)
    monkeypatch.setattr(fcntl, "flock", unsupported)
    checkpoint.write(file, TENSORS, METADATA)
    assert checkpoint.read(file)[1] == METADATA and {*file.parent.iterdir()} == {file, left}


@posix
def test_the_temporary_file_of_a_running_save_is_kept(file):
    """In this process or in another, which holds the lock until it exits."""
    script = (
        "import sys\n"
        "from gpunn.training import files\n"
        "with files.atomic_write(files.Path(sys.argv[1])) as f:\n"
        "    print('writing', flush=True)\n"
        "    f.write(sys.stdin.buffer.read())\n"
    )
    command = [sys.executable, "-c", script, str(file)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, **pipes) as other:
        assert other.stdout.readline() == b"writing\n"
        with files.atomic_write(file) as mine:
            mine.write(b"mine")
            being_written = [*file.parent.iterdir()]
            assert len(being_written) == 2
            files.remove(file)
            checkpoint.write(file, TENSORS, METADATA)
            assert {*file.parent.iterdir()} == {file, *being_written}
        assert file.read_bytes() == b"mine"
        other.stdin.write(b"theirs")
        other.stdin.close()
    assert other.returncode == 0 and file.read_bytes() == b"theirs" and [*file.parent.iterdir()] == [file]


@posix
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_a_new_file_has_the_mode_of_the_umask(file, umask, mode):
    before = os.umask(umask)
    try:
        checkpoint.write(file, TENSORS, METADATA)
        assert stat.S_IMODE(file.stat().st_mode) == mode
        assert os.umask(umask) == umask, "the umask is as it was"
    finally:
        os.umask(before)


@posix
def test_the_mode_of_an_old_file_is_kept(file):
    checkpoint.write(file, TENSORS, METADATA)
    file.chmod(0o640)
    checkpoint.write(file, TENSORS, {})
    assert stat.S_IMODE(file.stat().st_mode) == 0o640 and checkpoint.read(file)[1] == {}


@posix
@pytest.mark.parametrize("existing", [True, False])
def test_a_link_is_followed(tmp_path, existing):
    (tmp_path / "far").mkdir()
    target, link = tmp_path / "far" / "real.safetensors", tmp_path / "link.safetensors"
    if existing:
        checkpoint.write(target, TENSORS, METADATA)
    link.symlink_to(target)
    checkpoint.write(link, TENSORS, {"kind": "new"})
    assert link.is_symlink() and not target.is_symlink()
    assert checkpoint.read(target)[1] == checkpoint.read(link)[1] == {"kind": "new"}
    assert {p.name for p in tmp_path.iterdir()} == {"far", "link.safetensors"}


def test_an_error_for_a_path_that_cannot_be_written_names_it(tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    wrong = {
        tmp_path / "no" / "such" / "folder.safetensors": FileNotFoundError,
        tmp_path / "file" / "model.safetensors": NotADirectoryError,
        tmp_path: OSError,
        tmp_path / ("x" * 256): OSError,
    }
    for path, kind in wrong.items():
        with pytest.raises(kind) as caught:
            saved_net().save(path)
        assert caught.value.filename == str(path)
    assert [*tmp_path.iterdir()] == [tmp_path / "file"]


@pytest.mark.parametrize("call", ["os.fsync", "os.replace"])
def test_an_error_while_writing_names_the_path(file, monkeypatch, call):
    def fail(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device", str(arguments[0]))

    monkeypatch.setattr(os, call.removeprefix("os."), fail)
    with pytest.raises(OSError) as caught:
        saved_net().save(file)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(file))


@pytest.mark.parametrize(
    "name", ["x" * 242, "x" * 255, "é" * 127, "\N{GRINNING FACE}" * 63], ids=["242", "255", "é", "4"]
)
def test_file_names_of_maximum_length(tmp_path, name):
    for _ in range(2):
        saved_net().save(tmp_path / name)
        assert [p.name for p in tmp_path.iterdir()] == [name]
    gpunn.load(tmp_path / name)


# --- not a regular file -----------------------------------------------------------------------------------------------


def _pipe(path):
    os.mkfifo(path)


def _socket(path):
    # socket names are shorter than file names
    with socket.socket(socket.AF_UNIX) as made, contextlib.chdir(path.parent):
        made.bind(path.name)


def _device(path):
    try:
        # device number of /dev/null
        os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("device files can be made by root alone")


def _folder(path):
    path.mkdir()
    (path / "content").write_bytes(b"content")


NODES = {"a pipe": _pipe, "a socket": _socket, "a device": _device, "a folder": _folder}


@pytest.fixture(params=NODES)
def node(request, tmp_path):
    """The path of a node that is not a regular file, in a separate folder."""
    if os.name != "posix":
        pytest.skip("POSIX files")
    folder = tmp_path / "nodes"
    folder.mkdir()
    NODES[request.param](folder / "node1")
    return folder / "node1"


def _entries(folder):
    """Return names, inodes and types of the entries of a folder."""
    return {p.name: (p.lstat().st_ino, stat.S_IFMT(p.lstat().st_mode)) for p in folder.iterdir()}


WRITERS = {
    "save": lambda path: saved_net().save(path),
    "export": lambda path: saved_net().export(path),
    "ModelCheckpoint": lambda path: _fit(gpunn.ModelCheckpoint(path)),
    "ModelCheckpoint of a path with a field": lambda path: _fit(gpunn.ModelCheckpoint(f"{path.parent}/node{{epoch}}")),
    "CSVLogger": lambda path: _fit(gpunn.CSVLogger(path)),
    "replace": lambda path: files.write_bytes(path, b"bytes"),
}


def _fit(callback):
    saved_net().fit(np.zeros((4, 4)), np.zeros((4, 2)), verbose=0, callbacks=[callback])


@pytest.mark.parametrize("link", [False, True])
@pytest.mark.parametrize("writer", WRITERS)
def test_only_regular_files_are_replaced(node, writer, link):
    if writer == "export":
        pytest.importorskip("onnx")
    if link:
        node.rename(node.with_name("target"))
        node.symlink_to("target")
    before = _entries(node.parent)
    with pytest.raises(OSError) as caught:
        WRITERS[writer](node)
    assert caught.value.filename == str(node)
    assert _entries(node.parent) == before


def test_a_checkpoint_that_cannot_be_written_is_refused_before_the_first_epoch(node):
    epochs = []
    watch = gpunn.Callback()
    watch.on_epoch_begin = lambda epoch, logs=None: epochs.append(epoch)
    for callback in (gpunn.ModelCheckpoint(node), gpunn.CSVLogger(node)):
        with pytest.raises(OSError):
            saved_net().fit(np.zeros((4, 4)), np.zeros((4, 2)), verbose=0, callbacks=[watch, callback])
    assert epochs == []
