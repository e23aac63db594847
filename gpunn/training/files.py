"""Atomic replacement of files: temporary files, locks and checks for regular files."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


def stat_regular_file(path: str | os.PathLike[str]) -> os.stat_result:
    """Return `os.stat` of a regular file, following links.

    FileNotFoundError if it does not exist. OSError for a directory, a device, a pipe or a socket.
    """
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "not a regular file", os.fspath(path))
    return found


def write_bytes(path: Path, data: bytes) -> None:
    """Replace the content of `path` atomically. OSError if that fails."""
    with atomic_write(path) as file:
        file.write(data)


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Yield a temporary file that replaces `path` if the body succeeds, and is removed if it fails.

    Links are followed, and the mode of an old file is kept. Only a regular file is replaced. An OSError names `path`.
    """
    with _name_path_in_errors(path):
        target = Path(os.path.realpath(path))
        try:
            mode = stat.S_IMODE(stat_regular_file(path).st_mode)
        except FileNotFoundError:
            mode = 0o666 & ~_umask()
        handle, temporary = _new_temporary(target)
        try:
            with contextlib.ExitStack() as lock:
                with os.fdopen(handle, "wb") as file:
                    # a second descriptor keeps the lock until the file has its final name
                    lock.callback(os.close, os.dup(handle))
                    yield file
                    file.flush()
                    os.fsync(file.fileno())
                os.chmod(temporary, mode)
                os.replace(temporary, target)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        _sync_folder(target.parent)
    _remove_stale_temps(target)


def remove(path: Path) -> None:
    """Remove a file if it exists, and the temporary files of processes that were killed while writing it."""
    path.unlink(missing_ok=True)
    _remove_stale_temps(Path(os.path.realpath(path)))


@contextlib.contextmanager
def _name_path_in_errors(path: Path) -> Iterator[None]:
    """Make every OSError name `path` instead of the temporary file."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from None


def _prefix(target: Path) -> str:
    """The prefix of temporary file names for `target`."""
    # 60 characters are at most 240 bytes, and a file name may have 255
    return f".{target.name[:60]}."


def _new_temporary(target: Path) -> tuple[int, str]:
    """Create and lock a temporary file in the folder of `target`. Return its descriptor and path."""
    while True:
        handle, path = tempfile.mkstemp(dir=target.parent, prefix=_prefix(target), suffix=".tmp")
        if _lock(handle, path):
            return handle, path
        os.close(handle)


def _lock(handle: int, path: str) -> bool:
    """Lock a new temporary file until its writer exits. False if another process has just removed it as stale."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except (BlockingIOError, FileNotFoundError):
        return False
    except OSError:
        # on a file system without locks, `_remove_stale_temps` cannot lock a file either and keeps it
        return True


def _remove_stale_temps(target: Path) -> None:
    """Remove the unlocked temporary files of `target`: their writers were killed."""
    if fcntl is None:
        return
    pattern = re.compile(re.escape(_prefix(target)) + r"[a-z0-9_]{8}\.tmp")
    with contextlib.suppress(OSError):
        for path in [p for p in target.parent.iterdir() if pattern.fullmatch(p.name)]:
            with contextlib.suppress(OSError):
                _remove_unlocked(path)


def _remove_unlocked(path: Path) -> None:
    """Remove a temporary file. OSError if its writer still holds the lock."""
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()
    finally:
        os.close(handle)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def _sync_folder(folder: Path) -> None:
    """Make a rename durable. On Windows a folder cannot be opened, and the system does it."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
