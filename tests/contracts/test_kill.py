"""SIGKILL at any moment of a training that saves each epoch loses nothing that was acknowledged."""

import os
import random
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from helpers import ROOT
from helpers import kill_target as killed_fit
from helpers.snapshots import bits

import gpunn
from gpunn.training import checkpoint

KILLS, MOST = 36, 150
AHEAD = 50  # epochs that a fit has before it when it begins; the moments of the kills lie anywhere in them

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")]


class Fits:
    """The process of killed_fit.py, and what it says."""

    def __init__(self):
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", "OPENBLAS_NUM_THREADS": "1"}
        command = [sys.executable, str(ROOT / "tests" / "helpers" / "kill_target.py")]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = subprocess.Popen(command, text=True, bufsize=1, env=environment, **pipes)
        assert self._next() == "READY"

    def _next(self):
        return self.process.stdout.readline().strip()

    def _say(self, line):
        self.process.stdin.write(line + "\n")

    def run(self, file, epochs, every=1, kill_after=None):
        """A fit until it ends, or until it is killed after so many seconds: whether it was killed, and the epochs that
        were acknowledged."""
        self._say(f"{epochs} {every} {file}")
        word, child = self._next().split()
        assert word == "PID"
        if kill_after is not None:
            time.sleep(kill_after)
            os.kill(int(child), signal.SIGKILL)
        self._say("that was it")
        saved = []
        while True:
            word, _, number = self._next().partition(" ")
            if word == "ENDED":
                assert number in ("0", str(-signal.SIGKILL))
                return number != "0", saved
            assert word == "SAVED", (word, number)
            saved.append(int(number))

    def close(self):
        self.process.stdin.close()
        self.process.wait(timeout=60)
        self.process.stdout.close()


@pytest.fixture
def folder():
    """On a disk where the machine has one: in memory a sync takes no time, and is hardly ever met."""
    disk = "/var/tmp" if os.access("/var/tmp", os.W_OK) else None
    made = Path(tempfile.mkdtemp(prefix="gpunn-killed-", dir=disk))
    yield made
    shutil.rmtree(made)


def content(file):
    """All that a file says. Its bytes may differ: safetensors writes the entries of its header in any order."""
    tensors, metadata = checkpoint.read(file)
    return {name: bits(a) for name, a in tensors.items()}, metadata


def test_killed_at_random_moments(folder):
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    moments = random.Random(seed)
    file, twin = folder / "run.safetensors", folder / "never killed"
    fits = Fits()
    try:
        began = time.monotonic()
        assert fits.run(file, AHEAD) == (False, list(range(1, AHEAD + 1)))
        duration = time.monotonic() - began
        done, kills, inside, left = AHEAD, 0, 0, set()
        while kills < KILLS or (5 * inside < kills and kills < MOST):
            killed, saved = fits.run(file, done + AHEAD, kill_after=moments.uniform(0, duration))
            # the file is whole, and not older than the last epoch that was acknowledged
            now = checkpoint.read(file)[1]["training"]["done"]
            assert saved == list(range(done + 1, done + 1 + len(saved)))
            assert now in (done + len(saved), done + len(saved) + 1)
            assert gpunn.load(file).predict(killed_fit.X).shape == (len(killed_fit.X), 1)
            done, kills = now, kills + killed
            # what died between the first byte of a save and its rename has left a temporary file until the next save
            there = {p.name for p in folder.iterdir()} - {file.name}
            assert all(re.fullmatch(r"\.run\.safetensors\.[a-z0-9_]{8}\.tmp", name) for name in there)
            assert len(there - left) <= killed and (not saved or not left & there)
            inside, left = inside + len(there - left), there
        print(f"{kills} kills in {done} epochs, {inside} of them inside a save")
        assert kills >= 30 and 5 * inside >= kills
        # all of it together is, to the last bit of its file, a training that nobody killed
        assert fits.run(twin, done, every=done) == (False, [done])
        assert content(file) == content(twin)
    finally:
        fits.close()
    # what the kills left is removed by a later save
    twin.unlink()
    gpunn.load(file).save(file)
    assert list(folder.iterdir()) == [file]
