"""The file format: safetensors with JSON metadata, a version and a digest of the whole content. No pickle."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
import safetensors
from safetensors.numpy import load, save

from ..program import HostArray
from .files import atomic_write, stat_regular_file

FORMAT = "gpunn"
VERSION = 1
MAX_HEADER = 10_000_000  # bytes; JSON of this size is parsed within two seconds and 300 MiB


class CheckpointError(ValueError):
    """An invalid or damaged gpunn file, or one that does not match the object it is loaded into."""


def write(path: str | os.PathLike[str], tensors: Mapping[str, HostArray], metadata: Mapping[str, object]) -> None:
    """Write arrays and JSON metadata to `path` atomically.

    OSError if that fails, with the old file complete. ValueError if the metadata exceeds MAX_HEADER.
    """
    text = json.dumps(metadata, sort_keys=True, allow_nan=False)
    # opened first, so that a path that cannot be written raises before the arrays are serialized
    with atomic_write(Path(path)) as file:
        # safetensors silently writes wrong values for arrays that are not C-contiguous
        arrays = {name: np.asarray(a, order="C") for name, a in tensors.items()}
        header = {"format": FORMAT, "version": str(VERSION), "metadata": text, "digest": _digest(arrays, text, VERSION)}
        data = save(arrays, header)
        length = int.from_bytes(data[:8], "little")
        if length > MAX_HEADER:
            raise ValueError(f"the header of {path} must have at most {MAX_HEADER} bytes, got {length}")
        file.write(data)


def read(path: str | os.PathLike[str]) -> tuple[dict[str, HostArray], dict[str, object]]:
    """Read the arrays and metadata of a file written by `write`.

    CheckpointError if the file is damaged or not a gpunn file. OSError if it cannot be read.
    """
    path = Path(path)
    # reading a pipe or a device might never end
    stat_regular_file(path)
    with open(path, "rb") as file:
        header = _header(path, file)
        file.seek(0)
        data = file.read()
    version = _version(path, header)
    try:
        arrays = load(data)
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from None
    text = header.get("metadata", "")
    if header.get("digest") != _digest(arrays, text, version):
        raise CheckpointError(f"{path} is damaged: its content does not match its digest")
    try:
        metadata = json.loads(text)
    except (ValueError, RecursionError):
        metadata = None
    if not isinstance(metadata, dict):
        raise CheckpointError(f"{path}: its metadata cannot be read")
    # safetensors returns read-only views of the bytes
    return {name: np.array(a) for name, a in arrays.items()}, metadata


def _header(path: Path, file: BinaryIO) -> dict[str, str]:
    """Read the metadata of the safetensors header and check that the file has the size that the header describes."""
    size = os.fstat(file.fileno()).st_size
    start = file.read(8)
    if len(start) < 8:
        raise CheckpointError(f"{path} is not a gpunn file: it has {len(start)} bytes")
    length = int.from_bytes(start, "little")
    if length > min(MAX_HEADER, size - 8):
        raise CheckpointError(f"{path} is not a complete gpunn file: its header claims {length} bytes of {size - 8}")
    try:
        header = json.loads(file.read(length))
        found = header.pop("__metadata__")
        if not all(isinstance(v, str) for v in found.values()):
            raise TypeError
        end = 8 + length + max((int(tensor["data_offsets"][1]) for tensor in header.values()), default=0)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError, RecursionError):
        raise CheckpointError(f"{path} is not a gpunn file: its header cannot be read") from None
    if end != size:
        raise CheckpointError(f"{path} is damaged: its header describes {end} bytes, but it has {size}")
    return dict(found)


def _version(path: Path, header: dict[str, str]) -> int:
    """Return the format version. CheckpointError if this gpunn cannot read it."""
    if header.get("format") != FORMAT:
        raise CheckpointError(f"{path} is a safetensors file, but gpunn did not write it")
    version = header.get("version", "")
    if not re.fullmatch("[1-9][0-9]{0,99}", version):
        raise CheckpointError(f"{path}: its version {version!r} is not a number")
    if int(version) > VERSION:
        raise CheckpointError(f"{path} has version {version}, but this gpunn reads up to {VERSION}: update gpunn")
    return int(version)


def _digest(arrays: Mapping[str, HostArray], metadata: str, version: int) -> str:
    """SHA-256 of version, metadata, and name, dtype, shape and bytes of every array."""
    h = hashlib.sha256(f"{version}\0{metadata}\0".encode())
    for name in sorted(arrays):
        a = arrays[name]
        h.update(f"{name}\0{a.dtype.str}\0{a.shape}\0".encode())
        h.update(np.ascontiguousarray(a).reshape(-1).view(np.uint8).data)
    return h.hexdigest()
