"""Run gpunn of any commit in a separate process, through `adapter.py`."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .process import ROOT, Failed, JsonProcess, cores_for, environment

ADAPTER = Path(__file__).resolve().parent / "adapter.py"


class Commit(JsonProcess):
    """The process of a checkout. `Absent` if gpunn cannot be imported from it, `Failed` if the process dies.

    If `compiled` is False the kernels' NumPy references run, independent of GPUNN_COMPILE in this process. A pinned
    process has one core per thread.
    """

    def __init__(
        self, root: Path, threads: int = 1, *, compiled: bool = True, pinned: bool = False, wait: bool = True
    ) -> None:
        path = os.pathsep.join(filter(None, (str(root), os.environ.get("PYTHONPATH"))))
        settings = environment(threads) | {"PYTHONPATH": path, "GPUNN_COMPILE": str(int(compiled))}
        # -P keeps the adapter's folder off the import path
        words = [sys.executable, "-P", str(ADAPTER), str(root), *map(str, cores_for(threads) if pinned else [])]
        start = functools.partial(subprocess.Popen, words, start_new_session=True)
        super().__init__(start, settings, root, wait=wait)

    @property
    def compiled(self) -> bool:
        """True if compiled kernels run, False if NumPy references do."""
        return bool(self.info["implementation"] == "compiled")


@contextmanager
def checkout(commit: str, repository: Path = ROOT) -> Iterator[Path]:
    """A temporary worktree of the commit, removed afterwards. `Failed` if git has no such commit."""
    with tempfile.TemporaryDirectory(prefix="gpunn-commit-") as folder:
        path = Path(folder).resolve() / "checkout"
        git(repository, "worktree", "add", "--quiet", "--detach", str(path), f"{commit}^{{commit}}")
        try:
            yield path
        finally:
            git(repository, "worktree", "remove", "--force", str(path))


def describe(repository: Path, commit: str = "HEAD") -> str:
    """The abbreviated hash of a commit."""
    return git(repository, "rev-parse", "--short=12", f"{commit}^{{commit}}")


def git(repository: Path, *words: str) -> str:
    """Return the output of a git command; raise `Failed` with git's last line if it fails."""
    try:
        done = subprocess.run(["git", *words], cwd=repository, capture_output=True, text=True, timeout=120)
    except (OSError, subprocess.SubprocessError) as error:
        raise Failed(f"git {words[0]}: {error}") from error
    if done.returncode:
        raise Failed(f"git {words[0]}: {(done.stderr.strip().splitlines() or ['failed'])[-1]}")
    return done.stdout.strip()
