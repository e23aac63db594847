"""Files of any content, given to `load` and to `fit(…, resume=…)`: a CheckpointError that names the trouble, soon and
within bounds, never wrong numbers, never code that runs. What `load` does with models' files stands in
training/test_checkpoint.py; here are checkpoints, forged ones, and the bounds."""

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

CASE = "two of a class"
STOPPED = 3


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The bytes of a checkpoint."""
    file = tmp_path_factory.mktemp("whole") / "run.safetensors"
    run(CASE, file, stop=STOPPED)
    return file.read_bytes()


@pytest.fixture
def file(tmp_path):
    return tmp_path / "run.safetensors"


@pytest.fixture
def resume(file):
    """Go on from the file: what is raised, after a look that it came soon and that nothing has moved."""
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


# --- damage ----------------------------------------------------------------------------------------------------------


def test_flipped_bits(whole, file, resume):
    """At 400 places all over the file, and wherever its parts meet; for resume and for load."""
    rng = np.random.default_rng(0)
    header = 8 + int.from_bytes(whole[:8], "little")
    places = {*range(12), *range(header - 6, header + 6), len(whole) - 1}
    places |= {*rng.integers(8, header, size=150), *rng.integers(header, len(whole), size=250)}
    assert len(places) >= 400
    for place in sorted(int(p) for p in places):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(rng.integers(8))
        file.write_bytes(damaged)
        resume()
        with pytest.raises(gpunn.CheckpointError):
            gpunn.load(file)
    file.write_bytes(whole)
    gpunn.load(file)


def test_truncations(whole, file, resume):
    header = 8 + int.from_bytes(whole[:8], "little")
    lengths = [*range(0, 20), *range(20, len(whole), 211), header - 1, header, header + 1, len(whole) - 1]
    for length in lengths:
        file.write_bytes(whole[:length])
        resume("gpunn file|is damaged")
    for more in (b"\0", whole):
        file.write_bytes(whole + more)
        resume(naming("damaged", "header"))


def test_a_pickle_with_a_trap(file, resume, tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        file.write_bytes(pickle.dumps(Trap(), protocol=protocol))
        resume("gpunn file")
    assert not (tmp_path / "sprung").exists()


def _header_of(whole):
    length = int.from_bytes(whole[:8], "little")
    return json.loads(whole[8 : 8 + length]), whole[8 + length :]


def _with_header(header, body):
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def test_offsets_that_overlap_or_leave_gaps(whole, file, resume):
    """Two arrays of one place, a place twice, an end before its start: whatever the header says of them."""
    names = sorted(name for name in _header_of(whole)[0] if name != "__metadata__")
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
        header, body = _header_of(whole)
        change(header)
        file.write_bytes(_with_header(header, body))
        resume("is damaged|header cannot be read")
        with pytest.raises(gpunn.CheckpointError):
            gpunn.load(file)
    header, body = _header_of(whole)
    file.write_bytes(_with_header(header, body))
    checkpoint.read(file)


def test_a_newer_version(whole, file, resume):
    header, _ = _header_of(whole)
    header["__metadata__"]["version"] = "2"
    tensors, _ = _opened(whole, file)
    file.write_bytes(save(tensors, header["__metadata__"]))
    resume(naming("version 2", "update gpunn"))


# --- forged, with a digest that is right -----------------------------------------------------------------------------


def _opened(whole, file):
    file.write_bytes(whole)
    return checkpoint.read(file)


FORGED = {
    "training that is text": (lambda t, m: m.update(training="yes"), "describe a fit"),
    "training that is a list": (lambda t, m: m.update(training=[]), "describe a fit"),
    "training that is empty": (lambda t, m: m.update(training={}), naming("version", 1)),
    "a version of text": (lambda t, m: m["training"].update(version="2"), naming("version", "'2'")),
    "a version that is a list": (lambda t, m: m["training"].update(version=[]), naming("version", "[]")),
    "no training": (lambda t, m: m.pop("training"), "no fit under way"),
    "facts that are none": (lambda t, m: m["training"].update(facts=None), "another fit"),
    "facts without a seed": (lambda t, m: m["training"]["facts"].pop("seed"), naming("seed", None)),
    "facts without layers": (lambda t, m: m["training"]["facts"].pop("layers"), naming("layers", None)),
    "facts of more": (lambda t, m: m["training"]["facts"].update(more=1), naming("more", 1, None)),
    "facts that are deep": (lambda t, m: m["training"]["facts"].update(layers=_deep(900)), "layers is"),
    "epochs that are text": (lambda t, m: m["training"].update(done="3"), naming("epochs", "0 and '3'")),
    "epochs below none": (lambda t, m: m["training"].update(done=-1), naming("epochs", "0 and -1")),
    "epochs that are true": (lambda t, m: m["training"].update(done=True), naming("epochs", "0 and True")),
    "epochs in part": (lambda t, m: m["training"].update(done=2.5), naming("epochs", "0 and 2.5")),
    "epochs beyond all": (
        lambda t, m: m["training"].update(done=10**9),
        "it holds 1000000000 epochs, more than epochs=9",
    ),
    "epochs that have no history": (
        lambda t, m: m["training"].update(done=5),
        r"its history of 'loss' should be float64 \(5,\)",
    ),
    "a first epoch below none": (lambda t, m: m["training"].update(first=-5), naming("epochs", "-5 and 3")),
    "a rate below 0": (lambda t, m: m["training"].update(learning_rate_override=-0.1), "its learning rate is -0.1"),
    "a rate that is text": (lambda t, m: m["training"].update(learning_rate_override="1"), "its learning rate is '1'"),
    "a history of what is not there": (lambda t, m: m["training"].update(history=["x"]), "describe a fit"),
    "a history that is a number": (lambda t, m: m["training"].update(history=3), "describe a fit"),
    "a history that is long": (
        lambda t, m: t.update({"training/history/loss": np.zeros(99)}),
        naming("history", "'loss'"),
    ),
    "a history that is wide": (
        lambda t, m: t.update({"training/history/loss": np.zeros((3, 3))}),
        naming("history", "'loss'"),
    ),
    "a history of whole numbers": (
        lambda t, m: t.update({"training/history/loss": np.zeros(3, np.int64)}),
        naming("history", "'loss'"),
    ),
    "changed layers beyond": (lambda t, m: m["training"].update(changed={"7": {"units": 3}}), "not describe a fit"),
    "changed layers before": (
        lambda t, m: m["training"].update(changed={"-1": {"l1": 3.0}}),
        "describe a fit",
    ),
    "changed layers in words": (lambda t, m: m["training"].update(changed={"a": {}}), "describe a fit"),
    "a method changed": (
        lambda t, m: m["training"].update(changed={"0": {"forward": None}}),
        naming("layers[0].forward", None),
    ),
    "a layer half frozen": (
        lambda t, m: m["training"].update(changed={"0": {"trainable": 0.5}}),
        naming("layers[0].trainable", 0.5),
    ),
    "units changed": (
        lambda t, m: m["training"].update(changed={"0": {"units": 9}}),
        r"layers.0.W should be float64 \(6, 9\)",
    ),
    "no slots": (lambda t, m: t.pop("training/slots/m"), "slots/m should be float64 .*, got nothing"),
    "slots of another": (
        lambda t, m: t.update({"training/slots/z": t["training/slots/m"]}),
        naming("slots/z", "float64"),
    ),
    "slots too short": (
        lambda t, m: t.update({"training/slots/v": t["training/slots/v"][:-1]}),
        "slots/v should be float64 .*, got float64",
    ),
    "slots of another type": (
        lambda t, m: t.update({"training/slots/v": t["training/slots/v"].astype("f4")}),
        "slots/v should be float64 .*, got float32",
    ),
    "no state": (lambda t, m: t.pop("training/state"), "describe a fit"),
    "a short state": (lambda t, m: t.update({"training/state": np.zeros(5)}), r"state should be float64 \(32,\)"),
    "a state that is no number": (
        lambda t, m: t.update({"training/state": np.full(32, np.nan)}),
        "describe a fit",
    ),
    "a step below 0": (lambda t, m: t["training/state"].__setitem__(0, -3.0), "its state"),
    "half a step": (lambda t, m: t["training/state"].__setitem__(0, 2.5), "its state"),
    "another seed in the state": (
        lambda t, m: t["training/state"].__setitem__(4, 77.0),
        "its state",
    ),
    "no weights": (lambda t, m: t.pop("layers.0.W"), "layers.0.W should be float64 .*, got nothing"),
    "weights of another shape": (
        lambda t, m: t.update({"layers.0.W": t["layers.0.W"].T.copy()}),
        r"layers.0.W should be float64 \(6, 7\), got float64 \(7, 6\)",
    ),
    "weights twice": (
        lambda t, m: t.update({"training/layers.0.W": np.zeros(3)}),
        r"layers.0.W should be float64 \(6, 7\), got float64 \(3,\)",
    ),
    "no callbacks": (lambda t, m: m["training"].update(callbacks=[]), naming("Halve")),
    "callbacks that are a number": (lambda t, m: m["training"].update(callbacks=7), "describe a fit"),
    "a callback that is text": (lambda t, m: m["training"].update(callbacks=["Halve"]), "describe a fit"),
    "a state that is no JSON": (lambda t, m: _state(m, "{'times': 1}"), "describe a fit"),
    "a state that is a list": (lambda t, m: _state(m, "[]"), "describe a fit"),
    "a state that is deep": (lambda t, m: _state(m, "[" * 100_000), "describe a fit"),
    "a state that is empty": (lambda t, m: _state(m, "{}"), naming("Halve")),
    "a state that lacks an array": (
        lambda t, m: t.pop(next(name for name in t if name.endswith("/seen"))),
        "describe a fit",
    ),
    "early stopping of another network": (
        lambda t, m: t.update({_best(t): np.zeros(3)}),
        naming("EarlyStopping"),
    ),
    "early stopping that waits in words": (
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
def test_forged_checkpoints(whole, file, resume, name):
    """Somebody who makes the digest right: what does not make sense is refused all the same, before anything moves."""
    tensors, metadata = _opened(whole, file)
    change, match = FORGED[name]
    change(tensors, metadata)
    checkpoint.write(file, tensors, metadata)
    resume(match)


def test_a_forged_fit_is_still_a_model_that_opens(whole, file):
    """What is said of the fit is nothing to `load`, nor can it make code run."""
    tensors, metadata = _opened(whole, file)
    wanted = weights_of(gpunn.load(file))
    for training in ({"facts": "__import__('os')"}, [], None, "text", {"callbacks": [{"class": "os.system"}]}):
        forged = copy.deepcopy(metadata) | {"training": training}
        checkpoint.write(file, tensors, forged)
        assert weights_of(gpunn.load(file)) == wanted
    # but arrays that are nobody's are none of a model's
    del metadata["training"]
    checkpoint.write(file, tensors, metadata)
    with pytest.raises(gpunn.CheckpointError, match=r"training/.* should be nothing"):
        gpunn.load(file)


def test_another_architecture(whole, file):
    """For load a contradiction between layers and arrays, for resume one between the file and the network here."""
    tensors, metadata = _opened(whole, file)
    metadata["layers"][0]["config"]["units"] = 8
    checkpoint.write(file, tensors, metadata)
    with pytest.raises(gpunn.CheckpointError, match=r"layers.0.W should be float64 \(6, 8\), got float64 \(6, 7\)"):
        gpunn.load(file)


# --- bounds ----------------------------------------------------------------------------------------------------------

BOUNDS = """
import json, os, resource, sys, time
sys.path.insert(0, sys.argv[2])
from helpers.resume_cases import CASES
import gpunn

folder, whole = sys.argv[1], open(sys.argv[1] + "/whole", "rb").read()
file = folder + "/run.safetensors"
limit = gpunn.training.checkpoint.MAX_HEADER
known = b'{"__metadata__":{"format":"gpunn","version":"1"},'

def framed(header, more=b""):
    return len(header).to_bytes(8, "little") + header + more

def filled(start, item, end, size):
    return framed(start + item * ((size - len(start) - len(end)) // len(item)) + end)

length = int.from_bytes(whole[:8], "little")
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
    "a claim": (2**63 - 1).to_bytes(8, "little") + whole[8:],
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
        took = time.process_time() - began  # what others do on this machine does not count
        if took > 5:
            print(name, what, took, "seconds")
# a file whose beginning is right, and that goes on for a terabyte of nothing
with open(file, "wb") as f:
    f.write(whole)
    f.truncate(2**40)
try:
    gpunn.load(file)
    print("opened")
except gpunn.CheckpointError:
    pass
try:
    # the peak of this program; ru_maxrss begins with that of the one that started it
    with open("/proc/self/status") as f:
        print(next(int(line.split()[1]) for line in f if line.startswith("VmHWM")) // 1024)
except OSError:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="asks how much memory was taken")
def test_whatever_it_holds_is_answered_within_5_s_and_1_gib(whole, tmp_path):
    (tmp_path / "whole").write_bytes(whole)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", BOUNDS, str(tmp_path), str(ROOT / "tests")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    *complaints, mebibytes = done.stdout.split("\n")[:-1]
    assert not complaints
    assert 20 < int(mebibytes) < 1024


def test_a_model_whose_description_nobody_would_read_is_not_written(file):
    net = gpunn.Sequential([gpunn.Dense(2)], input_shape=2, seed=0)
    tensors, metadata = net.to_tensors()
    with pytest.raises(ValueError, match=naming("header", 10000000)):
        checkpoint.write(file, tensors, metadata | {"more": "x" * checkpoint.MAX_HEADER})
    assert not list(file.parent.iterdir())
    checkpoint.write(file, tensors, metadata | {"more": "x" * (checkpoint.MAX_HEADER - 10_000)})
    assert bits(gpunn.load(file).predict(np.ones((1, 2)))) == bits(net.predict(np.ones((1, 2))))
