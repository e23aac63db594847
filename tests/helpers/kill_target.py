"""Fits in separate processes, controlled by lines on stdin and stdout, so that they can be killed.

The process imports and compiles once and forks for every fit. A line `EPOCHS EVERY FILE` starts a fit that resumes the
file, if it exists, and writes it every EVERY epochs. Answers are `PID n` at the start, and `SAVED k` after the
checkpoint of epoch k was written and its folder synced. After one more line follows `ENDED status`. Until then an ended
fit keeps its process id.
"""

from __future__ import annotations

import os
import sys

import numpy as np

import gpunn

RNG = np.random.default_rng(3)
X = RNG.normal(size=(3, 8)).astype("float32")
Y = X @ RNG.normal(size=(8, 1))
WIDTH = 250  # for a file of about 800 kB, mostly optimizer slots


def say(text):
    """Write a complete line, even if the process is killed afterwards."""
    os.write(1, f"{text}\n".encode())


class Acknowledge(gpunn.Callback):
    """Reports every checkpoint that was written."""

    passive = runs_last = True

    def __init__(self, every):
        self.every = every

    def on_epoch_complete(self, epoch, logs=None):
        if (epoch + 1) % self.every == 0 or epoch + 1 == self.params["epochs"]:
            say(f"SAVED {epoch + 1}")


def fit(path, epochs, every=1):
    """Run a fit that resumes the file if it exists."""
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
