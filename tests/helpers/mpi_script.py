"""What the processes of one mpiexec run in the tests: `script.py NAME FOLDER`. Process k leaves FOLDER-NAME-k.json."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import sys
import time
import warnings
from pathlib import Path

import numpy as np

import gpunn

RANK, NAME, FOLDER = int(os.environ["PMI_RANK"]), sys.argv[1], Path(sys.argv[2])
RNG = np.random.default_rng(5)
X, Y, LABELS = RNG.normal(size=(53, 7)), RNG.normal(size=(53, 3)), RNG.integers(0, 3, 53)
W = RNG.uniform(0, 2, 53)
RULES = "sgd momentum nesterov rmsprop adagrad adam adamw".split()


def say(**what):
    """Into a file: mpiexec joins what the processes print wherever a buffer happened to end, within lines as well."""
    Path(f"{FOLDER}-{NAME}-{RANK}.json").write_text(json.dumps(what), encoding="utf-8")


def net_of(strategy, rule="adam", dtype="float64", seed=3):
    layers = [gpunn.Dense(9, "relu", l2=0.01), gpunn.Dropout(0.3), gpunn.BatchNormalization(), gpunn.Dense(3)]
    net = gpunn.Sequential(layers, seed=seed, dtype=dtype)
    return net.compile(rule, "mse", metrics=["mae", "r2"], strategy=strategy, device="cpu")


def apart(net, other):
    return max(float(np.abs(a - b).max()) for a, b in zip(net.get_weights(), other.get_weights(), strict=True))


def fitted(strategy, rule="adam", **how):
    options = {"batch_size": 8, "epochs": 8, "sample_weight": W, "validation_data": (X[:20], Y[:20]), "verbose": 0}
    net = net_of(strategy, rule)
    return net, net.fit(X, Y, **options | how)


def same():
    """Every rule against one process; a memory map; of two processes both estimators, and how often each was shown."""
    from sklearn.exceptions import ConvergenceWarning

    warnings.simplefilter("ignore", ConvergenceWarning)
    together = gpunn.DataParallel(synchronized_batch_norm=True)
    far = {}
    for rule in RULES:
        net, history = fitted(together, rule)
        one, alone = fitted(None, rule)
        far[rule] = max(apart(net, one), abs(history.history["val_r2"][-1] - alone.history["val_r2"][-1]))
    buckets = gpunn.DataParallel(synchronized_batch_norm=True, bucket_bytes=100)
    far["buckets"] = apart(fitted(buckets)[0], fitted(None)[0])
    file = FOLDER / f"x{RANK}.npy"
    np.save(file, X)
    net = net_of(together)
    net.fit(np.load(file, mmap_mode="r"), Y, batch_size=8, epochs=3, verbose=0)
    far["memory map"] = apart(net, fitted(None, epochs=3, sample_weight=None, validation_data=None)[0])
    options = {"hidden_layer_sizes": (6,), "max_iter": 20, "random_state": 0, "dropout": 0.2, "verbose": True}
    estimators = [(gpunn.MLPClassifier, LABELS), (gpunn.MLPRegressor, Y)] if os.environ["PMI_SIZE"] == "2" else []
    shown = {"together": [], "alone": []}
    for cls, y in estimators:
        for more in ({}, {"early_stopping": True}):
            nets = []
            for name, strategy in (("together", together), ("alone", None)):
                with contextlib.redirect_stdout(io.StringIO()) as out:
                    nets.append(cls(**options | more, strategy=strategy).fit(X, y, W).net_)
                shown[name].append(out.getvalue().count("Iteration 1, "))
            far[f"{cls.__name__} {more}"] = apart(*nets)
    say(far=far, shown=shown)


def first_part(epochs=4):
    """A fit that leaves a checkpoint, with numbers and bars shown."""
    callbacks = [gpunn.ModelCheckpoint(FOLDER / "run.safetensors")]
    net, _ = fitted(gpunn.DataParallel(synchronized_batch_norm=True), epochs=epochs, verbose=2, callbacks=callbacks)
    say(files=sorted(p.name for p in FOLDER.iterdir()), weights=[w.tolist() for w in net.get_weights()])


def second_part():
    """The same fit resumed, by another number of processes perhaps."""
    net, history = fitted(gpunn.DataParallel(synchronized_batch_norm=True), resume=FOLDER / "run.safetensors")
    one, alone = fitted(None)
    val = abs(history.history["val_loss"][-1] - alone.history["val_loss"][-1])
    say(far=apart(net, one), epochs=len(history.epoch), val=val)


class At(gpunn.Callback):
    """Does something on process 1 in the midst of the third epoch."""

    def __init__(self, what):
        self.what, self.epoch = what, 0

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if batch == 2 and RANK == 1 and self.epoch == 2:
            self.what()


def killed():
    """Process 1 is killed within a step."""
    watched = [gpunn.ModelCheckpoint(FOLDER / "run.safetensors"), At(lambda: os.kill(os.getpid(), signal.SIGKILL))]
    fitted(gpunn.DataParallel(), callbacks=watched)


def after_the_kill():
    """The fit that was killed goes on."""
    watched = [At(lambda: None)]
    say(epochs=len(fitted(gpunn.DataParallel(), callbacks=watched, resume=FOLDER / "run.safetensors")[1].epoch))


def failing():
    """Process 1 fails within a step, so that the others wait for it."""

    def fail():
        raise KeyError("a mistake")

    fitted(gpunn.DataParallel(), callbacks=[At(fail)])


def stuck():
    """Process 1 does not come back."""
    fitted(gpunn.DataParallel(timeout=2), callbacks=[At(lambda: time.sleep(60))])


def caught(call):
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def refused():
    """Bad input, one after another: an error is heard by all, and the next call works."""
    together = gpunn.DataParallel()
    said = {"seeds": caught(lambda: net_of(together, seed=RANK))}
    net = net_of(together)
    said["shapes"] = caught(lambda: net.fit(X[: 53 - RANK], Y[: 53 - RANK], verbose=0))
    said["columns"] = caught(lambda: net.fit(X[:, : 7 - RANK], Y, verbose=0))
    bad = np.full_like(X, np.nan) if RANK == 1 else X
    said["NaN on one"] = caught(lambda: net.fit(bad, Y, verbose=0))
    said["no folder on the first"] = caught(
        lambda: net.fit(X, Y, verbose=0, callbacks=[gpunn.ModelCheckpoint(FOLDER / "nowhere" / "x.safetensors")])
    )
    said["few rows"] = caught(lambda: net.fit(X[:1], Y[:1], verbose=0))
    said["other calls"] = caught(lambda: net.fit(X, Y, verbose=0) if RANK else net.train_on_batch(X, Y))
    for name, rows in (("x", X), ("y", Y[:50])):
        if RANK == 0:
            np.save(FOLDER / f"{name}.npy", rows)
    net.fit(X, Y, verbose=0)  # which waits for the files as well
    sets = [gpunn.Rows(FOLDER / f"{name}.npy") for name in ("x", "y")]
    said["parts"] = caught(lambda: net.fit(*sets, verbose=0))
    estimator = gpunn.MLPClassifier(random_state=RANK, strategy=together, max_iter=1)
    said["random_state"] = caught(lambda: estimator.fit(X, LABELS))
    said["a good fit"] = caught(lambda: net.fit(X, Y, verbose=0))
    say(said=said)


def leaving():
    """Process 1 ends its script where the others fit."""
    net = net_of(gpunn.DataParallel())
    if RANK == 1:
        sys.exit(0)
    say(said=caught(lambda: net.fit(X, Y, verbose=0)))


def own_rows():
    """Every process has a file in which only its own rows are numbers."""
    from gpunn.parallel.disk_rows import RowPartition

    size = int(os.environ["PMI_SIZE"])
    start, stop = RowPartition(len(X), 8, size).block(RANK)
    for name, rows in (("x", X), ("y", Y)):
        mine = np.full_like(rows, np.nan)
        mine[start:stop] = rows[start:stop]
        np.save(FOLDER / f"{name}{RANK}.npy", mine)
        if RANK == 0:
            np.save(FOLDER / f"{name}.npy", rows)
    found = []
    # the first fit waits for all, so that the whole files are there at the second
    for strategy, end, parts in ((gpunn.DataParallel(synchronized_batch_norm=True), RANK, None), (None, "", size)):
        sets = (gpunn.Rows(FOLDER / f"{name}{end}.npy", parts=parts) for name in ("x", "y"))
        found.append(net_of(strategy))
        found[-1].fit(*sets, batch_size=8, epochs=5, verbose=0)
    say(far=apart(*found), rows=[start, stop])


CALLS = (same, first_part, second_part, killed, after_the_kill, failing, stuck, refused, leaving, own_rows)

if __name__ == "__main__":
    {call.__name__: call for call in CALLS}[NAME]()
