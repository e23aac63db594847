"""Files: safetensors bytes with JSON metadata, versioned, with a digest over all of it. No pickle on any path.

The bytes are made by `safetensors.numpy.save` and written here: to a temporary file in the same folder, flushed,
synced, renamed, and the folder synced, so that a failed save leaves the old file whole.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import safetensors
from safetensors.numpy import load, save

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

FORMAT = "gpunn"
VERSION = 1
MAX_HEADER = 10_000_000  # bytes; JSON of that size is read within two seconds and 300 MiB


class CheckpointError(ValueError):
    """A file that is not a whole, unchanged gpunn file, or does not fit what it is loaded into."""


def write(path: str | os.PathLike[str], tensors: dict[str, np.ndarray], metadata: dict[str, Any]) -> None:
    """Write arrays and JSON metadata to `path`, replacing it as one step. OSError where that fails, ValueError for
    more metadata than is ever read back."""
    text = json.dumps(metadata, sort_keys=True, allow_nan=False)
    # where no file can be made, that is found out before the work
    with atomic_write(Path(path)) as file:
        # safetensors writes wrong values for arrays that are not C-contiguous, and says nothing
        arrays = {name: np.asarray(a, order="C") for name, a in tensors.items()}
        header = {"format": FORMAT, "version": str(VERSION), "metadata": text, "digest": _digest(arrays, text, VERSION)}
        data = save(arrays, header)
        length = int.from_bytes(data[:8], "little")
        if length > MAX_HEADER:
            raise ValueError(f"{path} would have a header of {length} bytes; {MAX_HEADER} are the most that is read")
        file.write(data)


def read(path: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays and metadata of a file that `write` made. CheckpointError names what is wrong with any other,
    OSError where there is no file that could be read."""
    path = Path(path)
    # a pipe or a device might never end
    stat_regular_file(path)
    with open(path, "rb") as file:
        header = _header(path, file)
        # what the header promises is there, and nothing else
        file.seek(0)
        data = file.read()
    if header.get("format") != FORMAT:
        raise CheckpointError(f"{path} is a safetensors file, but not one that gpunn wrote")
    version = header.get("version", "")
    if not re.fullmatch("[1-9][0-9]{0,99}", version):
        raise CheckpointError(f"{path}: its version {version!r} is not a number")
    if int(version) > VERSION:
        raise CheckpointError(f"{path} has version {version}, this gpunn reads up to {VERSION}: update gpunn")
    try:
        arrays = load(data)
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from None
    text = header.get("metadata", "")
    if header.get("digest") != _digest(arrays, text, int(version)):
        raise CheckpointError(f"{path} is damaged: its content does not match its digest")
    try:
        metadata = json.loads(text)
    except (ValueError, RecursionError):
        metadata = None
    if not isinstance(metadata, dict):
        raise CheckpointError(f"{path}: its metadata cannot be read")
    # safetensors hands out read-only views of the bytes
    return {name: np.array(a) for name, a in arrays.items()}, metadata


def _header(path: Path, file: BinaryIO) -> dict[str, str]:
    """The safetensors header's own metadata, read with care: nothing in the file is believed yet."""
    size = os.fstat(file.fileno()).st_size
    start = file.read(8)
    if len(start) < 8:
        raise CheckpointError(f"{path} is not a gpunn file: it has {len(start)} bytes")
    length = int.from_bytes(start, "little")
    if length > min(MAX_HEADER, size - 8):
        raise CheckpointError(f"{path} is not a whole gpunn file: its header claims {length} bytes of {size - 8}")
    try:
        header = json.loads(file.read(length))
        found = header.pop("__metadata__")
        if not all(isinstance(v, str) for v in found.values()):
            raise TypeError
        end = 8 + length + max((int(tensor["data_offsets"][1]) for tensor in header.values()), default=0)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError, RecursionError):
        raise CheckpointError(f"{path} is not a gpunn file: its header cannot be read") from None
    if end != size:
        raise CheckpointError(f"{path} is damaged: its header tells of {end} bytes, and it has {size}")
    return dict(found)


def _digest(arrays: dict[str, np.ndarray], metadata: str, version: int) -> str:
    """SHA-256 over version, metadata, and every name, dtype, shape and byte."""
    h = hashlib.sha256(f"{version}\0{metadata}\0".encode())
    for name in sorted(arrays):
        a = arrays[name]
        h.update(f"{name}\0{a.dtype.str}\0{a.shape}\0".encode())
        h.update(np.ascontiguousarray(a).reshape(-1).view(np.uint8).data)
    return h.hexdigest()


def write_bytes(path: Path, data: bytes) -> None:
    """Write bytes to `path`, replacing it as one step. OSError where that fails."""
    with atomic_write(path) as file:
        file.write(data)


def stat_regular_file(path: str | os.PathLike[str]) -> os.stat_result:
    """`os.stat` of a regular file, links followed. FileNotFoundError if there is none, OSError for a folder, a device,
    a pipe or a socket."""
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "not a regular file", os.fspath(path))
    return found


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Yield a temporary file that replaces `path` if the body succeeds, and is removed if it fails.

    Links are followed, and the mode of an old file is kept. Only a regular file is replaced; an OSError names `path`.
    """
    with _naming(path):
        target = Path(os.path.realpath(path))
        try:
            mode = stat.S_IMODE(stat_regular_file(path).st_mode)
        except FileNotFoundError:
            mode = 0o666 & ~_umask()
        handle, temporary = _new_temporary(target)
        try:
            with contextlib.ExitStack() as held:
                with os.fdopen(handle, "wb") as file:
                    # a second descriptor keeps the lock until the file has its final name
                    held.callback(os.close, os.dup(handle))
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
    """Remove a file if it exists, and the temporary files of processes that were killed while they wrote it."""
    path.unlink(missing_ok=True)
    _remove_stale_temps(Path(os.path.realpath(path)))


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Raise every OSError with `path` as its file name instead of the temporary file's."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from None


def _prefix(target: Path) -> str:
    """The first part of the names of temporary files for `target`."""
    # 60 characters are at most 240 bytes, and a name may have 255
    return f".{target.name[:60]}."


def _new_temporary(target: Path) -> tuple[int, str]:
    """Create and lock a temporary file in the folder of `target`: its descriptor and its path."""
    while True:
        handle, path = tempfile.mkstemp(dir=target.parent, prefix=_prefix(target), suffix=".tmp")
        if _lock(handle, path):
            return handle, path
        os.close(handle)


def _lock(handle: int, path: str) -> bool:
    """Lock a new temporary file until its writer exits. False if another process has just removed it."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except (BlockingIOError, FileNotFoundError):
        return False
    except OSError:
        # a file system without locks; `_remove_stale_temps` cannot lock a file there, and leaves it
        return True


def _remove_stale_temps(target: Path) -> None:
    """Remove the temporary files of processes that were killed while they wrote `target`: those without a lock."""
    if fcntl is None:
        return
    ours = re.compile(re.escape(_prefix(target)) + r"[a-z0-9_]{8}\.tmp")
    with contextlib.suppress(OSError):
        for left in [p for p in target.parent.iterdir() if ours.fullmatch(p.name)]:
            with contextlib.suppress(OSError):
                _remove_unlocked(left)


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
    """Make the rename itself last; where a folder cannot be opened (Windows) the system does it on its own."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
