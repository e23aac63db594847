"""SIGKILL at any time during a fit that saves every epoch loses no acknowledged checkpoint."""

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
from helpers import ROOT, kill_target
from helpers.snapshots import bits

import gpunn
from gpunn.training import checkpoint

KILLS, MOST = 36, 150
AHEAD = 50  # epochs that each fit would train; the kill comes at a random time within them

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")]


class Fits:
    """The process of kill_target.py, and what it says."""

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
        """Run a fit to its end, or kill it after some seconds. Return (was killed, acknowledged epochs)."""
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
    """On a disk if possible: in memory a sync takes no time, and kills would hardly ever occur within it."""
    disk = "/var/tmp" if os.access("/var/tmp", os.W_OK) else None
    made = Path(tempfile.mkdtemp(prefix="gpunn-killed-", dir=disk))
    yield made
    shutil.rmtree(made)


def content(file):
    """Return the content of a file. Its bytes may differ, since safetensors writes the header in any order."""
    tensors, metadata = checkpoint.read(file)
    return {name: bits(a) for name, a in tensors.items()}, metadata


def test_killed_at_random_moments(folder):
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    moments = random.Random(seed)
    file, reference = folder / "run.safetensors", folder / "never killed"
    fits = Fits()
    try:
        began = time.monotonic()
        assert fits.run(file, AHEAD) == (False, list(range(1, AHEAD + 1)))
        duration = time.monotonic() - began
        done, kills, inside, left = AHEAD, 0, 0, set()
        while kills < KILLS or (5 * inside < kills and kills < MOST):
            killed, saved = fits.run(file, done + AHEAD, kill_after=moments.uniform(0, duration))
            # the file is complete and not older than the last acknowledged epoch
            now = checkpoint.read(file)[1]["training"]["epochs_done"]
            assert saved == list(range(done + 1, done + 1 + len(saved)))
            assert now in (done + len(saved), done + len(saved) + 1)
            assert gpunn.load(file).predict(kill_target.X).shape == (len(kill_target.X), 1)
            done, kills = now, kills + killed
            # a kill between the first byte of a save and its rename leaves a temporary file until the next save
            there = {p.name for p in folder.iterdir()} - {file.name}
            assert all(re.fullmatch(r"\.run\.safetensors\.[a-z0-9_]{8}\.tmp", name) for name in there)
            assert len(there - left) <= killed and (not saved or not left & there)
            inside, left = inside + len(there - left), there
        print(f"{kills} kills in {done} epochs, {inside} of them inside a save")
        assert kills >= 30 and 5 * inside >= kills
        # the final file is bit-identical to that of an uninterrupted fit
        assert fits.run(reference, done, every=done) == (False, [done])
        assert content(file) == content(reference)
    finally:
        fits.close()
    # a later save removes the temporary files
    reference.unlink()
    gpunn.load(file).save(file)
    assert list(folder.iterdir()) == [file]
