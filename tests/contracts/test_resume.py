"""A resumed fit is bit-identical to an uninterrupted one."""

import json
import os
import subprocess
import sys
import warnings

import numpy as np
import pytest
from helpers import ROOT, resume_cases
from helpers.resume_cases import CASES, EPOCHS, ROWS, VX, outcome, run
from helpers.snapshots import bits, weights_of

import gpunn
from gpunn.training import checkpoint, fit
from gpunn.training.datasets import Shuffled
from gpunn.training.shard import Shard

# --- the same bits ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_resumed_fit_equals_an_uninterrupted_one(name, file):
    whole = outcome(*run(name)[:2])
    for stop in (1, 3, 6):
        file.unlink(missing_ok=True)
        run(name, file, stop=stop)
        assert outcome(*run(name, file, resume=True)[:2]) == whole, stop


@pytest.mark.slow
def test_in_a_new_process(tmp_path):
    for k, name in enumerate(CASES):
        run(name, tmp_path / f"{name}.safetensors", stop=1 + k % 6)
    command = [sys.executable, str(ROOT / "tests" / "helpers" / "resume_cases.py"), str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {name: outcome(*run(name)[:2]) for name in CASES} == found


@pytest.mark.parametrize(
    "name", ["adam", "a learning-rate override", "early stopping of a classifier", "a layer that is unfrozen"]
)
def test_interrupted_in_every_epoch(name, file):
    """Including the first epoch, which leaves no checkpoint."""
    for stop in range(EPOCHS):
        run(name, file, stop=stop, resume=True)
    net, history, _ = run(name, file, resume=True)
    assert outcome(net, history) == outcome(*run(name)[:2])


def test_cases_have_the_properties_of_their_names():
    """Early stopping ends its fits early and restores weights, rates are overridden, and a layer is unfrozen."""
    for name in CASES:
        if name.startswith("early"):
            _, history, (stopping, *_) = run(name)
            assert 2 < len(history.epoch) < EPOCHS and stopping.stopped_epoch == history.epoch[-1], name
            assert stopping.best_epoch < stopping.stopped_epoch
    assert run("a learning-rate override")[2][0].times >= 2
    assert np.isinf(run("infinite values")[1].history["val_loss"]).all()
    unfrozen = run("a layer that is unfrozen")[0]
    assert unfrozen[0].trainable and unfrozen[1].rate == 0.125


# --- what it means ----------------------------------------------------------------------------------------------------


def test_epochs_is_the_total_and_the_history_is_complete(file):
    whole = run("adam")
    assert len(run("adam", file, epochs=4)[1].epoch) == 4
    net, history, _ = run("adam", file, resume=True)
    assert history.epoch == list(range(EPOCHS)) and outcome(net, history) == outcome(*whole[:2])


NUMPY_INTEGERS = {
    "arrays": lambda: (*CASES["adam"]()[:3], {"batch_size": 8}),
    "a stream": lambda: (*CASES["a stream"]()[:3], {"steps_per_epoch": 4}),
}


@pytest.mark.parametrize("kind", [np.int64, np.uint8])
@pytest.mark.parametrize("name", NUMPY_INTEGERS)
def test_numpy_and_python_integers_are_equal(file, name, kind):
    """A fit with either resumes a checkpoint of the other."""
    outcomes = []
    for first, then in ((int, int), (int, kind), (kind, int), (kind, kind)):
        file.unlink(missing_ok=True)
        for of, epochs in ((first, 2), (then, 4)):
            net, data, options, sizes = NUMPY_INTEGERS[name]()
            sizes = {name: of(size) for name, size in (sizes | {"epochs": epochs}).items()}
            callbacks = [gpunn.ModelCheckpoint(file, every=of(1))]
            history = net.fit(*data, verbose=of(0), callbacks=callbacks, resume=file, **sizes, **options)
        outcomes.append(outcome(net, history))
    assert len(set(outcomes)) == 1


def test_without_a_file_the_fit_starts_from_the_beginning(file):
    net, history, _ = run("adam", file, resume=True)
    assert outcome(net, history) == outcome(*run("adam")[:2]) and file.exists()


def test_a_complete_fit_returns_its_history_without_training(file):
    whole = run("adam", file)
    before = file.read_bytes()
    steps, ends = [], []
    watch = gpunn.Callback()
    watch.passive = True
    watch.on_epoch_begin = lambda epoch, logs=None: steps.append(epoch)
    watch.on_train_end = lambda logs=None: ends.append(dict(logs))
    net, data, options, _ = CASES["adam"]()
    history = net.fit(*data, epochs=EPOCHS, batch_size=8, verbose=0, resume=file, callbacks=[watch], **options)
    assert outcome(net, history) == outcome(*whole[:2])
    assert steps == [] and file.read_bytes() == before
    assert ends == [{name: values[-1] for name, values in history.history.items()}]


@pytest.mark.parametrize("name", ["early stopping", "early stopping without weights"])
def test_a_fit_that_stopped_early_stays_stopped(name, file):
    """The best weights are restored, although the file has the last ones."""
    net, history, _ = run(name, file)
    again, same, (_, stopping) = run(name, file, resume=True)
    assert outcome(again, same) == outcome(net, history) and again.stop_training
    assert stopping.stopped_epoch == history.epoch[-1]
    kept = weights_of(gpunn.load(file))
    assert (kept == weights_of(net)) == (not stopping.restore_best_weights)


def test_a_fit_stopped_by_another_callback_continues(file):
    """A callback that stops at a time limit can continue in the next job."""

    class Hour(gpunn.Callback):
        def __init__(self, epochs):
            self.left = epochs

        def on_epoch_end(self, epoch, logs=None):
            self.left -= 1
            self.model.stop_training = self.left == 0

    net, data, options, _ = CASES["adam"]()
    for expected in (4, 8, 9):
        net, data, options, _ = CASES["adam"]()
        callbacks = [gpunn.ModelCheckpoint(file, every=3), Hour(4)]
        history = net.fit(*data, epochs=EPOCHS, batch_size=8, verbose=0, resume=file, callbacks=callbacks, **options)
        assert len(history.epoch) == expected
    assert outcome(net, history) == outcome(*run("adam")[:2])


def test_a_checkpoint_replaces_the_state_of_the_network(file):
    whole = outcome(*run("adam")[:2])
    run("adam", file, stop=4)
    net, data, options, _ = CASES["adam"]()
    net.fit(*data, epochs=3, batch_size=3, verbose=0)
    net.learning_rate = 0.5
    callbacks = [gpunn.ModelCheckpoint(file)]
    history = net.fit(*data, epochs=EPOCHS, batch_size=8, verbose=0, resume=file, callbacks=callbacks, **options)
    assert outcome(net, history) == whole


def test_passive_callbacks_may_differ(file):
    """With another display or file, or none, the fit is the same."""
    whole = outcome(*run("early stopping")[:2])
    run("early stopping", file, stop=2)
    net, data, options, callbacks = CASES["early stopping"]()
    history = net.fit(*data, epochs=EPOCHS, batch_size=8, verbose=2, resume=str(file), callbacks=callbacks, **options)
    assert outcome(net, history) == whole
    net, data, options, callbacks = CASES["early stopping"]()
    more = [gpunn.ModelCheckpoint(file.parent / f"{k}.safetensors", every=k) for k in (1, 2)]
    history = net.fit(*data, epochs=EPOCHS, batch_size=8, resume=file, callbacks=[*more, *callbacks], **options)
    assert outcome(net, history) == whole and len(list(file.parent.iterdir())) == 3


def test_a_progress_bar_continues_at_its_epoch(file, capfd):
    pytest.importorskip("tqdm")
    run("adam", file, epochs=4)
    net, data, options, _ = CASES["adam"]()
    net.fit(*data, epochs=EPOCHS, batch_size=8, resume=file, **options)
    assert f"{EPOCHS}/{EPOCHS}" in capfd.readouterr().err


def test_a_checkpoint_opens_as_the_network_at_that_epoch(file):
    run("adam", file, stop=3)
    net = run("adam", epochs=3)[0]
    opened = gpunn.load(file)
    assert type(opened) is gpunn.Sequential and weights_of(opened) == weights_of(net)
    assert bits(opened.predict(VX)) == bits(net.predict(VX))
    opened.save(file)
    assert "training" not in checkpoint.read(file)[1]
    assert not [name for name in checkpoint.read(file)[0] if name.startswith("training/")]


class HalvedWeights:
    """A model that contains a network and exports half of its weights."""

    def __init__(self, net):
        self.net = net

    def to_tensors(self):
        tensors, metadata = self.net.to_tensors()
        return {name: a / 2 for name, a in tensors.items()}, metadata


def test_a_checkpoint_opens_as_its_owner_and_resumes_the_trained_weights(file):
    whole = run("adam")
    for epochs in (4, EPOCHS):
        net, (x, y), _, _ = CASES["adam"]()
        valid = Shard(resume_cases.VX, resume_cases.VLABELS.astype("int32"), None)
        training = Shard(x, y.astype("int32"), None)
        data = fit.FitData(training, valid, x.shape[1], order=Shuffled(ROWS, 2**63 + 5))
        options = fit.FitOptions(8, epochs, callbacks=[gpunn.ModelCheckpoint(file)], resume=file)
        history = fit.run(net, data, options, {}, owner=HalvedWeights(net))
        for a, b in zip(gpunn.load(file).get_weights(), net.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b / 2)
    assert outcome(net, history) == outcome(*whole[:2])


def test_a_gpu_and_a_cpu_resume_checkpoints_of_each_other(file, fake_cupy, monkeypatch):
    """Simulated. Four epochs on one device and five on the other agree with one device to rounding."""
    monkeypatch.setattr(resume_cases, "EPOCHS", 9)
    whole = run("a learning-rate override")[0].get_weights()
    for first, then in (("cpu", "cuda"), ("cuda", "cpu"), ("cuda", "cuda")):
        file.unlink(missing_ok=True)
        for device, epochs in ((first, 4), (then, EPOCHS)):
            net, data, options, callbacks = CASES["a learning-rate override"]()
            net.to(device)
            callbacks = [gpunn.ModelCheckpoint(file), *callbacks]
            options = {"epochs": epochs, "batch_size": 8, "verbose": 0, "callbacks": callbacks, **options}
            history = net.fit(*data, resume=file, **options)
        assert net.device == ("cpu" if then == "cpu" else "cuda:0") and len(history.epoch) == EPOCHS
        for a, b in zip(net.get_weights(), whole, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


class _Saves(gpunn.Callback):
    """A callback that writes its checkpoints itself."""

    def on_epoch_complete(self, epoch, logs=None):
        self.model.save_checkpoint("run.safetensors")


WRITERS = {
    "no callback": ([], True),
    "one that writes another file": ([gpunn.ModelCheckpoint("other.safetensors")], True),
    "one that writes none": ([gpunn.EarlyStopping("loss")], True),
    "one that writes it": ([gpunn.ModelCheckpoint("./run.safetensors")], False),
    "one with fields": ([gpunn.ModelCheckpoint("run{epoch}.safetensors")], False),
    "one of the user": ([_Saves()], False),
}


@pytest.mark.parametrize(("callbacks", "warned"), WRITERS.values(), ids=WRITERS)
def test_resuming_from_a_file_that_nothing_writes_warns_once(callbacks, warned, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    net = gpunn.Sequential([gpunn.Dense(1)], seed=0).compile("sgd", "mse")
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        net.fit(np.eye(3), np.ones((3, 1)), epochs=2, verbose=0, callbacks=callbacks, resume="run.safetensors")
    assert [w.filename for w in found] == [__file__] * warned
    assert all("add gpunn.ModelCheckpoint('run.safetensors') to callbacks" in str(w.message) for w in found)
