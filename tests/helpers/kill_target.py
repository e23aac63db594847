"""Fits in a process of their own, begun by a line on stdin and told about on stdout, so that they may be killed.

The process imports and compiles once and forks for every fit. A line `EPOCHS EVERY FILE` begins one that goes on from
the file, where there is one, and writes it every so many epochs. The answers: `PID n` when it begins, `SAVED k` when
the checkpoint of its epoch k was written and the folder synced; and after another line, until which a fit that has
ended keeps its number, `ENDED status`.
"""

from __future__ import annotations

import os
import sys

import numpy as np

import gpunn

RNG = np.random.default_rng(3)
X = RNG.normal(size=(3, 8)).astype("float32")
Y = X @ RNG.normal(size=(8, 1))
WIDTH = 250  # a file of about 800 kB, most of which is Adam's


def say(text):
    """A line that arrives whole, also from a process that is killed after it."""
    os.write(1, f"{text}\n".encode())


class Acknowledge(gpunn.Callback):
    """Tells of every checkpoint that was written."""

    passive = runs_last = True

    def __init__(self, every):
        self.every = every

    def on_epoch_complete(self, epoch, logs=None):
        if (epoch + 1) % self.every == 0 or epoch + 1 == self.params["epochs"]:
            say(f"SAVED {epoch + 1}")


def fit(path, epochs, every=1):
    """One fit that goes on from the file where there is one."""
    layers = [gpunn.Dense(WIDTH, "tanh"), gpunn.Dropout(0.2), gpunn.Dense(WIDTH, "tanh"), gpunn.Dense(1)]
    net = gpunn.Sequential(layers, seed=1).compile("adam", "mse", device="cpu")
    callbacks = [] if path is None else [gpunn.ModelCheckpoint(path, every), Acknowledge(every)]
    net.fit(X, Y, batch_size=2, epochs=epochs, verbose=0, callbacks=callbacks, resume=path)


def main():
    """Fork a fit for every line."""
    fit(None, 1)
    say("READY")
    while line := sys.stdin.readline():
        epochs, every, path = line.rstrip("\n").split(" ", 2)
        child = os.fork()
        if child == 0:
            try:
                fit(path, int(epochs), int(every))
                os._exit(0)
            except BaseException as error:
                say(f"FAILED {error!r}")
                os._exit(1)
        say(f"PID {child}")
        sys.stdin.readline()
        say(f"ENDED {os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}")


if __name__ == "__main__":
    main()
