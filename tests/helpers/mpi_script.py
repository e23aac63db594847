"""The script that mpiexec runs in tests: `mpi_script.py NAME FOLDER`. Rank k writes FOLDER-NAME-k.json."""

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
OPTIMIZERS = "sgd momentum nesterov rmsprop adagrad adam adamw".split()


def write_result(**result):
    """Write the result to a file, since mpiexec may interleave the output of ranks within lines."""
    Path(f"{FOLDER}-{NAME}-{RANK}.json").write_text(json.dumps(result), encoding="utf-8")


def net_of(strategy, rule="adam", dtype="float64", seed=3):
    layers = [gpunn.Dense(9, "relu", l2=0.01), gpunn.Dropout(0.3), gpunn.BatchNormalization(), gpunn.Dense(3)]
    net = gpunn.Sequential(layers, seed=seed, dtype=dtype)
    return net.compile(rule, "mse", metrics=["mae", "r2"], strategy=strategy, device="cpu")


def max_difference(net, other):
    return max(float(np.abs(a - b).max()) for a, b in zip(net.get_weights(), other.get_weights(), strict=True))


def fitted(strategy, rule="adam", **how):
    options = {"batch_size": 8, "epochs": 8, "sample_weight": W, "validation_data": (X[:20], Y[:20]), "verbose": 0}
    net = net_of(strategy, rule)
    return net, net.fit(X, Y, **options | how)


def same():
    """Compare with one process: every optimizer, a memory map, and for two ranks both estimators and their output."""
    from sklearn.exceptions import ConvergenceWarning

    warnings.simplefilter("ignore", ConvergenceWarning)
    distributed = gpunn.DataParallel(synchronized_batch_norm=True)
    differences = {}
    for rule in OPTIMIZERS:
        net, history = fitted(distributed, rule)
        one, reference = fitted(None, rule)
        differences[rule] = max(
            max_difference(net, one), abs(history.history["val_r2"][-1] - reference.history["val_r2"][-1])
        )
    buckets = gpunn.DataParallel(synchronized_batch_norm=True, bucket_bytes=100)
    differences["buckets"] = max_difference(fitted(buckets)[0], fitted(None)[0])
    file = FOLDER / f"x{RANK}.npy"
    np.save(file, X)
    net = net_of(distributed)
    net.fit(np.load(file, mmap_mode="r"), Y, batch_size=8, epochs=3, verbose=0)
    differences["memory map"] = max_difference(net, fitted(None, epochs=3, sample_weight=None, validation_data=None)[0])
    options = {"hidden_layer_sizes": (6,), "max_iter": 20, "random_state": 0, "dropout": 0.2, "verbose": True}
    estimators = [(gpunn.MLPClassifier, LABELS), (gpunn.MLPRegressor, Y)] if os.environ["PMI_SIZE"] == "2" else []
    outputs = {"distributed": [], "single": []}
    for cls, y in estimators:
        for more in ({}, {"early_stopping": True}):
            nets = []
            for name, strategy in (("distributed", distributed), ("single", None)):
                with contextlib.redirect_stdout(io.StringIO()) as out:
                    nets.append(cls(**options | more, strategy=strategy).fit(X, y, W).net_)
                outputs[name].append(out.getvalue().count("Iteration 1, "))
            differences[f"{cls.__name__} {more}"] = max_difference(*nets)
    write_result(differences=differences, outputs=outputs)


def first_part(epochs=4):
    """Run a fit that writes a checkpoint and displays its progress."""
    callbacks = [gpunn.ModelCheckpoint(FOLDER / "run.safetensors")]
    net, _ = fitted(gpunn.DataParallel(synchronized_batch_norm=True), epochs=epochs, verbose=2, callbacks=callbacks)
    write_result(files=sorted(p.name for p in FOLDER.iterdir()), weights=[w.tolist() for w in net.get_weights()])


def second_part():
    """Resume the same fit, also with another number of processes."""
    net, history = fitted(gpunn.DataParallel(synchronized_batch_norm=True), resume=FOLDER / "run.safetensors")
    one, reference = fitted(None)
    val = abs(history.history["val_loss"][-1] - reference.history["val_loss"][-1])
    write_result(differences=max_difference(net, one), epochs=len(history.epoch), val=val)


class CallOnRank1(gpunn.Callback):
    """Calls a function on rank 1 within the third epoch."""

    def __init__(self, function):
        self.function, self.epoch = function, 0

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if batch == 2 and RANK == 1 and self.epoch == 2:
            self.function()


def killed():
    """Kill rank 1 within a step."""
    callbacks = [
        gpunn.ModelCheckpoint(FOLDER / "run.safetensors"),
        CallOnRank1(lambda: os.kill(os.getpid(), signal.SIGKILL)),
    ]
    fitted(gpunn.DataParallel(), callbacks=callbacks)


def after_the_kill():
    """Resume the killed fit."""
    callbacks = [CallOnRank1(lambda: None)]
    write_result(
        epochs=len(fitted(gpunn.DataParallel(), callbacks=callbacks, resume=FOLDER / "run.safetensors")[1].epoch)
    )


def failing():
    """Fail on rank 1 within a step, so that the other ranks wait for it."""

    def fail():
        raise KeyError("a mistake")

    fitted(gpunn.DataParallel(), callbacks=[CallOnRank1(fail)])


def stuck():
    """Block rank 1."""
    fitted(gpunn.DataParallel(timeout=2), callbacks=[CallOnRank1(lambda: time.sleep(60))])


def caught(call):
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def refused():
    """Pass several invalid inputs: all ranks raise an error, and the next call works."""
    distributed = gpunn.DataParallel()
    messages = {"seeds": caught(lambda: net_of(distributed, seed=RANK))}
    net = net_of(distributed)
    messages["shapes"] = caught(lambda: net.fit(X[: 53 - RANK], Y[: 53 - RANK], verbose=0))
    messages["columns"] = caught(lambda: net.fit(X[:, : 7 - RANK], Y, verbose=0))
    bad = np.full_like(X, np.nan) if RANK == 1 else X
    messages["NaN on one"] = caught(lambda: net.fit(bad, Y, verbose=0))
    messages["no folder on the first"] = caught(
        lambda: net.fit(X, Y, verbose=0, callbacks=[gpunn.ModelCheckpoint(FOLDER / "missing" / "x.safetensors")])
    )
    messages["few rows"] = caught(lambda: net.fit(X[:1], Y[:1], verbose=0))
    messages["other calls"] = caught(lambda: net.fit(X, Y, verbose=0) if RANK else net.train_on_batch(X, Y))
    for name, rows in (("x", X), ("y", Y[:50])):
        if RANK == 0:
            np.save(FOLDER / f"{name}.npy", rows)
    net.fit(X, Y, verbose=0)  # which also waits for the files
    sets = [gpunn.Rows(FOLDER / f"{name}.npy") for name in ("x", "y")]
    messages["parts"] = caught(lambda: net.fit(*sets, verbose=0))
    estimator = gpunn.MLPClassifier(random_state=RANK, strategy=distributed, max_iter=1)
    messages["random_state"] = caught(lambda: estimator.fit(X, LABELS))
    messages["a good fit"] = caught(lambda: net.fit(X, Y, verbose=0))
    write_result(messages=messages)


def leaving():
    """Exit on rank 1 while the other ranks fit."""
    net = net_of(gpunn.DataParallel())
    if RANK == 1:
        sys.exit(0)
    write_result(messages=caught(lambda: net.fit(X, Y, verbose=0)))


def own_rows():
    """Train from files in which only the rank's own rows are finite."""
    from gpunn.parallel.disk_rows import RowPartition

    size = int(os.environ["PMI_SIZE"])
    start, stop = RowPartition(len(X), 8, size).block(RANK)
    for name, rows in (("x", X), ("y", Y)):
        own = np.full_like(rows, np.nan)
        own[start:stop] = rows[start:stop]
        np.save(FOLDER / f"{name}{RANK}.npy", own)
        if RANK == 0:
            np.save(FOLDER / f"{name}.npy", rows)
    found = []
    # the first fit waits for all ranks, so that the complete files exist before the second
    for strategy, end, parts in ((gpunn.DataParallel(synchronized_batch_norm=True), RANK, None), (None, "", size)):
        sets = (gpunn.Rows(FOLDER / f"{name}{end}.npy", parts=parts) for name in ("x", "y"))
        found.append(net_of(strategy))
        found[-1].fit(*sets, batch_size=8, epochs=5, verbose=0)
    write_result(differences=max_difference(*found), rows=[start, stop])


CALLS = (same, first_part, second_part, killed, after_the_kill, failing, stuck, refused, leaving, own_rows)

if __name__ == "__main__":
    {call.__name__: call for call in CALLS}[NAME]()
