"""Files: written as one step, read with suspicion."""

import contextlib
import errno
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT, internals
from helpers.messages import naming
from helpers.snapshots import bits
from safetensors.numpy import save

import gpunn
from gpunn.training import checkpoint

TENSORS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": np.array([1.5, -0.0, np.inf, np.nan]),
    "ü, spaces": np.array([[1, 2]], np.int32),
    "empty": np.zeros((0, 3), np.float32),
    "scalar": np.array(2.5),
}
METADATA = {"kind": "test", "text": 'ü "quoted" \\ \n', "numbers": [1, 2.5, 1e-300, 2**70], "none": None, "yes": True}
posix = pytest.mark.skipif(os.name != "posix", reason="POSIX files")


@pytest.fixture
def file(tmp_path):
    return tmp_path / "run.safetensors"


def _net():
    net = gpunn.Sequential([gpunn.Dense(3, "relu"), gpunn.BatchNormalization(), gpunn.Dense(2)], input_shape=4, seed=1)
    return net.compile("adam", "mse", ["mae"], device="cpu")


# --- what is written is what is read ---------------------------------------------------------------------------------


def test_round_trip(file):
    checkpoint.write(file, TENSORS, METADATA)
    tensors, metadata = checkpoint.read(file)
    assert metadata == METADATA
    assert {k: bits(v) for k, v in tensors.items()} == {k: bits(v) for k, v in TENSORS.items()}
    for a in tensors.values():
        a[...] = 0  # they are the caller's own


@pytest.mark.parametrize("order", ["F", "strided", "reversed"])
def test_arrays_of_any_layout(file, order):
    """safetensors itself writes such arrays in the wrong order, and says nothing."""
    a = np.arange(24.0).reshape(4, 6)
    given = {"F": np.asfortranarray(a), "strided": a[::2, ::3], "reversed": a[::-1]}[order]
    checkpoint.write(file, {"a": given}, {})
    np.testing.assert_array_equal(checkpoint.read(file)[0]["a"], given)


def test_metadata_that_json_cannot_hold_touches_no_file(file):
    for wrong in ({"a": float("nan")}, {"a": object()}, {"a": {1, 2}}):
        with pytest.raises((ValueError, TypeError)):
            checkpoint.write(file, TENSORS, wrong)
    assert not list(file.parent.iterdir())


# --- one step --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["os.fsync", "os.replace", "os.chmod"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("existing", [True, False])
def test_a_write_that_fails_leaves_the_old_file_whole_and_nothing_else(file, monkeypatch, call, error, existing):
    if existing:
        checkpoint.write(file, TENSORS, METADATA)
    before = {p.name: p.read_bytes() for p in file.parent.iterdir()}

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(os, call.removeprefix("os."), fail)
    with pytest.raises(type(error)):
        _net().save(file)
    monkeypatch.undo()
    assert {p.name: p.read_bytes() for p in file.parent.iterdir()} == before


@posix
def test_a_disk_that_is_full(file):
    """The real thing: the process may not write more than 600 bytes to a file."""
    _net().save(file)
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
    done = subprocess.run(
        [sys.executable, "-c", script, str(file)], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout == f"OSError {errno.EFBIG}\n"
    assert file.read_bytes() == before and len(before) > 600 and list(file.parent.iterdir()) == [file]


def test_readers_see_the_old_file_or_the_new_one(file):
    """While one thread writes again and again, every read is whole."""
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
        # at least 100 reads, and on until the writer had its turn, which a busy machine may delay
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
    """Kill a process that is writing `file`; returns the temporary file that it leaves."""
    script = (
        "import os, signal, sys\n"
        "from gpunn.training import checkpoint\n"
        "with checkpoint.atomic_write(checkpoint.Path(sys.argv[1])) as f:\n"
        "    f.write(b'half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    before = {*file.parent.iterdir()}
    assert subprocess.run([sys.executable, "-c", script, str(file)], cwd=ROOT).returncode == -signal.SIGKILL
    (left,) = {*file.parent.iterdir()} - before
    return left


@posix
@pytest.mark.parametrize("name", ["run.safetensors", "é" * 100], ids=["short", "long"])
def test_the_temporary_file_of_a_killed_save_is_removed_by_the_next_save(tmp_path, name):
    """Files of other names stay."""
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
def test_a_removed_checkpoint_takes_the_temporary_files_of_killed_saves_with_it(file, existing):
    other = file.with_name("other.safetensors")
    left = _left_by_a_killed_save(other)
    _left_by_a_killed_save(file)
    if existing:
        file.write_bytes(b"content")
    checkpoint.remove(file)
    assert [*file.parent.iterdir()] == [left]


@posix
def test_a_temporary_file_that_is_removed_before_it_is_locked_is_made_again(file, monkeypatch):
    """Another process may sweep between the two."""
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
def test_files_are_written_where_the_file_system_has_no_locks(file, monkeypatch):
    import fcntl

    def unsupported(*_):
        raise OSError(errno.ENOTSUP, "Operation not supported")

    left = _left_by_a_killed_save(file)
    monkeypatch.setattr(fcntl, "flock", unsupported)
    checkpoint.write(file, TENSORS, METADATA)
    assert checkpoint.read(file)[1] == METADATA and {*file.parent.iterdir()} == {file, left}


@posix
def test_a_save_under_way_keeps_its_temporary_file(file):
    """In this process or in another, which holds the lock as long as it lives."""
    script = (
        "import sys\n"
        "from gpunn.training import checkpoint\n"
        "with checkpoint.atomic_write(checkpoint.Path(sys.argv[1])) as f:\n"
        "    print('writing', flush=True)\n"
        "    f.write(sys.stdin.buffer.read())\n"
    )
    command = [sys.executable, "-c", script, str(file)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, **pipes) as other:
        assert other.stdout.readline() == b"writing\n"
        with checkpoint.atomic_write(file) as mine:
            mine.write(b"mine")
            being_written = [*file.parent.iterdir()]
            assert len(being_written) == 2
            checkpoint.remove(file)
            checkpoint.write(file, TENSORS, METADATA)
            assert {*file.parent.iterdir()} == {file, *being_written}
        assert file.read_bytes() == b"mine"
        other.stdin.write(b"theirs")
        other.stdin.close()
    assert other.returncode == 0 and file.read_bytes() == b"theirs" and [*file.parent.iterdir()] == [file]


@posix
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_a_new_file_has_the_mode_that_the_umask_leaves(file, umask, mode):
    before = os.umask(umask)
    try:
        checkpoint.write(file, TENSORS, METADATA)
        assert stat.S_IMODE(file.stat().st_mode) == mode
        assert os.umask(umask) == umask, "the umask is as it was"
    finally:
        os.umask(before)


@posix
def test_an_old_files_mode_is_kept(file):
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


def test_where_nothing_can_be_written_the_error_names_the_path(tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    wrong = {
        tmp_path / "no" / "such" / "folder.safetensors": FileNotFoundError,
        tmp_path / "file" / "model.safetensors": NotADirectoryError,
        tmp_path: OSError,
        tmp_path / ("x" * 256): OSError,
    }
    for path, kind in wrong.items():
        with pytest.raises(kind) as caught:
            _net().save(path)
        assert caught.value.filename == str(path)
    assert [*tmp_path.iterdir()] == [tmp_path / "file"]


@pytest.mark.parametrize("call", ["os.fsync", "os.replace"])
def test_an_error_while_writing_names_the_path(file, monkeypatch, call):
    def fail(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device", str(arguments[0]))

    monkeypatch.setattr(os, call.removeprefix("os."), fail)
    with pytest.raises(OSError) as caught:
        _net().save(file)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(file))


@pytest.mark.parametrize(
    "name", ["x" * 242, "x" * 255, "é" * 127, "\N{GRINNING FACE}" * 63], ids=["242", "255", "é", "4"]
)
def test_names_as_long_as_a_file_system_takes(tmp_path, name):
    for _ in range(2):
        _net().save(tmp_path / name)
        assert [p.name for p in tmp_path.iterdir()] == [name]
    gpunn.load(tmp_path / name)


# --- what is no regular file -----------------------------------------------------------------------------------------


def _pipe(path):
    os.mkfifo(path)


def _socket(path):
    # the names of sockets are shorter than those of files
    with socket.socket(socket.AF_UNIX) as made, contextlib.chdir(path.parent):
        made.bind(path.name)


def _device(path):
    try:
        # the numbers of the null device
        os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("device files can be made by root alone")


def _folder(path):
    path.mkdir()
    (path / "content").write_bytes(b"content")


NODES = {"a pipe": _pipe, "a socket": _socket, "a device": _device, "a folder": _folder}


@pytest.fixture(params=NODES)
def node(request, tmp_path):
    """The path of something that is no regular file, in a folder of its own."""
    if os.name != "posix":
        pytest.skip("POSIX files")
    folder = tmp_path / "nodes"
    folder.mkdir()
    NODES[request.param](folder / "node1")
    return folder / "node1"


def _what(folder):
    """Names, inodes and kinds of what a folder holds."""
    return {p.name: (p.lstat().st_ino, stat.S_IFMT(p.lstat().st_mode)) for p in folder.iterdir()}


WRITERS = {
    "save": lambda path: _net().save(path),
    "export": lambda path: _net().export(path),
    "ModelCheckpoint": lambda path: _fit(gpunn.ModelCheckpoint(path)),
    "ModelCheckpoint of a path with a field": lambda path: _fit(gpunn.ModelCheckpoint(f"{path.parent}/node{{epoch}}")),
    "CSVLogger": lambda path: _fit(gpunn.CSVLogger(path)),
    "replace": lambda path: checkpoint.write_bytes(path, b"bytes"),
}


def _fit(callback):
    _net().fit(np.zeros((4, 4)), np.zeros((4, 2)), verbose=0, callbacks=[callback])


@pytest.mark.parametrize("link", [False, True])
@pytest.mark.parametrize("writer", WRITERS)
def test_what_is_no_regular_file_is_never_replaced(node, writer, link):
    if writer == "export":
        pytest.importorskip("onnx")
    if link:
        node.rename(node.with_name("target"))
        node.symlink_to("target")
    before = _what(node.parent)
    with pytest.raises(OSError) as caught:
        WRITERS[writer](node)
    assert caught.value.filename == str(node)
    assert _what(node.parent) == before


def test_a_checkpoint_that_cannot_be_written_is_refused_before_the_first_epoch(node):
    epochs = []
    watch = gpunn.Callback()
    watch.on_epoch_begin = lambda epoch, logs=None: epochs.append(epoch)
    for callback in (gpunn.ModelCheckpoint(node), gpunn.CSVLogger(node)):
        with pytest.raises(OSError):
            _net().fit(np.zeros((4, 4)), np.zeros((4, 2)), verbose=0, callbacks=[watch, callback])
    assert epochs == []


# --- damage ----------------------------------------------------------------------------------------------------------


def _refused(file, match=None):
    began = time.monotonic()
    with pytest.raises(gpunn.CheckpointError, match=match) as caught:
        gpunn.load(file)
    assert time.monotonic() - began < 5
    assert isinstance(caught.value, ValueError)


def test_every_flipped_bit_is_noticed(file):
    """In the length, the header, its padding, the metadata, the digest and the numbers."""
    _net().save(file)
    data = file.read_bytes()
    rng = np.random.default_rng(0)
    header = 8 + int.from_bytes(data[:8], "little")
    places = {*range(0, 16), *range(header - 16, header + 8), len(data) - 1, *rng.integers(8, len(data), size=500)}
    for place in sorted(int(p) for p in places):
        bit = int(rng.integers(8))
        file.write_bytes(data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :])
        with pytest.raises(gpunn.CheckpointError):
            gpunn.load(file)
    file.write_bytes(data)
    gpunn.load(file)


def test_every_bit_of_the_header_flipped(file):
    """All of them, in a small file."""
    checkpoint.write(file, {"a": np.zeros(2, np.float32)}, {"e": 1e-5})
    data = file.read_bytes()
    for place in range(len(data)):
        for bit in range(8):
            file.write_bytes(data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :])
            with pytest.raises(checkpoint.CheckpointError):
                checkpoint.read(file)


def test_every_truncation_is_noticed(file):
    _net().save(file)
    data = file.read_bytes()
    for length in [*range(0, 40), *range(40, len(data), 37), len(data) - 1]:
        file.write_bytes(data[:length])
        _refused(file)
    file.write_bytes(data + b"\0")
    _refused(file)


def test_numbers_that_change_places_are_noticed(file):
    """Two tensors of one shape swapped, a tensor renamed, a tensor added: all of it with a header that is right."""
    a, b = np.arange(4, dtype=np.float32), np.arange(4, 8, dtype=np.float32)
    checkpoint.write(file, {"a": a, "b": b}, {"kind": "test"})
    data = file.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    changed = (
        {"a": b, "b": a},
        {"a": a, "c": b},
        {"a": a},
        {"a": a, "b": b, "c": a},
        {"a": a.reshape(2, 2), "b": b},
        {"a": a.view(np.int32), "b": b},
    )
    for tensors in changed:
        file.write_bytes(save(tensors, header))
        with pytest.raises(checkpoint.CheckpointError, match="digest"):
            checkpoint.read(file)
    file.write_bytes(save({"a": a, "b": b}, header))
    assert checkpoint.read(file)[1] == {"kind": "test"}


# --- what is not a file of ours --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"abc",
        b"\0" * 8,
        b"\0" * 100,
        b"\xff" * 8,
        b"\xff" * 100,
        (2**63 - 1).to_bytes(8, "little") + b"{}",
        (2**40).to_bytes(8, "little") + b'{"__metadata__":{}}',
        (100).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"[]",
        (4).to_bytes(8, "little") + b"null",
        (4).to_bytes(8, "little") + b"\xff\xfe\xfd\xfc",
        (20).to_bytes(8, "little") + b'{"__metadata__": 5} ',
        (20).to_bytes(8, "little") + b'{"__metadata__":[]} ',
        (25).to_bytes(8, "little") + b'{"__metadata__":{"a": 1}}',
        (100_000).to_bytes(8, "little") + b"[" * 100_000,
        (900_016).to_bytes(8, "little") + b'{"__metadata__":' + b'{"a":' * 180_000,
        b"PK\x03\x04" + b"\0" * 60,
        b"\x93NUMPY\x01\0v\0{'descr': '<f8'}" + b" " * 90,
        b"\x89HDF\r\n\x1a\n" + b"\0" * 90,
    ],
    ids=lambda c: repr(c[:24]),
)
def test_other_bytes_are_refused(file, content):
    file.write_bytes(content)
    _refused(file, match="run.safetensors")


def test_a_pickle_is_not_opened(file):
    import pickle

    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(file.parent / "sprung"),)

    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        file.write_bytes(pickle.dumps({"net": _net(), "trap": Trap()}, protocol=protocol))
        _refused(file)
    assert list(file.parent.iterdir()) == [file]


def test_nothing_here_imports_pickle():
    script = (
        "import sys\n"
        "class Refuse:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        assert name not in ('pickle', '_pickle', 'torch', 'joblib'), name\n"
        "import gpunn.training.checkpoint, gpunn.model\n"
        "import pickle, _pickle\n"
        "def refuse(*_, **__): raise AssertionError('unpickled')\n"
        "pickle.load = pickle.loads = pickle.Unpickler = _pickle.Unpickler = refuse\n"
        "net = gpunn.load(sys.argv[1])\n"
        "net.save(sys.argv[1])\n"
        "print('opened')\n"
    )
    path = ROOT / "tests" / "files" / "version1.safetensors"
    copied = Path(os.environ["GPUNN_CACHE"]) / "copied.safetensors"
    copied.write_bytes(path.read_bytes())
    done = subprocess.run([sys.executable, "-c", script, str(copied)], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "opened\n", done.stderr


def test_a_safetensors_file_of_someone_else(file):
    for header in (None, {}, {"format": "pt"}):
        file.write_bytes(save({"a": np.zeros(3)}, header))
        _refused(file, match="not a gpunn file|gpunn wrote")


def _with_header(file, **changes):
    """A small file whose header is changed and whose digest is right for what it then holds."""
    metadata = json.dumps({"kind": "sequential"})
    header = {"format": "gpunn", "version": "1", "metadata": metadata} | changes
    arrays = {"a": np.zeros(2, np.float32)}
    version = int(header["version"]) if header["version"].isdecimal() else 1
    header["digest"] = internals.digest(arrays, header["metadata"], version)
    file.write_bytes(save(arrays, {k: v for k, v in header.items() if v is not None}))


@pytest.mark.parametrize("version", ["2", "17", "99999999999999999999"])
def test_a_newer_version_says_so(file, version):
    _with_header(file, version=version)
    _refused(file, match=naming(f"version {version}", "update gpunn"))


@pytest.mark.parametrize("version", ["", "0", "-1", "1.0", "one", " 1", "²"])
def test_a_version_that_is_none(file, version):
    _with_header(file, version=version)
    _refused(file, match="version")


@pytest.mark.parametrize("text", ["", "{", "[]", "5", "null", '"text"', "[" * 100_000, '{"a":' * 100_000])
def test_metadata_that_is_none(file, text):
    _with_header(file, metadata=text)
    _refused(file, match="metadata cannot be read")


# --- files with a right digest and a mind of their own ---------------------------------------------------------------


def _forged(file, **changes):
    """A file of a small network, its metadata changed, its digest right."""
    tensors, metadata = _net().to_tensors()
    for path, value in changes.items():
        at = metadata
        *parents, last = path.split("__")
        for key in parents:
            at = at[int(key) if key.isdigit() else key]
        at[last] = value
    checkpoint.write(file, tensors, metadata)


FORGED = {
    "another kind": {"kind": "estimator"},
    "no kind": {"kind": None},
    "a kind that is a list": {"kind": []},
    "no layers": {"layers": []},
    "layers that are no list": {"layers": 5},
    "layers that are text": {"layers": "Dense"},
    "a layer that is text": {"layers": ["Dense"]},
    "a class that is a list": {"layers": [{"class": [], "trainable": True, "config": {}}]},
    "an argument too many": {"layers__0__config__trap": 1},
    "no arguments": {"layers__0__config": {}},
    "arguments that are a list": {"layers__0__config": []},
    "no units": {"layers__0__config__units": 0},
    "units as text": {"layers__0__config__units": "3"},
    "huge units": {"layers__0__config__units": 10**12},
    "units beyond memory": {"layers__0__config__units": 10**30},
    "huge inputs": {"n_in": 10**12},
    "no inputs": {"n_in": 0},
    "inputs as text": {"n_in": "4"},
    "inputs none": {"n_in": None},
    "another number of inputs": {"n_in": 5},
    "seed as text": {"seed": "many"},
    "seed of many digits": {"seed": "9" * 5000},
    "seed as a list": {"seed": []},
    "an unknown dtype": {"dtype": "float16"},
    "another dtype": {"dtype": "float64"},
    "dtype as a list": {"dtype": []},
    "a million layers": {"layers": [{"class": "Dropout", "trainable": True, "config": {"rate": 0.5}}] * 30_000},
    "an unknown loss": {"compiled__loss": {"name": "no such"}},
    "a loss that is text": {"compiled__loss": "mse"},
    "a loss that does not fit": {"compiled__loss": {"name": "sparse_categorical_crossentropy", "from_logits": False}},
    "an unknown optimiser": {"compiled__optimizer": {"name": "no such"}},
    "an optimiser's number": {"compiled__optimizer__beta_1": 7},
    "a learning rate as a list": {"compiled__optimizer__learning_rate": []},
    "metrics as text": {"compiled__metrics": "mae"},
    "an unknown metric": {"compiled__metrics": [{"metric": "no such", "name": "x"}]},
    "a metric twice": {"compiled__metrics": [{"metric": "mae", "name": "x"}] * 2},
    "compiled as text": {"compiled": "yes"},
    "an activation that is a list": {"layers__0__config__activation": []},
    "an initialiser that is a list": {"layers__0__config__kernel_initializer": []},
    "a trainable that is text": {"layers__0__trainable": "no"},
}


@pytest.mark.parametrize("changes", FORGED.values(), ids=FORGED)
def test_a_forged_file_is_answered_at_once_with_a_value_error(file, changes):
    _forged(file, **changes)
    began = time.monotonic()
    with pytest.raises(ValueError):
        gpunn.load(file)
    assert time.monotonic() - began < 5


def test_an_array_too_many_or_too_few(file):
    tensors, metadata = _net().to_tensors()
    for wrong, match in (
        ({k: v for k, v in tensors.items() if k != "layers.2.b"}, r"layers.2.b should be float32 \(2,\), got nothing"),
        (tensors | {"layers.9.W": np.zeros(2, np.float32)}, naming("layers.9.W", "float32 (2,)")),
        (
            tensors | {"layers.0.W": np.zeros((3, 4), np.float32)},
            r"layers.0.W should be float32 \(4, 3\), got .*\(3, 4\)",
        ),
        (tensors | {"layers.0.W": np.zeros((4, 3))}, r"layers.0.W should be float32 \(4, 3\), got float64"),
    ):
        checkpoint.write(file, wrong, metadata)
        _refused(file, match=match)


# --- what is no file -------------------------------------------------------------------------------------------------


def test_what_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        gpunn.load(tmp_path / "none.safetensors")
    with pytest.raises(OSError, match="not a regular file"):
        gpunn.load(tmp_path)


@posix
def test_a_pipe_or_a_device_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero", "/dev/null"):
        began = time.monotonic()
        with pytest.raises(OSError, match="not a regular file"):
            gpunn.load(path)
        assert time.monotonic() - began < 5


@posix
def test_a_huge_file_of_zeros_is_refused_at_its_head(tmp_path):
    path = tmp_path / "sparse"
    with open(path, "wb") as file:
        file.truncate(2**40)
    began = time.monotonic()
    with pytest.raises(gpunn.CheckpointError):
        gpunn.load(path)
    assert time.monotonic() - began < 5


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="needs a user whom permissions bind")
def test_a_file_that_may_not_be_read(file):
    _net().save(file)
    file.chmod(0)
    with pytest.raises(PermissionError):
        gpunn.load(file)
