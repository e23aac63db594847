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
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import safetensors
from safetensors.numpy import load, save

FORMAT = "gpunn"
VERSION = 1
HEADER_LIMIT = 100_000_000


class CheckpointError(ValueError):
    """A file that is not a whole, unchanged gpunn file, or does not fit what it is loaded into."""


def write(path: str | os.PathLike[str], tensors: dict[str, np.ndarray], metadata: dict[str, Any]) -> None:
    """Write arrays and JSON metadata to `path`, replacing it as one step. OSError where that fails."""
    # safetensors writes wrong values for arrays that are not C-contiguous, and says nothing
    arrays = {name: np.asarray(a, order="C") for name, a in tensors.items()}
    text = json.dumps(metadata, sort_keys=True, allow_nan=False)
    header = {"format": FORMAT, "version": str(VERSION), "metadata": text, "digest": _digest(arrays, text, VERSION)}
    replace(Path(path), save(arrays, header))


def read(path: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays and metadata of a file that `write` made. CheckpointError names what is wrong with any other,
    OSError where there is no file that could be read."""
    path = Path(path)
    # a pipe or a device might never end
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "not a file that could hold a model", str(path))
    with open(path, "rb") as file:
        start = _start(path, file)
        header = _header(path, start)
        data = start + file.read()
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


def _start(path: Path, file: BinaryIO) -> bytes:
    """The header's length and the header, of a file that is long enough for what it claims."""
    size = os.fstat(file.fileno()).st_size
    start = file.read(8)
    if len(start) < 8:
        raise CheckpointError(f"{path} is not a gpunn file: it has {len(start)} bytes")
    length = int.from_bytes(start, "little")
    if length > min(HEADER_LIMIT, size - 8):
        raise CheckpointError(f"{path} is not a whole gpunn file: its header claims {length} bytes of {size - 8}")
    return start + file.read(length)


def _header(path: Path, start: bytes) -> dict[str, str]:
    """The safetensors header's own metadata, read with care: nothing in the file is believed yet."""
    try:
        header = json.loads(start[8:])
        found = header["__metadata__"]
        if not all(isinstance(v, str) for v in found.values()):
            raise TypeError
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise CheckpointError(f"{path} is not a gpunn file: its header cannot be read") from None
    return dict(found)


def _digest(arrays: dict[str, np.ndarray], metadata: str, version: int) -> str:
    """SHA-256 over version, metadata, and every name, dtype, shape and byte."""
    h = hashlib.sha256(f"{version}\0{metadata}\0".encode())
    for name in sorted(arrays):
        a = arrays[name]
        h.update(f"{name}\0{a.dtype.str}\0{a.shape}\0".encode())
        h.update(a.tobytes())
    return h.hexdigest()


def replace(path: Path, data: bytes) -> None:
    """Write bytes beside `path` and rename; links are followed, the old file's mode is kept."""
    target = Path(os.path.realpath(path))
    folder = target.parent
    try:
        mode = stat.S_IMODE(target.stat().st_mode)
    except FileNotFoundError:
        mode = 0o666 & ~_umask()
    handle, temporary = tempfile.mkstemp(dir=folder, prefix=f".{target.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, mode)
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    _sync_folder(folder)


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
