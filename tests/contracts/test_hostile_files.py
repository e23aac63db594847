"""Hostile files passed to `load` and `fit(…, resume=…)`.

They raise CheckpointError with the cause, within bounds of time and memory, and never execute code. Model files are
tested in unit/training/test_checkpoint.py. Here are checkpoints, forged checkpoints, and the bounds.
"""

import copy
import json
import os
import pickle
import subprocess
import sys
import time

import numpy as np
import pytest
from helpers import ROOT
from helpers.messages import naming
from helpers.resume_cases import CASES, EPOCHS, run
from helpers.snapshots import assert_unchanged, bits, weights_of
from safetensors.numpy import save

import gpunn
from gpunn.training import checkpoint

CASE = "two callbacks of a class"
STOPPED = 3


@pytest.fixture(scope="module")
def valid(tmp_path_factory):
    """Return the bytes of a valid checkpoint."""
    file = tmp_path_factory.mktemp("valid") / "run.safetensors"
    run(CASE, file, stop=STOPPED)
    return file.read_bytes()


@pytest.fixture
def resume(file):
    """Resume from the file. Return the error message after checking that it came soon and changed nothing."""
    net, data, options, callbacks = CASES[CASE]()
    net.fit(*data, batch_size=8, verbose=0)
    options = {"epochs": EPOCHS, "batch_size": 8, "verbose": 0, "callbacks": callbacks, **options}

    def call(match=None):
        began = time.monotonic()
        with assert_unchanged(net), pytest.raises(gpunn.CheckpointError, match=match) as caught:
            net.fit(*data, resume=file, **options)
        assert time.monotonic() - began < 5
        assert str(file) in str(caught.value)
        return str(caught.value)

    return call


# --- damage -----------------------------------------------------------------------------------------------------------


def test_flipped_bits(valid, file, resume):
    """At 400 positions and at section boundaries, for resume and load."""
    rng = np.random.default_rng(0)
    header = 8 + int.from_bytes(valid[:8], "little")
    places = {*range(12), *range(header - 6, header + 6), len(valid) - 1}
    places |= {*rng.integers(8, header, size=150), *rng.integers(header, len(valid), size=250)}
    assert len(places) >= 400
    for place in sorted(int(p) for p in places):
        damaged = bytearray(valid)
        damaged[place] ^= 1 << int(rng.integers(8))
        file.write_bytes(damaged)
        resume()
        with pytest.raises(gpunn.CheckpointError):
            gpunn.load(file)
    file.write_bytes(valid)
    gpunn.load(file)


def test_truncations(valid, file, resume):
    header = 8 + int.from_bytes(valid[:8], "little")
    lengths = [*range(0, 20), *range(20, len(valid), 211), header - 1, header, header + 1, len(valid) - 1]
    for length in lengths:
        file.write_bytes(valid[:length])
        resume("gpunn file|is damaged")
    for more in (b"\0", valid):
        file.write_bytes(valid + more)
        resume(naming("damaged", "header"))


def test_a_pickle_is_not_loaded(file, resume, tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        file.write_bytes(pickle.dumps(Trap(), protocol=protocol))
        resume("gpunn file")
    assert not (tmp_path / "sprung").exists()


def _header_of(valid):
    length = int.from_bytes(valid[:8], "little")
    return json.loads(valid[8 : 8 + length]), valid[8 + length :]


def _with_header(header, body):
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def test_offsets_that_overlap_or_leave_gaps(valid, file, resume):
    """Shared and duplicate ranges, an end before its start, and invalid entries in the header."""
    names = sorted(name for name in _header_of(valid)[0] if name != "__metadata__")
    slots = [name for name in names if "slots" in name]
    changes = [
        lambda header: header[slots[0]].update(data_offsets=header[slots[1]]["data_offsets"]),
        lambda header: header[names[0]].update(data_offsets=[0, 0]),
        lambda header: header[names[0]].update(data_offsets=header[names[0]]["data_offsets"][::-1]),
        lambda header: header[names[0]].update(data_offsets=[2**62, 2**63 - 1]),
        lambda header: header[names[0]].update(data_offsets=[-8, 0]),
        lambda header: header[names[0]].update(data_offsets=["0", "8"]),
        lambda header: header[names[0]].update(data_offsets=[]),
        lambda header: header[names[0]].update(data_offsets=None),
        lambda header: header[names[0]].update(data_offsets=[0, 1e400]),
        lambda header: header[names[0]].update(shape=[2**40, 2**40]),
        lambda header: header[names[0]].update(shape=[-1]),
        lambda header: header[names[0]].update(dtype="F8_E4M3"),
        lambda header: header[names[0]].update(dtype="OBJECT"),
        lambda header: header.update({names[0]: [0, 8]}),
        lambda header: header.pop(names[0]),
        lambda header: header.update({"another": {"dtype": "F64", "shape": [0], "data_offsets": [0, 0]}}),
    ]
    for change in changes:
        header, body = _header_of(valid)
        change(header)
        file.write_bytes(_with_header(header, body))
        resume("is damaged|header cannot be read")
        with pytest.raises(gpunn.CheckpointError):
            gpunn.load(file)
    header, body = _header_of(valid)
    file.write_bytes(_with_header(header, body))
    checkpoint.read(file)


def test_a_newer_version(valid, file, resume):
    header, _ = _header_of(valid)
    header["__metadata__"]["version"] = "2"
    tensors, _ = _opened(valid, file)
    file.write_bytes(save(tensors, header["__metadata__"]))
    resume(naming("version 2", "update gpunn"))


# --- forged, with a digest that is right ------------------------------------------------------------------------------


def _opened(valid, file):
    file.write_bytes(valid)
    return checkpoint.read(file)


FORGED = {
    "training as text": (lambda t, m: m.update(training="yes"), "describe a fit"),
    "training as a list": (lambda t, m: m.update(training=[]), "describe a fit"),
    "empty training": (lambda t, m: m.update(training={}), naming("version", 1)),
    "a version as text": (lambda t, m: m["training"].update(version="3"), naming("version", "'3'")),
    "a version as a list": (lambda t, m: m["training"].update(version=[]), naming("version", "[]")),
    "no training": (lambda t, m: m.pop("training"), "training state"),
    "no fingerprint": (lambda t, m: m["training"].update(fingerprint=None), "another fit"),
    "a fingerprint without a seed": (lambda t, m: m["training"]["fingerprint"].pop("seed"), naming("seed", None)),
    "a fingerprint without layers": (lambda t, m: m["training"]["fingerprint"].pop("layers"), naming("layers", None)),
    "a fingerprint with more": (lambda t, m: m["training"]["fingerprint"].update(more=1), naming("more", 1, None)),
    "a deep fingerprint": (lambda t, m: m["training"]["fingerprint"].update(layers=_deep(900)), "layers is"),
    "epochs as text": (lambda t, m: m["training"].update(epochs_done="3"), naming("epochs", "0 and '3'")),
    "negative epochs": (lambda t, m: m["training"].update(epochs_done=-1), naming("epochs", "0 and -1")),
    "epochs as a boolean": (lambda t, m: m["training"].update(epochs_done=True), naming("epochs", "0 and True")),
    "fractional epochs": (lambda t, m: m["training"].update(epochs_done=2.5), naming("epochs", "0 and 2.5")),
    "too many epochs": (
        lambda t, m: m["training"].update(epochs_done=10**9),
        "it holds 1000000000 epochs, more than epochs=9",
    ),
    "epochs without a history": (
        lambda t, m: m["training"].update(epochs_done=5),
        r"its history of 'loss' must be float64 \(5,\)",
    ),
    "a negative first epoch": (lambda t, m: m["training"].update(first_epoch=-5), naming("epochs", "-5 and 3")),
    "a rate below 0": (lambda t, m: m["training"].update(learning_rate_override=-0.1), "its learning rate is -0.1"),
    "a rate as text": (lambda t, m: m["training"].update(learning_rate_override="1"), "its learning rate is '1'"),
    "a history of a missing name": (lambda t, m: m["training"].update(history=["x"]), "describe a fit"),
    "a history as a number": (lambda t, m: m["training"].update(history=3), "describe a fit"),
    "a long history": (
        lambda t, m: t.update({"training/history/loss": np.zeros(99)}),
        naming("history", "'loss'"),
    ),
    "a wide history": (
        lambda t, m: t.update({"training/history/loss": np.zeros((3, 3))}),
        naming("history", "'loss'"),
    ),
    "a history of integers": (
        lambda t, m: t.update({"training/history/loss": np.zeros(3, np.int64)}),
        naming("history", "'loss'"),
    ),
    "overrides beyond the layers": (
        lambda t, m: m["training"].update(layer_overrides={"7": {"units": 3}}),
        "not describe a fit",
    ),
    "overrides of a negative layer": (
        lambda t, m: m["training"].update(layer_overrides={"-1": {"l1": 3.0}}),
        "describe a fit",
    ),
    "overrides by a word": (lambda t, m: m["training"].update(layer_overrides={"a": {}}), "describe a fit"),
    "an override of a method": (
        lambda t, m: m["training"].update(layer_overrides={"0": {"forward": None}}),
        naming("layers[0].forward", None),
    ),
    "an invalid trainable": (
        lambda t, m: m["training"].update(layer_overrides={"0": {"trainable": 0.5}}),
        naming("layers[0].trainable", 0.5),
    ),
    "an override of units": (
        lambda t, m: m["training"].update(layer_overrides={"0": {"units": 9}}),
        r"layers.0.W must be float64 \(6, 9\)",
    ),
    "no slots": (lambda t, m: t.pop("training/slots/m"), "slots/m must be float64 .*, got nothing"),
    "unknown slots": (
        lambda t, m: t.update({"training/slots/z": t["training/slots/m"]}),
        naming("slots/z", "float64"),
    ),
    "short slots": (
        lambda t, m: t.update({"training/slots/v": t["training/slots/v"][:-1]}),
        "slots/v must be float64 .*, got float64",
    ),
    "slots of another dtype": (
        lambda t, m: t.update({"training/slots/v": t["training/slots/v"].astype("f4")}),
        "slots/v must be float64 .*, got float32",
    ),
    "no state": (lambda t, m: t.pop("training/state"), "describe a fit"),
    "a short state": (lambda t, m: t.update({"training/state": np.zeros(5)}), r"state must be float64 \(32,\)"),
    "a state of NaN": (
        lambda t, m: t.update({"training/state": np.full(32, np.nan)}),
        "describe a fit",
    ),
    "a negative step": (lambda t, m: t["training/state"].__setitem__(0, -3.0), "its state"),
    "a fractional step": (lambda t, m: t["training/state"].__setitem__(0, 2.5), "its state"),
    "another seed in the state": (
        lambda t, m: t["training/state"].__setitem__(4, 77.0),
        "its state",
    ),
    "no weights": (lambda t, m: t.pop("layers.0.W"), "layers.0.W must be float64 .*, got nothing"),
    "transposed weights": (
        lambda t, m: t.update({"layers.0.W": t["layers.0.W"].T.copy()}),
        r"layers.0.W must be float64 \(6, 7\), got float64 \(7, 6\)",
    ),
    "duplicate weights": (
        lambda t, m: t.update({"training/layers.0.W": np.zeros(3)}),
        r"layers.0.W must be float64 \(6, 7\), got float64 \(3,\)",
    ),
    "no callbacks": (lambda t, m: m["training"].update(callbacks=[]), naming("Halve")),
    "callbacks as a number": (lambda t, m: m["training"].update(callbacks=7), "describe a fit"),
    "a callback as text": (lambda t, m: m["training"].update(callbacks=["Halve"]), "describe a fit"),
    "a state that is not JSON": (lambda t, m: _state(m, "{'times': 1}"), "describe a fit"),
    "a state as a list": (lambda t, m: _state(m, "[]"), "describe a fit"),
    "a deep state": (lambda t, m: _state(m, "[" * 100_000), "describe a fit"),
    "an empty state": (lambda t, m: _state(m, "{}"), naming("Halve")),
    "a state without an array": (
        lambda t, m: t.pop(next(name for name in t if name.endswith("/seen"))),
        "describe a fit",
    ),
    "early stopping of another network": (
        lambda t, m: t.update({_best(t): np.zeros(3)}),
        naming("EarlyStopping"),
    ),
    "a wait of early stopping as text": (
        lambda t, m: _state(m, '{"wait": "long", "best": 1}', "EarlyStopping"),
        naming("EarlyStopping"),
    ),
}


def _deep(levels):
    found = []
    for _ in range(levels):
        found = [found]
    return found


def _state(metadata, text, name="Halve"):
    next(entry for entry in metadata["training"]["callbacks"] if entry["class"] == name)["state"] = text


def _best(tensors):
    return next(name for name in tensors if name.endswith("best_theta"))


@pytest.mark.parametrize("name", FORGED)
def test_forged_checkpoints(valid, file, resume, name):
    """Invalid content is refused before anything changes, even with a valid digest."""
    tensors, metadata = _opened(valid, file)
    change, match = FORGED[name]
    change(tensors, metadata)
    checkpoint.write(file, tensors, metadata)
    resume(match)


def test_a_model_opens_in_spite_of_forged_training_metadata(valid, file):
    """`load` ignores the training metadata, and nothing in it can execute code."""
    tensors, metadata = _opened(valid, file)
    wanted = weights_of(gpunn.load(file))
    for training in ({"fingerprint": "__import__('os')"}, [], None, "text", {"callbacks": [{"class": "os.system"}]}):
        forged = copy.deepcopy(metadata) | {"training": training}
        checkpoint.write(file, tensors, forged)
        assert weights_of(gpunn.load(file)) == wanted
    # without the metadata, the additional arrays are unexpected
    del metadata["training"]
    checkpoint.write(file, tensors, metadata)
    with pytest.raises(gpunn.CheckpointError, match=r"training/.* must be absent"):
        gpunn.load(file)


def test_another_architecture(valid, file):
    """`load` detects that layers and arrays differ."""
    tensors, metadata = _opened(valid, file)
    metadata["layers"][0]["config"]["units"] = 8
    checkpoint.write(file, tensors, metadata)
    with pytest.raises(gpunn.CheckpointError, match=r"layers.0.W must be float64 \(6, 8\), got float64 \(6, 7\)"):
        gpunn.load(file)


# --- bounds -----------------------------------------------------------------------------------------------------------

BOUNDS = """
import json, os, resource, sys, time
sys.path.insert(0, sys.argv[2])
from helpers.resume_cases import CASES
import gpunn

folder, valid = sys.argv[1], open(sys.argv[1] + "/valid", "rb").read()
file = folder + "/run.safetensors"
limit = gpunn.training.checkpoint.MAX_HEADER
known = b'{"__metadata__":{"format":"gpunn","version":"1"},'

def framed(header, more=b""):
    return len(header).to_bytes(8, "little") + header + more

def filled(start, item, end, size):
    return framed(start + item * ((size - len(start) - len(end)) // len(item)) + end)

length = int.from_bytes(valid[:8], "little")
contents = {
    "lists": filled(known + b'"a":[', b"[],", b"1]}", limit),
    "dicts": filled(known + b'"a":[', b"{},", b"1]}", limit),
    "numbers": filled(known + b'"a":[', b"1111,", b"1]}", limit),
    "digits": filled(known + b'"a":', b"1", b"}", limit),
    "spaces": filled(known, b" ", b'"a":1}', limit),
    "brackets": filled(known + b'"a":', b"[", b"", limit),
    "names": framed(known + b",".join(b'"%x":[]' % k for k in range(limit // 12)) + b"}"),
    "arrays": framed(
        known
        + b",".join(b'"%x":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' % k for k in range(limit // 58))
        + b"}"
    ),
    "metadata": framed(
        b'{"__metadata__":{"format":"gpunn","version":"1","metadata":"' + b"[]," * (limit // 3 - 40) + b'"}}'
    ),
    "a header beyond the limit": filled(known + b'"a":[', b"[],", b"1]}", 4 * limit),
    "a header of 100 MB": filled(known, b" ", b'"a":1}', 100_000_000),
    "a claim": (2**63 - 1).to_bytes(8, "little") + valid[8:],
}
for name, content in contents.items():
    with open(file, "wb") as f:
        f.write(content)
    contents[name] = None
    for what in ("load", "resume"):
        began = time.process_time()
        try:
            if what == "load":
                gpunn.load(file)
            else:
                net, data, options, callbacks = CASES["sgd"]()
                net.fit(*data, resume=file, verbose=0, callbacks=callbacks, **options)
            print(name, what, "opened")
        except gpunn.CheckpointError:
            pass
        took = time.process_time() - began  # processor time, so that other processes do not count
        if took > 5:
            print(name, what, took, "seconds")
# a valid file followed by a terabyte of zeros
with open(file, "wb") as f:
    f.write(valid)
    f.truncate(2**40)
try:
    gpunn.load(file)
    print("opened")
except gpunn.CheckpointError:
    pass
try:
    # the peak of this program; ru_maxrss includes the parent process before exec
    with open("/proc/self/status") as f:
        print(next(int(line.split()[1]) for line in f if line.startswith("VmHWM")) // 1024)
except OSError:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="asks how much memory was taken")
def test_any_content_is_processed_within_5_s_and_1_gib(valid, tmp_path):
    (tmp_path / "valid").write_bytes(valid)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", BOUNDS, str(tmp_path), str(ROOT / "tests")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    *complaints, mebibytes = done.stdout.split("\n")[:-1]
    assert not complaints
    assert 20 < int(mebibytes) < 1024


def test_metadata_larger_than_the_limit_is_not_written(file):
    net = gpunn.Sequential([gpunn.Dense(2)], input_shape=2, seed=0)
    tensors, metadata = net.to_tensors()
    with pytest.raises(ValueError, match=naming("header", 10000000)):
        checkpoint.write(file, tensors, metadata | {"more": "x" * checkpoint.MAX_HEADER})
    assert not list(file.parent.iterdir())
    checkpoint.write(file, tensors, metadata | {"more": "x" * (checkpoint.MAX_HEADER - 10_000)})
    assert bits(gpunn.load(file).predict(np.ones((1, 2)))) == bits(net.predict(np.ones((1, 2))))
