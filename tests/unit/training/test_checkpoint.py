"""The file format: round trips, and damaged, foreign or forged files."""

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT, internals
from helpers.checkpoint_files import METADATA, TENSORS, posix, saved_net
from helpers.messages import naming
from helpers.processes import run_python
from helpers.snapshots import bits
from safetensors.numpy import save

import gpunn
from gpunn.training import checkpoint

# --- round trip -------------------------------------------------------------------------------------------------------


def test_round_trip(file):
    checkpoint.write(file, TENSORS, METADATA)
    tensors, metadata = checkpoint.read(file)
    assert metadata == METADATA
    assert {k: bits(v) for k, v in tensors.items()} == {k: bits(v) for k, v in TENSORS.items()}
    for a in tensors.values():
        a[...] = 0  # writable copies


@pytest.mark.parametrize("order", ["F", "strided", "reversed"])
def test_arrays_of_any_layout(file, order):
    """safetensors itself silently writes such arrays in the wrong order."""
    a = np.arange(24.0).reshape(4, 6)
    given = {"F": np.asfortranarray(a), "strided": a[::2, ::3], "reversed": a[::-1]}[order]
    checkpoint.write(file, {"a": given}, {})
    np.testing.assert_array_equal(checkpoint.read(file)[0]["a"], given)


def test_metadata_that_is_not_json_creates_no_file(file):
    for wrong in ({"a": float("nan")}, {"a": object()}, {"a": {1, 2}}):
        with pytest.raises((ValueError, TypeError)):
            checkpoint.write(file, TENSORS, wrong)
    assert not list(file.parent.iterdir())


# --- damage -----------------------------------------------------------------------------------------------------------


def _refused(file, match=None):
    began = time.monotonic()
    with pytest.raises(gpunn.CheckpointError, match=match) as caught:
        gpunn.load(file)
    assert time.monotonic() - began < 5
    assert isinstance(caught.value, ValueError)


def test_every_flipped_bit_is_detected(file):
    """In the length, the header, its padding, the metadata, the digest and the arrays."""
    saved_net().save(file)
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


def test_every_bit_of_a_small_file_flipped(file):
    """All bits of the file."""
    checkpoint.write(file, {"a": np.zeros(2, np.float32)}, {"e": 1e-5})
    data = file.read_bytes()
    for place in range(len(data)):
        for bit in range(8):
            file.write_bytes(data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :])
            with pytest.raises(checkpoint.CheckpointError):
                checkpoint.read(file)


def test_every_truncation_is_detected(file):
    saved_net().save(file)
    data = file.read_bytes()
    for length in [*range(0, 40), *range(40, len(data), 37), len(data) - 1]:
        file.write_bytes(data[:length])
        _refused(file)
    file.write_bytes(data + b"\0")
    _refused(file)


def test_swapped_renamed_and_added_tensors_are_detected(file):
    """The header remains valid."""
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


# --- foreign files ----------------------------------------------------------------------------------------------------


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
        file.write_bytes(pickle.dumps({"net": saved_net(), "trap": Trap()}, protocol=protocol))
        _refused(file)
    assert list(file.parent.iterdir()) == [file]


def test_loading_does_not_import_pickle():
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
    done = run_python(script, copied)
    assert done.stdout == "opened\n", done.stderr


def test_a_safetensors_file_of_another_program(file):
    for header in (None, {}, {"format": "pt"}):
        file.write_bytes(save({"a": np.zeros(3)}, header))
        _refused(file, match="not a gpunn file|gpunn did not write it")


def _with_header(file, **changes):
    """Write a small file with a changed header and a valid digest."""
    metadata = json.dumps({"kind": "sequential"})
    header = {"format": "gpunn", "version": "1", "metadata": metadata} | changes
    arrays = {"a": np.zeros(2, np.float32)}
    version = int(header["version"]) if header["version"].isdecimal() else 1
    header["digest"] = internals.digest(arrays, header["metadata"], version)
    file.write_bytes(save(arrays, {k: v for k, v in header.items() if v is not None}))


@pytest.mark.parametrize("version", ["2", "17", "99999999999999999999"])
def test_a_newer_version_is_named(file, version):
    _with_header(file, version=version)
    _refused(file, match=naming(f"version {version}", "update gpunn"))


@pytest.mark.parametrize("version", ["", "0", "-1", "1.0", "one", " 1", "²"])
def test_an_invalid_version_is_refused(file, version):
    _with_header(file, version=version)
    _refused(file, match="version")


@pytest.mark.parametrize("text", ["", "{", "[]", "5", "null", '"text"', "[" * 100_000, '{"a":' * 100_000])
def test_invalid_metadata_is_refused(file, text):
    _with_header(file, metadata=text)
    _refused(file, match="metadata cannot be read")


# --- forged files with a valid digest ---------------------------------------------------------------------------------


def _forged(file, **changes):
    """Write a small network with changed metadata and a valid digest."""
    tensors, metadata = saved_net().to_tensors()
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
    "a kind as a list": {"kind": []},
    "no layers": {"layers": []},
    "layers as a number": {"layers": 5},
    "layers as text": {"layers": "Dense"},
    "a layer as text": {"layers": ["Dense"]},
    "a class as a list": {"layers": [{"class": [], "trainable": True, "config": {}}]},
    "an unexpected argument": {"layers__0__config__trap": 1},
    "no arguments": {"layers__0__config": {}},
    "arguments as a list": {"layers__0__config": []},
    "no units": {"layers__0__config__units": 0},
    "units as text": {"layers__0__config__units": "3"},
    "huge units": {"layers__0__config__units": 10**12},
    "units beyond memory": {"layers__0__config__units": 10**30},
    "huge inputs": {"n_in": 10**12},
    "no inputs": {"n_in": 0},
    "inputs as text": {"n_in": "4"},
    "inputs of None": {"n_in": None},
    "another number of inputs": {"n_in": 5},
    "seed as text": {"seed": "many"},
    "seed of many digits": {"seed": "9" * 5000},
    "seed as a list": {"seed": []},
    "an unknown dtype": {"dtype": "float16"},
    "another dtype": {"dtype": "float64"},
    "dtype as a list": {"dtype": []},
    "30 000 layers": {"layers": [{"class": "Dropout", "trainable": True, "config": {"rate": 0.5}}] * 30_000},
    "an unknown loss": {"compiled__loss": {"name": "no such"}},
    "a loss as text": {"compiled__loss": "mse"},
    "a loss that does not match the layers": {
        "compiled__loss": {"name": "sparse_categorical_crossentropy", "from_logits": False}
    },
    "an unknown optimizer": {"compiled__optimizer": {"name": "no such"}},
    "an invalid optimizer argument": {"compiled__optimizer__beta_1": 7},
    "a learning rate as a list": {"compiled__optimizer__learning_rate": []},
    "metrics as text": {"compiled__metrics": "mae"},
    "an unknown metric": {"compiled__metrics": [{"metric": "no such", "name": "x"}]},
    "a metric twice": {"compiled__metrics": [{"metric": "mae", "name": "x"}] * 2},
    "compiled as text": {"compiled": "yes"},
    "an activation as a list": {"layers__0__config__activation": []},
    "an initializer as a list": {"layers__0__config__kernel_initializer": []},
    "trainable as text": {"layers__0__trainable": "no"},
}


@pytest.mark.parametrize("changes", FORGED.values(), ids=FORGED)
def test_a_forged_file_raises_value_error_within_5_s(file, changes):
    _forged(file, **changes)
    began = time.monotonic()
    with pytest.raises(ValueError):
        gpunn.load(file)
    assert time.monotonic() - began < 5


def test_missing_and_unexpected_arrays(file):
    tensors, metadata = saved_net().to_tensors()
    for wrong, match in (
        ({k: v for k, v in tensors.items() if k != "layers.2.b"}, r"layers.2.b must be float32 \(2,\), got nothing"),
        (tensors | {"layers.9.W": np.zeros(2, np.float32)}, naming("layers.9.W", "float32 (2,)")),
        (
            tensors | {"layers.0.W": np.zeros((3, 4), np.float32)},
            r"layers.0.W must be float32 \(4, 3\), got .*\(3, 4\)",
        ),
        (tensors | {"layers.0.W": np.zeros((4, 3))}, r"layers.0.W must be float32 \(4, 3\), got float64"),
    ):
        checkpoint.write(file, wrong, metadata)
        _refused(file, match=match)


# --- not a file -------------------------------------------------------------------------------------------------------


def test_missing_files_and_directories(tmp_path):
    with pytest.raises(FileNotFoundError):
        gpunn.load(tmp_path / "none.safetensors")
    with pytest.raises(OSError, match="not a regular file"):
        gpunn.load(tmp_path)


@posix
def test_pipes_and_devices_do_not_block(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero", "/dev/null"):
        began = time.monotonic()
        with pytest.raises(OSError, match="not a regular file"):
            gpunn.load(path)
        assert time.monotonic() - began < 5


@posix
def test_a_huge_sparse_file_is_refused_by_its_header(tmp_path):
    path = tmp_path / "sparse"
    with open(path, "wb") as file:
        file.truncate(2**40)
    began = time.monotonic()
    with pytest.raises(gpunn.CheckpointError):
        gpunn.load(path)
    assert time.monotonic() - began < 5


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="needs a user other than root")
def test_a_file_without_read_permission(file):
    saved_net().save(file)
    file.chmod(0)
    with pytest.raises(PermissionError):
        gpunn.load(file)
